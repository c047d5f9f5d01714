//! What follows from the marks: Revisions with their Pods, rules, and endpoints of ordinary Services as they are now.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::{Protocol, RevisionId, RevisionSpec};

use super::super::super::object::{CoreService, CoreServicePort, TargetPort};
use super::super::super::problem::Problem;
use super::super::super::translate::{Catalogue, ServiceEndpoints, translate_one};
use super::super::few::Few;
use super::super::internal_tls;
use super::super::kept::{KeptSlice, Phase};
use super::super::watch::Key;
use super::{Changes, Cluster, Outcome, Replica, RevisionChange, ServiceChange, UsedPort};
use crate::routing::rules::{IngressRules, Target};

impl Cluster {
    pub(super) fn revision_changes(&mut self, id: RevisionId, changes: &mut Changes) {
        let now = self.revision_now(&id);
        let Some(known) = self.revisions.get_mut(&id) else {
            return;
        };
        let was_there = std::mem::replace(&mut known.is_told, now.is_some());
        if known.revision.is_none() && known.private_service.is_none() {
            self.revisions.remove(&id);
        }
        if was_there || now.is_some() {
            changes.revisions.push((id, now));
        }
    }

    /// None when there is no such Revision.
    fn revision_now(&self, id: &RevisionId) -> Option<RevisionChange> {
        let known = self.revisions.get(id)?;
        let revision = known.revision.as_ref()?;
        let names: &[&str] = match known.spec.protocol {
            Protocol::Http1 => &["http", "http1"],
            Protocol::H2c => &["http2", "h2c"],
        };
        let (mut ready, mut not_ready, mut public) = (Vec::new(), Vec::new(), Vec::new());
        let slices = self.slices_of_revision.get(id).into_iter().flatten();
        for slice in slices.filter_map(|key| self.slices.get(key)) {
            let Some(port) = slice.port(names) else {
                continue;
            };
            for endpoint in &slice.endpoints {
                let at = self.pod_at(endpoint.address, port, slice);
                match (slice.is_public, endpoint.phase) {
                    (true, Phase::Ready) => public.push(endpoint.address),
                    (true, _) | (false, Phase::Terminating) => {}
                    (false, Phase::Ready) => ready.push(at),
                    (false, Phase::NotReady) => not_ready.push(at),
                }
            }
        }
        ready.sort_unstable();
        ready.dedup();
        not_ready.sort_unstable();
        not_ready.dedup();
        // In two slices at once, while it moves from one to the other.
        not_ready.retain(|endpoint| ready.binary_search(endpoint).is_err());
        public.sort_by_cached_key(IpAddr::to_string);
        public.dedup();
        let address = |ip| match self.internal_tls.is_enabled() {
            true => Endpoint::secured(SocketAddr::new(ip, internal_tls::SERVICE_PORT)),
            false => Endpoint::new(SocketAddr::new(ip, PRIVATE_SERVICE_PORT)),
        };
        Some(RevisionChange {
            spec: Arc::clone(&known.spec),
            ready,
            not_ready,
            trusts_early: revision.trusts_early,
            service: known.cluster_ip.map(address),
            private_service: match &known.private_service {
                Some(name) => Arc::clone(name),
                None => format!("{}-private", id.name()).into(),
            },
            public,
            failure: revision.failure.clone(),
        })
    }

    /// How a Pod is reached that serves in the clear at `port`.
    fn pod_at(&self, address: IpAddr, port: u16, slice: &KeptSlice) -> Endpoint {
        if !self.internal_tls.is_enabled() {
            return Endpoint::new(SocketAddr::new(address, port));
        }
        let port = slice.port(&["https"]).unwrap_or(internal_tls::POD_PORT);
        Endpoint::secured(SocketAddr::new(address, port))
    }

