//! What a probe gets whose target is a Revision: the answer of the activator, without waking anything.
//!
//! Source: knative/networking `pkg/http/probe/handler.go` (`probe`), knative/serving
//! `pkg/activator/handler/probe_handler.go` (everything else).

use std::borrow::Cow;
use std::fmt::Write as _;

use http::{HeaderMap, HeaderValue, StatusCode};

use super::names::{ACTIVATOR, HASH_OVERRIDE, NETWORK_HASH, NETWORK_PROBE};

/// The answer to a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeAnswer {
    /// 200 or 400. A 400 is plain text, like all of Go's error answers.
    pub status: StatusCode,
    /// The body, byte for byte.
    pub body: Cow<'static, str>,
    /// What goes into `K-Network-Hash` of the answer.
    pub hash: Option<HeaderValue>,
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

/// As Go's `%q` writes it, except that all beyond ASCII is shown as bytes.
fn quoted(value: &[u8]) -> String {
    let mut text = String::from('"');
    for byte in value {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(*byte)]),
            b'\t' => text.push_str("\\t"),
            b' '..=b'~' => text.push(char::from(*byte)),
            // Writing to a string cannot fail.
            _ => write!(text, "\\x{byte:02x}").unwrap_or_default(),
        }
    }
    text.push('"');
    text
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
