//! What clients may send, and how long they may take: beyond it the answer is precise, and nothing reaches a workload.

use http::Request;
use parkway_tests::{Answer, Parkway, Raw, Site, Upstream, hello_service, revision_with_endpoints};

/// A Service whose endpoint tells what it got, so that nothing waits and nothing is made up.
struct Shop {
    parkway: Parkway,
    upstream: Upstream,
}

impl Shop {
    async fn open() -> Self {
        let upstream = Upstream::answering("shop").await;
        let manifest = revision_with_endpoints("shop", &[upstream.address()]);
        Self {
            parkway: Parkway::with(manifest).await,
            upstream,
        }
    }

    fn site(&self) -> Site {
        self.parkway.service("shop")
    }

    /// Proves that nothing has reached the endpoint.
    async fn untouched(self) {
        assert_eq!(self.upstream.connections(), 0);
        self.parkway.finish().await;
    }
}

#[tokio::test]
async fn a_head_of_more_bytes_than_allowed_is_answered_431() {
    let shop = Shop::open().await;
    let site = shop.site();
    let large = |bytes: usize| {
        let mut request = site.request(http::Method::GET, "/", "");
        request
            .headers_mut()
            .insert("x-large", "x".repeat(bytes).parse().unwrap());
        request
    };

    site.send(large(70 * 1024)).await.expect(431);
    let http2 = site.http2().await;
    http2.send(large(70 * 1024)).await.expect(431);

    assert_eq!(shop.upstream.connections(), 0);
    site.send(large(60 * 1024)).await.expect(200);
    http2.send(large(60 * 1024)).await.expect(200);
    shop.parkway.finish().await;
}

#[tokio::test]
async fn a_head_of_more_than_128_fields_is_answered_431() {
    let shop = Shop::open().await;
    // Host is one of them.
    let fields = |count: usize| {
        (2..=count)
            .map(|number| format!("x-{number}: {number}\r\n"))
            .collect::<String>()
    };
    let ask = async |count: usize| {
        let mut client = shop.site().raw().await;
        client
            .send(shop.site().head("GET /") + &fields(count) + "\r\n")
            .await;
        client.answer().await
    };

    ask(129).await.expect(431);

    assert_eq!(shop.upstream.connections(), 0);
    ask(128).await.expect(200);
    shop.parkway.finish().await;
}

#[tokio::test]
async fn each_crumb_of_an_http2_cookie_counts_as_a_field() {
    let shop = Shop::open().await;
    let http2 = shop.site().http2().await;
    let crumbs = |count: usize| {
        let mut request = shop.site().request(http::Method::GET, "/", "");
        for number in 0..count {
            let crumb = format!("crumb-{number}=1").parse().unwrap();
            request.headers_mut().append(http::header::COOKIE, crumb);
        }
        request
    };

    http2.send(crumbs(129)).await.expect(431);

    assert_eq!(shop.upstream.connections(), 0);
    let cookies = &http2.send(crumbs(100)).await.expect(200).json()["headers"]["cookie"];
    assert_eq!(cookies.as_array().unwrap().len(), 1, "joined for HTTP/1");
    shop.parkway.finish().await;
}

#[tokio::test]
async fn a_request_target_that_is_too_long_is_answered_414() {
    let shop = Shop::open().await;
    let path = |bytes: usize| format!("/{}", "x".repeat(bytes - 1));

    shop.site().get(&path(16 * 1024 + 1)).await.expect(414);
    let http2 = shop.site().http2().await;
    http2.get(&path(20 * 1024)).await.expect(414);

    assert_eq!(shop.upstream.connections(), 0);
    shop.site().get(&path(16 * 1024)).await.expect(200);
    shop.parkway.finish().await;
}

#[tokio::test]
async fn connect_is_answered_405() {
    let shop = Shop::open().await;
    let mut client = shop.site().raw().await;
    client
        .send(
            "CONNECT shop.default.localhost:80 HTTP/1.1\r\nHost: shop.default.localhost:80\r\n\r\n",
        )
        .await;
    client.answer().await.expect(405);
    shop.untouched().await;
}

