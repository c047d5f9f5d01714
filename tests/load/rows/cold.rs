//! Rows of Revisions at zero: how soon somebody hears of a request, and how soon it leaves once it can.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use parkway_autoscaler_client::wire;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::accept_async;

use super::Bench;
use crate::generator::percentile;
use crate::machine::{now_ns, pause, pin};
use crate::peers::{Manifests, Program, Route, Running, Start, get};
use crate::report::{Cell, Column, Line, Table};

/// Revisions whose first request is announced to the autoscaler.
const SIGNALS: usize = 200;
/// Processes that are started for a first request.
const STARTS: usize = 100;
/// How long an announcement, or the autoscaler's connection, may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long after its start Parkway is asked: it reports for the first time then.
const SETTLED: Duration = Duration::from_secs(2);

/// A Service whose endpoint is not ready.
const AT_ZERO: &str = include_str!("../peers/parkway-at-zero.yaml");
/// A Service whose process starts with the first request.
const COLD: &str = include_str!("../peers/parkway-cold.yaml");

pub(super) fn signal(bench: &Bench) -> Result<Vec<Table>> {
    let count = bench.scaled(SIGNALS);
    let measured = bench.cpus.with(&bench.cpus.load(), || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(announcements(bench, count))
    })?;
    let title =
        format!("signal: {count} arrivals at Revisions at zero → stat message at the autoscaler");
    Ok(vec![table(
        title,
        "p99 ≤ 1 ms",
        measured,
        "From before the request is written to the WebSocket message with its Revision.",
    )])
}

pub(super) fn ready(bench: &Bench) -> Result<Vec<Table>> {
    let count = bench.scaled(STARTS);
    let title = format!(
        "ready: {count} processes that listen after 50 to 300 ms → first parked request there"
    );
    let note = "The process itself measures it: from listening to having read the request.";
    Ok(vec![table(
        title,
        "p99 ≤ 5 ms",
        cold_starts(bench, count),
        note,
    )])
}

/// Percentiles of nanoseconds, in milliseconds.
fn table(title: String, reach: &'static str, measured: Result<Vec<u64>>, note: &str) -> Table {
    let cells = match measured {
        Ok(mut times_ns) => {
            times_ns.sort_unstable();
            let at = |percent| {
                let time_ns = percentile(&times_ns, percent).ok_or("nothing was measured")?;
                Ok(time_ns as f64 / 1e6)
            };
            [50, 99, 100].map(|percent| Cell::one(at(percent))).to_vec()
        }
        Err(error) => vec![Cell::one(Err(format!("{error:#}"))); 3],
    };
    Table {
        title,
        reach,
        columns: ["p50 ms", "p99 ms", "longest ms"]
            .map(|title| Column::shown(title, 2))
            .to_vec(),
        lines: vec![Line {
            label: Program::Parkway.name().to_owned(),
            is_peer: false,
            cells,
        }],
        notes: vec![note.to_owned()],
    }
}

/// Asks Revisions at zero one after the other, and hears of each as an autoscaler does.
async fn announcements(bench: &Bench, count: usize) -> Result<Vec<u64>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (_folder, manifests) = services(bench, AT_ZERO, "zero", count)?;
    let autoscaler = format!("ws://{}", listener.local_addr()?);
    // Nobody listens at the endpoints, which are not ready.
    let how = Start {
        manifests: Manifests::At(&manifests),
        flags: vec!["--autoscaler".to_owned(), autoscaler],
        ..bench.ready(listener.local_addr()?)
    };
    let running = crate::peers::start(&how, Program::Parkway)?;
    // Starting it has freed this thread.
    pin(&bench.cpus.load())?;
    let (stream, _address) = timeout(PATIENCE, listener.accept()).await??;
    stream.set_nodelay(true)?;
    let mut reports = timeout(PATIENCE, accept_async(stream)).await??;
    tokio::time::sleep(SETTLED).await;
    let mut times_ns = Vec::new();
    let mut parked = Vec::new();
    for number in 0..count {
        let (time_ns, request) = announcement(&running, &mut reports, number).await?;
        times_ns.push(time_ns);
        parked.push(request);
    }
    Ok(times_ns)
}

async fn announcement(
    running: &Running,
    reports: &mut WebSocketStream<TcpStream>,
    number: usize,
) -> Result<(u64, TcpStream)> {
    let mut stream = TcpStream::connect(running.target(Route::Plain).address).await?;
    stream.set_nodelay(true)?;
    let host = format!("zero-{number:05}.default.localhost");
    let revision = format!("zero-{number:05}-00001");
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let asked_ns = now_ns();
    stream.write_all(request.as_bytes()).await?;
    loop {
        let message = timeout(PATIENCE, reports.next())
            .await
            .with_context(|| format!("nothing was said of {revision}"))?
            .context("the connection to the autoscaler ended")??;
        let heard_ns = now_ns();
        let stats = wire::decode(&message.into_data())?;
        let is_it = stats.iter().any(|message| {
            message.revision.name() == revision && message.stat.average_concurrent_requests > 0.0
        });
        if is_it {
            return Ok((heard_ns - asked_ns, stream));
        }
    }
}

/// Starts processes by asking for them; each says how long it had been listening when the request came.
fn cold_starts(bench: &Bench, count: usize) -> Result<Vec<u64>> {
    let (_folder, manifests) = services(bench, COLD, "cold", count)?;
    let nobody = "127.0.0.1:9".parse()?;
    let how = Start {
        manifests: Manifests::At(&manifests),
        ..bench.ready(nobody)
    };
    let running = crate::peers::start(&how, Program::Parkway)?;
    pause(SETTLED);
    let address = running.target(Route::Plain).address;
    let mut times_ns = Vec::new();
    for number in 0..count {
        let (status, answer) = get(address, &format!("cold-{number:05}.default.localhost"), "/")?;
        ensure!(status == 200, "answered {answer:?}");
        let (_head, age_us) = answer.rsplit_once("\r\n").context("no body")?;
        times_ns.push(age_us.parse::<u64>()? * 1000);
    }
    Ok(times_ns)
}

/// A file with so many Services made from a template.
fn services(
    bench: &Bench,
    template: &str,
    name: &str,
    count: usize,
) -> Result<(TempDir, std::path::PathBuf)> {
    let folder = TempDir::new()?;
    let this = std::env::current_exe()?.display().to_string();
    let cpu = bench
        .cpus
        .load()
        .first()
        .copied()
        .unwrap_or_default()
        .to_string();
    let template = template
        .replace("@load@", &this)
        .replace("@load_cpu@", &cpu);
    let mut text = String::new();
    for number in 0..count {
        let service = template.replace("@name@", &format!("{name}-{number:05}"));
        writeln!(text, "---\n{service}")?;
    }
    let file = folder.path().join("services.yaml");
    fs::write(&file, text)?;
    Ok((folder, file))
}
