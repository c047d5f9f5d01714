//! Memory of programs that have nothing to do.

use std::time::Duration;

use anyhow::Result;

use super::{Bench, number};
use crate::generator::checked;
use crate::machine::pause;
use crate::peers::{Program, Route};
use crate::report::{Cell, Column, Line, Table};

/// Connections, each after one request.
const CONNECTIONS: usize = 8000;
/// How long after the last event memory is read: time to give back what is not needed.
pub(super) const QUIET: Duration = Duration::from_secs(4);

pub(super) fn idle(bench: &Bench) -> Result<Vec<Table>> {
    let connections = bench.scaled(CONNECTIONS);
    let mut lines = Vec::new();
    for program in Program::ALL {
        let cells = match measure(bench, program, connections) {
            Ok(cells) => cells,
            Err(error) => vec![Cell::one(Err(format!("{error:#}"))); 2],
        };
        lines.push(Line {
            label: program.name().to_owned(),
            is_peer: program.is_peer(),
            cells,
        });
    }
    Ok(vec![Table {
        title: format!(
            "idle: {connections} keep-alive connections after one request each; the process without any"
        ),
        reach: "≤ 3 KiB a connection; ≤ 20 MiB the process",
        columns: vec![
            Column::compared("KiB a connection", 2),
            Column::shown("process MiB", 1),
        ],
        lines,
        notes: vec![
            "Growth of PSS ÷ connections, 4 s after the last event; one measurement.".to_owned(),
        ],
    }])
}

fn measure(bench: &Bench, program: Program, connections: usize) -> Result<Vec<Cell>> {
    let (_endpoint, address) = bench.endpoint()?;
    let running = match bench.start(&bench.ready(address), program) {
        Ok(running) => running,
        Err(cell) => return Ok(vec![cell; 2]),
    };
    pause(QUIET);
    let before = running.process.pss_kib();
    let target = running.target(Route::Plain);
    let (to, count) = (target.address.to_string(), connections.to_string());
    let mut clients = bench.own(&[
        "hold",
        "--to",
        &to,
        "--host",
        &target.host,
        "--requests",
        &count,
        "--answered",
    ])?;
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
