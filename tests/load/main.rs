//! `parkway-load`: what Parkway costs, beside other proxies on the same machine in the same run.
//!
//! `parkway-load run` is the harness: it starts an endpoint, the proxies and a generator for each, lets them work in
//! turns, and prints a table for each of [`rows`]. Its other commands are the parts it starts as processes of their own:
//! an [`endpoint`], two proxies for reference ([`relay`], [`hyper_proxy`]) and two kinds of clients ([`generator`], [`hold`]).
//! README.md beside this file says what each figure means and how far it can be believed.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "figures go to standard output, progress to standard error"
)]

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use rustix::process::{Signal, set_parent_process_death_signal};

mod cpu;
mod endpoint;
mod generator;
mod hold;
mod hyper_proxy;
mod machine;
mod memory;
mod peers;
mod process;
mod relay;
mod report;
mod rows;
mod tls;

#[derive(Debug, Parser)]
#[command(about = "Measures Parkway beside other proxies")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures and prints the tables
    Run(rows::Run),
    /// Answers requests: HTTP/1.1, HTTP/2 by prior knowledge, WebSocket
    Endpoint(endpoint::Endpoint),
    /// Carries bytes to the endpoint and back, without looking at them
    Relay(relay::Relay),
    /// A minimal HTTP/1.1 proxy of hyper
    Hyper(hyper_proxy::Hyper),
    /// Sends requests as fast as they are answered, or at a rate; takes orders on standard input
    Generate(generator::Generate),
    /// Opens many connections or streams, one request each, and keeps them; takes orders on standard input
    Hold(hold::Hold),
    /// Becomes another program, which ends when this program's parent does
    Become {
        program: PathBuf,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> Result<ExitCode> {
    machine::raise_file_limit();
    let command = Cli::parse().command;
    if was_started_by_the_harness(&command) {
        // Nothing that the harness started outlives it, however it ends.
        set_parent_process_death_signal(Some(Signal::TERM))?;
    }
    match command {
        Command::Run(run) => return rows::run(&run),
        Command::Endpoint(endpoint) => endpoint::run(&endpoint)?,
        Command::Relay(relay) => relay::run(&relay)?,
        Command::Hyper(hyper) => hyper_proxy::run(&hyper)?,
        Command::Generate(generate) => generator::run(generate)?,
        Command::Hold(hold) => hold::run(hold)?,
        Command::Become { program, arguments } => {
            let error = std::process::Command::new(&program).args(arguments).exec();
            return Err(error).with_context(|| program.display().to_string());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// An endpoint that is not told where to listen was started by Parkway.
fn was_started_by_the_harness(command: &Command) -> bool {
    match command {
        Command::Run(_) => false,
        Command::Endpoint(endpoint) => endpoint.listen.is_some(),
        _ => true,
    }
}
