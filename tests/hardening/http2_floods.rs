//! What has brought HTTP/2 servers down, frame by frame: the connection is ended, with the code that says why, or the
//! flood does nothing; memory stays bounded; others are served meanwhile.

use std::time::Duration;

use parkway_tests::frames::{
    self, Frames, INITIAL_WINDOW, begun, code, data, field, flag, frame, get, kept_field, kind,
    many, reset, settings, whole, window,
};
use parkway_tests::upstream::Connection;
use parkway_tests::{Parkway, Site, Upstream, anonymous_kib, revision_with_endpoints};

const HOST: &str = "shop.default.localhost";

/// Memory that one hostile connection may take, beyond what there was before it, in KiB: each of 250 streams may have a
/// head, or 64 KiB of an answer and the next piece of it, and some are in two stages.
const ALLOWED_KIB: u64 = 32 * 1024;

struct Shop {
    parkway: Parkway,
    _upstream: Upstream,
    before_kib: u64,
}

impl Shop {
    async fn open() -> Self {
        Self::with(Upstream::answering("shop").await, &[]).await
    }

    async fn with(upstream: Upstream, flags: &[(&str, u64)]) -> Self {
        let manifest = revision_with_endpoints("shop", &[upstream.address()]);
        let mut builder = Parkway::builder().manifest("main", manifest);
        for (flag, value) in flags {
            builder = builder.flag(flag, value);
        }
        let parkway = builder.start().await;
        // Whatever is made once is made.
        parkway.service("shop").get("/").await.expect(200);
        parkway
            .service("shop")
            .http2()
            .await
            .get("/")
            .await
            .expect(200);
        Self {
            before_kib: anonymous_kib(parkway.pid()),
            parkway,
            _upstream: upstream,
        }
    }

    fn site(&self) -> Site {
        self.parkway.service("shop")
    }

    async fn client(&self) -> Frames {
        Frames::connect(self.parkway.external(), &[]).await
    }

    /// Proves that others are served, and that memory is bounded.
    #[expect(clippy::print_stdout, reason = "measured for who wants to see it")]
    async fn goes_on(&self, what: &str) {
        self.site().get("/").await.expect(200);
        let now = anonymous_kib(self.parkway.pid());
        let more = now.saturating_sub(self.before_kib);
        println!(
            "{what}: {} KiB before, {more} KiB more now",
            self.before_kib
        );
        assert!(more < ALLOWED_KIB, "{what}: {more} KiB more");
    }

    async fn close(self) {
        self.parkway.finish().await;
    }
}

/// Odd numbers from 1: the streams a client may begin.
fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|number| 2 * number + 1)
}

#[tokio::test]
async fn streams_that_are_reset_as_soon_as_they_begin_end_the_connection() {
    let shop = Shop::open().await;
    let mut client = shop.client().await;
    let block = get(HOST, "/");
    let flood =
        many(streams(20_000).map(|id| [whole(id, &block), reset(id, code::CANCEL)].concat()));

    drop(client.try_send(flood).await);

    let ended = client.ended().await;
    shop.goes_on("rapid reset").await;
    assert_eq!(ended.goaway, Some(code::ENHANCE_YOUR_CALM), "{ended:?}");
    shop.close().await;
}

#[tokio::test]
async fn streams_that_are_reset_one_after_the_other_end_the_connection_too() {
    let quiet = Upstream::start(async |connection: Connection| connection.stall().await).await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[quiet.address()])).await;
    let mut client = Frames::connect(parkway.external(), &[]).await;
    let block = get(HOST, "/");
    let (mut begun, mut goaway) = (0, None);
    for id in streams(5_000) {
        // An answer to the ping proves that the stream was taken before it is reset.
        let ping = frame(kind::PING, flag::NONE, 0, &u64::from(id).to_be_bytes());
        if client
            .try_send([whole(id, &block), ping].concat())
            .await
            .is_err()
        {
            break;
        }
        let answer = loop {
            match client.next().await {
                Some(frame) if frame.kind == kind::PING => break Some(frame),
                Some(frame) => goaway = frame.goaway_code().or(goaway),
                None => break None,
            }
        };
        let Some(answer) = answer else {
            break;
        };
        assert_eq!(answer.flags, flag::ACK);
        begun += 1;
        drop(client.try_send(reset(id, code::CANCEL)).await);
    }
    assert!((200..2_000).contains(&begun), "{begun} streams");
    goaway = client.ended().await.goaway.or(goaway);
    assert_eq!(goaway, Some(code::ENHANCE_YOUR_CALM));
    parkway.finish().await;
}

