//! Local processes, with real ones: `sh` and `parkway hello`.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod world;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parkway_activator::revision::RevisionId;
use parkway_ingress::standalone::{ReplicaPhase, Stream};
use parkway_ingress::workload::{ReadinessCheck, Workload};
use tokio::time::Instant;

use world::*;

#[tokio::test]
async fn a_process_becomes_ready_and_serves() {
    let world = World::new();
    let id = world.run(hello(), 1);

    let ready = world.until_ready(&id, 1).await;
    assert!(
        get(ready[0], "/")
            .await
            .unwrap()
            .ends_with("Hello from shop-00001!\n")
    );
    assert_eq!(world.processes.ready(&id), 1);

    world
        .until(|seen| {
            matches!(seen, [(_, Event::Endpoints(_)), (_, Event::Ready(_))]).then_some(())
        })
        .await;
    world.end().await;
}

#[tokio::test]
async fn nothing_is_started_before_it_is_wanted() {
    let world = World::new();
    let id = world.run(hello(), 0);
    world
        .processes
        .scale(&RevisionId::new("default", "stranger"), 3);

    world.processes.scale(&id, 1);
    world.until_ready(&id, 1).await;

    assert_eq!(world.processes.state().len(), 1);
    assert_eq!(world.processes.state()[0].number, 1);
    world.end().await;
}

#[tokio::test]
async fn a_process_that_exits_before_it_is_ready_is_reported_with_its_last_words() {
    let world = World::new();
    let id = world.run(sh("seq 1 9 >&2; echo no database >&2; exit 3"), 1);

    let (reason, retry_in) = world.until_failed(&id).await;

    assert_eq!(
        reason,
        "exited with status 3 before it was ready; the end of its stderr:\n  7\n  8\n  9\n  no database"
    );
    assert_eq!(retry_in, Duration::ZERO);
    world.until(|seen| (seen.len() >= 3).then_some(())).await;
    let waits: Vec<_> = world
        .recorder
        .seen
        .borrow()
        .iter()
        .take(3)
        .map(|(_, event)| event.clone())
        .collect();
    let waits = waits.iter().map(|event| match event {
        Event::Failed(_, retry_in) => retry_in.as_millis(),
        other => panic!("{other:?}"),
    });
    assert_eq!(waits.collect::<Vec<_>>(), [0, 100, 200]);
    world.end().await;
}

#[tokio::test]
async fn a_process_ended_by_a_signal_is_reported_with_its_name() {
    let world = World::new();
    let id = world.run(sh("kill -SEGV $$$$"), 1);
    let (reason, _) = world.until_failed(&id).await;
    assert_eq!(
        reason,
        "was ended by signal 11 (SIGSEGV) before it was ready"
    );
    world.end().await;
}

#[tokio::test]
async fn a_command_that_is_not_there_is_named_with_where_it_was_searched() {
    let world = World::new();
    let id = world.run(
        with_env(workload(&["no-such-command"]), "PATH", "/here:/there"),
        1,
    );
    let (reason, _) = world.until_failed(&id).await;
    assert!(
        reason.starts_with("command \"no-such-command\" not found in PATH ("),
        "{reason}"
    );
    assert!(reason.ends_with(":/here:/there)"), "{reason}");
    world.end().await;
}

#[tokio::test]
async fn a_file_that_is_no_program_is_named() {
    let world = World::new();
    let file = world.directory.path().join("notes.txt");
    std::fs::write(&file, "hello").unwrap();
    let id = world.run(workload(&[file.to_str().unwrap()]), 1);
    let (reason, _) = world.until_failed(&id).await;
    assert_eq!(
        reason,
        format!(
            "command {} cannot be executed: permission denied",
            file.display()
        )
    );
    world.end().await;
}

#[tokio::test]
async fn a_working_directory_that_is_not_there_is_named() {
    let world = World::new();
    let mut hello = hello();
    hello.working_dir = Some(PathBuf::from("/no/such/place"));
    let id = world.run(hello, 1);
    let (reason, _) = world.until_failed(&id).await;
    assert_eq!(reason, "working directory /no/such/place does not exist");
    world.end().await;
}

