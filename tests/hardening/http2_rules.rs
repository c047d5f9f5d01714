//! What a client must not say by HTTP/2, and the error that answers it: the cases of the `h2spec` suite that concern a
//! server, by section of RFC 9113.

use parkway_tests::frames::{
    self, Frames, begun, code, data, flag, frame, get, kind, reset, settings, whole, window,
};
use parkway_tests::{Parkway, Raw, Upstream, revision_with_endpoints};

const HOST: &str = "shop.default.localhost";

/// What a mistake leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leads {
    /// The connection is ended with this code.
    Ended(u32),
    /// Stream 1 is reset with this code.
    Reset(u32),
    /// Nothing: stream 1 is answered.
    Answered,
}

/// The section, what is sent, and what it leads to. Where the RFC has a code of its own for a frame of a wrong length or a
/// setting out of bounds, the engine says `PROTOCOL_ERROR`.
fn mistakes() -> Vec<(&'static str, Vec<u8>, Leads)> {
    use Leads::{Answered, Ended, Reset};
    const PROTOCOL: Leads = Ended(code::PROTOCOL_ERROR);
    const SIZE: Leads = Ended(code::FRAME_SIZE_ERROR);
    const FLOW: Leads = Ended(code::FLOW_CONTROL_ERROR);
    let head = get(HOST, "/");
    let post = begun(1, &frames::request("POST", HOST, "/", &[]));
    let setting = |name, value| settings(&[(name, value)]);
    let none = flag::NONE;
    let large = vec![0; 16_385];
    let last = frame(kind::CONTINUATION, flag::END_HEADERS, 1, &[]);
    vec![
        (
            "4.1 unknown type",
            [frame(0xbb, none, 1, b"x"), whole(1, &head)].concat(),
            Answered,
        ),
        (
            "4.1 unknown flag",
            [
                frame(kind::PING, 0xfe & !flag::ACK, 0, &[0; 8]),
                whole(1, &head),
            ]
            .concat(),
            Answered,
        ),
        (
            "4.1 reserved bit",
            [
                frame(kind::PING, none, 0x8000_0000, &[0; 8]),
                whole(1, &head),
            ]
            .concat(),
            Answered,
        ),
        (
            "4.2 large DATA",
            [post.clone(), data(1, &large, true)].concat(),
            SIZE,
        ),
        ("4.2 large HEADERS", whole(1, &large), SIZE),
        (
            "4.2 as large as may be",
            [post.clone(), data(1, &large[1..], true)].concat(),
            Answered,
        ),
        (
            "4.3 no such index",
            whole(1, &[0xff, 0xff, 0xff, 0x0f]),
            PROTOCOL,
        ),
        ("4.3 cut short", whole(1, &[0x00, 0x05, b'x']), PROTOCOL),
        (
            "4.3 PRIORITY between",
            [
                frame(kind::HEADERS, flag::END_STREAM, 1, &head),
                frame(kind::PRIORITY, none, 1, &[0, 0, 0, 0, 9]),
                last.clone(),
            ]
            .concat(),
            PROTOCOL,
        ),
        (
            "4.3 another stream between",
            [
                frame(kind::HEADERS, flag::END_STREAM, 1, &head),
                whole(3, &head),
                last.clone(),
            ]
            .concat(),
            PROTOCOL,
        ),
        (
            "4.3 something between",
            [
                frame(kind::HEADERS, flag::END_STREAM, 1, &head),
                data(1, b"x", true),
            ]
            .concat(),
            PROTOCOL,
        ),
        ("5.1 DATA, idle", data(1, b"x", true), PROTOCOL),
        ("5.1 RST_STREAM, idle", reset(1, code::CANCEL), PROTOCOL),
        ("5.1 WINDOW_UPDATE, idle", window(1, 1), PROTOCOL),
        (
            "5.1 CONTINUATION, idle",
            frame(kind::CONTINUATION, flag::END_HEADERS, 1, &head),
            PROTOCOL,
        ),
        ("5.1.1 even", whole(2, &head), PROTOCOL),
        (
            "5.1.1 lower",
            [whole(5, &head), whole(1, &head)].concat(),
            PROTOCOL,
        ),
        (
            "5.3.1 on itself",
            frame(
                kind::HEADERS,
                flag::END_HEADERS | flag::END_STREAM | flag::PRIORITY,
                1,
                &[&[0, 0, 0, 1, 9], &head[..]].concat(),
            ),
            Reset(code::PROTOCOL_ERROR),
        ),
        (
            "5.3.1 PRIORITY on itself",
            [
                post.clone(),
                frame(kind::PRIORITY, none, 1, &[0, 0, 0, 1, 9]),
            ]
            .concat(),
            Reset(code::PROTOCOL_ERROR),
        ),
        (
            "5.5 unknown between",
            [
                frame(kind::HEADERS, flag::END_STREAM, 1, &head),
                frame(0xbb, none, 1, b"x"),
                last.clone(),
            ]
            .concat(),
            PROTOCOL,
        ),
        ("6.1 stream 0", data(0, b"x", true), PROTOCOL),
        (
            "6.1 padding",
            [post.clone(), frame(kind::DATA, flag::PADDED, 1, &[9, b'x'])].concat(),
            PROTOCOL,
        ),
        ("6.2 stream 0", whole(0, &head), PROTOCOL),
        (
            "6.2 padding",
            frame(
                kind::HEADERS,
                flag::END_HEADERS | flag::PADDED,
                1,
                &[[255].as_slice(), &head].concat(),
            ),
            PROTOCOL,
        ),
        (
            "6.3 stream 0",
            frame(kind::PRIORITY, none, 0, &[0, 0, 0, 0, 9]),
            PROTOCOL,
        ),
        (
            "6.3 length",
            [post.clone(), frame(kind::PRIORITY, none, 1, &[0; 4])].concat(),
            PROTOCOL,
        ),
        ("6.4 stream 0", reset(0, code::CANCEL), PROTOCOL),
        (
            "6.4 length",
            [post.clone(), frame(kind::RST_STREAM, none, 1, &[0; 3])].concat(),
            PROTOCOL,
        ),
        (
            "6.5 ACK with settings",
            frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]),
            PROTOCOL,
        ),
        (
            "6.5 of a stream",
            frame(kind::SETTINGS, none, 1, &[]),
            PROTOCOL,
        ),
        (
            "6.5 length",
            frame(kind::SETTINGS, none, 0, &[0; 3]),
            PROTOCOL,
        ),
        ("6.5.2 push", setting(2, 2), PROTOCOL),
        ("6.5.2 window", setting(4, 0x8000_0000), PROTOCOL),
        ("6.5.2 small frames", setting(5, 16_383), PROTOCOL),
        ("6.5.2 large frames", setting(5, 16_777_216), PROTOCOL),
        (
            "6.5.2 unknown",
            [setting(0xff, 1), whole(1, &head)].concat(),
            Answered,
        ),
        (
            "6.6 push",
            frame(
                kind::PUSH_PROMISE,
                flag::END_HEADERS,
                1,
                &[&[0, 0, 0, 2], &head[..]].concat(),
            ),
            PROTOCOL,
        ),
        (
            "6.7 of a stream",
            frame(kind::PING, none, 1, &[0; 8]),
            PROTOCOL,
        ),
        ("6.7 length", frame(kind::PING, none, 0, &[0; 6]), PROTOCOL),
        (
            "6.8 of a stream",
            frame(kind::GOAWAY, none, 1, &[0; 8]),
            PROTOCOL,
        ),
        ("6.9 nothing", window(0, 0), PROTOCOL),
        (
            "6.9 nothing, of a stream",
            [post.clone(), window(1, 0)].concat(),
            PROTOCOL,
        ),
        (
            "6.9 length",
            frame(kind::WINDOW_UPDATE, none, 0, &[0; 3]),
            PROTOCOL,
        ),
        (
            "6.9.1 too large",
            [window(0, 0x7fff_ffff), window(0, 0x7fff_ffff)].concat(),
            FLOW,
        ),
        (
            "6.9.1 too large, of a stream",
            [post.clone(), window(1, 0x7fff_ffff)].concat(),
            Reset(code::FLOW_CONTROL_ERROR),
        ),
        (
            "6.9.2 too large by a setting",
            [post.clone(), window(1, 1), setting(4, 0x7fff_ffff)].concat(),
            FLOW,
        ),
        (
            "6.10 in pieces",
            [
                frame(kind::HEADERS, flag::END_STREAM, 1, &head[..7]),
                frame(kind::CONTINUATION, none, 1, &head[7..9]),
                frame(kind::CONTINUATION, none, 1, &head[9..]),
                last.clone(),
            ]
            .concat(),
            Answered,
        ),
        (
            "6.10 stream 0",
            [
                frame(kind::HEADERS, flag::END_STREAM, 1, &head),
                frame(kind::CONTINUATION, flag::END_HEADERS, 0, &[]),
            ]
            .concat(),
            PROTOCOL,
        ),
        (
            "6.10 not to the end",
            [
                frame(kind::HEADERS, flag::END_STREAM, 1, &head[..7]),
                frame(kind::CONTINUATION, none, 1, &head[7..]),
                frame(kind::PING, none, 0, &[0; 8]),
            ]
            .concat(),
            PROTOCOL,
        ),
        (
            "6.10 behind the end",
            [
                frame(kind::HEADERS, none, 1, &post[9..]),
                last.clone(),
                last.clone(),
            ]
            .concat(),
            PROTOCOL,
        ),
        (
            "6.10 behind DATA",
            [post.clone(), data(1, b"x", false), last.clone()].concat(),
            PROTOCOL,
        ),
        (
            "6.10 without HEADERS",
            [
                post.clone(),
                frame(kind::CONTINUATION, flag::END_HEADERS, 1, &head),
            ]
            .concat(),
            PROTOCOL,
        ),
        (
            "8.1 second head",
            [post.clone(), begun(1, &head)].concat(),
            Reset(code::PROTOCOL_ERROR),
        ),
    ]
}

