//! The pool against endpoints on loopback, each a task of the same thread.

use std::future::Future;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use futures::poll;
use http::{Request, Response};
use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::RevisionId;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::{Instant, timeout};

use super::Pool;
use crate::config::Limits;

/// Generous: it only ends a test that would hang.
const DEADLINE: Duration = Duration::from_secs(20);

async fn on_one_worker(test: impl Future<Output = ()>) {
    timeout(DEADLINE, LocalSet::new().run_until(test))
        .await
        .expect("the test hangs");
}

/// Whose endpoints these are.
static SHOP: LazyLock<RevisionId> = LazyLock::new(|| RevisionId::new("default", "shop-00001"));

fn pool(limits: Limits) -> Rc<Pool> {
    Rc::new(Pool::new(Arc::new(limits), 1))
}

/// An endpoint by HTTP/2 that answers each request with `size` bytes.
struct Http2Endpoint {
    endpoint: Endpoint,
    /// Hears of each connection that has ended.
    ended: mpsc::Receiver<()>,
}

impl Http2Endpoint {
    async fn start(size: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::new(listener.local_addr().unwrap());
        let (tell, ended) = mpsc::channel(16);
        tokio::task::spawn_local(async move {
            while let Ok((stream, _client)) = listener.accept().await {
                let tell = tell.clone();
                tokio::task::spawn_local(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((_request, mut respond))) = connection.accept().await {
                        let mut body = respond.send_response(Response::new(()), false).unwrap();
                        body.send_data(vec![b'x'; size].into(), true).unwrap();
                    }
                    tell.send(()).await.unwrap_or_default();
                });
            }
        });
        Self { endpoint, ended }
    }
}

/// Sends one request and returns what is to be read.
async fn begin(pool: &Pool, endpoint: Endpoint) -> (super::Http2Lease, h2::RecvStream) {
    let lease = pool.http2(endpoint, &SHOP).await.unwrap();
    let mut sender = lease.sender().ready().await.unwrap();
    let request = Request::get("http://shop.example/").body(()).unwrap();
    let (response, _stream) = sender.send_request(request, true).unwrap();
    let body = response.await.unwrap().into_body();
    (lease, body)
}

async fn read(mut body: h2::RecvStream) -> usize {
    let mut total = 0;
    while let Some(piece) = body.data().await {
        let piece: Bytes = piece.unwrap();
        total += piece.len();
        body.flow_control().release_capacity(piece.len()).unwrap();
    }
    total
}

