//! Says for people what would happen to a request, and why.
//!
//! Walks the same steps as [`RouteSnapshot::resolve`] on a copy of the headers and writes down what it sees; which share
//! comes next is only known when the caller gives the point its dealer would draw.

use std::fmt;
use std::time::Duration;

use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::{Protocol, RevisionSpec};
use serde::Serialize;

use super::headers::{self, HostMode, Present};
use super::host::Host;
use super::names::SERVING_TAG;
use super::policy::Term;
use super::resolve::MAX_PASSES;
use super::rules::{Backend, Target, Visibility};
use super::split::Percentile;
use super::table::{Match, NoRoute, RouteSnapshot};

/// What would happen to one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The snapshot's generation.
    pub generation: u64,
    /// `external` or `cluster-local`.
    pub entrance: &'static str,
    /// The request's method.
    pub method: String,
    /// The host as it is looked up.
    pub host: String,
    /// The request's path.
    pub path: String,
    /// The rules it passes, in order; more than one when a rule rewrites the host to another of ours.
    pub passes: Vec<Pass>,
    /// What becomes of its headers, as the workload sees them.
    pub edits: Vec<Edit>,
    /// Why it is not served; none when it is.
    pub refusal: Option<Refusal>,
}

/// One rule the request passes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pass {
    /// The KIngress, as namespace/name.
    pub ingress: String,
    /// Its hash.
    pub hash: String,
    /// Position of the rule, from 0.
    pub rule: usize,
    /// Position of the path in the rule, from 0.
    pub position: usize,
    /// The path's prefix; empty for every path.
    pub prefix: String,
    /// The headers the path asks for, as `name: value`.
    pub headers: Vec<String>,
    /// The host it puts in place of the client's.
    pub rewrite_host: Option<String>,
    /// What its KIngress asks for, by the names of the annotations.
    pub policy: Vec<Term>,
    /// All shares of the path.
    pub shares: Vec<Share>,
}

/// One share of a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Of a hundred requests.
    pub percent: u8,
    /// Whether this request falls to it; none when that depends on a draw that was not given.
    pub is_chosen: Option<bool>,
    /// `revision`, `service`, `external` or `missing`.
    pub kind: &'static str,
    /// Namespace/name of the Revision or Service, the external host and port, or what is missing.
    pub target: String,
    /// What it promises; none when it is missing.
    pub spec: Option<Spec>,
}

/// What a target promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Spec {
    /// Requests one endpoint serves at once; 0 means unlimited.
    pub container_concurrency: u32,
    /// `http1` or `h2c`.
    pub protocol: &'static str,
    /// Milliseconds until the response must have ended; none when unlimited.
    pub timeout_ms: Option<u64>,
    /// Milliseconds until the response must have begun; none when unlimited.
    pub response_start_timeout_ms: Option<u64>,
    /// Milliseconds between two pieces of the response; none when unlimited.
    pub idle_timeout_ms: Option<u64>,
}

/// What becomes of one header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Edit {
    /// The header's name.
    pub name: String,
    /// Its new value; none when it is removed.
    pub value: Option<String>,
}

/// Why a request is not served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The status it is answered with.
    pub status: u16,
    /// Why, for people; more than the client is told.
    pub reason: String,
}

/// Explains a request with these headers; `next` is the point its worker would draw, if that shall be taken into account.
///
/// What comes with the connection (`X-Forwarded-*` and hop-by-hop headers) is left out.
pub fn explain(
    snapshot: &RouteSnapshot,
    entrance: Visibility,
    method: &Method,
    host: &Host<'_>,
    path: &str,
    headers: &HeaderMap,
    next: Option<Percentile>,
) -> Explanation {
    let mut walk = Walk {
        snapshot,
        entrance,
        path,
        next,
        headers: headers.clone(),
        passes: Vec::new(),
    };
    walk.pin_host(host);
    let before = walk.headers.clone();
    let refusal = walk.follow(host);
    Explanation {
        generation: snapshot.generation(),
        entrance: entrance_name(entrance),
        method: method.to_string(),
        host: host.to_string(),
        path: path.to_owned(),
        edits: if refusal.is_none() {
            edits(&before, &walk.headers)
        } else {
            Vec::new()
        },
        passes: walk.passes,
        refusal,
    }
}

