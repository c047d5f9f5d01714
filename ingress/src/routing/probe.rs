//! What a probe gets: the answer of the activator, without waking anything.
//!
//! At the gateway that concerns probes whose target is a Revision, at the activator ports every request. Source:
//! knative/serving `pkg/activator/handler/healthz_handler.go` (the kubelet's), knative/networking
//! `pkg/http/probe/handler.go` (`probe`), knative/serving `pkg/activator/handler/probe_handler.go` (everything else), in
//! this order (knative/serving `cmd/activator/main.go`).

use std::borrow::Cow;

use http::header::USER_AGENT;
use http::{HeaderMap, HeaderValue, StatusCode};

use super::go::quoted;
use super::names::{ACTIVATOR, HASH_OVERRIDE, KUBELET_PROBE, NETWORK_HASH, NETWORK_PROBE};

/// The answer to a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeAnswer {
    /// 200, 400, or 500 for the kubelet. Errors are plain text, like all of Go's error answers.
    pub status: StatusCode,
    /// The body, byte for byte.
    pub body: Cow<'static, str>,
    /// What goes into `K-Network-Hash` of the answer.
    pub hash: Option<HeaderValue>,
}

/// The answer to a probe at the activator ports, whatever its path and method; none when it is no probe.
///
/// `unhealthy` says why the process is not healthy, if it is not: only the kubelet is told.
pub fn activator_answer(
    headers: &HeaderMap,
    unhealthy: impl FnOnce() -> Option<String>,
) -> Option<ProbeAnswer> {
    if is_kubelet_probe(headers) {
        return Some(kubelet_answer(unhealthy()));
    }
    // No KIngress is known here: whatever stands for its hash is echoed.
    probe_answer(headers, HASH_OVERRIDE)
}

/// Source: knative/networking `pkg/http/header/header.go`, `IsKubeletProbe`.
fn is_kubelet_probe(headers: &HeaderMap) -> bool {
    let agent = headers.get(USER_AGENT);
    let marked = headers.get(KUBELET_PROBE);
    agent.is_some_and(|agent| agent.as_bytes().starts_with(b"kube-probe/"))
        || marked.is_some_and(|mark| !mark.is_empty())
}

fn kubelet_answer(unhealthy: Option<String>) -> ProbeAnswer {
    match unhealthy {
        None => ok("", None),
        Some(reason) => ProbeAnswer {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            body: (reason + "\n").into(),
            hash: None,
        },
    }
}

/// The answer to a request with `K-Network-Probe`; none when it is no probe.
///
/// `hash` is the one of the KIngress that serves the request's host; `K-Network-Hash: override` asks for it, any other
/// value is echoed.
pub fn probe_answer(headers: &HeaderMap, hash: &str) -> Option<ProbeAnswer> {
    let probe = headers
        .get(NETWORK_PROBE)
        .filter(|probe| !probe.is_empty())?;
    Some(match probe.as_bytes() {
        b"probe" => gateway_answer(headers, hash),
        b"activator" => ok(ACTIVATOR, None),
        unexpected => {
            bad(format!("unexpected probe header value: {}\n", quoted(unexpected)).into())
        }
    })
}

fn gateway_answer(headers: &HeaderMap, hash: &str) -> ProbeAnswer {
    let given = headers.get(NETWORK_HASH).filter(|given| !given.is_empty());
    match given {
        Some(given) if given == HASH_OVERRIDE => ok("", HeaderValue::from_str(hash).ok()),
        Some(given) => ok("", Some(given.clone())),
        None => bad("a probe request must contain a non-empty \"K-Network-Hash\" header\n".into()),
    }
}

fn ok(body: &'static str, hash: Option<HeaderValue>) -> ProbeAnswer {
    ProbeAnswer {
        status: StatusCode::OK,
        body: body.into(),
        hash,
    }
}

