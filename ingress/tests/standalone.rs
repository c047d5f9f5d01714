//! Local processes, with real ones: `sh` and `parkway hello`.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::{Protocol, RevisionId};
use parkway_ingress::standalone::{Events, LineSink, Options, Processes, ReplicaPhase, Stream};
use parkway_ingress::workload::{Readiness, ReadinessCheck, Workload};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, PartialEq)]
enum Event {
    Endpoints(Vec<Endpoint>),
    Failed(String, Duration),
    Ready(Duration),
}

/// Keeps what happened, in order; tests wait for it to change.
struct Recorder {
    seen: watch::Sender<Vec<(RevisionId, Event)>>,
    lines: watch::Sender<Vec<(Stream, String)>>,
    busy: Mutex<HashSet<Endpoint>>,
}

impl Events for Recorder {
    fn endpoints(&self, id: &RevisionId, ready: Vec<Endpoint>) {
        self.record(id, Event::Endpoints(ready));
    }

    fn start_failed(&self, id: &RevisionId, reason: String, retry_in: Duration) {
        self.record(id, Event::Failed(reason, retry_in));
    }

    fn ready(&self, id: &RevisionId, took: Duration) {
        self.record(id, Event::Ready(took));
    }

    fn is_idle(&self, _id: &RevisionId, endpoint: Endpoint) -> bool {
        !self.busy.lock().contains(&endpoint)
    }
}

impl LineSink for Recorder {
    fn write(&self, stream: Stream, line: &[u8]) -> io::Result<()> {
        let line = String::from_utf8_lossy(line).into_owned();
        self.lines.send_modify(|lines| lines.push((stream, line)));
        Ok(())
    }
}

impl Recorder {
    fn record(&self, id: &RevisionId, event: Event) {
        self.seen.send_modify(|seen| seen.push((id.clone(), event)));
    }
}

/// Local processes and everything around them. Ends what a failing test leaves.
struct World {
    processes: Processes,
    recorder: Arc<Recorder>,
    driver: JoinHandle<()>,
    directory: TempDir,
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Options)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let recorder = Arc::new(Recorder {
            seen: watch::Sender::default(),
            lines: watch::Sender::default(),
            busy: Mutex::default(),
        });
        let mut options = Options::new(directory.path().join("processes"));
        options.binary_dir = Path::new(env!("CARGO_BIN_EXE_parkway"))
            .parent()
            .map(Path::to_owned);
        options.output = Arc::<Recorder>::clone(&recorder);
        change(&mut options);
        let (processes, driver) =
            Processes::new(options, Arc::<Recorder>::clone(&recorder)).unwrap();
        let driver = tokio::spawn(driver);
        Self {
            processes,
            recorder,
            driver,
            directory,
        }
    }

    fn run(&self, workload: Workload, replicas: u32) -> RevisionId {
        let id = workload.revision.clone();
        self.processes.set(Arc::new(workload));
        self.processes.scale(&id, replicas);
        id
    }

    /// Waits until something is true of all that happened.
    async fn until<T>(&self, mut what: impl FnMut(&[(RevisionId, Event)]) -> Option<T>) -> T {
        let mut seen = self.recorder.seen.subscribe();
        let mut found = None;
        let waiting = seen.wait_for(|seen| {
            found = what(seen);
            found.is_some()
        });
        if timeout(PATIENCE, waiting).await.is_err() {
            panic!(
                "it does not happen; what did: {:#?}",
                self.recorder.seen.borrow()
            );
        }
        found.unwrap()
    }

    async fn until_ready(&self, id: &RevisionId, count: usize) -> Vec<Endpoint> {
        self.until(|seen| latest(seen, id).filter(|ready| ready.len() == count))
            .await
    }

    async fn until_failed(&self, id: &RevisionId) -> (String, Duration) {
        self.until(|seen| {
            seen.iter().find_map(|(whose, event)| match event {
                Event::Failed(reason, retry_in) if whose == id => Some((reason.clone(), *retry_in)),
                _ => None,
            })
        })
        .await
    }

    async fn until_line(&self, part: &str) -> (Stream, String) {
        let mut lines = self.recorder.lines.subscribe();
        let has_part = |line: &&(Stream, String)| line.1.contains(part);
        let waiting = lines.wait_for(|lines| lines.iter().any(|line| has_part(&line)));
        match timeout(PATIENCE, waiting).await {
            Ok(lines) => lines.unwrap().iter().find(has_part).unwrap().clone(),
            Err(_) => panic!(
                "no line with {part:?} in {:#?}",
                self.recorder.lines.borrow()
            ),
        }
    }

    fn failures(&self) -> Vec<String> {
        let seen = self.recorder.seen.borrow();
        let failures = seen.iter().filter_map(|(_, event)| match event {
            Event::Failed(reason, _) => Some(reason.clone()),
            _ => None,
        });
        failures.collect()
    }

    async fn until_no_process_is_left(&self) {
        eventually("no process", || self.processes.state().is_empty()).await;
    }

    fn pid(&self) -> i32 {
        self.processes.state()[0].pid
    }

    fn records(&self) -> usize {
        std::fs::read_dir(self.directory.path().join("processes"))
            .unwrap()
            .count()
    }

    /// Ends the world and checks that nothing of it is left.
    async fn end(self) {
        let pids: Vec<_> = self.processes.state().iter().map(|it| it.pid).collect();
        self.processes.shutdown(Duration::from_secs(5)).await;
        for pid in pids {
            assert!(!is_running(pid), "process {pid} is left");
        }
        assert_eq!(self.records(), 0);
        timeout(PATIENCE, self.driver).await.unwrap().unwrap();
    }
}

/// The endpoints told last.
fn latest(seen: &[(RevisionId, Event)], id: &RevisionId) -> Option<Vec<Endpoint>> {
    seen.iter().rev().find_map(|(whose, event)| match event {
        Event::Endpoints(ready) if whose == id => Some(ready.clone()),
        _ => None,
    })
}

/// For what announces itself to nobody, such as the end of someone else's child.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn is_running(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

fn workload(command: &[&str]) -> Workload {
    Workload {
        revision: RevisionId::new("default", "shop-00001"),
        service: "shop".into(),
        configuration: "shop".into(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        args: Vec::new(),
        env: Vec::new(),
        working_dir: None,
        protocol: Protocol::Http1,
        readiness: Readiness::default(),
        progress_deadline: PATIENCE,
        termination_grace: PATIENCE,
    }
}

fn hello() -> Workload {
    workload(&["parkway", "hello"])
}

fn sh(script: &str) -> Workload {
    workload(&["sh", "-c", script])
}

fn with_env(mut workload: Workload, name: &str, value: &str) -> Workload {
    workload.env.push((name.into(), value.into()));
    workload
}

async fn get(endpoint: Endpoint, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(endpoint.address()).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

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
    for number in 1..=2 {
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
    assert_eq!(retry_in, Duration::from_millis(100));
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

    assert!(begun.elapsed() < Duration::from_secs(3));
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