struct Walk<'a> {
    snapshot: &'a RouteSnapshot,
    entrance: Visibility,
    path: &'a str,
    next: Option<Percentile>,
    headers: HeaderMap,
    passes: Vec<Pass>,
}

impl Walk<'_> {
    fn pin_host(&mut self, host: &Host<'_>) {
        if !self.headers.contains_key(HOST)
            && let Ok(host) = HeaderValue::from_str(host.as_str())
        {
            self.headers.insert(HOST, host);
        }
    }

    fn follow(&mut self, host: &Host<'_>) -> Option<Refusal> {
        if self.entrance == Visibility::ExternalIp {
            headers::remove_untrusted(&mut self.headers);
        }
        let mut matched = match self
            .snapshot
            .find(self.entrance, host, self.path, &self.headers)
        {
            Ok(matched) => matched,
            Err(no_route) => return Some(self.refusal(no_route, host)),
        };
        let mut tag_is_ours = self.entrance == Visibility::ClusterLocal;
        for _ in 0..MAX_PASSES {
            let chosen = matched
                .path
                .splits
                .sole()
                .or_else(|| Some(matched.path.splits.choose(self.next?)));
            self.passes.push(describe(&matched, chosen));
            let backend = chosen?;
            let present = Present::in_head(&self.headers);
            headers::set_by_route(&mut self.headers, present, &matched, backend);
            tag_is_ours |= headers::route_sets(&SERVING_TAG, &matched, backend);
            match self
                .snapshot
                .second_pass(&matched, backend, self.path, &self.headers)
            {
                Ok(Some(next)) => matched = next,
                Ok(None) => return self.arrive(backend, tag_is_ours),
                Err(no_route) => return Some(self.refusal(no_route, host)),
            }
        }
        Some(self.refusal(NoRoute::Loop, host))
    }

    fn arrive(&mut self, backend: &Backend, tag_is_ours: bool) -> Option<Refusal> {
        if !tag_is_ours {
            self.headers.remove(SERVING_TAG);
        }
        // As the workload sees it, so which endpoint it will be does not matter.
        let nowhere = Endpoint::new(([0, 0, 0, 0], 0).into());
        headers::address(
            &mut self.headers,
            &backend.target,
            HostMode::Process,
            nowhere,
        );
        match &backend.target {
            Target::Missing { reason } => Some(Refusal {
                status: 503,
                reason: reason.to_string(),
            }),
            Target::Revision { .. } | Target::Service { .. } | Target::External { .. } => None,
        }
    }

    fn refusal(&self, no_route: NoRoute, host: &Host<'_>) -> Refusal {
        let is_internal_only = no_route == NoRoute::UnknownHost
            && self.entrance == Visibility::ExternalIp
            && self.snapshot.lists_host(Visibility::ClusterLocal, host);
        let reason = if is_internal_only {
            format!("{host} is cluster-local: it is served at the cluster-local entrance only")
        } else {
            no_route.to_string()
        };
        Refusal {
            status: no_route.status().as_u16(),
            reason,
        }
    }
}

fn entrance_name(entrance: Visibility) -> &'static str {
    match entrance {
        Visibility::ExternalIp => "external",
        Visibility::ClusterLocal => "cluster-local",
    }
}

fn describe(matched: &Match<'_>, chosen: Option<&Backend>) -> Pass {
    let header = |(name, value): &(HeaderName, HeaderValue)| {
        format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
    };
    Pass {
        ingress: matched.ingress.to_string(),
        hash: matched.hash.to_string(),
        rule: matched.rule,
        position: matched.position,
        prefix: matched.path.prefix.clone(),
        headers: matched.path.headers.iter().map(header).collect(),
        rewrite_host: matched.path.rewrite_host.clone(),
        policy: matched
            .policy
            .map(|policy| policy.terms())
            .unwrap_or_default(),
        shares: matched
            .path
            .splits
            .iter()
            .map(|(percent, backend)| share(percent, backend, chosen))
            .collect(),
    }
}

