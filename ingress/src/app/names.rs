//! Resolves the names of ExternalName Services, at once when they appear and again from time to time.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::RevisionId;
use tokio::time::Instant;
use tracing::warn;

/// How long an answer is used. The system's resolver tells no time to live.
const FRESH: Duration = Duration::from_secs(30);
/// How soon a name that did not resolve is asked again.
const RETRY: Duration = Duration::from_secs(2);

/// Which names were resolved when.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    due: BTreeMap<RevisionId, (String, Instant)>,
}

/// The addresses of a name.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) id: RevisionId,
    pub(super) endpoints: Vec<Endpoint>,
}

impl Resolver {
    /// Waits until one of `names` is due and resolves it. A name that does not resolve keeps what it had.
    ///
    /// # Cancel safety
    ///
    /// A name whose look-up was dropped is due again.
    pub(super) async fn next(&mut self, names: Vec<(RevisionId, String, u16)>) -> Resolved {
        self.due.retain(|id, (known, _)| {
            names
                .iter()
                .any(|(named, host, _)| named == id && host == known)
        });
        let mut queue: VecDeque<_> = names.into();
        queue
            .make_contiguous()
            .sort_by_key(|(id, _, _)| self.due.get(id).map(|(_, due)| *due));
        loop {
            let Some((id, host, port)) = queue.pop_front() else {
                return std::future::pending().await;
            };
            if let Some((_, due)) = self.due.get(&id) {
                tokio::time::sleep_until(*due).await;
            }
            let looked_up = tokio::net::lookup_host((host.as_str(), port))
                .await
                .map(Iterator::collect::<Vec<_>>);
            match looked_up {
                Ok(addresses) => {
                    self.due.insert(id.clone(), (host, Instant::now() + FRESH));
                    return Resolved {
                        id,
                        endpoints: addresses.into_iter().map(Endpoint::new).collect(),
                    };
                }
                Err(error) => {
                    warn!(%host, %error, "cannot resolve the name of an ExternalName Service");
                    self.due
                        .insert(id.clone(), (host.clone(), Instant::now() + RETRY));
                    queue.push_back((id, host, port));
                }
            }
        }
    }
}