#[tokio::test]
async fn an_http2_connection_that_idles_too_long_is_closed_and_its_endpoint_forgotten() {
    on_one_worker(async {
        let limits = Limits::default();
        let past_idle = limits.upstream_idle + Duration::from_secs(1);
        let pool = pool(limits);
        let mut upstream = Http2Endpoint::start(10).await;
        let (lease, body) = begin(&pool, upstream.endpoint).await;
        assert_eq!(read(body).await, 10);

        pool.sweep(Instant::now() + past_idle);
        assert!(
            upstream.ended.try_recv().is_err(),
            "closed while a request was on it"
        );
        drop(lease);
        pool.sweep(Instant::now() + past_idle);

        upstream.ended.recv().await.unwrap();
        pool.sweep(Instant::now());
        assert!(pool.http2.borrow().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_retired_http2_connection_closes_with_its_last_request() {
    on_one_worker(async {
        let pool = pool(Limits::default());
        let mut upstream = Http2Endpoint::start(10).await;
        let (lease, body) = begin(&pool, upstream.endpoint).await;

        lease.retire();
        assert_eq!(read(body).await, 10);
        assert!(
            upstream.ended.try_recv().is_err(),
            "closed while a request was on it"
        );
        drop(lease);

        upstream.ended.recv().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn readers_that_do_not_read_hold_up_nobody_else_on_the_connection() {
    on_one_worker(async {
        let size = 200 * 1024;
        let pool = pool(Limits::default());
        let upstream = Http2Endpoint::start(size).await;
        let mut slow = Vec::new();
        for _ in 0..60 {
            slow.push(begin(&pool, upstream.endpoint).await);
        }

        let (lease, body) = begin(&pool, upstream.endpoint).await;
        assert!(
            Rc::ptr_eq(&lease.connection, &slow[0].0.connection),
            "another connection proves nothing"
        );
        assert_eq!(read(body).await, size);
    })
    .await;
}

/// Limits with one connection by HTTP/1 and one by HTTP/2, of one stream, to each endpoint.
fn one_at_a_time() -> Limits {
    Limits {
        endpoint_connections: 1,
        endpoint_connections_per_worker: 1,
        endpoint_h2_connections: 1,
        h2_streams: 1,
        ..Limits::default()
    }
}

/// An endpoint that accepts connections and says nothing.
async fn silent() -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::new(listener.local_addr().unwrap());
    tokio::task::spawn_local(async move {
        let mut accepted = Vec::new();
        while let Ok((stream, _client)) = listener.accept().await {
            accepted.push(stream);
        }
    });
    endpoint
}

/// A lease that is ready for its request.
async fn http1(pool: &Pool, endpoint: Endpoint) -> super::Http1Lease {
    pool.http1(endpoint, &SHOP).await.unwrap()
}

#[tokio::test]
async fn a_connection_goes_to_the_first_in_line_and_not_to_a_newcomer() {
    on_one_worker(async {
        let pool = pool(one_at_a_time());
        let endpoint = silent().await;
        let lease = http1(&pool, endpoint).await;
        let mut first = Box::pin(pool.http1(endpoint, &SHOP));
        let mut second = Box::pin(pool.http1(endpoint, &SHOP));
        assert!(poll!(&mut first).is_pending());
        assert!(poll!(&mut second).is_pending());

        lease.finish();
        let mut newcomer = Box::pin(pool.http1(endpoint, &SHOP));
        assert!(poll!(&mut newcomer).is_pending(), "it overtook");
        assert!(poll!(&mut second).is_pending(), "it overtook");

        let lease = first.await.unwrap();
        assert!(lease.is_reused());
        lease.finish();
        second.await.unwrap().finish();
        newcomer.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn the_right_to_open_a_connection_goes_to_the_first_in_line() {
    on_one_worker(async {
        let pool = pool(one_at_a_time());
        let endpoint = silent().await;
        let lease = http1(&pool, endpoint).await;
        let mut first = Box::pin(pool.http1(endpoint, &SHOP));
        let mut second = Box::pin(pool.http1(endpoint, &SHOP));
        assert!(poll!(&mut first).is_pending());
        assert!(poll!(&mut second).is_pending());

        drop(lease);
        let lease = first.await.unwrap();
        assert!(!lease.is_reused());
        assert!(poll!(&mut second).is_pending());
        assert_eq!(pool.open_http1(), 1);
    })
    .await;
}

#[tokio::test]
async fn one_that_leaves_the_line_is_passed_over() {
    on_one_worker(async {
        let pool = pool(one_at_a_time());
        let endpoint = silent().await;
        let lease = http1(&pool, endpoint).await;
        let mut leaver = Box::pin(pool.http1(endpoint, &SHOP));
        let mut stayer = Box::pin(pool.http1(endpoint, &SHOP));
        assert!(poll!(&mut leaver).is_pending());
        assert!(poll!(&mut stayer).is_pending());

        drop(leaver);
        lease.finish();

        assert!(stayer.await.unwrap().is_reused());
    })
    .await;
}

#[tokio::test]
async fn what_was_handed_to_one_that_leaves_goes_to_the_next() {
    on_one_worker(async {
        let pool = pool(one_at_a_time());
        let endpoint = silent().await;
        let lease = http1(&pool, endpoint).await;
        let mut leaver = Box::pin(pool.http1(endpoint, &SHOP));
        let mut stayer = Box::pin(pool.http1(endpoint, &SHOP));
        assert!(poll!(&mut leaver).is_pending());
        assert!(poll!(&mut stayer).is_pending());

        lease.finish();
        drop(leaver); // served, but never polled again

        let lease = stayer.await.unwrap();
        assert!(lease.is_reused());
        lease.finish();
        assert!(
            pool.http1(endpoint, &SHOP).await.unwrap().is_reused(),
            "it was lost"
        );
    })
    .await;
}

#[tokio::test]
async fn a_connection_on_which_something_came_unasked_or_that_was_closed_is_not_used_again() {
    for unasked in ["HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "\n", ""] {
        on_one_worker(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let endpoint = Endpoint::new(listener.local_addr().unwrap());
            let pool = pool(Limits::default());
            http1(&pool, endpoint).await.finish();
            let (mut accepted, _) = listener.accept().await.unwrap();
            let lease = http1(&pool, endpoint).await;
            assert!(lease.is_reused());
            lease.finish();

            accepted.write_all(unasked.as_bytes()).await.unwrap();
            let still_open = (!unasked.is_empty()).then_some(accepted);

            // Until the reactor has heard of it, nothing wrong is on the connection.
            loop {
                let lease = http1(&pool, endpoint).await;
                if !lease.is_reused() {
                    break;
                }
                lease.finish();
                tokio::task::yield_now().await;
            }
            assert_eq!(pool.open_http1(), 0, "the old one is counted still");
            drop(still_open);
        })
        .await;
    }
}

#[tokio::test]
async fn a_place_by_http2_goes_to_the_first_in_line_that_has_not_left() {
    on_one_worker(async {
        let pool = pool(one_at_a_time());
        let upstream = Http2Endpoint::start(10).await;
        let (lease, body) = begin(&pool, upstream.endpoint).await;
        read(body).await;
        let mut gone = Box::pin(pool.http2(upstream.endpoint, &SHOP));
        let mut leaver = Box::pin(pool.http2(upstream.endpoint, &SHOP));
        let mut stayer = Box::pin(pool.http2(upstream.endpoint, &SHOP));
        assert!(poll!(&mut gone).is_pending());
        assert!(poll!(&mut leaver).is_pending());
        assert!(poll!(&mut stayer).is_pending());

        drop(gone);
        drop(lease);
        let mut newcomer = Box::pin(pool.http2(upstream.endpoint, &SHOP));
        assert!(poll!(&mut newcomer).is_pending(), "it overtook");
        drop(leaver); // served, but never polled again

        let lease = stayer.await.unwrap();
        assert!(poll!(&mut newcomer).is_pending());
        lease.retire(); // the right to open another goes on as well
        newcomer.await.unwrap();
    })
    .await;
}

#[test]
fn each_worker_has_a_share_worth_having() {
    let limits = Limits::default();
    assert_eq!(limits.endpoint_share(4), 256);
    assert_eq!(limits.endpoint_share(64), 64);
}

#[tokio::test]
async fn those_who_wait_for_a_connection_by_http2_that_cannot_be_opened_are_told_at_once() {
    on_one_worker(async {
        let (endpoint, _full) = endpoint_that_takes_no_more();
        let pool = pool(Limits {
            connect: Duration::from_millis(100),
            ..Limits::default()
        });
        let mut first = std::pin::pin!(pool.http2(endpoint, &SHOP));
        let mut second = std::pin::pin!(pool.http2(endpoint, &SHOP));
        let mut third = std::pin::pin!(pool.http2(endpoint, &SHOP));
        assert!(poll!(&mut first).is_pending(), "connects");
        assert!(poll!(&mut second).is_pending(), "waits");
        assert!(poll!(&mut third).is_pending(), "waits");

        let failed = first.await.unwrap_err();

        assert!(failed.is_refusal(), "{failed}");
        for waited in [poll!(&mut second), poll!(&mut third)] {
            match waited {
                std::task::Poll::Ready(Err(error)) => assert!(error.is_refusal(), "{error}"),
                other => panic!("it has to find out by itself: {other:?}"),
            }
        }
    })
    .await;
}

/// A listener whose queue is full: who connects hears nothing.
fn endpoint_that_takes_no_more() -> (Endpoint, Vec<socket2::Socket>) {
    use socket2::{Domain, Socket, Type};
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = vec![listener];
    for _ in 0..4 {
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        // In progress, or taken into the queue: both fill it.
        drop(client.connect(&address));
        held.push(client);
    }
    (Endpoint::new(address.as_socket().unwrap()), held)
}
