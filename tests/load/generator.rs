//! The generator: clients that each wait for their answer before they ask again, or that ask at a steady rate.
//!
//! It connects when it starts and says so, then does what it is told by lines on standard input: `run MILLISECONDS`, and
//! answers with a line of JSON. A round begins and ends with nothing under way, so that its count is exact. Every
//! answer is checked; one that is missing, not 200 or of a wrong length makes the round's figures invalid, and says why.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::machine::now_ns;

pub(crate) mod http1;
pub(crate) mod http2;
mod paced;
pub(crate) mod websocket;

/// How long the last answers of a round may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long all connections may take to open.
const CONNECTING: Duration = Duration::from_secs(30);

/// How a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// HTTP/1.1, connections that stay open
    Http1,
    /// HTTP/1.1, a new connection for each request
    Close,
    /// HTTP/2 by prior knowledge, unary calls with trailers
    H2,
    /// WebSocket messages that are sent back
    Websocket,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Generate {
    #[arg(long)]
    pub(crate) way: Way,
    #[arg(long)]
    pub(crate) to: SocketAddr,
    /// The host that is asked for; with `--hosts`, the part before the number
    #[arg(long)]
    pub(crate) host: String,
    #[arg(long)]
    pub(crate) connections: usize,
    /// Calls at once on each HTTP/2 connection
    #[arg(long, default_value_t = 1)]
    pub(crate) streams: usize,
    /// How many bytes each answer must have
    #[arg(long, default_value_t = 1024)]
    pub(crate) answer: usize,
    /// How many bytes each request has; 0 is a GET
    #[arg(long, default_value_t = 0)]
    pub(crate) upload: usize,
    /// Asks random ones of so many hosts
    #[arg(long)]
    pub(crate) hosts: Option<usize>,
    /// Requests a second over all connections, whether they are answered or not; measures latency
    #[arg(long)]
    pub(crate) rate: Option<u32>,
    /// By TLS; HTTP/1.1 only
    #[arg(long)]
    pub(crate) tls: bool,
}

/// Takes orders until standard input ends.
pub(crate) fn run(options: Generate) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(take_orders(options))
}

async fn take_orders(options: Generate) -> Result<()> {
    let options = Arc::new(options);
    let mut generator = Generator {
        options,
        clients: Vec::new(),
    };
    println!("{}", generator.connect().await);
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    while let Some(order) = orders.next_line().await? {
        let milliseconds = order.strip_prefix("run ").context("an unknown order")?;
        let time = Duration::from_millis(milliseconds.parse()?);
        println!("{}", generator.round(time).await);
    }
    Ok(())
}

struct Generator {
    options: Arc<Generate>,
    clients: Vec<Client>,
}

impl Generator {
    /// Opens all connections; a problem is told and met again by the next round.
    async fn connect(&mut self) -> Value {
        self.clients.clear();
        match timeout(CONNECTING, clients(&self.options)).await {
            Ok(Ok(clients)) => {
                self.clients = clients;
                json!({ "clients": self.clients.len() })
            }
            Ok(Err(error)) => json!({ "problem": format!("{error:#}") }),
            Err(_elapsed) => json!({ "problem": "connections did not open in time" }),
        }
    }

    async fn round(&mut self, time: Duration) -> Value {
        if self.clients.is_empty() {
            let connected = self.connect().await;
            if self.clients.is_empty() {
                return connected;
            }
        }
        let clients = std::mem::take(&mut self.clients);
        let begun = Instant::now();
        let round = async {
            match self.options.rate {
                Some(rate) => paced::round(clients, rate, time).await,
                None => round(clients, begun + time).await,
            }
        };
        match timeout(time + PATIENCE, round).await {
            Ok(Ok(done)) => {
                self.clients = done.clients;
                let elapsed = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
                let mut latencies = done.latencies_ns;
                latencies.sort_unstable();
                json!({
                    "answers": done.answers,
                    "elapsed_ns": elapsed,
                    "p50_ns": percentile(&latencies, 50),
                    "p99_ns": percentile(&latencies, 99),
                })
            }
            Ok(Err(error)) => json!({ "problem": format!("{error:#}") }),
            Err(_elapsed) => {
                json!({ "problem": format!("answers are missing after {PATIENCE:?}") })
            }
        }
    }
}

/// What a round leaves.
#[derive(Default)]
struct Done {
    clients: Vec<Client>,
    answers: u64,
    latencies_ns: Vec<u64>,
}

/// All clients ask again and again until then.
async fn round(clients: Vec<Client>, until: Instant) -> Result<Done> {
    let mut tasks = JoinSet::new();
    for mut client in clients {
        tasks.spawn(async move {
            let mut answers = 0;
            while Instant::now() < until {
                client.exchange().await?;
                answers += 1;
            }
            anyhow::Ok((client, answers))
        });
    }
    let mut done = Done::default();
    while let Some(task) = tasks.join_next().await {
        let (client, answers) = task??;
        done.clients.push(client);
        done.answers += answers;
    }
    Ok(done)
}

/// One who asks and waits.
enum Client {
    Http1(http1::Client),
    Close(http1::Requests),
    H2(http2::Client),
    Websocket(websocket::Client),
}

impl Client {
    async fn exchange(&mut self) -> Result<()> {
        match self {
            Self::Http1(client) => client.exchange().await,
            Self::Close(requests) => http1::exchange_and_close(requests).await,
            Self::H2(client) => client.exchange().await,
            Self::Websocket(client) => client.exchange().await,
        }
    }
}

async fn clients(options: &Generate) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for _ in 0..options.connections {
        match options.way {
            Way::Http1 => {
                let requests = http1::Requests::new(options)?;
                clients.push(Client::Http1(http1::Client::connect(requests).await?));
            }
            Way::Close => clients.push(Client::Close(http1::Requests::new(options)?)),
            Way::H2 => {
                let client = http2::Client::connect(options.to, &options.host).await?;
                clients.extend((0..options.streams).map(|_| Client::H2(client.clone())));
            }
            Way::Websocket => {
                let client = websocket::Client::connect(options.to, &options.host).await?;
                clients.push(Client::Websocket(client));
            }
        }
    }
    Ok(clients)
}

/// The nearest rank; `None` without numbers, which must be in order.
pub(crate) fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

/// An answer's figures, or why there are none.
pub(crate) fn checked(answer: Value) -> Result<Value> {
    match answer.get("problem").and_then(Value::as_str) {
        Some(problem) => bail!("{problem}"),
        None => Ok(answer),
    }
}

/// Bytes that are sent as a body.
fn zeroes(count: usize) -> Bytes {
    vec![b'z'; count].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_numbers_that_were_measured() {
        let numbers: Vec<u64> = (1..=200).collect();
        assert_eq!(percentile(&numbers, 50), Some(100));
        assert_eq!(percentile(&numbers, 99), Some(198));
        assert_eq!(percentile(&[7], 50), Some(7));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn a_problem_is_an_error() {
        assert!(checked(json!({ "problem": "x" })).is_err());
        assert!(checked(json!({ "answers": 1 })).is_ok());
    }
}
