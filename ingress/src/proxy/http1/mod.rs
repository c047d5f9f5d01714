//! HTTP/1 towards endpoints: our own engine on `httparse`.
//!
//! A connection is a socket and the bytes read from it that nobody has used yet. No task drives it and no buffer waits
//! with it: whoever has a request on it writes and reads within its own task. That is what makes it cheap, for a
//! request then costs one write, one read, and no wake-up between tasks.
//!
//! `framing` tells where a body ends; `head` writes request heads and reads response heads; `upload` sends a request,
//! [`answer`] is the response's body. All that can be read in two ways is refused (RFC 9112 sections 6.3, 11.2).

pub mod answer;
pub(super) mod framing;
pub(super) mod head;
mod socket;
mod upload;

use std::task::{Context, Poll, ready};

use http::Method;
use http::response::Parts;

use self::answer::Http1Answer;
use self::head::{Head, parse};
pub use self::head::{HeadBounds, MOST_FIELDS};
pub use self::socket::Socket;
pub use self::upload::Outgoing;
use self::upload::{Unsent, Upload};
use super::pool::Http1Lease;
use super::send::SendError;

/// One request on a connection, up to its response head.
///
/// Dropped, it closes the connection.
#[derive(Debug)]
pub struct Exchange {
    lease: Option<Http1Lease>,
    upload: Upload,
    /// Why no more of the request can be sent; the endpoint may have answered all the same.
    broken: Option<std::io::Error>,
    method: Method,
    bounds: HeadBounds,
    informational: usize,
}

/// How many informational responses may come before the final one; an endpoint that sends more is at fault.
pub const INFORMATIONAL: usize = 64;

impl Exchange {
    /// Puts a request on a connection.
    pub fn new(lease: Http1Lease, outgoing: Outgoing<'_>, bounds: HeadBounds) -> Self {
        Self {
            lease: Some(lease),
            method: outgoing.head.method.clone(),
            upload: Upload::new(outgoing),
            broken: None,
            bounds,
            informational: 0,
        }
    }

    /// Ready with the response head, once it has come.
    ///
    /// `seen` is told of each informational response but `101 Switching Protocols`.
    ///
    /// # Errors
    ///
    /// When no response head comes; [`SendError::progress`] says how far the request may have got.
    pub fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        seen: &mut dyn FnMut(http::StatusCode),
    ) -> Poll<Result<(Parts, Reply), SendError>> {
        self.send(cx)?;
        let Some(lease) = &mut self.lease else {
            return Poll::Pending;
        };
        loop {
            let head = match parse(lease.unread(), &self.method, self.bounds) {
                Ok(head) => head,
                Err(malformed) => return Poll::Ready(Err(SendError::Invalid(malformed.into()))),
            };
            if let Some(head) = head {
                if !head.parts.status.is_informational() || head.is_switch() {
                    return Poll::Ready(self.answered(head));
                }
                self.informational += 1;
                seen(head.parts.status);
                if self.informational > INFORMATIONAL {
                    let error = "it keeps sending informational responses".into();
                    return Poll::Ready(Err(SendError::Invalid(error)));
                }
                // The body is asked for before the next head is looked at, which may say that nobody wants it.
                return self.poll_response(cx, seen);
            }
            match ready!(lease.poll_more(cx)) {
                Ok(0) => return Poll::Ready(Err(self.ended(None))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(self.ended(Some(error)))),
            }
        }
    }

    /// Sends as much of the request as goes.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<(), SendError> {
        let (None, Some(lease)) = (&self.broken, &self.lease) else {
            return Ok(());
        };
        match self.upload.poll(cx, lease.socket()) {
            Poll::Pending | Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(Unsent::Body(_) | Unsent::Length)) => return Err(SendError::Client),
            Poll::Ready(Err(Unsent::Socket(error))) if !self.upload.has_begun() => {
                return Err(SendError::NotStarted(error.into()));
            }
            Poll::Ready(Err(Unsent::Socket(error))) => self.broken = Some(error),
        }
        Ok(())
    }

    /// The error of a connection that ended before a response head.
    fn ended(&mut self, error: Option<std::io::Error>) -> SendError {
        let has_answered = self
            .lease
            .as_mut()
            .is_some_and(|lease| !lease.unread().is_empty());
        let is_reused = self.lease.as_ref().is_some_and(Http1Lease::is_reused);
        let error = error.or_else(|| self.broken.take());
        let error = error.unwrap_or_else(|| std::io::ErrorKind::UnexpectedEof.into());
        if has_answered || self.informational > 0 {
            SendError::Invalid(error.into())
        } else if is_reused {
            SendError::MaybeStartedOnKept(error.into())
        } else {
            SendError::MaybeStarted(error.into())
        }
    }

    fn answered(&mut self, head: Head) -> Result<(Parts, Reply), SendError> {
        let Some(lease) = self.lease.take() else {
            return Err(SendError::Invalid("it answered twice".into()));
        };
        if head.is_switch() {
            return Ok((head.parts, Reply::Switched(lease)));
        }
        let upload = self.upload.take_rest();
        let is_reusable = head.keeps_connection && self.broken.is_none();
        let answer = Http1Answer::new(lease, head.framing, is_reusable, upload);
        Ok((head.parts, Reply::Answer(answer)))
    }
}

/// What follows a response head.
#[derive(Debug)]
pub enum Reply {
    /// A body.
    Answer(Http1Answer),
    /// Another protocol.
    Switched(Http1Lease),
}
