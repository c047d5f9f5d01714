//! Rows of proxies at work: each program works in turn, so that the machine's moods meet all of them alike.

use std::net::SocketAddr;

use anyhow::{Result, bail};

use super::{Bench, number};
use crate::generator::checked;
use crate::machine::Cpus;
use crate::peers::{Program, Route, Running, Start, Target};
use crate::process::Process;
use crate::report::{Cell, Column, Line, Table};

/// What the names of numbered hosts begin with.
pub(super) const HOSTS: &str = "host";

const CPU: &str = "CPU µs each";
const PER_SECOND: &str = "each second";

pub(super) fn http1(bench: &Bench) -> Result<Vec<Table>> {
    let load = Load {
        connections: 64,
        ..Load::of("http1")
    };
    let title = "http1: small keep-alive request, 1 KiB answered, 64 connections";
    let mut programs = Program::ALL.to_vec();
    programs.push(Program::Relay); // twice: how far two runs of the same program lie apart
    let table = busy(
        bench,
        title,
        "no dearer than nginx and HAProxy",
        &load,
        &programs,
    )?;
    Ok(vec![table])
}

pub(super) fn bodies(bench: &Bench) -> Result<Vec<Table>> {
    let reach = "no dearer than the minimal hyper proxy";
    let down = Load {
        connections: 32,
        answer: 64 * 1024,
        ..Load::of("http1")
    };
    let up = Load {
        connections: 8,
        upload: 1024 * 1024,
        ..Load::of("http1")
    };
    Ok(vec![
        busy(
            bench,
            "bodies: 64 KiB answered, 32 connections",
            reach,
            &down,
            &Program::ALL,
        )?,
        busy(
            bench,
            "bodies: 1 MiB sent, 8 connections",
            reach,
            &up,
            &Program::ALL,
        )?,
    ])
}

pub(super) fn h2(bench: &Bench) -> Result<Vec<Table>> {
    let calls = Load {
        connections: 4,
        streams: 16,
        ..Load::of("h2")
    };
    let title = "h2: unary call with trailers, h2c → HTTP/1.1, 4 × 16 streams";
    // nginx leaves trailers of HTTP/1.1 answers out.
    let programs = [Program::Haproxy, Program::Envoy, Program::Parkway];
    let mut to_http1 = busy(bench, title, "≤ 1.2 × HAProxy", &calls, &programs)?;
    let nginx = Line::of(
        Program::Nginx.name(),
        true,
        Cell::Cannot,
        to_http1.columns.len(),
    );
    to_http1.lines.insert(0, nginx);
    let calls = Load {
        route: Route::H2,
        ..calls
    };
    let title = "h2: unary call with trailers, h2c → h2c, 4 × 16 streams";
    let to_h2 = busy(
        bench,
        title,
        "no dearer than HAProxy",
        &calls,
        &Program::FULL,
    )?;
    Ok(vec![to_http1, to_h2])
}

pub(super) fn websocket(bench: &Bench) -> Result<Vec<Table>> {
    let load = Load {
        connections: 64,
        ..Load::of("websocket")
    };
    let title = "websocket: message of 64 bytes and its echo, 64 connections";
    let programs = [
        Program::Relay,
        Program::Nginx,
        Program::Haproxy,
        Program::Envoy,
        Program::Parkway,
    ];
    Ok(vec![busy(bench, title, "≤ nginx", &load, &programs)?])
}

pub(super) fn connections(bench: &Bench) -> Result<Vec<Table>> {
    let load = Load {
        connections: 64,
        ..Load::of("close")
    };
    let title = "connections: a new connection for each request, 64 at once";
    Ok(vec![busy(
        bench,
        title,
        "≤ 1.1 × nginx",
        &load,
        &Program::ALL,
    )?])
}

