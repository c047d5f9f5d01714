//! A running Parkway.

use std::fmt::Display;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::binary::command;
use crate::http1::Http1;
use crate::metrics::Metrics;
use crate::processes::{MARK, kill_marked, marked, signal};
use crate::site::Site;
use crate::state::State;
use crate::wait::{eventually, settled};

/// How many threads serve requests unless a test says otherwise: enough for what is shared between threads to show.
const WORKERS: u32 = 2;

/// What to start.
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    directory: Arc<TempDir>,
    /// Which command, and the flags of every test.
    base: Vec<String>,
    /// Flags that `arguments` may set otherwise.
    defaults: Vec<(&'static str, String)>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    workers: u32,
    is_read: bool,
}

impl Builder {
    /// Runs this command of `parkway`; `directory` is its own.
    pub(crate) fn of_command(directory: TempDir, base: &[&str]) -> Self {
        Self {
            directory: Arc::new(directory),
            base: base.iter().map(|word| (*word).to_owned()).collect(),
            defaults: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            workers: WORKERS,
            is_read: true,
        }
    }

    /// Adds a manifest, to be found again by its name (without `.yaml`) in [`Parkway::edit`].
    pub fn manifest(self, name: &str, yaml: impl Display) -> Self {
        write_manifest(self.directory.path(), name, &yaml.to_string());
        self
    }

    /// Adds a flag with its value.
    pub fn flag(mut self, name: &str, value: impl Display) -> Self {
        self.arguments.extend([name.to_owned(), value.to_string()]);
        self
    }

    /// Adds a flag that a test may set otherwise.
    pub(crate) fn default_flag(mut self, name: &'static str, value: &str) -> Self {
        self.defaults.push((name, value.to_owned()));
        self
    }

    /// Adds a flag without a value.
    pub fn switch(mut self, name: &str) -> Self {
        self.arguments.push(name.to_owned());
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: &str, value: impl Display) -> Self {
        self.environment.push((name.to_owned(), value.to_string()));
        self
    }

    /// How many threads serve requests.
    pub fn workers(mut self, workers: u32) -> Self {
        self.workers = workers;
        self
    }

    /// Nobody reads its standard output, so that it can write no more when the pipe is full.
    pub fn unread(mut self) -> Self {
        self.is_read = false;
        self
    }

