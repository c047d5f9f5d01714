//! `parkway check`: what is wrong with manifests, or in a cluster, without running anything.

pub mod live;

use std::process::ExitCode;

use crate::app;
use crate::cli::Check;
use crate::routing::table::RouteSnapshot;

/// Status of manifests with mistakes.
const MISTAKES: u8 = 2;

/// Checks manifests; prints mistakes and warnings, or what they would serve.
///
/// # Errors
///
/// When a path cannot be read.
pub fn run(settings: &Check) -> anyhow::Result<ExitCode> {
    if settings.live.live {
        return live::run(&settings.live);
    }
    if let Err(problems) = app::certificate_files(&settings.certificates) {
        app::print_problems(&problems);
        return Ok(ExitCode::from(MISTAKES));
    }
    let mut provider = app::file_provider(&settings.paths, &settings.domain);
    let world = match provider.load() {
        Ok(world) => world,
        Err(problems) => {
            app::print_problems(&problems);
            return Ok(ExitCode::from(MISTAKES));
        }
    };
    app::print_problems(&world.warnings);
    let (_, conflicts) = RouteSnapshot::build(world.generation, world.ingresses.to_vec());
    report(&world, &conflicts);
    Ok(if conflicts.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(MISTAKES)
    })
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the answer to a command"
)]
fn report(world: &crate::provider::World, conflicts: &[crate::routing::table::Conflict]) {
    for conflict in conflicts {
        eprintln!("{conflict}");
    }
    for url in world.urls.iter() {
        let shares: Vec<_> = url
            .shares
            .iter()
            .map(|(revision, percent)| format!("{percent}% {revision}"))
            .collect();
        println!("{}  {}", url.url, shares.join(", "));
    }
}
