//! A client's connection as the HTTP/1 engine sees it: bytes read before, then the socket; and what the connection task
//! must know to take the engine off again.
//!
//! The engine reads the first piece of a body before anybody asks for it. A request that is parked would lose that piece,
//! for it is replayed from the bytes that the engine has not read. So the engine is given a head and no byte more, then
//! nothing until somebody wants the body. Heads end with an empty line, and bodies where their length or their chunks say:
//! each read ends there, so that the head behind it begins with a read of its own.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::chunks::{Chunks, Malformed, Passed};
use super::framing::{EmptyLine, Lines};
use super::stream::ClientStream;
use crate::proxy::body::Inbound;
use crate::routing::validate::Doubt;

/// What is known of an HTTP/1 connection from outside its engine.
///
/// The engine may be taken off when no request runs, all output is flushed and no head is half read. The engine flushes
/// only with an empty write buffer, and each of its turns ends with a flush, so `is_flushed` is exact between turns.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// Requests from their head until both bodies are done.
    pub(super) in_flight: Cell<u32>,
    /// All output has been handed to the socket.
    pub(super) is_flushed: Cell<bool>,
    /// Bytes of a next head have been read.
    pub(super) is_partial: Cell<bool>,
    /// When the response that is being written may take no longer.
    pub(super) due: Cell<Option<Instant>>,
    /// How often the socket has taken bytes.
    pub(super) writes: Cell<u64>,
    /// What the engine is given next.
    part: Cell<Part>,
    /// The lines of the head that is being given.
    lines: Cell<Lines>,
    /// What is doubtful about the head that was given last.
    doubt: Cell<Option<Doubt>>,
    /// The engine takes no more lines of a head than this.
    lines_bound: Cell<Option<usize>>,
    /// A head has more lines than that.
    has_outgrown: Cell<bool>,
    /// Nobody has asked for the body yet that comes next.
    is_withheld: Cell<bool>,
    /// The connection task, once the engine has asked for what it does not get yet.
    reader: RefCell<Option<Waker>>,
}

/// What of a connection comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    /// Anything: it is not looked at.
    #[default]
    Any,
    /// A head.
    Head(EmptyLine),
    /// A chunked body.
    Chunks(Chunks),
    /// A body of which this many bytes are left.
    Length(u64),
    /// What came is no body; nothing more is given.
    Malformed,
}

impl Part {
    /// How many of `bytes` the engine is given at once, and what comes next then. The lines of heads are noted.
    fn split(self, bytes: &[u8], lines: &mut Lines) -> (usize, Self) {
        match self {
            Self::Any => (bytes.len(), self),
            Self::Head(seen) => {
                let (given, seen) = seen.find(bytes, |piece| lines.see(piece));
                (given, Self::Head(seen))
            }
            Self::Chunks(chunks) => match chunks.pass(bytes) {
                Passed::On(chunks) => (bytes.len(), Self::Chunks(chunks)),
                Passed::End(given) => (given, Self::head()),
                Passed::Malformed(given) => (given, Self::Malformed),
            },
            Self::Malformed => (0, self),
            Self::Length(left) => {
                let given = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                match left - given as u64 {
                    0 => (given, Self::head()),
                    left => (given, Self::Length(left)),
                }
            }
        }
    }

    fn head() -> Self {
        Self::Head(EmptyLine::Nothing)
    }
}

impl Signals {
    /// Of a connection that carries HTTP/1, whose engine takes heads of so many lines.
    pub(super) fn http1(lines_bound: Option<usize>) -> Rc<Self> {
        Rc::new(Self {
            part: Cell::new(Part::head()),
            lines_bound: Cell::new(lines_bound),
            ..Self::default()
        })
    }

    /// A head has been read, and a body of this length, or a chunked one, comes next; it is withheld.
    pub(super) fn expect_body(&self, length: Option<u64>) {
        self.part
            .set(length.map_or(Part::Chunks(Chunks::START), Part::Length));
        self.is_withheld.set(true);
    }

