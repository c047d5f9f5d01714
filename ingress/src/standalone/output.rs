//! What the processes write, line by line, prefixed by who wrote it, in one place.
//!
//! Each process has two readers (stdout, stderr) that cut lines and hand them to one thread, which alone writes.
//! A slow terminal therefore never blocks a worker. It holds a process up for [`PATIENCE`] at most; after that its
//! lines are dropped, and the next one that gets through is preceded by how many.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::warn;

/// The longest line in bytes; what is longer goes on in a new line.
const MAX_LINE: usize = 8 * 1024;
/// Lines on their way to the writer. When they are this many, readers wait for [`PATIENCE`] and then drop lines; with
/// [`MAX_LINE`] this bounds their memory to 4 MiB.
const LINES_ON_THEIR_WAY: usize = 512;
/// How long a process may be held up by whoever reads Parkway's output, once until lines get through again.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many bytes one read takes.
const READ_SIZE: usize = 8 * 1024;
/// How many lines of stderr are kept to explain a failure.
const KEPT_LINES: usize = 4;
/// How many characters of each.
const KEPT_CHARS: usize = 256;

/// Which stream of a process a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Where the lines of all processes go.
pub trait LineSink: Send + Sync + 'static {
    /// Takes one line with its prefix and its line feed. Called from one thread, which it may block.
    ///
    /// # Errors
    ///
    /// When the line could not be written; it is lost, and the next one is tried.
    fn write(&self, stream: Stream, line: &[u8]) -> io::Result<()>;
}

/// Parkway's own stdout and stderr.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terminal;

impl LineSink for Terminal {
    fn write(&self, stream: Stream, line: &[u8]) -> io::Result<()> {
        // One write per line: what others write to the same stream comes between lines, never within one.
        match stream {
            Stream::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(line)?;
                stdout.flush()
            }
            Stream::Stderr => io::stderr().lock().write_all(line),
        }
    }
}

enum Message {
    Line(Stream, Vec<u8>),
    /// Everything before this has been written when the sender is answered.
    Flush(oneshot::Sender<()>),
}

/// The way to the writer; its thread ends with the last of these.
#[derive(Clone, Debug)]
pub(super) struct Writer(mpsc::Sender<Message>);

impl Writer {
    /// Starts the writing thread.
    pub(super) fn start(sink: Arc<dyn LineSink>) -> io::Result<Self> {
        let (sender, mut messages) = mpsc::channel(LINES_ON_THEIR_WAY);
        std::thread::Builder::new()
            .name("process-output".into())
            .spawn(move || {
                let mut has_failed = false;
                while let Some(message) = messages.blocking_recv() {
                    match message {
                        Message::Line(stream, line) => {
                            if let Err(error) = sink.write(stream, &line)
                                && !std::mem::replace(&mut has_failed, true)
                            {
                                warn!(%error, "output of processes cannot be written");
                            }
                        }
                        Message::Flush(done) => drop(done.send(())),
                    }
                }
            })?;
        Ok(Self(sender))
    }

    /// Waits until everything sent so far has been written.
    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.0.send(Message::Flush(done)).await.is_ok() {
            // An error means that the thread is gone: nothing is left to wait for.
            drop(flushed.await);
        }
    }

    /// Passes everything from `pipe` on, until it ends.
    pub(super) async fn relay(
        self,
        mut pipe: impl AsyncRead + Unpin,
        stream: Stream,
        name: Arc<str>,
        tail: Tail,
    ) {
        let mut lines = Lines::default();
        let mut relay = Relay {
            writer: self,
            stream,
            prefix: format!("[{name}] "),
            dropped: 0,
            tail,
        };
        let mut buffer = vec![0; READ_SIZE];
        loop {
            let read = match pipe.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(read) => read,
            };
            let mut rest = buffer.get(..read).unwrap_or_default();
            while let Some(line) = lines.next(&mut rest) {
                relay.pass_on(&line).await;
            }
        }
        if let Some(line) = lines.finish() {
            relay.pass_on(&line).await;
        }
    }
}

/// One stream's side of the way to the writer.
struct Relay {
    writer: Writer,
    stream: Stream,
    prefix: String,
    /// Lines lost since one got through.
    dropped: u64,
    tail: Tail,
}

impl Relay {
    async fn pass_on(&mut self, line: &[u8]) {
        if self.stream == Stream::Stderr {
            self.tail.push(line);
        }
        let message = Message::Line(self.stream, self.prefixed(line));
        match self.writer.0.try_send(message) {
            Ok(()) => self.dropped = 0,
            Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(_)) if self.dropped > 0 => self.dropped += 1,
            Err(TrySendError::Full(message)) => {
                if timeout(PATIENCE, self.writer.0.send(message))
                    .await
                    .is_err()
                {
                    self.dropped = 1;
                }
            }
        }
    }

    /// The line as it is written; after a loss, with a line before it that says so.
    fn prefixed(&self, line: &[u8]) -> Vec<u8> {
        let prefix = self.prefix.as_bytes();
        let mut whole = Vec::with_capacity(prefix.len() + line.len() + 1);
        if self.dropped > 0 {
            let dropped = self.dropped;
            whole.extend_from_slice(prefix);
            whole.extend_from_slice(
                format!("({dropped} lines dropped: output is read too slowly)\n").as_bytes(),
            );
        }
        whole.extend_from_slice(prefix);
        whole.extend_from_slice(line);
        whole.push(b'\n');
        whole
    }
}

