//! Requests that wait for an endpoint: what each costs in memory, and how they leave when there is one.
//!
//! Parkway parks them for a local process that has been started and does not listen yet. HAProxy and Envoy let them
//! wait for the only connection they may have to the endpoint, which a request holds that is not answered.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::idle::QUIET;
use super::{Bench, number};
use crate::generator::checked;
use crate::machine::{now_ns, pause};
use crate::peers::{Manifests, PARKED, Program, Route, Running, Start, start};
use crate::process::Process;
use crate::report::{Cell, Column, Line, Table};

const HTTP1: usize = 8000;
const STREAMS: usize = 10_000;
const RELEASED_HTTP1: usize = 10_000;
const RELEASED_STREAMS: usize = 50_000;
/// Streams on one HTTP/2 connection.
const STREAMS_EACH: usize = 100;
/// Connections HAProxy may have to the endpoint from its release on: as many as Parkway may.
const ROOM: usize = 1024;
/// How often all of them are released, at most.
const RELEASES: usize = 3;
/// How many processes the clients of one program are spread over, because of the limit of files.
const CLIENTS: usize = 2;

/// What is measured of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measured {
    Memory,
    Release,
}

/// How requests come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Connections,
    Streams,
}

pub(super) fn memory(bench: &Bench) -> Result<Vec<Table>> {
    let each = |kind: Kind, count, reach| -> Result<Table> {
        let count = bench.scaled(count);
        let measured = Measured::Memory;
        Ok(Table {
            title: format!("parked: {count} {}", kind.name()),
            reach,
            columns: vec![Column::compared("KiB a request", 2)],
            lines: lines(bench, kind, count, measured),
            notes: vec![
                "Growth of PSS ÷ requests, 4 s after the last event; one measurement.".to_owned(),
            ],
        })
    };
    Ok(vec![
        each(Kind::Connections, HTTP1, "≤ 4 KiB")?,
        each(Kind::Streams, STREAMS, "≤ 2 KiB")?,
    ])
}

pub(super) fn release(bench: &Bench) -> Result<Vec<Table>> {
    let each = |kind: Kind, count, reach| -> Result<Table> {
        let count = bench.scaled(count);
        let measured = Measured::Release;
        Ok(Table {
            title: format!("release: {count} {}, HTTP/1.1 endpoint", kind.name()),
            reach,
            columns: vec![
                Column::shown("first answer, ms", 1),
                Column::compared("last answer, ms", 0),
                Column::compared("CPU µs each", 1),
                Column::shown("lost", 0),
            ],
            lines: lines(bench, kind, count, measured),
            notes: vec![
                "From the moment the endpoint's process listens (Parkway) or the order to enlarge `maxconn` is \
                 sent (HAProxy) to the first and last answer at a client."
                    .to_owned(),
            ],
        })
    };
    Ok(vec![
        each(
            Kind::Connections,
            RELEASED_HTTP1,
            "≤ 10 ms / ≤ 400 ms, ≤ 60 µs, none lost",
        )?,
        each(
            Kind::Streams,
            RELEASED_STREAMS,
            "≤ 20 ms / ≤ 1,200 ms, none lost",
        )?,
    ])
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Connections => "HTTP/1.1 connections with a request each",
            Self::Streams => "HTTP/2 streams, 100 a connection",
        }
    }
}

/// Every program in turn, as often as one round tells too little.
fn lines(bench: &Bench, kind: Kind, count: usize, measured: Measured) -> Vec<Line> {
    let (columns, rounds) = match measured {
        Measured::Memory => (1, 1),
        Measured::Release => (4, bench.rounds.min(if bench.quick { 1 } else { RELEASES })),
    };
    // nginx has no queue; Envoy's bound on connections cannot be changed while it runs.
    let cannot = |program| {
        program == Program::Nginx || (program == Program::Envoy && measured == Measured::Release)
    };
    let instead = |program| {
        let absent = (!bench.tools.has(program)).then_some(Cell::Absent);
        if cannot(program) {
            Some(Cell::Cannot)
        } else {
            absent
        }
    };
    let mut samples = Program::FULL.map(|program| (program, vec![Vec::new(); columns]));
    for _ in 0..rounds {
        for (program, columns) in &mut samples {
            if instead(*program).is_some() {
                continue;
            }
            let figures = measure(bench, *program, kind, count, measured);
            for (index, column) in columns.iter_mut().enumerate() {
                column.push(match &figures {
                    Ok(figures) => Ok(figures[index]),
                    Err(error) => Err(format!("{error:#}").replace('\n', " ")),
                });
            }
        }
    }
    let line = |(program, columns): (Program, Vec<Vec<_>>)| Line {
        label: program.name().to_owned(),
        is_peer: program.is_peer(),
        cells: match instead(program) {
            Some(cell) => vec![cell; columns.len()],
            None => columns.into_iter().map(Cell::of).collect(),
        },
    };
    samples.into_iter().map(line).collect()
}