#[tokio::test]
async fn a_port_that_never_opens_is_reported_at_the_deadline_and_the_process_ended() {
    let world = World::new();
    let mut deaf = sh("exec sleep 600");
    deaf.progress_deadline = Duration::from_millis(100);
    let id = world.run(deaf, 1);

    let (reason, _) = world.until_failed(&id).await;
    assert!(reason.starts_with("did not listen on $PORT="), "{reason}");
    assert!(
        reason.contains(" within 100ms; it must listen on the port given by the PORT environment"),
        "{reason}"
    );

    world.processes.scale(&id, 0);
    world.until_no_process_is_left().await;
    world.end().await;
}

#[tokio::test]
async fn an_http_check_is_waited_for() {
    let world = World::new();
    let mut hello = with_env(hello(), "READY_DELAY_MS", "100");
    hello.readiness.check = ReadinessCheck::Http {
        path: "/healthz".into(),
        headers: Vec::new(),
    };
    let id = world.run(hello, 1);

    let took = world
        .until(|seen| {
            seen.iter().find_map(|(_, event)| match event {
                Event::Ready(took) => Some(*took),
                _ => None,
            })
        })
        .await;

    assert!(took >= Duration::from_millis(100), "{took:?}");
    let endpoint = world.until_ready(&id, 1).await[0];
    assert!(
        get(endpoint, "/healthz")
            .await
            .unwrap()
            .starts_with("HTTP/1.1 200")
    );
    world.end().await;
}

#[tokio::test]
async fn the_environment_is_that_of_the_runtime_contract_and_the_manifest() {
    let world = World::new();
    let mut hello = sh(
        r#"echo "$GREETING $PORT/$(PORT) $K_SERVICE $K_CONFIGURATION $K_REVISION $0"; exec parkway hello"#,
    );
    hello.args = vec!["$(GREETING)-argument".into()];
    let hello = with_env(hello, "WHOM", "you");
    let hello = with_env(hello, "GREETING", "hi-$(WHOM)");
    let hello = with_env(hello, "PORT", "1");
    let id = world.run(hello, 1);

    let port = world.until_ready(&id, 1).await[0].address().port();
    let (_, line) = world.until_line("hi-you ").await;

    let expected = format!("hi-you {port}/{port} shop shop shop-00001 hi-you-argument\n");
    assert!(line.ends_with(&expected), "{line}");
    world.end().await;
}

#[tokio::test]
async fn output_is_prefixed_by_who_wrote_it() {
    let world = World::new();
    let id = world.run(sh("echo out; echo err >&2; exec parkway hello"), 1);
    world.until_ready(&id, 1).await;

    assert_eq!(
        world.until_line("out").await,
        (Stream::Stdout, "[shop-00001-1] out\n".into())
    );
    assert_eq!(
        world.until_line("err").await,
        (Stream::Stderr, "[shop-00001-1] err\n".into())
    );
    world.end().await;
}

#[tokio::test]
async fn a_revision_is_scaled_up_down_and_to_zero() {
    let world = World::new();
    let id = world.run(hello(), 3);
    let three = world.until_ready(&id, 3).await;
    assert_eq!(three.iter().collect::<HashSet<_>>().len(), 3);
    assert_eq!(world.records(), 3);

    world.processes.scale(&id, 1);
    let one = world.until_ready(&id, 1).await;
    assert!(three.contains(&one[0]));
    eventually("one process", || world.processes.state().len() == 1).await;

    world.processes.scale(&id, 0);
    world.until_ready(&id, 0).await;
    world.until_no_process_is_left().await;
    assert_eq!(world.records(), 0);
    assert!(world.failures().is_empty());
    world.end().await;
}

#[tokio::test]
async fn a_request_in_flight_finishes_while_its_process_drains() {
    let world = World::new();
    let id = world.run(hello(), 1);
    let endpoint = world.until_ready(&id, 1).await[0];
    world.recorder.busy.lock().insert(endpoint);
    let request = tokio::spawn(get(endpoint, "/?sleep_ms=300"));

    world.processes.scale(&id, 0);
    world.until_ready(&id, 0).await;
    assert_eq!(world.processes.state()[0].phase, ReplicaPhase::Draining);
    assert!(
        get(endpoint, "/").await.is_ok(),
        "what was on its way is served"
    );
    assert!(request.await.unwrap().unwrap().contains("Hello"));
    assert_eq!(world.processes.state()[0].phase, ReplicaPhase::Draining);

    world.recorder.busy.lock().clear();
    world.until_no_process_is_left().await;
    world.end().await;
}

