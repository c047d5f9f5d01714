//! Headers that are for the next hop only.
//!
//! Source: RFC 9110 section 7.6.1; the list is that of Go's `net/http/httputil` reverse proxy, which the activator
//! uses (see [`Present::HOP_BY_HOP`]), without `Trailer`, which concerns the recipient too (RFC 9110 section 6.6.2).

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};

use super::present::Present;

const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Removes the hop-by-hop headers of a request, also those `Connection` names.
///
/// `TE: trailers` stays, and so do `Upgrade` and `Connection: upgrade` of a request for an upgrade over HTTP/1.1; the
/// value of `Upgrade` is returned. An upgrade to `h2c` is ignored, as a server may (RFC 9110 section 7.8): passed on
/// it would open an HTTP/2 connection behind our back.
pub fn remove_from_request(headers: &mut HeaderMap, version: Version) -> Option<HeaderValue> {
    let present = Present::in_head(headers);
    remove_present_from_request(headers, present, version)
}

/// The same when it is known which kinds of fields there are.
pub(super) fn remove_present_from_request(
    headers: &mut HeaderMap,
    present: Present,
    version: Version,
) -> Option<HeaderValue> {
    if !present.has(Present::HOP_BY_HOP) {
        return None;
    }
    let wants_trailers = present.has(Present::TE) && has_token(headers, &TE, "trailers");
    let upgrade = if present.has(Present::UPGRADE) {
        requested_upgrade(headers, version)
    } else {
        None
    };
    remove(headers);
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = &upgrade {
        keep_upgrade(headers, protocol.clone());
    }
    upgrade
}

/// Removes the hop-by-hop headers of a response; `101 Switching Protocols` keeps `Upgrade` and `Connection: upgrade`.
pub fn remove_from_response(headers: &mut HeaderMap, status: StatusCode) {
    let upgrade = match status {
        StatusCode::SWITCHING_PROTOCOLS => headers.get(UPGRADE).cloned(),
        _ => None,
    };
    remove(headers);
    if let Some(protocol) = upgrade {
        keep_upgrade(headers, protocol);
    }
}

/// The protocol a request asks to change to: HTTP/1.1 only, with `upgrade` among the connection options.
pub(in super::super) fn requested_upgrade(
    headers: &HeaderMap,
    version: Version,
) -> Option<HeaderValue> {
    if version != Version::HTTP_11 || !has_token(headers, &CONNECTION, "upgrade") {
        return None;
    }
    let mut protocols = headers.get_all(UPGRADE).iter();
    let protocol = protocols.next()?;
    let is_h2c = has_token(headers, &UPGRADE, "h2c") || headers.contains_key(HTTP2_SETTINGS);
    (protocols.next().is_none() && !protocol.is_empty() && !is_h2c).then(|| protocol.clone())
}

fn keep_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

fn remove(headers: &mut HeaderMap) {
    for name in named_by_connection(headers) {
        headers.remove(name);
    }
    // Usually there is one, `Connection: keep-alive`: looking for the next is cheaper than removing all by name.
    while let Some(name) = headers.keys().find(|name| is_hop_by_hop(name)).cloned() {
        headers.remove(name);
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    Present::of(name).has(Present::HOP_BY_HOP)
}

/// What `Connection` names, except what says whom the message is for and where it ends.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    tokens(headers, &CONNECTION)
        .filter(|token| !is_usual_option(token))
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .filter(|name| name != HOST && name != CONTENT_LENGTH && !is_hop_by_hop(name))
        .collect()
}

/// Names that are removed anyway and that nearly every `Connection` consists of: they need not be made first.
fn is_usual_option(token: &[u8]) -> bool {
    token.eq_ignore_ascii_case(b"keep-alive") || token.eq_ignore_ascii_case(b"upgrade")
}

fn has_token(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    tokens(headers, name).any(|token| token.eq_ignore_ascii_case(wanted.as_bytes()))
}

/// The members of a list header, without their parameters.
fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> {
    let values = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let members = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    members
        .map(|member| {
            let mut parts = member.split(|byte| *byte == b';');
            parts.next().unwrap_or(member).trim_ascii()
        })
        .filter(|token| !token.is_empty())
}