    /// Notes what the engine is given of `bytes`, and says how many it is.
    fn give(&self, bytes: &[u8]) -> usize {
        if bytes.is_empty() {
            return 0;
        }
        let (part, mut lines) = (self.part.get(), self.lines.get());
        let (given, next) = part.split(bytes, &mut lines);
        if let (Part::Head(_), Some(bound)) = (part, self.lines_bound.get())
            && lines.count() > bound
        {
            self.has_outgrown.set(true);
            return 0;
        }
        self.part.set(next);
        if let (Part::Head(_), Part::Head(seen)) = (part, next) {
            let is_complete = seen == EmptyLine::Nothing
                && bytes.get(..given).is_some_and(|head| head.ends_with(b"\n"));
            if is_complete {
                self.doubt.set(lines.doubt());
                lines = Lines::default();
            }
            self.lines.set(lines);
        }
        if matches!(part, Part::Head(_) | Part::Any) {
            self.is_partial.set(true);
        }
        given
    }

    /// Whether a head has come that is too much for the engine. It is given no more of it, nor anything else.
    pub(super) fn has_outgrown(&self) -> bool {
        self.has_outgrown.get()
    }

    /// Whether a body is none from here on. The engine is given nothing more, and told so.
    fn is_malformed(&self) -> bool {
        self.part.get() == Part::Malformed
    }

    /// What is doubtful about the head that is complete now.
    pub(super) fn doubt(&self) -> Option<Doubt> {
        self.doubt.take()
    }

    fn wrote(&self, written: &Poll<io::Result<usize>>) {
        if written.is_ready() {
            self.progress();
        }
    }

    /// The socket has taken bytes.
    fn progress(&self) {
        self.writes.set(self.writes.get().wrapping_add(1));
    }

    /// Nothing is given until somebody wants the body, or the last request has ended.
    fn not_now(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.reader.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Somebody wants the body, or it is of no use any more.
    fn deliver(&self) {
        if self.is_withheld.take() {
            self.wake_reader();
        }
    }

    fn wake_reader(&self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Whether the connection waits for a request of which nothing has come.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.get() == 0 && self.is_flushed.get() && !self.is_partial.get()
    }

    /// Whether all of every request that has begun has been read.
    pub(super) fn is_between_requests(&self) -> bool {
        let is_at_a_head = self.part.get() == Part::head();
        is_at_a_head && !self.is_partial.get() && !self.is_withheld.get()
    }

    /// Whether a head has begun to arrive and is not complete.
    pub(super) fn is_in_head(&self) -> bool {
        self.in_flight.get() == 0 && self.is_flushed.get() && self.is_partial.get()
    }
}

/// Marks a connection as busy until dropped.
#[derive(Debug)]
pub(super) struct Busy(Rc<Signals>);

impl Busy {
    pub(super) fn new(signals: &Rc<Signals>) -> Self {
        signals.in_flight.set(signals.in_flight.get() + 1);
        Self(Rc::clone(signals))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let in_flight = self.0.in_flight.get().saturating_sub(1);
        self.0.in_flight.set(in_flight);
        if in_flight > 0 {
            return;
        }
        if self.0.has_outgrown.get() {
            self.0.wake_reader();
        }
    }
}

impl Inbound for Busy {
    fn deliver(&self) {
        self.0.deliver();
    }

    fn due(&self, due: Option<Instant>) {
        self.0.due.set(due);
    }
}

/// Bytes read before, then the socket.
#[derive(Debug)]
pub(super) struct Input {
    before: Bytes,
    stream: ClientStream,
    signals: Rc<Signals>,
}

impl Input {
    pub(super) fn new(before: Bytes, stream: ClientStream, signals: Rc<Signals>) -> Self {
        signals.is_flushed.set(true);
        signals.is_partial.set(!before.is_empty());
        Self {
            before,
            stream,
            signals,
        }
    }

    /// The socket, and what of the earlier bytes has not been read.
    pub(super) fn into_parts(self) -> (ClientStream, Bytes) {
        (self.stream, self.before)
    }
}

impl AsyncRead for Input {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.signals.has_outgrown.get() || this.signals.is_withheld.get() {
            return this.signals.not_now(cx);
        }
        if this.signals.is_malformed() {
            return malformed();
        }
        if this.before.has_remaining() {
            let room = this.before.len().min(buf.remaining());
            let given = this
                .signals
                .give(this.before.get(..room).unwrap_or_default());
            if this.signals.has_outgrown.get() {
                return this.signals.not_now(cx);
            }
            if given == 0 && this.signals.is_malformed() {
                return malformed();
            }
            buf.put_slice(&this.before.split_to(given));
            return Poll::Ready(Ok(()));
        }
        let filled = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        let (_, new) = buf.filled().split_at(filled);
        let given = this.signals.give(new);
        let (_, rest) = new.split_at(given);
        if !rest.is_empty() {
            this.before = Bytes::copy_from_slice(rest);
            buf.set_filled(filled + given);
        }
        if this.signals.has_outgrown.get() {
            return this.signals.not_now(cx);
        }
        if given == 0 && this.signals.is_malformed() {
            return malformed();
        }
        read
    }
}

