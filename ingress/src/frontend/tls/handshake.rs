//! The beginning of a TLS connection: bounded, counted, and with the configuration that the client's name asks for.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use bytes::Bytes;
use rustls::server::Acceptor;
use rustls::{AlertDescription, Error, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tracing::debug;

use super::{CHOSEN, Certificates, Compiled, Security, TlsStream};
use crate::frontend::connection::{Patience, Peer};

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeEnd {
    /// The connection is secured.
    Done,
    /// It took too long, or the drain came.
    TimedOut,
    /// The client went away.
    Gone,
    /// What the client sent is not TLS.
    NotTls,
    /// There is no certificate for the name.
    NoCertificate,
    /// The client did not accept ours, or broke off with another alert.
    Alert,
    /// The client had to show a certificate and showed none, or none that is accepted.
    ClientCertificate,
    /// No version, cipher or protocol in common, or a breach of the rules.
    Protocol,
}

impl HandshakeEnd {
    /// All of them, for metrics.
    pub const ALL: [Self; 8] = [
        Self::Done,
        Self::TimedOut,
        Self::Gone,
        Self::NotTls,
        Self::NoCertificate,
        Self::Alert,
        Self::ClientCertificate,
        Self::Protocol,
    ];

    /// As a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::TimedOut => "timed_out",
            Self::Gone => "gone",
            Self::NotTls => "not_tls",
            Self::NoCertificate => "no_certificate",
            Self::Alert => "alert",
            Self::ClientCertificate => "client_certificate",
            Self::Protocol => "protocol",
        }
    }

    fn of(error: &io::Error) -> Self {
        let Some(error) = error.get_ref() else {
            return Self::Gone;
        };
        let Some(error) = error.downcast_ref::<Error>() else {
            return Self::Protocol;
        };
        match error {
            Error::InvalidCertificate(_) | Error::NoCertificatesPresented => {
                Self::ClientCertificate
            }
            Error::AlertReceived(
                AlertDescription::CloseNotify | AlertDescription::UserCanceled,
            ) => Self::Gone,
            Error::AlertReceived(_) => Self::Alert,
            Error::General(reason) if reason == NO_CERTIFICATE => Self::NoCertificate,
            _ => Self::Protocol,
        }
    }
}

/// What rustls says when nobody has a certificate.
const NO_CERTIFICATE: &str = "no server certificate chain resolved";

/// How many handshakes have ended how.
#[derive(Debug, Default)]
pub struct Handshakes {
    ended: [AtomicU64; HandshakeEnd::ALL.len()],
    resumed: AtomicU64,
}

