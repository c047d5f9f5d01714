//! What a route asks for beyond where its requests go: retries, timeouts, and who may not wake a Revision.
//!
//! A KIngress has at most one policy, made from its annotations; most have none, and their requests pay a look at an
//! empty option.

use http::header::USER_AGENT;
use http::request::Parts;

use super::retry::RetryPolicy;
use super::timeout::RouteTimeouts;
use super::tls::ClientCertificate;

/// What a route asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutePolicy {
    /// Retries besides those that are always right.
    pub retry: Option<RetryPolicy>,
    /// Timeouts in place of the Revision's.
    pub timeouts: RouteTimeouts,
    /// Requests that wake nobody.
    pub no_wake: NoWake,
    /// Plain requests at the external entrance are sent to TLS, where it is served ([`redirect`](super::redirect)).
    pub redirects: bool,
    /// Clients at the external entrance show certificates, by TLS. It is not enough that a handshake would ask for them:
    /// what comes plainly, or by a connection that was not asked, is turned away here.
    pub client_certificate: Option<ClientCertificate>,
}

/// Requests that are served while the Revision is up, and do not wake it: health checks, robots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoWake {
    /// Literal prefixes of request paths, like those of a KIngress.
    pub paths: Box<[Box<str>]>,
    /// What the `User-Agent` contains, in lower case.
    pub agents: Box<[Box<str>]>,
}

/// Of each kind a route may name so many.
pub const MOST_NO_WAKE: usize = 32;

/// So many bytes of a `User-Agent` are looked at.
const AGENT_BYTES: usize = 512;

impl NoWake {
    /// Whether this request is not to wake anybody.
    pub fn covers(&self, head: &Parts) -> bool {
        let path = head.uri.path();
        self.paths.iter().any(|prefix| path.starts_with(&**prefix)) || self.covers_agent(head)
    }

    fn covers_agent(&self, head: &Parts) -> bool {
        if self.agents.is_empty() {
            return false;
        }
        let Some(agent) = head.headers.get(USER_AGENT) else {
            return false;
        };
        let agent = agent.as_bytes();
        let agent = agent.get(..AGENT_BYTES).unwrap_or(agent);
        self.agents
            .iter()
            .any(|name| contains(agent, name.as_bytes()))
    }
}

/// Whether `text` contains `part`, whatever the case of its letters.
fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len().max(1))
        .any(|piece| piece.eq_ignore_ascii_case(part))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn no_wake() -> NoWake {
        NoWake {
            paths: ["/healthz".into(), "/robots.txt".into()].into(),
            agents: ["googlebot".into(), "uptime".into()].into(),
        }
    }

    fn covers(path: &str, agent: Option<&str>) -> bool {
        let request = Request::get(path);
        let request = match agent {
            Some(agent) => request.header(USER_AGENT, agent),
            None => request,
        };
        no_wake().covers(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn requests_are_told_by_the_beginning_of_their_path() {
        assert!(covers("/healthz", None));
        assert!(covers("/healthz/deep?x=1", None));
        assert!(covers("http://shop.example.com/robots.txt", None));
        assert!(!covers("/", None));
        assert!(!covers("/x/healthz", None));
    }

    #[test]
    fn requests_are_told_by_a_part_of_their_user_agent() {
        assert!(covers("/", Some("Mozilla/5.0 (compatible; GoogleBot/2.1)")));
        assert!(covers("/", Some("UPTIME")));
        assert!(!covers("/", Some("Mozilla/5.0")));
        assert!(!covers("/", Some("")));
        assert!(!covers(
            "/",
            Some(&format!("{}uptime", "x".repeat(AGENT_BYTES)))
        ));
    }
}
