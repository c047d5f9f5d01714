//! Resolves the names of ExternalName Services, at once when they appear and again from time to time.
//!
//! A task of its own: however long a look-up takes, nothing else waits for it, and nothing else ends it.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::RevisionId;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::warn;

/// How long an answer is used. The system's resolver tells no time to live.
const FRESH: Duration = Duration::from_secs(30);
/// How soon a name that did not resolve is asked again.
const RETRY: Duration = Duration::from_secs(2);
/// How many look-ups run at the same time: each takes a thread.
const AT_ONCE: usize = 8;
/// How many answers may wait; when full, the resolver waits too.
const ANSWERS: usize = 64;

/// What stands for endpoints elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Name {
    /// The endpoint, when the name is an address itself.
    pub(super) fn literal(&self) -> Option<Endpoint> {
        let address: IpAddr = self.host.parse().ok()?;
        Some(Endpoint::new(SocketAddr::new(address, self.port)))
    }
}

/// Names by the identity of their endpoints.
pub(super) type Names = BTreeMap<RevisionId, Name>;

/// The end of a look-up.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) id: RevisionId,
    pub(super) name: Name,
    /// `None`: it does not resolve, and keeps what it had.
    pub(super) endpoints: Option<Vec<Endpoint>>,
}

/// Where names are given and answers taken.
#[derive(Debug)]
pub(super) struct Resolver {
    names: watch::Sender<Names>,
    answers: mpsc::Receiver<Resolved>,
}

impl Resolver {
    /// A resolver, and the task that has to run.
    pub(super) fn new() -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (names, asked) = watch::channel(Names::new());
        let (answer, answers) = mpsc::channel(ANSWERS);
        (Self { names, answers }, run(asked, answer))
    }

    /// Says which names are to be resolved from now on.
    pub(super) fn ask(&self, names: Names) {
        self.names.send_replace(names);
    }

    /// Waits for the end of a look-up.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when dropped.
    pub(super) async fn next(&mut self) -> Resolved {
        match self.answers.recv().await {
            Some(resolved) => resolved,
            None => std::future::pending().await,
        }
    }
}

async fn run(mut asked: watch::Receiver<Names>, answers: mpsc::Sender<Resolved>) {
    // Until when what is known may be used; `None` while it is being looked up.
    let mut known: BTreeMap<RevisionId, (Name, Option<Instant>)> = BTreeMap::new();
    let mut running = FuturesUnordered::new();
    loop {
        let now = Instant::now();
        let names = asked.borrow_and_update().clone();
        known.retain(|id, (name, _)| names.get(id) == Some(name));
        for (id, name) in names {
            known.entry(id).or_insert((name, Some(now)));
        }
        while running.len() < AT_ONCE
            && let Some((id, (name, until))) = longest_due(&mut known, now)
        {
            *until = None;
            running.push(look_up(id.clone(), name.clone()));
        }
        let next = known.values().filter_map(|(_, until)| *until).min();
        tokio::select! {
            changed = asked.changed() => if changed.is_err() {
                return;
            },
            Some(resolved) = running.next() => {
                let lasts = if resolved.endpoints.is_some() { FRESH } else { RETRY };
                match known.get_mut(&resolved.id) {
                    Some((name, until)) if *name == resolved.name => *until = Some(Instant::now() + lasts),
                    // Not asked for any more.
                    Some(_) | None => continue,
                }
                if answers.send(resolved).await.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep_until(next.unwrap_or(now)), if next.is_some() && running.len() < AT_ONCE => {}
        }
    }
}

type Known<'a> = (&'a RevisionId, &'a mut (Name, Option<Instant>));

fn longest_due(
    known: &mut BTreeMap<RevisionId, (Name, Option<Instant>)>,
    now: Instant,
) -> Option<Known<'_>> {
    let due = known
        .iter_mut()
        .filter(|(_, (_, until))| until.is_some_and(|until| until <= now));
    due.min_by_key(|(_, (_, until))| *until)
}

async fn look_up(id: RevisionId, name: Name) -> Resolved {
    let looked_up = tokio::net::lookup_host((name.host.as_str(), name.port)).await;
    let endpoints = looked_up
        .inspect_err(|error| warn!(host = %name.host, %error, "cannot resolve the name of an ExternalName Service"))
        .ok()
        .map(|addresses| addresses.map(Endpoint::new).collect());
    Resolved {
        id,
        name,
        endpoints,
    }
}
