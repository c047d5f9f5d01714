//! The programs that are measured, and how each is started. Their configurations are the files in `peers/`.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::machine::{Cpus, first_line, pause};
use crate::process::Process;
use crate::tls;

/// How long a program may take until it answers; ten thousand hosts take their time.
const STARTING: Duration = Duration::from_secs(120);
/// How long a request of the harness's own may take.
const ASKING: Duration = Duration::from_secs(10);
/// The host that is asked for.
pub(crate) const HOST: &str = "bench.default.localhost";
/// The host whose endpoint speaks HTTP/2.
const H2_HOST: &str = "unary.default.localhost";

/// A program in the path of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Program {
    Relay,
    Hyper,
    Nginx,
    Haproxy,
    Envoy,
    Parkway,
}

impl Program {
    pub(crate) const ALL: [Self; 6] = [
        Self::Relay,
        Self::Hyper,
        Self::Nginx,
        Self::Haproxy,
        Self::Envoy,
        Self::Parkway,
    ];
    /// Those that know HTTP/2, and can hold requests back.
    pub(crate) const FULL: [Self; 4] = [Self::Nginx, Self::Haproxy, Self::Envoy, Self::Parkway];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Relay => "bare relay",
            Self::Hyper => "minimal hyper proxy",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Envoy => "Envoy",
            Self::Parkway => "Parkway",
        }
    }

    /// Whether it is one of those Parkway is compared with.
    pub(crate) fn is_peer(self) -> bool {
        matches!(self, Self::Nginx | Self::Haproxy | Self::Envoy)
    }
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    pub(crate) parkway: PathBuf,
    /// What Parkway was built from, if that is known.
    pub(crate) parkway_version: Option<String>,
    pub(crate) nginx: PathBuf,
    pub(crate) haproxy: PathBuf,
    pub(crate) envoy: PathBuf,
}

impl Tools {
    /// A program's version, or `None` if it is absent.
    pub(crate) fn version(&self, program: Program) -> Option<String> {
        match program {
            Program::Relay | Program::Hyper => Some("part of the harness".to_owned()),
            Program::Nginx => first_line(Command::new(&self.nginx).arg("-v")),
            Program::Haproxy => first_line(Command::new(&self.haproxy).arg("-v")),
            Program::Envoy => first_line(Command::new(&self.envoy).arg("--version")),
            Program::Parkway => {
                first_line(Command::new(&self.parkway).arg("--help"))?;
                let unknown = || format!("{}, whatever that is", self.parkway.display());
                Some(self.parkway_version.clone().unwrap_or_else(unknown))
            }
        }
    }

    pub(crate) fn has(&self, program: Program) -> bool {
        self.version(program).is_some()
    }
}

/// What requests are sent to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) host: String,
}

/// The ways through a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// HTTP/1.1 or HTTP/2 to an HTTP/1.1 endpoint.
    Plain,
    /// HTTP/2 to an HTTP/2 endpoint.
    H2,
    /// To an endpoint that is not ready.
    Parked,
    /// HTTP/1.1 by TLS to an HTTP/1.1 endpoint.
    Tls,
}

/// A program at work. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) program: Program,
    pub(crate) process: Process,
    ports: Ports,
    folder: TempDir,
}

impl Running {
    /// Where requests for that way go.
    pub(crate) fn target(&self, path: Route) -> Target {
        let parkway = self.program == Program::Parkway;
        let (address, host) = match path {
            Route::H2 if parkway => (self.ports.plain, H2_HOST),
            Route::Plain => (self.ports.plain, HOST),
            Route::H2 => (self.ports.h2, HOST),
            Route::Parked if parkway => (self.ports.plain, HOST),
            Route::Parked => (self.ports.parked, HOST),
            Route::Tls => (self.ports.tls, HOST),
        };
        Target {
            address,
            host: host.to_owned(),
        }
    }

