//! `parkway explain`: asks a running Parkway where a request would go, and why.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

pub use crate::ask::QUESTION;
use crate::ask::ask;
use crate::cli::Explain;

/// Status of a request that is not served.
pub const NOT_SERVED: u8 = 1;

/// What is asked, as the admin entrance takes it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Question {
    /// The request's method.
    pub method: String,
    /// Its host, perhaps with a port.
    pub host: String,
    /// Its path.
    pub path: String,
    /// Its headers, as `Name: value`.
    pub headers: Vec<String>,
    /// Which split the next such request falls to is asked too.
    pub next: bool,
    /// It comes in at the cluster-local entrance.
    pub local: bool,
}

/// What is answered.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Answer {
    /// Whether a rule serves the request.
    pub is_served: bool,
    /// For people.
    pub text: String,
    /// For programs.
    pub explanation: serde_json::Value,
}

/// Asks and prints the answer.
///
/// # Errors
///
/// When no Parkway answers at the admin address, or the question cannot be understood.
pub fn run(settings: &Explain) -> anyhow::Result<ExitCode> {
    let Some(authority) = settings.url.authority() else {
        bail!(
            "{}: the URL has no host; write it as http://HOST/PATH",
            settings.url
        );
    };
    let question = Question {
        method: settings.method.to_string(),
        host: authority.as_str().to_owned(),
        path: settings.url.path().to_owned(),
        headers: settings.headers.clone(),
        next: settings.next,
        local: settings.local,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let asked = ask(
        &settings.target,
        "/explain",
        Some(serde_json::to_string(&question)?),
    );
    let answer = Answer::parse(&runtime.block_on(asked)?)?;
    answer.print(settings.json)?;
    Ok(if answer.is_served {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_SERVED)
    })
}

impl Answer {
    /// Reads an answer.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn parse(body: &[u8]) -> anyhow::Result<Self> {
        serde_json::from_slice(body)
            .context("the answer cannot be read; is it a Parkway of another version?")
    }

    /// Prints it for people, or for programs.
    ///
    /// # Errors
    ///
    /// When it cannot be written as JSON.
    #[expect(clippy::print_stdout, reason = "the answer to a command")]
    pub fn print(&self, as_json: bool) -> anyhow::Result<()> {
        if as_json {
            println!("{}", serde_json::to_string_pretty(&self.explanation)?);
        } else {
            print!("{}", self.text);
        }
        Ok(())
    }
}
