//! `parkway.dev/…`: what a KIngress may ask for by annotation.
//!
//! In a cluster they stand on a Knative Service (or Route, or DomainMapping), and Knative copies them to the KIngress it makes
//! (knative/serving `pkg/reconciler/route/resources/ingress.go`); the same is done here for Services in files. One table says
//! which there are, `ALL`; `deploy/docs/annotations.md` tells people.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{Method, StatusCode};

use super::names::go_duration;
use super::object::Labels;
use super::problem::{Origin, Problem, did_you_mean};
use crate::routing::policy::{MOST_NO_WAKE, NoWake, RoutePolicy};
use crate::routing::retry::{GRPC_CODES, MOST_ATTEMPTS, RetryPolicy};
use crate::routing::timeout::NEVER;
use crate::routing::tls::ClientCertificate;
use crate::routing::waiting_page::{REFRESH, Template, WaitingPage};

/// What the names of our annotations begin with.
pub const GROUP: &str = "parkway.dev/";

/// An annotation: its name without [`GROUP`], and how its value is read into a policy.
struct Known {
    name: &'static str,
    read: fn(&str, &mut Draft) -> Result<(), Wrong>,
}

/// Every annotation.
const ALL: [Known; 17] = [
    known("retry-on", retry_on),
    known("retry-attempts", retry_attempts),
    known("retry-methods", retry_methods),
    known("retry-backoff", |value, draft| {
        draft.retry().backoff = duration(value, SHORTEST, LONGEST_PAUSE)?;
        Ok(())
    }),
    known("retry-backoff-max", |value, draft| {
        draft.retry().longest_backoff = duration(value, SHORTEST, LONGEST_PAUSE)?;
        Ok(())
    }),
    known("timeout-parked", |value, draft| {
        draft.policy.timeouts.parked = Some(timeout(value)?);
        Ok(())
    }),
    known("timeout-connect", |value, draft| {
        draft.policy.timeouts.connect = Some(duration(value, SHORTEST, LONGEST_CONNECT)?);
        Ok(())
    }),
    known("timeout-try", |value, draft| {
        draft.retry().try_timeout = Some(duration(value, SHORTEST, LONGEST)?);
        draft.has_cause = true;
        Ok(())
    }),
    known("timeout-first-byte", |value, draft| {
        draft.policy.timeouts.first_byte = Some(timeout(value)?);
        Ok(())
    }),
    known("timeout-idle", |value, draft| {
        draft.policy.timeouts.idle = Some(timeout(value)?);
        Ok(())
    }),
    known("timeout-total", |value, draft| {
        draft.policy.timeouts.total = Some(timeout(value)?);
        Ok(())
    }),
    known("no-wake-paths", no_wake_paths),
    known("no-wake-agents", no_wake_agents),
    known("client-certificate", client_certificate),
    known("waiting-page", |value, draft| {
        draft.patience = Some(duration(value, SHORTEST, LONGEST_PAUSE)?);
        Ok(())
    }),
    known("waiting-page-refresh", |value, draft| {
        let refresh = duration(value, Duration::from_secs(1), LONGEST_PAUSE)?;
        if refresh.subsec_nanos() > 0 {
            return Err(wrong(
                "this is not in whole seconds",
                "write one such as 2s",
            ));
        }
        draft.refresh = Some(refresh);
        Ok(())
    }),
    known("waiting-page-template", |value, draft| {
        let template = Template::parse(value);
        let remedy = "write HTML; {{service}}, {{stage}}, {{elapsed}}, {{estimate}}, {{percent}} and {{refresh}} are filled in";
        draft.template = Some(template.map_err(|error| wrong(error.to_string(), remedy))?);
        Ok(())
    }),
];

const fn known(name: &'static str, read: fn(&str, &mut Draft) -> Result<(), Wrong>) -> Known {
    Known { name, read }
}

/// The names of all annotations, with their group.
pub fn names() -> impl Iterator<Item = String> {
    ALL.iter().map(|known| format!("{GROUP}{}", known.name))
}

