//! Which protocol an endpoint is spoken to by.

use http::{Request, Response, Version};
use parkway_activator::revision::RevisionSpec;
use parkway_tests::http2::Http2;
use parkway_tests::upstream::Connection;
use parkway_tests::{Raw, Upstream};

use crate::cluster::{Cluster, HOST, h2c, spec};

/// The first bytes of an HTTP/2 connection.
const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\n";

/// An endpoint that takes both, like queue-proxy, and says which it was.
async fn either() -> [Upstream; 2] {
    let http1 = Upstream::start(async |mut connection: Connection| {
        // The preface is no request.
        while let Ok(head) = connection.raw.try_until("\r\n\r\n").await {
            assert_ne!(head, PREFACE, "HTTP/2 where HTTP/1.1 was expected");
            if head.contains("upgrade: websocket") {
                let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
                connection.send(switch).await;
                let echo = connection.raw.exactly(4).await;
                connection.send(echo).await;
                return;
            }
            connection.answer("HTTP/1.1").await;
        }
    })
    .await;
    let http2 = Upstream::http2(async |request, mut respond| {
        let fields = request.headers();
        assert_eq!(
            fields["k-original-host"].as_bytes(),
            fields["x-expected-host"].as_bytes()
        );
        assert_eq!(fields["k-proxy-request"], "activator");
        assert!(!fields.contains_key("knative-serving-revision"));
        assert!(!fields.contains_key("host"));
        let authority = request.uri().authority().unwrap().to_string();
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data(format!("HTTP/2 {authority}").into(), true)
            .unwrap();
    })
    .await;
    [http1, http2]
}

struct Case {
    spec: RevisionSpec,
    is_gateway: bool,
    client: Version,
    endpoint: Version,
}

#[tokio::test]
async fn the_activator_speaks_as_its_client_does_and_the_gateway_as_the_revision_does() {
    let [http1, http2] = either().await;
    let (one, two) = (Version::HTTP_11, Version::HTTP_2);
    let case = |spec, is_gateway, client, endpoint| Case {
        spec,
        is_gateway,
        client,
        endpoint,
    };
    for case in [
        case(spec(), false, one, one),
        case(h2c(), false, one, one),
        case(spec(), false, two, two),
        case(h2c(), false, two, two),
        case(spec(), true, one, one),
        case(h2c(), true, one, two),
        case(spec(), true, two, one),
        case(h2c(), true, two, two),
    ] {
        let address = if case.endpoint == two { &http2 } else { &http1 }.address();
        let cluster = Cluster::with(case.spec, &[address]).await;
        let (entrance, host) = if case.is_gateway {
            (cluster.external, HOST)
        } else {
            (cluster.activator, "single-00001.fixtures.svc.cluster.local")
        };
        let answer = if case.client == two {
            let request = Request::get("/").header("x-expected-host", host);
            let client = Http2::connect(entrance, host).await;
            client.send(request.body("".into()).unwrap()).await
        } else {
            let mut client = Raw::connect(entrance).await;
            let request =
                format!("GET / HTTP/1.1\r\nHost: {host}\r\nX-Expected-Host: {host}\r\n\r\n");
            client.send(request).await;
            client.answer().await
        };
        let expected = if case.endpoint == two {
            format!("HTTP/2 {address}")
        } else {
            "HTTP/1.1".to_owned()
        };
        assert_eq!(
            answer.expect(200).text(),
            expected,
            "gateway: {}",
            case.is_gateway
        );
        cluster.finish().await;
    }
}

#[tokio::test]
async fn an_upgrade_is_asked_for_by_http1_whatever_the_revision_speaks() {
    let [http1, _] = either().await;
    for spec in [spec(), h2c()] {
        let cluster = Cluster::with(spec, &[http1.address()]).await;
        let by_name = "single-00001.fixtures.svc.cluster.local";
        for (entrance, host) in [(cluster.external, HOST), (cluster.activator, by_name)] {
            let mut client = Raw::connect(entrance).await;
            let request = format!(
                "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            );
            client.send(request).await;
            let head = client.head().await;
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            client.send("ping").await;
            assert_eq!(&client.exactly(4).await[..], b"ping");
        }
        cluster.finish().await;
    }
}

#[tokio::test]
async fn a_tunnel_is_the_endpoints_to_end() {
    // queue-proxy ends one by its own timers, which count from the beginning although bytes pass.
    let [http1, _] = either().await;
    let cluster = Cluster::with(spec(), &[http1.address()]).await;
    let mut client = Raw::connect(cluster.external).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    client
        .send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{upgrade}ping"))
        .await;
    client.head().await;

    assert_eq!(&client.rest().await[..], b"ping");
    drop(client);
    cluster.finish().await;
}