#[tokio::test]
async fn a_client_that_resets_some_of_many_streams_is_not_ended() {
    let shop = Shop::open().await;
    let mut client = shop.client().await;
    let block = get(HOST, "/");
    for id in streams(1_000) {
        client.send(whole(id, &block)).await;
        if id % 3 == 0 {
            client.send(reset(id, code::CANCEL)).await;
        } else {
            assert_eq!(client.status(id).await, Some(200));
        }
        client.send(window(0, 1_000)).await;
    }
    shop.goes_on("some resets").await;
    drop(client);
    shop.close().await;
}

/// `MadeYouReset`, CVE-2025-8671: the server is made to reset what it has begun.
#[tokio::test]
async fn streams_that_we_are_made_to_reset_end_the_connection() {
    type Mistake = fn(u32) -> Vec<u8>;
    let shop = Shop::open().await;
    let block = get(HOST, "/");
    let mistakes: [(&str, Mistake); 3] = [
        ("a window update of nothing", |id| window(id, 0)),
        ("too large a window", |id| {
            [window(id, 0x7fff_ffff), window(id, 0x7fff_ffff)].concat()
        }),
        ("data behind the end", |id| data(id, b"x", false)),
    ];
    for (what, mistake) in mistakes {
        let mut client = shop.client().await;
        let flood = many(streams(20_000).map(|id| [whole(id, &block), mistake(id)].concat()));
        drop(client.try_send(flood).await);
        let ended = client.ended().await;
        shop.goes_on(what).await;
        assert!(
            ended.goaway.is_some_and(|code| code != code::NO_ERROR),
            "{what}: {:?}",
            ended.goaway
        );
    }
    shop.close().await;
}

#[tokio::test]
async fn a_head_in_endless_pieces_ends_the_connection() {
    let shop = Shop::open().await;
    for (what, piece) in [
        ("CONTINUATION", [field("x", "y".repeat(8_000))].concat()),
        ("empty CONTINUATION", vec![]),
        ("short CONTINUATION", field("x", "1")),
    ] {
        let mut client = shop.client().await;
        let first = frame(kind::HEADERS, flag::END_STREAM, 1, &get(HOST, "/"));
        client.send(first).await;
        let more = frame(kind::CONTINUATION, flag::NONE, 1, &piece);
        let flood = more.repeat(4_000);
        drop(client.try_send(flood).await);
        let ended = client.ended().await;
        shop.goes_on(what).await;
        let code = ended.goaway;
        assert!(
            matches!(
                code,
                Some(code::ENHANCE_YOUR_CALM | code::COMPRESSION_ERROR | code::PROTOCOL_ERROR)
            ),
            "{what}: {ended:?}"
        );
    }
    shop.close().await;
}

#[tokio::test]
async fn fields_that_grow_when_they_are_unpacked_are_refused() {
    unpacks_to_too_much(
        "HPACK bomb",
        &kept_field("x", "y".repeat(3_500)),
        30,
        12_000,
    )
    .await;
}

/// CVE-2026-49975, CVE-2026-47774: a byte for each crumb, and a window that keeps what is made of it.
#[tokio::test]
async fn a_cookie_in_thousands_of_crumbs_is_refused_whatever_the_window() {
    unpacks_to_too_much("crumbs", &kept_field("cookie", "a"), 1_000, 15_000).await;
}

/// Sends heads with a field that is there once and named again by a byte: `some` times are too many for a request, `many`
/// for a connection.
async fn unpacks_to_too_much(what: &str, field: &[u8], some: usize, many: usize) {
    let shop = Shop::open().await;
    let bomb = |times| [&get(HOST, "/"), field, &vec![frames::LAST_KEPT; times]].concat();
    let mut client = Frames::connect(shop.parkway.external(), &[(INITIAL_WINDOW, 0)]).await;
    for id in streams(240) {
        client.send(whole(id, &bomb(some))).await;
    }
    let refused = client.statuses(240).await;
    assert!(
        refused.iter().all(|(_, status)| *status == 431),
        "{refused:?}"
    );
    shop.goes_on(&format!("{what}, {some} times")).await;

    let mut client = Frames::connect(shop.parkway.external(), &[(INITIAL_WINDOW, 0)]).await;
    for id in streams(240) {
        drop(client.try_send(whole(id, &bomb(many))).await);
    }
    let ended = client.ended().await;
    assert_eq!(ended.goaway, Some(code::ENHANCE_YOUR_CALM), "{ended:?}");
    shop.goes_on(&format!("{what}, {many} times")).await;
    shop.close().await;
}