const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The process's own bound: a route can only shorten it.
const LONGEST_CONNECT: Duration = Duration::from_secs(5);
/// How long a path, or a part of a `User-Agent`, may be.
const LONGEST_PIECE: usize = 256;

/// A policy that is being read.
#[derive(Default)]
struct Draft {
    policy: RoutePolicy,
    /// Something says when to retry.
    has_cause: bool,
    patience: Option<Duration>,
    refresh: Option<Duration>,
    template: Option<Template>,
}

impl Draft {
    fn retry(&mut self) -> &mut RetryPolicy {
        self.policy.retry.get_or_insert_default()
    }
}

/// What is wrong with a value, and what to write instead.
struct Wrong {
    message: String,
    remedy: String,
}

fn wrong(message: impl Into<String>, remedy: impl Into<String>) -> Wrong {
    Wrong {
        message: message.into(),
        remedy: remedy.into(),
    }
}

/// Reads what the annotations of a KIngress ask for; nothing when they ask for nothing.
///
/// What cannot be read is left out and reported as an error.
pub(crate) fn policy(annotations: &Labels, origin: &Origin) -> (Option<RoutePolicy>, Vec<Problem>) {
    let mut draft = Draft::default();
    let mut problems = Vec::new();
    let mut has_any = false;
    for (key, value) in annotations.iter() {
        let Some(name) = key.strip_prefix(GROUP) else {
            continue;
        };
        has_any = true;
        let read = match ALL.iter().find(|known| known.name == name) {
            Some(known) => (known.read)(value.trim(), &mut draft),
            None => Err(unknown(key, name)),
        };
        if let Err(Wrong { message, remedy }) = read {
            let problem = origin.problem(field(key), message).remedy(remedy);
            problems.push(match problem.value.is_empty() {
                true => problem.value(value), // it stands in no file
                false => problem,
            });
        }
    }
    if !has_any {
        return (None, problems);
    }
    problems.extend(contradictions(&mut draft, annotations, origin));
    problems.extend(waiting_page(&mut draft, annotations, origin));
    let policy = draft.policy;
    let is_empty = policy == RoutePolicy::default();
    ((!is_empty).then_some(policy), problems)
}

/// Puts the page together; without a patience there is none.
fn waiting_page(draft: &mut Draft, annotations: &Labels, origin: &Origin) -> Option<Problem> {
    let (refresh, template) = (draft.refresh.take(), draft.template.take());
    if let Some(patience) = draft.patience {
        draft.policy.waiting_page = Some(WaitingPage {
            patience,
            refresh: refresh.unwrap_or(REFRESH),
            template,
        });
        return None;
    }
    let said = annotations.keys().find(|key| key.starts_with(WAITING_PAGE));
    let key = said.filter(|_| refresh.is_some() || template.is_some())?;
    let problem = origin.problem(field(key), "nothing says when the page is shown");
    Some(
        problem
            .warning()
            .remedy(format!("add {GROUP}waiting-page, such as 2s")),
    )
}

const WAITING_PAGE: &str = "parkway.dev/waiting-page-";

/// Where an annotation stands in its object.
fn field(key: &str) -> String {
    format!("metadata.annotations[\"{key}\"]")
}

fn unknown(key: &str, name: &str) -> Wrong {
    let known = ALL.iter().map(|known| known.name);
    let remedy = match did_you_mean(name, known.clone()) {
        Some(meant) => format!("did you mean {GROUP}{meant}?"),
        None => format!("known are {}", known.collect::<Vec<_>>().join(", ")),
    };
    wrong(format!("there is no annotation {key}"), remedy)
}

