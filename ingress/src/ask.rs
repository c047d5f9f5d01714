//! Asks the admin entrance of a running Parkway.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::cli::AdminTarget;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How large an answer may be.
const LONGEST: usize = 256 * 1024 * 1024;

/// Carries a question as JSON: a URL inside a URL would have to be escaped twice.
pub const QUESTION: &str = "x-parkway-question";

/// What is answered at `path`, perhaps to a question.
///
/// # Errors
///
/// When no Parkway answers, it wants a token, or it says that something is wrong with the question.
pub async fn ask(
    target: &AdminTarget,
    path: &str,
    question: Option<String>,
) -> anyhow::Result<Bytes> {
    let asked = tokio::time::timeout(PATIENCE, send(target, path, question));
    let (status, body) = asked
        .await
        .with_context(|| format!("{} does not answer within {PATIENCE:?}", target.admin))??;
    match status {
        status if status.is_success() => Ok(body),
        StatusCode::UNAUTHORIZED => bail!(
            "{} asks for a token: give the file with it by --admin-token-file",
            target.admin
        ),
        StatusCode::NOT_FOUND => bail!(
            "{} knows nothing of {path}; is it the admin entrance of a Parkway of this version?",
            target.admin
        ),
        _ => bail!("{}", String::from_utf8_lossy(&body).trim()),
    }
}

async fn send(
    target: &AdminTarget,
    path: &str,
    question: Option<String>,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let admin = target.admin;
    let stream = TcpStream::connect(admin)
        .await
        .with_context(|| format!("no Parkway answers at {admin}; is one running? Its --admin address can be given with --admin"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let mut request = Request::get(path).header(header::HOST, admin.to_string());
    if let Some(question) = question {
        request = request.header(QUESTION, question);
    }
    if let Some(token) = target.token()? {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Empty::<Bytes>::new())?;
    let answered = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the answer cannot be read: {error}"))?;
        Ok((status, body.to_bytes()))
    };
    let answered = answered.await;
    connection.abort();
    answered
}
