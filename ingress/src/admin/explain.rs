//! `/explain`: where a request would go, whether it would have to wait, and why.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use parkway_activator::throttler::RevisionState;
use serde_json::json;
use tokio::sync::oneshot;

use super::Admin;
use super::text::count_of;
use crate::explain::{Answer, QUESTION, Question};
use crate::frontend::worker::Peek;
use crate::routing::explain::{Explanation, explain};
use crate::routing::host::Host;
use crate::routing::rules::Visibility;
use crate::routing::split::{PathKey, Percentile};
use crate::routing::table::RouteSnapshot;

/// Answers a [`Question`].
pub(super) async fn answer(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    let answer = match question(&headers) {
        Ok(question) => explained(&admin, question).await,
        Err(mistake) => Err(mistake),
    };
    match answer {
        Ok(answer) => Json(answer).into_response(),
        Err(mistake) => (StatusCode::BAD_REQUEST, mistake).into_response(),
    }
}

pub(super) fn question(headers: &HeaderMap) -> Result<Question, String> {
    let question = headers
        .get(QUESTION)
        .ok_or_else(|| format!("the header {QUESTION} is missing; use `parkway explain`"))?;
    serde_json::from_slice(question.as_bytes()).map_err(|error| format!("{QUESTION}: {error}"))
}

/// The answer, or what is wrong with the question.
pub(super) async fn explained(admin: &Admin, question: Question) -> Result<Answer, String> {
    let asked = Asked::parse(question)?;
    Ok(answer_to(admin, &asked).await)
}

pub(super) struct Asked {
    pub(super) question: Question,
    method: Method,
    headers: HeaderMap,
}

impl Asked {
    pub(super) fn parse(question: Question) -> Result<Self, String> {
        let method = question
            .method
            .parse()
            .map_err(|_| format!("{:?} is not a method", question.method))?;
        let mut asked = HeaderMap::new();
        for line in &question.headers {
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| format!("header {line:?}: expected `Name: value`"))?;
            let name: HeaderName = name
                .trim()
                .parse()
                .map_err(|error| format!("header {line:?}: {error}"))?;
            let value: HeaderValue = value
                .trim()
                .parse()
                .map_err(|error| format!("header {line:?}: {error}"))?;
            asked.append(name, value);
        }
        Ok(Self {
            question,
            method,
            headers: asked,
        })
    }
}

impl Asked {
    fn entrance(&self) -> Visibility {
        match self.question.local {
            true => Visibility::ClusterLocal,
            false => Visibility::ExternalIp,
        }
    }

    /// What the rules say of it; `point` is what its worker would draw.
    pub(super) fn explained(
        &self,
        routes: &RouteSnapshot,
        host: &Host<'_>,
        point: Option<Percentile>,
    ) -> Explanation {
        let (entrance, path) = (self.entrance(), &self.question.path);
        let (method, headers) = (&self.method, &self.headers);
        explain(routes, entrance, method, host, path, headers, point)
    }
}

async fn answer_to(admin: &Admin, asked: &Asked) -> Answer {
    let question = &asked.question;
    let routes = admin.routes.current();
    let entrance = asked.entrance();
    let host = match Host::parse(&question.host) {
        Ok(host) => host,
        Err(error) => {
            let text = format!("400: {error}\n");
            return Answer {
                is_served: false,
                explanation: json!({ "refusal": text.trim() }),
                text,
            };
        }
    };
    let explained = |point| asked.explained(&routes, &host, point);
    let mut explanation = explained(None);
    let mut draws = Vec::new();
    if question.next
        && let Ok(matched) = routes.find(entrance, &host, &question.path, &asked.headers)
    {
        for (worker, point) in peek(admin, matched.key).await {
            let next = explained(Some(point));
            draws.push(format!(
                "next on worker {worker}: {}",
                chosen(&next).unwrap_or("no target")
            ));
            explanation = if draws.len() == 1 { next } else { explanation };
        }
    }
    let waits = waits(admin, &explanation);
    let mut text = explanation.to_string();
    for line in draws.iter().chain(&waits) {
        text.push_str(line);
        text.push('\n');
    }
    Answer {
        is_served: explanation.refusal.is_none(),
        explanation: json!({ "explanation": explanation, "next": draws, "waits": waits }),
        text,
    }
}

/// What each worker would draw next for a path.
async fn peek(admin: &Admin, path: PathKey) -> Vec<(usize, Percentile)> {
    let mut points = Vec::new();
    for (worker, peeks) in admin.peeks.iter().enumerate() {
        let (reply, answer) = oneshot::channel();
        // A worker that has ended, or has more questions than it may queue, is left out.
        if peeks.try_send(Peek { path, reply }).is_ok()
            && let Ok(point) = answer.await
        {
            points.push((worker, point));
        }
    }
    points
}

fn chosen(explanation: &Explanation) -> Option<&str> {
    let shares = &explanation.passes.last()?.shares;
    let chosen = shares.iter().find(|share| share.is_chosen == Some(true))?;
    Some(&chosen.target)
}

/// For each Revision the request may go to: whether it would have to wait now.
fn waits(admin: &Admin, explanation: &Explanation) -> Vec<String> {
    let Some(last) = explanation.passes.last() else {
        return Vec::new();
    };
    let shares = last
        .shares
        .iter()
        .filter(|share| share.kind == "revision" && share.is_chosen != Some(false));
    let states = admin.throttler.state();
    shares
        .filter_map(|share| {
            let state = states
                .iter()
                .find(|state| state.id.to_string() == share.target)?;
            Some(format!("{}: {}", share.target, wait(state)))
        })
        .collect()
}

fn wait(state: &RevisionState) -> String {
    let ready = state
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.is_ready && !endpoint.is_suspect)
        .count();
    let limit = u64::from(state.spec.concurrency.as_number());
    let in_flight = state.in_flight;
    let parked = state.parked;
    if let Some(failure) = state.failure.as_deref().filter(|_| ready == 0) {
        return format!("would be parked or answered 503: the last start failed: {failure}");
    }
    if ready == 0 {
        return format!(
            "would wait: no endpoint is ready (at zero or starting), {parked} parked before it"
        );
    }
    if limit > 0 && in_flight >= limit * ready as u64 {
        return format!(
            "would wait: all {} slots of {ready} endpoints are taken, {parked} parked before it",
            limit * ready as u64
        );
    }
    if parked > 0 {
        return format!("would wait: {parked} parked before it");
    }
    let (ready, in_flight) = (count_of(ready, "endpoint"), count_of(in_flight, "request"));
    format!("would go at once: {ready} ready, {in_flight} in flight")
}