/// What cannot be true together.
fn contradictions(draft: &mut Draft, annotations: &Labels, origin: &Origin) -> Vec<Problem> {
    let mut problems = Vec::new();
    let has_cause = draft.has_cause;
    if let Some(retry) = &mut draft.policy.retry {
        if retry.backoff > retry.longest_backoff {
            let key = format!("{GROUP}retry-backoff");
            let message = format!(
                "the first pause is longer than the longest, which is {:?}",
                retry.longest_backoff
            );
            let remedy = format!("raise {GROUP}retry-backoff-max");
            problems.push(origin.problem(field(&key), message).remedy(remedy));
            retry.backoff = retry.longest_backoff;
        }
        if !has_cause {
            let said = annotations.keys().find(|key| key.starts_with(RETRY));
            let key = said.unwrap_or(RETRY);
            let problem = origin.problem(field(key), "nothing says when to retry");
            let remedy = format!("add {GROUP}retry-on, or {GROUP}timeout-try");
            problems.push(problem.warning().remedy(remedy));
            draft.policy.retry = None;
        }
    }
    problems
}

const RETRY: &str = "parkway.dev/retry-";

/// The parts of a list with commas; none is empty.
fn list(value: &str) -> Result<Vec<&str>, Wrong> {
    let parts: Vec<&str> = value.split(',').map(str::trim).collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(wrong(
            "a part of the list is empty",
            "separate the parts with one comma",
        ));
    }
    Ok(parts)
}

fn duration(value: &str, from: Duration, to: Duration) -> Result<Duration, Wrong> {
    let example = "write one such as 250ms, 30s or 5m";
    match go_duration(value) {
        None => Err(wrong("this is not a duration", example)),
        Some(duration) if (from..=to).contains(&duration) => Ok(duration),
        Some(_) => Err(wrong(
            format!("this must be from {from:?} to {to:?}"),
            example,
        )),
    }
}

/// A duration, or `off`.
fn timeout(value: &str) -> Result<Duration, Wrong> {
    if value == "off" {
        return Ok(NEVER);
    }
    duration(value, SHORTEST, LONGEST).map_err(|Wrong { message, remedy }| Wrong {
        message,
        remedy: format!("{remedy}; off is no timeout"),
    })
}

fn client_certificate(value: &str, draft: &mut Draft) -> Result<(), Wrong> {
    let (wanted, read) = match value {
        "required" => (ClientCertificate::Required, Ok(())),
        "optional" => (ClientCertificate::Optional, Ok(())),
        // Whoever wrote this did not mean that everybody may come.
        _ => (
            ClientCertificate::Required,
            Err(wrong(
                "this must be required or optional, and counts as required until it is",
                "leave the annotation out for hosts whose clients show none",
            )),
        ),
    };
    draft.policy.client_certificate = Some(wanted);
    read
}

fn retry_attempts(value: &str, draft: &mut Draft) -> Result<(), Wrong> {
    match value.parse() {
        Ok(attempts) if (2..=MOST_ATTEMPTS).contains(&attempts) => {
            draft.retry().attempts = attempts;
            Ok(())
        }
        _ => Err(wrong(
            format!("this must be a whole number from 2 to {MOST_ATTEMPTS}"),
            "the first attempt counts: 3 means two retries",
        )),
    }
}

fn retry_methods(value: &str, draft: &mut Draft) -> Result<(), Wrong> {
    let method = |text: &str| {
        let known = METHODS.iter().find(|known| known.as_str() == text);
        known.cloned().ok_or_else(|| {
            wrong(
                format!("{text:?} is not a method that can be named here"),
                "write POST, PATCH or both; GET, HEAD, OPTIONS, TRACE, PUT and DELETE are harmless to repeat anyway",
            )
        })
    };
    let methods: Result<Box<[Method]>, Wrong> = list(value)?.into_iter().map(method).collect();
    draft.retry().methods = methods?;
    Ok(())
}

const METHODS: [Method; 8] = [
    Method::POST,
    Method::PATCH,
    Method::GET,
    Method::HEAD,
    Method::OPTIONS,
    Method::TRACE,
    Method::PUT,
    Method::DELETE,
];

