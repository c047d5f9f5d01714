//! Ordinary requests: what the endpoint gets of a recorded request, beside what queue-proxy got of it.

use parkway_tests::upstream::Connection;
use parkway_tests::{Raw, Upstream};
use tokio::sync::mpsc;

use crate::cluster::{Cluster, spec};
use crate::recording::{Exchange, Message, exchanges};

/// An endpoint that tells what it gets, byte for byte, and answers with these bytes.
async fn telling(response: Vec<u8>) -> (Upstream, mpsc::Receiver<Message>) {
    let (tell, told) = mpsc::channel(16);
    let upstream = Upstream::start(move |mut connection: Connection| {
        let (tell, response) = (tell.clone(), response.clone());
        async move {
            while let Ok(head) = connection.raw.try_until("\r\n\r\n").await {
                tell.send(Message::parse(head.as_bytes())).await.unwrap();
                connection.send(&response).await;
            }
        }
    })
    .await;
    (upstream, told)
}

/// Reads an answer as long as this one.
async fn read(client: &mut Raw, like: &Message) -> Message {
    let mut answer = client.head().await.into_bytes();
    answer.extend(client.exactly(like.body.len()).await);
    Message::parse(&answer)
}

/// The exchange of `leg` that carries the request that `request` is.
fn same_request(leg: &[Exchange], request: &Message) -> Exchange {
    let id = request.field("x-request-id");
    let is_same = |other: &&Exchange| {
        let other = Message::parse(&other.request);
        other
            .fields
            .get("x-request-id")
            .is_some_and(|it| it == &[id])
            && other.fields.contains_key("k-proxy-request")
    };
    leg.iter().find(is_same).unwrap().clone()
}

/// What we send on is what the activator sent on, but for the addresses of this machine.
fn is_sent_on_as_recorded(sent: &Message, recorded: &Exchange, upstream: &Upstream) {
    let recorded = Message::parse(&recorded.request)
        .with("host", &upstream.address().to_string())
        .with("x-forwarded-for", "127.0.0.1");
    assert_eq!(*sent, recorded);
}

#[tokio::test]
async fn a_warm_request_at_the_activator_is_sent_on_and_answered_as_recorded() {
    let second_leg = exchanges("requests/activator-to-queue-proxy-warm.json");
    let first_leg = exchanges("requests/gateway-to-activator-warm.json");
    assert_eq!(first_leg.len(), 2);
    for exchange in first_leg {
        let recorded = same_request(&second_leg, &Message::parse(&exchange.request));
        let (upstream, mut told) = telling(recorded.response.clone()).await;
        let cluster = Cluster::with(spec(), &[upstream.address()]).await;
        let mut client = Raw::connect(cluster.activator).await;
        client.send(&exchange.request).await;

        let answer = read(&mut client, &Message::parse(&exchange.response)).await;

        is_sent_on_as_recorded(&told.recv().await.unwrap(), &recorded, &upstream);
        assert_eq!(answer, Message::parse(&exchange.response));
        cluster.finish().await;
    }
}

#[tokio::test]
async fn a_cold_request_at_the_activator_waits_for_an_endpoint_and_is_sent_on_as_recorded() {
    let exchanges = exchanges("requests/cold-start-at-activator.json");
    let is_request = |it: &&Exchange| it.to == "activator" && it.request.starts_with(b"GET / ");
    let exchange = exchanges.iter().find(is_request).unwrap();
    let recorded = same_request(&exchanges, &Message::parse(&exchange.request));
    let (upstream, mut told) = telling(recorded.response.clone()).await;
    let cluster = Cluster::with(spec(), &[]).await;
    let mut client = Raw::connect(cluster.activator).await;
    client.send(&exchange.request).await;
    cluster.parked(1).await;

    cluster.set_endpoints(&[upstream.address()]);

    let answer = read(&mut client, &Message::parse(&exchange.response)).await;
    is_sent_on_as_recorded(&told.recv().await.unwrap(), &recorded, &upstream);
    assert_eq!(answer, Message::parse(&exchange.response));
    assert_eq!(cluster.state().counters.cold_starts, 1);
    cluster.finish().await;
}

#[tokio::test]
async fn a_cold_request_at_the_gateway_reaches_queue_proxy_as_if_it_had_passed_both() {
    let at_gateway = exchanges("requests/cold-start-at-gateway.json").remove(0);
    let at_activator = exchanges("requests/cold-start-at-activator.json");
    let is_on_its_way = |it: &&Exchange| {
        Message::parse(&it.request)
            .fields
            .contains_key("k-proxy-request")
    };
    let recorded = at_activator.iter().find(is_on_its_way).unwrap();
    let (upstream, mut told) = telling(recorded.response.clone()).await;
    let cluster = Cluster::with(spec(), &[]).await;
    let mut client = Raw::connect(cluster.external).await;
    client.send(&at_gateway.request).await;
    cluster.parked(1).await;

    cluster.set_endpoints(&[upstream.address()]);

    let host = "single.fixtures.example.com";
    let expected = Message::parse(&recorded.request)
        .with("host", &upstream.address().to_string())
        // There is one hop less, and the first says what it knows of the client.
        .with("x-forwarded-for", "127.0.0.1")
        .and("x-forwarded-host", host)
        .and(
            "forwarded",
            &format!("for=127.0.0.1;host={host};proto=http"),
        )
        // Envoy's own.
        .without("x-request-id");
    let answered = Message::parse(&at_gateway.response)
        .without("x-envoy-upstream-service-time")
        .without("server");
    let answer = read(&mut client, &answered).await;
    assert_eq!(told.recv().await.unwrap(), expected);
    assert_eq!(answer, answered);
    cluster.finish().await;
}

