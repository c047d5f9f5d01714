//! An HTTP/2 client on the `h2` crate, by prior knowledge.

use std::future::poll_fn;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response, Uri};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::answer::Answer;
use crate::wait::patiently;

/// One connection; requests go over it at the same time.
#[derive(Debug)]
pub struct Http2 {
    host: String,
    sender: SendRequest<Bytes>,
    connection: JoinHandle<()>,
}

/// A request that has begun, and its response to come.
#[derive(Debug)]
pub struct Exchange {
    /// The request's body.
    pub body: SendStream<Bytes>,
    response: ResponseFuture,
}

impl Http2 {
    /// Connects to an entrance, for requests to `host`.
    pub async fn connect(address: SocketAddr, host: &str) -> Self {
        let stream = patiently("a connection", TcpStream::connect(address))
            .await
            .unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = patiently("a handshake", h2::client::handshake(stream))
            .await
            .unwrap();
        let connection = tokio::spawn(async move { drop(connection.await) });
        Self {
            host: host.to_owned(),
            sender,
            connection,
        }
    }

    /// Sends a request with its body and reads its whole response.
    pub async fn send(&self, request: Request<Bytes>) -> Answer {
        self.try_send(request).await.unwrap()
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Bytes::new()).unwrap())
            .await
    }

    /// POST.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(Request::post(path).body(body.into()).unwrap())
            .await
    }

    /// As [`send`](Self::send), but a request may go without an answer.
    ///
    /// # Errors
    ///
    /// When the stream or the connection ends before a response head.
    pub async fn try_send(&self, request: Request<Bytes>) -> Result<Answer, String> {
        let (head, body) = request.into_parts();
        let mut exchange = self
            .begin(Request::from_parts(head, ()), body.is_empty())
            .await?;
        if !body.is_empty() {
            // The response may come before the body is through; then the rest is not wanted.
            let Exchange {
                body: mut stream,
                response,
            } = exchange;
            let sending = tokio::spawn(async move { drop(write(&mut stream, body, true).await) });
            let answer = patiently("a response", answer(response)).await;
            sending.abort();
            return answer;
        }
        exchange.body.reserve_capacity(0);
        exchange.answer().await
    }

    /// Whether the server has announced extended `CONNECT` (RFC 8441 section 3), as far as its settings have come.
    pub fn may_connect(&self) -> bool {
        self.sender.is_extended_connect_protocol_enabled()
    }

    /// Begins a request; its body is the caller's to send unless it `ends`.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub async fn begin(&self, request: Request<()>, ends: bool) -> Result<Exchange, String> {
        let (mut head, ()) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        head.uri = Uri::builder()
            .scheme("http")
            .authority(self.host.as_str())
            .path_and_query(path)
            .build()
            .unwrap();
        let sender = self.sender.clone();
        let mut sender = patiently("room for a stream", sender.ready())
            .await
            .map_err(|error| error.to_string())?;
        let begun = sender
            .send_request(Request::from_parts(head, ()), ends)
            .map_err(|error| error.to_string())?;
        let (response, body) = begun;
        Ok(Exchange { body, response })
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Exchange {
    /// Sends a piece of the body, as the other side has room for it.
    ///
    /// # Errors
    ///
    /// When the stream is gone.
    pub async fn write(&mut self, data: impl Into<Bytes>, ends: bool) -> Result<(), h2::Error> {
        patiently("room for a body", write(&mut self.body, data.into(), ends)).await
    }

    /// Ends the body with trailers.
    ///
    /// # Errors
    ///
    /// When the stream is gone.
    pub fn trailers(&mut self, trailers: HeaderMap) -> Result<(), h2::Error> {
        self.body.send_trailers(trailers)
    }

    /// Sends what goes at once, whatever room there is; the rest waits in this process.
    ///
    /// # Errors
    ///
    /// When the stream is gone.
    pub fn push(&mut self, data: impl Into<Bytes>) -> Result<(), h2::Error> {
        self.body.send_data(data.into(), false)
    }

    /// Resets the stream.
    pub fn reset(mut self) {
        self.body.send_reset(h2::Reason::CANCEL);
    }

    /// Reads the whole response.
    ///
    /// # Errors
    ///
    /// When the stream or the connection ends before a response head.
    pub async fn answer(self) -> Result<Answer, String> {
        patiently("a response", answer(self.response)).await
    }

    /// Reads the response's head; its body and the request's are the caller's.
    ///
    /// # Errors
    ///
    /// When the stream or the connection ends before a response head.
    pub async fn head(self) -> Result<(SendStream<Bytes>, Response<RecvStream>), h2::Error> {
        let response = patiently("a response", self.response).await?;
        Ok((self.body, response))
    }
}

/// The next piece of a body, with its room given back.
pub async fn next_data(body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    let data = patiently("a piece of a body", body.data()).await?;
    Some(data.and_then(|data| {
        body.flow_control().release_capacity(data.len())?;
        Ok(data)
    }))
}

async fn answer(response: ResponseFuture) -> Result<Answer, String> {
    let response = response.await.map_err(|error| error.to_string())?;
    let (head, mut body) = response.into_parts();
    let (mut data, mut broken, mut trailers) = (BytesMut::new(), None, None);
    while let Some(piece) = next_data(&mut body).await {
        match piece {
            Ok(piece) => data.extend_from_slice(&piece),
            Err(error) => {
                broken = Some(error.to_string());
                break;
            }
        }
    }
    if broken.is_none() {
        match body.trailers().await {
            Ok(came) => trailers = came,
            Err(error) => broken = Some(error.to_string()),
        }
    }
    let body = data.freeze();
    Ok(Answer {
        status: head.status,
        version: head.version,
        headers: head.headers,
        body,
        trailers,
        broken,
    })
}

async fn write(
    stream: &mut SendStream<Bytes>,
    mut data: Bytes,
    ends: bool,
) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = poll_fn(|context| stream.poll_capacity(context)).await;
        let room = room.unwrap_or(Err(h2::Reason::STREAM_CLOSED.into()))?;
        let piece = data.split_to(room.min(data.len()));
        stream.send_data(piece, ends && data.is_empty())?;
    }
    Ok(())
}
