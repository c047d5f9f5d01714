//! Who may use the admin entrance, and what a browser may do with what it gets there.
//!
//! A browser runs the pages of strangers beside ours. One of them may have a name of its own resolve to our address and
//! then counts as the same origin (DNS rebinding), so the `Host` must be one that no stranger can own: an address,
//! `localhost`, or a name that the operator gave. Requests that a browser says come from another site are refused
//! (<https://www.w3.org/TR/fetch-metadata/>), except for following a link to the page.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};

/// What a client of the admin entrance must bring.
#[derive(Clone, Default)]
pub struct Guard {
    /// The digest of the token, so that comparing takes as long whatever is sent.
    token: Option<[u8; 32]>,
    hosts: Arc<[String]>,
}

impl Guard {
    /// The token, if one is needed, and names besides `localhost` and addresses by which the entrance is reached.
    pub fn new(token: Option<&str>, hosts: &[String]) -> Self {
        Self {
            token: token.map(digest),
            hosts: hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
        }
    }

    /// Whether a token is needed.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    fn check(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        match headers.get(header::HOST).map(HeaderValue::to_str) {
            None => {} // HTTP/1.0 may leave it out; browsers do not.
            Some(Ok(host)) if self.knows(host) => {}
            Some(_) => return Err(Refused::Host),
        }
        let is_ours = matches!(text("sec-fetch-site"), None | Some("same-origin" | "none"));
        let is_link = text("sec-fetch-mode") == Some("navigate")
            && text("sec-fetch-dest") == Some("document");
        if !is_ours && !is_link {
            return Err(Refused::Site);
        }
        let given = text("authorization").and_then(credentials);
        match &self.token {
            Some(token) if given.is_none_or(|given| digest(&given) != *token) => {
                Err(Refused::Token)
            }
            _ => Ok(()),
        }
    }

    fn knows(&self, host: &str) -> bool {
        let name = without_port(host).to_ascii_lowercase();
        name.parse::<IpAddr>().is_ok()
            || name == "localhost"
            || name.ends_with(".localhost")
            || self.hosts.contains(&name)
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("has_token", &self.has_token())
            .field("hosts", &self.hosts)
            .finish()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    Host,
    Site,
    Token,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Host => (
                StatusCode::FORBIDDEN,
                "this name is not known to be the admin entrance's: use its address, or allow the name with --admin-host\n",
            )
                .into_response(),
            Self::Site => (
                StatusCode::FORBIDDEN,
                "the admin entrance answers no requests of other sites\n",
            )
                .into_response(),
            // A browser asks its user for a name, which does not matter, and a password, which is the token.
            Self::Token => (
                StatusCode::UNAUTHORIZED,
                [(header::WWW_AUTHENTICATE, "Basic realm=\"Parkway\", charset=\"UTF-8\"")],
                "the admin entrance needs its token (--admin-token-file), as `Authorization: Bearer` or as the password\n",
            )
                .into_response(),
        }
    }
}

/// Lets through what may pass, and tells browsers what they may do with the answer.
pub(super) async fn stand(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let mut answer = match guard.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    };
    for (name, value) in HEADERS {
        answer
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// Nothing from elsewhere, nothing inline, no frames, nothing kept.
const HEADERS: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cache-control", "no-store"),
];

/// The token of `Bearer TOKEN`, or the password of `Basic …` (RFC 6750, RFC 7617).
fn credentials(written: &str) -> Option<String> {
    let (scheme, rest) = written.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(base64(rest)?).ok()?;
    pair.split_once(':')
        .map(|(_, password)| password.to_owned())
}

/// RFC 4648, section 4; padding may be left out.
fn base64(written: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(written.len() / 4 * 3 + 2);
    let (mut bits, mut held) = (0_u32, 0_u32);
    for symbol in written.trim_end_matches('=').bytes() {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from((bits >> held) & 0xff).ok()?);
        }
    }
    Some(bytes)
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// The host of `host:port` and `[::1]:port`.
fn without_port(host: &str) -> &str {
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let lines = lines
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        lines.collect()
    }

    fn check(guard: &Guard, lines: &[(&'static str, &str)]) -> Result<(), Refused> {
        guard.check(&headers(lines))
    }

    #[test]
    fn a_name_that_a_stranger_may_own_is_no_host_of_ours() {
        let guard = Guard::new(None, &["Parkway.internal".to_owned()]);
        for host in [
            "127.0.0.1:9090",
            "[::1]:9090",
            "localhost:9090",
            "LOCALHOST",
            "admin.localhost:1",
            "parkway.internal:9090",
        ] {
            assert_eq!(check(&guard, &[("host", host)]), Ok(()), "{host}");
        }
        for host in [
            "evil.example:9090",
            "localhost.evil.example",
            "127.0.0.1.evil.example:9090",
            "",
        ] {
            assert_eq!(
                check(&guard, &[("host", host)]),
                Err(Refused::Host),
                "{host}"
            );
        }
    }

    #[test]
    fn other_sites_may_link_to_the_page_and_nothing_else() {
        let guard = Guard::default();
        let from = |site, mode, dest| {
            check(
                &guard,
                &[
                    ("host", "localhost"),
                    ("sec-fetch-site", site),
                    ("sec-fetch-mode", mode),
                    ("sec-fetch-dest", dest),
                ],
            )
        };
        assert_eq!(from("same-origin", "cors", "empty"), Ok(()));
        assert_eq!(from("none", "navigate", "document"), Ok(()));
        assert_eq!(from("cross-site", "navigate", "document"), Ok(()));
        assert_eq!(from("cross-site", "navigate", "iframe"), Err(Refused::Site));
        assert_eq!(from("same-site", "no-cors", "empty"), Err(Refused::Site));
    }

    #[test]
    fn the_token_is_taken_as_a_bearer_s_or_as_a_password() {
        let guard = Guard::new(Some("s3cret:with colon"), &[]);
        let with = |value| check(&guard, &[("host", "localhost"), ("authorization", value)]);
        assert_eq!(with("Bearer s3cret:with colon"), Ok(()));
        // anyone:s3cret:with colon
        assert_eq!(with("Basic YW55b25lOnMzY3JldDp3aXRoIGNvbG9u"), Ok(()));
        for wrong in [
            "",
            "Bearer",
            "Bearer s3cret",
            "Basic !!!",
            "Basic YW55b25l",
            "Digest s3cret:with colon",
        ] {
            assert_eq!(with(wrong), Err(Refused::Token), "{wrong}");
        }
        assert_eq!(check(&guard, &[("host", "localhost")]), Err(Refused::Token));
    }

    #[test]
    fn the_token_is_not_shown() {
        let shown = format!("{:?}", Guard::new(Some("s3cret"), &[]));
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