    /// Starts it and waits until it is ready.
    pub async fn start(self) -> Parkway {
        let parkway = self.spawn().await;
        settled("Parkway to become ready", async || {
            match parkway.admin_get("/readyz").await {
                Ok(answer) if answer.status == 200 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        parkway
    }

    /// Runs it to its end, which a test expects to come by itself.
    pub fn run_to_end(self) -> Output {
        self.command().output().unwrap()
    }

    fn command(&self) -> std::process::Command {
        let mut command = command(&[]);
        command
            .args(&self.base)
            .args(["--workers", &self.workers.to_string()])
            .args(["--log-format", "json"]);
        for (name, value) in &self.defaults {
            if !self.arguments.iter().any(|argument| argument == name) {
                command.args([name, value.as_str()]);
            }
        }
        command
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .env(MARK, mark_of(self.directory.path()))
            .stdin(Stdio::null());
        command
    }

    /// Starts it and waits until it serves; it need not be ready.
    pub async fn spawn(self) -> Parkway {
        raise_file_limit();
        let mut child = self
            .command()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let logs = Logs::default();
        let mut readers = vec![logs.keep(child.stderr.take().unwrap())];
        if self.is_read {
            readers.push(logs.keep(child.stdout.take().unwrap()));
        }
        let mut parkway = Parkway {
            started: Started {
                child,
                readers,
                logs,
                directory: Arc::clone(&self.directory),
            },
            serving: Value::Null,
            builder: self,
        };
        let serving = eventually("Parkway to serve", async || {
            if let Some(status) = parkway.started.child.try_wait().unwrap() {
                panic!(
                    "Parkway ended with {status}:\n{}",
                    parkway.logs().join("\n")
                );
            }
            parkway
                .logged("serving")
                .into_iter()
                .find(|line| line["admin"].is_string())
        })
        .await;
        parkway.serving = serving;
        parkway
    }
}

/// A running Parkway. Dropping it ends it and all it started.
#[derive(Debug)]
pub struct Parkway {
    started: Started,
    /// What it said when it began to serve: its addresses.
    serving: Value,
    builder: Builder,
}

impl Parkway {
    /// What to start; nothing yet.
    pub fn builder() -> Builder {
        let directory = directory();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let (manifests, state) = (path("manifests"), path("state"));
        fs::create_dir(&manifests).unwrap();
        let nowhere = "127.0.0.1:0";
        let entrances = [
            "--listen",
            nowhere,
            "--listen-local",
            nowhere,
            "--admin",
            nowhere,
        ];
        let base = [&["run", &manifests, "--state-dir", &state], &entrances[..]].concat();
        Builder::of_command(directory, &base)
    }

    /// Starts with one file of manifests, `main`.
    pub async fn with(manifests: impl Display) -> Self {
        Self::builder().manifest("main", manifests).start().await
    }

    /// The external entrance.
    pub fn external(&self) -> SocketAddr {
        self.listens("external")
    }

    /// The cluster-local entrance.
    pub fn local(&self) -> SocketAddr {
        self.listens("local")
    }

    /// The admin entrance.
    pub fn admin(&self) -> SocketAddr {
        self.listens("admin")
    }

    /// Any of its addresses, by the name that it has when it says that it serves.
    pub fn listens(&self, name: &str) -> SocketAddr {
        let address = self.serving[name].as_str();
        let address = address.unwrap_or_else(|| panic!("no {name} in {}", self.serving));
        address.parse().unwrap()
    }

    /// A Service of the namespace `default` at the external entrance.
    pub fn service(&self, name: &str) -> Site {
        self.at(format!("{name}.default.localhost"))
    }

    /// Any host at the external entrance.
    pub fn at(&self, host: impl Into<String>) -> Site {
        Site::new(self.external(), host)
    }

    /// Any host at the cluster-local entrance.
    pub fn at_local(&self, host: impl Into<String>) -> Site {
        Site::new(self.local(), host)
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.started.child.id()).unwrap()
    }

    /// The folder of the manifests.
    pub fn manifests(&self) -> PathBuf {
        self.started.directory.path().join("manifests")
    }

    /// Replaces a manifest, or adds one, in one step, as an editor that saves does.
    pub fn edit(&self, name: &str, yaml: impl Display) {
        write_manifest(self.started.directory.path(), name, &yaml.to_string());
    }

    /// Takes a manifest away.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.manifests().join(format!("{name}.yaml"))).unwrap();
    }

    /// `/state`.
    pub async fn state(&self) -> State {
        State(self.admin_get("/state").await.unwrap().expect(200).json())
    }

    /// `/state`, as soon as `is_so` is true of it.
    ///
    /// `what` completes the sentence "waited in vain for …".
    pub async fn state_when(&self, what: &str, is_so: impl Fn(&State) -> bool) -> State {
        let mut seen = None;
        let found = tokio::time::timeout(crate::PATIENCE, async {
            loop {
                let state = self.state().await;
                if is_so(&state) {
                    return state;
                }
                seen = Some(state);
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        });
        match found.await {
            Ok(state) => state,
            Err(_elapsed) => panic!("waited in vain for {what}: {seen:#?}"),
        }
    }

    /// Waits until this many requests are parked.
    pub async fn parked(&self, count: u64) {
        self.state_when(&format!("{count} parked requests"), |state| {
            state.parked() == count
        })
        .await;
    }

    /// Waits until this many requests are at endpoints.
    pub async fn in_flight(&self, count: u64) {
        self.state_when(&format!("{count} requests in flight"), |state| {
            state.in_flight() == count
        })
        .await;
    }

    /// Waits until nothing is parked and nothing in flight.
    pub async fn quiet(&self) {
        let is_quiet = |state: &State| {
            state.parked() == 0 && state.in_flight() == 0 && state.0["parkedBytes"] == 0
        };
        self.state_when("nothing parked and nothing in flight", is_quiet)
            .await;
    }

    /// `/metrics`, read.
    pub async fn scraped(&self) -> Metrics {
        Metrics::parse(&self.metrics().await)
    }

    /// `/metrics`.
    pub async fn metrics(&self) -> String {
        self.admin_get("/metrics").await.unwrap().expect(200).text()
    }

    /// The value of the metric whose line begins with `name` and has all these labels; their sum if there are several.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let text = self.metrics().await;
        let wanted: Vec<_> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{value}\""))
            .collect();
        let values = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (found, its_labels) = series.split_once('{').unwrap_or((series, ""));
            let fits = found == name
                && wanted
                    .iter()
                    .all(|label| its_labels.contains(label.as_str()));
            if fits {
                value.parse::<f64>().ok()
            } else {
                None
            }
        });
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// Any path of the admin entrance.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub async fn admin_get(&self, path: &str) -> Result<crate::Answer, String> {
        let request = http::Request::get(path).body(bytes::Bytes::new()).unwrap();
        Http1::try_connect(self.admin(), &self.admin().to_string())
            .await?
            .try_send(request)
            .await
    }

    /// Every line it and its processes have written so far.
    pub fn logs(&self) -> Vec<String> {
        self.started.logs.lines()
    }

    /// Log records with this message so far.
    pub fn logged(&self, message: &str) -> Vec<Value> {
        let lines = self.logs();
        let records = lines
            .iter()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        records
            .filter(|record| record["message"] == message)
            .collect()
    }

    /// Waits for a line that contains this.
    pub async fn says(&self, text: &str) {
        eventually(format!("a line with {text:?}"), async || {
            self.logs()
                .iter()
                .any(|line| line.contains(text))
                .then_some(())
        })
        .await;
    }

    /// Asks a running Parkway where a request would go: `parkway explain` with these arguments.
    pub fn explain(&self, arguments: &[&str]) -> Output {
        self.asked_by("explain", arguments)
    }

    /// What another command says of it: `parkway COMMAND --admin …` with these arguments.
    pub fn asked_by(&self, command_name: &str, arguments: &[&str]) -> Output {
        let admin = self.admin().to_string();
        let arguments = [&[command_name, "--admin", &admin], arguments].concat();
        command(&arguments).output().unwrap()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        signal(self.pid(), Signal::TERM);
    }

    /// Waits for its end, and for the last line it wrote.
    pub async fn ended(&mut self) -> ExitStatus {
        let status = eventually("Parkway to end", async || {
            self.started.child.try_wait().unwrap()
        })
        .await;
        eventually("its last line", async || {
            let mut readers = self.started.readers.iter();
            readers.all(JoinHandle::is_finished).then_some(())
        })
        .await;
        status
    }

    /// Ends it as an operator does, and proves that it ends well: with status 0 and no process left.
    pub async fn stop(mut self) {
        self.terminate();
        let status = self.ended().await;
        assert_eq!(status.code(), Some(0), "{status}");
        assert_eq!(self.left_processes(), [0; 0], "processes are left");
        for line in self.logs() {
            assert!(!line.contains("panicked at"), "{line}");
        }
    }

    /// Proves that nothing is parked or in flight, then ends it as [`stop`](Self::stop) does.
    pub async fn finish(self) {
        self.quiet().await;
        self.stop().await;
    }

    /// Ends it with SIGKILL, which leaves its processes alone, and gives what is needed to start it again.
    pub async fn kill(mut self) -> Killed {
        signal(self.pid(), Signal::KILL);
        self.ended().await;
        Killed {
            builder: self.builder.clone(),
            _until_then: self,
        }
    }

    /// Ids of its processes that run, but not its own, whatever it knows of them.
    pub fn left_processes(&self) -> Vec<i32> {
        let own = self.pid();
        let mark = mark_of(self.started.directory.path());
        marked(&mark)
            .into_iter()
            .filter(|pid| *pid != own)
            .collect()
    }
}

