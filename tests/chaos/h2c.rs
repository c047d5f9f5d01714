//! HTTP/2 endpoints that refuse streams or go away. Frame by frame, so that each is what the test says (RFC 9113).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::Request;
use parking_lot::Mutex;
use parkway_tests::upstream::Connection;
use parkway_tests::{Answer, Parkway, Upstream, h2c_revision_with_endpoints};

use crate::load::Load;
use crate::random::Random;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const REFUSED_STREAM: u32 = 7;
/// `:status: 200` in the static table (RFC 7541 appendix A).
const STATUS_200: &[u8] = &[0x88];

/// The endpoint's side of a connection.
struct Http2 {
    connection: Connection,
    /// Bodies of requests that are not complete yet.
    bodies: BTreeMap<u32, BytesMut>,
}

impl Http2 {
    async fn begin(mut connection: Connection) -> Self {
        let preface = connection.raw.exactly(24).await;
        assert_eq!(&preface[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut begun = Self {
            connection,
            bodies: BTreeMap::new(),
        };
        begun.send(SETTINGS, 0, 0, &[]).await;
        begun
    }

    /// The next request that is complete: its stream and body. Nothing when the connection ended.
    async fn request(&mut self) -> Option<(u32, Bytes)> {
        loop {
            let (kind, flags, stream, payload) = self.frame().await?;
            match kind {
                SETTINGS if flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]).await,
                PING if flags & ACK == 0 => self.send(PING, ACK, 0, &payload).await,
                HEADERS => drop(self.bodies.insert(stream, BytesMut::new())),
                DATA => {
                    if let Some(body) = self.bodies.get_mut(&stream) {
                        body.extend_from_slice(&payload);
                    }
                }
                RST_STREAM => drop(self.bodies.remove(&stream)),
                _ => {}
            }
            if matches!(kind, HEADERS | DATA)
                && flags & END_STREAM != 0
                && let Some(body) = self.bodies.remove(&stream)
            {
                return Some((stream, body.freeze()));
            }
        }
    }

    async fn frame(&mut self) -> Option<(u8, u8, u32, Bytes)> {
        let head = self.connection.raw.try_exactly(9).await.ok()?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let payload = self.connection.raw.try_exactly(length).await.ok()?;
        Some((head[3], head[4], stream, payload))
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.connection
            .send(frame(kind, flags, stream, payload))
            .await;
    }

    async fn answer(&mut self, stream: u32) {
        self.send(HEADERS, END_HEADERS | END_STREAM, stream, STATUS_200)
            .await;
    }

    async fn refuse(&mut self, stream: u32) {
        self.send(RST_STREAM, 0, stream, &REFUSED_STREAM.to_be_bytes())
            .await;
    }

    /// Says that streams up to `last` are being served and no others.
    async fn go_away(&mut self, last: u32) {
        let no_error = 0_u32;
        self.send(
            GOAWAY,
            0,
            0,
            &[last.to_be_bytes(), no_error.to_be_bytes()].concat(),
        )
        .await;
    }

