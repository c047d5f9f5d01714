//! Others who read HTTP, as endpoints: HAProxy and nginx, which pass on what they read, and a server on hyper.

use std::convert::Infallible;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use http::header::HOST;
use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parkway_tests::{Upstream, eventually};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::recorder::{Record, Seen, recording};

/// Somebody who reads requests, and what of them arrives behind.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// The protocol it is spoken to by.
    pub(crate) by: By,
    pub(crate) address: SocketAddr,
    pub(crate) record: Record,
    _running: Running,
}

/// How a peer is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Http1,
    Http2,
}

/// Held while it runs.
#[derive(Debug)]
#[expect(dead_code, reason = "held for its drop")]
enum Running {
    Recorder(Upstream),
    Server(Server),
    Program(Program),
}

#[derive(Debug)]
struct Server(JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug)]
struct Program {
    child: Child,
    _behind: Upstream,
    _directory: TempDir,
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Nobody between: what Parkway writes is read to the letter.
pub(crate) async fn to_the_letter() -> Peer {
    let (upstream, record) = recording().await;
    Peer {
        name: "letter",
        by: By::Http1,
        address: upstream.address(),
        record,
        _running: Running::Recorder(upstream),
    }
}

/// All peers there are on this machine; absent ones are named on standard error.
pub(crate) async fn all() -> Vec<Peer> {
    let mut peers = vec![to_the_letter().await, hyper("hyper", By::Http1).await];
    peers.extend(haproxy("haproxy", By::Http1).await);
    peers.extend(nginx().await);
    peers
}

/// Those that are spoken to by HTTP/2, as far as they are on this machine.
pub(crate) async fn by_http2() -> Vec<Peer> {
    let mut peers = vec![hyper("hyper-http2", By::Http2).await];
    peers.extend(haproxy("haproxy-http2", By::Http2).await);
    peers
}

async fn hyper(name: &'static str, by: By) -> Peer {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let record = Record::default();
    let server = tokio::spawn({
        let record = record.clone();
        async move {
            while let Ok((stream, _)) = listener.accept().await {
                let record = record.clone();
                let service = service_fn(move |request| note(request, record.clone()));
                let stream = TokioIo::new(stream);
                tokio::spawn(async move {
                    match by {
                        By::Http1 => {
                            drop(
                                http1::Builder::new()
                                    .serve_connection(stream, service)
                                    .await,
                            );
                        }
                        By::Http2 => {
                            let server = http2::Builder::new(TokioExecutor::new());
                            drop(server.serve_connection(stream, service).await);
                        }
                    }
                });
            }
        }
    });
    Peer {
        name,
        by,
        address,
        record,
        _running: Running::Server(Server(server)),
    }
}

async fn note(
    request: Request<Incoming>,
    record: Record,
) -> Result<Response<Full<Bytes>>, Infallible> {
    record.begin();
    let (head, body) = request.into_parts();
    if let Ok(body) = body.collect().await {
        let host = head.headers.get(HOST).map(|host| host.to_str().unwrap());
        let (host, target) = match head.version {
            // What HTTP/1 says with a field is a part of the target here.
            Version::HTTP_2 => (
                head.uri.authority().map(|host| host.as_str()).or(host),
                head.uri.path_and_query().unwrap().to_string(),
            ),
            _ => (host, head.uri.to_string()),
        };
        let (method, host) = (head.method.as_str(), host.unwrap_or_default());
        record.complete(Seen::new(method, host, &target, body.to_bytes()));
    }
    Ok(Response::new(Full::from("ok")))
}

async fn haproxy(name: &'static str, by: By) -> Option<Peer> {
    program(name, by, |port, behind, directory| {
        let configuration = directory.join("haproxy.cfg");
        let text = format!(
            "global\n  maxconn 200\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  \
             timeout server 60s\nfrontend front\n  bind 127.0.0.1:{port}\n  default_backend back\nbackend back\n  \
             server one {behind}\n"
        );
        fs::write(&configuration, text).unwrap();
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(configuration);
        command
    })
    .await
}

async fn nginx() -> Option<Peer> {
    program("nginx", By::Http1, |port, behind, directory| {
        let configuration = directory.join("nginx.conf");
        let folder = directory.display();
        let text = format!(
            "daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log {folder}/error.log;\n\
             events {{ worker_connections 200; }}\nhttp {{\n  access_log off;\n  client_body_temp_path {folder}/body;\n  \
             proxy_temp_path {folder}/proxy;\n  fastcgi_temp_path {folder}/f;\n  uwsgi_temp_path {folder}/u;\n  \
             scgi_temp_path {folder}/s;\n  large_client_header_buffers 4 64k;\n  server {{\n    listen 127.0.0.1:{port};\n    \
             location / {{\n      proxy_pass http://{behind};\n      proxy_http_version 1.1;\n      \
             proxy_set_header Host $http_host;\n      proxy_set_header Connection \"\";\n    }}\n  }}\n}}\n"
        );
        fs::write(&configuration, text).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-c").arg(configuration);
        command
    })
    .await
}

/// Starts a program in front of a recorder. `None`: this machine does not have it.
async fn program(
    name: &'static str,
    by: By,
    configured: impl Fn(u16, SocketAddr, &Path) -> Command,
) -> Option<Peer> {
    let (behind, record) = recording().await;
    let directory = tempfile::Builder::new()
        .prefix("parkway-tests-")
        .tempdir()
        .unwrap();
    // The port is free until the program takes it; another process that is quicker would make the start fail loudly.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut command = configured(port, behind.address(), directory.path());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            absent(name);
            return None;
        }
        Err(error) => panic!("{name}: {error}"),
    };
    let mut program = Program {
        child,
        _behind: behind,
        _directory: directory,
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    eventually(format!("{name} to listen"), async || {
        if let Some(status) = program.child.try_wait().unwrap() {
            panic!("{name} ended with {status}");
        }
        TcpStream::connect(address).await.ok()
    })
    .await;
    Some(Peer {
        name,
        by,
        address,
        record,
        _running: Running::Program(program),
    })
}

#[expect(clippy::print_stderr, reason = "part of the test's report")]
fn absent(name: &str) {
    eprintln!("{name} is absent on this machine: what it reads was NOT compared");
}