fn bad(body: Cow<'static, str>) -> ProbeAnswer {
    ProbeAnswer {
        status: StatusCode::BAD_REQUEST,
        body,
        hash: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(fields: &[(&'static str, &'static str)]) -> Option<(u16, String, Option<String>)> {
        let fields = fields
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        let answer = probe_answer(&fields.collect(), "3f2a")?;
        let hash = answer.hash.map(|hash| hash.to_str().unwrap().to_owned());
        Some((answer.status.as_u16(), answer.body.into_owned(), hash))
    }

    fn at_activator(
        fields: &[(&'static str, &'static str)],
        unhealthy: Option<&str>,
    ) -> Option<(u16, String, Option<String>)> {
        let fields = fields
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        let unhealthy = || unhealthy.map(str::to_owned);
        let answer = activator_answer(&fields.collect(), unhealthy)?;
        let hash = answer.hash.map(|hash| hash.to_str().unwrap().to_owned());
        Some((answer.status.as_u16(), answer.body.into_owned(), hash))
    }

    #[test]
    fn the_kubelet_learns_first_of_all_whether_the_process_is_healthy() {
        let marked = [("k-kubelet-probe", "queue"), ("k-network-probe", "probe")];
        let named = [("user-agent", "kube-probe/1.36"), ("k-network-probe", "x")];
        for fields in [marked, named] {
            assert_eq!(
                at_activator(&fields, None),
                Some((200, String::new(), None))
            );
            assert_eq!(
                at_activator(&fields, Some("it is late")),
                Some((500, "it is late\n".into(), None))
            );
        }
    }

    #[test]
    fn what_is_not_quite_a_kubelets_probe_is_none() {
        for field in [
            ("user-agent", "Kube-Probe/1.36"),
            ("user-agent", "curl kube-probe/1"),
            ("user-agent", "kube-probe"),
            ("k-kubelet-probe", ""),
        ] {
            assert_eq!(at_activator(&[field], Some("unhealthy")), None, "{field:?}");
        }
    }

    #[test]
    fn others_are_told_at_the_activator_too_while_it_is_unhealthy() {
        let unhealthy = Some("it is late");
        assert_eq!(
            at_activator(&[("k-network-probe", "activator")], unhealthy),
            Some((200, "activator".into(), None))
        );
        let override_ = [("k-network-probe", "probe"), ("k-network-hash", "override")];
        assert_eq!(
            at_activator(&override_, unhealthy),
            Some((200, String::new(), Some("override".into())))
        );
        assert_eq!(at_activator(&[("k-network-hash", "x")], unhealthy), None);
    }

    #[test]
    fn ordinary_requests_are_no_probes() {
        assert_eq!(answer(&[]), None);
        assert_eq!(answer(&[("k-network-probe", "")]), None);
        assert_eq!(answer(&[("k-network-hash", "override")]), None);
    }

    #[test]
    fn gateway_probe_is_answered_with_the_hash_it_asks_for() {
        let probe = ("k-network-probe", "probe");
        assert_eq!(
            answer(&[probe, ("k-network-hash", "override")]),
            Some((200, String::new(), Some("3f2a".into())))
        );
        assert_eq!(
            answer(&[probe, ("k-network-hash", "whatever")]),
            Some((200, String::new(), Some("whatever".into())))
        );
    }

    #[test]
    fn gateway_probe_without_a_hash_is_refused() {
        let text = "a probe request must contain a non-empty \"K-Network-Hash\" header\n";
        assert_eq!(
            answer(&[("k-network-probe", "probe")]),
            Some((400, text.into(), None))
        );
        assert_eq!(
            answer(&[("k-network-probe", "probe"), ("k-network-hash", "")]),
            Some((400, text.into(), None))
        );
    }

    #[test]
    fn autoscaler_learns_that_an_activator_is_in_the_path() {
        assert_eq!(
            answer(&[("k-network-probe", "activator")]),
            Some((200, "activator".into(), None))
        );
    }

    #[test]
    fn unexpected_probes_are_refused_with_their_value_quoted() {
        assert_eq!(
            answer(&[("k-network-probe", "queue")]),
            Some((
                400,
                "unexpected probe header value: \"queue\"\n".into(),
                None
            ))
        );
        assert_eq!(
            answer(&[("k-network-probe", "a\"b\\")]),
            Some((
                400,
                "unexpected probe header value: \"a\\\"b\\\\\"\n".into(),
                None
            ))
        );
    }
}
