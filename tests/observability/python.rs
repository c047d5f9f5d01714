//! The same traces at a receiver that others have written: Python's grpcio and opentelemetry-proto.

use std::env;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use parkway_tests::{Parkway, eventually, hello_service};
use serde_json::Value;

const COLLECTOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/observability/collector.py");

/// Ends with the test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn pythons_receiver_reads_a_cold_start_as_one_tree() {
    // `PARKWAY_TEST_PYTHON` may name one that has the packages.
    let python = env::var("PARKWAY_TEST_PYTHON").unwrap_or_else(|_unset| "python3".to_owned());
    let started = Command::new(&python)
        .arg(COLLECTOR)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(child) = started else {
        return eprintln!("not run: there is no {python}");
    };
    let mut child = Ends(child);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let Some(Ok(port)) = lines.next() else {
        assert_eq!(
            child.0.wait().unwrap().code(),
            Some(3),
            "only absence is an excuse"
        );
        return eprintln!("not run: {python} has no grpcio or no opentelemetry-proto");
    };
    let spans: Arc<Mutex<Vec<Value>>> = Arc::default();
    let taken = Arc::clone(&spans);
    let reading = thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            taken.lock().push(serde_json::from_str(&line).unwrap());
        }
    });
    let parkway = Parkway::builder()
        .env(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!("http://127.0.0.1:{port}"),
        )
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        .env("OTEL_BSP_SCHEDULE_DELAY", 50)
        .manifest("main", hello_service("shop"))
        .start()
        .await;

    parkway.service("shop").get("/").await.expect(200);

    let named = |spans: &[Value], name: &str| {
        let named = spans.iter().find(|span| span["name"] == name);
        named.cloned()
    };
    let (server, start, parked) = eventually("the trace", async || {
        let spans = spans.lock().clone();
        let told = (
            named(&spans, "GET")?,
            named(&spans, "cold start")?,
            named(&spans, "parked")?,
        );
        Some(told)
    })
    .await;
    assert_eq!(server["kind"], "SPAN_KIND_SERVER");
    assert_eq!(
        (&start["trace"], &start["parent"]),
        (&server["trace"], &server["id"])
    );
    assert_eq!(parked["links"][0], start["id"]);
    let told = spans.lock().clone();
    let phases: Vec<_> = { told.iter() }
        .filter(|span| span["parent"] == start["id"])
        .collect();
    let sum: i64 = phases
        .iter()
        .map(|phase| phase["ns"].as_i64().unwrap())
        .sum();
    let whole = start["ns"].as_i64().unwrap();
    assert!(
        (whole - sum).abs() < 2_000_000,
        "{sum} of {whole}: {phases:#?}"
    );
    parkway.finish().await;
    drop(child);
    reading.join().unwrap();
}
