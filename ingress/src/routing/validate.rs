//! What the HTTP libraries let pass and we answer ourselves.
//!
//! Two programs that read one message differently are how requests are smuggled, so whatever leaves room for doubt
//! about where a message ends or whom it is for is refused here, before anything is looked up.

use http::header::{CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};

use super::headers::{Present, requested_upgrade};
use super::host::{Host, InvalidHost, WrittenHost, split_port};
use super::websocket::OtherProtocol;

/// What fits into a request head. Beyond it the answer is 414 or 431.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest request target in bytes; beyond: 414. Default 16 KiB.
    pub uri_bytes: usize,
    /// All header fields in bytes, counted as HTTP/1 writes them; beyond: 431. Default 64 KiB.
    pub header_bytes: usize,
    /// Number of header fields; in HTTP/2 each piece of a cookie is one. Beyond: 431. Default 128.
    pub fields: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            uri_bytes: 16 * 1024,
            header_bytes: 64 * 1024,
            fields: 128,
        }
    }
}

/// Longest method in bytes; beyond: 400. The longest that is registered has 17 (RFC 4437).
const METHOD_BYTES: usize = 64;

/// Why a request is answered at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct BadRequest {
    status: StatusCode,
    reason: &'static str,
}

impl BadRequest {
    /// The status to answer with: 400, 405, 414, 431 or 501.
    pub fn status(self) -> StatusCode {
        self.status
    }

    /// Why, in a few words that may be shown to the client.
    pub fn reason(self) -> &'static str {
        self.reason
    }

    fn new(status: StatusCode, reason: &'static str) -> Self {
        Self { status, reason }
    }
}

impl From<InvalidHost> for BadRequest {
    fn from(invalid: InvalidHost) -> Self {
        bad(match invalid {
            InvalidHost::Empty => "host is empty",
            InvalidHost::TooLong => "host is too long",
            InvalidHost::UserInfo => "host has user information",
            InvalidHost::Malformed => "host is malformed",
            InvalidHost::Port => "port of the host is malformed",
        })
    }
}

/// What makes the bytes of an HTTP/1 head doubtful, though its parts no longer show it: found by who saw the bytes, and
/// told as an extension of the parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// A line ended without a carriage return.
    BareLineFeed,
    /// Several `Content-Length` fields, perhaps equal ones.
    SeveralLengths,
    /// A `Content-Length` beside a `Transfer-Encoding`.
    LengthAndCoding,
}

impl From<Doubt> for BadRequest {
    fn from(doubt: Doubt) -> Self {
        bad(match doubt {
            Doubt::BareLineFeed => "bare line feed",
            Doubt::SeveralLengths => "several content-length fields",
            Doubt::LengthAndCoding => "both content-length and transfer-encoding",
        })
    }
}

/// What is known of a head that has been checked.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Whom the request is for: its authority, else its Host header; none in HTTP/1.0 without either.
    pub host: Option<WrittenHost>,
    /// Which fields it came in with.
    pub present: Present,
}

/// Checks the head of a request as it came in.
///
/// # Errors
///
/// The answer to give instead of routing the request.
pub fn validate(parts: &Parts, limits: &Limits) -> Result<Checked, BadRequest> {
    if parts.method == Method::CONNECT {
        return Err(connect_refused(parts));
    }
    if let Some(doubt) = parts.extensions.get::<Doubt>() {
        return Err((*doubt).into());
    }
    check_size(parts, limits)?;
    check_target(parts)?;
    let present = Present::in_head(&parts.headers);
    if parts.version >= Version::HTTP_2 {
        check_http2_fields(&parts.headers, present)?;
    }
    if present.has(Present::CONTENT_LENGTH.and(Present::TRANSFER_ENCODING)) {
        check_framing(&parts.headers, parts.version)?;
        check_upgrade(&parts.headers, parts.version)?;
    }
    let host = host_of(parts)?;
    Ok(Checked { host, present })
}

