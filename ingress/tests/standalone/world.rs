//! Real processes in a directory of their own, what happened to them, and ways to wait for it.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::{Protocol, RevisionId};
use parkway_ingress::standalone::{Events, LineSink, Options, Processes, Stream};
use parkway_ingress::workload::{Readiness, Workload};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// Far more than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    Endpoints(Vec<Endpoint>),
    Failed(String, Duration),
    Ready(Duration),
}

/// Keeps what happened, in order; tests wait for it to change.
pub(crate) struct Recorder {
    pub(crate) seen: watch::Sender<Vec<(RevisionId, Event)>>,
    pub(crate) lines: watch::Sender<Vec<(Stream, String)>>,
    pub(crate) busy: Mutex<HashSet<Endpoint>>,
}

impl Events for Recorder {
    fn endpoints(&self, id: &RevisionId, ready: Vec<Endpoint>) {
        self.record(id, Event::Endpoints(ready));
    }

    fn started(&self, _id: &RevisionId, _pid: i32, _at: Instant) {}

    fn probed(&self, _id: &RevisionId) {}

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
    pub(crate) fn record(&self, id: &RevisionId, event: Event) {
        self.seen.send_modify(|seen| seen.push((id.clone(), event)));
    }
}

/// Local processes and everything around them. Ends what a failing test leaves.
pub(crate) struct World {
    pub(crate) processes: Processes,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) driver: JoinHandle<()>,
    pub(crate) directory: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Options)) -> Self {
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

    pub(crate) fn run(&self, workload: Workload, replicas: u32) -> RevisionId {
        let id = workload.revision.clone();
        self.processes.set(Arc::new(workload));
        self.processes.scale(&id, replicas);
        id
    }

    /// Waits until something is true of all that happened.
    pub(crate) async fn until<T>(
        &self,
        mut what: impl FnMut(&[(RevisionId, Event)]) -> Option<T>,
    ) -> T {
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

    pub(crate) async fn until_ready(&self, id: &RevisionId, count: usize) -> Vec<Endpoint> {
        self.until(|seen| latest(seen, id).filter(|ready| ready.len() == count))
            .await
    }

    pub(crate) async fn until_failed(&self, id: &RevisionId) -> (String, Duration) {
        self.until(|seen| {
            seen.iter().find_map(|(whose, event)| match event {
                Event::Failed(reason, retry_in) if whose == id => Some((reason.clone(), *retry_in)),
                _ => None,
            })
        })
        .await
    }

    pub(crate) async fn until_line(&self, part: &str) -> (Stream, String) {
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

    pub(crate) fn failures(&self) -> Vec<String> {
        let seen = self.recorder.seen.borrow();
        let failures = seen.iter().filter_map(|(_, event)| match event {
            Event::Failed(reason, _) => Some(reason.clone()),
            _ => None,
        });
        failures.collect()
    }

    pub(crate) async fn until_no_process_is_left(&self) {
        eventually("no process", || self.processes.state().is_empty()).await;
    }

    pub(crate) fn pid(&self) -> i32 {
        self.processes.state()[0].pid
    }

    pub(crate) fn records(&self) -> usize {
        std::fs::read_dir(self.directory.path().join("processes"))
            .unwrap()
            .count()
    }

    /// Ends the world and checks that nothing of it is left.
    pub(crate) async fn end(self) {
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
pub(crate) fn latest(seen: &[(RevisionId, Event)], id: &RevisionId) -> Option<Vec<Endpoint>> {
    seen.iter().rev().find_map(|(whose, event)| match event {
        Event::Endpoints(ready) if whose == id => Some(ready.clone()),
        _ => None,
    })
}

/// For what announces itself to nobody, such as the end of someone else's child.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) fn is_running(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

pub(crate) fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

pub(crate) fn workload(command: &[&str]) -> Workload {
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

pub(crate) fn hello() -> Workload {
    workload(&["parkway", "hello"])
}

pub(crate) fn sh(script: &str) -> Workload {
    workload(&["sh", "-c", script])
}

pub(crate) fn with_env(mut workload: Workload, name: &str, value: &str) -> Workload {
    workload.env.push((name.into(), value.into()));
    workload
}

pub(crate) async fn get(endpoint: Endpoint, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(endpoint.address()).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
