//! `X-Forwarded-For`, `-Proto`, `-Host` and `Forwarded`: whom we got the request from.
//!
//! What an outsider wrote there is replaced; a set number of entries at the end is believed when proxies of ours stand
//! in front. At the internal entrance the peer is one of our own, so its entries stay and we append ours. At the
//! activator's ports only the peer's address is appended.
//! Source: RFC 7239; the runtime contract wants `Forwarded` (knative/specs `specs/serving/runtime-contract.md`).

use std::cell::RefCell;
use std::net::IpAddr;
use std::ops::Range;

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::super::names::{X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO};
use super::{Present, Scheme};

/// What a connection's requests say about where they come from; made once, because it is text.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    /// Its address, for `X-Forwarded-For`.
    address: HeaderValue,
    /// `for=` and its address, as `Forwarded` has it.
    named: Box<str>,
    scheme: Scheme,
    /// The last element of `Forwarded`: nearly all requests of a connection are for one host.
    last: RefCell<Option<Element>>,
}

/// An element of `Forwarded`, and where in it the host stands as it was written.
#[derive(Clone, Debug)]
struct Element {
    text: HeaderValue,
    host: Range<usize>,
}

impl Sender {
    pub(super) fn new(peer: IpAddr, scheme: Scheme) -> Self {
        let peer = peer.to_canonical();
        let address = HeaderValue::try_from(peer.to_string());
        let named = match peer {
            IpAddr::V4(peer) => format!("for={peer}"),
            IpAddr::V6(peer) => format!("for=\"[{peer}]\""),
        };
        Self {
            address: address.expect("an address is visible ASCII"),
            named: named.into(),
            scheme,
            last: RefCell::default(),
        }
    }

    /// `for=192.0.2.7;host=shop.example.com;proto=http`, quoted where RFC 7239 section 4 wants it.
    fn element(&self, host: Option<&HeaderValue>) -> Option<HeaderValue> {
        let Some(host) = host else {
            return self.element_without_host();
        };
        let mut last = self.last.borrow_mut();
        let is_same =
            |last: &Element| last.text.as_bytes().get(last.host.clone()) == Some(host.as_bytes());
        if let Some(same) = last.as_ref().filter(|last| is_same(last)) {
            return Some(same.text.clone());
        }
        let Ok(host) = host.to_str() else {
            return self.element_without_host();
        };
        let is_token = host.bytes().all(is_token) && !host.is_empty();
        let quote = if is_token { "" } else { "\"" };
        let escaped = host.replace('\\', "\\\\").replace('"', "\\\"");
        let before = [&self.named, ";host=", quote].concat();
        let after = [quote, ";proto=", self.scheme.as_str()].concat();
        let text = HeaderValue::try_from([&*before, &escaped, &after].concat()).ok()?;
        if escaped == host {
            let host = before.len()..before.len() + host.len();
            *last = Some(Element {
                text: text.clone(),
                host,
            });
        }
        Some(text)
    }

    fn element_without_host(&self) -> Option<HeaderValue> {
        HeaderValue::try_from([&self.named, ";proto=", self.scheme.as_str()].concat()).ok()
    }
}

/// Says who sent the request, for which host and under which scheme, behind the last `believed` elements of what the head
/// says of that kind.
pub(super) fn append(
    headers: &mut HeaderMap,
    host: Option<&HeaderValue>,
    sender: &Sender,
    believed: usize,
) {
    let element = sender.element(host);
    if believed == 0 {
        let scheme = HeaderValue::from_static(sender.scheme.as_str());
        set(headers, X_FORWARDED_FOR, Some(sender.address.clone()));
        set(headers, FORWARDED, element);
        set(headers, X_FORWARDED_PROTO, Some(scheme));
        set(headers, X_FORWARDED_HOST, host.cloned());
    } else {
        append_to_claims(headers, believed, host, sender, element.as_ref());
    }
}

/// Says it behind what is believed of the claims in the head.
fn append_to_claims(
    headers: &mut HeaderMap,
    believed: usize,
    host: Option<&HeaderValue>,
    sender: &Sender,
    element: Option<&HeaderValue>,
) {
    append_element(headers, X_FORWARDED_FOR, believed, Some(&sender.address));
    append_element(headers, FORWARDED, believed, element);
    if !has_one(headers, &X_FORWARDED_PROTO, |v| v == "http" || v == "https") {
        let scheme = HeaderValue::from_static(sender.scheme.as_str());
        headers.insert(X_FORWARDED_PROTO, scheme);
    }
    if !has_one(headers, &X_FORWARDED_HOST, |v| !v.is_empty()) {
        set(headers, X_FORWARDED_HOST, host.cloned());
    }
}

/// Puts the sender behind what `X-Forwarded-For` says, whatever that is, and says nothing else: what Go's
/// `net/http/httputil` reverse proxy does.
pub(super) fn append_peer(headers: &mut HeaderMap, present: Present, sender: &Sender) {
    let mut line = sender.address.clone();
    if present.has(Present::FORWARDING) {
        let said = headers.get_all(X_FORWARDED_FOR).iter().chain([&line]);
        let said: Vec<_> = said.map(HeaderValue::as_bytes).collect();
        line = HeaderValue::from_bytes(&said.join(&b", "[..])).unwrap_or(line);
    }
    headers.insert(X_FORWARDED_FOR, line);
}

/// Makes this the only value of the field; without one, there is none.
fn set(headers: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    match value {
        Some(value) => headers.insert(name, value),
        None => headers.remove(name),
    };
}

fn has_one(
    headers: &HeaderMap,
    name: &HeaderName,
    is_sound: impl Fn(&HeaderValue) -> bool,
) -> bool {
    let mut values = headers.get_all(name).iter();
    values.next().is_some_and(is_sound) && values.next().is_none()
}

/// The elements of a list header over all its lines. A line that is not text, or leaves a quote open, says
/// nothing reliable about any of them: then there are none.
fn elements<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Vec<&'h str> {
    let mut elements = Vec::new();
    for line in headers.get_all(name) {
        let Ok(line) = line.to_str() else {
            return Vec::new();
        };
        let (mut in_quotes, mut is_escaped) = (false, false);
        let members = line.split(|c| {
            let is_end = c == ',' && !in_quotes;
            in_quotes ^= c == '"' && !is_escaped;
            is_escaped = in_quotes && c == '\\' && !is_escaped;
            is_end
        });
        elements.extend(members.map(str::trim).filter(|member| !member.is_empty()));
        if in_quotes {
            return Vec::new();
        }
    }
    elements
}

/// Keeps the last `believed` elements of a list header and puts `ours` behind them, all in one line.
fn append_element(
    headers: &mut HeaderMap,
    name: HeaderName,
    believed: usize,
    ours: Option<&HeaderValue>,
) {
    let line = ours.and_then(|ours| behind(headers, &name, believed, ours));
    set(headers, name, line);
}

fn behind(
    headers: &HeaderMap,
    name: &HeaderName,
    believed: usize,
    ours: &HeaderValue,
) -> Option<HeaderValue> {
    let mut kept = elements(headers, name);
    kept.drain(..kept.len().saturating_sub(believed));
    kept.push(ours.to_str().ok()?);
    HeaderValue::try_from(kept.join(", ")).ok()
}

/// Whether a byte may stand outside quotes: RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