/// Parkway with one worker and with two, which share their CPUs with the load.
pub(super) fn workers(bench: &Bench) -> Result<Vec<Table>> {
    let load = Load {
        connections: 64,
        ..Load::of("http1")
    };
    let (_endpoint, address) = bench.endpoint()?;
    let mut entrants = Vec::new();
    for workers in [1, 2] {
        let how = Start {
            on: bench.cpus.first(2),
            workers,
            ..bench.ready(address)
        };
        let label = format!("Parkway, workers: {workers}");
        entrants.push(Entrant::start(
            bench,
            &how,
            Program::Parkway,
            &label,
            &load,
        )?);
    }
    take_turns(bench, &mut entrants);
    let title = "workers: http1 of one hot Revision on one and on two workers";
    let mut table = table(title, "flat", entrants);
    table
        .notes
        .push("The load has CPUs of its own in neither line.".to_owned());
    Ok(vec![table])
}

/// Parkway without traces, with one request of a hundred kept, and with all of them; they are sent to a collector that takes
/// everything.
pub(super) fn tracing(bench: &Bench) -> Result<Vec<Table>> {
    let load = Load {
        connections: 64,
        ..Load::of("http1")
    };
    let (_endpoint, address) = bench.endpoint()?;
    let (_collector, collector) = bench.endpoint()?;
    let mut entrants = Vec::new();
    for share in [None, Some("0.01"), Some("1")] {
        let environment = share.map_or_else(Vec::new, |share| {
            vec![
                ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{collector}")),
                // What a round leaves is sent within the round, so that its cost is the round's.
                ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned()),
                ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio".to_owned()),
                ("OTEL_TRACES_SAMPLER_ARG", share.to_owned()),
            ]
        });
        let how = Start {
            environment,
            ..bench.ready(address)
        };
        let label = share.map_or_else(
            || "Parkway, traces: off".to_owned(),
            |share| format!("Parkway, traces: {share} of the requests"),
        );
        let program = Program::Parkway;
        entrants.push(Entrant::start(bench, &how, program, &label, &load)?);
    }
    take_turns(bench, &mut entrants);
    let mut notes =
        vec!["The exporter's thread runs on the proxy's CPU and is part of its cost.".to_owned()];
    for entrant in &entrants[1..] {
        let counted = |name: &str| {
            let name = format!("parkway_trace_spans_{name}_total");
            entrant.running()?.counted(&name)
        };
        let (taken, dropped) = (counted("exported")?, counted("dropped")?);
        anyhow::ensure!(taken > 0.0, "the collector has taken nothing");
        notes.push(format!(
            "{}: {taken} spans taken by the collector, {dropped} dropped.",
            entrant.label
        ));
    }
    let title = "tracing: http1, off and sampled, spans exported by OTLP over HTTP";
    let mut table = table(title, "0.01 ≤ 1.03 × off", entrants);
    table.notes.extend(notes);
    Ok(vec![table])
}

/// Requests at a rate, with everything on one CPU.
pub(super) fn latency(bench: &Bench) -> Result<Vec<Table>> {
    let one = Bench {
        tools: bench.tools.clone(),
        cpus: Cpus::only(bench.cpus.proxy()),
        ..*bench
    };
    let load = Load {
        connections: 16,
        rate: Some(3000),
        ..Load::of("http1")
    };
    let (_endpoint, address) = one.endpoint()?;
    let mut entrants = vec![Entrant::direct(&one, address, &load)?];
    for program in Program::ALL {
        let how = one.ready(address);
        entrants.push(Entrant::start(&one, &how, program, program.name(), &load)?);
    }
    take_turns(&one, &mut entrants);
    let direct = entrants[0].samples.clone();
    let over = |samples: &[Result<Sample, String>]| {
        let pairs = samples.iter().cloned().zip(direct.iter().cloned());
        Cell::of(
            pairs
                .map(|(sample, direct)| Ok(sample?.p50_us - direct?.p50_us))
                .collect(),
        )
    };
    let lines = entrants.into_iter().map(|entrant| {
        let cells = match &entrant.instead {
            Some(cell) => vec![cell.clone(); 3],
            None => vec![
                over(&entrant.samples),
                entrant.cell(|sample| sample.p50_us),
                entrant.cell(|sample| sample.p99_us),
            ],
        };
        Line {
            label: entrant.label,
            is_peer: entrant.is_peer,
            cells,
        }
    });
    Ok(vec![Table {
        title: "latency: 3,000 requests/s over 16 connections, everything on one CPU".to_owned(),
        reach: "p50 over direct ≤ nginx",
        columns: vec![
            Column::compared("p50 over direct, µs", 0),
            Column::shown("p50 µs", 0),
            Column::shown("p99 µs", 0),
        ],
        lines: lines.collect(),
        notes: Vec::new(),
    }])
}

