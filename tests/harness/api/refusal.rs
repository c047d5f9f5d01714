//! What the API server says when it does not do what was asked.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::kind::Kind;

/// A `Status` object of failure: the body of an error answer, and the object of an ERROR event.
///
/// The shapes are those of the recordings; where there is none, of kubernetes/apimachinery `pkg/api/errors/errors.go`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refusal {
    pub(super) code: u16,
    reason: &'static str,
    message: String,
    details: Box<Value>,
    /// `metadata.continue` of the offer to go on with an expired list.
    offer: Option<String>,
    retry_after: Option<u32>,
}

impl Refusal {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Box::new(Value::Null),
            offer: None,
            retry_after: None,
        }
    }

    fn about(mut self, kind: &Kind, name: &str) -> Self {
        let mut details = Map::new();
        if !name.is_empty() {
            details.insert("name".to_owned(), json!(name));
        }
        if !kind.group.is_empty() {
            details.insert("group".to_owned(), json!(kind.group));
        }
        details.insert("kind".to_owned(), json!(kind.plural));
        *self.details = Value::Object(details);
        self
    }

    fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        if self.details.is_null() {
            *self.details = json!({});
        }
        self.details["retryAfterSeconds"] = json!(seconds);
        self
    }

    pub(super) fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {name:?} not found", kind.resource());
        Self::new(404, "NotFound", message).about(kind, name)
    }

    pub(super) fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", kind.resource());
        Self::new(409, "AlreadyExists", message).about(kind, name)
    }

    /// Source of the text: `OptimisticLockErrorMsg` in kubernetes/apiserver `pkg/registry/generic/registry/store.go`.
    pub(super) fn modified(kind: &Kind, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    pub(super) fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let resource = kind.resource();
        let message = format!("Operation cannot be fulfilled on {resource} {name:?}: {why}");
        Self::new(409, "Conflict", message).about(kind, name)
    }

    pub(super) fn apply_conflict(fields: &[(String, String)]) -> Self {
        let listed: Vec<String> = fields
            .iter()
            .map(|(field, manager)| {
                format!("conflict with {manager:?}: {}", field.replace('/', "."))
            })
            .collect();
        let plural = if fields.len() == 1 { "" } else { "s" };
        let message = format!(
            "Apply failed with {} conflict{plural}: {}",
            fields.len(),
            listed.join(", ")
        );
        Self::new(409, "Conflict", message)
    }

    pub(super) fn invalid(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("{} {name:?} is invalid: {why}", kind.resource());
        Self::new(422, "Invalid", message).about(kind, name)
    }

    pub(super) fn bad_request(why: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", why)
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub(super) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", message)
    }

    pub(super) fn unsupported_media_type() -> Self {
        let message = "the body of the request was in an unknown format";
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// A watch from a version whose successors are no longer known.
    pub(super) fn version_too_old(asked: u64, oldest: u64) -> Self {
        let message = format!("too old resource version: {asked} ({oldest})");
        Self::new(410, "Expired", message)
    }

    /// A list at a version that is no longer known.
    pub(super) fn list_too_old() -> Self {
        let message = "The resourceVersion for the provided list is too old.";
        Self::new(410, "Expired", message)
    }

    /// The rest of a list at a version that is no longer known; `offer` goes on with the present.
    pub(super) fn continue_too_old(offer: String) -> Self {
        let message = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";
        let mut refusal = Self::new(410, "Expired", message);
        refusal.offer = Some(offer);
        refusal
    }

    /// A version from the future.
    pub(super) fn version_too_large(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let mut refusal = Self::new(504, "Timeout", message);
        *refusal.details = json!({"causes": [{
            "reason": "ResourceVersionTooLarge",
            "message": "Too large resource version",
        }]});
        refusal.retry_after(1)
    }

    /// What a test asked for by its number.
    pub(super) fn by_code(code: u16, verb: &str, kind: &Kind, namespace: Option<&str>) -> Self {
        match code {
            401 => Self::unauthorized(),
            403 => {
                let of_group = if kind.group.is_empty() {
                    "in API group \"\"".to_owned()
                } else {
                    format!("in API group {:?}", kind.group)
                };
                let scope = match namespace {
                    Some(namespace) => format!("in the namespace {namespace:?}"),
                    None => "at the cluster scope".to_owned(),
                };
                let message = format!(
                    "{} is forbidden: User \"system:anonymous\" cannot {verb} resource {:?} {of_group} {scope}",
                    kind.resource(),
                    kind.plural
                );
                Self::new(403, "Forbidden", message).about(kind, "")
            }
            404 => Self::not_found(kind, ""),
            409 => Self::modified(kind, ""),
            410 => Self::list_too_old(),
            429 => Self::new(
                429,
                "TooManyRequests",
                "Too many requests, please try again later.",
            )
            .retry_after(1),
            503 => Self::new(
                503,
                "ServiceUnavailable",
                "the server is currently unable to handle the request",
            ),
            504 => Self::new(
                504,
                "Timeout",
                "Timeout: request did not complete within the allotted timeout",
            ),
            code => {
                let message = "Internal error occurred: etcdserver: leader changed";
                Self::new(code, "InternalError", message)
            }
        }
    }

    /// As the `Status` object.
    pub(super) fn status(&self) -> Value {
        let mut metadata = Map::new();
        if let Some(offer) = &self.offer {
            metadata.insert("continue".to_owned(), json!(offer));
        }
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata,
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        });
        if !self.details.is_null() {
            status["details"] = (*self.details).clone();
        }
        status["code"] = json!(self.code);
        status
    }

    /// As an answer.
    pub(super) fn response(&self) -> Response<Body> {
        let status = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json_response(status, &self.status());
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert("Retry-After", seconds.into());
        }
        response
    }
}

/// An answer in JSON.
pub(super) fn json_response(status: StatusCode, value: &Value) -> Response<Body> {
    Response::builder()
        .status(status)
        .header("Cache-Control", "no-cache, private")
        .header("Content-Type", "application/json")
        .body(Body::from(value.to_string()))
        .unwrap()
}
