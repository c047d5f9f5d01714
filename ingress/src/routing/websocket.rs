//! A WebSocket on an HTTP/2 stream: the head of an extended `CONNECT` as that of an HTTP/1.1 upgrade, and its answer back.
//!
//! Endpoints are asked by HTTP/1.1, always, so a client of HTTP/2 is spoken for: its `CONNECT` becomes the `GET` of
//! RFC 6455 section 4.1 with a key of ours, and `101 Switching Protocols` with the right `Sec-WebSocket-Accept` becomes
//! the 200 of RFC 8441 section 5.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, TRANSFER_ENCODING,
    UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, response};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::headers::join_cookies;

/// The value of `:protocol` and `Upgrade`.
pub const WEBSOCKET: &str = "websocket";

/// Says of a head that its stream asks for a WebSocket: an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnStream;

/// Says of a head that its stream asks for a protocol that is not served: an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherProtocol;

/// Makes the head of an extended `CONNECT` for a WebSocket one of an upgrade by HTTP/1.1. `key` is for this request alone.
///
/// What the client says of the handshake itself goes: it has none (RFC 8441 section 5).
pub fn to_upgrade(head: &mut Parts, key: HeaderValue) {
    join_cookies(&mut head.headers);
    head.method = Method::GET;
    head.version = Version::HTTP_11;
    let headers = &mut head.headers;
    if let Some(authority) = head.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
        && !headers.contains_key(HOST)
    {
        headers.insert(HOST, host);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
    headers.insert(SEC_WEBSOCKET_KEY, key);
    head.extensions.insert(OnStream);
}

/// Why an endpoint's answer cannot be told on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongAnswer {
    /// A success that is none: on a stream it would mean that the WebSocket is open.
    #[error("it did not switch protocols")]
    NotSwitched,
    /// Another protocol.
    #[error("it switched to another protocol")]
    Other,
    /// It has not understood what it was asked.
    #[error("its Sec-WebSocket-Accept is not that of the key")]
    Accept,
}

/// Checks the answer to a request that [`to_upgrade`] has made; refusals are passed on as they are.
///
/// # Errors
///
/// When it must not be passed on.
pub fn check_answer(
    request: &HeaderMap,
    answer: &response::Parts,
    has_switched: bool,
) -> Result<(), WrongAnswer> {
    if !has_switched {
        return match answer.status.is_success() {
            true => Err(WrongAnswer::NotSwitched),
            false => Ok(()),
        };
    }
    let is_websocket =
        |name: &HeaderValue| name.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes());
    if !answer.headers.get(UPGRADE).is_some_and(is_websocket) {
        return Err(WrongAnswer::Other);
    }
    let key = request.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
    let accept = answer.headers.get(SEC_WEBSOCKET_ACCEPT);
    let expected = derive_accept_key(key.unwrap_or_default());
    if accept.is_some_and(|accept| accept.as_bytes() == expected.as_bytes()) {
        Ok(())
    } else {
        Err(WrongAnswer::Accept)
    }
}

/// Makes the head of `101 Switching Protocols` that of the answer on a stream.
pub fn to_success(status: &mut StatusCode, headers: &mut HeaderMap) {
    *status = StatusCode::OK;
    let of_the_handshake = [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT];
    for name in of_the_handshake
        .iter()
        .chain(&[CONTENT_LENGTH, TRANSFER_ENCODING])
    {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};

    use super::*;

    /// RFC 6455 section 1.3.
    const KEY: HeaderValue = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    fn upgrade(fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::connect("https://shop.example.com/chat?room=1");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        head.version = Version::HTTP_2;
        to_upgrade(&mut head, KEY);
        head
    }

    fn answer(status: u16, fields: &[(&str, &str)]) -> response::Parts {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        response.body(()).unwrap().into_parts().0
    }

    #[test]
    fn an_extended_connect_becomes_the_upgrade_of_http1() {
        let head = upgrade(&[
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "the client's"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
        ]);
        assert_eq!((head.method, head.version), (Method::GET, Version::HTTP_11));
        assert_eq!(head.uri.path_and_query().unwrap(), "/chat?room=1");
        let said = |name: &str| head.headers.get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(said("host"), ["shop.example.com"]);
        assert_eq!(said("connection"), ["upgrade"]);
        assert_eq!(said("upgrade"), ["websocket"]);
        assert_eq!(said("sec-websocket-key"), [KEY]);
        assert_eq!(said("sec-websocket-version"), ["13"]);
        assert_eq!(said("cookie"), ["a=1; b=2"]);
    }

    #[test]
    fn a_host_that_the_client_sent_is_left_to_be_compared_with_the_authority() {
        let head = upgrade(&[("host", "evil.example.com")]);
        assert_eq!(head.headers["host"], "evil.example.com");
    }

    #[test]
    fn only_a_switch_with_the_right_accept_opens_the_stream() {
        let asked = upgrade(&[]).headers;
        let switch = |upgrade, accept| {
            answer(
                101,
                &[("upgrade", upgrade), ("sec-websocket-accept", accept)],
            )
        };
        let checked = |answer: &response::Parts, switched| check_answer(&asked, answer, switched);
        assert_eq!(checked(&switch("WebSocket", ACCEPT), true), Ok(()));
        let wrong = checked(&switch("echo", ACCEPT), true);
        assert_eq!(wrong, Err(WrongAnswer::Other));
        let wrong = checked(&switch("websocket", "x"), true);
        assert_eq!(wrong, Err(WrongAnswer::Accept));
        let silent = answer(101, &[("upgrade", "websocket")]);
        assert_eq!(checked(&silent, true), Err(WrongAnswer::Accept));
        let wrong = checked(&answer(200, &[]), false);
        assert_eq!(wrong, Err(WrongAnswer::NotSwitched));
        for refusal in [302, 403, 426, 503] {
            assert_eq!(checked(&answer(refusal, &[]), false), Ok(()));
        }
    }

    #[test]
    fn what_belongs_to_the_handshake_of_http1_is_not_told_on_a_stream() {
        let fields = [
            ("upgrade", "websocket"),
            ("connection", "upgrade"),
            ("sec-websocket-accept", ACCEPT),
            ("sec-websocket-protocol", "chat"),
        ];
        let mut head = answer(101, &fields);
        to_success(&mut head.status, &mut head.headers);
        assert_eq!(head.status, 200);
        let names: Vec<_> = head.headers.keys().map(http::HeaderName::as_str).collect();
        assert_eq!(names, ["sec-websocket-protocol"]);
    }
}