    pub(super) fn ingress_changes(&mut self, key: &Key, changes: &mut Changes) {
        let Some(entry) = self.ingresses.get(key) else {
            return;
        };
        if entry.is_given_away {
            return;
        }
        let ingress = entry.kept.ingress();
        let translated = translate_one(&ingress, self);
        let outcome = outcome_of(
            &translated.problems,
            &translated.rules,
            &translated.services,
        );
        let kept = &entry.kept;
        let trouble = match outcome {
            Outcome::Refused { .. } => None,
            _ => {
                let policy = translated.rules.policy.as_ref();
                let wanted = policy.and_then(|policy| policy.client_certificate);
                self.secrets.look(key, kept.created, &ingress.spec, wanted)
            }
        };
        let is_covered = trouble.as_ref().is_none_or(|trouble| trouble.is_covered);
        let may_go = match outcome {
            Outcome::Programmed => is_covered || entry.rules.is_none(),
            // Better rules that answer 503 and say why than none; but never instead of rules that work.
            Outcome::Waiting { .. } => entry.rules.is_none(),
            Outcome::Refused { .. } => false,
        };
        let outcome = match (outcome, trouble) {
            (Outcome::Programmed, Some(trouble)) => trouble.outcome,
            (outcome, _) => outcome,
        };
        let rules = may_go.then(|| Arc::new(translated.rules));
        let rules = rules.filter(|rules| entry.rules.as_ref() != Some(rules));
        if let Some(rules) = &rules {
            let ports = self.claim_ports(key, &translated.services);
            let before = match self.ingresses.get_mut(key) {
                Some(entry) => {
                    entry.rules = Some(Arc::clone(rules));
                    std::mem::replace(&mut entry.ports, ports)
                }
                None => Vec::new(),
            };
            self.release_ports(&before);
        }
        let Some(entry) = self.ingresses.get_mut(key) else {
            return;
        };
        entry.outcome = outcome;
        let mut change = entry.change(rules);
        let of_annotations = |problem: &Problem| problem.field.starts_with("metadata.annotations");
        let mut notes = translated.problems;
        notes.retain(of_annotations);
        if notes != entry.notes {
            change.notes.clone_from(&notes);
            entry.notes = notes;
        }
        changes.ingresses.push(change);
    }

    /// The Service ports of new rules, each counted for them.
    fn claim_ports(&mut self, ingress: &Key, services: &ServiceEndpoints) -> Vec<RevisionId> {
        for (id, (spec, _)) in services {
            let name = id.name().split(':').next().unwrap_or_default();
            let service = Key::new(Arc::clone(&ingress.namespace), name);
            let port = self.ports.entry(id.clone()).or_insert_with(|| UsedPort {
                service: service.clone(),
                spec: Arc::clone(spec),
                users: 0,
                told: None,
            });
            port.users += 1;
            port.spec = Arc::clone(spec);
            let of_service = self.ports_of_service.entry(service).or_default();
            of_service.insert(id.clone());
            self.marks.ports.insert(id.clone());
        }
        services.keys().cloned().collect()
    }

    pub(super) fn release_ports(&mut self, ports: &[RevisionId]) {
        for id in ports {
            if let Some(port) = self.ports.get_mut(id) {
                port.users = port.users.saturating_sub(1);
                self.marks.ports.insert(id.clone());
            }
        }
    }

    pub(super) fn port_changes(&mut self, id: RevisionId, changes: &mut Changes) {
        let Some(port) = self.ports.get(&id) else {
            return;
        };
        if port.users == 0 {
            let service = port.service.clone();
            self.ports.remove(&id);
            if let Some(of_service) = self.ports_of_service.get_mut(&service) {
                of_service.remove(&id);
                if of_service.is_empty() {
                    self.ports_of_service.remove(&service);
                }
            }
            changes.services.push((id, None));
            return;
        }
        let endpoints = self.services.get(&port.service).and_then(|service| {
            let number = id.name().split(':').nth(1)?;
            let mut ports = service.ports.iter();
            let of_service = ports.find(|port| port.port.to_string() == number)?;
            Some(self.endpoints(service, of_service))
        });
        let now = ServiceChange {
            spec: Arc::clone(&port.spec),
            endpoints: endpoints.unwrap_or_default(),
        };
        if let Some(port) = self.ports.get_mut(&id)
            && port.told.as_ref() != Some(&now)
        {
            port.told = Some(now.clone());
            changes.services.push((id, Some(now)));
        }
    }

    /// Source: `PodIPBucketSet` and `AutoscalerBucketName`, knative/serving `pkg/autoscaler/bucket/bucket.go`: a bucket's
    /// owner makes a Service of the bucket's name and is its only endpoint.
    pub(super) fn is_bucket(&self, service: &Key) -> bool {
        service.namespace == self.system_namespace && service.name.starts_with(BUCKET_PREFIX)
    }

    pub(super) fn bucket_owners(&self) -> BTreeMap<String, String> {
        let buckets = self.slices_of_service.iter();
        let buckets = buckets.filter(|(service, _)| self.is_bucket(service));
        let owner = |(service, slices): (&Key, &Few<Key>)| {
            let mut slices = slices.iter().filter_map(|key| self.slices.get(key));
            slices.find_map(|slice| {
                let mut endpoints = slice.endpoints.iter();
                let owner = endpoints.find(|endpoint| endpoint.phase == Phase::Ready)?;
                let address = SocketAddr::new(owner.address, slice.port(&["http"])?);
                Some((service.name.to_string(), address.to_string()))
            })
        };
        buckets.filter_map(owner).collect()
    }

