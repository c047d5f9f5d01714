//! The request log: which requests it tells of, and what.

use http::Request;
use parkway_ingress::proxy::request_log::Template;
use parkway_tests::http2::Http2;
use parkway_tests::{Raw, Upstream};

use crate::cluster::{Cluster, HOST, spec};

#[tokio::test]
async fn requests_to_a_revision_are_told_of_at_both_entrances_and_nothing_else_is() {
    let upstream = Upstream::answering("single").await;
    let cluster = Cluster::with(spec(), &[upstream.address()]).await;
    let name = "single-00001.fixtures.svc.cluster.local";
    let ask = async |address, lines: String, status| {
        let mut client = Raw::connect(address).await;
        client.send(format!("{lines}\r\n\r\n")).await;
        client.answer().await.expect(status);
    };
    // Before there is a template.
    let request = |host| format!("GET /early HTTP/1.1\r\nHost: {host}");
    ask(cluster.activator, request(name), 200).await;
    let template = "{{.Request.Method}} {{js .Request.RequestURI}} {{.Response.Code}} {{.Revision.Name}} \
        {{.Request.Proto}} {{.Request.Header.Get \"X-Id\"}}";
    cluster
        .request_log
        .publish(Some(Template::parse(template).unwrap()));

    let request = |host| format!("GET /a?b HTTP/1.1\r\nHost: {host}\r\nX-Id: 1");
    ask(cluster.activator, request(name), 200).await;
    ask(cluster.external, request(HOST), 200).await;
    let http2 = Http2::connect(cluster.activator, name).await;
    cluster.set_endpoints(&[]);
    let parked = http2
        .begin(Request::get("/parked").body(()).unwrap(), true)
        .await
        .unwrap();
    cluster.parked(1).await;
    drop((parked, http2));
    cluster.parked(0).await;
    for (host, field, status) in [
        (name, "User-Agent: kube-probe/1.36", 200),
        (name, "K-Network-Probe: activator", 200),
        ("other.fixtures.svc.cluster.local", "X-Id: 1", 404),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n{field}");
        ask(cluster.activator, request, status).await;
    }
    ask(cluster.external, request("unknown.example.com"), 404).await;

    let log = cluster.finish_and_read_log().await;

    let expected = [
        "GET /a?b 200 single-00001 HTTP/1.1 1",
        "GET /a?b 200 single-00001 HTTP/1.1 1",
        // Its client left before there was a status.
        "GET /parked 0 single-00001 HTTP/2.0 ",
    ];
    assert_eq!(log.lines().collect::<Vec<_>>(), expected);
}
