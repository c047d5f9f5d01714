//! gRPC by hand: `PingStream` of Knative's image `grpc-ping`, whose message is one string in field 1.
//!
//! Source: grpc/grpc `doc/PROTOCOL-HTTP2.md`; knative/networking `test/test_images/grpc-ping/proto/ping.proto`.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderValue, Request, Response};
use parkway_tests::http2::{Http2, next_data};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const PING_STREAM: &str = "/ping.PingService/PingStream";

/// A client's end of a call in both directions.
#[derive(Debug)]
pub(crate) struct Call {
    sends: SendStream<Bytes>,
    receives: RecvStream,
    messages: Messages,
}

impl Call {
    /// Opens a stream; its head is answered before the first message.
    pub(crate) async fn open(client: &Http2) -> Self {
        let request = Request::post(PING_STREAM)
            .header(CONTENT_TYPE, GRPC)
            .header(TE, "trailers")
            .body(())
            .unwrap();
        let exchange = client.begin(request, false).await.unwrap();
        let (sends, response) = exchange.head().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers().get(CONTENT_TYPE), Some(&GRPC));
        Self {
            sends,
            receives: response.into_body(),
            messages: Messages::default(),
        }
    }

    /// Sends a message and waits for the one that comes back.
    pub(crate) async fn ping(&mut self, text: &str) -> String {
        self.sends.send_data(message(text), false).unwrap();
        loop {
            if let Some(text) = self.messages.next() {
                return text;
            }
            let data = next_data(&mut self.receives)
                .await
                .expect("a message")
                .unwrap();
            self.messages.0.extend_from_slice(&data);
        }
    }

    /// Ends the sending side and returns the status in the trailers.
    pub(crate) async fn close(mut self) -> String {
        self.sends.send_data(Bytes::new(), true).unwrap();
        assert!(
            next_data(&mut self.receives).await.is_none(),
            "a message nobody asked for"
        );
        let trailers = self.receives.trailers().await.unwrap().expect("trailers");
        trailers["grpc-status"].to_str().unwrap().to_owned()
    }
}

/// Whether a request is a call.
pub(crate) fn is_call(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE) == Some(&GRPC)
}

/// The server's end: each message comes back with the suffix.
pub(crate) async fn echo(
    mut body: RecvStream,
    mut respond: h2::server::SendResponse<Bytes>,
    suffix: &str,
) {
    let head = Response::builder()
        .header(CONTENT_TYPE, GRPC)
        .body(())
        .unwrap();
    let Ok(mut answer) = respond.send_response(head, false) else {
        return;
    };
    let mut messages = Messages::default();
    while let Some(Ok(data)) = next_data(&mut body).await {
        messages.0.extend_from_slice(&data);
        while let Some(text) = messages.next() {
            // Whoever called may have left.
            drop(answer.send_data(message(&format!("{text}{suffix}")), false));
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    drop(answer.send_trailers(trailers));
}

/// A message: not compressed, its length, field 1.
fn message(text: &str) -> Bytes {
    let length = u8::try_from(text.len())
        .ok()
        .filter(|length| *length < 126)
        .unwrap();
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::from(length) + 2);
    bytes.put_slice(&[0x0a, length]);
    bytes.put_slice(text.as_bytes());
    bytes.freeze()
}

/// Bytes that came, to be taken message by message.
#[derive(Debug, Default)]
struct Messages(BytesMut);

impl Messages {
    fn next(&mut self) -> Option<String> {
        let length = self.0.get(1..5).map(|mut length| length.get_u32())?;
        let end = 5 + usize::try_from(length).unwrap();
        if self.0.len() < end {
            return None;
        }
        let message = self.0.split_to(end);
        assert_eq!(message[5], 0x0a, "field 1");
        Some(String::from_utf8(message[7..].to_vec()).unwrap())
    }
}
