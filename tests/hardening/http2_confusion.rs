//! HTTP/2 requests that would be something else in HTTP/1 (RFC 9113 section 10.3): none gets to an endpoint.

use parkway_tests::frames::{self, Frames, code, data, field, flag, frame, kind, whole};
use parkway_tests::{Parkway, revision_with_endpoints};

use crate::peers::{self, Peer};
use crate::recorder::Seen;

const HOST: &str = "letter.default.localhost";

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It is answered.
    Answered(u16),
    /// Its stream is reset.
    Reset(u32),
    /// The connection is ended.
    Ended(u32),
}

const MALFORMED: Outcome = Outcome::Reset(code::PROTOCOL_ERROR);
/// The engine takes a name or value that no field may have for an error of the connection.
const NO_FIELD: Outcome = Outcome::Ended(code::PROTOCOL_ERROR);
const BAD: Outcome = Outcome::Answered(400);

fn ordinary() -> Vec<(&'static str, &'static str)> {
    vec![
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", HOST),
        (":path", "/"),
    ]
}

/// An ordinary GET with one pseudo-header otherwise.
fn with(name: &'static str, value: &'static str) -> Vec<u8> {
    let mut fields = ordinary();
    for field in &mut fields {
        if field.0 == name {
            field.1 = value;
        }
    }
    frames::block(&fields)
}

/// An ordinary GET with a field more.
fn and(name: &[u8], value: &[u8]) -> Vec<u8> {
    [frames::block(&ordinary()), field(name, value)].concat()
}

fn heads() -> Vec<(Vec<u8>, Outcome)> {
    let pseudo = [
        (
            ":method",
            "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\nGET",
            NO_FIELD,
        ),
        (":method", "GET ", NO_FIELD),
        (":method", "G ET", NO_FIELD),
        (":method", "", NO_FIELD),
        (":method", "GET\0", NO_FIELD),
        (":method", "CONNECT", MALFORMED),
        (":scheme", "ftp", BAD),
        (":scheme", "http\r\nx: 1", MALFORMED),
        (":scheme", "", BAD),
        (":scheme", "http://elsewhere/?", MALFORMED),
        (":authority", "letter.default.localhost\r\nx: 1", MALFORMED),
        (
            ":authority",
            "letter.default.localhost elsewhere",
            MALFORMED,
        ),
        (":authority", "user@letter.default.localhost", BAD),
        (":authority", "letter.default.localhost/x", MALFORMED),
        (":authority", "letter.default.localhost:x", BAD),
        (":authority", "letter.default.localhost:80:80", MALFORMED),
        (":path", "", MALFORMED),
        (
            ":path",
            "/ HTTP/1.1\r\nhost: x\r\n\r\nGET /smuggled",
            MALFORMED,
        ),
        (":path", "/a b", MALFORMED),
        (":path", "/ HTTP/1.1", MALFORMED),
        (":path", "/\t", MALFORMED),
        (":path", "/\n", MALFORMED),
        (":path", "/\0", MALFORMED),
        (":path", "/\u{7f}", MALFORMED),
        (":path", "smuggled", MALFORMED),
        (":path", "*", BAD),
        (":path", "http://elsewhere/smuggled", MALFORMED),
        (":path", "elsewhere:80", MALFORMED),
    ];
    let pseudo = pseudo
        .into_iter()
        .map(|(name, value, outcome)| (with(name, value), outcome));
    let more: [(&[u8], &[u8], Outcome); 31] = [
        (b":method", b"POST", MALFORMED),
        (b":path", b"/smuggled", MALFORMED),
        (b":authority", b"elsewhere", MALFORMED),
        (b":status", b"200", MALFORMED),
        (b":other", b"1", NO_FIELD),
        (b"X-Upper", b"1", NO_FIELD),
        (b"", b"1", NO_FIELD),
        (b"x y", b"1", NO_FIELD),
        (b"x:y", b"1", NO_FIELD),
        (b"x\r\ny", b"1", NO_FIELD),
        (b"x\0", b"1", NO_FIELD),
        (b"x\xe9", b"1", NO_FIELD),
        (b"x", b"1\r\ny: 1", NO_FIELD),
        (b"x", b"1\n", NO_FIELD),
        (b"x", b"1\r", NO_FIELD),
        (b"x", b"1\0", NO_FIELD),
        (b"x", b"1\x01", NO_FIELD),
        (b"connection", b"close", MALFORMED),
        (b"connection", b"host", MALFORMED),
        (b"keep-alive", b"timeout=5", MALFORMED),
        (b"proxy-connection", b"close", MALFORMED),
        (b"transfer-encoding", b"chunked", MALFORMED),
        (b"upgrade", b"websocket", MALFORMED),
        (b"te", b"chunked", MALFORMED),
        (b"te", b"trailers, chunked", MALFORMED),
        (b"host", b"elsewhere", BAD),
        (
            b"host",
            b"letter.default.localhost:81",
            Outcome::Answered(200),
        ),
        (b"host", b"", BAD),
        (b"content-length", b"5", MALFORMED),
        (b"content-length", b"-1", MALFORMED),
        (b"content-length", b"x", MALFORMED),
    ];
    let more = more
        .into_iter()
        .map(|(name, value, outcome)| (and(name, value), outcome));
    let twice = [field("host", HOST), field("host", HOST)].concat();
    let lengths = [field("content-length", "0"), field("content-length", "0")].concat();
    let missing = |name: &str| {
        let mut fields = ordinary();
        fields.retain(|field| field.0 != name);
        frames::block(&fields)
    };
    let late = [field("x", "1"), frames::block(&ordinary())].concat();
    let others = [
        ([frames::block(&ordinary()), twice].concat(), BAD),
        ([frames::block(&ordinary()), lengths].concat(), BAD),
        (missing(":method"), MALFORMED),
        (missing(":scheme"), MALFORMED),
        (missing(":path"), MALFORMED),
        (missing(":authority"), BAD),
        (late, MALFORMED),
        (
            [missing(":authority"), field("host", HOST)].concat(),
            Outcome::Answered(200),
        ),
        (frames::block(&ordinary()), Outcome::Answered(200)),
        (and(b"te", b"trailers"), Outcome::Answered(200)),
        (and(b"x", b"caf\xe9"), Outcome::Answered(200)),
    ];
    pseudo.chain(more).chain(others).collect()
}