/// Several hosts, ones that disagree, and malformed ones are refused, and so is none when the version wants one
/// (RFC 9112 section 3.2, RFC 9113 section 8.3.1).
fn host_of(parts: &Parts) -> Result<Option<WrittenHost>, BadRequest> {
    let header = single_host(&parts.headers)?;
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    let written = match (authority, header) {
        (Some(authority), header) => {
            match header {
                Some(header) => check_same_host(authority, header)?,
                None if parts.version == Version::HTTP_11 => {
                    return Err(bad("host header is missing"));
                }
                None => {}
            }
            HeaderValue::from_str(authority).map_err(|_not_text| InvalidHost::Malformed)?
        }
        (None, Some(header)) => header.clone(),
        (None, None) if parts.version <= Version::HTTP_10 => return Ok(None),
        (None, None) => return Err(bad("host is missing")),
    };
    Ok(Some(WrittenHost::parse(written)?))
}

/// A method may have any target in origin form, or one in absolute form with a scheme that is served here; `*` is for
/// OPTIONS, and an authority alone for CONNECT (RFC 9112 section 3.2, RFC 9113 section 8.3.1).
fn check_target(parts: &Parts) -> Result<(), BadRequest> {
    let uri = &parts.uri;
    if uri.authority().is_some() {
        let scheme = uri.scheme();
        if scheme != Some(&Scheme::HTTP) && scheme != Some(&Scheme::HTTPS) {
            return Err(bad("request target is neither http nor https"));
        }
    }
    let begins = uri.path_and_query().map(|path| path.as_str().as_bytes());
    match begins {
        Some([b'/' | b'?', ..]) => Ok(()),
        Some(b"*") if parts.method == Method::OPTIONS => Ok(()),
        _ => Err(bad("request target is malformed")),
    }
}

/// A WebSocket's `CONNECT` is no longer one when it comes here ([`websocket`](super::websocket)). The status of an unknown
/// protocol: RFC 9220 section 3.
fn connect_refused(parts: &Parts) -> BadRequest {
    match parts.extensions.get::<OtherProtocol>() {
        Some(OtherProtocol) => BadRequest::new(
            StatusCode::NOT_IMPLEMENTED,
            "no protocol but websocket is served on a stream",
        ),
        None => BadRequest::new(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not served here"),
    }
}

fn bad(reason: &'static str) -> BadRequest {
    BadRequest::new(StatusCode::BAD_REQUEST, reason)
}

fn check_size(parts: &Parts, limits: &Limits) -> Result<(), BadRequest> {
    let scheme = parts
        .uri
        .scheme_str()
        .map_or(0, |scheme| scheme.len() + "://".len());
    let authority = parts
        .uri
        .authority()
        .map_or(0, |authority| authority.as_str().len());
    let path = parts
        .uri
        .path_and_query()
        .map_or(0, |path| path.as_str().len());
    if parts.method.as_str().len() > METHOD_BYTES {
        return Err(bad("method is too long"));
    }
    if scheme + authority + path > limits.uri_bytes {
        return Err(BadRequest::new(
            StatusCode::URI_TOO_LONG,
            "request target is too long",
        ));
    }
    let too_large = |reason| {
        Err(BadRequest::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            reason,
        ))
    };
    if parts.headers.len() > limits.fields {
        return too_large("too many header fields");
    }
    let line = |name: &str, value: &[u8]| name.len() + ": ".len() + value.len() + "\r\n".len();
    let bytes: usize = parts
        .headers
        .iter()
        .map(|(name, value)| line(name.as_str(), value.as_bytes()))
        .sum();
    if bytes > limits.header_bytes {
        return too_large("header fields are too large");
    }
    Ok(())
}