/// What no block of fields may have, by section of RFC 7541. Each stands where a field may.
fn malformed_blocks() -> Vec<(&'static str, Vec<u8>)> {
    let head = get(HOST, "/");
    let behind = |field: &[u8]| [&head, field].concat();
    vec![
        ("HPACK 2.3.3 no such index", behind(&[0xbf])),
        (
            "HPACK 2.3.3 no such name",
            behind(&[0x7f, 0x00, 0x01, b'x']),
        ),
        ("HPACK 4.2 table's size at the end", behind(&[0x20])),
        ("HPACK 5.1 endless number", behind(&[0xff; 12])),
        (
            "HPACK 5.2 long padding",
            behind(&[0, 1, b'x', 0x82, 0x1f, 0xff]),
        ),
        (
            "HPACK 5.2 padding of zeros",
            behind(&[0, 1, b'x', 0x81, 0x18]),
        ),
        (
            "HPACK 5.2 end of string",
            behind(&[0, 1, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]),
        ),
        (
            "HPACK 5.2 longer than the block",
            behind(&[0, 1, b'x', 0x7e]),
        ),
        ("HPACK 6.1 index of nothing", behind(&[0x80])),
        (
            "HPACK 6.3 too large a table",
            [&[0x3f, 0xe2, 0x1f], &head[..]].concat(),
        ),
    ]
}

