//! What queue-proxy says when it has no room: told from a workload's own answers.
//!
//! A Pod whose workload serves N requests at once takes 11 times N; beyond, queue-proxy answers 503 with a text of its own
//! and the workload sees nothing (knative/serving `pkg/queue/breaker.go`, `ErrRequestQueueFull`, written by
//! `pkg/queue/handler.go` with Go's `http.Error`). That happens when others send to the same Pod. An answer is taken for it
//! only if it is that text to the last byte; all others pass as they came, also those that begin alike.

use std::future::poll_fn;
use std::pin::Pin;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderName, Method, StatusCode, header};
use http_body::{Body, Frame};

use super::body::{Ahead, BodyError, Replay, ResponseBody};
use super::send::{Answered, SendError};

/// The whole body.
const TEXT: &[u8] = b"pending request queue full\n";

/// Whether it is worth to look at the body, judging by status and length. For nearly all answers one look at the status.
pub(super) fn is_likely(head: &Parts) -> bool {
    head.status == StatusCode::SERVICE_UNAVAILABLE && has(head, &header::CONTENT_LENGTH, "27")
}

/// Passes an answer on, unless it says that there was no room.
///
/// Of the answer's body no more is read ahead than shows whether it does. `request` is the body of the request.
///
/// # Errors
///
/// [`SendError::TurnedAway`], when it does. Nobody reads the body of the request any more then.
///
/// # Cancel safety
///
/// Dropping it drops the answer.
pub(super) async fn unless(
    mut answered: Answered,
    method: Method,
    request: Option<Replay>,
) -> Result<Answered, SendError> {
    if method == Method::HEAD {
        // There is no body to tell by. If it was the workload after all, asking twice does no harm (RFC 9110 section
        // 9.2.2).
        if is_http_error(&answered.head) {
            return Err(SendError::TurnedAway);
        }
        return Ok(answered);
    }
    let (is_text, ahead) = read_ahead(&mut answered.body).await;
    if !is_text {
        let rest = answered.body;
        answered.body = ResponseBody::Ahead(Box::new(Ahead::new(ahead, rest)));
        return Ok(answered);
    }
    drop(answered);
    if let Some(request) = request {
        // What the client still sends is for the next attempt.
        request.supersede();
        if request.client_failed() {
            return Err(SendError::Client);
        }
    }
    Err(SendError::TurnedAway)
}

/// Reads as long as what comes may be the text. Says whether it was, and gives what was read.
async fn read_ahead(body: &mut ResponseBody) -> (bool, Vec<Result<Frame<Bytes>, BodyError>>) {
    let (mut ahead, mut expected) = (Vec::new(), TEXT);
    while !expected.is_empty() {
        let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await else {
            return (false, ahead);
        };
        let data = frame.as_ref().ok().and_then(Frame::data_ref);
        let rest = data.and_then(|data| expected.strip_prefix(&**data));
        ahead.push(frame);
        match rest {
            Some(rest) => expected = rest,
            None => return (false, ahead),
        }
    }
    (true, ahead)
}

/// Whether the head is one of Go's `http.Error`.
fn is_http_error(head: &Parts) -> bool {
    has(head, &header::CONTENT_TYPE, "text/plain; charset=utf-8")
        && has(head, &header::X_CONTENT_TYPE_OPTIONS, "nosniff")
}

fn has(head: &Parts, name: &HeaderName, value: &str) -> bool {
    head.headers.get(name).is_some_and(|it| it == value)
}
