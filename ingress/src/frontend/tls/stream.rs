//! The bytes of a TLS connection, without buffers of their own while nothing happens.
//!
//! On rustls' unbuffered interface: ciphertext is read into memory of the thread, decrypted, and handed on; what is
//! written is encrypted into memory of the thread and sent at once. Only what is cut stays with the connection: the
//! beginning of a record, plaintext beyond what the reader had room for, ciphertext the socket has not taken.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use rustls::pki_types::CertificateDer;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{HandshakeKind, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::AgreedOn;

/// Memory of the thread in which records are put together and taken apart.
struct Scratch {
    ciphertext: Box<[u8]>,
    plaintext: Box<[u8]>,
}

/// Room for the largest handshake message that rustls takes, 64 KiB, and for what is read behind it.
const CIPHERTEXT: usize = 64 * 1024 + READ;

/// How much is read at once.
const READ: usize = 32 * 1024;

/// How much is encrypted at once: two records. As much ciphertext may wait for a client that reads slowly.
const WRITE: usize = 32 * 1024;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        ciphertext: vec![0; CIPHERTEXT].into(),
        plaintext: vec![0; WRITE].into(),
    });
}

/// A client's connection by TLS.
pub(crate) struct TlsStream {
    tcp: TcpStream,
    session: UnbufferedServerConnection,
    /// The beginning of a record, or of a handshake message.
    incoming: Vec<u8>,
    /// What nobody has had room for yet.
    plaintext: Bytes,
    /// What the socket has not taken yet.
    outgoing: Bytes,
    /// The client has said that nothing more comes, or has gone.
    has_ended: bool,
    /// We have said that nothing more comes.
    has_said_goodbye: bool,
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("tcp", &self.tcp)
            .finish_non_exhaustive()
    }
}

impl TlsStream {
    /// A session whose handshake has not begun. `before` is what has been read from the socket already.
    pub(super) fn new(
        tcp: TcpStream,
        before: &[u8],
        config: Arc<ServerConfig>,
    ) -> Result<Self, rustls::Error> {
        Ok(Self {
            tcp,
            session: UnbufferedServerConnection::new(config)?,
            incoming: before.to_vec(),
            plaintext: Bytes::new(),
            outgoing: Bytes::new(),
            has_ended: false,
            has_said_goodbye: false,
        })
    }

    /// Ready when the handshake is over and all that we have to say in it is sent.
    pub(super) fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.incoming.is_empty() {
            let seen = self.look_at_incoming();
            let sent = self.poll_send(cx);
            seen?;
            if let Poll::Ready(Err(error)) = sent {
                return Poll::Ready(Err(error));
            }
        }
        while self.session.is_handshaking() {
            if self.has_ended {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            // What the socket has no room for goes when it has, whether or not the client says something.
            let sent = self.poll_send(cx)?;
            let taken = self.poll_take_in(cx, &mut ReadBuf::new(&mut []))?;
            if taken.is_pending() && (sent.is_pending() || self.outgoing.is_empty()) {
                return Poll::Pending;
            }
        }
        self.poll_send(cx)
    }

    /// What the client and we have agreed to speak, if we have.
    pub(super) fn protocol(&self) -> Option<&[u8]> {
        self.session.alpn_protocol()
    }

