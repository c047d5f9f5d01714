//! Endpoints that go away for a while.

use std::net::SocketAddr;

use parkway_tests::upstream::Connection;
use parkway_tests::{Parkway, Upstream, eventually, revision_with_endpoints};

use crate::load::Load;

/// An address of its own, where no outgoing connection can take the port while nobody listens.
fn address(last: u8) -> SocketAddr {
    ([127, 0, 81, last], 0).into()
}

async fn answer_each(mut connection: Connection) {
    while connection.whole_request().await.is_some() {
        connection.answer("ok").await;
    }
}

/// Used again: the endpoint got connections since it came back.
async fn used(endpoint: &Upstream) {
    eventually("the endpoint to be used again", async || {
        (endpoint.connections() > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn others_serve_while_an_endpoint_refuses_and_it_is_used_again_afterwards() {
    let mut flaky = Upstream::start_at(address(1), answer_each).await;
    let steady = Upstream::start_at(address(2), answer_each).await;
    let there = flaky.address();
    let parkway = Parkway::with(revision_with_endpoints("shop", &[there, steady.address()])).await;
    let load = Load::get(&parkway.service("shop"), "/", 8);

    for _ in 0..3 {
        used(&flaky).await;
        load.more(100).await;
        drop(flaky);
        load.more(100).await;
        flaky = Upstream::start_at(there, answer_each).await;
    }
    used(&flaky).await;

    load.stop().await.assert_all_succeeded(600);
    parkway.finish().await;
}

#[tokio::test]
async fn requests_are_parked_while_the_only_endpoint_refuses_and_served_when_it_is_back() {
    let endpoint = Upstream::start_at(address(3), answer_each).await;
    let there = endpoint.address();
    let parkway = Parkway::with(revision_with_endpoints("shop", &[there])).await;
    let load = Load::get(&parkway.service("shop"), "/", 8);

    load.more(100).await;
    drop(endpoint);
    parkway.parked(8).await;
    let back = Upstream::start_at(there, answer_each).await;
    load.more(100).await;

    load.stop().await.assert_all_succeeded(200);
    assert!(back.connections() > 0);
    parkway.finish().await;
}
