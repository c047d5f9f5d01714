//! Memory of programs that have nothing to do.

use std::time::Duration;

use anyhow::Result;

use super::{Bench, number};
use crate::generator::checked;
use crate::machine::pause;
use crate::peers::{Program, Route, Start};
use crate::report::{Cell, Column, Line, Table};

/// Connections, each after one request.
const CONNECTIONS: usize = 8000;
/// How long after the last event memory is read: time to give back what is not needed.
pub(super) const QUIET: Duration = Duration::from_secs(4);

/// How many of them by TLS.
const BY_TLS: usize = 10_000;

pub(super) fn idle(bench: &Bench) -> Result<Vec<Table>> {
    let connections = bench.scaled(CONNECTIONS);
    let title = format!(
        "idle: {connections} keep-alive connections after one request each; the process without any"
    );
    let reach = "≤ 3 KiB a connection; ≤ 20 MiB the process";
    let table = of(
        bench,
        title,
        reach,
        &Program::ALL,
        connections,
        Route::Plain,
    );
    Ok(vec![table])
}

/// The same by TLS.
pub(super) fn idle_by_tls(bench: &Bench, programs: &[Program]) -> Result<Table> {
    let connections = bench.scaled(BY_TLS);
    let title = format!(
        "tls: {connections} keep-alive connections by TLS after one request each; the process without any"
    );
    let reach = "less than every peer";
    Ok(of(bench, title, reach, programs, connections, Route::Tls))
}

fn of(
    bench: &Bench,
    title: String,
    reach: &'static str,
    programs: &[Program],
    connections: usize,
    route: Route,
) -> Table {
    let mut lines = Vec::new();
    for &program in programs {
        let cells = match measure(bench, program, connections, route) {
            Ok(cells) => cells,
            Err(error) => vec![Cell::one(Err(format!("{error:#}"))); 2],
        };
        lines.push(Line {
            label: program.name().to_owned(),
            is_peer: program.is_peer(),
            cells,
        });
    }
    Table {
        title,
        reach,
        columns: vec![
            Column::compared("KiB a connection", 2),
            Column::shown("process MiB", 1),
        ],
        lines,
        notes: vec![
            "Growth of PSS ÷ connections, 4 s after the last event; one measurement.".to_owned(),
        ],
    }
}

fn measure(bench: &Bench, program: Program, connections: usize, route: Route) -> Result<Vec<Cell>> {
    let (_endpoint, address) = bench.endpoint()?;
    let how = Start {
        tls: route == Route::Tls,
        ..bench.ready(address)
    };
    let running = match bench.start(&how, program) {
        Ok(running) => running,
        Err(cell) => return Ok(vec![cell; 2]),
    };
    pause(QUIET);
    let before = running.process.pss_kib();
    let target = running.target(route);
    let (to, count) = (target.address.to_string(), connections.to_string());
    let mut arguments = vec!["hold", "--to", &to, "--host", &target.host];
    arguments.extend(["--requests", &count, "--answered"]);
    if route == Route::Tls {
        arguments.push("--tls");
    }
    let mut clients = bench.own(&arguments)?;
    let opened = checked(clients.ask("open")?)?;
    anyhow::ensure!(
        number(&opened, "answers")? == connections as f64,
        "answers are missing"
    );
    pause(QUIET);
    let after = running.process.pss_kib();
    let each = (after as f64 - before as f64) / connections as f64;
    Ok(vec![
        Cell::one(Ok(each)),
        Cell::one(Ok(before as f64 / 1024.0)),
    ])
}
