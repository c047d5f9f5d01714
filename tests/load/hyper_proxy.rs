//! A minimal proxy of hyper, as a reference: its HTTP/1.1 server, and a pool of its client connections, last in, first
//! out. It adds `X-Forwarded-For` and drops no header, has no limits, no timeouts and no upgrades.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;
use http::{HeaderName, HeaderValue, Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::TlsAcceptor;

use crate::tls;

#[derive(Debug, Args)]
pub(crate) struct Hyper {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    to: SocketAddr,
    /// By TLS
    #[arg(long, requires = "certificate")]
    listen_tls: Option<SocketAddr>,
    /// The folder of its certificate
    #[arg(long)]
    certificate: Option<PathBuf>,
}

/// Serves until it is ended.
pub(crate) fn run(options: &Hyper) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, serve(options))
}

async fn serve(options: &Hyper) -> Result<()> {
    let pool = Rc::new(Pool {
        to: options.to,
        free: RefCell::default(),
    });
    let listener = TcpListener::bind(options.listen).await?;
    if let (Some(address), Some(folder)) = (options.listen_tls, &options.certificate) {
        let (acceptor, pool) = (tls::acceptor(folder)?, Rc::clone(&pool));
        let listener = TcpListener::bind(address).await?;
        spawn_local(async move { accept(listener, Some(acceptor), pool).await });
    }
    accept(listener, None, pool).await
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, pool: Rc<Pool>) -> Result<()> {
    loop {
        let (client, address) = listener.accept().await?;
        client.set_nodelay(true)?;
        let ip = HeaderValue::from_str(&address.ip().to_string())?;
        let (pool, tls) = (Rc::clone(&pool), tls.clone());
        spawn_local(async move {
            match tls {
                None => serve_one(client, ip, pool).await,
                Some(tls) => {
                    if let Ok(client) = tls.accept(client).await {
                        serve_one(client, ip, pool).await;
                    }
                }
            }
        });
    }
}

async fn serve_one(client: impl AsyncRead + AsyncWrite + Unpin, ip: HeaderValue, pool: Rc<Pool>) {
    let service = service_fn(move |request| forward(request, ip.clone(), Rc::clone(&pool)));
    // What breaks a connection is seen at both of its ends.
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(client), service)
        .await
        .ok();
}

async fn forward(
    mut request: Request<Incoming>,
    client: HeaderValue,
    pool: Rc<Pool>,
) -> Result<Response<Pooled>> {
    let name = HeaderName::from_static("x-forwarded-for");
    request.headers_mut().insert(name, client);
    let mut sender = pool.connection().await?;
    let answer = sender.send_request(request).await?;
    Ok(answer.map(|body| Pooled {
        body,
        sender: Some(sender),
        pool,
    }))
}

/// Connections to the endpoint.
#[derive(Debug)]
struct Pool {
    to: SocketAddr,
    free: RefCell<Vec<SendRequest<Incoming>>>,
}

impl Pool {
    async fn connection(&self) -> Result<SendRequest<Incoming>> {
        loop {
            let free = self.free.borrow_mut().pop();
            let Some(mut sender) = free else { break };
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let stream = TcpStream::connect(self.to).await.context("connecting")?;
        stream.set_nodelay(true)?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        spawn_local(async move {
            connection.await.ok();
        });
        Ok(sender)
    }
}

/// An answer's body, which gives its connection back at its end.
#[derive(Debug)]
struct Pooled {
    body: Incoming,
    sender: Option<SendRequest<Incoming>>,
    pool: Rc<Pool>,
}

impl Pooled {
    fn give_back(&mut self) {
        if let Some(sender) = self.sender.take() {
            self.pool.free.borrow_mut().push(sender);
        }
    }
}

impl Body for Pooled {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() || self.body.is_end_stream() {
            self.give_back();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if self.body.is_end_stream() {
            self.give_back();
        }
    }
}
