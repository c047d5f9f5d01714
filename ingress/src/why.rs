//! `parkway why`: asks a running Parkway whether the next request to a host would wait, and why.

use std::process::ExitCode;

use crate::ask::ask;
use crate::cli::Why;
use crate::explain::{Answer, NOT_SERVED, Question};

/// Asks and prints the answer. The status is 1 when the host is not served.
///
/// # Errors
///
/// When no Parkway answers at the admin address.
pub fn run(settings: &Why) -> anyhow::Result<ExitCode> {
    let written = settings.host.trim();
    let written = written.split_once("://").map_or(written, |(_, rest)| rest);
    let (host, path) = match written.find('/') {
        Some(slash) => written.split_at(slash),
        None => (written, "/"),
    };
    let question = serde_json::to_string(&Question {
        method: "GET".to_owned(),
        host: host.to_owned(),
        path: path.to_owned(),
        local: settings.local,
        ..Question::default()
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let answer =
        Answer::parse(&runtime.block_on(ask(&settings.target, "/why", Some(question)))?)?;
    answer.print(settings.json)?;
    Ok(match answer.is_served {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(NOT_SERVED),
    })
}
