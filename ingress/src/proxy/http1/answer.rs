//! The body of a response by HTTP/1, and its connection until it ends.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::framing::{Framing, Malformed, Piece};
use super::socket::Socket;
use super::upload::{Unsent, Upload};
use crate::proxy::body::BodyError;
use crate::proxy::pool::Http1Lease;

/// Why a response broke off.
#[derive(Debug, thiserror::Error)]
pub enum BrokenAnswer {
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Socket(#[from] io::Error),
    /// The endpoint closed it before the body's end.
    #[error("the endpoint closed the connection before the end of its response")]
    Incomplete,
    /// The endpoint will not get the whole request.
    #[error("the client did not send the whole request")]
    Request,
    /// It is framed wrongly.
    #[error("{0}")]
    Malformed(#[from] Malformed),
}

/// The body of a response. At its end the connection goes back to the pool; dropped before, it is closed.
#[derive(Debug)]
pub struct Http1Answer {
    /// `None` once the body has ended or broken off.
    lease: Option<Http1Lease>,
    framing: Framing,
    /// Nothing speaks against using the connection again.
    is_reusable: bool,
    /// What of the request is still being sent.
    rest: Option<Box<Rest>>,
    /// Where large pieces are read to.
    buffer: BytesMut,
}

impl Http1Answer {
    pub(super) fn new(
        lease: Http1Lease,
        framing: Framing,
        is_reusable: bool,
        upload: Option<Upload>,
    ) -> Self {
        let rest = upload.map(|upload| Box::new(Rest::send(upload, lease.socket_shared())));
        let mut answer = Self {
            lease: Some(lease),
            framing,
            is_reusable,
            rest,
            buffer: BytesMut::new(),
        };
        if framing.is_done() {
            answer.finish();
        }
        answer
    }

    /// Whether the body has ended.
    pub fn is_end_stream(&self) -> bool {
        self.lease.is_none()
    }

    /// Its length, as far as it is known.
    pub fn size_hint(&self) -> SizeHint {
        match self.framing {
            Framing::Length(left) => SizeHint::with_exact(left),
            Framing::Chunked(_) | Framing::UntilClose => SizeHint::default(),
        }
    }

    /// The next piece of the body.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenAnswer>>> {
        let mut polled = self.poll_piece(cx);
        if polled.is_pending()
            && let Some(rest) = &self.rest
        {
            polled = rest
                .poll_missing(cx)
                .map(|()| Some(Err(BrokenAnswer::Request)));
        }
        if let Poll::Ready(Some(Err(_))) = &polled {
            self.lease = None;
        }
        polled
    }

    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenAnswer>>> {
        loop {
            let Some(lease) = &mut self.lease else {
                return Poll::Ready(None);
            };
            let frame = match self.framing.next(lease.unread())? {
                Piece::Data(data) => Some(Frame::data(data)),
                Piece::Trailers(trailers) => Some(Frame::trailers(trailers)),
                Piece::End => None,
                Piece::More => {
                    let read = match self.framing.data_ahead() {
                        Some(ahead) if ahead >= LARGE => {
                            let data = ready!(lease.socket().poll_read_piece(
                                cx,
                                ahead,
                                &mut self.buffer
                            ))?;
                            let read = data.len();
                            *lease.unread() = data;
                            read
                        }
                        _ => ready!(lease.poll_more(cx))?,
                    };
                    match (read, self.framing) {
                        (0, Framing::UntilClose) => {
                            self.lease = None;
                            return Poll::Ready(None);
                        }
                        (0, _) => return Poll::Ready(Some(Err(BrokenAnswer::Incomplete))),
                        _ => continue,
                    }
                }
            };
            if self.framing.is_done() {
                self.finish();
            }
            return Poll::Ready(frame.map(Ok));
        }
    }

    /// The body has ended: the connection may serve another request, if its own has been sent to the end.
    fn finish(&mut self) {
        let Some(mut lease) = self.lease.take() else {
            return;
        };
        // What comes unasked would be taken for the answer to the next request.
        let is_reusable = self.is_reusable && lease.unread().is_empty();
        match self.rest.take() {
            None if is_reusable => lease.finish(),
            None => {}
            Some(rest) => rest.settle(lease, is_reusable),
        }
    }
}

/// From this many bytes on a body is worth a buffer of its own.
const LARGE: u64 = 8 * 1024;

/// The rest of a request that was answered before it was sent; stopped when dropped.
#[derive(Debug)]
struct Rest {
    task: Option<JoinHandle<()>>,
    progress: Rc<Progress>,
}

/// What sending the rest tells who reads the answer.
#[derive(Debug, Default)]
struct Progress {
    end: Cell<Option<End>>,
    reader: RefCell<Option<Waker>>,
}

/// How sending the rest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// All was sent.
    Sent,
    /// Nobody wants the rest: the endpoint takes no more, or the request was given up.
    Stopped,
    /// The client did not send it: the endpoint waits in vain, and so would who reads its answer.
    Missing,
}

impl Rest {
    fn send(upload: Upload, socket: Rc<Socket>) -> Self {
        let progress = Rc::<Progress>::default();
        let tell = Rc::clone(&progress);
        let task = tokio::task::spawn_local(async move {
            let end = match upload.finish(&socket).await {
                Ok(()) => End::Sent,
                Err(Unsent::Socket(_)) => End::Stopped,
                Err(Unsent::Body(BodyError::Superseded)) => {
                    // An endpoint that waits for the rest all the same is told that there is none.
                    socket.shutdown().await;
                    End::Stopped
                }
                Err(Unsent::Body(_) | Unsent::Length) => End::Missing,
            };
            tell.end.set(Some(end));
            if let Some(reader) = tell.reader.take() {
                reader.wake();
            }
        });
        Self {
            task: Some(task),
            progress,
        }
    }

    /// Ready when the client did not send all of it.
    fn poll_missing(&self, cx: &Context<'_>) -> Poll<()> {
        if self.progress.end.get() == Some(End::Missing) {
            return Poll::Ready(());
        }
        self.progress.reader.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Sends the rest although the response has ended; who holds the body ends that when nobody wants it any more.
    fn settle(mut self: Box<Self>, lease: Http1Lease, is_reusable: bool) {
        let Some(mut task) = self.task.take() else {
            return;
        };
        tokio::task::spawn_local(async move {
            if timeout(REST_AFTER_ANSWER, &mut task).await.is_err() {
                task.abort();
            }
            let is_sent = self.progress.end.get() == Some(End::Sent);
            if is_sent && is_reusable && lease.is_quiet() {
                lease.finish();
            }
        });
    }
}

/// How long an endpoint that has answered may take to read the rest of its request; then its connection is closed.
const REST_AFTER_ANSWER: Duration = Duration::from_secs(10);

impl Drop for Rest {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
