//! Plain requests that are to come again by TLS.
//!
//! Source: knative/networking `pkg/apis/networking/v1alpha1/ingress_types.go`, `HTTPOptionRedirected`. As Kourier does, at
//! the external entrance only, with 301; unlike it, what proves to a certificate authority who owns the host is answered
//! as it was asked (RFC 8555 section 8.3: a validation begins by plain HTTP, and its certificate may not be there yet).

use std::num::NonZeroU16;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::host::Host;

/// The port that `https` means (RFC 9110 section 4.2.2).
const HTTPS: u16 = 443;

/// Where certificate authorities look for proofs of ownership.
const CHALLENGES: &str = "/.well-known/acme-challenge/";

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Where a request is sent that came by plain HTTP; `None` when it is served as it is.
///
/// `headers` are those that the entrance let pass: `X-Forwarded-Proto` is ours, or that of a proxy we trust, before which
/// the request may have come by TLS. `port` is where TLS is served.
pub fn redirect(
    host: &Host<'_>,
    uri: &Uri,
    headers: &HeaderMap,
    port: NonZeroU16,
) -> Option<HeaderValue> {
    let came_by_tls = headers
        .get(FORWARDED_PROTO)
        .is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"));
    if came_by_tls || uri.path().starts_with(CHALLENGES) || *host == Host::NONE {
        return None;
    }
    let target = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let slash = if target.starts_with('/') { "" } else { "/" };
    let location = match port.get() {
        HTTPS => format!("https://{host}{slash}{target}"),
        port => format!("https://{host}:{port}{slash}{target}"),
    };
    HeaderValue::try_from(location).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent_to(host: &str, uri: &str, proto: &'static str, port: u16) -> Option<String> {
        let host = Host::parse(host).unwrap();
        let headers = [(FORWARDED_PROTO, HeaderValue::from_static(proto))];
        let location = redirect(
            &host,
            &uri.parse().unwrap(),
            &headers.into_iter().collect(),
            NonZeroU16::new(port).unwrap(),
        )?;
        Some(location.to_str().unwrap().to_owned())
    }

    #[test]
    fn host_path_and_query_stay_and_the_port_is_that_of_tls() {
        let to = |host, uri, port| sent_to(host, uri, "http", port).unwrap();
        assert_eq!(
            to("shop.example.com:80", "/a?b=c", 443),
            "https://shop.example.com/a?b=c"
        );
        assert_eq!(
            to("shop.example.com", "/", 8443),
            "https://shop.example.com:8443/"
        );
        assert_eq!(
            to("Shop.Example.com.", "http://x?b", 443),
            "https://shop.example.com/?b"
        );
        assert_eq!(to("[::1]:8080", "/x", 443), "https://[::1]/x");
    }

    #[test]
    fn who_came_by_tls_to_a_trusted_proxy_goes_on() {
        assert_eq!(sent_to("shop.example.com", "/", "https", 443), None);
    }

    #[test]
    fn proofs_of_ownership_are_answered_as_asked() {
        let challenge = "/.well-known/acme-challenge/token";
        assert_eq!(sent_to("shop.example.com", challenge, "http", 443), None);
        assert!(sent_to("shop.example.com", "/.well-known/other", "http", 443).is_some());
    }
}
