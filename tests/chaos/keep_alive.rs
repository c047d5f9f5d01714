//! The keep-alive race: an endpoint closes a connection while the next request is on its way over it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use parking_lot::Mutex;
use parkway_tests::upstream::Connection;
use parkway_tests::{Parkway, Upstream, revision_with_endpoints};
use tokio::time::sleep;

use crate::load::Load;
use crate::random::Random;

/// How many requests each test waits for.
const REQUESTS: usize = 2000;

async fn in_front_of(endpoint: &Upstream) -> Parkway {
    Parkway::with(revision_with_endpoints("shop", &[endpoint.address()])).await
}

/// How many requests were sent more than once: those that met a connection about to close.
async fn raced(parkway: &Parkway) -> f64 {
    parkway
        .metric("parkway_retried_requests_total", &[])
        .await
        .unwrap_or(0.0)
}

/// Lets some time pass, perhaps with the next request on its way, then closes, at times with a reset.
async fn close_some_time(connection: Connection) {
    let mut random = Random::of(connection.number);
    sleep(Duration::from_micros(
        u64::try_from(random.below(3000)).unwrap(),
    ))
    .await;
    if random.below(2) == 0 {
        connection.reset();
    }
}

#[tokio::test]
async fn no_get_fails_when_every_connection_closes_right_after_a_response() {
    let endpoint = Upstream::start(async |mut connection: Connection| {
        if connection.whole_request().await.is_some() {
            connection.answer("ok").await;
        }
    })
    .await;
    let parkway = in_front_of(&endpoint).await;

    let load = Load::get(&parkway.service("shop"), "/", 16);
    load.more(REQUESTS).await;

    load.stop().await.assert_all_succeeded(REQUESTS);
    parkway.finish().await;
}

#[tokio::test]
async fn no_get_fails_when_every_connection_closes_some_time_after_a_response() {
    let endpoint = Upstream::start(async |mut connection: Connection| {
        if connection.whole_request().await.is_some() {
            connection.answer("ok").await;
            close_some_time(connection).await;
        }
    })
    .await;
    let parkway = in_front_of(&endpoint).await;

    let load = Load::get(&parkway.service("shop"), "/", 16);
    load.more(REQUESTS).await;

    load.stop().await.assert_all_succeeded(REQUESTS);
    assert!(
        raced(&parkway).await > 100.0,
        "hardly any request met a closing connection"
    );
    parkway.finish().await;
}

#[tokio::test]
async fn no_post_is_executed_twice_when_every_connection_closes_some_time_after_a_response() {
    let executed: Arc<Mutex<BTreeMap<usize, usize>>> = Arc::default();
    let book = Arc::clone(&executed);
    let endpoint = Upstream::start(move |mut connection| {
        let book = Arc::clone(&book);
        async move {
            let Some((_, body)) = connection.whole_request().await else {
                return;
            };
            let number = std::str::from_utf8(&body).unwrap().parse().unwrap();
            *book.lock().entry(number).or_insert(0) += 1;
            connection.answer("ok").await;
            close_some_time(connection).await;
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
    load.more(REQUESTS).await;
    let tally = load.stop().await;

    let executed = executed.lock().clone();
    let twice: Vec<_> = executed.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "executed more than once: {twice:?}");
    for (number, status) in &tally.by_number {
        match status {
            200 => assert_eq!(
                executed.get(number),
                Some(&1),
                "{number} was answered and not executed"
            ),
            502 => {}
            other => panic!("{number} was answered with {other}"),
        }
    }
    assert_eq!(
        tally.by_number.len(),
        tally.statuses.values().sum::<usize>(),
        "an answer to each"
    );
    assert!(
        tally.statuses.contains_key(&502),
        "no request met a closing connection"
    );
    parkway.finish().await;
}
