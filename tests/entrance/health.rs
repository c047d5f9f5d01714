//! Health fails before the drain begins, and in between everything is served.

use parkway_ingress::frontend::health::{HealthState, TERMINATING};
use parkway_tests::http1::Http1;
use parkway_tests::{Raw, Upstream, eventually};

use crate::cluster::{Cluster, HOST, spec};
use crate::recording::Message;

const KUBELET: &str = "GET / HTTP/1.1\r\nHost: 10.244.0.16:8012\r\nUser-Agent: kube-probe/1.36\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn from_sigterm_on_the_kubelet_is_told_so_and_requests_are_served_until_the_drain() {
    let upstream = Upstream::answering("single").await;
    let cluster = Cluster::with(spec(), &[upstream.address()]).await;
    let mut before =
        Http1::connect(cluster.activator, "single-00001.fixtures.svc.cluster.local").await;
    before
        .send(http::Request::get("/").body("".into()).unwrap())
        .await
        .expect(200);

    cluster
        .health
        .publish(HealthState::Unhealthy(TERMINATING.into()));

    let mut kubelet = Raw::connect(cluster.activator).await;
    kubelet.send(KUBELET).await;
    let answer = kubelet.rest().await;
    let expected = "HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain; charset=utf-8\r\n\
        X-Content-Type-Options: nosniff\r\nDate: now\r\nContent-Length: 30\r\nConnection: close\r\n\r\n\
        received SIGTERM from kubelet\n";
    assert_eq!(
        Message::parse(&answer).with("date", "now"),
        Message::parse(expected.as_bytes())
    );
    // On the connection that was there, and on new ones at both entrances.
    before
        .send(http::Request::get("/").body("".into()).unwrap())
        .await
        .expect(200);
    let by_name = "single-00001.fixtures.svc.cluster.local";
    for (address, host) in [(cluster.activator, by_name), (cluster.external, HOST)] {
        let mut new = Http1::connect(address, host).await;
        new.send(http::Request::get("/").body("".into()).unwrap())
            .await
            .expect(200);
    }

    cluster.drain.cancel();

    eventually("the entrance to be closed", async || {
        tokio::net::TcpStream::connect(cluster.activator)
            .await
            .err()
    })
    .await;
    cluster.finish().await;
}

#[tokio::test]
async fn the_kubelet_is_told_when_the_process_is_healthy_again() {
    let cluster = Cluster::with(spec(), &[]).await;
    for (state, status) in [
        (HealthState::Unhealthy("not yet".into()), "HTTP/1.1 500 "),
        (HealthState::Healthy, "HTTP/1.1 200 "),
    ] {
        cluster.health.publish(state);
        let mut kubelet = Raw::connect(cluster.activator).await;
        kubelet.send(KUBELET).await;
        let answer = kubelet.head().await;
        assert!(answer.starts_with(status), "{answer}");
    }
    cluster.finish().await;
}