#[tokio::test]
async fn a_request_without_a_host_is_answered_400() {
    refused_without_doubt("").await;
}

#[tokio::test]
async fn a_request_with_two_hosts_is_answered_400() {
    let host = "Host: shop.default.localhost\r\n";
    refused_without_doubt(&[host, host].concat()).await;
    refused_without_doubt(&[host, "Host: admin.default.localhost\r\n"].concat()).await;
}

#[tokio::test]
async fn content_length_beside_transfer_encoding_is_answered_400_whichever_comes_first() {
    let body = format!("0\r\n\r\n{SMUGGLED}");
    let (length, coding) = (length_of(&body), "Transfer-Encoding: chunked\r\n");
    refused(&[&length, coding].concat(), &body).await;
    refused(&[coding, &length].concat(), &body).await;
}

#[tokio::test]
async fn repeated_lengths_are_answered_400_even_when_they_are_equal() {
    let equal = length_of(SMUGGLED);
    refused(&[&*equal, &*equal].concat(), SMUGGLED).await;
    refused(&[&*equal, "Content-Length: 0\r\n"].concat(), SMUGGLED).await;
    let list = format!("Content-Length: {0}, {0}\r\n", SMUGGLED.len());
    refused(&list, SMUGGLED).await;
}

#[tokio::test]
async fn a_coding_other_than_chunked_is_answered_400() {
    let body = format!("0\r\n\r\n{SMUGGLED}");
    for codings in [
        "Transfer-Encoding: identity, chunked\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: \u{b}chunked\r\n",
    ] {
        refused(codings, &body).await;
    }
}

#[tokio::test]
async fn a_line_that_ends_without_a_carriage_return_is_answered_400() {
    refused("X-Hidden: 1\nContent-Length: 0\r\n", "").await;
    refused(
        "Transfer-Encoding: chunked\r\nX-Hidden: 1\n",
        &format!("0\r\n\r\n{SMUGGLED}"),
    )
    .await;
}

#[tokio::test]
async fn a_coding_in_http_1_0_is_answered_400() {
    let shop = Shop::open().await;
    let mut client = shop.site().raw().await;
    let request = "POST / HTTP/1.0\r\nHost: shop.default.localhost\r\nConnection: keep-alive\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    client.send([request, SMUGGLED].concat()).await;
    is_refused_for_good(&mut client).await;
    shop.untouched().await;
}

#[tokio::test]
async fn a_head_that_takes_too_long_is_answered_408() {
    let parkway = Parkway::builder()
        .manifest("main", hello_service("shop"))
        .flag("--header-read-seconds", 1)
        .start()
        .await;
    let mut client = parkway.service("shop").raw().await;

    client.send("GET / HTTP/1.1\r\nHost: shop.def").await;

    assert_eq!(
        client.answer().await.expect(408).header("connection"),
        Some("close")
    );
    assert!(client.is_closed().await);
    parkway.finish().await;
}

#[tokio::test]
async fn a_second_head_that_takes_too_long_is_answered_408_too() {
    let upstream = Upstream::answering("shop").await;
    let parkway = Parkway::builder()
        .manifest(
            "main",
            revision_with_endpoints("shop", &[upstream.address()]),
        )
        .flag("--header-read-seconds", 1)
        .start()
        .await;
    let shop = parkway.service("shop");
    let mut client = shop.raw().await;
    client.send(shop.head("GET /") + "\r\n").await;
    client.answer().await.expect(200);

    client.send("GET / HTTP/1.1\r\nHost: shop.def").await;

    client.answer().await.expect(408);
    assert!(client.is_closed().await);
    parkway.finish().await;
}

