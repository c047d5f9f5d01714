//! A request's first steps, the same for every protocol: check, route, edit, count in, ask for a permit.
//!
//! All of it is synchronous: it ends with an answer, a permit, or a place in a queue. What it must know later travels in
//! the [`Job`].

use std::hash::BuildHasher;
use std::rc::Rc;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderValue, Method, Response, Version};
use parkway_activator::revision::Protocol;
use parkway_activator::throttler::{Admission, Permit, Ticket};
use tokio::time::Instant;

use super::connection::Peer;
use super::respond::Asked;
use crate::proxy::deadlines::{Deadlines, Patience, Terms};
use crate::proxy::destination::Destination;
use crate::proxy::failure::Failure;
use crate::proxy::forward::{Framing, Job, Waiting};
use crate::proxy::head::PackedHead;
use crate::proxy::held::Held;
use crate::proxy::observe::Observation;
use crate::proxy::waiting_page::Notice;
use crate::routing::headers::{EntranceKind, Present};
use crate::routing::host::{Host, WrittenHost};
use crate::routing::identify;
use crate::routing::names::X_FORWARDED_CLIENT_CERT;
use crate::routing::policy::RoutePolicy;
use crate::routing::probe::{ProbeAnswer, activator_answer, probe_answer};
use crate::routing::redirect::redirect;
use crate::routing::rules::{Target, Visibility};
use crate::routing::timeout::parse_grpc_timeout;
use crate::routing::tls::ClientCertificate;
use crate::routing::validate::{self, Checked};
use crate::routing::waiting_page::is_navigation;
use crate::routing::websocket::OnStream;

/// How a request begins.
pub(super) enum Begin {
    /// It is answered at once.
    Answer(Response<Held>),
    /// It may go to an endpoint.
    Forward(Job, Permit),
    /// It waits.
    Parked(Box<Waiting>),
}

/// Takes a request in.
pub(super) fn begin(peer: &Peer, head: &mut Parts) -> Begin {
    let worker = &peer.worker;
    let arrived = Instant::now();
    let checked = validate::validate(head, &worker.request_limits);
    if peer.kind == EntranceKind::Activator
        && checked.is_ok()
        && let Some(answer) = activator_answer(&head.headers, || worker.health.reason())
    {
        let response = Asked::of(peer, head).respond_probe(answer, None);
        return Begin::Answer(response);
    }
    let mut observation = Observation::new(Rc::clone(&worker.counts), arrived);
    note(peer, head, &mut observation);
    observation.trace(head, peer.address.ip());
    let routed = checked
        .map_err(Failure::from)
        .and_then(|checked| match peer.kind {
            EntranceKind::Gateway(visibility) => route(peer, visibility, head, &checked),
            EntranceKind::Activator => identify(peer, head, &checked),
        });
    let (destination, framing, policy) = match routed {
        Ok(Routed::To(destination, framing, policy)) => (destination, framing, policy),
        Ok(Routed::Probe(answer)) => {
            observation.forget_trace();
            let response = Asked::of(peer, head).respond_probe(answer, Some(observation));
            return Begin::Answer(response);
        }
        Ok(Routed::Elsewhere(location)) => {
            let response = Asked::of(peer, head).respond_redirect(location, observation);
            return Begin::Answer(response);
        }
        Err(failure) => return refuse(peer, head, &failure, observation),
    };
    observation.destination(&destination);
    let only_if_up = policy
        .as_ref()
        .is_some_and(|policy| destination.stats.is_some() && policy.no_wake.covers(head));
    let has_deadlines = destination.stats.is_some() || policy.is_some();
    let deadlines = has_deadlines.then(|| Deadlines {
        of: Rc::clone(&destination),
        arrived,
        client: grpc_timeout(head).map(Patience::from),
        route: policy.map(|policy| {
            Box::new(Terms {
                policy,
                first_sent: None,
                only_if_up,
                notice: None,
            })
        }),
    });
    let client = worker
        .policy
        .client_shares
        .as_ref()
        .map(|shares| shares.key(peer, head));
    let protocol = match peer.kind {
        EntranceKind::Gateway(_) => destination.spec.protocol,
        // As the client speaks, whatever the Revision's is (knative/serving `pkg/activator/handler/handler.go`, its
        // transport).
        EntranceKind::Activator if head.version == Version::HTTP_2 => Protocol::H2c,
        EntranceKind::Activator => Protocol::Http1,
    };
    let job = Job {
        destination,
        protocol,
        in_flight: None,
        deadlines,
        client,
        attempts: 0,
        turned_away: 0,
        must_switch: head.extensions.get::<OnStream>().is_some(),
        framing,
        observation,
    };
    admit(peer, head, job)
}

