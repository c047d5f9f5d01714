//! HTTP/2 clients by prior knowledge: unary calls of 128 bytes with trailers, as gRPC makes them.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::client::{self, SendRequest};
use http::{Method, Request, Uri};
use tokio::net::TcpStream;

use super::zeroes;

/// The bytes of a call, and of its answer.
const MESSAGE: usize = 128;
/// Windows that never make anyone wait here.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 1 << 24;

/// Makes one call at a time; clones share a connection.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    sender: SendRequest<Bytes>,
    uri: Uri,
    message: Bytes,
}

impl Client {
    pub(crate) async fn connect(to: SocketAddr, host: &str) -> Result<Self> {
        let stream = TcpStream::connect(to).await.context("connecting")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(stream)
            .await
            .context("HTTP/2 handshake")?;
        tokio::spawn(async move {
            // A connection that breaks fails its calls.
            connection.await.ok();
        });
        let uri = format!("http://{host}/trailers").parse()?;
        Ok(Self {
            sender,
            uri,
            message: zeroes(MESSAGE),
        })
    }

    /// Asks without a message, and checks the answer.
    pub(crate) async fn get(&mut self) -> Result<()> {
        self.sender = self.sender.clone().ready().await?;
        let request = Request::get(self.uri.clone()).body(())?;
        let (answer, _nothing) = self.sender.send_request(request, true)?;
        check(answer).await
    }

    /// Makes a call, and checks its answer.
    pub(crate) async fn exchange(&mut self) -> Result<()> {
        self.sender = self.sender.clone().ready().await?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.uri.clone())
            .header("content-type", "application/grpc")
            .header("content-length", MESSAGE)
            .header("te", "trailers")
            .body(())?;
        let (answer, mut upload) = self.sender.send_request(request, false)?;
        upload.send_data(self.message.clone(), true)?;
        check(answer).await
    }
}

/// Reads an answer, which must be whole.
async fn check(answer: client::ResponseFuture) -> Result<()> {
    let answer = answer.await.context("no answer")?;
    ensure!(answer.status() == 200, "answered {}", answer.status());
    let mut body = answer.into_body();
    let mut received = 0;
    while let Some(piece) = body.data().await {
        let length = piece.context("a broken body")?.len();
        received += length;
        body.flow_control().release_capacity(length)?;
    }
    ensure!(received == MESSAGE, "an answer of {received} bytes");
    let trailers = body.trailers().await?.context("trailers are missing")?;
    ensure!(
        trailers
            .get("grpc-status")
            .is_some_and(|status| status == "0"),
        "wrong trailers"
    );
    Ok(())
}