#[tokio::test]
async fn what_outsiders_say_in_the_activators_place_is_not_passed_on_by_the_gateway() {
    let (upstream, mut told) =
        telling(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into()).await;
    let cluster = Cluster::with(spec(), &[upstream.address()]).await;
    let mut client = Raw::connect(cluster.external).await;
    let request = "GET / HTTP/1.1\r\nHost: single.fixtures.example.com\r\nK-Proxy-Request: no\r\n\
        K-Original-Host: forged\r\nK-Kubelet-Probe: x\r\nKnative-Serving-Revision: other\r\n\
        Knative-Serving-Namespace: other\r\nK-Passthrough-Lb: true\r\n\r\n";
    client.send(request).await;
    client.answer().await.expect(200);

    let sent = told.recv().await.unwrap();

    assert_eq!(sent.field("k-proxy-request"), "activator");
    assert_eq!(sent.field("k-original-host"), "single.fixtures.example.com");
    for gone in [
        "k-kubelet-probe",
        "k-passthrough-lb",
        "knative-serving-revision",
        "knative-serving-namespace",
    ] {
        assert!(!sent.fields.contains_key(gone), "{gone}");
    }
    cluster.finish().await;
}

#[tokio::test]
async fn what_a_domain_mapping_said_of_the_host_stays_and_a_hash_goes() {
    let (upstream, mut told) =
        telling(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into()).await;
    let cluster = Cluster::with(spec(), &[upstream.address()]).await;
    let mut client = Raw::connect(cluster.activator).await;
    let request = "GET //a//b?c HTTP/1.1\r\nHost: single.fixtures.svc.cluster.local\r\n\
        K-Original-Host: shop.example.org\r\nK-Network-Hash: 3f2a\r\nX-Forwarded-For: 192.0.2.1\r\n\
        X-Forwarded-For: 192.0.2.2\r\nForwarded: for=192.0.2.1\r\nKnative-Serving-Tag: t\r\n\
        Knative-Serving-Default-Route: true\r\nTE: trailers\r\n\
        Knative-Serving-Namespace: fixtures\r\nKnative-Serving-Revision: single-00001\r\n\r\n";
    client.send(request).await;
    client.answer().await.expect(200);

    let expected = format!(
        "GET //a//b?c HTTP/1.1\r\nHost: {}\r\nK-Original-Host: shop.example.org\r\n\
         K-Proxy-Request: activator\r\nX-Forwarded-For: 192.0.2.1, 192.0.2.2, 127.0.0.1\r\n\
         Forwarded: for=192.0.2.1\r\nKnative-Serving-Tag: t\r\nKnative-Serving-Default-Route: true\r\n\
         TE: trailers\r\n\r\n",
        upstream.address()
    );
    assert_eq!(
        told.recv().await.unwrap(),
        Message::parse(expected.as_bytes())
    );
    cluster.finish().await;
}

#[tokio::test]
async fn both_entrances_wait_for_the_same_slots_and_are_counted_together() {
    let upstream = Upstream::start(async |mut connection: Connection| {
        while connection.request().await.is_some() {
            connection.step().await;
            connection.answer("done").await;
        }
    })
    .await;
    let one_at_once = crate::cluster::limited(1, 60_000);
    let cluster = Cluster::with(one_at_once, &[upstream.address()]).await;
    let by_name = "GET / HTTP/1.1\r\nHost: single-00001.fixtures.svc.cluster.local\r\n\r\n";
    let by_rule = "GET / HTTP/1.1\r\nHost: single.fixtures.example.com\r\n\r\n";
    let mut first = Raw::connect(cluster.external).await;
    first.send(by_rule).await;
    parkway_tests::eventually("the first request", async || {
        (cluster.state().in_flight == 1).then_some(())
    })
    .await;
    let mut second = Raw::connect(cluster.activator).await;
    second.send(by_name).await;
    cluster.parked(1).await;
    parkway_tests::eventually("both to be counted", async || {
        let gauges = cluster.stats.gauges();
        let counted: u64 = gauges.iter().map(|(_, count, _)| count).sum();
        (counted == 2).then_some(())
    })
    .await;

    upstream.go_on();
    first.answer().await.expect(200);
    upstream.go_on();
    second.answer().await.expect(200);

    assert_eq!(upstream.connections(), 1);
    cluster.finish().await;
}
