//! Programs of others, as far as this machine has them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use parkway_tests::eventually;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

/// A program that listens. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    pub(crate) address: SocketAddr,
    _directory: TempDir,
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Starts a program that is told its port and a folder of its own. `None`: this machine does not have it.
pub(crate) async fn program(
    name: &'static str,
    configured: impl FnOnce(u16, &Path) -> Command,
) -> Option<Program> {
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
    let mut command = configured(port, directory.path());
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
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        _directory: directory,
    };
    eventually(format!("{name} to listen"), async || {
        if let Some(status) = program.child.try_wait().unwrap() {
            panic!("{name} ended with {status}");
        }
        TcpStream::connect(program.address).await.ok()
    })
    .await;
    Some(program)
}

#[expect(clippy::print_stderr, reason = "part of the test's report")]
pub(crate) fn absent(name: &str) {
    eprintln!("{name} is ABSENT on this machine: what needs it was NOT tested");
}
