//! The binary `parkway`: arguments in, exit status out.

use std::process::ExitCode;

use clap::Parser;
use parkway_ingress::cli::{Cli, Command};
use parkway_ingress::{app, check, explain, hello, install, top, why};
use tikv_jemallocator::Jemalloc;

/// Gives memory back when a burst of connections or parked requests is over; its settings are in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(run) => app::run(&run),
        Command::Serve(serve) => app::serve(&serve),
        Command::Install(settings) => install::run(&settings),
        Command::Uninstall(settings) => install::run_uninstall(&settings),
        Command::Check(check) => check::run(&check),
        Command::Explain(explain) => explain::run(&explain),
        Command::Why(settings) => why::run(&settings),
        Command::Top(settings) => top::run(&settings),
        Command::Hello => serve_hello(),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the last word of a command that failed"
)]
fn report(error: &anyhow::Error) {
    eprintln!("parkway: {error:#}");
}

fn serve_hello() -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(hello::run())?;
    Ok(ExitCode::SUCCESS)
}
