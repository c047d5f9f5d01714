//! Which trace a request belongs to, as its head says it and as the next one is told: W3C Trace Context and B3.
//!
//! Sources: W3C Trace Context (level 1) sections 2 and 3; openzipkin/b3-propagation `README.md`. What cannot be read is
//! treated as if it were not there.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanId, TraceId};

/// W3C.
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// W3C: what others have to say about the trace; passed on as it came.
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// B3 in one header.
const B3: HeaderName = HeaderName::from_static("b3");
/// B3 in several.
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// In which form a context came in; W3C's is always passed on, another one beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// W3C, or none.
    #[default]
    W3c,
    /// B3 in one header.
    B3,
    /// B3 in several headers.
    B3Multi,
}

/// What a head says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Incoming {
    /// The trace, and the span that called.
    pub(super) ids: Option<(TraceId, SpanId)>,
    /// Whether the caller records it; B3 may leave that open.
    pub(super) is_sampled: Option<bool>,
    /// How it says so.
    pub(super) form: Form,
}

impl Incoming {
    /// Reads a head; W3C comes first.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut all = headers.get_all(TRACEPARENT).iter();
        if let (Some(value), None) = (all.next(), all.next())
            && let Some((trace, span, is_sampled)) = w3c(value.as_bytes())
        {
            return Self {
                ids: Some((trace, span)),
                is_sampled: Some(is_sampled),
                form: Form::W3c,
            };
        }
        if let Some(value) = headers.get(B3)
            && let Some(incoming) = b3(value.as_bytes())
        {
            return incoming;
        }
        b3_multi(headers).unwrap_or_default()
    }
}

/// `00-{trace}-{span}-{flags}`; later versions may say more behind it (section 2.2.4).
fn w3c(value: &[u8]) -> Option<(TraceId, SpanId, bool)> {
    let (version, rest) = value.split_at_checked(3)?;
    let &[high, low, b'-'] = version else {
        return None;
    };
    let version = byte([high, low])?;
    let (fields, more) = rest.split_at_checked(52)?;
    let is_whole = match version {
        0 => more.is_empty(),
        0xff => false,
        _ => more.first().is_none_or(|first| *first == b'-'),
    };
    let (trace, rest) = fields.split_at_checked(32)?;
    let (span, flags) = rest.strip_prefix(b"-")?.split_at_checked(16)?;
    let &[b'-', high, low] = flags else {
        return None;
    };
    let is_lower = !fields.iter().any(u8::is_ascii_uppercase);
    let flags = byte([high, low])?;
    let ids = (trace_id(trace)?, span_id(span)?);
    (is_whole && is_lower).then_some((ids.0, ids.1, flags & SAMPLED != 0))
}

const SAMPLED: u8 = 1;

/// `{trace}-{span}[-{sampled}[-{parent}]]`, or only `{sampled}`.
fn b3(value: &[u8]) -> Option<Incoming> {
    let form = Form::B3;
    let mut parts = value.split(|byte| *byte == b'-');
    let (first, second) = (parts.next()?, parts.next());
    let Some(second) = second else {
        return Some(Incoming {
            ids: None,
            is_sampled: Some(b3_sampled(first)?),
            form,
        });
    };
    let is_sampled = match parts.next() {
        None => None,
        Some(said) => Some(b3_sampled(said)?),
    };
    Some(Incoming {
        ids: Some((trace_id(first)?, span_id(second)?)),
        is_sampled,
        form,
    })
}

fn b3_multi(headers: &HeaderMap) -> Option<Incoming> {
    let of = |name| headers.get(name).map(HeaderValue::as_bytes);
    let is_debug = || of(B3_FLAGS) == Some(b"1");
    let trace = of(B3_TRACE);
    let said = of(B3_SAMPLED).and_then(b3_sampled);
    if trace.is_none() && said.is_none() {
        return None;
    }
    let ids = trace.and_then(trace_id).zip(of(B3_SPAN).and_then(span_id));
    Some(Incoming {
        ids,
        is_sampled: if is_debug() { Some(true) } else { said },
        form: Form::B3Multi,
    })
}

fn b3_sampled(said: &[u8]) -> Option<bool> {
    match said {
        b"1" | b"d" | b"true" => Some(true),
        b"0" | b"false" => Some(false),
        _ => None,
    }
}

/// 128 bits, or 64 as older B3 has them; never zero.
fn trace_id(hex: &[u8]) -> Option<TraceId> {
    if !matches!(hex.len(), 16 | 32) {
        return None;
    }
    let id = number(hex)?;
    (id != 0).then(|| TraceId::from_bytes(id.to_be_bytes()))
}

fn span_id(hex: &[u8]) -> Option<SpanId> {
    let id = u64::try_from(number(hex).filter(|_| hex.len() == 16)?).ok()?;
    (id != 0).then(|| SpanId::from_bytes(id.to_be_bytes()))
}

fn byte(hex: [u8; 2]) -> Option<u8> {
    u8::try_from(number(&hex)?).ok()
}

fn number(hex: &[u8]) -> Option<u128> {
    hex.iter().try_fold(0_u128, |number, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(number << 4 | u128::from(digit))
    })
}

