//! Header edits of one request and its response.
//!
//! In the order they are made: [`admit`] when a request comes in (hop-by-hop headers and what outsiders may not say go,
//! `X-Forwarded-*` come), [`set_by_route`] for each rule it passes, [`address`] for each attempt to send it, and
//! [`edit_response`] on the way back. Hop-by-hop headers go first, so that nothing a client names in `Connection`
//! can take away what we add later.

mod forwarded;
mod hop_by_hop;
mod present;

use std::net::IpAddr;

use http::header::{CONTENT_LENGTH, COOKIE, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use parkway_activator::endpoint::Endpoint;

use super::names::{
    ACTIVATOR, DIRECT_LB, HASH_OVERRIDE, KUBELET_PROBE, NETWORK_HASH, ORIGINAL_HOST,
    PASSTHROUGH_LB, PROXY_REQUEST, SERVING_DEFAULT_ROUTE, SERVING_NAMESPACE, SERVING_REVISION,
    X_FORWARDED_CLIENT_CERT,
};
use super::rules::{Backend, Target, Visibility};
use super::table::Match;

pub(super) use hop_by_hop::requested_upgrade;
pub use hop_by_hop::{remove_from_request, remove_from_response};
pub use present::Present;

/// What only we and our own components may say; removed at the external entrance.
///
/// `Knative-Serving-Tag` is missing here because it takes part in matching:
/// [`RouteSnapshot::resolve`](super::table::RouteSnapshot::resolve) removes it afterwards.
pub const NOT_FROM_OUTSIDE: [HeaderName; 9] = [
    PROXY_REQUEST,
    ORIGINAL_HOST,
    PASSTHROUGH_LB,
    KUBELET_PROBE,
    DIRECT_LB,
    SERVING_REVISION,
    SERVING_NAMESPACE,
    SERVING_DEFAULT_ROUTE,
    X_FORWARDED_CLIENT_CERT,
];

/// What an entrance is: who asks there, and what is believed of what they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntranceKind {
    /// The gateway's: a rule says which Revision is meant. Anybody may ask at the one for [`Visibility::ExternalIp`].
    Gateway(Visibility),
    /// The activator's ports: the request says itself which Revision is meant. Who asks there is a part of Knative, or an
    /// ingress that has done an ingress's work already, so nothing is taken away and only the peer is added to
    /// `X-Forwarded-For` (knative/serving `pkg/http/proxy.go`).
    Activator,
}

/// How a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// At which entrance.
    pub entrance: EntranceKind,
    /// From which address.
    pub peer: IpAddr,
    /// Under which scheme.
    pub scheme: Scheme,
    /// How many proxies in front of the external entrance are ours: that many entries at the end of
    /// `X-Forwarded-For` and `Forwarded` are believed. Default 0.
    pub trusted_hops: usize,
}

/// The scheme a request came in under.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// Plain text.
    #[default]
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// As in a URI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Prepares the head of a request that [`validate`](super::validate::validate) let pass.
///
/// See [`Entry::admit`], which does the same for many requests of one connection.
pub fn admit(parts: &mut Parts, arrival: &Arrival) -> Option<HeaderValue> {
    let present = Present::in_head(&parts.headers);
    let host = match parts.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => parts.headers.get(HOST).cloned(),
    };
    Entry::new(*arrival).admit(parts, present, host.as_ref())
}

/// What is the same for all requests of a connection, ready to be put into their heads.
#[derive(Clone, Debug)]
pub struct Entry {
    arrival: Arrival,
    sender: forwarded::Sender,
}

impl Entry {
    /// Writes down what does not change.
    pub fn new(arrival: Arrival) -> Self {
        Self {
            sender: forwarded::Sender::new(arrival.peer, arrival.scheme),
            arrival,
        }
    }

    /// Prepares the head of a request that [`validate`](super::validate::validate) let pass.
    ///
    /// Its Host header then says whom it is for, whatever form the request had. Returns the protocol it asks to be upgraded
    /// to, if any: the headers for that stay. `present` is what [`Present::in_head`] says of the head as it came in, `host`
    /// its authority, else its Host header.
    pub fn admit(
        &self,
        parts: &mut Parts,
        present: Present,
        host: Option<&HeaderValue>,
    ) -> Option<HeaderValue> {
        if let (Some(_), Some(host)) = (parts.uri.authority(), host) {
            parts.headers.insert(HOST, host.clone());
        }
        let upgrade =
            hop_by_hop::remove_present_from_request(&mut parts.headers, present, parts.version);
        parts.headers.reserve(OURS);
        match self.arrival.entrance {
            EntranceKind::Gateway(visibility) => {
                if present.has(Present::UNDERSCORED) {
                    remove_underscored(&mut parts.headers);
                }
                let is_outside = visibility == Visibility::ExternalIp;
                if is_outside && present.has(Present::NOT_FROM_OUTSIDE) {
                    remove_untrusted(&mut parts.headers);
                }
                let believed = match visibility {
                    _ if !present.has(Present::FORWARDING) => 0,
                    Visibility::ExternalIp => self.arrival.trusted_hops,
                    Visibility::ClusterLocal => usize::MAX,
                };
                forwarded::append(&mut parts.headers, host, &self.sender, believed);
            }
            EntranceKind::Activator => {
                forwarded::append_peer(&mut parts.headers, present, &self.sender);
            }
        }
        if parts.version == Version::HTTP_2 {
            join_cookies(&mut parts.headers);
        }
        upgrade
    }
}

/// How many fields are added to a request here and by [`address`] at most, so that its table grows once.
const OURS: usize = 6;