/// RFC 9112 section 6.3 and RFC 9113 section 8.2.2, without the repairs they allow.
fn check_framing(headers: &HeaderMap, version: Version) -> Result<(), BadRequest> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let (coding, length) = (codings.next(), lengths.next());
    if lengths.next().is_some() {
        return Err(bad("several content-length fields"));
    }
    if length.is_some_and(|length| !is_length(length.as_bytes())) {
        return Err(bad("content-length is not a number"));
    }
    let Some(coding) = coding else {
        return Ok(());
    };
    if version <= Version::HTTP_10 {
        return Err(bad("transfer-encoding in HTTP/1.0"));
    }
    if length.is_some() {
        return Err(bad("both content-length and transfer-encoding"));
    }
    if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err(bad("transfer-encoding other than chunked"));
    }
    Ok(())
}

/// At most 19 digits, so that every program can count that far.
fn is_length(value: &[u8]) -> bool {
    (1..=19).contains(&value.len()) && value.iter().all(u8::is_ascii_digit)
}

fn check_http2_fields(headers: &HeaderMap, present: Present) -> Result<(), BadRequest> {
    if present.has(Present::CONNECTION_SPECIFIC) {
        return Err(bad("connection-specific header field in HTTP/2"));
    }
    if !present.has(Present::TE) {
        return Ok(());
    }
    if headers
        .get_all(TE)
        .iter()
        .any(|value| !value.as_bytes().eq_ignore_ascii_case(b"trailers"))
    {
        return Err(bad("te other than trailers in HTTP/2"));
    }
    Ok(())
}

/// An upgrade begins when the request has ended (RFC 9110 section 7.8); with a body, peers disagree about when that is.
///
/// Requests for `h2c` are not upgrades to us and may have one: Java's client sends such.
fn check_upgrade(headers: &HeaderMap, version: Version) -> Result<(), BadRequest> {
    let has_body = headers.contains_key(TRANSFER_ENCODING)
        || headers
            .get(CONTENT_LENGTH)
            .is_some_and(|length| length.as_bytes().iter().any(|digit| *digit != b'0'));
    if has_body && requested_upgrade(headers, version).is_some() {
        return Err(bad("upgrade request with a body"));
    }
    Ok(())
}

fn single_host(headers: &HeaderMap) -> Result<Option<&HeaderValue>, BadRequest> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(bad("several host header fields"));
    }
    Ok(host)
}