#[tokio::test]
async fn floods_of_small_frames_do_nothing_or_end_the_connection() {
    let shop = Shop::open().await;
    let post = begun(1, &frames::request("POST", HOST, "/", &[]));
    let calm = Some(code::ENHANCE_YOUR_CALM);
    let of_connection = |kind, payload: &[u8]| frame(kind, flag::NONE, 0, payload);
    let of_padding = frame(kind::DATA, flag::PADDED, 1, &[255; 256]);
    let floods = [
        ("PING", &b""[..], of_connection(kind::PING, &[0; 8]), None),
        ("SETTINGS", b"", settings(&[(INITIAL_WINDOW, 65_535)]), None),
        ("empty SETTINGS", b"", settings(&[]), None),
        ("empty DATA", &post, data(1, b"", false), calm),
        ("padding", &post, of_padding, calm),
        (
            "PRIORITY",
            b"",
            frame(kind::PRIORITY, flag::NONE, 7, &[0, 0, 0, 1, 9]),
            None,
        ),
        ("unknown frames", b"", of_connection(0x42, &[0; 8]), None),
        ("WINDOW_UPDATE", b"", window(0, 1), None),
    ];
    for (what, first, piece, expected) in floods {
        let flood = piece.repeat(100_000);
        let mut client = shop.client().await;
        client.send(first).await;
        // Nobody reads what comes back, so this may go no further at some time.
        let sending = tokio::time::timeout(UNREAD, client.try_send(&flood));
        drop(sending.await);
        shop.goes_on(&format!("{what}, nothing read")).await;
        client.half_close().await;
        let ended = client.ended().await;
        assert_eq!(ended.goaway, expected, "{what}: {ended:?}");
        shop.goes_on(&format!("{what}, all read")).await;
    }
    shop.close().await;
}

/// How long a flood is sent to someone who may have stopped to read.
const UNREAD: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_client_that_opens_no_window_loses_its_streams_and_others_are_served() {
    let shop = Shop::with(large_answers().await, &[("--stall-seconds", 1)]).await;
    let mut client = Frames::connect(shop.parkway.external(), &[(INITIAL_WINDOW, 0)]).await;
    for id in streams(100) {
        client.send(whole(id, &get(HOST, "/large"))).await;
    }
    shop.goes_on("no window").await;
    let (mut answered, mut reset) = (0, 0);
    while reset < 100 {
        let frame = client.next().await.unwrap();
        answered += usize::from(frame.status() == Some(200));
        if let Some(why) = frame.reset_code() {
            assert_eq!(why, code::ENHANCE_YOUR_CALM);
            reset += 1;
        }
    }
    assert_eq!(answered, 100);
    shop.parkway.in_flight(0).await;
    drop(client);
    shop.close().await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_closed_and_takes_bounded_memory() {
    let shop = Shop::with(large_answers().await, &[("--stall-seconds", 3)]).await;
    let settings = [(INITIAL_WINDOW, 0x7fff_ffff)];
    let mut client = Frames::connect(shop.parkway.external(), &settings).await;
    client.send(window(0, 0x7000_0000)).await;
    client
        .send(many(streams(200).map(|id| whole(id, &get(HOST, "/large")))))
        .await;
    shop.parkway
        .state_when("200 requests at endpoints", |state| state.in_flight() > 0)
        .await;
    shop.goes_on("nothing is read").await;

    shop.parkway.in_flight(0).await;
    shop.parkway
        .state_when("no connection", |state| state.connections() == 0)
        .await;
    drop(client);
    shop.close().await;
}

#[tokio::test]
async fn more_streams_than_may_be_are_refused_and_those_that_are_there_go_on() {
    let quiet = Upstream::start(async |connection: Connection| connection.stall().await);
    let quiet = quiet.await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[quiet.address()])).await;
    let mut client = Frames::connect(parkway.external(), &[]).await;
    let block = frames::request("POST", HOST, "/", &[]);
    client
        .send(many(streams(300).map(|id| begun(id, &block))))
        .await;
    for _ in 0..50 {
        let refused = client.next_of(kind::RST_STREAM).await.unwrap();
        assert_eq!(refused.reset_code(), Some(code::REFUSED_STREAM));
        assert!(refused.stream > 500, "{refused:?}");
    }
    parkway.in_flight(250).await;
    drop(client);
    parkway.finish().await;
}

/// An endpoint whose answers are far larger than any buffer; `/` is small.
async fn large_answers() -> Upstream {
    Upstream::start(async |mut connection: Connection| {
        while let Some(head) = connection.request().await {
            if head.target != "/large" {
                connection.answer("small").await;
                continue;
            }
            connection
                .send("HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
                .await;
            let piece = vec![0; 100_000];
            for _ in 0..1_000 {
                if connection.raw.try_send(&piece).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}
