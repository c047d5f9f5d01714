//! `parkway explain`: asks a running Parkway where a request would go, and why.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use crate::cli::Explain;

/// Status of a request that is not served.
const NOT_SERVED: u8 = 1;

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
    let answer = runtime.block_on(ask(settings, &question))?;
    print(&answer, settings.json)?;
    Ok(if answer.is_served {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_SERVED)
    })
}

async fn ask(settings: &Explain, question: &Question) -> anyhow::Result<Answer> {
    let admin = settings.admin;
    let stream = TcpStream::connect(admin)
        .await
        .with_context(|| format!("no Parkway answers at {admin}; is one running? Its --admin address can be given with --admin"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = http::Request::get("/explain")
        .header(http::header::HOST, admin.to_string())
        .header(QUESTION, serde_json::to_string(question)?)
        .body(Empty::<bytes::Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    drop(sender);
    connection.abort();
    if !status.is_success() {
        bail!("{}", String::from_utf8_lossy(&body).trim());
    }
    serde_json::from_slice(&body)
        .context("the answer cannot be read; is it a Parkway of another version?")
}

/// Carries the question as JSON: a URL inside a URL would have to be escaped twice.
pub const QUESTION: &str = "x-parkway-question";

#[expect(clippy::print_stdout, reason = "the answer to a command")]
fn print(answer: &Answer, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        println!("{}", serde_json::to_string_pretty(&answer.explanation)?);
    } else {
        print!("{}", answer.text);
    }
    Ok(())
}