    /// Answers everything, and writes down what it was.
    async fn serve(mut self, book: &Book) {
        while let Some((stream, body)) = self.request().await {
            book.note(&body);
            self.answer(stream).await;
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// What was executed.
#[derive(Clone, Default)]
struct Book(Arc<Mutex<Vec<String>>>);

impl Book {
    fn note(&self, body: &Bytes) {
        self.0
            .lock()
            .push(String::from_utf8(body.to_vec()).unwrap());
    }

    fn executed(&self) -> Vec<String> {
        self.0.lock().clone()
    }
}

async fn in_front_of(endpoint: &Upstream) -> Parkway {
    Parkway::with(h2c_revision_with_endpoints("shop", &[endpoint.address()])).await
}

async fn order(parkway: &Parkway) -> Answer {
    parkway.service("shop").post("/", "an order").await
}

#[tokio::test]
async fn post_on_a_refused_stream_is_sent_again_with_its_body_and_executed_once() {
    let book = Book::default();
    let notes = book.clone();
    let endpoint = Upstream::start(move |connection| {
        let notes = notes.clone();
        async move {
            let is_first = connection.number == 0;
            let mut http2 = Http2::begin(connection).await;
            if is_first {
                let Some((stream, _)) = http2.request().await else {
                    return;
                };
                http2.refuse(stream).await;
            }
            http2.serve(&notes).await;
        }
    })
    .await;
    let parkway = in_front_of(&endpoint).await;

    order(&parkway).await.expect(200);

    assert_eq!(book.executed(), ["an order"]);
    parkway.finish().await;
}

#[tokio::test]
async fn post_above_the_last_stream_of_a_goaway_is_sent_again_and_executed_once() {
    let book = Book::default();
    let notes = book.clone();
    let endpoint = Upstream::start(move |connection| {
        let notes = notes.clone();
        async move {
            let is_first = connection.number == 0;
            let mut http2 = Http2::begin(connection).await;
            if is_first {
                http2.request().await;
                http2.go_away(0).await;
                return http2.connection.stall().await;
            }
            http2.serve(&notes).await;
        }
    })
    .await;
    let parkway = in_front_of(&endpoint).await;

    order(&parkway).await.expect(200);

    assert_eq!(book.executed(), ["an order"]);
    parkway.finish().await;
}

/// The endpoint says that it serves the stream, and dies.
async fn served_and_lost(book: &Book) -> Upstream {
    let notes = book.clone();
    Upstream::start(move |connection| {
        let notes = notes.clone();
        async move {
            let is_first = connection.number == 0;
            let mut http2 = Http2::begin(connection).await;
            if is_first {
                let Some((stream, body)) = http2.request().await else {
                    return;
                };
                notes.note(&body);
                return http2.go_away(stream).await;
            }
            http2.serve(&notes).await;
        }
    })
    .await
}

#[tokio::test]
async fn post_that_a_goaway_counts_as_served_is_not_sent_again() {
    let book = Book::default();
    let endpoint = served_and_lost(&book).await;
    let parkway = in_front_of(&endpoint).await;

    order(&parkway).await.expect(502);

    assert_eq!(book.executed(), ["an order"]);
    parkway.finish().await;
}

#[tokio::test]
async fn get_that_a_goaway_counts_as_served_is_sent_again_when_the_connection_ends() {
    let book = Book::default();
    let endpoint = served_and_lost(&book).await;
    let parkway = in_front_of(&endpoint).await;

    parkway.service("shop").get("/").await.expect(200);

    assert_eq!(book.executed(), ["", ""]);
    parkway.finish().await;
}

/// An endpoint that dies after the head of each answer and a piece of its body.
async fn dying_in_answers() -> Upstream {
    Upstream::start(async |connection| {
        let mut http2 = Http2::begin(connection).await;
        let Some((stream, _)) = http2.request().await else {
            return;
        };
        let head = frame(HEADERS, END_HEADERS, stream, STATUS_200);
        let half = frame(DATA, 0, stream, b"half-");
        http2.connection.send([head, half].concat()).await;
    })
    .await
}

/// Whether head, piece and end arrive together is chance, so each protocol is asked this often.
const TIMES: usize = 100;

#[track_caller]
fn assert_broke_off(answer: Result<Answer, String>) {
    let answer = answer.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.text(), "half-");
    assert!(
        answer.broken.is_some(),
        "an answer that looks whole: {answer:?}"
    );
}

#[tokio::test]
async fn client_gets_what_there_is_of_an_answer_whose_connection_broke_and_no_other() {
    let endpoint = dying_in_answers().await;
    let parkway = in_front_of(&endpoint).await;

    for _ in 0..TIMES {
        assert_broke_off(parkway.service("shop").try_get("/").await);
    }
    let client = parkway.service("shop").http2().await;
    for _ in 0..TIMES {
        assert_broke_off(
            client
                .try_send(Request::get("/").body(Bytes::new()).unwrap())
                .await,
        );
    }

    assert_eq!(
        endpoint.connections(),
        2 * TIMES,
        "sent again although the response had begun"
    );
    parkway.finish().await;
}

#[tokio::test]
async fn every_post_is_executed_once_when_connections_go_away_in_order() {
    let book = Book::default();
    let notes = book.clone();
    let endpoint = Upstream::start(move |connection| {
        let notes = notes.clone();
        async move {
            let requests = Random::of(connection.number).below(20) + 1;
            let mut http2 = Http2::begin(connection).await;
            let mut last = 0;
            for _ in 0..requests {
                let Some((stream, body)) = http2.request().await else {
                    return;
                };
                notes.note(&body);
                http2.answer(stream).await;
                last = last.max(stream);
            }
            // Streams below the last whose bodies are under way are this connection's still.
            http2.bodies.retain(|stream, _| *stream <= last);
            http2.go_away(last).await;
            while !http2.bodies.is_empty() {
                let Some((stream, body)) = http2.request().await else {
                    return;
                };
                if stream <= last {
                    notes.note(&body);
                    http2.answer(stream).await;
                }
                http2.bodies.retain(|stream, _| *stream <= last);
            }
            http2.connection.stall().await;
        }
    })
    .await;
    let parkway = in_front_of(&endpoint).await;

    let make = |number: usize| {
        Request::post("/")
            .body(Bytes::from(number.to_string()))
            .unwrap()
    };
    let load = Load::start(&parkway.service("shop"), 16, make);
    load.more(1000).await;
    let tally = load.stop().await;

    tally.assert_all_succeeded(1000);
    let mut executed = book.executed();
    executed.sort();
    let mut asked: Vec<_> = tally.by_number.keys().map(ToString::to_string).collect();
    asked.sort();
    assert_eq!(executed, asked);
    assert!(
        endpoint.connections() > 10,
        "{} connections are no chaos",
        endpoint.connections()
    );
    parkway.finish().await;
}
