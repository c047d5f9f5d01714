//! An HTTP/1.1 client on hyper's engine.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use http::header::HOST;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::answer::Answer;
use crate::wait::patiently;

/// Bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// One connection; requests go over it one after the other.
#[derive(Debug)]
pub struct Http1 {
    host: String,
    sender: SendRequest<Full<Bytes>>,
    connection: JoinHandle<()>,
}

impl Http1 {
    /// Connects to an entrance, for requests to `host`.
    pub async fn connect(address: SocketAddr, host: &str) -> Self {
        Self::try_connect(address, host).await.unwrap()
    }

    /// Connects to an entrance that may refuse.
    ///
    /// # Errors
    ///
    /// When the connection cannot be made.
    pub async fn try_connect(address: SocketAddr, host: &str) -> Result<Self, String> {
        let stream = patiently("a connection", TcpStream::connect(address))
            .await
            .map_err(|error| error.to_string())?;
        Self::try_over(stream, host).await
    }

    /// On a connection that is there, for requests to `host`.
    pub async fn over(stream: impl Stream, host: &str) -> Self {
        Self::try_over(stream, host).await.unwrap()
    }

    async fn try_over(stream: impl Stream, host: &str) -> Result<Self, String> {
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let connection = tokio::spawn(async move { drop(connection.with_upgrades().await) });
        Ok(Self {
            host: host.to_owned(),
            sender,
            connection,
        })
    }

    /// Sends a request and reads its whole response.
    pub async fn send(&mut self, request: Request<Bytes>) -> Answer {
        self.try_send(request).await.unwrap()
    }

    /// As [`send`](Self::send), but a request may go without an answer.
    ///
    /// # Errors
    ///
    /// When the connection ends before a response head.
    pub async fn try_send(&mut self, request: Request<Bytes>) -> Result<Answer, String> {
        let response = self.begin(request).await?;
        Ok(patiently("the end of a response", read(response)).await)
    }

    /// Sends a request and reads its response's head; the body is the caller's to read.
    ///
    /// # Errors
    ///
    /// When the connection ends before a response head.
    pub async fn begin(
        &mut self,
        mut request: Request<Bytes>,
    ) -> Result<Response<Incoming>, String> {
        let host = HeaderValue::try_from(&self.host).unwrap();
        request.headers_mut().entry(HOST).or_insert(host);
        patiently("a free connection", self.sender.ready())
            .await
            .map_err(|error| error.to_string())?;
        let sent = self.sender.send_request(request.map(Full::new));
        patiently("a response", sent)
            .await
            .map_err(|error| format!("{error:?}"))
    }

    /// Whether the other side has closed the connection.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl Drop for Http1 {
    fn drop(&mut self) {
        // The client hangs up: an answer that is still being read ends with it.
        self.connection.abort();
    }
}

/// Reads a response to its end, or as far as it comes.
pub async fn read(response: Response<Incoming>) -> Answer {
    let (head, mut body) = response.into_parts();
    let (mut data, mut trailers, mut broken) = (BytesMut::new(), None, None);
    while let Some(frame) = body.frame().await {
        match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(bytes)) => data.extend_from_slice(&bytes),
            Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
            Err(error) => {
                broken = Some(format!("{error:?}"));
                break;
            }
        }
    }
    let body = data.freeze();
    Answer {
        status: head.status,
        version: head.version,
        headers: head.headers,
        body,
        trailers,
        broken,
    }
}