/// Reading nothing would say that the client has ended its side.
fn malformed() -> Poll<io::Result<()>> {
    Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, Malformed)))
}

impl AsyncWrite for Input {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.signals.is_flushed.set(false);
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.signals.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.signals.is_flushed.set(false);
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.signals.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let unsent = self.stream.unsent();
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if self.stream.unsent() < unsent {
            self.signals.progress();
        }
        self.signals.is_flushed.set(flushed.is_ready());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pieces in which `bytes` are given, when `call` stands for what happens when a head is complete.
    fn pieces(signals: &Signals, mut bytes: &[u8], after_head: impl Fn(&Signals)) -> Vec<String> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let was_head = matches!(signals.part.get(), Part::Head(_));
            let (given, rest) = bytes.split_at(signals.give(bytes));
            if was_head && given.ends_with(b"\n\r\n") {
                after_head(signals);
            }
            pieces.push(String::from_utf8(given.to_vec()).unwrap());
            bytes = rest;
        }
        pieces
    }

    #[test]
    fn a_head_is_given_without_what_follows() {
        let wire = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\nHost: a\n\nGET";
        let given = pieces(&Signals::http1(None), wire, |_| {});
        assert_eq!(
            given,
            [
                "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                "GET /next HTTP/1.1\nHost: a\n\n",
                "GET"
            ]
        );
    }

    #[test]
    fn the_end_of_a_head_is_found_wherever_reads_are_cut() {
        let wire = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nnext";
        for cut in 0..wire.len() {
            let signals = Signals::http1(None);
            let (first, second) = wire.split_at(cut);
            let given = [
                pieces(&signals, first, |_| {}),
                pieces(&signals, second, |_| {}),
            ]
            .concat();
            assert_eq!(
                given.last().unwrap().len().min(4),
                wire.len().saturating_sub(cut).min(4),
                "cut at {cut}"
            );
            let ends = given.iter().scan(0, |end, piece| {
                *end += piece.len();
                Some(*end)
            });
            assert!(
                ends.into_iter().any(|end| end == wire.len() - 4),
                "cut at {cut}: {given:?}"
            );
        }
    }

    #[test]
    fn nothing_is_given_of_a_head_from_the_line_on_that_is_too_much() {
        let within = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let beyond = "GET / HTTP/1.1\r\nHost: a\r\nx: 1\r\n\r\n";
        let signals = Signals::http1(Some(3));
        for _ in 0..3 {
            assert_eq!(signals.give(within.as_bytes()), within.len());
            assert!(!signals.has_outgrown());
        }
        for cut in 0..beyond.len() {
            let signals = Signals::http1(Some(3));
            let (first, second) = beyond.as_bytes().split_at(cut);
            assert_eq!(signals.give(first), cut);
            assert!(!signals.has_outgrown());
            assert_eq!(signals.give(second), 0);
            assert!(signals.has_outgrown());
        }
    }

    #[test]
    fn a_body_of_known_length_is_given_whatever_it_contains_and_no_further() {
        let wire = b"POST / HTTP/1.1\r\n\r\na\n\n\r\n\r\nbPOST";
        let given = pieces(&Signals::http1(None), wire, |signals| {
            signals.expect_body(Some(8));
        });
        assert_eq!(given, ["POST / HTTP/1.1\r\n\r\n", "a\n\n\r\n\r\nb", "POST"]);
    }

    #[test]
    fn a_chunked_body_is_given_up_to_its_end_and_no_further() {
        let wire = b"POST / HTTP/1.1\r\n\r\n2\r\n\n\n\r\n0\r\nx-sum: 1\r\n\r\nPOST";
        let given = pieces(&Signals::http1(None), wire, |signals| {
            signals.expect_body(None);
        });
        assert_eq!(given.last().unwrap(), "POST");
        assert_eq!(given.concat().as_bytes(), wire);
    }
}