#[tokio::test]
async fn a_draining_process_is_taken_back_when_it_is_wanted_again() {
    let world = World::new();
    let id = world.run(hello(), 1);
    let endpoint = world.until_ready(&id, 1).await[0];
    let pid = world.pid();
    world.recorder.busy.lock().insert(endpoint);
    world.processes.scale(&id, 0);
    world.until_ready(&id, 0).await;

    world.processes.scale(&id, 1);

    assert_eq!(world.until_ready(&id, 1).await, [endpoint]);
    assert_eq!(world.pid(), pid);
    world.end().await;
}

#[tokio::test]
async fn a_process_that_ignores_sigterm_is_killed_when_its_grace_is_over() {
    let world = World::new();
    let mut stubborn = with_env(hello(), "IGNORE_SIGTERM", "1");
    stubborn.termination_grace = Duration::from_millis(200);
    let id = world.run(stubborn, 1);
    world.until_ready(&id, 1).await;
    let pid = world.pid();
    let begun = Instant::now();

    world.processes.scale(&id, 0);
    world.until_no_process_is_left().await;

    assert!(begun.elapsed() >= Duration::from_millis(200));
    assert!(!is_running(pid));
    world.end().await;
}

/// A process with a child that outlives it unless somebody cares.
fn family() -> Workload {
    sh("sleep 600 & echo child $!.; exec parkway hello")
}

async fn child_of(world: &World) -> i32 {
    let (_, line) = world.until_line("child ").await;
    let (_, number) = line
        .trim_end()
        .trim_end_matches('.')
        .rsplit_once(' ')
        .unwrap();
    number.parse().unwrap()
}

#[tokio::test]
async fn a_process_takes_its_whole_group_along_when_told_to_end() {
    let world = World::new();
    let id = world.run(family(), 1);
    world.until_ready(&id, 1).await;
    let child = child_of(&world).await;
    assert!(is_running(child));

    world.processes.scale(&id, 0);
    world.until_no_process_is_left().await;

    eventually("the child's end", || !is_running(child)).await;
    world.end().await;
}

#[tokio::test]
async fn a_killed_process_is_withdrawn_and_replaced_and_its_group_ended() {
    let world = World::new();
    let id = world.run(family(), 1);
    let first = world.until_ready(&id, 1).await;
    let child = child_of(&world).await;

    kill(world.pid());

    let second = world
        .until(|seen| latest(seen, &id).filter(|ready| ready.len() == 1 && *ready != first))
        .await;
    let seen = world.recorder.seen.borrow().clone();
    let told: Vec<_> = seen
        .iter()
        .filter(|(_, event)| matches!(event, Event::Endpoints(_)))
        .map(|it| &it.1)
        .collect();
    let expected = [first, Vec::new(), second].map(Event::Endpoints);
    assert!(told.into_iter().eq(&expected));
    eventually("the child's end", || !is_running(child)).await;
    assert!(world.failures().is_empty(), "one death is no crash loop");
    world.end().await;
}

#[tokio::test]
async fn one_that_keeps_dying_after_it_was_ready_is_reported_as_failing() {
    let world = World::new();
    let id = world.run(hello(), 1);
    // Five deaths in a row are waited out; the sixth means a wait of more than a second.
    for number in 1..=6 {
        eventually("ready", || {
            let state = world.processes.state();
            state
                .iter()
                .any(|it| it.number == number && it.phase == ReplicaPhase::Ready)
        })
        .await;
        kill(world.pid());
    }
    let (reason, retry_in) = world.until_failed(&id).await;
    assert!(
        reason.starts_with("was ended by signal 9 (SIGKILL) after "),
        "{reason}"
    );
    assert_eq!(retry_in, Duration::from_millis(1_600));
    world.end().await;
}

#[tokio::test]
async fn a_lost_port_is_no_failure() {
    let world = World::new();
    let marker = world.directory.path().join("second");
    let script = format!(
        "[ -e {0} ] && exec parkway hello; touch {0}; echo 'bind: Address already in use' >&2; exit 1",
        marker.display()
    );
    let id = world.run(sh(&script), 1);
    world.until_ready(&id, 1).await;
    assert!(world.failures().is_empty());
    world.end().await;
}

