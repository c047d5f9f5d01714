//! What each attack costs in memory, for each connection that attacks: measured, and bounded.
//!
//! Every attacker holds what it can get and lets nothing go. Memory is what the process has written to and shares with
//! nobody; the bounds have some room, because the allocator keeps pages and threads have tables of their own.

use std::future::Future;

use parkway_tests::frames::{
    self, Frames, INITIAL_WINDOW, begun, code, data, flag, frame, get, kept_field, kind, many,
    request, reset, settings, whole,
};
use parkway_tests::upstream::Connection;
use parkway_tests::{
    Builder, Parkway, Raw, Upstream, anonymous_kib, eventually, revision_with_endpoints,
};

const HOST: &str = "shop.default.localhost";

struct Target {
    parkway: Parkway,
    _upstream: Upstream,
    before_kib: u64,
}

impl Target {
    /// Its endpoint takes requests and never answers but `/` and `/large`, which it answers at length.
    async fn open(flags: impl FnOnce(Builder) -> Builder) -> Self {
        let upstream = Upstream::start(endpoint).await;
        let manifest = revision_with_endpoints("shop", &[upstream.address()]);
        let parkway = flags(Parkway::builder().manifest("main", manifest))
            .start()
            .await;
        let shop = parkway.service("shop");
        // Whatever is made once is made.
        shop.get("/").await.expect(200);
        shop.http2().await.get("/").await.expect(200);
        let before_kib = anonymous_kib(parkway.pid());
        Self {
            parkway,
            _upstream: upstream,
            before_kib,
        }
    }

    /// Runs an attack of so many connections, each of which is kept, and says how many bytes each has cost; no more than
    /// `bound`. Others are served meanwhile.
    async fn costs<F, K>(self, what: &str, count: usize, bound: u64, attack: impl Fn() -> F)
    where
        F: Future<Output = K>,
    {
        self.costs_holding(0, what, count, bound, attack).await;
    }

    /// The same with an attack that holds so many requests at the endpoint.
    #[expect(clippy::print_stdout, reason = "the figures that are asked for")]
    async fn costs_holding<F, K>(
        self,
        in_flight: u64,
        what: &str,
        count: usize,
        bound: u64,
        attack: impl Fn() -> F,
    ) where
        F: Future<Output = K>,
    {
        let mut kept = Vec::new();
        for _ in 0..count {
            kept.push(attack().await);
        }
        if in_flight > 0 {
            self.parkway.in_flight(in_flight).await;
        }
        let mut most = 0;
        // What was sent last may still be on its way.
        let mut settled = 0;
        eventually("memory to be what it is", async || {
            let now = anonymous_kib(self.parkway.pid());
            settled = if now > most { 0 } else { settled + 1 };
            most = most.max(now);
            (settled == 10).then_some(())
        })
        .await;
        self.parkway.service("shop").get("/").await.expect(200);
        let each = most.saturating_sub(self.before_kib) * 1024 / count as u64;
        println!("{what}: {each} bytes for each of {count} connections, of {bound}");
        assert!(each <= bound, "{what}: {each} bytes for each, not {bound}");
        drop(kept);
        let parkway = self.parkway;
        parkway.quiet().await;
        parkway.stop().await;
    }
}

async fn endpoint(mut connection: Connection) {
    while let Some(head) = connection.request().await {
        match head.target.as_str() {
            "/" => connection.answer("small").await,
            "/large" => {
                let head = "HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n";
                connection.send(head).await;
                let piece = vec![0; 100_000];
                for _ in 0..1_000 {
                    if connection.raw.try_send(&piece).await.is_err() {
                        return;
                    }
                }
            }
            _ => std::future::pending().await,
        }
    }
}

const KIB: u64 = 1024;

#[tokio::test]
async fn connections_that_say_nothing() {
    let target = Target::open(|builder| builder).await;
    let parkway = target.parkway.external();
    target
        .costs("silent connections", 2_000, 4 * KIB, || {
            Raw::connect(parkway)
        })
        .await;
}

#[tokio::test]
async fn heads_that_never_end() {
    for (what, bytes, bound) in [
        ("slow heads", 100, 32 * KIB),
        ("heads of nearly all that is allowed", 60_000, 160 * KIB),
    ] {
        let target = Target::open(|builder| builder).await;
        let to = target.parkway.external();
        let head = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nx: {}", "y".repeat(bytes));
        target
            .costs(what, 300, bound, async || {
                let mut client = Raw::connect(to).await;
                client.send(&head).await;
                client
            })
            .await;
    }
}

#[tokio::test]
async fn heads_of_more_than_is_allowed() {
    let target = Target::open(|builder| builder).await;
    let to = target.parkway.external();
    let bomb = format!(
        "GET / HTTP/1.1\r\nHost: {HOST}\r\n{}",
        "x: 1\r\n".repeat(50_000)
    );
    target
        .costs("head bombs", 300, 64 * KIB, async || {
            let mut client = Raw::connect(to).await;
            drop(client.try_send(&bomb).await);
            client
        })
        .await;
}

#[tokio::test]
async fn bodies_that_never_end() {
    let target = Target::open(|builder| builder).await;
    let to = target.parkway.external();
    let head = format!("POST /slow HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000000\r\n\r\nx");
    target
        .costs_holding(300, "slow bodies", 300, 64 * KIB, async || {
            let mut client = Raw::connect(to).await;
            client.send(&head).await;
            client
        })
        .await;
}