#[tokio::test]
async fn a_connection_that_stays_silent_is_closed() {
    let parkway = Parkway::builder()
        .manifest("main", hello_service("shop"))
        .flag("--first-byte-seconds", 3)
        .start()
        .await;
    let mut client = parkway.service("shop").raw().await;
    parkway
        .state_when("the connection", |state| state.connections() == 1)
        .await;
    assert!(client.is_closed().await);
    let no_connection = |state: &parkway_tests::State| state.connections() == 0;
    parkway.state_when("no connection", no_connection).await;
    parkway.finish().await;
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed_after_its_idle_time() {
    let upstream = Upstream::answering("shop").await;
    let parkway = Parkway::builder()
        .manifest(
            "main",
            revision_with_endpoints("shop", &[upstream.address()]),
        )
        .flag("--idle-seconds", 1)
        .start()
        .await;
    let shop = parkway.service("shop");
    let mut client = shop.raw().await;
    client.send(shop.head("GET /") + "\r\n").await;
    client.answer().await.expect(200);
    let http2 = shop.http2().await;
    http2.get("/").await.expect(200);

    assert!(client.is_closed().await);
    parkway
        .state_when("no connection", |state| state.connections() == 0)
        .await;
    assert!(
        http2
            .try_send(Request::get("/").body("".into()).unwrap())
            .await
            .is_err()
    );
    parkway.finish().await;
}

#[tokio::test]
async fn one_connection_too_many_is_answered_503_and_there_is_room_again_when_another_closes() {
    let upstream = Upstream::answering("shop").await;
    let parkway = Parkway::builder()
        .manifest(
            "main",
            revision_with_endpoints("shop", &[upstream.address()]),
        )
        .flag("--connections", 2)
        .start()
        .await;
    let shop = parkway.service("shop");
    let (mut first, mut second) = (shop.http1().await, shop.http1().await);
    let get = || shop.request(http::Method::GET, "/", "");
    first.send(get()).await.expect(200);
    second.send(get()).await.expect(200);

    // Said without being asked: a client that asks meanwhile may find the connection closed before it reads.
    let mut refused = shop.raw().await;
    let answer: Answer = refused.answer().await.expect(503);
    assert!(refused.is_closed().await);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.header("connection"), Some("close"));
    second.send(get()).await.expect(200);
    drop(first);
    parkway
        .state_when("room for a connection", |state| state.connections() == 1)
        .await;

    shop.get("/").await.expect(200);
    drop(second);
    parkway.finish().await;
}

/// A request that must never be answered as one: it hides in another's body.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: shop.default.localhost\r\n\r\n";

fn length_of(body: &str) -> String {
    format!("Content-Length: {}\r\n", body.len())
}

/// A POST whose end can be read in two ways: the only answer is 400, and the connection is closed.
async fn refused(fields: &str, body: &str) {
    let shop = Shop::open().await;
    let mut client = shop.site().raw().await;
    client
        .send(shop.site().head("POST /") + fields + "\r\n" + body)
        .await;
    is_refused_for_good(&mut client).await;
    shop.untouched().await;
}

async fn is_refused_for_good(client: &mut Raw) {
    let all = client.rest().await;
    let all = String::from_utf8_lossy(&all);
    assert!(
        all.starts_with("HTTP/1.1 400 ") || all.starts_with("HTTP/1.0 400 "),
        "{all:?}"
    );
    assert_eq!(all.matches("HTTP/1.").count(), 1, "{all:?}");
}

/// A request whose end is clear: 400, and what follows is either not answered or answered for what it is.
async fn refused_without_doubt(hosts: &str) {
    let shop = Shop::open().await;
    let mut client = shop.site().raw().await;
    let length = length_of(SMUGGLED);
    client
        .send(format!("POST / HTTP/1.1\r\n{hosts}{length}\r\n{SMUGGLED}"))
        .await;
    client.answer().await.expect(400);

    let next = shop.site().head("GET /next") + "Connection: close\r\n\r\n";
    drop(client.try_send(next).await);

    let rest = String::from_utf8_lossy(&client.rest().await).into_owned();
    assert!(!rest.contains("smuggled"), "{rest:?}");
    if !rest.is_empty() {
        assert!(
            rest.starts_with("HTTP/1.1 200 ") && rest.contains("/next"),
            "{rest:?}"
        );
        assert_eq!(shop.upstream.connections(), 1);
    }
    shop.parkway.finish().await;
}
