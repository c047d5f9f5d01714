//! Bodies from a real engine over in-memory I/O.

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use super::*;

/// The body of a chunked request whose client has sent `wire` after its head, and the client's end.
async fn request_body(wire: &str) -> (RequestBody, DuplexStream) {
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    client
        .write_all(format!("{head}{wire}").as_bytes())
        .await
        .unwrap();
    let (bodies, mut arrived) = mpsc::channel(1);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let bodies = bodies.clone();
        async move {
            bodies.send(request.into_body()).await.unwrap();
            std::future::pending::<Result<http::Response<String>, Infallible>>().await
        }
    });
    tokio::task::spawn_local(http1::Builder::new().serve_connection(TokioIo::new(server), service));
    let body = arrived.recv().await.unwrap();
    let body = Http1Body::new(body, Rc::new(NothingWithheld));
    (RequestBody::Http1(body), client)
}

#[derive(Debug)]
struct NothingWithheld;

impl Inbound for NothingWithheld {
    fn deliver(&self) {}

    fn due(&self, _due: Option<Instant>) {}
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

const END: &str = "0\r\n\r\n";

async fn read_all(body: AttemptBody) -> Result<String, BodyError> {
    let collected = body.collect().await?;
    Ok(String::from_utf8(collected.to_bytes().to_vec()).unwrap())
}

#[tokio::test]
async fn a_body_within_the_bound_is_sent_again_from_its_start() {
    LocalSet::new()
        .run_until(async {
            let wire = [chunk("park"), chunk("way"), END.to_owned()].concat();
            let (body, _client) = request_body(&wire).await;
            let replay = Replay::new(body, 7);

            assert_eq!(read_all(replay.attempt(None)).await.unwrap(), "parkway");
            assert_eq!(replay.left(), Left::Whole);
            assert_eq!(read_all(replay.attempt(None)).await.unwrap(), "parkway");
        })
        .await;
}

#[tokio::test]
async fn an_attempt_that_broke_off_midway_is_continued_by_the_next() {
    LocalSet::new()
        .run_until(async {
            let (body, mut client) = request_body(&chunk("park")).await;
            let replay = Replay::new(body, 64);
            let mut first = replay.attempt(None);
            let read = first.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(read, "park");

            let second = replay.attempt(None);
            client
                .write_all([chunk("way"), END.to_owned()].concat().as_bytes())
                .await
                .unwrap();

            assert_eq!(read_all(second).await.unwrap(), "parkway");
            let stale = first.frame().await.unwrap();
            assert!(matches!(stale, Err(BodyError::Superseded)));
        })
        .await;
}

#[tokio::test]
async fn a_body_beyond_the_bound_streams_on_and_cannot_be_sent_again() {
    LocalSet::new()
        .run_until(async {
            let wire = [chunk("park"), chunk("way"), END.to_owned()].concat();
            let (body, _client) = request_body(&wire).await;
            let replay = Replay::new(body, 6);

            assert_eq!(read_all(replay.attempt(None)).await.unwrap(), "parkway");
            assert_eq!(replay.left(), Left::Gone);
        })
        .await;
}

#[tokio::test]
async fn an_untouched_body_can_be_parked_again() {
    LocalSet::new()
        .run_until(async {
            let wire = [chunk("parkway"), END.to_owned()].concat();
            let (body, _client) = request_body(&wire).await;
            let replay = Replay::new(body, 64);
            let refused = replay.attempt(None);

            let taken = replay.take_untouched().unwrap();

            drop(refused);
            assert_eq!(
                read_all(Replay::new(taken, 64).attempt(None))
                    .await
                    .unwrap(),
                "parkway"
            );
        })
        .await;
}

#[tokio::test]
async fn an_abandoned_body_ends_for_whoever_waits_for_more_of_it() {
    LocalSet::new()
        .run_until(async {
            let (body, _client) = request_body(&chunk("park")).await;
            let replay = Replay::new(body, 64);
            let reading = tokio::task::spawn_local(read_all(replay.attempt(None)));
            tokio::task::yield_now().await;
            assert!(!replay.is_ended());

            replay.abandon();

            let read = reading.await.unwrap();
            assert!(matches!(read, Err(BodyError::Superseded)));
            assert!(replay.is_ended());
        })
        .await;
}

#[tokio::test]
async fn a_client_that_breaks_off_is_told_from_an_endpoint_that_does() {
    LocalSet::new()
        .run_until(async {
            let (body, client) = request_body(&chunk("park")).await;
            let replay = Replay::new(body, 64);
            assert!(!replay.client_failed());
            drop(client);

            assert!(read_all(replay.attempt(None)).await.is_err());
            assert!(replay.client_failed());
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_waits_for_100_continue_goes_when_it_comes() {
    LocalSet::new()
        .run_until(async {
            let wire = [chunk("parkway"), END.to_owned()].concat();
            let (body, _client) = request_body(&wire).await;
            let started = Instant::now();
            let (gate, signal) = ContinueGate::new(started + Duration::from_secs(1));
            let attempt = Replay::new(body, 64).attempt(Some(gate));
            let goes_on = async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                signal.open();
            };

            let (read, ()) = tokio::join!(read_all(attempt), goes_on);

            assert_eq!(read.unwrap(), "parkway");
            assert_eq!(started.elapsed(), Duration::from_millis(300));
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_waits_for_100_continue_goes_without_it_after_the_bound() {
    LocalSet::new()
        .run_until(async {
            let wire = [chunk("parkway"), END.to_owned()].concat();
            let (body, _client) = request_body(&wire).await;
            let started = Instant::now();
            let (gate, _signal) = ContinueGate::new(started + Duration::from_secs(1));

            let read = read_all(Replay::new(body, 64).attempt(Some(gate))).await;

            assert_eq!(read.unwrap(), "parkway");
            assert_eq!(started.elapsed(), Duration::from_secs(1));
        })
        .await;
}
