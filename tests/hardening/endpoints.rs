//! Endpoints that answer what nobody can read in one way, or answer without end: the client gets 502, or what was meant,
//! and no other request gets what was not for it.

use http::Request;
use parkway_tests::frames::{self, Frames, data, flag, frame, kind};
use parkway_tests::upstream::Connection;
use parkway_tests::{
    Parkway, Upstream, anonymous_kib, h2c_revision_with_endpoints, revision_with_endpoints,
};

/// What a client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Gets {
    /// This status and body.
    Whole(u16, &'static str),
    /// A body that breaks off.
    Broken,
}

const BAD_GATEWAY: Gets = Gets::Whole(502, "");

fn answers() -> Vec<(&'static str, Gets)> {
    use Gets::{Broken, Whole};
    vec![
        // Several ends.
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
            BAD_GATEWAY,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello!",
            BAD_GATEWAY,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            Whole(200, "hello"),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
            BAD_GATEWAY,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
            BAD_GATEWAY,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\nhello",
            BAD_GATEWAY,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551621\r\n\r\nhello",
            BAD_GATEWAY,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            Whole(200, "hello"),
        ),
        (
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            BAD_GATEWAY,
        ),
        // Malformed heads.
        (
            "HTTP/1.1 200 OK\r\nX : 1\r\nContent-Length: 5\r\n\r\nhello",
            BAD_GATEWAY,
        ),
        (
            "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 5\r\n\r\nhello",
            BAD_GATEWAY,
        ),
        (
            "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 5\r\n\r\nhello",
            BAD_GATEWAY,
        ),
        (
            "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 5\r\n\r\nhello",
            BAD_GATEWAY,
        ),
        ("HTTP/1.1 200 OK\r\nno field\r\n\r\n", BAD_GATEWAY),
        ("HTTP/1.1 20 OK\r\n\r\n", BAD_GATEWAY),
        ("HTTP/1.1 2000 OK\r\n\r\n", BAD_GATEWAY),
        ("HTTP/1.1 099 OK\r\n\r\n", BAD_GATEWAY),
        ("HTTP/2.0 200 OK\r\n\r\n", BAD_GATEWAY),
        ("HTTP/0.9 200 OK\r\n\r\n", BAD_GATEWAY),
        ("ICY 200 OK\r\n\r\n", BAD_GATEWAY),
        ("hello\r\n\r\n", BAD_GATEWAY),
        ("\0\0\0\x04\0\0\0\0\0\r\n\r\n", BAD_GATEWAY),
        // Informational ones nobody asked for.
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            BAD_GATEWAY,
        ),
        (
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            Whole(200, "hello"),
        ),
        // Malformed chunks.
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
            Broken,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
            Broken,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n",
            Broken,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n",
            Broken,
        ),
        // Less than was said.
        ("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", Broken),
        // More than was said: it is nobody's.
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged",
            Whole(200, "hello"),
        ),
        (
            "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
            Whole(204, ""),
        ),
        (
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello",
            Whole(304, ""),
        ),
    ]
}

#[tokio::test]
async fn an_answer_that_can_be_read_in_two_ways_is_502_and_none_is_taken_for_the_next() {
    for (answer, expected) in answers() {
        let upstream = Upstream::start(move |mut connection: Connection| async move {
            while let Some(head) = connection.request().await {
                if head.target == "/next" {
                    connection.answer("next").await;
                    continue;
                }
                connection.send(answer).await;
                if answer.contains("Length: 6\r\n\r\nhello") && !answer.contains("forged") {
                    return;
                }
            }
        });
        let upstream = upstream.await;
        let manifest = revision_with_endpoints("shop", &[upstream.address()]);
        let parkway = Parkway::with(manifest).await;
        let shop = parkway.service("shop");
        let mut http1 = shop.http1().await;
        let got = http1
            .try_send(Request::get("/").body("".into()).unwrap())
            .await
            .unwrap();
        let over_http2 = shop.http2().await.get("/").await;
        for got in [got, over_http2] {
            let seen = match got.broken {
                Some(_) => Gets::Broken,
                None if got.status == 502 => BAD_GATEWAY,
                None => Gets::Whole(
                    got.status.as_u16(),
                    if got.text() == "hello" { "hello" } else { "" },
                ),
            };
            assert_eq!(seen, expected, "{answer:?}: {got:?}");
        }
        assert_eq!(
            shop.get("/next").await.expect(200).text(),
            "next",
            "{answer:?}"
        );
        parkway.finish().await;
    }
}

