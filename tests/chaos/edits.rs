//! Manifests are edited while requests run.

use std::time::Duration;

use parkway_tests::manifest::Manifests;
use parkway_tests::{Parkway, State, Upstream, eventually, hello_service, revision_with_endpoints};
use tokio::time::interval;

use crate::load::Load;

/// How often somebody saves a file.
const BETWEEN_EDITS: Duration = Duration::from_millis(100);
/// How many times.
const EDITS: u32 = 30;

/// A new Revision for each number: its template differs.
fn shop(number: u32) -> Manifests {
    hello_service("shop").env("TARGET", number).and("")
}

/// Two Revisions whose shares differ with the number, up to all and nothing.
fn till(number: u32) -> Manifests {
    let of_new = [0, 25, 50, 75, 100, 50][usize::try_from(number % 6).unwrap()];
    let old = hello_service("till-v1").as_revision_of("till");
    let new = hello_service("till").revision("till-v2");
    new.traffic("till-v1", 100 - of_new)
        .traffic("till-v2", of_new)
        .and(old)
}

#[tokio::test]
async fn no_request_fails_while_manifests_are_edited() {
    let endpoints = [
        Upstream::answering("a").await,
        Upstream::answering("b").await,
    ];
    let [a, b] = [endpoints[0].address(), endpoints[1].address()];
    let cart = |number: u32| match number % 4 {
        0 => revision_with_endpoints("cart", &[a]),
        1 => revision_with_endpoints("cart", &[b]),
        2 => revision_with_endpoints("cart", &[]),
        _ => revision_with_endpoints("cart", &[a, b]),
    };
    let builder = Parkway::builder()
        .manifest("shop", shop(0))
        .manifest("cart", cart(0))
        .manifest("till", till(0));
    let parkway = builder.start().await;
    let loads =
        ["shop", "cart", "till"].map(|service| Load::get(&parkway.service(service), "/", 4));

    let mut pace = interval(BETWEEN_EDITS);
    for number in 1..=EDITS {
        pace.tick().await;
        match number % 3 {
            0 => parkway.edit("shop", shop(number)),
            1 => parkway.edit("cart", cart(number / 3)),
            _ => parkway.edit("till", till(number / 3)),
        }
    }
    let newest = format!("Hello {EDITS}!\n");
    parkway.edit("cart", cart(0));
    eventually("the newest Revision to take over", async || {
        let answer = parkway.service("shop").get("/").await.expect(200);
        (answer.text() == newest).then_some(())
    })
    .await;

    for load in loads {
        load.stop().await.assert_all_succeeded(50);
    }
    let revisions_of = |state: &State, service: &str| {
        state
            .revisions()
            .iter()
            .filter(|revision| revision.0["service"] == service)
            .count()
    };
    parkway
        .state_when("older Revisions to retire", |state| {
            revisions_of(state, "shop") == 1
        })
        .await;
    let state = parkway.state().await;
    assert_eq!(state.configuration()["rejections"], 0, "{state:?}");
    parkway.finish().await;
}
