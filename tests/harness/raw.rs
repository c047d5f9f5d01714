//! A client whose every byte is the test's own.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::answer::Answer;
use crate::wait::patiently;

/// So long nothing is taken by someone who takes nothing at all.
const NOTHING_TAKEN: Duration = Duration::from_millis(200);

/// One connection.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    /// Read and not used.
    unread: BytesMut,
}

impl Raw {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = patiently("a connection", TcpStream::connect(address))
            .await
            .unwrap();
        Self::of(stream)
    }

    /// Connects from this address, whichever port that gives.
    pub async fn connect_from(from: &str, to: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket
            .bind((from.parse::<IpAddr>().unwrap(), 0).into())
            .unwrap();
        Self::of(patiently("a connection", socket.connect(to)).await.unwrap())
    }

    /// On a connection that is there.
    pub fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            unread: BytesMut::new(),
        }
    }

    /// Sends bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.unwrap();
    }

    /// Sends bytes to someone who may not want them.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        patiently("room for bytes", self.stream.write_all(bytes.as_ref())).await
    }

    /// Sends of this what the system and the other side take, until they take nothing for a moment.
    pub async fn send_what_goes(&mut self, bytes: impl AsRef<[u8]>) {
        let mut rest = bytes.as_ref();
        while !rest.is_empty() {
            let sending = self.stream.write(rest);
            let Ok(Ok(sent)) = tokio::time::timeout(NOTHING_TAKEN, sending).await else {
                return;
            };
            rest = &rest[sent..];
        }
    }

    /// Ends the sending side and keeps reading.
    pub async fn half_close(&mut self) {
        drop(self.stream.shutdown().await); // who is gone needs none
    }

    /// Ends the connection with a reset instead of an orderly end.
    pub fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }

    /// From now on, dropping it ends the connection with a reset.
    pub fn leaves_with_a_reset(&self) {
        self.stream.set_zero_linger().unwrap();
    }

    /// Reads until there is this much, or the connection ends. What there is stays unread.
    async fn fill(&mut self) -> std::io::Result<usize> {
        patiently("bytes", self.stream.read_buf(&mut self.unread)).await
    }

    /// Reads up to and including `end`.
    pub async fn until(&mut self, end: &str) -> String {
        self.try_until(end)
            .await
            .unwrap_or_else(|seen| panic!("the connection ended before {end:?}; it said {seen:?}"))
    }

    /// Reads up to and including `end`.
    ///
    /// # Errors
    ///
    /// What came, when the connection ended before.
    pub async fn try_until(&mut self, end: &str) -> Result<String, String> {
        loop {
            let found = self
                .unread
                .windows(end.len())
                .position(|window| window == end.as_bytes());
            if let Some(at) = found {
                let bytes = self.unread.split_to(at + end.len());
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
            if !matches!(self.fill().await, Ok(read) if read > 0) {
                return Err(String::from_utf8_lossy(&self.unread).into_owned());
            }
        }
    }

    /// What has arrived by now, without waiting for more.
    pub fn arrived(&mut self) -> String {
        let mut bytes = BytesMut::zeroed(64 * 1024);
        let read = self.stream.try_read(&mut bytes).unwrap_or(0);
        self.unread.extend_from_slice(&bytes[..read]);
        String::from_utf8_lossy(&self.unread.split()).into_owned()
    }

    /// Reads exactly this many bytes.
    pub async fn exactly(&mut self, length: usize) -> Bytes {
        self.try_exactly(length).await.unwrap()
    }

    /// Reads exactly this many bytes.
    ///
    /// # Errors
    ///
    /// When the connection ends before.
    pub async fn try_exactly(&mut self, length: usize) -> Result<Bytes, String> {
        while self.unread.len() < length {
            match self.fill().await {
                Ok(0) => {
                    return Err(format!(
                        "ended after {} of {length} bytes",
                        self.unread.len()
                    ));
                }
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(self.unread.split_to(length).freeze())
    }

    /// Reads until the connection ends, in whatever way.
    pub async fn rest(&mut self) -> Bytes {
        while matches!(self.fill().await, Ok(read) if read > 0) {}
        self.unread.split().freeze()
    }

    /// Whether the other side has ended the connection; nothing may come before.
    pub async fn is_closed(&mut self) -> bool {
        let rest = self.rest().await;
        assert_eq!(
            String::from_utf8_lossy(&rest),
            "",
            "bytes came instead of an end"
        );
        true
    }

    /// Whether the other side ends the connection without resetting it; whatever comes before is passed over.
    pub async fn is_closed_in_order(&mut self) -> bool {
        loop {
            match self.fill().await {
                Ok(0) => return true,
                Ok(_) => self.unread.clear(),
                Err(_) => return false,
            }
        }
    }

    /// Reads a head, up to and including the empty line.
    pub async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// Reads one final response to a request that is not HEAD.
    pub async fn answer(&mut self) -> Answer {
        let head = self.head().await;
        self.answer_after(&head, true).await
    }

    /// Reads one final response to HEAD.
    pub async fn answer_to_head(&mut self) -> Answer {
        let head = self.head().await;
        self.answer_after(&head, false).await
    }

    async fn answer_after(&mut self, head: &str, may_have_body: bool) -> Answer {
        let mut lines = head.trim_end().split("\r\n");
        let first = lines.next().unwrap();
        let mut words = first.split(' ');
        let version = match words.next() {
            Some("HTTP/1.0") => Version::HTTP_10,
            Some("HTTP/1.1") => Version::HTTP_11,
            other => panic!("{other:?} is no version in {head:?}"),
        };
        let status: StatusCode = words.next().unwrap().parse().unwrap();
        let headers = fields(lines);
        let mut answer = Answer {
            status,
            version,
            headers,
            body: Bytes::new(),
            trailers: None,
            broken: None,
        };
        let is_bodyless = status.is_informational() || matches!(status.as_u16(), 204 | 304);
        if may_have_body && !is_bodyless {
            self.read_body(&mut answer).await;
        }
        answer
    }

    /// By RFC 9112 section 6.3.
    async fn read_body(&mut self, answer: &mut Answer) {
        if answer.header("transfer-encoding").is_some() {
            let (body, ended) = self.chunks().await;
            answer.body = body;
            match ended {
                Ok(trailers) if trailers.is_empty() => {}
                Ok(trailers) => answer.trailers = Some(trailers),
                Err(why) => answer.broken = Some(why),
            }
        } else if let Some(length) = answer.header("content-length") {
            let length = length.parse().unwrap();
            match self.try_exactly(length).await {
                Ok(body) => answer.body = body,
                Err(why) => {
                    answer.body = self.unread.split().freeze();
                    answer.broken = Some(why);
                }
            }
        } else {
            answer.body = self.rest().await;
        }
    }

    /// Reads chunked content, whose chunks are joined, and the trailers behind it.
    pub async fn chunks(&mut self) -> (Bytes, Result<HeaderMap, String>) {
        let mut body = BytesMut::new();
        loop {
            let Ok(line) = self.try_until("\r\n").await else {
                return (body.freeze(), Err("no chunk".to_owned()));
            };
            let size = line.trim_end().split(';').next().unwrap();
            let size =
                usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("{line:?} is no chunk"));
            if size == 0 {
                break;
            }
            match self.try_exactly(size + 2).await {
                Ok(chunk) => body.extend_from_slice(&chunk[..size]),
                Err(why) => return (body.freeze(), Err(why)),
            }
        }
        let mut trailers = String::new();
        loop {
            match self.try_until("\r\n").await {
                Ok(line) if line == "\r\n" => break,
                Ok(line) => trailers += &line,
                Err(_) => return (body.freeze(), Err("no end of trailers".to_owned())),
            }
        }
        (body.freeze(), Ok(fields(trailers.split_terminator("\r\n"))))
    }
}

/// Parses field lines.
pub fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line
            .split_once(':')
            .unwrap_or_else(|| panic!("{line:?} is no field"));
        let name: HeaderName = name.parse().unwrap();
        let value: HeaderValue = value.trim().parse().unwrap();
        headers.append(name, value);
    }
    headers
}