/// Tells the next one: in W3C's form, and in the one the caller used.
pub(super) fn pass_on(
    headers: &mut HeaderMap,
    form: Form,
    trace: TraceId,
    span: SpanId,
    is_sampled: bool,
) {
    let mut line = *b"00-00000000000000000000000000000000-0000000000000000-00";
    let (trace, span) = (trace.to_bytes(), span.to_bytes());
    put(&mut line[3..35], &trace);
    put(&mut line[36..52], &span);
    if is_sampled {
        line[54] = b'1';
    }
    let value = |bytes: &[u8]| {
        // Hexadecimal digits and dashes: always a value.
        HeaderValue::from_bytes(bytes).unwrap_or(HeaderValue::from_static(""))
    };
    headers.insert(TRACEPARENT, value(&line));
    let sampled = &line[54..];
    match form {
        Form::W3c => {}
        Form::B3 => {
            let mut single = [b'-'; 51];
            single[..49].copy_from_slice(&line[3..52]);
            single[50..].copy_from_slice(sampled);
            headers.insert(B3, value(&single));
        }
        Form::B3Multi => {
            headers.insert(B3_TRACE, value(&line[3..35]));
            headers.insert(B3_SPAN, value(&line[36..52]));
            headers.insert(B3_SAMPLED, value(sampled));
            headers.remove(B3_PARENT);
        }
    }
}

fn put(digits: &mut [u8], bytes: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 15)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
    const SPAN: u64 = 0x00f0_67aa_0ba9_02b7;

    fn ids() -> (TraceId, SpanId) {
        (
            TraceId::from_bytes(TRACE.to_be_bytes()),
            SpanId::from_bytes(SPAN.to_be_bytes()),
        )
    }

    fn head(fields: &[(&'static str, &str)]) -> HeaderMap {
        let fields = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        fields.collect()
    }

    fn of(fields: &[(&'static str, &str)]) -> Incoming {
        Incoming::of(&head(fields))
    }

    const W3C: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn w3c_is_read_and_comes_before_b3() {
        let expected = Incoming {
            ids: Some(ids()),
            is_sampled: Some(true),
            form: Form::W3c,
        };
        assert_eq!(of(&[("traceparent", W3C)]), expected);
        assert_eq!(of(&[("b3", "0"), ("traceparent", W3C)]), expected);
        let unsampled = W3C.replace("-01", "-00");
        assert_eq!(of(&[("traceparent", &unsampled)]).is_sampled, Some(false));
        let later = format!("cc{}-what-comes", W3C.strip_prefix("00").unwrap());
        assert_eq!(of(&[("traceparent", &later)]), expected);
    }

    #[test]
    fn what_w3c_forbids_is_as_if_it_were_not_there() {
        for wrong in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473x-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-+1",
        ] {
            assert_eq!(
                of(&[("traceparent", wrong)]),
                Incoming::default(),
                "{wrong}"
            );
        }
        let mut twice = head(&[("traceparent", W3C)]);
        twice.append(TRACEPARENT, W3C.parse().unwrap());
        assert_eq!(Incoming::of(&twice), Incoming::default());
    }

    #[test]
    fn b3_is_read_in_both_forms() {
        let single = |value: &str| of(&[("b3", value)]);
        let pair = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";
        for (more, is_sampled) in [
            ("", None),
            ("-1", Some(true)),
            ("-0", Some(false)),
            ("-d", Some(true)),
            ("-1-05e3ac9a4f6e3b90", Some(true)),
        ] {
            let incoming = single(&format!("{pair}{more}"));
            assert_eq!(
                (incoming.ids, incoming.is_sampled),
                (Some(ids()), is_sampled)
            );
            assert_eq!(incoming.form, Form::B3);
        }
        assert_eq!(single("0").is_sampled, Some(false));
        assert_eq!(single("nonsense"), Incoming::default());

        let several = of(&[
            ("x-b3-traceid", "4bf92f3577b34da6a3ce929d0e0e4736"),
            ("x-b3-spanid", "00f067aa0ba902b7"),
            ("x-b3-sampled", "1"),
        ]);
        assert_eq!((several.ids, several.is_sampled), (Some(ids()), Some(true)));
        let short = of(&[
            ("x-b3-traceid", "a3ce929d0e0e4736"),
            ("x-b3-spanid", "00f067aa0ba902b7"),
            ("x-b3-flags", "1"),
        ]);
        let low = TraceId::from_bytes(0xa3ce_929d_0e0e_4736_u128.to_be_bytes());
        assert_eq!(short.ids.unwrap().0, low);
        assert_eq!(short.is_sampled, Some(true));
    }

    #[test]
    fn what_is_passed_on_can_be_read_by_the_next_one_in_every_form() {
        let (trace, span) = ids();
        for form in [Form::W3c, Form::B3, Form::B3Multi] {
            for is_sampled in [true, false] {
                let mut headers = HeaderMap::new();
                pass_on(&mut headers, form, trace, span, is_sampled);
                assert_eq!(Incoming::of(&headers).form, Form::W3c);
                if form != Form::W3c {
                    headers.remove(TRACEPARENT);
                }
                let expected = Incoming {
                    ids: Some((trace, span)),
                    is_sampled: Some(is_sampled),
                    form,
                };
                assert_eq!(Incoming::of(&headers), expected);
            }
        }
    }
}