/// Notes what is written down of the head, if anything is.
fn note(peer: &Peer, head: &Parts, observation: &mut Observation) {
    let tls = tls(peer);
    let log = &peer.worker.policy.request_log;
    if let Some(line) = log.begin(head, peer.address, tls) {
        observation.log_request(line);
    }
    observation.asks(head, peer.security.is_some());
    observation.log(head, peer.address, tls);
}

/// What the logs show of a connection by TLS.
fn tls(peer: &Peer) -> Option<&dyn std::fmt::Display> {
    let security = peer.security.as_deref()?;
    Some(security)
}

/// Asks for a permit.
fn admit(peer: &Peer, head: &Parts, mut job: Job) -> Begin {
    let throttle = &peer.worker.forwarder.throttle;
    if let Some(permit) = throttle.admit_warm(&job.destination.id) {
        if !job.is_only_if_up() {
            count_in(peer, head, &mut job);
        }
        return Begin::Forward(job, permit);
    }
    let ask = job.ask(PackedHead::packed_len(head), None);
    let admission = throttle.admit(&job.destination.id, ask);
    // One that wakes nobody and is parked waits for an endpoint that is there. Should that go, somebody has to be told.
    if !job.is_only_if_up() || matches!(admission, Admission::Parked(_)) {
        count_in(peer, head, &mut job);
    }
    match admission {
        Admission::Granted(permit) => Begin::Forward(job, permit),
        Admission::Parked(ticket) => {
            notify(head, &mut job, &ticket);
            job.observation.log_parked(head, peer.address, tls(peer));
            job.observation.waits_for(&ticket, head);
            job.observation.has_parked();
            Begin::Parked(Box::new(Waiting {
                job,
                ticket,
                head: PackedHead::pack(head),
            }))
        }
        Admission::Refused(refusal) => refuse(peer, head, &refusal.into(), job.observation),
    }
}

/// Counts a request in, which tells the autoscaler of the first one: only when it has its place, so that whatever comes
/// of that finds it there.
fn count_in(peer: &Peer, head: &Parts, job: &mut Job) {
    let (Some(stats), Some(deadlines)) = (&job.destination.stats, &job.deadlines) else {
        return;
    };
    job.in_flight = Some(stats.enter(peer.worker.index, deadlines.arrived));
    let policy = deadlines.route.as_ref().map(|terms| &terms.policy);
    if policy.is_some_and(|policy| policy.waiting_page.is_some()) && is_navigation(head) {
        // It is counted anew: what was kept of its last visit is not needed any more.
        peer.worker.demand.returns(&job.destination.id);
    }
}

/// A browser that waits for a start is shown a page after a while, where its route says so.
fn notify(head: &Parts, job: &mut Job, ticket: &Ticket) {
    let terms = job
        .deadlines
        .as_mut()
        .and_then(|deadlines| deadlines.route.as_mut());
    if let Some(terms) = terms.filter(|terms| terms.policy.waiting_page.is_some())
        && let Some(start) = ticket.start()
        && is_navigation(head)
    {
        terms.notice = Some(Rc::new(Notice {
            policy: Arc::clone(&terms.policy),
            start: Arc::clone(start),
            usual: ticket.usual_start(),
            spec: Arc::clone(&job.destination.spec),
        }));
    }
}

fn refuse(peer: &Peer, head: &Parts, failure: &Failure, observation: Observation) -> Begin {
    Begin::Answer(Asked::of(peer, head).respond(failure, observation))
}

enum Routed {
    To(Rc<Destination>, Framing, Option<Arc<RoutePolicy>>),
    Probe(ProbeAnswer),
    /// To come again by TLS.
    Elsewhere(HeaderValue),
}