#[tokio::test]
async fn uploads_that_nobody_takes() {
    let target = Target::open(|builder| builder).await;
    let to = target.parkway.external();
    let head = format!("POST /slow HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100000000\r\n\r\n");
    let body = vec![b'x'; 1_000_000];
    target
        .costs_holding(
            100,
            "uploads that nobody takes",
            100,
            384 * KIB,
            async || {
                let mut client = Raw::connect(to).await;
                client.send(&head).await;
                client.send_what_goes(&body).await;
                client
            },
        )
        .await;
}

#[tokio::test]
async fn requests_that_are_parked_with_all_they_may_bring() {
    let upstream = Upstream::answering("shop").await;
    let parked = revision_with_endpoints("parked", &[]);
    let manifest = revision_with_endpoints("shop", &[upstream.address()]).and(parked);
    let parkway = Parkway::with(manifest).await;
    parkway.service("shop").get("/").await.expect(200);
    let before_kib = anonymous_kib(parkway.pid());
    let to = parkway.external();
    let target = Target {
        parkway,
        _upstream: upstream,
        before_kib,
    };
    let head =
        "POST / HTTP/1.1\r\nHost: parked.default.localhost\r\nContent-Length: 100000000\r\n\r\n";
    let body = vec![b'x'; 1_000_000];
    // 64 MiB for each queue, and no more.
    target
        .costs(
            "parked uploads",
            500,
            64 * 1024 * KIB * 2 / 500,
            async || {
                let mut client = Raw::connect(to).await;
                client.send(head).await;
                client.send_what_goes(&body).await;
                // An orderly end is not heard of: it is behind what nobody reads.
                client.leaves_with_a_reset();
                client
            },
        )
        .await;
}

#[tokio::test]
async fn answers_that_nobody_reads() {
    let target = Target::open(|builder| builder).await;
    let to = target.parkway.external();
    target
        .costs_holding(
            100,
            "answers that nobody reads",
            100,
            512 * KIB,
            async || {
                let mut client = Raw::connect(to).await;
                client
                    .send(format!("GET /large HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))
                    .await;
                client
            },
        )
        .await;
}

#[tokio::test]
async fn http2_connections_that_hold_all_they_may() {
    let streams = || (0..250_u32).map(|number| 2 * number + 1);
    let waiting = many(streams().map(|id| whole(id, &get(HOST, "/slow"))));
    let posts = many(streams().map(|id| {
        let post = begun(id, &request("POST", HOST, "/slow", &[]));
        [post, data(id, &[b'x'; 4_000], false)].concat()
    }));
    let large = many(streams().map(|id| whole(id, &get(HOST, "/large"))));
    let crumbs = many(streams().map(|id| {
        let crumbs = vec![frames::LAST_KEPT; 100];
        whole(
            id,
            &[get(HOST, "/slow"), kept_field("cookie", "a"), crumbs].concat(),
        )
    }));
    // Each of 250 streams may have a request at an endpoint, and what has come of its body or its answer. Two such
    // connections: if one worker has them both, its 512 connections to the endpoint leave room for others.
    for (what, bytes, settings, bound) in [
        ("250 streams each", waiting, &[][..], 8 * 1024 * KIB),
        ("250 uploads each", posts, &[], 16 * 1024 * KIB),
        (
            "250 zero windows each",
            large,
            &[(INITIAL_WINDOW, 0)],
            32 * 1024 * KIB,
        ),
        ("250 heads of crumbs each", crumbs, &[], 16 * 1024 * KIB),
    ] {
        let target = Target::open(|builder| builder).await;
        let to = target.parkway.external();
        target
            .costs_holding(500, what, 2, bound, async || {
                let mut client = Frames::connect(to, settings).await;
                // Until then it may send no more than 64 KiB.
                client.next_of(kind::WINDOW_UPDATE).await;
                client.send(&bytes).await;
                client
            })
            .await;
    }
}

#[tokio::test]
async fn http2_floods() {
    let streams = |count: u32| (0..count).map(|number| 2 * number + 1);
    let rapid = many(
        streams(20_000)
            .map(|id| [whole(id, &get(HOST, "/slow")), reset(id, code::CANCEL)].concat()),
    );
    let made = many(
        streams(20_000).map(|id| [whole(id, &get(HOST, "/slow")), frames::window(id, 0)].concat()),
    );
    let first = frame(kind::HEADERS, flag::END_STREAM, 1, &get(HOST, "/"));
    let continued = frame(kind::CONTINUATION, flag::NONE, 1, &frames::field("x", "y"));
    let continuation = [first, continued.repeat(100_000)].concat();
    let ping = frame(kind::PING, flag::NONE, 0, &[0; 8]).repeat(100_000);
    let set = settings(&[]).repeat(100_000);
    let empty = [
        begun(1, &request("POST", HOST, "/slow", &[])),
        data(1, b"", false).repeat(100_000),
    ]
    .concat();
    for (what, flood) in [
        ("rapid reset", rapid.to_vec()),
        ("made to reset", made.to_vec()),
        ("CONTINUATION", continuation),
        ("PING", ping),
        ("SETTINGS", set),
        ("empty DATA", empty),
    ] {
        let target = Target::open(|builder| builder).await;
        let to = target.parkway.external();
        target
            .costs(what, 8, 512 * KIB, async || {
                let mut client = Frames::connect(to, &[]).await.into_raw();
                client.send_what_goes(&flood).await;
                client
            })
            .await;
    }
}