/// Whether both name one host. A port given only once does not contradict.
fn check_same_host(authority: &str, header: &HeaderValue) -> Result<(), BadRequest> {
    let header = header
        .to_str()
        .map_err(|_not_text| InvalidHost::Malformed)?;
    let (_, port) = split_port(authority)?;
    let (_, header_port) = split_port(header)?;
    let ports_agree = port.is_none() || header_port.is_none() || port == header_port;
    if Host::parse(authority)? == Host::parse(header)? && ports_agree {
        Ok(())
    } else {
        Err(bad("host header and authority disagree"))
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue, Request};
    use proptest::prelude::*;

    use super::super::headers::{Arrival, EntranceKind, Scheme, admit};
    use super::super::probe::probe_answer;
    use super::super::rules::Visibility;

    use super::*;

    fn request(version: Version, uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut builder = Request::builder().version(version).uri(uri);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn http1(fields: &[(&str, &str)]) -> Result<(), (u16, &'static str)> {
        let fields: Vec<_> = [("host", "shop")].iter().chain(fields).copied().collect();
        check(&request(Version::HTTP_11, "/", &fields))
    }

    fn check(parts: &Parts) -> Result<(), (u16, &'static str)> {
        let checked = validate(parts, &Limits::default()).map(|_checked| ());
        checked.map_err(|bad| (bad.status().as_u16(), bad.reason()))
    }

    #[test]
    fn ordinary_requests_pass() {
        assert_eq!(http1(&[]), Ok(()));
        assert_eq!(http1(&[("content-length", "5")]), Ok(()));
        assert_eq!(http1(&[("transfer-encoding", "Chunked")]), Ok(()));
        assert_eq!(
            http1(&[
                ("connection", "upgrade"),
                ("upgrade", "websocket"),
                ("content-length", "0")
            ]),
            Ok(())
        );
        assert_eq!(
            check(&request(
                Version::HTTP_2,
                "http://shop/",
                &[("te", "trailers")]
            )),
            Ok(())
        );
        assert_eq!(check(&request(Version::HTTP_10, "/", &[])), Ok(()));
    }

    #[test]
    fn connect_is_not_allowed() {
        let mut parts = request(Version::HTTP_11, "shop:80", &[("host", "shop:80")]);
        parts.method = Method::CONNECT;
        assert_eq!(check(&parts), Err((405, "CONNECT is not served here")));
    }

    #[test]
    fn http_1_1_names_its_host_exactly_once() {
        assert_eq!(
            check(&request(Version::HTTP_11, "/", &[])),
            Err((400, "host is missing"))
        );
        assert_eq!(
            check(&request(Version::HTTP_11, "http://shop/", &[])),
            Err((400, "host header is missing"))
        );
        assert_eq!(
            http1(&[("host", "shop")]),
            Err((400, "several host header fields"))
        );
    }

    #[test]
    fn hosts_that_contradict_each_other_are_refused() {
        let disagree = Err((400, "host header and authority disagree"));
        for version in [Version::HTTP_11, Version::HTTP_2] {
            assert_eq!(
                check(&request(version, "http://shop/", &[("host", "admin")])),
                disagree
            );
            assert_eq!(
                check(&request(version, "http://shop:80/", &[("host", "shop:81")])),
                disagree
            );
            assert_eq!(
                check(&request(version, "http://SHOP:80/", &[("host", "shop.")])),
                Ok(())
            );
        }
    }

    #[test]
    fn malformed_hosts_are_refused() {
        for host in ["", "a b", "a/b", "user@shop", "shop:x", "a..b", "caf\u{e9}"] {
            let refused = check(&request(Version::HTTP_11, "/", &[("host", host)]));
            assert_eq!(refused.unwrap_err().0, 400, "{host}");
        }
        let with_user = request(Version::HTTP_2, "http://user@shop/", &[]);
        assert_eq!(check(&with_user), Err((400, "host has user information")));
    }

    #[test]
    fn doubtful_lengths_are_refused() {
        assert_eq!(
            http1(&[("content-length", "5"), ("content-length", "5")]),
            Err((400, "several content-length fields"))
        );
        for length in ["5, 5", "+5", "-1", "", "0x5", "5 ", "99999999999999999999"] {
            assert_eq!(
                http1(&[("content-length", length)]),
                Err((400, "content-length is not a number")),
                "{length}"
            );
        }
        assert_eq!(
            http1(&[("content-length", "5"), ("transfer-encoding", "chunked")]),
            Err((400, "both content-length and transfer-encoding")),
        );
    }

    #[test]
    fn transfer_encodings_other_than_chunked_are_refused() {
        let refused = Err((400, "transfer-encoding other than chunked"));
        for coding in [
            "identity",
            "identity, chunked",
            "gzip, chunked",
            "chunked, chunked",
            "xchunked",
            "chunked;a=b",
            "",
        ] {
            assert_eq!(http1(&[("transfer-encoding", coding)]), refused, "{coding}");
        }
        assert_eq!(
            http1(&[
                ("transfer-encoding", "chunked"),
                ("transfer-encoding", "chunked")
            ]),
            refused
        );
        let old = request(
            Version::HTTP_10,
            "/",
            &[("host", "shop"), ("transfer-encoding", "chunked")],
        );
        assert_eq!(check(&old), Err((400, "transfer-encoding in HTTP/1.0")));
    }

    #[test]
    fn connection_headers_in_http_2_are_refused() {
        let refused = Err((400, "connection-specific header field in HTTP/2"));
        for field in [
            "connection",
            "keep-alive",
            "proxy-connection",
            "transfer-encoding",
            "upgrade",
        ] {
            assert_eq!(
                check(&request(Version::HTTP_2, "http://shop/", &[(field, "x")])),
                refused,
                "{field}"
            );
        }
        let te = request(Version::HTTP_2, "http://shop/", &[("te", "gzip")]);
        assert_eq!(check(&te), Err((400, "te other than trailers in HTTP/2")));
    }

    #[test]
    fn upgrade_with_a_body_is_refused_unless_the_upgrade_is_ignored_anyway() {
        let upgrade = [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("content-length", "5"),
        ];
        assert_eq!(http1(&upgrade), Err((400, "upgrade request with a body")));
        let chunked = [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("transfer-encoding", "chunked"),
        ];
        assert_eq!(http1(&chunked), Err((400, "upgrade request with a body")));
        let h2c = [
            ("connection", "upgrade, http2-settings"),
            ("upgrade", "h2c"),
            ("http2-settings", ""),
            ("content-length", "5"),
        ];
        assert_eq!(http1(&h2c), Ok(()));
    }

    #[test]
    fn heads_up_to_the_limits_pass_and_larger_ones_are_named_precisely() {
        let limits = Limits {
            uri_bytes: 10,
            header_bytes: 40,
            fields: 3,
        };
        let status = |uri, fields: &[(&str, &str)]| {
            let fields: Vec<_> = [("host", "shop")].iter().chain(fields).copied().collect();
            validate(&request(Version::HTTP_11, uri, &fields), &limits)
                .map(|_checked| ())
                .map_err(|bad| bad.status().as_u16())
        };
        assert_eq!(status("/345678?10", &[]), Ok(()));
        assert_eq!(status("/345678?101", &[]), Err(414));
        assert_eq!(status("/", &[("cookie", "a"), ("cookie", "b")]), Ok(()));
        assert_eq!(
            status("/", &[("cookie", "a"), ("cookie", "b"), ("cookie", "c")]),
            Err(431)
        );
        // host: 4 + 4 + 4 bytes; x: 1 + 23 + 4 bytes
        assert_eq!(status("/", &[("x", "12345678901234567890123")]), Ok(()));
        assert_eq!(status("/", &[("x", "123456789012345678901234")]), Err(431));
    }

    fn any_field() -> impl Strategy<Value = (HeaderName, HeaderValue)> {
        const NAMES: [&str; 14] = [
            "host",
            "connection",
            "upgrade",
            "te",
            "transfer-encoding",
            "content-length",
            "forwarded",
            "x-forwarded-for",
            "x-forwarded-proto",
            "k-network-probe",
            "k-network-hash",
            "k-original-host",
            "cookie",
            "x",
        ];
        let value = prop::collection::vec(any::<u8>(), 0..24)
            .prop_filter_map("no header value", |bytes| {
                HeaderValue::from_bytes(&bytes).ok()
            });
        (prop::sample::select(&NAMES), value)
            .prop_map(|(name, value)| (HeaderName::from_static(name), value))
    }

    proptest! {
        #[test]
        fn no_head_makes_us_panic(
            fields in prop::collection::vec(any_field(), 0..10),
            version in prop::sample::select(vec![Version::HTTP_10, Version::HTTP_11, Version::HTTP_2]),
            entrance in prop::sample::select(vec![Visibility::ExternalIp, Visibility::ClusterLocal]),
            trusted_hops in 0_usize..3,
        ) {
            let mut parts = request(version, "/", &[]);
            for (name, value) in fields {
                parts.headers.append(name, value);
            }
            let passes = check(&parts).is_ok();
            let answer = probe_answer(&parts.headers, "3f2a");
            prop_assert!(answer.is_none_or(|answer| [200, 400].contains(&answer.status.as_u16())));
            admit(&mut parts, &Arrival { entrance: EntranceKind::Gateway(entrance), peer: [192, 0, 2, 1].into(), scheme: Scheme::Http, trusted_hops });
            prop_assert!(!passes || host_of(&parts).is_ok());
        }
    }
}