    /// The ready replicas of the gateway, each once, in the order of their addresses as text, which is Knative's.
    pub(super) fn replicas(&self) -> Vec<Replica> {
        let slices = self.slices_of_service.get(&self.gateway);
        let slices = slices.into_iter().flatten();
        let endpoints = slices
            .filter_map(|key| self.slices.get(key))
            .flat_map(|slice| &slice.endpoints);
        let ready = endpoints.filter(|endpoint| endpoint.phase == Phase::Ready);
        let mut replicas: Vec<Replica> = ready
            .map(|endpoint| Replica {
                address: endpoint.address,
                pod: endpoint.pod.clone().unwrap_or_default(),
            })
            .collect();
        replicas.sort_by_cached_key(|replica| replica.address.to_string());
        replicas.dedup_by(|one, other| one.address == other.address);
        replicas
    }
}

const BUCKET_PREFIX: &str = "autoscaler-bucket-";

/// Number of the port by which a private Service serves requests, whatever its protocol.
///
/// Source: `MakePrivateService`, knative/serving `pkg/reconciler/serverlessservice/resources/services.go`.
const PRIVATE_SERVICE_PORT: u16 = 80;

impl Catalogue for Cluster {
    fn revision(&self, id: &RevisionId) -> Option<(&RevisionId, &Arc<RevisionSpec>)> {
        let (id, known) = self.revisions.get_key_value(id)?;
        known.revision.as_ref().map(|_| (id, &known.spec))
    }

    fn service(&self, namespace: &str, name: &str) -> Option<&CoreService> {
        Some(self.services.get(&Key::new(namespace, name))?.as_ref())
    }

    fn endpoints(&self, service: &CoreService, port: &CoreServicePort) -> Vec<Endpoint> {
        let key = Key::new(&*service.meta.namespace, &*service.meta.name);
        let mut endpoints = Vec::new();
        for slice in self.slices_of_service.get(&key).into_iter().flatten() {
            let Some(slice) = self.slices.get(slice) else {
                continue;
            };
            let Some(number) = port_in_slice(port, slice) else {
                continue;
            };
            let ready = slice.endpoints.iter();
            let ready = ready.filter(|endpoint| endpoint.phase == Phase::Ready);
            endpoints.extend(
                ready.map(|endpoint| Endpoint::new(SocketAddr::new(endpoint.address, number))),
            );
        }
        endpoints.sort_unstable();
        endpoints.dedup();
        endpoints
    }
}

/// The number a Service's port has in a slice: slices carry the names of the Service's ports.
fn port_in_slice(port: &CoreServicePort, slice: &KeptSlice) -> Option<u16> {
    let numbered = |wanted: u16| {
        slice
            .ports
            .iter()
            .find(move |(_, number)| *number == wanted)
    };
    let by_target = || match &port.target {
        Some(TargetPort::Number(number)) => numbered(*number),
        Some(TargetPort::Name(name)) => slice.ports.iter().find(|(known, _)| **known == **name),
        None => numbered(port.port),
    };
    let mut ports = slice.ports.iter();
    let by_name = ports.find(|(name, _)| **name == *port.name);
    by_name.or_else(by_target).map(|(_, number)| *number)
}

fn outcome_of(problems: &[Problem], rules: &IngressRules, services: &ServiceEndpoints) -> Outcome {
    if let Some(problem) = problems.iter().find(|problem| problem.is_error()) {
        return Outcome::Refused {
            reason: "ReconcileIngressFailed",
            message: problem.to_string().replace('\n', ";"),
        };
    }
    let paths = rules.rules.iter().flat_map(|rule| &rule.paths);
    let mut backends = paths.flat_map(|path| path.splits.iter());
    let missing = backends.find_map(|(_, backend)| match &backend.target {
        Target::Missing { reason } => Some(reason),
        _ => None,
    });
    if let Some(reason) = missing {
        return Outcome::Waiting {
            reason: "BackendMissing",
            message: reason.to_string(),
        };
    }
    let empty = services
        .iter()
        .find(|(_, (_, endpoints))| endpoints.is_empty());
    match empty {
        Some((id, _)) => Outcome::Waiting {
            reason: "NoEndpoints",
            message: format!("the Service {id} has no ready endpoint"),
        },
        None => Outcome::Programmed,
    }
}
