//! The same traces through a collector that others have written: Rotel, a binary within a package of Python. It takes
//! them over gRPC and over HTTP, and sends them on to Python's receiver.

use std::env;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use parkway_tests::eventually;

use crate::python::{Python, WAITERS, assert_are_as_jaeger_wants_them, started};

/// The collector. Dropping it ends it.
struct Rotel {
    child: Child,
    grpc: u16,
    http: u16,
}

impl Drop for Rotel {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A port that nobody listens on now: it does not say which one it was given.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Rotel {
    /// Starts it; none, and says why, where it is absent.
    #[expect(clippy::print_stderr, reason = "part of the report of a test")]
    async fn start(folder: &Path, to: &Python) -> Option<Self> {
        let python = env::var("PARKWAY_TEST_PYTHON").unwrap_or_else(|_unset| "python3".to_owned());
        let where_it_is =
            "import pathlib, rotel; print(pathlib.Path(rotel.__file__).parent / 'rotel-agent')";
        let asked = Command::new(&python).args(["-c", where_it_is]).output();
        let path = asked.ok().filter(|asked| asked.status.success());
        let path = path.map(|asked| String::from_utf8(asked.stdout).unwrap().trim().to_owned());
        let runs = |path: &String| {
            let asked = Command::new(path).arg("--version").output();
            asked.is_ok_and(|asked| asked.status.success())
        };
        let Some(path) = path.filter(runs) else {
            eprintln!("ABSENT: rotel; this test proves nothing (pip install rotel)");
            return None;
        };
        let (grpc, http) = (free_port(), free_port());
        let child = Command::new(path)
            .args(["start", "--exporter", "otlp"])
            .args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{grpc}")])
            .args(["--otlp-http-endpoint", &format!("127.0.0.1:{http}")])
            .args([
                "--otlp-exporter-endpoint",
                &format!("http://127.0.0.1:{}", to.ports["grpc"]),
            ])
            .args(["--otlp-exporter-protocol", "grpc"])
            .arg("--pid-file")
            .arg(folder.join("pid"))
            .arg("--log-file")
            .arg(folder.join("log"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let rotel = Self { child, grpc, http };
        eventually("rotel to listen", async || {
            let connect = async |port| tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
            (connect(grpc).await.is_ok() && connect(http).await.is_ok()).then_some(())
        })
        .await;
        Some(rotel)
    }
}

#[tokio::test]
async fn a_collector_of_others_passes_a_cold_start_on_as_one_tree_over_grpc_and_over_http() {
    for protocol in ["grpc", "http/protobuf"] {
        let folder = tempfile::tempdir().unwrap();
        let Some(python) = Python::start() else {
            return;
        };
        let Some(rotel) = Rotel::start(folder.path(), &python).await else {
            return;
        };
        let port = match protocol {
            "grpc" => rotel.grpc,
            _ => rotel.http,
        };
        let parkway = started(format!("http://127.0.0.1:{port}"), protocol).await;
        let spans = python.told("grpc", WAITERS).await;
        assert_are_as_jaeger_wants_them(&spans);
        let lost = [("reason", "not-taken")];
        let lost = parkway.metric("parkway_trace_spans_dropped_total", &lost);
        assert_eq!(lost.await, Some(0.0), "{protocol}");
        parkway.finish().await;
    }
}
