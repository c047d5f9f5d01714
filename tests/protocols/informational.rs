//! Responses of endpoints that say that another is to come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use parkway_tests::upstream::Connection;
use parkway_tests::{Parkway, Upstream, h2c_revision_with_endpoints, revision_with_endpoints};

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n";
const PROCESSING: &str = "HTTP/1.1 102 Processing\r\n\r\n";

async fn ended_here(parkway: &Parkway) -> f64 {
    let name = "parkway_informational_responses_total";
    let labels = [("kn_revision_name", "shop-00001")];
    parkway.metric(name, &labels).await.unwrap_or(0.0)
}

#[tokio::test]
async fn those_of_http1_end_here_and_are_counted_whatever_the_client_speaks() {
    let upstream = Upstream::start(async |mut connection: Connection| {
        while connection.request().await.is_some() {
            for said in [HINTS, PROCESSING, HINTS] {
                connection.send(said).await;
            }
            connection.answer("final").await;
        }
    })
    .await;
    let manifest = revision_with_endpoints("shop", &[upstream.address()]);
    let parkway = Parkway::with(manifest).await;
    let site = parkway.service("shop");
    let mut raw = site.raw().await;
    raw.send(site.head("GET /") + "\r\n").await;
    // The first head is the last one.
    let answer = raw.answer().await.expect(200);
    assert_eq!(answer.text(), "final");
    assert_eq!(answer.header("link"), None);
    assert_eq!(ended_here(&parkway).await, 3.0);
    let answer = site.http2().await.get("/").await.expect(200);
    assert_eq!(answer.text(), "final");
    assert_eq!(ended_here(&parkway).await, 6.0);
    drop(raw);
    parkway.finish().await;
}

#[tokio::test]
async fn those_of_http2_end_here_and_are_counted() {
    let upstream = Upstream::http2(
        |_: Request<_>, mut respond: h2::server::SendResponse<Bytes>| async move {
            for _ in 0..2 {
                let hints = Response::builder().status(StatusCode::EARLY_HINTS);
                let hints = hints.body(()).unwrap();
                respond.send_informational(hints).unwrap();
            }
            respond.send_response(Response::new(()), true).unwrap();
        },
    )
    .await;
    let manifest = h2c_revision_with_endpoints("shop", &[upstream.address()]);
    let parkway = Parkway::with(manifest).await;
    let site = parkway.service("shop");
    site.get("/").await.expect(200);
    site.http2().await.get("/").await.expect(200);
    assert_eq!(ended_here(&parkway).await, 4.0);
    parkway.finish().await;
}

#[tokio::test]
async fn continue_is_passed_on_and_not_counted() {
    let upstream = Upstream::start(async |mut connection: Connection| {
        let Some(head) = connection.request().await else {
            return;
        };
        connection.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        let body = connection.body(&head).await;
        connection.answer(&String::from_utf8_lossy(&body)).await;
    })
    .await;
    let manifest = revision_with_endpoints("shop", &[upstream.address()]);
    let parkway = Parkway::with(manifest).await;
    let site = parkway.service("shop");
    let mut raw = site.raw().await;
    let fields = "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    raw.send(site.head("POST /") + fields).await;
    assert_eq!(raw.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    raw.send("hello").await;
    assert_eq!(raw.answer().await.expect(200).text(), "hello");
    assert_eq!(ended_here(&parkway).await, 0.0);
    drop(raw);
    parkway.finish().await;
}

#[tokio::test]
async fn a_flood_of_them_is_a_502_that_says_so_by_both_protocols() {
    let http1 = Upstream::start(async |mut connection: Connection| {
        if connection.request().await.is_some() {
            connection.send(HINTS.repeat(10_000)).await;
            connection.answer("too late").await;
        }
    })
    .await;
    let was_cut = Arc::new(AtomicBool::new(false));
    let cut = Arc::clone(&was_cut);
    let http2 = Upstream::http2(
        move |_: Request<_>, mut respond: h2::server::SendResponse<Bytes>| {
            let cut = Arc::clone(&cut);
            async move {
                for _ in 0..10_000 {
                    let hints = Response::builder().status(StatusCode::EARLY_HINTS);
                    if respond.send_informational(hints.body(()).unwrap()).is_err() {
                        return cut.store(true, Ordering::SeqCst);
                    }
                    tokio::task::yield_now().await;
                }
            }
        },
    )
    .await;
    for (manifest, text) in [
        (
            revision_with_endpoints("shop", &[http1.address()]),
            "the endpoint sent an invalid response: it keeps sending informational responses\n",
        ),
        (
            h2c_revision_with_endpoints("shop", &[http2.address()]),
            "the endpoint sent an invalid response: its informational responses lead to no other\n",
        ),
    ] {
        let parkway = Parkway::with(manifest).await;
        // A POST: nobody asks twice.
        let answer = parkway.service("shop").post("/", "x").await.expect(502);
        assert_eq!(answer.text(), text);
        assert_eq!(ended_here(&parkway).await, 65.0);
        parkway.finish().await;
    }
}
