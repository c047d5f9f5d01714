//! `X-Forwarded-For`, `-Proto`, `-Host` and `Forwarded`: whom we got the request from.
//!
//! What an outsider wrote there is replaced; a set number of entries at the end is believed when proxies of ours stand
//! in front. At the internal entrance the peer is one of our own, so its entries stay and we append ours.
//! Source: RFC 7239; the runtime contract wants `Forwarded` (knative/specs `specs/serving/runtime-contract.md`).

use std::fmt::Write as _;
use std::net::IpAddr;

use http::header::{FORWARDED, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::super::names::{X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO};
use super::super::rules::Visibility;
use super::{Arrival, Scheme};

/// Says who sent the request, for which host and under which scheme.
pub(super) fn append(headers: &mut HeaderMap, arrival: &Arrival) {
    let peer = arrival.peer.to_canonical();
    let believed = match arrival.entrance {
        Visibility::ExternalIp => arrival.trusted_hops,
        Visibility::ClusterLocal => usize::MAX,
    };
    let host = headers.get(HOST).cloned();

    append_element(headers, X_FORWARDED_FOR, believed, &peer.to_string());
    append_element(
        headers,
        FORWARDED,
        believed,
        &forwarded_element(peer, host.as_ref(), arrival.scheme),
    );

    let is_believed = believed > 0;
    if !(is_believed && has_one(headers, &X_FORWARDED_PROTO, |v| v == "http" || v == "https")) {
        headers.insert(
            X_FORWARDED_PROTO,
            HeaderValue::from_static(arrival.scheme.as_str()),
        );
    }
    if !(is_believed && has_one(headers, &X_FORWARDED_HOST, |v| !v.is_empty())) {
        headers.remove(X_FORWARDED_HOST);
        if let Some(host) = host {
            headers.insert(X_FORWARDED_HOST, host);
        }
    }
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
fn append_element(headers: &mut HeaderMap, name: HeaderName, believed: usize, ours: &str) {
    let mut kept = elements(headers, &name);
    kept.drain(..kept.len().saturating_sub(believed));
    kept.push(ours);
    match HeaderValue::try_from(kept.join(", ")) {
        Ok(value) => headers.insert(name, value),
        Err(_not_a_value) => headers.remove(name),
    };
}

/// `for=192.0.2.7;host=shop.example.com;proto=http`, quoted where RFC 7239 section 4 wants it.
fn forwarded_element(peer: IpAddr, host: Option<&HeaderValue>, scheme: Scheme) -> String {
    let mut element = match peer {
        IpAddr::V4(peer) => format!("for={peer}"),
        IpAddr::V6(peer) => format!("for=\"[{peer}]\""),
    };
    if let Some(host) = host.and_then(|host| host.to_str().ok()) {
        let quote = if host.bytes().all(is_token) && !host.is_empty() {
            ""
        } else {
            "\""
        };
        let host = host.replace('\\', "\\\\").replace('"', "\\\"");
        // Writing to a string cannot fail.
        write!(element, ";host={quote}{host}{quote}").unwrap_or_default();
    }
    element + ";proto=" + scheme.as_str()
}

/// Whether a byte may stand outside quotes: RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
