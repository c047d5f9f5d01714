//! The record of cold starts in `/state`.

use std::sync::Arc;

use parkway_tests::{Gate, Parkway, State, hello_service, service};
use serde_json::Value;
use tokio::task::JoinSet;

/// How far the sum of the phases may be from the whole, in milliseconds.
const SLACK_MS: f64 = 2.0;

fn starts(state: &State) -> Vec<Value> {
    state.0["coldStarts"].as_array().unwrap().clone()
}

/// The only start, when its first response has ended.
async fn finished(parkway: &Parkway) -> Value {
    let state = parkway
        .state_when("a start that is over", |state| {
            let starts = starts(state);
            starts.len() == 1 && at(&starts[0], "finished").is_some()
        })
        .await;
    starts(&state).remove(0)
}

/// When a milestone was seen, in milliseconds since the arrival.
fn at(start: &Value, milestone: &str) -> Option<f64> {
    let milestones = start["milestones"].as_array().unwrap();
    let seen = milestones.iter().find(|seen| seen["name"] == milestone)?;
    seen["atMs"].as_f64()
}

fn phases(start: &Value) -> Vec<&str> {
    let phases = start["phases"].as_array().unwrap();
    phases
        .iter()
        .map(|phase| phase["name"].as_str().unwrap())
        .collect()
}

/// Each phase begins where the one before ended, and together they are the whole.
#[track_caller]
fn assert_add_up(start: &Value) {
    let mut sum = 0.0;
    for phase in start["phases"].as_array().unwrap() {
        let from = phase["fromMs"].as_f64().unwrap();
        assert!((from - sum).abs() < SLACK_MS, "{start:#}");
        sum += phase["ms"].as_f64().unwrap();
    }
    let total = start["totalMs"].as_f64().unwrap();
    assert!((total - sum).abs() < SLACK_MS, "{sum} of {start:#}");
}

#[tokio::test]
async fn a_cold_start_is_told_step_by_step_and_its_phases_add_up() {
    let gate = Gate::closed();
    let parkway = Parkway::with(gate.holds(hello_service("shop"))).await;
    let shop = parkway.service("shop");

    let (answer, ()) = tokio::join!(shop.get("/"), async {
        parkway.parked(1).await;
        gate.open();
    });

    answer.expect(200);
    let start = finished(&parkway).await;
    assert_eq!(start["revision"], "shop-00001");
    assert_eq!(start["outcome"], "ready");
    assert_eq!(
        (&start["waited"], &start["released"]),
        (&1.into(), &1.into())
    );
    let expected = [
        "parking",
        "signal",
        "decision",
        "spawn",
        "first-probe",
        "readiness",
        "release",
        "connect",
        "first-byte",
        "response",
    ];
    assert_eq!(phases(&start), expected, "{start:#}");
    assert_add_up(&start);
    parkway.finish().await;
}

#[tokio::test]
async fn a_start_for_which_two_hundred_wait_is_told_once() {
    let gate = Gate::closed();
    let parkway = Arc::new(Parkway::with(gate.holds(hello_service("shop"))).await);
    let mut clients = JoinSet::new();
    for _ in 0..200 {
        let shop = parkway.service("shop");
        clients.spawn(async move { shop.get("/").await });
    }
    parkway.parked(200).await;
    gate.open();
    while let Some(answer) = clients.join_next().await {
        answer.unwrap().expect(200);
    }

    let state = parkway
        .state_when("all released", |state| starts(state)[0]["released"] == 200)
        .await;

    let starts = starts(&state);
    assert_eq!(starts.len(), 1, "{starts:#?}");
    assert_eq!(starts[0]["waited"], 200);
    assert_eq!(starts[0]["mostParked"], 200);
    assert_add_up(&starts[0]);
    Arc::into_inner(parkway).unwrap().finish().await;
}

#[tokio::test]
async fn a_start_under_way_is_told_as_far_as_it_has_come_and_a_failed_one_says_why() {
    let parkway = Parkway::with(service("shop", &["no-such-command-anywhere"])).await;

    parkway.service("shop").get("/").await.expect(503);

    let state = parkway.state().await;
    let start = starts(&state).remove(0);
    assert_eq!(start["outcome"], "failed", "{start:#}");
    let failure = start["failure"].as_str().unwrap();
    assert!(failure.contains("no-such-command-anywhere"), "{failure}");
    assert_eq!(phases(&start).last(), Some(&"waiting"));
    assert_add_up(&start);
    parkway.finish().await;
}