/// HTTP/2 may carry a cookie in pieces; whoever is told in another protocol gets it whole (RFC 9113 section 8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    if crumbs.next().is_none() || crumbs.next().is_none() {
        return;
    }
    let crumbs: Vec<_> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, whole);
    }
}

/// Removes what outsiders may not say: [`NOT_FROM_OUTSIDE`].
pub fn remove_untrusted(headers: &mut HeaderMap) {
    for name in NOT_FROM_OUTSIDE {
        headers.remove(name);
    }
}

/// Removes fields that a workload might take for those that we remove, read or write: [`Present::UNDERSCORED`]. Other names
/// with underscores are the workload's business.
fn remove_underscored(headers: &mut HeaderMap) {
    let is_underscored = |name: &&HeaderName| Present::of(name).has(Present::UNDERSCORED);
    while let Some(name) = headers.keys().find(is_underscored).cloned() {
        headers.remove(name);
    }
}

/// Removes from a request's trailers what means something to a proxy in a head: a workload may merge trailers into the
/// fields of the head (RFC 9110 section 6.5.1), and nothing may be said there that could not be said in the head.
pub fn keep_harmless(trailers: &mut HeaderMap) {
    let harmful: Vec<_> = trailers
        .keys()
        .filter(|name| Present::of(name) != Present::default())
        .cloned()
        .collect();
    for name in harmful {
        trailers.remove(name);
    }
}

/// Makes the edits of one rule: the hash if asked for, the headers of the path, those of the split, the rewritten host.
///
/// Each header is set, not added, whatever the client sent (knative/networking `test/conformance/ingress/headers.go`;
/// the hash: `pkg/ingress/ingress.go`, `InsertProbe`). What frames the message cannot be set. What tells an activator which
/// Revision is meant is not set where the target is that Revision: [`address`] would take it out again. `present` is what
/// [`Present::in_head`] says of the head, or of more.
pub fn set_by_route(
    headers: &mut HeaderMap,
    present: Present,
    matched: &Match<'_>,
    backend: &Backend,
) {
    if present.has(Present::NETWORK_HASH)
        && asks_for_hash(headers)
        && let Ok(hash) = HeaderValue::from_str(matched.hash)
    {
        headers.insert(NETWORK_HASH, hash);
    }
    let is_known = matches!(backend.target, Target::Revision { .. });
    for (name, value) in matched.path.set_headers.iter().chain(&backend.set_headers) {
        let kind = Present::of(name);
        let is_told = is_known && kind.has(Present::REVISION);
        if !is_told && !kind.has(Present::HOP_BY_HOP.and(Present::CONTENT_LENGTH)) {
            headers.insert(name, value.clone());
        }
    }
    let rewritten = matched.path.rewrite_host.as_deref();
    if let Some(Ok(host)) = rewritten.map(HeaderValue::from_str) {
        headers.insert(HOST, host);
    }
}

/// Whether the path or the split sets this header.
pub fn route_sets(name: &HeaderName, matched: &Match<'_>, backend: &Backend) -> bool {
    let mut set = matched.path.set_headers.iter().chain(&backend.set_headers);
    set.any(|(set, _)| set == name)
}

/// Whether the request asks for the hash of its KIngress: `K-Network-Hash: override`, and no other value.
fn asks_for_hash(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(NETWORK_HASH).iter();
    values.next().is_some_and(|value| value == HASH_OVERRIDE) && values.next().is_none()
}

/// Who restores the Host that the client meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostMode {
    /// queue-proxy in front of the workload: the Host is the endpoint's address, `K-Original-Host` has the name.
    QueueProxy,
    /// A local process has nobody in front: its Host header has the name, as queue-proxy would leave it.
    #[default]
    Process,
}

/// Makes the edits for sending the request to one endpoint; may be repeated for another.
///
/// Only a Revision's requests are edited, as the activator does: see knative/serving
/// `pkg/activator/handler/handler.go` and, for what a process sees, `pkg/queue/handler.go`.
pub fn address(headers: &mut HeaderMap, target: &Target, mode: HostMode, endpoint: Endpoint) {
    let Target::Revision { .. } = target else {
        return;
    };
    let present = Present::in_head(headers);
    if present.has(Present::FOR_US) {
        for name in [SERVING_REVISION, SERVING_NAMESPACE, NETWORK_HASH] {
            headers.remove(name);
        }
    }
    headers.insert(PROXY_REQUEST, HeaderValue::from_static(ACTIVATOR));
    // One that says nothing is none (knative/networking `pkg/http/header/header.go`, `RewriteHostIn`).
    let is_renamed = present.has(Present::ORIGINAL_HOST)
        && headers
            .get(ORIGINAL_HOST)
            .is_some_and(|host| !host.is_empty());
    match mode {
        HostMode::QueueProxy => {
            let named_by = if is_renamed { ORIGINAL_HOST } else { HOST };
            if let Some(host) = headers.get(named_by).cloned() {
                headers.insert(ORIGINAL_HOST, host);
            }
            if let Ok(host) = HeaderValue::try_from(endpoint.to_string()) {
                headers.insert(HOST, host);
            }
        }
        HostMode::Process if is_renamed => {
            if let Some(host) = headers.remove(ORIGINAL_HOST) {
                headers.insert(HOST, host);
            }
        }
        HostMode::Process => {}
    }
}

/// Makes the edits of a response on its way to the client: hop-by-hop headers go, except those of a granted upgrade.
///
/// A length beside chunks is dropped: the chunks say where the body ends (RFC 9112 section 6.3).
pub fn edit_response(headers: &mut HeaderMap, status: StatusCode) {
    let present = Present::in_head(headers);
    if present.has(Present::TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    if present.has(Present::HOP_BY_HOP) {
        remove_from_response(headers, status);
    }
}

#[cfg(test)]
mod tests;