/// Cuts bytes into lines of at most [`MAX_LINE`] bytes.
#[derive(Debug, Default)]
struct Lines(Vec<u8>);

impl Lines {
    /// Takes from the front of `input` and returns a line when one is complete.
    fn next(&mut self, input: &mut &[u8]) -> Option<Vec<u8>> {
        let room = MAX_LINE - self.0.len();
        let end = input.iter().take(room).position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(room.min(input.len()));
        let (piece, rest) = input.split_at(taken);
        self.0.extend_from_slice(piece);
        // The line feed itself is taken too, and one right behind a full line adds no empty one.
        let is_ended = rest.first() == Some(&b'\n');
        *input = rest.get(usize::from(is_ended)..).unwrap_or_default();
        (is_ended || self.0.len() == MAX_LINE).then(|| std::mem::take(&mut self.0))
    }

    /// What is left when the stream ends without a line feed.
    fn finish(self) -> Option<Vec<u8>> {
        (!self.0.is_empty()).then_some(self.0)
    }
}

/// The last lines of a process's stderr.
#[derive(Clone, Debug, Default)]
pub(super) struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    fn push(&self, line: &[u8]) {
        // They are quoted in answers and logs: nothing that acts on a terminal.
        let text = String::from_utf8_lossy(line);
        let text: String = text
            .chars()
            .filter(|it| !it.is_control())
            .take(KEPT_CHARS)
            .collect();
        if text.trim().is_empty() {
            return;
        }
        let mut kept = self.0.lock();
        if kept.len() == KEPT_LINES {
            kept.pop_front();
        }
        kept.push_back(text);
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.0.lock().iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(inputs: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut lines, mut cut) = (Lines::default(), Vec::new());
        for input in inputs {
            let mut rest = *input;
            while let Some(line) = lines.next(&mut rest) {
                cut.push(line);
            }
            assert!(rest.is_empty(), "a read is taken wholly");
        }
        cut.extend(lines.finish());
        cut
    }

    #[test]
    fn lines_are_cut_wherever_the_reads_fall() {
        assert_eq!(
            cut(&[b"one\ntw", b"o\n\nthr", b"ee"]),
            [&b"one"[..], b"two", b"", b"three"]
        );
    }

    #[test]
    fn a_line_longer_than_the_bound_goes_on_in_a_new_one() {
        let long = vec![b'x'; 2 * MAX_LINE + 1];
        let lengths: Vec<_> = cut(&[&long, b"\nnext\n"]).iter().map(Vec::len).collect();
        assert_eq!(lengths, [MAX_LINE, MAX_LINE, 1, 4]);
    }

    #[test]
    fn a_line_of_exactly_the_bound_is_followed_by_no_empty_one() {
        let full = [vec![b'x'; MAX_LINE], b"\nnext\n".to_vec()].concat();
        let lengths: Vec<_> = cut(&[&full]).iter().map(Vec::len).collect();
        assert_eq!(lengths, [MAX_LINE, 4]);
    }

    #[test]
    fn the_tail_keeps_the_last_four_lines_without_control_characters() {
        let tail = Tail::default();
        for line in ["1", "2", "3", "", "\x1b[31m4\x07", "5"] {
            tail.push(line.as_bytes());
        }
        assert_eq!(tail.lines(), ["2", "3", "[31m4", "5"]);
    }

    /// Nobody takes what is sent, as when the terminal is stopped.
    fn stalled() -> (Writer, mpsc::Receiver<Message>) {
        let (sender, messages) = mpsc::channel(1);
        (Writer(sender), messages)
    }

    fn text(message: Option<Message>) -> String {
        match message {
            Some(Message::Line(_, line)) => String::from_utf8(line).unwrap(),
            _ => panic!("not a line"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_reader_costs_a_process_one_wait_and_then_lines() {
        let (writer, mut messages) = stalled();
        let started = tokio::time::Instant::now();
        let lines: &[u8] = b"a\nb\nc\nd\n";

        writer
            .clone()
            .relay(lines, Stream::Stdout, "shop-1".into(), Tail::default())
            .await;
        assert_eq!(started.elapsed(), PATIENCE);
        assert_eq!(text(messages.recv().await), "[shop-1] a\n");

        drop(writer);
        assert!(messages.recv().await.is_none(), "b, c and d are lost");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_line_after_a_loss_says_how_many_were_lost() {
        let (writer, mut messages) = stalled();
        let prefix = "[shop-1] ".to_owned();
        let mut relay = Relay {
            writer,
            stream: Stream::Stdout,
            prefix,
            dropped: 0,
            tail: Tail::default(),
        };
        for line in [b"a", b"b", b"c"] {
            relay.pass_on(line).await;
        }
        messages.recv().await.unwrap();

        relay.pass_on(b"d").await;

        assert_eq!(
            text(messages.recv().await),
            "[shop-1] (2 lines dropped: output is read too slowly)\n[shop-1] d\n"
        );
    }
}
