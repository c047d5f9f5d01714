//! HTTP/1.1 clients, with a head written once and answers whose length is known.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Generate, Way, zeroes};
use crate::endpoint::Head;
use crate::machine::Random;
use crate::tls::{self, Stream};

/// Room for an answer's head, and for as much of a body as is read at once.
const BUFFER: usize = 64 * 1024;

/// What is asked, of whom, and how long the answer must be.
pub(crate) struct Requests {
    to: SocketAddr,
    /// One for each host.
    requests: Vec<Bytes>,
    answer_bytes: usize,
    random: Random,
    /// By TLS, for this host.
    tls: Option<(TlsConnector, String)>,
}

impl Requests {
    pub(crate) fn new(options: &Generate) -> Result<Self> {
        let close = options.way == Way::Close;
        let request =
            |host: &str| request(host, &bytes_path(options.answer), options.upload, close);
        let requests = match options.hosts {
            Some(hosts) => (0..hosts)
                .map(|number| request(&numbered(&options.host, number)))
                .collect(),
            None => vec![request(&options.host)],
        };
        let requests = Self {
            to: options.to,
            requests,
            answer_bytes: options.answer,
            random: Random::new(),
            tls: None,
        };
        match options.tls {
            true => requests.by_tls(&options.host),
            false => Ok(requests),
        }
    }

    /// The same by TLS.
    pub(crate) fn by_tls(mut self, host: &str) -> Result<Self> {
        self.tls = Some((tls::connector()?, host.to_owned()));
        Ok(self)
    }

    /// A GET of so many bytes, or of a path.
    pub(crate) fn get(to: SocketAddr, host: &str, path: Option<&str>, answer_bytes: usize) -> Self {
        let path = path.map_or_else(|| bytes_path(answer_bytes), str::to_owned);
        let requests = vec![request(host, &path, 0, false)];
        Self {
            to,
            requests,
            answer_bytes,
            random: Random::new(),
            tls: None,
        }
    }

    async fn connect(&self) -> Result<Stream> {
        let stream = TcpStream::connect(self.to).await.context("connecting")?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Stream::Left(stream)),
            Some((connector, host)) => tls::secure(connector, stream, host).await,
        }
    }

    fn next(&mut self) -> Bytes {
        match self.requests.len() {
            1 => self.requests[0].clone(),
            several => self.requests[self.random.below(several)].clone(),
        }
    }
}

/// The name of a host among many.
pub(crate) fn numbered(host: &str, number: usize) -> String {
    format!("{host}-{number:05}.default.localhost")
}

fn bytes_path(answer_bytes: usize) -> String {
    format!("/bytes/{answer_bytes}")
}

fn request(host: &str, path: &str, upload: usize, close: bool) -> Bytes {
    let method = if upload == 0 { "GET" } else { "POST" };
    let close = if close { "Connection: close\r\n" } else { "" };
    let length = match upload {
        0 => String::new(),
        upload => format!("Content-Length: {upload}\r\n"),
    };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: parkway-load\r\nAccept: */*\r\n\
         {close}{length}\r\n"
    );
    [Bytes::from(head), zeroes(upload)].concat().into()
}

/// A client that keeps its connection.
pub(crate) struct Client {
    stream: Stream,
    requests: Requests,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(requests: Requests) -> Result<Self> {
        let stream = requests.connect().await?;
        let buffer = vec![0; BUFFER.min(requests.answer_bytes + 1024)];
        Ok(Self {
            stream,
            requests,
            buffer,
        })
    }

    /// Asks once, and checks the answer.
    pub(crate) async fn exchange(&mut self) -> Result<()> {
        self.send().await?;
        self.receive().await
    }

    pub(crate) async fn send(&mut self) -> Result<()> {
        let request = self.requests.next();
        self.stream.write_all(&request).await.context("sending")?;
        self.stream.flush().await.context("sending")
    }

    pub(crate) async fn receive(&mut self) -> Result<()> {
        receive(
            &mut self.stream,
            &mut self.buffer,
            self.requests.answer_bytes,
        )
        .await
    }
}

/// Connects, asks, and reads until the proxy has closed the connection.
pub(crate) async fn exchange_and_close(requests: &mut Requests) -> Result<()> {
    let mut stream = requests.connect().await?;
    stream
        .write_all(&requests.next())
        .await
        .context("sending")?;
    stream.flush().await.context("sending")?;
    let mut buffer = [0; 4096];
    receive(&mut stream, &mut buffer, requests.answer_bytes).await?;
    let behind = match stream.read(&mut buffer).await {
        // Not everybody says goodbye by TLS.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => 0,
        read => read?,
    };
    ensure!(behind == 0, "bytes behind the answer");
    Ok(())
}

/// Reads one answer, which must be 200 and of this length.
async fn receive(stream: &mut Stream, buffer: &mut [u8], answer_bytes: usize) -> Result<()> {
    let mut filled = 0;
    let head = loop {
        match stream
            .read(&mut buffer[filled..])
            .await
            .context("receiving")?
        {
            0 => bail!("closed before the answer's head"),
            read => filled += read,
        }
        if let Some(head) = Head::of_answer(&buffer[..filled])? {
            break head;
        }
    };
    ensure!(head.status == 200, "answered {}", head.status);
    ensure!(
        head.body_bytes == answer_bytes,
        "an answer of {} bytes",
        head.body_bytes
    );
    let mut received = filled - head.length;
    while received < answer_bytes {
        let most = buffer.len().min(answer_bytes - received);
        match stream
            .read(&mut buffer[..most])
            .await
            .context("receiving")?
        {
            0 => bail!("closed after {received} of {answer_bytes} bytes"),
            read => received += read,
        }
    }
    ensure!(received == answer_bytes, "bytes behind the answer");
    Ok(())
}
