//! A response's body that was looked at before it is passed on.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::{BodyError, ResponseBody};

/// What of a response's body was read before anybody asked for it, and the rest.
#[derive(Debug)]
pub struct Ahead {
    read: VecDeque<Result<Frame<Bytes>, BodyError>>,
    rest: ResponseBody,
}

impl Ahead {
    /// `read`, then `rest`.
    pub fn new(read: Vec<Result<Frame<Bytes>, BodyError>>, rest: ResponseBody) -> Self {
        Self {
            read: read.into(),
            rest,
        }
    }

    /// The next piece.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.read.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.rest.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let data = |frame: &Result<Frame<Bytes>, BodyError>| {
            let frame = frame.as_ref().ok()?;
            Some(frame.data_ref()?.len() as u64)
        };
        let read: u64 = self.read.iter().filter_map(data).sum();
        match self.rest.size_hint().exact() {
            Some(rest) => SizeHint::with_exact(read + rest),
            None => SizeHint::default(),
        }
    }
}