impl Handshakes {
    fn count(&self, end: HandshakeEnd) {
        let at = HandshakeEnd::ALL.iter().position(|one| *one == end);
        if let Some(count) = at.and_then(|at| self.ended.get(at)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn resumed(&self) {
        self.resumed.fetch_add(1, Ordering::Relaxed);
    }

    /// How many of those that are done have resumed a session.
    pub fn resumptions(&self) -> u64 {
        self.resumed.load(Ordering::Relaxed)
    }

    /// Each way to end, and how often it has been.
    pub fn counts(&self) -> impl Iterator<Item = (HandshakeEnd, u64)> {
        let counts = self.ended.iter().map(|count| count.load(Ordering::Relaxed));
        HandshakeEnd::ALL.into_iter().zip(counts)
    }
}

/// A secured connection.
pub(in crate::frontend) struct Greeted {
    pub(in crate::frontend) stream: Box<TlsStream>,
    pub(in crate::frontend) security: Security,
    pub(in crate::frontend) protocol: Agreed,
}

/// The protocol agreed on in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::frontend) enum Agreed {
    /// HTTP/1, or nothing: the client's first bytes tell.
    Open,
    /// HTTP/2.
    Http2,
}

/// Does the handshake. `None`: it failed, and is counted. `before` is what has been read of it already.
pub(in crate::frontend) async fn handshake(
    peer: &Peer,
    certificates: &Certificates,
    tcp: TcpStream,
    before: Bytes,
) -> Option<Greeted> {
    let done = Box::pin(greet(peer, certificates, tcp, before)).await;
    let end = match &done {
        Ok(_) => HandshakeEnd::Done,
        Err(end) => *end,
    };
    certificates.handshakes().count(end);
    done.ok()
}

async fn greet(
    peer: &Peer,
    certificates: &Certificates,
    mut tcp: TcpStream,
    before: Bytes,
) -> Result<Greeted, HandshakeEnd> {
    let mut patience = Patience::new(peer, peer.worker.limits.tls_handshake);
    let compiled = certificates.load();
    let mut hello = before.to_vec();
    let config = {
        let choosing = choose(&mut tcp, &mut hello, &compiled);
        within(peer, &mut patience, choosing).await?
    };
    let config = match config {
        Ok(config) => config,
        Err(end) => {
            if end == HandshakeEnd::NotTls {
                let said = within(peer, &mut patience, tcp.write_all(PLAIN_ON_TLS)).await;
                debug!(client = %peer.address, told = said.is_ok(), "not TLS");
            }
            return Err(end);
        }
    };
    let mut stream = TlsStream::new(tcp, &hello, config)
        .map(Box::new)
        .map_err(|_unusable| HandshakeEnd::Protocol)?;
    drop(hello);
    let mut chosen = None;
    let done = poll_fn(|cx| {
        let done = stream.poll_handshake(cx);
        if let Some(secured) = CHOSEN.take() {
            chosen = Some(secured);
        }
        if done.is_ready() {
            return done;
        }
        let over = patience.poll_over(peer, cx);
        over.map(|()| Err(io::ErrorKind::TimedOut.into()))
    })
    .await;
    if let Err(error) = done {
        debug!(client = %peer.address, %error, "TLS handshake failed");
        if error.kind() == io::ErrorKind::TimedOut && error.get_ref().is_none() {
            return Err(HandshakeEnd::TimedOut);
        }
        return Err(HandshakeEnd::of(&error));
    }
    let protocol = match stream.protocol() {
        Some(b"h2") => Agreed::Http2,
        _ => Agreed::Open,
    };
    let secured = chosen.ok_or(HandshakeEnd::NoCertificate)?;
    if stream.is_resumed() {
        certificates.handshakes().resumed();
    }
    Ok(Greeted {
        security: Security::new(certificates.clone(), secured, &stream),
        stream,
        protocol,
    })
}

/// What is said to a client that takes the port for one of plain HTTP.
const PLAIN_ON_TLS: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
    connection: close\r\ncontent-length: 26\r\n\r\nthis port speaks https only";

/// Waits for something no longer than there is patience.
async fn within<T>(
    peer: &Peer,
    patience: &mut Patience,
    waited_for: impl Future<Output = T>,
) -> Result<T, HandshakeEnd> {
    let mut waited_for = std::pin::pin!(waited_for);
    poll_fn(|cx| {
        if let Poll::Ready(done) = waited_for.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        let over = patience.poll_over(peer, cx);
        over.map(|()| Err(HandshakeEnd::TimedOut))
    })
    .await
}

/// Which configuration a handshake takes. What has been read for it is in `hello` then.
///
/// Where no host wants certificates of its clients there is nothing to choose, and the name is not looked at here.
async fn choose(
    tcp: &mut TcpStream,
    hello: &mut Vec<u8>,
    compiled: &Compiled,
) -> Result<Arc<ServerConfig>, HandshakeEnd> {
    let open = compiled.open.as_ref().ok_or(HandshakeEnd::NoCertificate)?;
    if hello.is_empty() {
        read(tcp, hello).await?;
    }
    if hello.first() != Some(&HANDSHAKE) {
        return Err(HandshakeEnd::NotTls);
    }
    if compiled.closed.is_empty() {
        return Ok(Arc::clone(open));
    }
    let mut acceptor = Acceptor::default();
    let mut seen = 0;
    loop {
        let mut new = hello.get(seen..).unwrap_or_default();
        while !new.is_empty() {
            acceptor
                .read_tls(&mut new)
                .map_err(|_| HandshakeEnd::Protocol)?;
        }
        seen = hello.len();
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let name = accepted
                    .client_hello()
                    .server_name()
                    .map(str::to_ascii_lowercase);
                let ca = name.and_then(|name| compiled.snapshot.client_ca(&name).cloned());
                let closed = ca.and_then(|ca| compiled.closed(&ca));
                return Ok(Arc::clone(closed.unwrap_or(open)));
            }
            Ok(None) => read(tcp, hello).await?,
            // The session proper finds the same, and says it to the client.
            Err(_) => return Ok(Arc::clone(open)),
        }
    }
}

/// The first byte of a handshake record (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;

/// Reads more of the client's hello.
async fn read(tcp: &mut TcpStream, hello: &mut Vec<u8>) -> Result<(), HandshakeEnd> {
    if hello.len() > LONGEST_HELLO {
        return Err(HandshakeEnd::Protocol);
    }
    let mut room = [0; 2 * 1024];
    let read = tcp.read(&mut room).await.map_err(|_| HandshakeEnd::Gone)?;
    if read == 0 {
        return Err(HandshakeEnd::Gone);
    }
    let (read, _) = room.split_at(read);
    hello.extend_from_slice(read);
    Ok(())
}

/// The longest first message that is looked into.
const LONGEST_HELLO: usize = 32 * 1024;