/// Finds out by the rules what a request is for, and edits its headers as the rules on the way say.
fn route(
    peer: &Peer,
    visibility: Visibility,
    head: &mut Parts,
    checked: &Checked,
) -> Result<Routed, Failure> {
    let worker = &peer.worker;
    let Checked { host, present } = checked;
    let framing = Framing::of(head, *present);
    let written = host.as_ref().map(WrittenHost::written);
    peer.entry.admit(head, *present, written);
    let host = host.as_ref().map_or(Host::NONE, WrittenHost::host);
    if let Some(security) = &peer.security
        && !security.is_for(host.as_str())
    {
        return Err(Failure::Misdirected);
    }
    let routes = worker.routes();
    let mut dealer = worker.dealer.borrow_mut();
    // What the host says that the client asked for, not the one it is rewritten to.
    let mut redirects = None;
    let resolved = routes.resolve(
        visibility,
        &host,
        head.uri.path(),
        &mut head.headers,
        *present,
        |matched| {
            redirects.get_or_insert(matched.policy.is_some_and(|policy| policy.redirects));
            dealer.choose(matched.key, &matched.path.splits)
        },
    )?;
    let target = &resolved.backend.target;
    if present.has(Present::NETWORK_PROBE)
        && matches!(target, Target::Revision { .. })
        && let Some(answer) = probe_answer(&head.headers, resolved.matched.hash)
    {
        return Ok(Routed::Probe(answer));
    }
    if redirects == Some(true)
        && visibility == Visibility::ExternalIp
        && peer.security.is_none()
        && let Some(port) = worker.policy.https_port
        && let Some(location) = redirect(&host, &head.uri, &head.headers, port)
    {
        return Ok(Routed::Elsewhere(location));
    }
    if visibility == Visibility::ExternalIp
        && let Some(policy) = resolved.matched.policy
        && let Some(wanted) = policy.client_certificate
    {
        let security = peer.security.as_deref();
        let shown = security.and_then(|security| security.shown_to(host.as_str()));
        match (shown, wanted) {
            (Some(shown), _) => {
                head.headers.insert(X_FORWARDED_CLIENT_CERT, shown.clone());
            }
            (None, ClientCertificate::Required) => return Err(Failure::NoClientCertificate),
            (None, ClientCertificate::Optional) => {}
        }
    }
    let destination = worker.destination(target)?;
    let policy = resolved.matched.policy.map(Arc::clone);
    Ok(Routed::To(destination, framing, policy))
}

/// Reads from a request which Revision it is for.
fn identify(peer: &Peer, head: &mut Parts, checked: &Checked) -> Result<Routed, Failure> {
    let worker = &peer.worker;
    let written = checked.host.as_ref().map(WrittenHost::written);
    let host = written.and_then(|written| written.to_str().ok());
    let named = identify::identify(&head.headers, host, &worker.policy.cluster_domain);
    let found = named.as_ref().and_then(|id| worker.revision(id));
    let Some(destination) = found else {
        let name = named.as_ref().map(|id| id.name().as_bytes());
        let name = name.unwrap_or_else(|| identify::half_a_name(&head.headers));
        return Err(Failure::NoRevision(identify::not_found(name)));
    };
    let framing = Framing::of(head, checked.present);
    peer.entry.admit(head, checked.present, written);
    // Which route led here is not known: whoever asked has retried and waited as that says.
    Ok(Routed::To(destination, framing, None))
}

/// A gRPC client's own deadline, which counts while the call is parked.
///
/// Source: grpc/grpc `doc/PROTOCOL-HTTP2.md`, `Timeout`.
fn grpc_timeout(head: &Parts) -> Option<std::time::Duration> {
    if head.version != Version::HTTP_2 || head.method != Method::POST {
        return None;
    }
    parse_grpc_timeout(head.headers.get("grpc-timeout")?.as_bytes())
}

/// By what a client is told from others when shares of a queue are bounded.
#[derive(Clone, Debug, Default)]
pub struct ClientShares {
    /// A header whose value names the client; its address where the header is missing.
    pub header: Option<http::HeaderName>,
    /// Keyed by chance at start, so that nobody can choose to collide with somebody else.
    pub hasher: std::hash::RandomState,
}

impl ClientShares {
    fn key(&self, peer: &Peer, head: &Parts) -> u64 {
        let named = self.header.as_ref().and_then(|name| head.headers.get(name));
        match named {
            Some(value) => self.hasher.hash_one(value.as_bytes()),
            None => self.hasher.hash_one(peer.address.ip()),
        }
    }
}
