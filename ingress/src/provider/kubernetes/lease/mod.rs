//! Which of several Parkways leads: the one that holds a Lease of `coordination.k8s.io/v1`.
//!
//! ```text
//!            held by nobody, or unrenewed for its duration as we saw it
//!   Follows ───────────────────────────────────────────────────────────▶ Leads ──▶ renews each retry period
//!      ▲                                                                   │
//!      └── another holds it · not renewed within the renew deadline · asked to stop ──┘
//! ```
//!
//! This is the protocol of kubernetes/client-go `tools/leaderelection/leaderelection.go` with the names and times of
//! knative/pkg `leaderelection`, so that whoever knows Knative's Leases knows this one. Of the published crates,
//! kube-lease-manager compares the holder's clock with ours and renews without naming the version it replaces, and the
//! others are for older versions of kube; what is left to do is little.
//!
//! Two safeguards against two leaders: a Lease counts from when *we* saw it change, so clocks may differ; and a leader
//! stops after the renew deadline, before others may start after the (longer) lease duration.

pub mod config;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::random;
use config::ElectionConfig;

/// The longest that a Parkway that does not lead goes without looking at the Lease, so that one that was given up is
/// taken over soon; and a leader without trying again after a failure. Knative looks each retry period; looking more
/// often is seen by nobody.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The longest that giving up a Lease may take when the process ends.
pub const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
/// The label of our Leases, whatever their names: `uninstall` finds them by it.
pub const LABEL: (&str, &str) = ("networking.knative.dev/ingress-provider", "parkway");
/// How much longer than [`LOOK_EVERY`] a look may wait, by chance, so that not all look at once.
const JITTER: f64 = 0.2;

/// What an election is about.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Lease's namespace.
    pub namespace: String,
    /// The Lease's name: see [`ElectionConfig::lease_name`].
    pub name: String,
    /// Who we are: see [`identity`].
    pub identity: String,
    /// Its times.
    pub config: ElectionConfig,
    /// The wall clock: `Timestamp::now`. Only written into the Lease, never compared.
    pub clock: fn() -> Timestamp,
}

impl Settings {
    /// Of the Lease that Knative would name like this, for the Pod of this name.
    pub fn new(
        namespace: impl Into<String>,
        pod: &str,
        (component, queue): (&str, &str),
        config: ElectionConfig,
    ) -> Self {
        Self {
            namespace: namespace.into(),
            name: config.lease_name(component, queue),
            identity: identity(pod),
            config,
            clock: Timestamp::now,
        }
    }
}

/// Tells this process from all others: the Pod's name and chance, as knative/pkg `UniqueID` makes it.
pub fn identity(pod: &str) -> String {
    format!("{pod}_{}", random::uuid())
}

/// Whether we lead; cheap to copy.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<Term>);

#[derive(Clone, Debug, Default)]
struct Term {
    /// Until when we lead, if nothing happens.
    until: Option<Instant>,
    holder: Option<Arc<str>>,
}

impl Leadership {
    /// For a Parkway that has no others beside it.
    pub fn always() -> Self {
        let term = Term {
            until: Some(Instant::now() + Duration::from_secs(100 * 365 * 86_400)),
            holder: None,
        };
        Self(watch::channel(term).1)
    }

    /// For tests: the sender says whether we lead.
    #[cfg(test)]
    pub(super) fn by_hand() -> (impl Fn(bool), Self) {
        let (sender, receiver) = watch::channel(Term::default());
        let lead = move |leads: bool| {
            let until = leads.then(|| Instant::now() + Duration::from_secs(86_400 * 365));
            sender.send_replace(Term {
                until,
                holder: None,
            });
        };
        (lead, Self(receiver))
    }

    /// Whether we lead at this moment.
    pub fn is_leader(&self) -> bool {
        self.0.borrow().leads(Instant::now())
    }

    /// Who holds the Lease, as far as we know.
    pub fn holder(&self) -> Option<Arc<str>> {
        self.0.borrow().holder.clone()
    }

    /// Waits until [`is_leader`](Self::is_leader) is `wanted`.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped.
    pub async fn becomes(&mut self, wanted: bool) {
        loop {
            let until = {
                let term = self.0.borrow_and_update();
                if term.leads(Instant::now()) == wanted {
                    return;
                }
                term.until
            };
            let ends = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.0.changed() => {
                    if changed.is_err() {
                        // The election is over, and with it every term but one without an election.
                        ends_or_never(until).await;
                    }
                }
                () = ends => {}
            }
        }
    }
}