#[tokio::test]
async fn a_port_that_is_always_taken_is_a_failure() {
    let world = World::new();
    let id = world.run(
        sh("echo 'bind 8080: Address already in use' >&2; exit 1"),
        1,
    );
    let (reason, _) = world.until_failed(&id).await;
    assert!(
        reason.ends_with("bind 8080: Address already in use"),
        "{reason}"
    );
    world.end().await;
}

#[tokio::test]
async fn no_more_processes_run_than_allowed() {
    let world = World::with(|options| options.max_processes = 1);
    let shop = world.run(hello(), 2);
    world.until_ready(&shop, 1).await;
    let mut other = hello();
    other.revision = RevisionId::new("default", "other-00001");
    let other = world.run(other, 1);

    let (reason, _) = world.until_failed(&other).await;
    assert!(
        reason.starts_with("the limit of 1 local processes is reached"),
        "{reason}"
    );
    assert_eq!(world.processes.state().len(), 1);

    world.processes.scale(&shop, 0);
    world.until_ready(&other, 1).await;
    world.end().await;
}

#[tokio::test]
async fn a_changed_workload_takes_over_without_a_gap() {
    let world = World::new();
    let id = world.run(hello(), 1);
    let old = world.until_ready(&id, 1).await;

    world
        .processes
        .set(Arc::new(with_env(hello(), "TARGET", "new")));
    let new = world
        .until(|seen| latest(seen, &id).filter(|ready| ready.len() == 1 && *ready != old))
        .await;

    assert!(get(new[0], "/").await.unwrap().ends_with("Hello new!\n"));
    let seen = world.recorder.seen.borrow().clone();
    assert!(
        seen.iter()
            .all(|(_, event)| *event != Event::Endpoints(Vec::new())),
        "{seen:?}"
    );
    eventually("one process", || world.processes.state().len() == 1).await;
    world.end().await;
}

#[tokio::test]
async fn a_removed_revision_drains_and_may_come_back() {
    let world = World::new();
    let id = world.run(hello(), 1);
    world.until_ready(&id, 1).await;

    world.processes.remove(&id);
    world.until_ready(&id, 0).await;
    world.until_no_process_is_left().await;

    world.run(hello(), 1);
    world.until_ready(&id, 1).await;
    world.end().await;
}

#[tokio::test]
async fn what_is_removed_and_set_in_one_breath_runs() {
    let world = World::new();
    let id = world.run(hello(), 1);
    world.until_ready(&id, 1).await;
    for _ in 0..50 {
        world.processes.remove(&id);
        world.run(hello(), 1);
        tokio::task::yield_now().await;
    }
    world.until_ready(&id, 1).await;
    eventually("one process", || {
        world.processes.ready(&id) == 1 && world.processes.state().len() == 1
    })
    .await;
    world.end().await;
}

#[tokio::test]
async fn shutdown_ends_processes_in_every_state_within_the_deadline() {
    let world = World::new();
    let ready = world.run(with_env(hello(), "IGNORE_SIGTERM", "1"), 2);
    world.until_ready(&ready, 2).await;
    let mut starting = sh("exec sleep 600");
    starting.revision = RevisionId::new("default", "slow-00001");
    world.run(starting, 1);
    eventually("three processes", || world.processes.state().len() == 3).await;
    let pids: Vec<_> = world.processes.state().iter().map(|it| it.pid).collect();
    let begun = Instant::now();

    world.processes.shutdown(Duration::from_millis(200)).await;

    assert!(begun.elapsed() < Duration::from_secs(15)); // else they have 20
    assert!(!pids.into_iter().any(is_running));
    world.run(hello(), 1);
    assert!(
        world.processes.state().is_empty(),
        "nothing starts any more"
    );
    world.end().await;
}

#[tokio::test]
async fn dropping_the_driver_kills_what_runs() {
    let world = World::new();
    let id = world.run(family(), 1);
    world.until_ready(&id, 1).await;
    let (pid, child) = (world.pid(), child_of(&world).await);

    world.driver.abort();

    eventually("their end", || !is_running(pid) && !is_running(child)).await;
    eventually("no record", || world.records() == 0).await;
}