fn share(percent: u8, backend: &Backend, chosen: Option<&Backend>) -> Share {
    let (kind, target, spec) = match &backend.target {
        Target::Revision { id, spec } => ("revision", id.to_string(), Some(spec)),
        Target::Service { id, spec } => ("service", id.to_string(), Some(spec)),
        Target::External {
            host, port, spec, ..
        } => ("external", format!("{host}:{port}"), Some(spec)),
        Target::Missing { reason } => ("missing", reason.to_string(), None),
    };
    Share {
        percent,
        is_chosen: chosen.map(|chosen| std::ptr::eq(chosen, backend)),
        kind,
        target,
        spec: spec.map(|spec| describe_spec(spec)),
    }
}

fn describe_spec(spec: &RevisionSpec) -> Spec {
    // A duration beyond the number's reach is no timeout.
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).ok();
    Spec {
        container_concurrency: spec.concurrency.as_number(),
        protocol: match spec.protocol {
            Protocol::Http1 => "http1",
            Protocol::H2c => "h2c",
        },
        timeout_ms: millis(spec.timeouts.total),
        response_start_timeout_ms: spec.timeouts.response_start.and_then(millis),
        idle_timeout_ms: spec.timeouts.idle.and_then(millis),
    }
}

/// The difference of two sets of headers: what is set, then what is removed, each by name.
fn edits(before: &HeaderMap, after: &HeaderMap) -> Vec<Edit> {
    let changed =
        |name: &&HeaderName| !before.get_all(*name).iter().eq(after.get_all(*name).iter());
    let mut set: Vec<Edit> = after
        .keys()
        .filter(changed)
        .map(|name| Edit {
            name: name.to_string(),
            value: after
                .get(name)
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
        })
        .collect();
    let mut removed: Vec<Edit> = before
        .keys()
        .filter(|name| !after.contains_key(*name))
        .map(|name| Edit {
            name: name.to_string(),
            value: None,
        })
        .collect();
    set.sort_by(|a, b| a.name.cmp(&b.name));
    removed.sort_by(|a, b| a.name.cmp(&b.name));
    set.append(&mut removed);
    set
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            method,
            host,
            path,
            entrance,
            generation,
            ..
        } = self;
        writeln!(
            f,
            "{method} {host}{path} at the {entrance} entrance, generation {generation}"
        )?;
        for pass in &self.passes {
            fmt::Display::fmt(pass, f)?;
        }
        for Edit { name, value } in &self.edits {
            match value {
                Some(value) => writeln!(f, "  set {name}: {value}")?,
                None => writeln!(f, "  remove {name}")?,
            }
        }
        match &self.refusal {
            Some(Refusal { status, reason }) => writeln!(f, "  answered with {status}: {reason}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            ingress,
            rule,
            position,
            prefix,
            ..
        } = self;
        write!(f, "  {ingress} rule {rule} path {position}: ")?;
        match prefix.as_str() {
            "" => write!(f, "every path")?,
            prefix => write!(f, "paths from {prefix}")?,
        }
        for header in &self.headers {
            write!(f, ", with {header}")?;
        }
        if let Some(host) = &self.rewrite_host {
            write!(f, ", host becomes {host}")?;
        }
        writeln!(f)?;
        for Term { name, value } in &self.policy {
            writeln!(f, "     asks for {name}: {value}")?;
        }
        self.shares
            .iter()
            .try_for_each(|share| fmt::Display::fmt(share, f))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            percent,
            kind,
            target,
            ..
        } = self;
        let mark = if self.is_chosen == Some(true) {
            "->"
        } else {
            "  "
        };
        write!(f, "  {mark} {percent:>3} % {kind} {target}")?;
        if let Some(spec) = &self.spec {
            fmt::Display::fmt(spec, f)?;
        }
        writeln!(f)
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ", {}", self.protocol)?;
        match self.container_concurrency {
            0 => write!(f, ", unlimited concurrency")?,
            limit => write!(f, ", concurrency {limit}")?,
        }
        let timeouts = [
            ("timeout", self.timeout_ms),
            ("response start timeout", self.response_start_timeout_ms),
            ("idle timeout", self.idle_timeout_ms),
        ];
        for (name, millis) in timeouts {
            if let Some(millis) = millis {
                write!(f, ", {name} {:?}", Duration::from_millis(millis))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