/// What the generator does.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) way: &'static str,
    pub(super) route: Route,
    pub(super) connections: usize,
    pub(super) streams: usize,
    pub(super) answer: usize,
    pub(super) upload: usize,
    pub(super) hosts: Option<usize>,
    pub(super) rate: Option<u32>,
}

impl Load {
    pub(super) fn of(way: &'static str) -> Self {
        Self {
            way,
            route: Route::Plain,
            connections: 64,
            streams: 1,
            answer: 1024,
            upload: 0,
            hosts: None,
            rate: None,
        }
    }

    pub(super) fn start(&self, bench: &Bench, target: &Target) -> Result<Process> {
        let mut arguments: Vec<String> = vec!["generate".to_owned()];
        let mut add = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
        add("way", self.way.to_owned());
        add("to", target.address.to_string());
        // Numbered hosts share the part before the number.
        let host = self.hosts.map_or(target.host.as_str(), |_| HOSTS);
        add("host", host.to_owned());
        add("connections", self.connections.to_string());
        add("streams", self.streams.to_string());
        add("answer", self.answer.to_string());
        add("upload", self.upload.to_string());
        if self.route == Route::Tls {
            arguments.push("--tls".to_owned());
        }
        let mut add = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
        if let Some(hosts) = self.hosts {
            add("hosts", hosts.to_string());
        }
        if let Some(rate) = self.rate {
            add("rate", rate.to_string());
        }
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        bench.own(&arguments)
    }
}

/// One program's figures in one round.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) cpu_us: f64,
    pub(super) per_second: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

/// A program with its generator, or what stands in the table instead.
pub(super) struct Entrant {
    pub(super) label: String,
    is_peer: bool,
    instead: Option<Cell>,
    // The generator goes first, so that nothing is under way when the program ends.
    generator: Option<Process>,
    running: Option<Running>,
    pub(super) samples: Vec<Result<Sample, String>>,
}

impl Entrant {
    /// Starts the program and a generator for it.
    pub(super) fn start(
        bench: &Bench,
        how: &Start<'_>,
        program: Program,
        label: &str,
        load: &Load,
    ) -> Result<Self> {
        let mut entrant = Self::new(label);
        entrant.is_peer = program.is_peer();
        match bench.start(how, program) {
            Ok(running) => {
                let target = running.target(load.route);
                entrant.generate(bench, load, &target)?;
                entrant.running = Some(running);
            }
            Err(cell) => entrant.instead = Some(cell),
        }
        Ok(entrant)
    }

