//! `parkway hello` over HTTP/2 by prior knowledge.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::answer::Hello;

/// How many requests one connection may have at once.
const MAX_STREAMS: u32 = 1024;

/// Serves a connection until it ends, or until what it has begun is finished.
pub(super) async fn serve(stream: TcpStream, hello: Arc<Hello>) -> Result<(), h2::Error> {
    let closing = hello.closing.clone();
    let handshake = h2::server::Builder::new()
        .max_concurrent_streams(MAX_STREAMS)
        .handshake(stream);
    let mut connection = tokio::select! {
        connection = handshake => connection?,
        () = closing.cancelled() => return Ok(()),
    };
    let mut is_closing = false;
    let mut requests = JoinSet::new();
    loop {
        tokio::select! {
            () = closing.cancelled(), if !is_closing => {
                is_closing = true;
                connection.graceful_shutdown();
            }
            Some(_ended) = requests.join_next() => {}
            accepted = connection.accept() => match accepted {
                Some(accepted) => {
                    let (request, respond) = accepted?;
                    requests.spawn(one(request, respond, Arc::clone(&hello)));
                }
                None => return Ok(()),
            },
        }
    }
}

/// One request; an error means that nobody wants its answer any more.
async fn one(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    hello: Arc<Hello>,
) -> Result<(), h2::Error> {
    let answer = hello.answer(request.map(Inbound));
    let response = tokio::select! {
        response = answer => response,
        _reset = poll_fn(|context| respond.poll_reset(context)) => return Ok(()),
    };
    let (head, mut body) = response.into_parts();
    let mut stream = respond.send_response(Response::from_parts(head, ()), body.is_end_stream())?;
    if body.is_end_stream() {
        return Ok(());
    }
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            _reset = poll_fn(|context| stream.poll_reset(context)) => return Ok(()),
        };
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(_)) => {
                stream.send_reset(h2::Reason::INTERNAL_ERROR);
                return Ok(());
            }
            None => return stream.send_data(Bytes::new(), true),
        };
        match frame.into_data() {
            Ok(data) => send(&mut stream, data).await?,
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    return stream.send_trailers(trailers);
                }
            }
        }
    }
}

/// Sends as much at a time as the client has room for.
async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = match poll_fn(|context| stream.poll_capacity(context)).await {
            Some(room) => room?,
            None => return Err(h2::Reason::CANCEL.into()),
        };
        stream.send_data(data.split_to(room.min(data.len())), false)?;
    }
    Ok(())
}

/// A request's body.
struct Inbound(RecvStream);

impl http_body::Body for Inbound {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match ready!(self.0.poll_data(context)) {
            Some(Ok(data)) => {
                let released = self.0.flow_control().release_capacity(data.len());
                Poll::Ready(Some(released.map(|()| Frame::data(data))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => {
                let trailers = ready!(self.0.poll_trailers(context));
                Poll::Ready(
                    trailers
                        .map(|trailers| trailers.map(Frame::trailers))
                        .transpose(),
                )
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}
