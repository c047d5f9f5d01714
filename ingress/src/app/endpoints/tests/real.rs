//! With sockets.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;

use super::*;
use crate::proxy::probe::Tcp;

const YES: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nqueue";

fn stage() -> (Throttler, ClusterEndpoints) {
    let throttler = Throttler::new(QueueLimits::default(), 1);
    throttler.upsert(&id(), spec(1), Parking::Allowed);
    let (endpoints, asking) =
        ClusterEndpoints::new(throttler.clone(), Tcp::default(), ProbeLimits::default());
    tokio::spawn(asking);
    (throttler, endpoints)
}

fn set(endpoints: &ClusterEndpoints, endpoint: Endpoint) {
    let pods = Pods {
        not_ready: vec![endpoint],
        trusts_early: true,
        ..Pods::default()
    };
    endpoints.set(&id(), &spec(1), &"shop-00001-private".into(), pods);
}

async fn asked(stream: &mut TcpStream) {
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        asked.push(stream.read_u8().await.unwrap());
    }
}

/// Waits for a request that is parked now to go.
async fn parked(throttler: &Throttler, parked: oneshot::Sender<()>) -> Permit {
    let worker = throttler.worker(0);
    let Admission::Parked(ticket) = worker.admit(&id(), Ask::default()) else {
        panic!("there is no endpoint yet");
    };
    parked.send(()).unwrap();
    let permit = async {
        tokio::select! {
            () = worker.run() => unreachable!("never ends"),
            permit = ticket => permit.unwrap(),
        }
    };
    tokio::time::timeout(30 * SECOND, permit).await.unwrap()
}

#[tokio::test]
async fn a_request_goes_when_the_queue_proxy_that_held_the_probe_says_yes() {
    let (throttler, endpoints) = stage();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::new(listener.local_addr().unwrap());
    set(&endpoints, endpoint);
    let (mut stream, _) = listener.accept().await.unwrap();
    asked(&mut stream).await;
    let (is_parked, when_parked) = oneshot::channel();
    let yes = async {
        when_parked.await.unwrap();
        let known = throttler.revision_state(&id()).unwrap().endpoints;
        assert!(known.is_empty(), "held");
        stream.write_all(YES).await.unwrap();
    };

    let (permit, ()) = tokio::join!(parked(&throttler, is_parked), yes);

    assert_eq!(permit.endpoint(), endpoint);
    assert_eq!(endpoints.state().asking, 0);
}

#[tokio::test]
async fn a_request_goes_when_somebody_listens_at_last_and_says_yes() {
    let (throttler, endpoints) = stage();
    // Its own, but nobody listens yet.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    set(&endpoints, Endpoint::new(address));
    let last = || endpoints.state().revisions[0].backends.pods[0].asked.last;
    while last() != Some(Outcome::Refused) {
        tokio::task::yield_now().await;
    }
    let (is_parked, when_parked) = oneshot::channel();
    let yes = async {
        when_parked.await.unwrap();
        let listener = socket.listen(16).unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        asked(&mut stream).await;
        stream.write_all(YES).await.unwrap();
    };

    let (permit, ()) = tokio::join!(parked(&throttler, is_parked), yes);

    assert_eq!(permit.endpoint(), Endpoint::new(address));
}
