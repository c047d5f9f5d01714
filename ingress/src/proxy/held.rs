//! The body of a response together with what its request holds.
//!
//! A request ends when its body ends, or when the client stops reading: both drop [`Held`], and with it the connection,
//! the permit, and the count for the autoscaler. The Revision's timeouts are looked at only when the body makes the
//! client wait, so that a response that is there costs no timer.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parkway_activator::stats::InFlight;
use parkway_activator::throttler::Permit;
use tokio::time::Instant;

use super::body::{BodyError, BusyGuard, Replay, ResponseBody};
use super::deadlines::Deadlines;
use super::observe::Observation;
use super::send::Carrier;
use super::sweep::Alarm;

/// A response body that owns what its request holds until it ends.
#[derive(Debug)]
pub struct Held {
    body: ResponseBody,
    holds: Option<Box<Holds>>,
    /// Why the body broke off, told one turn after it was seen.
    broken: Option<Box<BodyError>>,
}

/// What a request holds while its response streams.
#[derive(Debug)]
pub struct Holds {
    /// The right to send to the endpoint; its drop frees the slot.
    pub permit: Option<Permit>,
    /// The count for the autoscaler; its drop counts the request out.
    pub in_flight: Option<InFlight>,
    /// The stream the body comes by, if by HTTP/2.
    pub carrier: Option<Carrier>,
    /// When the response may take no longer.
    pub deadlines: Option<Deadlines>,
    /// Goes off then; there is one where there are deadlines.
    pub alarm: Option<Alarm>,
    /// When the last piece went to the client.
    pub last_write: Instant,
    /// Writes metrics and the access log when dropped.
    pub observation: Observation,
    /// Keeps the client's connection marked as busy.
    pub busy: Option<BusyGuard>,
    /// The request's body, if the client may still be sending it.
    pub upload: Option<Replay>,
}

impl Holds {
    /// What an answer of our own holds: only what is written down about it.
    pub fn of_answer(observation: Observation) -> Self {
        Self {
            permit: None,
            in_flight: None,
            carrier: None,
            deadlines: None,
            alarm: None,
            last_write: Instant::now(),
            observation,
            busy: None,
            upload: None,
        }
    }

    /// Notes how much of the request's body was read.
    fn note_upload(&mut self) {
        if let Some(upload) = &self.upload {
            self.observation.received(upload.read_bytes());
        }
    }

    /// Tells the connection when the response may take no longer.
    fn tell_due(&self) {
        if let (Some(busy), Some(deadlines)) = (&self.busy, &self.deadlines) {
            busy.due(deadlines.while_streaming(self.last_write));
        }
    }
}

/// A response that has ended before its request: what the client still sends is passed on for a while, because it may
/// read the answer only when it has sent everything.
fn finish_upload(upload: Replay) {
    if upload.is_ended() {
        return;
    }
    tokio::task::spawn_local(async move {
        tokio::time::sleep(UPLOAD_AFTER_RESPONSE).await;
        upload.abandon();
    });
}

/// How long a client may go on sending a request that has been answered already; then its connection is closed.
const UPLOAD_AFTER_RESPONSE: Duration = Duration::from_secs(5);

impl Held {
    /// `body`, and what it holds until its end.
    pub fn new(body: ResponseBody, holds: Holds) -> Self {
        holds.tell_due();
        let mut held = Self {
            body,
            holds: Some(Box::new(holds)),
            broken: None,
        };
        if held.body.is_end_stream() {
            held.finish();
        }
        held
    }

    /// A body that holds nothing.
    pub fn bare(body: ResponseBody) -> Self {
        Self {
            body,
            holds: None,
            broken: None,
        }
    }

    /// The body ended well: what it held is freed.
    fn finish(&mut self) {
        if let Some(mut holds) = self.holds.take() {
            holds.note_upload();
            holds.observation.ended();
            if let Some(upload) = holds.upload.take() {
                finish_upload(upload);
            }
        }
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(holds) = &mut self.holds else {
            return Poll::Pending;
        };
        let (Some(deadlines), Some(alarm)) = (&holds.deadlines, &mut holds.alarm) else {
            return Poll::Pending;
        };
        match deadlines.while_streaming(holds.last_write) {
            Some(due) => alarm.poll_due(cx, due),
            None => Poll::Pending,
        }
    }
}

impl Drop for Holds {
    fn drop(&mut self) {
        if let Some(busy) = &self.busy {
            busy.due(None);
        }
        self.note_upload();
        // Not read to its end: nobody will take the rest of the upload either.
        if let Some(upload) = self.upload.take() {
            upload.abandon();
        }
    }
}

impl Body for Held {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(error) = self.broken.take() {
            self.holds = None;
            return Poll::Ready(Some(Err(*error)));
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(holds) = &mut self.holds {
                    holds
                        .observation
                        .sent(frame.data_ref().map_or(0, Bytes::len));
                    if holds.deadlines.is_some() {
                        holds.last_write = Instant::now();
                        holds.tell_due();
                    }
                }
                if self.body.is_end_stream() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                // What came before goes out first: when a body fails, hyper drops the head and data that it has not
                // written yet, and the client would have no answer at all. One turn later they are written.
                self.broken = Some(Box::new(error));
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => match self.poll_deadline(cx) {
                Poll::Ready(()) => {
                    if let Some(holds) = &mut self.holds {
                        holds.observation.timed_out();
                    }
                    self.holds = None;
                    Poll::Ready(Some(Err(BodyError::TimedOut)))
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.broken.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
