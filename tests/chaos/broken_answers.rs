//! Endpoints that break off in an answer, or answer nonsense.

use bytes::Bytes;
use http::Request;
use parkway_tests::{Answer, Parkway, Upstream, revision_with_endpoints};

/// An endpoint that sends these bytes for each request and closes.
async fn saying(bytes: &'static str) -> Upstream {
    Upstream::start(move |mut connection| async move {
        if connection.whole_request().await.is_some() {
            connection.send(bytes).await;
        }
    })
    .await
}

const HALVES: [&str; 2] = [
    "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf-",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhalf-\r\n",
];

/// Whether the end of the connection arrives together with the answer is chance, so each half is asked for this often.
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
async fn client_by_http1_gets_what_there_is_of_an_answer_that_broke_off_and_no_other() {
    for half in HALVES {
        let endpoint = saying(half).await;
        let parkway = Parkway::with(revision_with_endpoints("shop", &[endpoint.address()])).await;

        for _ in 0..TIMES {
            assert_broke_off(parkway.service("shop").try_get("/").await);
        }

        assert_eq!(
            endpoint.connections(),
            TIMES,
            "sent again although the response had begun"
        );
        parkway.finish().await;
    }
}

#[tokio::test]
async fn client_by_http2_gets_what_there_is_of_an_answer_that_broke_off_and_no_other() {
    for half in HALVES {
        let endpoint = saying(half).await;
        let parkway = Parkway::with(revision_with_endpoints("shop", &[endpoint.address()])).await;

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
            TIMES,
            "sent again although the response had begun"
        );
        parkway.finish().await;
    }
}

#[tokio::test]
async fn malformed_answer_is_a_502_and_the_request_not_sent_again() {
    for nonsense in [
        "this is no HTTP\r\n\r\n",
        "HTTP/1.1 two hundred\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        "HTTP/3.9 200 OK\r\n\r\n",
    ] {
        let endpoint = saying(nonsense).await;
        let parkway = Parkway::with(revision_with_endpoints("shop", &[endpoint.address()])).await;

        let answer = parkway.service("shop").get("/").await;

        assert_eq!(answer.status, 502, "for {nonsense:?}: {answer:?}");
        assert_eq!(endpoint.connections(), 1, "for {nonsense:?}");
        parkway.finish().await;
    }
}

/// Nothing of a response came, so a GET is worth another try, but not for ever.
#[tokio::test]
async fn endpoint_that_always_closes_without_a_word_is_a_502_in_the_end() {
    let endpoint = saying("").await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[endpoint.address()])).await;

    parkway.service("shop").get("/").await.expect(502);
    assert!(endpoint.connections() > 1, "a GET may be repeated");
    let before = endpoint.connections();
    parkway
        .service("shop")
        .post("/", "an order")
        .await
        .expect(502);
    assert_eq!(endpoint.connections(), before + 1, "a POST may not");
    parkway.finish().await;
}
