//! Clients that open many connections or streams, send one request on each, and stay.
//!
//! Orders on standard input, each answered with a line of JSON: `open` sends all requests (and with `--answered` waits
//! for each answer before the next), `count` says how many have been answered, `wait` waits for all answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::generator::http1::{Client, Requests};
use crate::generator::http2;
use crate::machine::now_ns;

/// How long `open` and `wait` may take.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Args)]
pub(crate) struct Hold {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long)]
    host: String,
    #[arg(long)]
    requests: usize,
    /// HTTP/2 with so many streams a connection, instead of an HTTP/1.1 connection for each request
    #[arg(long)]
    streams: Option<usize>,
    /// Waits for each answer before the next request
    #[arg(long)]
    answered: bool,
    /// What is asked for over HTTP/1.1. Default: as many bytes as an answer must have
    #[arg(long)]
    path: Option<String>,
    /// How many bytes each answer over HTTP/1.1 must have
    #[arg(long, default_value_t = 1024)]
    answer: usize,
    /// By TLS; HTTP/1.1 only
    #[arg(long)]
    tls: bool,
}

/// Takes orders until standard input ends.
pub(crate) fn run(options: Hold) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(take_orders(options))
}

async fn take_orders(options: Hold) -> Result<()> {
    let tally = Arc::new(Tally::default());
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    while let Some(order) = orders.next_line().await? {
        match order.as_str() {
            "open" => {
                if !matches!(timeout(PATIENCE, open(&options, &tally)).await, Ok(Ok(()))) {
                    tally.fail("not all connections opened");
                }
            }
            "wait" => {
                // What is missing then is seen in the count.
                timeout(PATIENCE, tally.all_of(options.requests)).await.ok();
            }
            "count" => {}
            other => tally.fail(&format!("an unknown order: {other}")),
        }
        println!("{}", tally.told());
    }
    Ok(())
}

async fn open(options: &Hold, tally: &Arc<Tally>) -> Result<()> {
    match options.streams {
        None => open_connections(options, tally).await,
        Some(streams) => open_streams(options, streams, tally).await,
    }
}

async fn open_connections(options: &Hold, tally: &Arc<Tally>) -> Result<()> {
    for _ in 0..options.requests {
        let requests = Requests::get(
            options.to,
            &options.host,
            options.path.as_deref(),
            options.answer,
        );
        let requests = match options.tls {
            true => requests.by_tls(&options.host)?,
            false => requests,
        };
        let mut client = Client::connect(requests).await?;
        client.send().await?;
        let tally = Arc::clone(tally);
        let answer = async move {
            let answer = client.receive().await;
            tally.answered(answer);
            client
        };
        if options.answered {
            let client = answer.await;
            tokio::spawn(stay(client));
        } else {
            tokio::spawn(async { stay(answer.await).await });
        }
    }
    Ok(())
}

/// Keeps a connection open to the end.
async fn stay(client: Client) {
    std::future::pending::<()>().await;
    drop(client);
}

async fn open_streams(options: &Hold, streams: usize, tally: &Arc<Tally>) -> Result<()> {
    let mut connection = None;
    for number in 0..options.requests {
        if number % streams == 0 {
            connection = Some(http2::Client::connect(options.to, &options.host).await?);
        }
        let mut client = connection.clone().context("a connection for each stream")?;
        let tally = Arc::clone(tally);
        tokio::spawn(async move { tally.answered(client.get().await) });
        if (number + 1) % streams == 0 {
            tokio::task::yield_now().await; // so that requests leave while others are made
        }
    }
    // The last ones leave when this task waits; the connection's own task then writes them.
    tokio::time::sleep(Duration::from_millis(100)).await;
    Ok(())
}

/// What has become of the requests.
#[derive(Debug)]
struct Tally {
    answers: AtomicU64,
    failures: AtomicU64,
    first_ns: AtomicU64,
    last_ns: AtomicU64,
    problem: Mutex<Option<String>>,
    progress: Notify,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            answers: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            first_ns: AtomicU64::new(u64::MAX),
            last_ns: AtomicU64::new(0),
            problem: Mutex::default(),
            progress: Notify::new(),
        }
    }
}

impl Tally {
    fn answered(&self, answer: Result<()>) {
        let now = now_ns();
        match answer {
            Ok(()) => {
                self.answers.fetch_add(1, Ordering::Relaxed);
                self.first_ns.fetch_min(now, Ordering::Relaxed);
                self.last_ns.fetch_max(now, Ordering::Relaxed);
            }
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                self.fail(&format!("{error:#}"));
            }
        }
        self.progress.notify_one();
    }

    /// Keeps the first problem.
    fn fail(&self, problem: &str) {
        self.problem
            .lock()
            .get_or_insert_with(|| problem.to_owned());
    }

    async fn all_of(&self, requests: usize) {
        let requests = u64::try_from(requests).unwrap_or(u64::MAX);
        let ended = || self.answers.load(Ordering::Relaxed) + self.failures.load(Ordering::Relaxed);
        while ended() < requests {
            self.progress.notified().await;
        }
    }

    fn told(&self) -> Value {
        let problem = self.problem.lock().clone();
        let mut told = json!({
            "answers": self.answers.load(Ordering::Relaxed),
            "failures": self.failures.load(Ordering::Relaxed),
            "first_ns": self.first_ns.load(Ordering::Relaxed),
            "last_ns": self.last_ns.load(Ordering::Relaxed),
        });
        if let Some(problem) = problem {
            told["problem"] = problem.into();
        }
        told
    }
}
