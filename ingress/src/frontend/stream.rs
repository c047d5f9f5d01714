//! A client's connection as bytes: the bare socket, or TLS on it.
//!
//! An enum rather than a type parameter: for plain text it costs a branch for each read and write, and the engines exist
//! once. What waits for a client waits on the socket either way.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::TcpStream;

use super::tls::TlsStream;
use crate::proxy::tunnel::Client;

/// A client's connection.
#[derive(Debug)]
pub(crate) enum ClientStream {
    /// Plain text.
    Plain(TcpStream),
    /// TLS; on the heap, so that plain connections need no memory for it.
    Tls(Box<TlsStream>),
}

impl ClientStream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.tcp(),
        }
    }

    /// Ready when there is something to read (`true`) or nothing more comes (`false`). Reads nothing.
    ///
    /// The system is asked rather than the reactor, whose word may be older than what has been read since.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<bool> {
        if let Self::Tls(tls) = self {
            if tls.has_plaintext() {
                return Poll::Ready(true);
            }
            if tls.has_ended() {
                return Poll::Ready(false);
            }
        }
        let mut first = [0; 1];
        let seen = ready!(self.tcp().poll_peek(cx, &mut ReadBuf::new(&mut first)));
        Poll::Ready(matches!(seen, Ok(1..)))
    }

    /// Reads what there is, up to the length of `room`; 0 is the end.
    pub(super) fn poll_read_some(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => loop {
                ready!(tcp.poll_read_ready(cx))?;
                match tcp.try_read(room) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return Poll::Ready(read),
                }
            },
            Self::Tls(tls) => {
                let mut read = ReadBuf::new(room);
                ready!(Pin::new(tls).poll_read(cx, &mut read))?;
                Poll::Ready(Ok(read.filled().len()))
            }
        }
    }

    /// Ready when the client has ended its sending side, without reading what it sent.
    ///
    /// Clears the socket's readiness on the way, so that the next event is a new one: use
    /// [`registered_anew`](Self::registered_anew) before reading again.
    pub(super) fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let tcp = self.tcp();
        loop {
            ready!(tcp.poll_read_ready(cx))?;
            // It is ready, so what it is ready for is told at once.
            let ready = tcp.ready(Interest::READABLE).now_or_never();
            if ready.transpose()?.is_some_and(Ready::is_read_closed) {
                return Poll::Ready(Ok(()));
            }
            let cleared: io::Result<()> =
                tcp.try_io(Interest::READABLE, || Err(io::ErrorKind::WouldBlock.into()));
            if let Err(error) = cleared
                && error.kind() != io::ErrorKind::WouldBlock
            {
                return Poll::Ready(Err(error));
            }
        }
    }

    /// The same, registered with the reactor again, which reports what is there to read as news.
    pub(super) fn registered_anew(self) -> io::Result<Self> {
        let anew = |tcp: TcpStream| TcpStream::from_std(tcp.into_std()?);
        Ok(match self {
            Self::Plain(tcp) => Self::Plain(anew(tcp)?),
            Self::Tls(tls) => Self::Tls(Box::new(tls.try_map(anew)?)),
        })
    }

    /// How many bytes have been written to it and wait for the socket.
    pub(super) fn unsent(&self) -> usize {
        match self {
            Self::Plain(_) => 0,
            Self::Tls(tls) => tls.unsent(),
        }
    }

    /// Ends it in order, as far as that takes no waiting: over TLS the client is told that nothing is missing.
    pub(super) fn close(self) {
        if let Self::Tls(mut tls) = self {
            tls.say_goodbye();
        }
    }
}

impl Client for ClientStream {}

impl AsyncRead for ClientStream {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ClientStream {
    #[inline]
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, data),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, data),
        }
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, pieces),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