async fn ends_or_never(until: Option<Instant>) {
    match until {
        Some(until) if until > Instant::now() => sleep_until(until).await,
        _ => std::future::pending().await,
    }
}

impl Term {
    fn leads(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

/// Takes part in an election until `stop` is cancelled; then what is held is given up.
///
/// The returned future is the candidate and has to be run. Dropping it leaves the Lease, and our leadership, to expire.
pub fn elect(
    client: Client,
    settings: Settings,
    stop: CancellationToken,
) -> (Leadership, impl Future<Output = ()> + Send) {
    let (term, leadership) = watch::channel(Term::default());
    let mut candidate = Candidate {
        api: Api::namespaced(client, &settings.namespace),
        settings,
        term,
        seen: None,
    };
    let run = async move {
        let is_stopped = {
            let campaign = pin!(candidate.campaign());
            stop.run_until_cancelled(campaign).await.is_none()
        };
        if is_stopped {
            candidate.release().await;
        }
    };
    (Leadership(leadership), run)
}

struct Candidate {
    api: Api<Lease>,
    settings: Settings,
    term: watch::Sender<Term>,
    seen: Option<Seen>,
}

/// The Lease as we last saw it, and since when it has been like that for us.
struct Seen {
    lease: Lease,
    since: Instant,
}

/// Why an attempt told nothing.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error(transparent)]
    Api(#[from] kube::Error),
}

impl Candidate {
    /// Tries to lead and to go on leading, for ever.
    async fn campaign(&mut self) -> std::convert::Infallible {
        loop {
            let asked = Instant::now();
            let patience = self.settings.config.retry_period;
            let attempt = timeout(patience, self.attempt()).await;
            let attempt = match attempt {
                Ok(attempt) => attempt.map_err(Failed::Api),
                Err(_elapsed) => Err(Failed::Silent(patience)),
            };
            let has_failed = attempt.is_err();
            match attempt {
                Ok(true) => self.lead_until(asked + self.settings.config.renew_deadline),
                Ok(false) => self.follow("another holds the lease"),
                Err(error) => {
                    warn!(lease = %self.settings.name, %error, "cannot look at the lease");
                }
            }
            self.rest(asked, has_failed).await;
        }
    }

    /// Waits for the next attempt; a term that ends meanwhile ends on time. After a failure it does not wait for the next
    /// renewal to be due.
    async fn rest(&mut self, asked: Instant, has_failed: bool) {
        let until = self.term.borrow().until;
        let retry_period = self.settings.config.retry_period;
        let pause = match until {
            Some(_) if !has_failed => retry_period,
            _ => { LOOK_EVERY.min(retry_period) }.mul_f64(1.0 + JITTER * random::fraction()),
        };
        let Some(until) = until else {
            sleep_until(asked + pause).await;
            return;
        };
        let next = asked + pause;
        sleep_until(next.min(until)).await;
        if Instant::now() >= until {
            self.follow("the lease was not renewed in time");
        }
    }

    /// One try to take or renew the Lease; whether it is ours now.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        if self.term.borrow().until.is_some()
            && let Some(seen) = self.seen.as_ref()
        {
            let renewed = self.settings.record(Some(&seen.lease));
            match self.write(renewed).await {
                Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => {}
                result => return result.map(|()| true),
            }
        }
        let Some(lease) = self.api.get_opt(&self.settings.name).await? else {
            let created = self
                .api
                .create(&PostParams::default(), &self.settings.record(None))
                .await;
            return match created {
                Ok(lease) => {
                    self.saw(lease);
                    Ok(true)
                }
                Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(false),
                Err(error) => Err(error),
            };
        };
        let lease = self.saw(lease);
        if self.is_held_by_another() {
            return Ok(false);
        }
        match self.write(self.settings.record(Some(&lease))).await {
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(false), // another was faster
            result => result.map(|()| true),
        }
    }

    async fn write(&mut self, lease: Lease) -> Result<(), kube::Error> {
        let name = &self.settings.name;
        let written = self
            .api
            .replace(name, &PostParams::default(), &lease)
            .await?;
        self.saw(written);
        Ok(())
    }

    /// Notes how the Lease is. What counts is when we saw it change, not what its holder's clock says.
    fn saw(&mut self, lease: Lease) -> Lease {
        let since = match &self.seen {
            Some(seen) if seen.lease.spec == lease.spec => seen.since,
            _ => Instant::now(),
        };
        self.seen = Some(Seen {
            lease: lease.clone(),
            since,
        });
        lease
    }

    fn is_held_by_another(&self) -> bool {
        let Some(seen) = &self.seen else {
            return false;
        };
        let holder = holder(&seen.lease);
        if holder.is_empty() || holder == self.settings.identity {
            return false;
        }
        let spec = seen.lease.spec.as_ref();
        let written = spec
            .and_then(|spec| spec.lease_duration_seconds)
            .unwrap_or(0);
        let duration = Duration::from_secs(u64::try_from(written).unwrap_or(0));
        Instant::now() < seen.since + duration
    }

    fn lead_until(&mut self, until: Instant) {
        let is_new = self.term.borrow().until.is_none();
        if is_new {
            info!(lease = %self.settings.name, identity = %self.settings.identity, "leading");
        }
        let holder = Some(Arc::from(self.settings.identity.as_str()));
        self.term.send_replace(Term {
            until: Some(until),
            holder,
        });
    }

    fn follow(&mut self, why: &'static str) {
        if self.term.borrow().until.is_some() {
            warn!(lease = %self.settings.name, why, "no longer leading");
        }
        let holder = self
            .seen
            .as_ref()
            .map(|seen| Arc::from(holder(&seen.lease)));
        self.term.send_replace(Term {
            until: None,
            holder: holder.filter(|holder: &Arc<str>| !holder.is_empty()),
        });
    }

    /// Gives up what is held, so that another need not wait for it to expire.
    ///
    /// It looks first: a renewal that was given up half-way may have been written. As `release` in client-go, with the
    /// Lease's shortest duration.
    async fn release(&mut self) {
        let may_hold = self.term.borrow().until.is_some();
        self.term.send_replace(Term::default());
        if !may_hold {
            return;
        }
        match timeout(RELEASE_TIMEOUT, self.try_release()).await {
            Ok(Ok(())) => info!(lease = %self.settings.name, "the lease is given up"),
            Ok(Err(error)) => {
                warn!(lease = %self.settings.name, %error, "the lease is left to expire");
            }
            Err(_elapsed) => {
                warn!(lease = %self.settings.name, "the lease is left to expire: no answer");
            }
        }
    }

    async fn try_release(&mut self) -> Result<(), kube::Error> {
        loop {
            let Some(mut lease) = self.api.get_opt(&self.settings.name).await? else {
                return Ok(());
            };
            if holder(&lease) != self.settings.identity {
                return Ok(());
            }
            let now = MicroTime((self.settings.clock)());
            let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions);
            lease.spec = Some(LeaseSpec {
                holder_identity: Some(String::new()),
                lease_duration_seconds: Some(1),
                lease_transitions: transitions,
                renew_time: Some(now.clone()),
                acquire_time: Some(now),
                ..LeaseSpec::default()
            });
            match self.write(lease).await {
                Err(kube::Error::Api(status)) if status.is_conflict() => {
                    debug!(lease = %self.settings.name, "the lease changed while it was given up");
                }
                result => return result,
            }
        }
    }
}