#[tokio::test]
async fn informational_answers_and_fields_without_end_are_502_by_http1_and_http2() {
    let hints = Upstream::start(async |mut connection: Connection| {
        while connection.request().await.is_some() {
            while connection
                .raw
                .try_send("HTTP/1.1 103 Early Hints\r\nx: 1\r\n\r\n")
                .await
                .is_ok()
            {}
        }
    });
    let fields = Upstream::start(async |mut connection: Connection| {
        while connection.request().await.is_some() {
            connection.send("HTTP/1.1 200 OK\r\n").await;
            while connection.raw.try_send("x: 1\r\n").await.is_ok() {}
        }
    });
    let line = Upstream::start(async |mut connection: Connection| {
        while connection.request().await.is_some() {
            connection.send("HTTP/1.1 200 OK\r\nx: ").await;
            while connection.raw.try_send([b'x'; 1_000]).await.is_ok() {}
        }
    });
    for upstream in [hints.await, fields.await, line.await] {
        let manifest = revision_with_endpoints("shop", &[upstream.address()]);
        let parkway = Parkway::with(manifest).await;
        parkway.service("shop").get("/").await.expect(502);
        parkway.finish().await;
    }

    let status = |status: &str| frames::block(&[(":status", status)]);
    let many_fields = [status("200"), frames::field("x", "1").repeat(1_000)].concat();
    let long_field = [status("200"), frames::field("x", "y".repeat(100_000))].concat();
    let answers = [
        frame(kind::HEADERS, flag::END_HEADERS, 1, &status("103")).repeat(100_000),
        frame(kind::HEADERS, flag::END_HEADERS, 1, &many_fields),
        in_pieces(&long_field),
        frame(kind::HEADERS, flag::END_HEADERS, 1, &status("101")),
        frame(
            kind::HEADERS,
            flag::END_HEADERS,
            1,
            &frames::block(&[("x", "1")]),
        ),
        frame(kind::HEADERS, flag::END_HEADERS, 1, &status("2x0")),
        frame(
            kind::HEADERS,
            flag::END_HEADERS,
            1,
            &[status("200"), frames::field("x", "a\r\nb")].concat(),
        ),
        frame(
            kind::HEADERS,
            flag::END_HEADERS,
            1,
            &[status("200"), frames::field("Connection", "close")].concat(),
        ),
        frame(kind::HEADERS, flag::END_HEADERS, 3, &status("200")),
        frame(
            kind::PUSH_PROMISE,
            flag::END_HEADERS,
            1,
            &[&[0, 0, 0, 2], &frames::get("shop", "/")[..]].concat(),
        ),
        data(1, b"hello", true),
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(),
        vec![0xff; 100],
    ];
    for answer in answers {
        let upstream = speaking(answer.clone()).await;
        let manifest = h2c_revision_with_endpoints("shop", &[upstream.address()]);
        let parkway = Parkway::with(manifest).await;
        let got = parkway.service("shop").get("/").await;
        assert_eq!(
            got.status,
            502,
            "{:?}: {got:?}",
            &answer[..answer.len().min(60)]
        );
        parkway.finish().await;
    }
}

/// A head in frames of a kilobyte.
fn in_pieces(block: &[u8]) -> Vec<u8> {
    let mut pieces = block.chunks(1_000);
    let first = frame(kind::HEADERS, flag::NONE, 1, pieces.next().unwrap());
    let more = pieces.map(|piece| frame(kind::CONTINUATION, flag::NONE, 1, piece));
    let end = frame(kind::CONTINUATION, flag::END_HEADERS, 1, &[]);
    [first]
        .into_iter()
        .chain(more)
        .chain([end])
        .collect::<Vec<_>>()
        .concat()
}

