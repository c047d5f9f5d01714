//! Recorded answers, byte for byte and as slowly as they came.
//!
//! Beside a recorded response lies a table of how it arrived: offset, length and seconds since the request, one row
//! for each read. [`Replay`] answers each request for a path with one recording, in the same pieces. It understands
//! nothing of what it sends.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

/// Request heads beyond this size are not read; a client of ours sends less.
const MAX_HEAD: usize = 64 * 1024;

/// How a recording's time passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Every piece at once, still piece by piece.
    Immediate,
    /// As it was recorded.
    Recorded,
    /// As it was recorded, this many times as fast.
    Faster(f64),
}

/// A recorded response.
#[derive(Clone, Debug)]
pub struct Recording {
    bytes: Bytes,
    /// Offset, length and time of each piece.
    pieces: Arc<[(usize, usize, Duration)]>,
}

impl Recording {
    /// Reads `NAME.http`, and `NAME.timing.tsv` if there is one; without it the response is one piece.
    pub fn read(path: &Path) -> Self {
        let bytes = Bytes::from(
            std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        );
        let timing = std::fs::read_to_string(path.with_extension("timing.tsv"));
        let pieces = match timing {
            Ok(table) => table.lines().map(piece).collect(),
            Err(_) => vec![(0, bytes.len(), Duration::ZERO)],
        };
        Self {
            bytes,
            pieces: pieces.into(),
        }
    }

    /// The whole response.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How long it took.
    pub fn duration(&self) -> Duration {
        self.pieces
            .last()
            .map_or(Duration::ZERO, |(_, _, time)| *time)
    }

    /// The content of the response (RFC 9112, section 7.1), and how much of it had come with each of its chunks: bytes
    /// of the content, bytes of the whole.
    fn content(&self) -> (Vec<u8>, Vec<(usize, usize)>) {
        let find = |from: usize, what: &[u8]| {
            let rest = self.bytes.get(from..).unwrap_or_default();
            let at = rest.windows(what.len()).position(|it| it == what);
            from + at.unwrap_or_else(|| panic!("a whole chunked response"))
        };
        let (mut content, mut chunks) = (Vec::new(), Vec::new());
        let mut from = find(0, b"\r\n\r\n") + 4;
        loop {
            let line = find(from, b"\r\n");
            let size = std::str::from_utf8(&self.bytes[from..line]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            if size == 0 {
                return (content, chunks);
            }
            from = line + 2 + size + 2;
            content.extend_from_slice(&self.bytes[line + 2..line + 2 + size]);
            chunks.push((content.len(), from));
        }
    }

    /// The events of a recorded watch, each with the time at which its end had come.
    pub fn events(&self) -> Vec<(Duration, Value)> {
        let (content, chunks) = self.content();
        let came = |end: usize| {
            let (_, whole) = chunks.iter().find(|(content, _)| *content >= end).unwrap();
            let pieces = self.pieces.iter();
            let mut pieces = pieces.filter(|(offset, length, _)| offset + length >= *whole);
            pieces
                .next()
                .map_or_else(|| self.duration(), |(.., time)| *time)
        };
        let mut events = Vec::new();
        let mut end = 0;
        for line in content.split_inclusive(|byte| *byte == b'\n') {
            end += line.len();
            events.push((came(end), serde_json::from_slice(line).unwrap()));
        }
        events
    }

    async fn send(&self, stream: &mut TcpStream, pace: Pace) -> std::io::Result<()> {
        let begun = Instant::now();
        for (offset, length, time) in self.pieces.iter() {
            match pace {
                Pace::Immediate => tokio::task::yield_now().await,
                Pace::Recorded => sleep_until(begun + *time).await,
                Pace::Faster(times) => sleep_until(begun + time.div_f64(times)).await,
            }
            let piece = self
                .bytes
                .get(*offset..*offset + *length)
                .unwrap_or_default();
            stream.write_all(piece).await?;
            stream.flush().await?;
        }
        Ok(())
    }
}

fn piece(row: &str) -> (usize, usize, Duration) {
    let mut columns = row.split('\t');
    let mut next = || {
        columns
            .next()
            .unwrap_or_else(|| panic!("a row of three columns: {row:?}"))
    };
    let (offset, length, seconds) = (next(), next(), next());
    let seconds: f64 = seconds.parse().unwrap();
    (
        offset.parse().unwrap(),
        length.parse().unwrap(),
        Duration::from_secs_f64(seconds),
    )
}

/// Which recording a request gets.
struct Route {
    /// A part of the request's line, such as `ingresses?watch`.
    line: String,
    recording: Recording,
    pace: Pace,
    /// How often yet; none for always.
    left: Option<u32>,
}

/// A server of recordings; it ends when it is dropped. A request that no route is for is answered 404.
pub struct Replay {
    address: SocketAddr,
    routes: Arc<Mutex<Vec<Route>>>,
    lines: Arc<Mutex<Vec<String>>>,
    _serving: AbortOnDropHandle<()>,
}

impl Replay {
    /// A server on a port of its own, without routes yet.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let serving = accept(listener, Arc::clone(&routes), Arc::clone(&lines));
        Self {
            address,
            routes,
            lines,
            _serving: AbortOnDropHandle::new(tokio::spawn(serving)),
        }
    }

    /// Where it listens, for a client's settings.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers requests whose line contains `line` with a recording, as often as they come. The first route that is
    /// for a request takes it.
    #[must_use]
    pub fn always(self, line: &str, recording: &Recording, pace: Pace) -> Self {
        self.route(line, recording, pace, None)
    }

    /// The same, but only for the first such request.
    #[must_use]
    pub fn once(self, line: &str, recording: &Recording, pace: Pace) -> Self {
        self.route(line, recording, pace, Some(1))
    }

    /// The lines of the requests so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().clone()
    }

    fn route(self, line: &str, recording: &Recording, pace: Pace, left: Option<u32>) -> Self {
        self.routes.lock().push(Route {
            line: line.to_owned(),
            recording: recording.clone(),
            pace,
            left,
        });
        self
    }
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

async fn accept(
    listener: TcpListener,
    routes: Arc<Mutex<Vec<Route>>>,
    lines: Arc<Mutex<Vec<String>>>,
) {
    let mut serving = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    serving.spawn(serve(stream, Arc::clone(&routes), Arc::clone(&lines)));
                }
            }
            Some(_ended) = serving.join_next() => {}
        }
    }
}

/// Reads one request and sends one recording: all recordings say `Connection: close`.
async fn serve(
    mut stream: TcpStream,
    routes: Arc<Mutex<Vec<Route>>>,
    lines: Arc<Mutex<Vec<String>>>,
) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read_buf(&mut head).await {
            Ok(read) if read > 0 && head.len() <= MAX_HEAD => {}
            _ => return,
        }
    }
    let text = String::from_utf8_lossy(&head);
    let line = text.lines().next().unwrap_or_default().to_owned();
    lines.lock().push(line.clone());
    let chosen = choose(&mut routes.lock(), &line);
    let sent = match chosen {
        Some((recording, pace)) => recording.send(&mut stream, pace).await,
        None => {
            let answer =
                b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            stream.write_all(answer).await
        }
    };
    if sent.is_ok() {
        drop(stream.shutdown().await);
    }
}

fn choose(routes: &mut [Route], line: &str) -> Option<(Recording, Pace)> {
    let route = routes
        .iter_mut()
        .find(|route| route.left != Some(0) && line.contains(&route.line))?;
    if let Some(left) = &mut route.left {
        *left -= 1;
    }
    Some((route.recording.clone(), route.pace))
}