fn retry_on(value: &str, draft: &mut Draft) -> Result<(), Wrong> {
    let (mut statuses, mut codes) = (Vec::new(), 0_u32);
    for word in list(value)? {
        if let Some(code) = GRPC_CODES.iter().find(|(name, _)| *name == word) {
            codes |= 1 << code.1;
        } else if word == "5xx" {
            statuses.extend((500..600).filter_map(|status| StatusCode::from_u16(status).ok()));
        } else {
            let status = word
                .parse()
                .ok()
                .filter(|status| (400..600).contains(status));
            let status = status.and_then(|status| StatusCode::from_u16(status).ok());
            statuses.push(status.ok_or_else(|| not_a_cause(word))?);
        }
    }
    statuses.sort_unstable();
    statuses.dedup();
    let retry = draft.retry();
    retry.statuses = statuses.into();
    retry.grpc_codes = codes;
    draft.has_cause = true;
    Ok(())
}

fn not_a_cause(word: &str) -> Wrong {
    let names = GRPC_CODES.iter().map(|(name, _)| *name);
    let remedy = match did_you_mean(word, names) {
        Some(meant) => format!("did you mean {meant}?"),
        None => "write statuses from 400 to 599, 5xx, or gRPC codes such as unavailable and resource-exhausted, separated by commas"
            .to_owned(),
    };
    wrong(
        format!("{word:?} is neither a status of an error nor a gRPC code"),
        remedy,
    )
}

fn no_wake_paths(value: &str, draft: &mut Draft) -> Result<(), Wrong> {
    let paths = pieces(value)?;
    if let Some(path) = paths.iter().find(|path| !path.starts_with('/')) {
        return Err(wrong(
            format!("no request path begins with {path:?}"),
            "begin each with \"/\", such as /healthz,/robots.txt",
        ));
    }
    if paths.contains(&"/") {
        return Err(wrong(
            "every request path begins with \"/\": nothing would ever wake the Revision",
            "name longer prefixes, such as /healthz",
        ));
    }
    draft.no_wake().paths = paths.into_iter().map(Box::from).collect();
    Ok(())
}

fn no_wake_agents(value: &str, draft: &mut Draft) -> Result<(), Wrong> {
    let agents = pieces(value)?;
    draft.no_wake().agents = { agents.into_iter() }
        .map(|agent| agent.to_ascii_lowercase().into())
        .collect();
    Ok(())
}

impl Draft {
    fn no_wake(&mut self) -> &mut NoWake {
        &mut self.policy.no_wake
    }
}

fn pieces(value: &str) -> Result<Vec<&str>, Wrong> {
    let pieces = list(value)?;
    if pieces.len() > MOST_NO_WAKE {
        return Err(wrong(
            format!("these are more than {MOST_NO_WAKE}"),
            "name what they have in common",
        ));
    }
    if pieces.iter().any(|piece| piece.len() > LONGEST_PIECE) {
        return Err(wrong(
            format!("one of these is longer than {LONGEST_PIECE} bytes"),
            "its beginning is enough",
        ));
    }
    Ok(pieces)
}

/// Our annotations where they do nothing: on the template of a Service, which makes Revisions, not routes.
pub(crate) fn misplaced(annotations: &Labels, origin: &Origin, path: &str) -> Vec<Problem> {
    let ours = annotations.keys().filter(|key| key.starts_with(GROUP));
    let refuse = |key: &str| {
        let problem = origin.problem(
            format!("{path}[\"{key}\"]"),
            format!("{key} does nothing on a Revision"),
        );
        problem.remedy("move it to metadata.annotations of the Service")
    };
    ours.map(refuse).collect()
}

/// Those of an object's annotations that are ours.
pub(crate) fn ours(all: Option<&BTreeMap<String, String>>) -> Labels {
    let ours = all.into_iter().flatten();
    let ours = ours.filter(|(key, _)| key.starts_with(GROUP));
    let ours: BTreeMap<String, String> = ours
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    ours.into()
}

#[cfg(test)]
mod tests;
