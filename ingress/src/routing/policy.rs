//! What a route asks for beyond where its requests go: retries, timeouts, and who may not wake a Revision.
//!
//! A KIngress has at most one policy, made from its annotations; most have none, and their requests pay a look at an
//! empty option.

use std::time::Duration;

use http::header::USER_AGENT;
use http::request::Parts;
use serde::Serialize;

use super::retry::{GRPC_CODES, RetryPolicy};
use super::timeout::{NEVER, RouteTimeouts};
use super::tls::ClientCertificate;
use super::waiting_page::WaitingPage;

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
    /// What a browser is shown that waits for a start.
    pub waiting_page: Option<WaitingPage>,
}

/// Something that a route asks for, as a person would write it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Term {
    /// The annotation's name, without its group.
    pub name: &'static str,
    /// Its value, or what holds when it is not given but another is.
    pub value: String,
}

impl RoutePolicy {
    /// All that is asked for.
    pub fn terms(&self) -> Vec<Term> {
        let mut terms = Vec::new();
        let mut say = |name, value: String| {
            if !value.is_empty() {
                terms.push(Term { name, value });
            }
        };
        if let Some(retry) = &self.retry {
            say("retry-on", causes(retry));
            say("retry-attempts", retry.attempts.to_string());
            say("retry-methods", list(retry.methods.iter()));
            say("retry-backoff", format!("{:?}", retry.backoff));
            say("retry-backoff-max", format!("{:?}", retry.longest_backoff));
            let limit = retry.try_timeout;
            say("timeout-try", limit.map(written).unwrap_or_default());
        }
        let of = &self.timeouts;
        for (name, limit) in [
            ("timeout-parked", of.parked),
            ("timeout-connect", of.connect),
            ("timeout-first-byte", of.first_byte),
            ("timeout-idle", of.idle),
            ("timeout-total", of.total),
        ] {
            say(name, limit.map(written).unwrap_or_default());
        }
        if let Some(page) = &self.waiting_page {
            say("waiting-page", format!("{:?}", page.patience));
            say("waiting-page-refresh", format!("{:?}", page.refresh));
        }
        say("no-wake-paths", list(self.no_wake.paths.iter()));
        say("no-wake-agents", list(self.no_wake.agents.iter()));
        let wanted = self.client_certificate.map(ClientCertificate::as_str);
        say("client-certificate", wanted.unwrap_or_default().to_owned());
        terms
    }
}

/// The answers that are retried.
fn causes(retry: &RetryPolicy) -> String {
    let statuses = retry.statuses.iter().map(|status| status.as_str());
    let is_named = |code: u32| retry.grpc_codes & (1 << code) != 0;
    let codes = GRPC_CODES.iter().filter(|(_, code)| is_named(*code));
    list(statuses.chain(codes.map(|(name, _)| *name)))
}

fn list(parts: impl Iterator<Item = impl ToString>) -> String {
    let parts: Vec<_> = parts.map(|part| part.to_string()).collect();
    parts.join(",")
}

fn written(limit: Duration) -> String {
    match limit {
        NEVER => "off".to_owned(),
        limit => format!("{limit:?}"),
    }
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
    use http::{Method, Request, StatusCode};

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
    fn a_policy_is_told_by_the_names_of_its_annotations() {
        assert_eq!(RoutePolicy::default().terms(), []);
        let policy = RoutePolicy {
            retry: Some(RetryPolicy {
                statuses: [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE].into(),
                grpc_codes: 1 << 14,
                methods: [Method::POST].into(),
                try_timeout: Some(Duration::from_secs(2)),
                ..RetryPolicy::default()
            }),
            timeouts: RouteTimeouts {
                idle: Some(Duration::from_millis(1500)),
                total: Some(NEVER),
                ..RouteTimeouts::default()
            },
            no_wake: no_wake(),
            waiting_page: Some(WaitingPage {
                patience: Duration::from_millis(500),
                refresh: super::super::waiting_page::REFRESH,
                template: None,
            }),
            redirects: true,
            client_certificate: Some(ClientCertificate::Required),
        };
        let told: Vec<_> = { policy.terms().into_iter() }
            .map(|term| format!("{}={}", term.name, term.value))
            .collect();
        let expected = [
            "retry-on=502,503,unavailable",
            "retry-attempts=3",
            "retry-methods=POST",
            "retry-backoff=25ms",
            "retry-backoff-max=1s",
            "timeout-try=2s",
            "timeout-idle=1.5s",
            "timeout-total=off",
            "waiting-page=500ms",
            "waiting-page-refresh=2s",
            "no-wake-paths=/healthz,/robots.txt",
            "no-wake-agents=googlebot,uptime",
            "client-certificate=required",
        ];
        assert_eq!(told, expected);
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
