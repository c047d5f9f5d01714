//! The endpoint: what answers behind the proxies. One process serves HTTP/1.1, HTTP/2 by prior knowledge and WebSocket.
//!
//! | path | answer |
//! |---|---|
//! | `/bytes/N` | 200 and N bytes, after the request's body has been read |
//! | `/trailers` | 200, 128 bytes and the trailer `grpc-status: 0`, chunked over HTTP/1.1 |
//! | `/v1/traces` | 200 and nothing, as a collector of OTLP that has taken all of it |
//! | `/hold` | none, as long as the connection lasts |
//!
//! An `Upgrade` is answered 101, then each WebSocket message is sent back. A request that is not understood closes the
//! connection, so that a generator sees it.

use std::fs;
use std::future::pending;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::generator::websocket;
use crate::machine::{Random, now_ns, pin};

mod h2c;
mod head;

pub(crate) use head::Head;

/// Connections that wait to be accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Longest head it reads, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// How often it looks whether it may listen.
const LOOK_EVERY: Duration = Duration::from_micros(500);

#[derive(Debug, Args)]
pub(crate) struct Endpoint {
    /// Where it listens. Default: 127.0.0.1 and the variable PORT, as Knative tells a container
    #[arg(long)]
    pub(crate) listen: Option<SocketAddr>,
    /// The CPU it moves to
    #[arg(long)]
    cpu: Option<usize>,
    /// Listens only when this file exists, and writes the moment it listened to FILE.listened
    #[arg(long)]
    when: Option<PathBuf>,
    /// Listens after a random time, which is at least so many milliseconds
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// … and at most so many
    #[arg(long, default_value_t = 0)]
    delay_ms_most: u64,
    /// Answers every request with the microseconds since it listened
    #[arg(long)]
    answers_with_age: bool,
}

/// What all connections know.
#[derive(Clone, Copy, Debug)]
struct Manner {
    listened_ns: u64,
    answers_with_age: bool,
}

/// Serves until it is ended.
pub(crate) fn run(options: &Endpoint) -> Result<()> {
    if let Some(cpu) = options.cpu {
        pin(&[cpu])?;
    }
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve(options))
}

async fn serve(options: &Endpoint) -> Result<()> {
    let address = match options.listen {
        Some(address) => address,
        None => SocketAddr::from(([127, 0, 0, 1], std::env::var("PORT")?.parse()?)),
    };
    let span = options.delay_ms_most.saturating_sub(options.delay_ms);
    let more = Random::new().below(usize::try_from(span)?);
    sleep(Duration::from_millis(
        options.delay_ms + u64::try_from(more)?,
    ))
    .await;
    if let Some(file) = &options.when {
        while !file.exists() {
            sleep(LOOK_EVERY).await;
        }
    }
    let listener = listen(address)?;
    let listened_ns = now_ns();
    if let Some(file) = &options.when {
        fs::write(file.with_extension("listened"), listened_ns.to_string())?;
    }
    println!("{}", json!({ "listening": listener.local_addr()?.port() }));
    let manner = Manner {
        listened_ns,
        answers_with_age: options.answers_with_age,
    };
    loop {
        let (stream, _client) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            // A connection that ends in an error is one whose client sees it, too.
            connection(stream, manner).await.ok();
        });
    }
}

/// `bind` and `listen` in one moment, with a longer backlog than the standard library's.
fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket
        .bind(&address.into())
        .with_context(|| format!("{address} cannot be bound"))?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into())?)
}

async fn connection(stream: TcpStream, manner: Manner) -> Result<()> {
    let mut first = [0; 3];
    while stream.peek(&mut first).await? < first.len() {
        stream.readable().await?;
        if stream.peek(&mut first).await? == 0 {
            return Ok(()); // a probe that only connects
        }
    }
    if &first == b"PRI" {
        h2c::serve(stream).await
    } else {
        http1(stream, manner).await
    }
}

/// One connection: head, body, answer, and again.
async fn http1(mut stream: TcpStream, manner: Manner) -> Result<()> {
    let mut buffer = vec![0; MAX_HEAD];
    let mut filled = 0;
    let mut answers = Answers::default();
    loop {
        let head = loop {
            if let Some(head) = Head::of_request(&buffer[..filled])? {
                break head;
            }
            match stream.read(&mut buffer[filled..]).await? {
                0 => return Ok(()),
                read => filled += read,
            }
        };
        let has = filled - head.length;
        if head.is_upgrade {
            stream.write_all(websocket::ACCEPTED).await?;
            return websocket::echo(stream, &buffer[head.length..filled]).await;
        }
        if head.path.as_ref() == b"/hold" {
            return pending().await;
        }
        let body = head.body_bytes.min(has);
        discard(
            &mut stream,
            &mut buffer,
            head.length + body,
            head.body_bytes - body,
        )
        .await?;
        filled = if head.body_bytes > has {
            0
        } else {
            filled - head.length - body
        };
        if manner.answers_with_age {
            let age_us = (now_ns() - manner.listened_ns) / 1000;
            stream
                .write_all(&with_length(age_us.to_string().as_bytes()))
                .await?;
        } else {
            let answer = answers.to(&head.path)?;
            stream.write_all(&answer).await?;
        }
        if head.is_last {
            stream.shutdown().await?;
            return Ok(());
        }
    }
}

/// Reads so many bytes of a body past, and moves what is behind `used` to the front.
async fn discard(
    stream: &mut TcpStream,
    buffer: &mut [u8],
    used: usize,
    mut left: usize,
) -> Result<()> {
    buffer.copy_within(used.., 0);
    while left > 0 {
        let most = left.min(buffer.len());
        match stream.read(&mut buffer[..most]).await? {
            0 => bail!("the body ended early"),
            read => left -= read,
        }
    }
    Ok(())
}

/// The last answer, because the next request most often wants the same.
#[derive(Debug, Default)]
struct Answers {
    path: Bytes,
    answer: Bytes,
}

impl Answers {
    fn to(&mut self, path: &Bytes) -> Result<Bytes> {
        if self.path != path {
            self.answer = answer(path)?;
            self.path.clone_from(path);
        }
        Ok(self.answer.clone())
    }
}

fn answer(path: &[u8]) -> Result<Bytes> {
    if path == b"/trailers" {
        let body = "a".repeat(128);
        return Ok(format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntrailer: grpc-status\r\n\
             transfer-encoding: chunked\r\n\r\n80\r\n{body}\r\n0\r\ngrpc-status: 0\r\n\r\n"
        )
        .into());
    }
    if path == b"/v1/traces" {
        return Ok(with_length(b""));
    }
    let count = path
        .strip_prefix(b"/bytes/")
        .context("a path nobody serves")?;
    let count: usize = std::str::from_utf8(count)?.parse()?;
    Ok(with_length("a".repeat(count).as_bytes()))
}

fn with_length(body: &[u8]) -> Bytes {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat().into()
}
