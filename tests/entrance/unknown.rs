//! Requests at the activator's ports that name no Revision.

use http::Request;
use parkway_tests::Raw;
use parkway_tests::http2::Http2;

use crate::cluster::{Cluster, spec};
use crate::recording::Message;

/// What is answered by an activator that knows no such Revision.
fn not_found(name: &str) -> Message {
    let text = format!(
        "Error getting active endpoint: revision.serving.knative.dev \"{name}\" not found\n"
    );
    let length = text.len();
    let answer = format!(
        "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\n\
         X-Content-Type-Options: nosniff\r\nDate: now\r\nContent-Length: {length}\r\n\r\n{text}"
    );
    Message::parse(answer.as_bytes())
}

async fn read(client: &mut Raw) -> Message {
    let mut answer = client.head().await.into_bytes();
    let length = Message::parse(&answer)
        .field("content-length")
        .parse()
        .unwrap();
    answer.extend(client.exactly(length).await);
    Message::parse(&answer).with("date", "now")
}

#[tokio::test]
async fn a_revision_that_is_not_there_is_told_by_the_name_the_request_has_for_it() {
    let cluster = Cluster::with(spec(), &[]).await;
    let both = "Knative-Serving-Namespace: fixtures\r\nKnative-Serving-Revision: other-00001";
    let other_namespace =
        "Knative-Serving-Namespace: elsewhere\r\nKnative-Serving-Revision: single-00001";
    let half = "Knative-Serving-Revision: single-00001";
    for (host, field, name) in [
        ("a", both, "other-00001"),
        (
            "single-00001.fixtures.svc.cluster.local",
            both,
            "other-00001",
        ),
        ("a", other_namespace, "single-00001"),
        ("a", half, "single-00001"),
        ("other.fixtures.svc.cluster.local:80", "X-Any: x", "other"),
        ("single.fixtures.example.com", "X-Any: x", ""),
        ("single-00001.fixtures.svc.cluster.local.", "X-Any: x", ""),
    ] {
        let mut client = Raw::connect(cluster.activator).await;
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n{field}\r\n\r\n");
        client.send(&request).await;
        assert_eq!(read(&mut client).await, not_found(name), "{request}");
    }
    cluster.finish().await;
}

#[tokio::test]
async fn http_1_0_without_a_host_names_nothing() {
    let cluster = Cluster::with(spec(), &[]).await;
    let mut client = Raw::connect(cluster.activator).await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    let answer = Message::parse(&client.rest().await).with("date", "now");
    assert_eq!(answer.body, not_found("").body);
    assert_eq!(answer.first_line, "HTTP/1.0 404 Not Found");
    cluster.finish().await;
}

#[tokio::test]
async fn a_revision_that_is_deleted_while_requests_are_parked_is_told_like_one_that_never_was() {
    let mut cluster = Cluster::with(spec(), &[]).await;
    let host = "single-00001.fixtures.svc.cluster.local";
    let mut over_http1 = Raw::connect(cluster.activator).await;
    over_http1
        .send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"))
        .await;
    let over_http2 = Http2::connect(cluster.activator, host).await;
    let answer = over_http2
        .begin(Request::get("/").body(()).unwrap(), true)
        .await
        .unwrap();
    cluster.parked(2).await;

    cluster.remove_revision();

    assert_eq!(read(&mut over_http1).await, not_found("single-00001"));
    let answer = answer.answer().await.unwrap().expect(404);
    assert_eq!(answer.text(), not_found("single-00001").body);
    // And who asks afterwards hears the same.
    over_http1
        .send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"))
        .await;
    assert_eq!(read(&mut over_http1).await, not_found("single-00001"));
    cluster.finish().await;
}
