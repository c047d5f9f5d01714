//! The harness: what is measured, row by row, and the document it makes.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::machine::{self, Cpus};
use crate::peers::{Manifests, Program, READY, Running, Start, Tools, start};
use crate::process::Process;
use crate::report::{Cell, Table};

mod busy;
mod cold;
mod hosts;
mod idle;
mod parked;
mod tls;

/// How many rounds the samples of a figure come from, unless said otherwise.
const ROUNDS: usize = 9;
const QUICK_ROUNDS: usize = 3;
/// How long each program works in a round.
const ROUND_MS: u64 = 1000;
const QUICK_ROUND_MS: u64 = 300;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Row {
    Http1,
    Bodies,
    H2,
    Websocket,
    Connections,
    Idle,
    Parked,
    Release,
    Signal,
    Ready,
    Latency,
    Hosts,
    Workers,
    Tracing,
    Tls,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// What to measure; everything if none is named
    #[arg(value_enum)]
    rows: Vec<Row>,
    /// How many rounds
    #[arg(long)]
    rounds: Option<usize>,
    /// Fewer and shorter rounds, fewer connections: to see that it works, not to believe
    #[arg(long)]
    quick: bool,
    /// Writes the document to this file, too
    #[arg(long)]
    out: Option<PathBuf>,
    #[arg(long, default_value = "parkway")]
    parkway: PathBuf,
    /// What it was built from, for the heading
    #[arg(long)]
    parkway_version: Option<String>,
    #[arg(long, default_value = "nginx")]
    nginx: PathBuf,
    #[arg(long, default_value = "haproxy")]
    haproxy: PathBuf,
    #[arg(long, default_value = "envoy")]
    envoy: PathBuf,
}

/// What every row needs.
#[derive(Debug)]
struct Bench {
    tools: Tools,
    cpus: Cpus,
    rounds: usize,
    round_ms: u64,
    quick: bool,
}

impl Bench {
    /// `many` of them, or a tenth of that in a hurry.
    fn scaled(&self, many: usize) -> usize {
        if self.quick { many / 10 } else { many }
    }

    /// Starts one of our own commands where the load runs.
    fn own(&self, arguments: &[&str]) -> Result<Process> {
        Process::own(arguments, &self.cpus, &self.cpus.load())
    }

    /// Starts an endpoint, and says where it listens.
    fn endpoint(&self) -> Result<(Process, SocketAddr)> {
        let mut endpoint = self.own(&["endpoint", "--listen", "127.0.0.1:0"])?;
        let port = endpoint.hear()?["listening"]
            .as_u64()
            .context("the endpoint's port")?;
        Ok((
            endpoint,
            SocketAddr::from(([127, 0, 0, 1], u16::try_from(port)?)),
        ))
    }

    /// How most rows start a program: alone on the proxies' CPU, one worker, endpoints ready.
    fn ready(&self, endpoint: SocketAddr) -> Start<'_> {
        Start {
            tools: &self.tools,
            cpus: &self.cpus,
            on: self.cpus.proxy(),
            endpoint,
            manifests: Manifests::Template(READY),
            flags: Vec::new(),
            workers: 1,
            tls: false,
            environment: Vec::new(),
        }
    }

    /// Starts a program, or says what stands in its place in a table.
    fn start(&self, how: &Start<'_>, program: Program) -> Result<Running, Cell> {
        if !self.tools.has(program) {
            return Err(Cell::Absent);
        }
        start(how, program).map_err(|error| {
            let reason = format!("{error:#}").replace('\n', " ");
            Cell::Invalid {
                wrong: 1,
                of: 1,
                reason,
            }
        })
    }
}

/// Measures and prints. The exit status tells whether every answer was as it should be.
pub(crate) fn run(options: &Run) -> Result<ExitCode> {
    let bench = Bench {
        tools: Tools {
            parkway: options.parkway.clone(),
            parkway_version: options.parkway_version.clone(),
            nginx: options.nginx.clone(),
            haproxy: options.haproxy.clone(),
            envoy: options.envoy.clone(),
        },
        cpus: Cpus::detect()?,
        rounds: options
            .rounds
            .unwrap_or(if options.quick { QUICK_ROUNDS } else { ROUNDS })
            .max(1),
        round_ms: if options.quick {
            QUICK_ROUND_MS
        } else {
            ROUND_MS
        },
        quick: options.quick,
    };
    let mut document = heading(&bench);
    println!("{document}");
    let mut all_valid = true;
    for row in Row::value_variants() {
        if !options.rows.is_empty() && !options.rows.contains(row) {
            continue;
        }
        eprintln!("measuring {row:?} …");
        for table in tables(&bench, *row).with_context(|| format!("row {row:?}"))? {
            all_valid &= !table.is_invalid();
            let text = table.markdown();
            println!("{text}");
            document += &text;
            document.push('\n');
        }
    }
    if let Some(out) = &options.out {
        fs::write(out, document).with_context(|| out.display().to_string())?;
    }
    Ok(if all_valid {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn tables(bench: &Bench, row: Row) -> Result<Vec<Table>> {
    match row {
        Row::Http1 => busy::http1(bench),
        Row::Bodies => busy::bodies(bench),
        Row::H2 => busy::h2(bench),
        Row::Websocket => busy::websocket(bench),
        Row::Connections => busy::connections(bench),
        Row::Latency => busy::latency(bench),
        Row::Workers => busy::workers(bench),
        Row::Tracing => busy::tracing(bench),
        Row::Idle => idle::idle(bench),
        Row::Parked => parked::memory(bench),
        Row::Release => parked::release(bench),
        Row::Signal => cold::signal(bench),
        Row::Ready => cold::ready(bench),
        Row::Hosts => hosts::hosts(bench),
        Row::Tls => tls::tls(bench),
    }
}

/// Machine, settings, versions.
fn heading(bench: &Bench) -> String {
    let mut text = format!("## Load figures\n\n{}.", machine::description(&bench.cpus));
    text += &format!(
        " {} rounds of {} ms a program.",
        bench.rounds, bench.round_ms
    );
    if bench.quick {
        text += " **Quick run: the figures only show that it works.**";
    }
    if bench.cpus.are_enough() {
        text += " Proxies on one CPU, generator and endpoint on another.";
    } else {
        text += " **Only one CPU: proxies, generator and endpoint share it.**";
    }
    text += "\n\n";
    for program in Program::ALL {
        let version = bench
            .tools
            .version(program)
            .unwrap_or_else(|| "absent".to_owned());
        text += &format!("- {}: {version}\n", program.name());
    }
    text
}

/// A number of a line of JSON.
fn number(value: &Value, name: &str) -> Result<f64> {
    value[name]
        .as_f64()
        .with_context(|| format!("no {name} in {value}"))
}
