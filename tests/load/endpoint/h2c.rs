//! The endpoint's HTTP/2: unary calls with trailers, as gRPC makes them.

use anyhow::Result;
use bytes::Bytes;
use h2::RecvStream;
use h2::server::{self, SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::TcpStream;

/// Windows that never make anyone wait here.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 1 << 24;

/// Answers every call with 128 bytes and `grpc-status: 0`.
pub(super) async fn serve(stream: TcpStream) -> Result<()> {
    let mut connection = server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(1000)
        .handshake::<_, Bytes>(stream)
        .await?;
    let body = Bytes::from("a".repeat(128));
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        let body = body.clone();
        tokio::spawn(async move {
            // A stream that fails is seen by the generator.
            answer(request, respond, body).await.ok();
        });
    }
    Ok(())
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    body: Bytes,
) -> Result<()> {
    let mut upload = request.into_body();
    while let Some(piece) = upload.data().await {
        let length = piece?.len();
        upload.flow_control().release_capacity(length)?;
    }
    let head = Response::builder()
        .header("content-type", "application/grpc")
        .body(())?;
    let mut stream = respond.send_response(head, false)?;
    stream.send_data(body, false)?;
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)?;
    Ok(())
}