impl Settings {
    /// The Lease as it is when it is ours: `held` renewed, or taken over, or made.
    fn record(&self, held: Option<&Lease>) -> Lease {
        let now = MicroTime((self.clock)());
        let spec = held.and_then(|lease| lease.spec.as_ref());
        let is_ours = held.is_some_and(|lease| holder(lease) == self.identity);
        let transitions = spec.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        let acquired = spec
            .filter(|_| is_ours)
            .and_then(|spec| spec.acquire_time.clone());
        let seconds = self.config.lease_duration.as_secs();
        let metadata = ObjectMeta {
            name: Some(self.name.clone()),
            namespace: Some(self.namespace.clone()),
            ..ObjectMeta::default()
        };
        let mut metadata = held.map_or(metadata, |lease| lease.metadata.clone());
        let labels = metadata.labels.get_or_insert_default();
        labels.insert(LABEL.0.to_owned(), LABEL.1.to_owned());
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: Some(i32::try_from(seconds).unwrap_or(i32::MAX)),
                acquire_time: Some(acquired.unwrap_or_else(|| now.clone())),
                renew_time: Some(now),
                lease_transitions: Some(match held {
                    Some(_) if !is_ours => transitions.saturating_add(1),
                    _ => transitions,
                }),
                ..LeaseSpec::default()
            }),
        }
    }
}

fn holder(lease: &Lease) -> &str {
    let spec = lease.spec.as_ref();
    spec.and_then(|spec| spec.holder_identity.as_deref())
        .unwrap_or_default()
}