    /// What Parkway has counted under this name, whatever the labels.
    pub(crate) fn counted(&self, name: &str) -> Result<f64> {
        let (_status, metrics) = get(self.ports.admin, "localhost", "/metrics")?;
        let samples = metrics.lines().filter_map(|line| {
            let value = line.strip_prefix(name)?;
            let (_labels, value) = value.rsplit_once(' ')?;
            value.parse::<f64>().ok()
        });
        Ok(samples.sum())
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Sends HAProxy an order through its socket.
    pub(crate) fn order_haproxy(&self, order: &str) -> Result<()> {
        let mut socket = UnixStream::connect(self.folder().join("haproxy.sock"))?;
        socket.write_all(format!("{order}\n").as_bytes())?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        ensure!(answer.trim().is_empty(), "HAProxy said {answer:?}");
        Ok(())
    }
}

/// Addresses a program listens on; not all need all.
#[derive(Clone, Copy, Debug)]
struct Ports {
    plain: SocketAddr,
    h2: SocketAddr,
    parked: SocketAddr,
    tls: SocketAddr,
    local: SocketAddr,
    admin: SocketAddr,
}

impl Ports {
    /// Ports that nobody listens on now.
    fn free() -> Result<Self> {
        let listeners: Vec<_> = (0..6)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<Result<_, _>>()?;
        let address = |index: usize| listeners[index].local_addr();
        Ok(Self {
            plain: address(0)?,
            h2: address(1)?,
            parked: address(2)?,
            local: address(3)?,
            admin: address(4)?,
            tls: address(5)?,
        })
    }
}

/// How a program is started.
#[derive(Clone, Debug)]
pub(crate) struct Start<'a> {
    pub(crate) tools: &'a Tools,
    pub(crate) cpus: &'a Cpus,
    /// Where it runs.
    pub(crate) on: Vec<usize>,
    pub(crate) endpoint: SocketAddr,
    /// Parkway's manifests, as a template; a folder of them is written by the caller.
    pub(crate) manifests: Manifests<'a>,
    /// Parkway's flags beyond those every row has.
    pub(crate) flags: Vec<String>,
    /// Parkway's workers.
    pub(crate) workers: usize,
    /// It serves TLS as well.
    pub(crate) tls: bool,
    /// Parkway's environment beyond what it inherits.
    pub(crate) environment: Vec<(&'static str, String)>,
}

/// What Parkway serves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Manifests<'a> {
    /// A template, whose placeholders are filled in.
    Template(&'a str),
    /// A file or folder that is there already.
    At(&'a Path),
}

/// The manifests of most rows.
pub(crate) const READY: &str = include_str!("peers/parkway.yaml");
/// The manifest of rows whose requests wait.
pub(crate) const PARKED: &str = include_str!("peers/parkway-parked.yaml");

/// Starts a program and waits until it serves.
pub(crate) fn start(how: &Start<'_>, program: Program) -> Result<Running> {
    let (ports, folder) = (Ports::free()?, TempDir::new()?);
    if how.tls {
        tls::put_certificate(folder.path(), HOST)?;
    }
    let command = command(how, program, &ports, folder.path())?;
    let process = Process::logging(&command, folder.path(), how.cpus, &how.on)?;
    let mut running = Running {
        program,
        process,
        ports,
        folder,
    };
    wait_until_ready(&mut running).with_context(|| format!("starting {}", program.name()))?;
    Ok(running)
}

fn command(how: &Start<'_>, program: Program, ports: &Ports, folder: &Path) -> Result<Command> {
    let render = |name: &str, template: &str, by_tls: &str| -> Result<PathBuf> {
        let file = folder.join(name);
        let template = template.replace("@by_tls@", if how.tls { by_tls } else { "" });
        fs::write(&file, filled(&template, how, ports, folder)?)?;
        Ok(file)
    };
    let (listen, to) = (ports.plain.to_string(), how.endpoint.to_string());
    let mut command;
    match program {
        Program::Relay | Program::Hyper => {
            let name = if program == Program::Relay {
                "relay"
            } else {
                "hyper"
            };
            command = Command::new(std::env::current_exe()?);
            command.args([name, "--listen", &listen, "--to", &to]);
            if how.tls {
                command.args(["--listen-tls", &ports.tls.to_string()]);
                command.arg("--certificate").arg(folder);
            }
        }
        Program::Nginx => {
            let file = render(
                "nginx.conf",
                include_str!("peers/nginx.conf"),
                include_str!("peers/nginx-tls.conf"),
            )?;
            command = Command::new(&how.tools.nginx);
            command.arg("-p").arg(folder).arg("-c").arg(file);
        }
        Program::Haproxy => {
            let file = render(
                "haproxy.cfg",
                include_str!("peers/haproxy.cfg"),
                include_str!("peers/haproxy-tls.cfg"),
            )?;
            command = Command::new(&how.tools.haproxy);
            command.arg("-db").arg("-f").arg(file);
        }
        Program::Envoy => {
            let file = render(
                "envoy.yaml",
                include_str!("peers/envoy.yaml"),
                include_str!("peers/envoy-tls.yaml"),
            )?;
            command = Command::new(&how.tools.envoy);
            command.args([
                "--concurrency",
                "1",
                "--disable-hot-restart",
                "--log-level",
                "error",
            ]);
            command.arg("-c").arg(file);
        }
        Program::Parkway => {
            command = Command::new(&how.tools.parkway);
            command.arg("run").arg(match how.manifests {
                Manifests::Template(template) => render("manifests.yaml", template, "")?,
                Manifests::At(path) => path.to_owned(),
            });
            command.args(["--workers", &how.workers.to_string(), "--log", "warn"]);
            // Ends when it is told to, with whatever is still parked.
            command.args(["--drain-seconds", "1", "--listen", &listen]);
            command.args(["--listen-local", &ports.local.to_string()]);
            command.args(["--admin", &ports.admin.to_string()]);
            command.arg("--state-dir").arg(folder.join("state"));
            if how.tls {
                command.args(["--listen-tls", &ports.tls.to_string()]);
                command.arg("--tls-cert").arg(folder.join(tls::CHAIN));
                command.arg("--tls-key").arg(folder.join(tls::KEY));
            }
            command
                .args(&how.flags)
                .envs(how.environment.iter().cloned());
        }
    }
    Ok(command)
}

/// The template with ports and paths in place of `@name@`.
fn filled(template: &str, how: &Start<'_>, ports: &Ports, folder: &Path) -> Result<String> {
    let this = std::env::current_exe()?;
    let load_cpu = how.cpus.load().first().copied().unwrap_or_default();
    let values = [
        ("@plain@", ports.plain.to_string()),
        ("@h2@", ports.h2.to_string()),
        ("@parked@", ports.parked.to_string()),
        ("@tls@", ports.tls.to_string()),
        ("@tls_port@", ports.tls.port().to_string()),
        ("@endpoint@", how.endpoint.to_string()),
        ("@plain_port@", ports.plain.port().to_string()),
        ("@h2_port@", ports.h2.port().to_string()),
        ("@parked_port@", ports.parked.port().to_string()),
        ("@endpoint_port@", how.endpoint.port().to_string()),
        ("@folder@", folder.display().to_string()),
        ("@load@", this.display().to_string()),
        ("@load_cpu@", load_cpu.to_string()),
        ("@maxconn@", "10500".to_owned()),
    ];
    let mut text = template.to_owned();
    for (name, value) in values {
        text = text.replace(name, &value);
    }
    Ok(text)
}

fn wait_until_ready(running: &mut Running) -> Result<()> {
    let step = Duration::from_millis(10);
    let mut waited = Duration::ZERO;
    while waited < STARTING {
        running.process.still_runs()?;
        let ready = match running.program {
            Program::Parkway => get(running.ports.admin, "localhost", "/readyz"),
            _ => get(running.ports.plain, HOST, "/bytes/1"),
        };
        if matches!(ready, Ok((200, _))) {
            return Ok(());
        }
        pause(step);
        waited += step;
    }
    bail!("not ready after {STARTING:?}")
}

/// A request of the harness's own: status and the whole answer.
pub(crate) fn get(to: SocketAddr, host: &str, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&to, ASKING)?;
    stream.set_read_timeout(Some(ASKING))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer
        .split(' ')
        .nth(1)
        .context("no status line")?
        .parse()?;
    Ok((status, answer))
}
