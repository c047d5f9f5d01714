//! Rows `websocket`, `websocket/split`, `grpc` and `grpc/split`: what stays open both ways.

use std::collections::BTreeSet;

use parkway_tests::http2::Http2;

use crate::grpc::Call;
use crate::images::Image;
use crate::source::Source;
use crate::suite::{Suite, from_both_sources};
use crate::websocket::{CLOSE, TEXT, WebSocket};

/// How many messages the suite sends over one connection.
const MESSAGES: usize = 100;
/// After so many connections at a half each, both halves were surely met.
const CONNECTIONS: usize = 20;

fn web_socket(service: &str) -> Image {
    Image::WebSocket {
        suffix: service.to_owned(),
    }
}

fn grpc_ping(service: &str) -> Image {
    Image::GrpcPing {
        suffix: service.to_owned(),
    }
}

async fn hundred_messages_come_back_over_a_web_socket(source: Source) {
    let suite = Suite::start_with(source, &["websocket"], web_socket).await;

    let row = suite.row("websocket");
    let mut socket = WebSocket::connect(&suite.outside(row.host())).await;
    for number in 0..MESSAGES {
        socket
            .write_masked(TEXT, format!("ping {number}").as_bytes())
            .await;
        let frame = socket.read().await.unwrap();
        assert_eq!(frame.opcode(), TEXT);
        assert_eq!(
            String::from_utf8(frame.payload).unwrap(),
            format!("ping {number} {}", row.services()[0])
        );
    }
    socket.write_masked(CLOSE, &1000_u16.to_be_bytes()).await;
    assert_eq!(socket.read().await.unwrap().payload, 1000_u16.to_be_bytes());
    assert!(
        socket.read().await.is_none(),
        "the connection ends with the backend's"
    );
    drop(socket);
    suite.finish().await;
}

async fn web_sockets_are_split_and_each_stays_on_its_backend(source: Source) {
    let suite = Suite::start_with(source, &["websocket-split"], web_socket).await;

    let row = suite.row("websocket-split");
    let site = suite.outside(row.host());
    let mut seen = BTreeSet::new();
    for _ in 0..CONNECTIONS {
        let mut socket = WebSocket::connect(&site).await;
        let mut backends = BTreeSet::new();
        for _ in 0..10 {
            socket.write_masked(TEXT, b"hello").await;
            let said = String::from_utf8(socket.read().await.unwrap().payload).unwrap();
            backends.insert(said.strip_prefix("hello ").unwrap().to_owned());
        }
        assert_eq!(backends.len(), 1, "a connection changed its backend");
        seen.append(&mut backends);
    }
    assert_eq!(seen, row.services().into_iter().collect());
    suite.finish().await;
}

async fn hundred_messages_come_back_over_a_grpc_stream_to_an_authority_with_a_port(source: Source) {
    let suite = Suite::start_with(source, &["grpc"], grpc_ping).await;

    let row = suite.row("grpc");
    let client = Http2::connect(suite.parkway.external(), &format!("{}:80", row.host())).await;
    let mut call = Call::open(&client).await;
    for number in 0..MESSAGES {
        let echoed = call.ping(&format!("ping {number}")).await;
        assert_eq!(echoed, format!("ping {number}{}", row.services()[0]));
    }
    assert_eq!(call.close().await, "0");
    suite.finish().await;
}

async fn grpc_calls_are_split_and_each_stays_on_its_backend(source: Source) {
    let suite = Suite::start_with(source, &["grpc-split"], grpc_ping).await;

    let row = suite.row("grpc-split");
    let mut seen = BTreeSet::new();
    for _ in 0..CONNECTIONS {
        let client = Http2::connect(suite.parkway.external(), &format!("{}:80", row.host())).await;
        let mut call = Call::open(&client).await;
        let backend = call.ping("hello ").await;
        for _ in 0..5 {
            assert_eq!(
                call.ping("hello ").await,
                backend,
                "a call changed its backend"
            );
        }
        assert_eq!(call.close().await, "0");
        seen.insert(backend.strip_prefix("hello ").unwrap().to_owned());
    }
    assert_eq!(seen, row.services().into_iter().collect());
    suite.finish().await;
}

from_both_sources!(
    hundred_messages_come_back_over_a_web_socket,
    web_sockets_are_split_and_each_stays_on_its_backend,
    hundred_messages_come_back_over_a_grpc_stream_to_an_authority_with_a_port,
    grpc_calls_are_split_and_each_stays_on_its_backend,
);