/// One figure for each column.
fn measure(
    bench: &Bench,
    program: Program,
    kind: Kind,
    count: usize,
    measured: Measured,
) -> Result<Vec<f64>> {
    let (_endpoint, address) = bench.endpoint()?;
    let flags = [
        "--queue-depth",
        "100000",
        "--queue-mib",
        "512",
        "--queue-total-mib",
        "1024",
    ];
    let how = Start {
        manifests: Manifests::Template(PARKED),
        flags: flags.map(str::to_owned).to_vec(),
        ..bench.ready(address)
    };
    let running = start(&how, program)?;
    let _occupant = occupy(bench, &running)?;
    pause(QUIET);
    let before_kib = running.process.pss_kib();
    let mut clients = clients(bench, &running, kind, count)?;
    for client in &mut clients {
        checked(client.ask("open")?)?;
    }
    pause(QUIET);
    let parked_kib = running.process.pss_kib();
    for client in &mut clients {
        let ended = checked(client.ask("count")?)?;
        ensure!(
            number(&ended, "answers")? == 0.0,
            "answered before there was an endpoint"
        );
    }
    if measured == Measured::Memory {
        return Ok(vec![(parked_kib as f64 - before_kib as f64) / count as f64]);
    }
    let spent_before = running.process.run_time_ns();
    let ordered_ns = let_go(&running)?;
    let told = all_answers(&mut clients)?;
    let spent = running.process.run_time_ns().saturating_sub(spent_before);
    let began_ns = began_ns(&running, ordered_ns)?;
    release_figures(&told, began_ns, spent, count)
}

/// Takes the only place there is at HAProxy and Envoy.
fn occupy(bench: &Bench, running: &Running) -> Result<Option<Process>> {
    if running.program == Program::Parkway {
        return Ok(None);
    }
    let target = running.target(Route::Parked);
    let to = target.address.to_string();
    let mut occupant = bench.own(&[
        "hold",
        "--to",
        &to,
        "--host",
        &target.host,
        "--requests",
        "1",
        "--path",
        "/hold",
    ])?;
    checked(occupant.ask("open")?)?;
    Ok(Some(occupant))
}

fn clients(bench: &Bench, running: &Running, kind: Kind, count: usize) -> Result<Vec<Process>> {
    let target = running.target(Route::Parked);
    let (to, each) = (target.address.to_string(), (count / CLIENTS).to_string());
    let streams = STREAMS_EACH.to_string();
    let mut arguments = vec![
        "hold",
        "--to",
        &to,
        "--host",
        &target.host,
        "--requests",
        &each,
    ];
    if kind == Kind::Streams {
        arguments.extend(["--streams", &streams]);
    }
    (0..CLIENTS).map(|_| bench.own(&arguments)).collect()
}

/// Makes room at the endpoint.
fn let_go(running: &Running) -> Result<u64> {
    let now = now_ns();
    if running.program == Program::Parkway {
        fs::write(running.folder().join("now"), "")?;
    } else {
        running.order_haproxy(&format!("set maxconn server parked/endpoint {ROOM}"))?;
    }
    Ok(now)
}

/// The moment from which on the endpoint could have answered.
fn began_ns(running: &Running, ordered_ns: u64) -> Result<u64> {
    if running.program != Program::Parkway {
        return Ok(ordered_ns);
    }
    let file = running.folder().join("now.listened");
    let text = fs::read_to_string(file).context("the endpoint did not say when it listened")?;
    Ok(text.parse()?)
}

fn all_answers(clients: &mut [Process]) -> Result<Vec<Value>> {
    for client in clients.iter_mut() {
        client.tell("wait")?;
    }
    let told = clients
        .iter_mut()
        .map(Process::hear)
        .collect::<Result<_>>()?;
    pause(Duration::from_millis(50)); // what the program does behind the last answer is its cost, too
    Ok(told)
}

fn release_figures(told: &[Value], began_ns: u64, spent_ns: u64, count: usize) -> Result<Vec<f64>> {
    let numbers =
        |name: &str| -> Vec<u64> { told.iter().filter_map(|told| told[name].as_u64()).collect() };
    let answers = numbers("answers").iter().sum::<u64>() as f64;
    let lost = count as f64 - answers;
    if let Some(problem) = told.iter().find_map(|told| told["problem"].as_str()) {
        bail!("{problem}, {lost} lost");
    }
    ensure!(lost == 0.0, "{lost} answers are missing");
    let first_ns = numbers("first_ns")
        .into_iter()
        .min()
        .context("no first answer")?;
    let last_ns = numbers("last_ns")
        .into_iter()
        .max()
        .context("no last answer")?;
    let after_ms = |moment_ns: u64| moment_ns.saturating_sub(began_ns) as f64 / 1e6;
    let each_us = spent_ns as f64 / 1000.0 / answers;
    Ok(vec![after_ms(first_ns), after_ms(last_ns), each_us, lost])
}