/// A Parkway that was ended with SIGKILL, and what it left.
#[derive(Debug)]
pub struct Killed {
    builder: Builder,
    _until_then: Parkway,
}

impl Killed {
    /// Ids of its processes that run.
    pub fn left_processes(&self) -> Vec<i32> {
        marked(&mark_of(self.builder.directory.path()))
    }

    /// What started it, to start it again.
    pub fn builder(&self) -> Builder {
        self.builder.clone()
    }
}

/// The process and what belongs to it.
#[derive(Debug)]
struct Started {
    child: Child,
    readers: Vec<JoinHandle<()>>,
    logs: Logs,
    directory: Arc<TempDir>,
}

impl Drop for Started {
    fn drop(&mut self) {
        // First Parkway, so that it starts nothing any more.
        drop(self.child.kill());
        drop(self.child.wait());
        kill_marked(&mark_of(self.directory.path()));
        // Those that wrote have ended, so the readers do.
        for reader in self.readers.drain(..) {
            drop(reader.join());
        }
        if thread::panicking() {
            self.logs.show();
        }
    }
}

/// Lines that were written.
#[derive(Clone, Debug, Default)]
struct Logs(Arc<Mutex<Vec<String>>>);

impl Logs {
    fn keep(&self, from: impl Read + Send + 'static) -> JoinHandle<()> {
        let lines = Arc::clone(&self.0);
        thread::spawn(move || {
            for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
                lines
                    .lock()
                    .push(String::from_utf8_lossy(&line).into_owned());
            }
        })
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    #[expect(
        clippy::print_stderr,
        reason = "part of the report of a test that failed"
    )]
    fn show(&self) {
        const SHOWN: usize = 60;
        let lines = self.lines();
        eprintln!("the last of {} lines that Parkway wrote:", lines.len());
        for line in lines.iter().skip(lines.len().saturating_sub(SHOWN)) {
            eprintln!("  {line}");
        }
    }
}

/// What marks the processes of a test: another number in each test process, and a folder no other has.
fn mark_of(directory: &Path) -> String {
    directory
        .file_name()
        .unwrap()
        .to_string_lossy()
        .into_owned()
}

/// A folder of a test's own.
pub(crate) fn directory() -> TempDir {
    let named = tempfile::Builder::new().prefix("parkway-tests-").tempdir();
    named.unwrap()
}

/// A thousand clients are a thousand files.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

fn write_manifest(directory: &Path, name: &str, yaml: &str) {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let draft = directory.join(format!("draft-{number}"));
    fs::write(&draft, yaml).unwrap();
    fs::rename(
        draft,
        directory.join("manifests").join(format!("{name}.yaml")),
    )
    .unwrap();
}