    /// The certificate that the client has shown, if it was asked for one.
    pub(super) fn shown(&self) -> Option<&CertificateDer<'static>> {
        self.session.peer_certificates()?.first()
    }

    /// Whether the handshake has gone on with a session of before.
    pub(super) fn is_resumed(&self) -> bool {
        self.session.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// What the handshake has agreed on.
    pub(super) fn agreed(&self) -> AgreedOn {
        let version = self.session.protocol_version().map_or(0, u16::from);
        let suite = self.session.negotiated_cipher_suite();
        AgreedOn {
            version,
            cipher: suite.map_or(0, |suite| u16::from(suite.suite())),
            is_resumed: self.is_resumed(),
            is_http2: self.protocol() == Some(b"h2"),
        }
    }

    /// The socket, to wait on it.
    pub(in crate::frontend) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Whether there is something to read without asking the socket.
    pub(in crate::frontend) fn has_plaintext(&self) -> bool {
        self.plaintext.has_remaining()
    }

    /// Whether nothing more comes.
    pub(in crate::frontend) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// How many bytes the socket has not taken yet.
    pub(in crate::frontend) fn unsent(&self) -> usize {
        self.outgoing.len()
    }

    /// The same with the socket exchanged for what `change` makes of it.
    ///
    /// # Errors
    ///
    /// Those of `change`.
    pub(in crate::frontend) fn try_map(
        self,
        change: impl FnOnce(TcpStream) -> io::Result<TcpStream>,
    ) -> io::Result<Self> {
        Ok(Self {
            tcp: change(self.tcp)?,
            ..self
        })
    }

    /// Says that nothing more comes, if the socket takes it at once: the client need not suspect that somebody has cut
    /// the connection (RFC 8446 section 6.1).
    pub(in crate::frontend) fn say_goodbye(&mut self) {
        if self.outgoing.is_empty() && !self.queue_goodbye() {
            return;
        }
        // Whoever does not take it has left, or is not reading.
        self.tcp.try_write(&self.outgoing).unwrap_or_default();
    }

    /// Whether there is a goodbye that was not said before.
    fn queue_goodbye(&mut self) -> bool {
        if std::mem::replace(&mut self.has_said_goodbye, true) || self.session.is_handshaking() {
            return false;
        }
        let mut room = [0; GOODBYE];
        let (turn, failed) = turn(
            &mut self.session,
            &mut self.incoming,
            |_late| {},
            Say::Goodbye,
            &mut room,
        );
        self.incoming.drain(..turn.done);
        let (goodbye, _) = room.split_at(turn.said);
        self.queue(&turn.ours);
        self.queue(goodbye);
        failed.is_ok()
    }

    /// Takes what the socket has, and gives as much of it as there is room for. Ready when something has come, be it
    /// nothing for the reader.
    fn poll_take_in(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        SCRATCH.with_borrow_mut(|Scratch { ciphertext, .. }| {
            let had = self.incoming.len();
            let Some(room) = ciphertext.get_mut(..had + READ) else {
                return Poll::Ready(Err(too_long()));
            };
            let (before, room) = room.split_at_mut(had);
            before.copy_from_slice(&self.incoming);
            let mut read = ReadBuf::new(room);
            ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut read))?;
            let read = read.filled().len();
            if read == 0 {
                self.has_ended = true;
                return Poll::Ready(Ok(()));
            }
            let (input, _) = ciphertext.split_at_mut(had + read);
            let (turn, outcome) = turn(
                &mut self.session,
                input,
                |plaintext| {
                    let (given, rest) = plaintext.split_at(plaintext.len().min(buf.remaining()));
                    buf.put_slice(given);
                    append(&mut self.plaintext, rest);
                },
                Say::Nothing,
                &mut [],
            );
            let (_, rest) = input.split_at(turn.done);
            self.incoming = rest.to_vec();
            self.has_ended |= turn.has_ended;
            self.queue(&turn.ours);
            // Alerts, tickets and keys go without anybody's asking; what does not, goes with what is written next.
            let sent = self.poll_send(cx);
            outcome.map_err(broken)?;
            match sent {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
            }
        })
    }

    /// Takes in what was read before the session began.
    fn look_at_incoming(&mut self) -> io::Result<()> {
        let (turn, outcome) = turn(
            &mut self.session,
            &mut self.incoming,
            |plaintext| append(&mut self.plaintext, plaintext),
            Say::Nothing,
            &mut [],
        );
        self.incoming.drain(..turn.done);
        self.has_ended |= turn.has_ended;
        self.queue(&turn.ours);
        outcome.map_err(broken)
    }

    /// Encrypts and sends; what the socket does not take at once is kept. Gives how much was taken of `data`.
    fn poll_say(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
        ciphertext: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let (data, _) = data.split_at(data.len().min(WRITE));
        let (turn, outcome) = turn(
            &mut self.session,
            &mut self.incoming,
            |plaintext| append(&mut self.plaintext, plaintext),
            Say::Data(data),
            ciphertext,
        );
        self.incoming.drain(..turn.done);
        self.has_ended |= turn.has_ended;
        outcome.map_err(broken)?;
        let (said, _) = ciphertext.split_at(turn.said);
        if turn.ours.is_empty() {
            let sent = match Pin::new(&mut self.tcp).poll_write(cx, said) {
                Poll::Ready(sent) => sent?,
                Poll::Pending => 0,
            };
            let (_, rest) = said.split_at(sent);
            self.queue(rest);
        } else {
            self.queue(&turn.ours);
            self.queue(said);
            if let Poll::Ready(Err(error)) = self.poll_send(cx) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(data.len()))
    }

    fn queue(&mut self, bytes: &[u8]) {
        append(&mut self.outgoing, bytes);
    }

    /// Sends what waits.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.outgoing.has_remaining() {
            let sent = ready!(Pin::new(&mut self.tcp).poll_write(cx, &self.outgoing))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.advance(sent);
        }
        self.outgoing = Bytes::new();
        Poll::Ready(Ok(()))
    }
}