#[tokio::test]
async fn a_head_that_would_be_another_in_http1_does_not_get_there() {
    let mut wrong = Vec::new();
    for peer in peers::all().await {
        let parkway = in_front_of(&peer).await;
        for (block, expected) in heads() {
            let outcome = outcome(&parkway, &whole(1, &block)).await;
            let (seen, begun) = peer.record.take();
            let is_so = match expected {
                Outcome::Answered(200) => {
                    outcome == expected && seen == [Seen::new("GET", HOST, "/", "")]
                        || may_refuse(&peer, outcome) && begun == 0
                }
                _ => outcome == expected && begun == 0,
            };
            if !is_so {
                let block = String::from_utf8_lossy(&block).into_owned();
                let who = peer.name;
                wrong.push(format!(
                    "{who} {block:?}: {outcome:?}, not {expected:?}; {seen:?}"
                ));
            }
        }
        parkway.finish().await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// All of these are known by the same host here.
async fn in_front_of(peer: &Peer) -> Parkway {
    Parkway::with(revision_with_endpoints("letter", &[peer.address])).await
}

/// Somebody who refuses what passes us does not read it differently.
fn may_refuse(peer: &Peer, outcome: Outcome) -> bool {
    peer.name != "letter" && matches!(outcome, Outcome::Answered(400..=499))
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_was_said_is_no_whole_request_in_http1() {
    for peer in peers::all().await {
        wrong_lengths(&peer).await;
    }
}

async fn wrong_lengths(peer: &Peer) {
    let parkway = in_front_of(peer).await;
    let head = |length: &str| {
        let fields = frames::request("POST", HOST, "/", &[("content-length", length)]);
        frames::begun(1, &fields)
    };
    let smuggled = b"helloGET /smuggled HTTP/1.1\r\nhost: letter.default.localhost\r\n\r\n";
    for wire in [
        [head("5"), data(1, smuggled, true)].concat(),
        [head("5"), data(1, b"hell", true)].concat(),
        [head("0"), data(1, smuggled, true)].concat(),
        [head("5"), data(1, b"hello", false), data(1, smuggled, true)].concat(),
        [head("18446744073709551621"), data(1, b"hello", true)].concat(),
    ] {
        let outcome = outcome(&parkway, &wire).await;
        assert!(
            matches!(outcome, MALFORMED | BAD),
            "{outcome:?} to {:?}",
            String::from_utf8_lossy(&wire)
        );
        parkway.quiet().await;
        let (seen, _begun) = peer.record.take();
        assert!(seen.is_empty(), "{seen:?}");
    }
    let whole = [head("5"), data(1, b"hello", true)].concat();
    assert_eq!(outcome(&parkway, &whole).await, Outcome::Answered(200));
    assert_eq!(
        peer.record.take().0,
        [Seen::new("POST", HOST, "/", "hello")]
    );
    parkway.finish().await;
}

#[tokio::test]
async fn trailers_do_not_frame_a_message_in_http1() {
    for peer in peers::all().await {
        trailed(&peer).await;
    }
}

async fn trailed(peer: &Peer) {
    let parkway = in_front_of(peer).await;
    let trailers = |fields: &[(&str, &str)]| {
        let ends = flag::END_HEADERS | flag::END_STREAM;
        let head = frames::begun(1, &frames::request("POST", HOST, "/", &[]));
        let trailers = frame(kind::HEADERS, ends, 1, &frames::block(fields));
        [head, data(1, b"hello", false), trailers].concat()
    };
    for (fields, expected) in [
        ([("x-sum", "1")], Outcome::Answered(200)),
        ([("content-length", "3")], Outcome::Answered(200)),
        ([("host", "elsewhere")], Outcome::Answered(200)),
        ([("transfer-encoding", "chunked")], MALFORMED),
        ([("x", "1\r\n\r\nGET /smuggled HTTP/1.1")], NO_FIELD),
        // The engine passes over it, as if it were not there.
        ([(":path", "/smuggled")], Outcome::Answered(200)),
    ] {
        let outcome = outcome(&parkway, &trailers(&fields)).await;
        assert_eq!(outcome, expected, "{}: {fields:?}", peer.name);
        parkway.quiet().await;
        let (seen, _begun) = peer.record.take();
        match expected {
            Outcome::Answered(_) => assert_eq!(seen, [Seen::new("POST", HOST, "/", "hello")]),
            _ => assert!(seen.is_empty(), "{seen:?}"),
        }
    }
    parkway.finish().await;
}

/// What becomes of stream 1 on a connection of its own.
async fn outcome(parkway: &Parkway, wire: &[u8]) -> Outcome {
    let mut client = Frames::connect(parkway.external(), &[]).await;
    client.send(wire).await;
    while let Some(frame) = client.next().await {
        if let Some(code) = frame.goaway_code() {
            return Outcome::Ended(code);
        }
        if frame.stream != 1 {
            continue;
        }
        if let Some(code) = frame.reset_code() {
            return Outcome::Reset(code);
        }
        if let Some(status) = frame.status() {
            return Outcome::Answered(status);
        }
    }
    panic!("the connection ended without a word");
}