    fn new(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            is_peer: false,
            instead: None,
            generator: None,
            running: None,
            samples: Vec::new(),
        }
    }

    /// No program in between.
    fn direct(bench: &Bench, endpoint: SocketAddr, load: &Load) -> Result<Self> {
        let mut entrant = Self::new("direct");
        let target = Target {
            address: endpoint,
            host: "direct".to_owned(),
        };
        entrant.generate(bench, load, &target)?;
        Ok(entrant)
    }

    fn generate(&mut self, bench: &Bench, load: &Load, target: &Target) -> Result<()> {
        let mut generator = load.start(bench, target)?;
        if let Err(problem) = checked(generator.hear()?) {
            eprintln!("{}: {problem:#}", self.label);
        }
        self.generator = Some(generator);
        Ok(())
    }

    /// The program, or why there is none.
    pub(super) fn running(&self) -> Result<&Running> {
        let Some(running) = &self.running else {
            bail!("{} did not start: {:?}", self.label, self.instead);
        };
        Ok(running)
    }

    /// Works for a round, and says what it cost.
    fn sample(&mut self, round_ms: u64) -> Result<Sample> {
        let generator = self
            .generator
            .as_mut()
            .ok_or_else(|| anyhow::anyhow!("no generator"))?;
        let family = self
            .running
            .as_ref()
            .map(|running| running.process.family());
        let family = family.unwrap_or_default();
        let before = crate::cpu::run_time_ns(&family);
        let answer = checked(generator.ask(&format!("run {round_ms}"))?)?;
        let spent = crate::cpu::run_time_ns(&family).saturating_sub(before);
        let answers = number(&answer, "answers")?;
        anyhow::ensure!(answers > 0.0, "no answer");
        Ok(Sample {
            cpu_us: spent as f64 / 1000.0 / answers,
            per_second: answers / number(&answer, "elapsed_ns")? * 1e9,
            p50_us: answer["p50_ns"].as_f64().unwrap_or_default() / 1000.0,
            p99_us: answer["p99_ns"].as_f64().unwrap_or_default() / 1000.0,
        })
    }

    pub(super) fn cell(&self, figure: impl Fn(&Sample) -> f64) -> Cell {
        match &self.instead {
            Some(cell) => cell.clone(),
            None => Cell::of(
                self.samples
                    .iter()
                    .map(|sample| sample.as_ref().map(&figure).map_err(Clone::clone))
                    .collect(),
            ),
        }
    }
}

/// All entrants work, round after round, after one that does not count. Who begins changes from round to round.
pub(super) fn take_turns(bench: &Bench, entrants: &mut [Entrant]) {
    for round in 0..=bench.rounds {
        for place in 0..entrants.len() {
            let turn = (place + round) % entrants.len();
            let entrant = &mut entrants[turn];
            if entrant.instead.is_some() {
                continue;
            }
            let sample = entrant
                .sample(bench.round_ms)
                .map_err(|error| format!("{error:#}"));
            if let Err(reason) = &sample {
                eprintln!("invalid: {}: {reason}", entrant.label);
            }
            if round > 0 {
                entrant.samples.push(sample);
            }
        }
    }
}

pub(super) fn busy(
    bench: &Bench,
    title: &str,
    reach: &'static str,
    load: &Load,
    programs: &[Program],
) -> Result<Table> {
    let (_endpoint, address) = bench.endpoint()?;
    let mut entrants: Vec<Entrant> = Vec::new();
    for program in programs {
        let again = entrants
            .iter()
            .any(|entrant| entrant.label == program.name());
        let label = format!("{}{}", program.name(), if again { ", again" } else { "" });
        let how = Start {
            tls: load.route == Route::Tls,
            ..bench.ready(address)
        };
        entrants.push(Entrant::start(bench, &how, *program, &label, load)?);
    }
    take_turns(bench, &mut entrants);
    Ok(table(title, reach, entrants))
}

fn table(title: &str, reach: &'static str, entrants: Vec<Entrant>) -> Table {
    let lines = entrants.into_iter().map(|entrant| Line {
        cells: vec![
            entrant.cell(|sample| sample.cpu_us),
            entrant.cell(|sample| sample.per_second),
        ],
        label: entrant.label,
        is_peer: entrant.is_peer,
    });
    Table {
        title: title.to_owned(),
        reach,
        columns: vec![Column::compared(CPU, 1), Column::shown(PER_SECOND, 0)],
        lines: lines.collect(),
        notes: Vec::new(),
    }
}