#[tokio::test]
async fn each_mistake_is_answered_by_its_error_and_no_other_client_notices() {
    let upstream = Upstream::answering("shop").await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await;
    let other = parkway.service("shop").http2().await;
    let mut wrong = Vec::new();
    let blocks = malformed_blocks();
    let blocks = blocks.into_iter().map(|(section, block)| {
        let leads = Leads::Ended(code::PROTOCOL_ERROR);
        (section, whole(1, &block), leads)
    });
    for (section, wire, expected) in mistakes().into_iter().chain(blocks) {
        let mut client = Frames::connect(parkway.external(), &[]).await;
        client.send(&wire).await;
        let leads = leads(&mut client).await;
        if leads != Some(expected) {
            wrong.push(format!("{section}: {leads:?}, not {expected:?}"));
        }
        if matches!(leads, Some(Leads::Ended(_))) {
            // 5.4.1: what was said is followed by the end itself.
            client.ended().await;
        }
        other.get("/").await.expect(200);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    parkway.finish().await;
}

#[tokio::test]
async fn what_is_no_preface_is_no_http2() {
    let upstream = Upstream::answering("shop").await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await;
    for preface in [
        "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\n",
        "PRI / HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut client = Raw::connect(parkway.external()).await;
        client
            .send([preface.as_bytes(), &settings(&[])].concat())
            .await;
        let said = String::from_utf8_lossy(&client.rest().await).into_owned();
        assert!(said.starts_with("HTTP/1.1 400 "), "{preface:?}: {said:?}");
    }
    assert_eq!(upstream.connections(), 0);
    parkway.finish().await;
}

async fn leads(client: &mut Frames) -> Option<Leads> {
    loop {
        let frame = client.next().await?;
        if let Some(code) = frame.goaway_code() {
            return Some(Leads::Ended(code));
        }
        if frame.stream == 1 {
            if let Some(code) = frame.reset_code() {
                return Some(Leads::Reset(code));
            }
            if frame.status() == Some(200) {
                return Some(Leads::Answered);
            }
        }
    }
}