/// An endpoint that answers the first request of each connection by HTTP/2 with these bytes.
async fn speaking(answer: Vec<u8>) -> Upstream {
    Upstream::start(move |connection: Connection| {
        let answer = answer.clone();
        async move {
            let Some(mut peer) = Frames::accept(connection.raw).await else {
                return;
            };
            if peer.next_of(kind::HEADERS).await.is_some() {
                drop(peer.try_send(answer).await);
                peer.ended().await;
            }
        }
    })
    .await
}

/// What an endpoint says by itself, while nobody asks, is for nobody: its connection is not used again.
#[tokio::test]
async fn answers_to_requests_that_were_never_sent_are_given_to_nobody() {
    for unasked in [
        "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n",
        "x",
    ] {
        let (said, mut is_said) = tokio::sync::mpsc::channel(8);
        let upstream = Upstream::start(move |mut connection: Connection| {
            let said = said.clone();
            async move {
                if connection.number == 0 {
                    connection.request().await;
                    connection.answer("asked for").await;
                    connection.step().await;
                    connection.send(unasked).await;
                    said.send("said").await.unwrap();
                    let is_used = connection.request().await.is_some();
                    let told = if is_used { "used again" } else { "ended" };
                    said.send(told).await.unwrap();
                    return;
                }
                while connection.request().await.is_some() {
                    connection.answer("asked for").await;
                }
            }
        });
        let upstream = upstream.await;
        let manifest = revision_with_endpoints("shop", &[upstream.address()]);
        let parkway = Parkway::builder().manifest("main", manifest);
        let parkway = parkway.workers(1).start().await;
        let shop = parkway.service("shop");
        let mut client = shop.http1().await;
        let get = || Request::get("/").body("".into()).unwrap();
        client.send(get()).await.expect(200);

        upstream.go_on();
        // It lies in the socket before the next request comes, so the thread hears of both or of this one first.
        assert_eq!(is_said.recv().await, Some("said"));
        for _ in 0..3 {
            let answer = client.send(get()).await.expect(200);
            assert_eq!(answer.text(), "asked for", "{unasked:?}");
        }
        assert_eq!(is_said.recv().await, Some("ended"), "{unasked:?}");
        assert_eq!(upstream.connections(), 2, "{unasked:?}");
        drop(client);
        parkway.finish().await;
    }
}

/// What hostile endpoints can make Parkway keep, measured.
#[tokio::test]
async fn endpoints_that_answer_without_end_take_bounded_memory() {
    const BOUND_KIB: u64 = 24 * 1024;
    let upstream = Upstream::start(async |mut connection: Connection| {
        while let Some(head) = connection.request().await {
            let (first, again) = match head.target.as_str() {
                "/hints" => ("", "HTTP/1.1 103 Early Hints\r\nx: 1\r\n\r\n".to_owned()),
                "/fields" => ("HTTP/1.1 200 OK\r\n", "x: 1\r\n".to_owned()),
                "/line" => ("HTTP/1.1 200 OK\r\nx: ", "x".repeat(10_000)),
                "/size" => (
                    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;",
                    "x".repeat(10_000),
                ),
                "/trailers" => (
                    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
                    "x: 1\r\n".to_owned(),
                ),
                _ => {
                    connection.answer("small").await;
                    continue;
                }
            };
            connection.send(first).await;
            while connection.raw.try_send(&again).await.is_ok() {}
        }
    });
    let upstream = upstream.await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await;
    let shop = parkway.service("shop");
    shop.get("/").await.expect(200);
    let before = anonymous_kib(parkway.pid());
    for target in ["/hints", "/fields", "/line", "/size", "/trailers"] {
        let all = (0..50).map(|_| shop.try_get(target));
        let answers = futures::future::join_all(all).await;
        for answer in answers {
            let is_whole =
                answer.is_ok_and(|answer| answer.status == 200 && answer.broken.is_none());
            assert!(!is_whole, "{target}");
        }
        let more = anonymous_kib(parkway.pid()).saturating_sub(before);
        println!("{target}, 50 at once: {more} KiB more than before, of {BOUND_KIB}");
        assert!(more < BOUND_KIB, "{target}: {more} KiB more");
        shop.get("/").await.expect(200);
    }
    parkway.finish().await;
}
