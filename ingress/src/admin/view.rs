//! What the page shows, taken once for all who look at it, and only while someone does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use parkway_activator::cold_start::ColdStart;
use parkway_activator::revision::RevisionId;
use parkway_activator::throttler::RevisionState;
use parkway_autoscaler_client::embedded::DeciderState;
use tokio::time::Instant;

use super::{Admin, Autoscaler, Found};
use crate::routing::rules::Visibility;
use crate::routing::table::RouteSnapshot;
use crate::standalone::{Processes, ReplicaState};
use crate::telemetry::Clock;

/// How often something new can be seen.
const INTERVAL: Duration = Duration::from_millis(250);

/// Looking takes at most one part in so many of the control thread's time: with very many Revisions less often.
const SHARE: u32 = 20;

/// Everything at one moment.
pub(super) struct View {
    pub(super) clock: Clock,
    pub(super) revisions: Vec<RevisionState>,
    pub(super) deciders: HashMap<RevisionId, DeciderState>,
    pub(super) processes: HashMap<RevisionId, Vec<ReplicaState>>,
    /// The latest first.
    pub(super) starts: Vec<Arc<ColdStart>>,
    pub(super) routes: RouteSnapshot,
    pub(super) hosts: Arc<[ListedHost]>,
    pub(super) configuration: Found,
}

/// A host that some rule lists.
#[derive(Clone, Debug)]
pub(super) struct ListedHost {
    pub(super) host: String,
    /// Served at both entrances; otherwise at the cluster-local one only.
    pub(super) is_external: bool,
}

/// The last view, for whoever looks next.
#[derive(Default)]
pub(super) struct Views {
    last: Mutex<Option<Last>>,
}

#[derive(Clone)]
struct Last {
    view: Arc<View>,
    /// Good until then.
    until: Instant,
}

impl Views {
    /// What there is to see, and when it is worth looking again.
    pub(super) fn look(&self, admin: &Admin) -> (Arc<View>, Instant) {
        let begun = Instant::now();
        let last = self.last.lock().clone();
        if let Some(last) = &last
            && begun < last.until
        {
            return (Arc::clone(&last.view), last.until);
        }
        let view = Arc::new(View::of(admin, last.as_ref().map(|last| &*last.view)));
        let until = Instant::now() + INTERVAL.max(begun.elapsed() * SHARE);
        let seen = Last {
            view: Arc::clone(&view),
            until,
        };
        let before = self.last.lock().replace(seen);
        drop(before);
        (view, until)
    }

    /// Nobody looks any more.
    pub(super) fn forget(&self) {
        let last = self.last.lock().take();
        drop(last);
    }
}

impl View {
    fn of(admin: &Admin, before: Option<&Self>) -> Self {
        let deciders = match &admin.autoscaler {
            Autoscaler::Embedded(embedded) => embedded.state(),
            Autoscaler::Remote(_) => Vec::new(),
        };
        let deciders = deciders
            .into_iter()
            .map(|decider| (decider.revision.clone(), decider))
            .collect();
        let mut processes = HashMap::<_, Vec<_>>::new();
        let found = admin.processes.as_ref().map(Processes::state);
        for process in found.unwrap_or_default() {
            let of_its_revision = processes.entry(process.revision.clone());
            of_its_revision.or_default().push(process);
        }
        let routes = admin.routes.current();
        let hosts = match before {
            Some(before) if before.routes.generation() == routes.generation() => {
                Arc::clone(&before.hosts)
            }
            _ => hosts(&routes),
        };
        Self {
            clock: Clock::now(),
            revisions: admin.throttler.state(),
            deciders,
            processes,
            starts: admin.throttler.cold_starts().recent(),
            routes,
            hosts,
            configuration: admin.problems.found(),
        }
    }

    /// A Revision's processes.
    pub(super) fn processes_of(&self, id: &RevisionId) -> &[ReplicaState] {
        self.processes.get(id).map_or(&[], Vec::as_slice)
    }
}

fn hosts(routes: &RouteSnapshot) -> Arc<[ListedHost]> {
    let external = routes.hosts(Visibility::ExternalIp);
    let mut hosts: HashMap<&str, bool> = external.map(|(host, _)| (host, true)).collect();
    for (host, _) in routes.hosts(Visibility::ClusterLocal) {
        hosts.entry(host).or_insert(false);
    }
    let mut hosts: Vec<_> = hosts
        .into_iter()
        .map(|(host, is_external)| ListedHost {
            host: host.to_owned(),
            is_external,
        })
        .collect();
    hosts.sort_by(|a, b| (!a.is_external, &a.host).cmp(&(!b.is_external, &b.host)));
    hosts.into()
}
