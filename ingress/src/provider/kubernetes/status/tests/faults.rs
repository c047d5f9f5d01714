//! What becomes of statuses when writes meet newer objects, or fail.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_conflict_is_written_again_over_the_newer_object() {
    let running = Running::new();
    running.api.overtake(status_writes(), 2);
    running.create("a");
    running.applied("a", 1);
    sleep(SOON).await;
    assert!(running.is_ready("a", 1));
    let counts = running.board.counts();
    assert_eq!((counts.writes, counts.conflicts, counts.errors), (1, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_conflicts_is_outlived_without_a_storm_of_writes() {
    let running = Running::new();
    running.api.overtake(status_writes(), u32::MAX);
    running.create("stormy");
    running.create("calm");
    running.applied("stormy", 1);
    running.applied("calm", 1);
    sleep(Duration::from_secs(60)).await;
    assert!(
        running.writes() < 2 * 60 * 20,
        "{} writes",
        running.writes()
    );
    assert!(!running.board.waiting(1)[0].why.is_empty());
    running.api.heal();
    sleep(Duration::from_secs(31)).await;
    assert!(running.is_ready("stormy", 1) && running.is_ready("calm", 1));
    assert_eq!(running.board.counts().unsettled, 0);
}

#[tokio::test(start_paused = true)]
async fn a_status_that_somebody_undoes_again_and_again_is_not_fought_over_at_full_speed() {
    let running = Running::new();
    running.create("a");
    running.applied("a", 1);
    sleep(SOON).await;
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        if running.is_ready("a", 1) {
            running.edit("a", json!({"status": {"conditions": null}}));
        }
        sleep(LAG).await;
    }
    assert!(
        (5..20).contains(&running.writes()),
        "{} writes",
        running.writes()
    );
    sleep(Duration::from_secs(31)).await;
    assert!(running.is_ready("a", 1));
    // It is not held against a new generation.
    running.edit("a", json!({"spec": {"httpOption": "Redirected"}}));
    running.applied("a", 2);
    sleep(SOON).await;
    assert!(running.is_ready("a", 2));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_ours_any_more_is_not_touched() {
    let (lead, leadership) = Leadership::by_hand();
    let running = Running::led_by(leadership);
    for name in ["class", "uid", "generation", "gone"] {
        running.create(name);
    }
    sleep(SOON).await;
    running.tasks[1].abort(); // from now on the board knows nothing of what changes
    sleep(SOON).await;
    let other =
        json!({"metadata": {"annotations": {"networking.knative.dev/ingress.class": "other"}}});
    running.edit("class", other);
    running.api.delete("ingresses", "shop", "uid");
    let mut another = ingress("uid");
    another["metadata"]["uid"] = json!("another");
    running.api.put(another);
    running.edit("generation", json!({"spec": {"httpOption": "Redirected"}}));
    running.api.delete("ingresses", "shop", "gone");
    for name in ["class", "uid", "generation", "gone"] {
        running.applied(name, 1);
    }
    lead(true);
    sleep(Duration::from_secs(60)).await;
    for name in ["class", "uid", "generation"] {
        assert_eq!(running.get(name)["status"], Value::Null, "{name}");
    }
    let counts = running.board.counts();
    assert_eq!((counts.writes, counts.errors, counts.unsettled), (0, 0, 4));
    assert!(running.writes() < 100, "{} attempts", running.writes());
    running.board.gone(&key("gone"));
    assert_eq!(running.board.counts().unsettled, 3);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_lags_behind_our_writes_changes_nothing() {
    let running = Running::new();
    let created = running.api.put(ingress("a"));
    sleep(SOON).await;
    let waiting = running.get("a");
    running.applied("a", 1);
    sleep(SOON).await;
    assert_eq!(running.writes(), 2);
    // As they came from a watch that is slow; the second was our own write.
    let none = HashMap::new();
    for old in [&created, &waiting] {
        running.board.seen(object(old, &none));
    }
    sleep(Duration::from_secs(60)).await;
    // What is settled and was shown by the watch is not kept, so it costs one look at the newer object.
    assert!(running.writes() <= 3, "{} writes", running.writes());
    assert!(running.is_ready("a", 1));
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_written_does_not_hold_up_the_others() {
    let running = Running::new();
    running
        .api
        .refuse(status_writes().name("bad"), u32::MAX, 422);
    for name in ["bad", "a", "b"] {
        running.create(name);
        running.applied(name, 1);
    }
    sleep(SOON).await;
    assert!(running.is_ready("a", 1) && running.is_ready("b", 1));
    sleep(Duration::from_secs(300)).await;
    assert!(running.writes() < 40, "{} attempts", running.writes());
    running.api.heal();
    sleep(Duration::from_secs(31)).await;
    assert!(running.is_ready("bad", 1));
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_fails_is_left_alone_and_caught_up_with() {
    for code in [401, 403, 429, 500, 503] {
        let running = Running::new();
        running.api.refuse(status_writes(), u32::MAX, code);
        for n in 0..100 {
            running.create(&n.to_string());
            running.applied(&n.to_string(), 1);
        }
        sleep(Duration::from_secs(120)).await;
        assert!(
            running.writes() < 100,
            "{code}: {} attempts",
            running.writes()
        );
        running.api.heal();
        sleep(Duration::from_secs(7)).await;
        assert!(
            (0..100).all(|n| running.is_ready(&n.to_string(), 1)),
            "{code}"
        );
        assert_eq!(running.board.counts().unsettled, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_is_given_up_and_tried_again() {
    let running = Running::new();
    running.api.ignore(status_writes(), u32::MAX);
    running.create("a");
    running.applied("a", 1);
    sleep(Duration::from_secs(300)).await;
    assert!(
        (10..40).contains(&running.writes()),
        "{} attempts",
        running.writes()
    );
    running.api.heal();
    sleep(Duration::from_secs(17)).await;
    assert!(running.is_ready("a", 1));
}