/// Room for an alert as a record.
const GOODBYE: usize = 128;

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.remaining();
        loop {
            if this.plaintext.has_remaining() {
                let given = this.plaintext.len().min(buf.remaining());
                buf.put_slice(&this.plaintext.split_to(given));
                if !this.plaintext.has_remaining() {
                    this.plaintext = Bytes::new();
                }
            }
            // A connection that ends without a goodbye is taken for ended too: every HTTP message says itself where it
            // ends.
            if buf.remaining() < before || before == 0 || this.has_ended {
                return Poll::Ready(Ok(()));
            }
            ready!(this.poll_take_in(cx, buf))?;
        }
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx))?;
        SCRATCH.with_borrow_mut(|scratch| self.poll_say(cx, data, &mut scratch.ciphertext))
    }

    /// Small pieces become one record.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx))?;
        let mut some = pieces.iter().filter(|piece| !piece.is_empty());
        let first = some.next();
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch {
                ciphertext,
                plaintext,
            } = scratch;
            if some.next().is_none() {
                let only = first.map_or(&[][..], |piece| piece);
                return self.poll_say(cx, only, ciphertext);
            }
            let mut room = ReadBuf::new(plaintext);
            for piece in pieces {
                let (fits, _) = piece.split_at(piece.len().min(room.remaining()));
                room.put_slice(fits);
            }
            self.poll_say(cx, room.filled(), ciphertext)
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.queue_goodbye();
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// What is said when the session has no more to say by itself.
#[derive(Clone, Copy)]
enum Say<'a> {
    Nothing,
    Data(&'a [u8]),
    Goodbye,
}

/// What a turn of the session has brought.
#[derive(Default)]
struct Turn {
    /// Records the session sends by itself: handshake, tickets, alerts, keys.
    ours: Vec<u8>,
    /// The client has said that nothing more comes.
    has_ended: bool,
    /// How much of the input is done with.
    done: usize,
    /// How much was written to `room`.
    said: usize,
}

/// Lets the session look at `input` until it wants more; it says what it has to, and then `say`, encrypted into `room`.
///
/// All of what has come and is not done with has to be in `input` each time: the session remembers places in it.
fn turn(
    session: &mut UnbufferedServerConnection,
    input: &mut [u8],
    mut take: impl FnMut(&[u8]),
    say: Say<'_>,
    room: &mut [u8],
) -> (Turn, Result<(), rustls::Error>) {
    let mut turn = Turn::default();
    let mut failed = None;
    loop {
        let (_, rest) = input.split_at_mut(turn.done);
        let UnbufferedStatus { mut discard, state } = session.process_tls_records(rest);
        let goes_on = match state {
            // Once more: it has an alert to send.
            Err(error) if failed.is_none() => {
                failed = Some(error);
                true
            }
            Err(_same) => false,
            Ok(ConnectionState::ReadTraffic(mut records)) => {
                while let Some(record) = records.next_record() {
                    match record {
                        Ok(record) => {
                            take(record.payload);
                            discard += record.discard;
                        }
                        Err(error) => failed = Some(error),
                    }
                }
                failed.is_none()
            }
            Ok(ConnectionState::EncodeTlsData(record)) => {
                encode(record, &mut turn.ours);
                true
            }
            Ok(ConnectionState::TransmitTlsData(sent)) => {
                sent.done();
                true
            }
            Ok(ConnectionState::PeerClosed) => {
                turn.has_ended = true;
                true
            }
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                let said = match say {
                    Say::Nothing => Ok(0),
                    Say::Data(data) => traffic.encrypt(data, room),
                    Say::Goodbye => traffic.queue_close_notify(room),
                };
                match said {
                    Ok(said) => turn.said = said,
                    Err(error) => failed = Some(rustls::Error::General(error.to_string())),
                }
                false
            }
            Ok(ConnectionState::Closed | ConnectionState::BlockedHandshake) => false,
            // Early data is not offered.
            Ok(_) => {
                failed = Some(rustls::Error::General("unexpected state".to_owned()));
                false
            }
        };
        turn.done += discard;
        if !goes_on {
            return (turn, failed.map_or(Ok(()), Err));
        }
    }
}

fn encode(mut record: EncodeTlsData<'_, ServerConnectionData>, ours: &mut Vec<u8>) {
    let sized = record.encode(&mut []);
    let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = sized else {
        return;
    };
    let start = ours.len();
    ours.resize(start + required_size, 0);
    let (_, room) = ours.split_at_mut(start);
    let written = record.encode(room);
    debug_assert_eq!(
        written.ok(),
        Some(required_size),
        "there is as much room as it asked for"
    );
}

fn append(bytes: &mut Bytes, more: &[u8]) {
    if more.is_empty() {
        return;
    }
    *bytes = if bytes.is_empty() {
        Bytes::copy_from_slice(more)
    } else {
        [bytes, more].concat().into()
    };
}

fn broken(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn too_long() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "a handshake message is too long",
    )
}
