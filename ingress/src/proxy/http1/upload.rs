//! A request on its way to an endpoint: its head, then its body as it comes from the client.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use http_body::Body as _;

use super::head::{Length, put, put_text, write};
use super::socket::Socket;
use crate::proxy::body::{AttemptBody, BodyError};

/// What is sent.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// The head, edited for its endpoint.
    pub head: &'a Parts,
    /// The body; `None` when there is none.
    pub body: Option<AttemptBody>,
}

/// Why a request could not be sent to its end.
#[derive(Debug)]
pub(super) enum Unsent {
    /// Its body broke off.
    Body(BodyError),
    /// Its body does not have the length that was said.
    Length,
    /// The connection takes no more.
    Socket(io::Error),
}

/// A request that is being sent.
#[derive(Debug)]
pub(super) struct Upload {
    /// The head, or the size of a chunk.
    before: Vec<u8>,
    /// How much of that has been written.
    written: usize,
    data: Bytes,
    /// The end of a chunk, or of all chunks.
    behind: &'static [u8],
    body: Option<Coming>,
    has_begun: bool,
    /// What was written may not have been handed to the system yet.
    lingers: bool,
}

/// What of a body is still to come.
#[derive(Debug)]
struct Coming {
    body: AttemptBody,
    /// Bytes still to come; `None` when it is chunked.
    left: Option<u64>,
    /// The trailer fields that the head announces.
    announced: Vec<HeaderName>,
}

impl Upload {
    pub(super) fn new(Outgoing { head, body }: Outgoing<'_>) -> Self {
        let length = match &body {
            None => Length::NoBody,
            Some(body) => match body.size_hint().exact().or_else(|| declared(&head.headers)) {
                Some(length) => Length::Known(length),
                None => Length::Chunked,
            },
        };
        let body = body.map(|body| Coming {
            body,
            left: match length {
                Length::Known(length) => Some(length),
                Length::NoBody | Length::Chunked => None,
            },
            announced: match length {
                Length::Chunked => announced(&head.headers),
                Length::NoBody | Length::Known(_) => Vec::new(),
            },
        });
        Self {
            before: write(head, length),
            written: 0,
            data: Bytes::new(),
            behind: b"",
            body,
            has_begun: false,
            lingers: false,
        }
    }

    /// Whether a byte has left.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// What has not been sent yet, if anything; it takes care of itself from now on.
    pub(super) fn take_rest(&mut self) -> Option<Self> {
        let is_sent = self.body.is_none() && self.is_written() && !self.lingers;
        (!is_sent).then(|| Self {
            before: std::mem::take(&mut self.before),
            written: self.written,
            data: std::mem::take(&mut self.data),
            behind: self.behind,
            body: self.body.take(),
            has_begun: self.has_begun,
            lingers: self.lingers,
        })
    }

    /// Sends the rest to the end.
    pub(super) async fn finish(mut self, socket: &Socket) -> Result<(), Unsent> {
        std::future::poll_fn(|cx| self.poll(cx, socket)).await
    }

    /// Sends as much as goes; ready when all is sent.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        socket: &Socket,
    ) -> Poll<Result<(), Unsent>> {
        loop {
            // What there is of a body goes out together with what is before it.
            let is_waiting = match self.poll_next(cx) {
                Poll::Ready(next) => {
                    next?;
                    false
                }
                Poll::Pending => true,
            };
            if self.is_written() {
                if self.lingers {
                    ready!(socket.poll_handed_over(cx)).map_err(Unsent::Socket)?;
                    self.lingers = false;
                }
                if is_waiting {
                    return Poll::Pending;
                }
                if self.body.is_none() {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let slices = [
                IoSlice::new(self.before.get(self.written..).unwrap_or_default()),
                IoSlice::new(&self.data),
                IoSlice::new(self.behind),
            ];
            let written = ready!(socket.poll_write(cx, &slices)).map_err(Unsent::Socket)?;
            self.has_begun = true;
            self.lingers = true;
            self.advance(written);
        }
    }

    fn is_written(&self) -> bool {
        self.written == self.before.len() && self.data.is_empty() && self.behind.is_empty()
    }

    fn advance(&mut self, mut count: usize) {
        let before = count.min(self.before.len() - self.written);
        self.written += before;
        count -= before;
        let data = count.min(self.data.len());
        self.data.advance(data);
        count -= data;
        self.behind = self.behind.get(count..).unwrap_or_default();
    }

    /// Takes the next piece of the body, when the one before it has been written.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        let Some(coming) = &mut self.body else {
            return Poll::Ready(Ok(()));
        };
        if !self.data.is_empty() || !self.behind.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let frame = ready!(Pin::new(&mut coming.body).poll_frame(cx));
        if self.written == self.before.len() {
            self.before.clear();
            self.written = 0;
        }
        let trailers = match frame {
            Some(Err(error)) => return Poll::Ready(Err(Unsent::Body(error))),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let ends = coming.body.is_end_stream();
                    return Poll::Ready(self.piece(data, ends));
                }
                Err(frame) => frame.into_trailers().ok(),
            },
            None => None,
        };
        Poll::Ready(self.end(trailers.as_ref()))
    }

    fn piece(&mut self, data: Bytes, ends: bool) -> Result<(), Unsent> {
        let Some(coming) = &mut self.body else {
            return Ok(());
        };
        match &mut coming.left {
            Some(left) => {
                // More than was said would be read as the next request.
                *left = left.checked_sub(data.len() as u64).ok_or(Unsent::Length)?;
            }
            None if data.is_empty() => {}
            None => {
                put_text(&mut self.before, format_args!("{:x}\r\n", data.len()));
                self.behind = b"\r\n";
            }
        }
        self.data = data;
        if ends { self.end(None) } else { Ok(()) }
    }

    /// The body has ended.
    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), Unsent> {
        let Some(coming) = self.body.take() else {
            return Ok(());
        };
        match coming.left {
            Some(0) => Ok(()),
            // Less than was said: the endpoint would wait for the rest.
            Some(_) => Err(Unsent::Length),
            None => {
                match trailers {
                    Some(trailers) => {
                        self.before.extend_from_slice(b"0\r\n");
                        for name in &coming.announced {
                            for value in trailers.get_all(name) {
                                put(&mut self.before, name, value);
                            }
                        }
                        self.before.extend_from_slice(b"\r\n");
                    }
                    None if self.behind.is_empty() => self.behind = b"0\r\n\r\n",
                    None => self.behind = b"\r\n0\r\n\r\n",
                }
                Ok(())
            }
        }
    }
}

/// The length a head declares.
fn declared(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// Trailer fields are passed on when they are announced in `Trailer` and mean nothing to the message's framing, routing
/// or content (RFC 9110 section 6.5.1).
fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    let lists = headers.get_all(header::TRAILER).iter();
    let names = lists.filter_map(|list| HeaderValue::to_str(list).ok());
    names
        .flat_map(|list| list.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .filter(|name| !NEVER_TRAILERS.contains(name))
        .collect()
}

const NEVER_TRAILERS: [HeaderName; 12] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::HOST,
    header::MAX_FORWARDS,
    header::SET_COOKIE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
];
