//! Connections by TLS: what is agreed, what is served, and that everything a connection can do it can do there too.

use std::sync::Arc;

use parkway_ingress::frontend::tls::HandshakeEnd;
use parkway_ingress::routing::tls::{Binding, ClientCa, ClientCertificate};
use parkway_tests::tls::{Authority, TlsClient};
use parkway_tests::upstream::Connection;
use parkway_tests::{Raw, Upstream, settled};
use rustls::version::{TLS12, TLS13};

use crate::cluster::{Cluster, HOST, binding, spec};

const GET: &str = "GET / HTTP/1.1\r\nhost: single.fixtures.example.com\r\n\r\n";

#[tokio::test]
async fn a_request_by_tls_is_served_and_its_endpoint_is_told() {
    let authority = Authority::new("all");
    for version in [&TLS12, &TLS13] {
        let upstream = Upstream::answering("it").await;
        let cluster = Cluster::with(spec(), &[upstream.address()]).await;
        cluster.certify(&[&authority.issue(&[HOST])]);
        let client = TlsClient::trusting(&authority).version(version);
        let mut raw = Raw::connect(client.tunnel(cluster.secure, HOST).await).await;

        for _ in 0..2 {
            raw.send(GET).await;
            let answer = raw.answer().await;
            assert_eq!(answer.status, 200);
            assert!(
                answer.text().contains(r#""x-forwarded-proto":["https"]"#),
                "{}",
                answer.text()
            );
        }

        drop(raw);
        cluster.finish().await;
    }
}

#[tokio::test]
async fn http2_is_agreed_on_in_the_handshake() {
    let authority = Authority::new("all");
    let upstream = Upstream::answering("it").await;
    let cluster = Cluster::with(spec(), &[upstream.address()]).await;
    cluster.certify(&[&authority.issue(&[HOST])]);
    let client = TlsClient::trusting(&authority);
    for (offered, agreed) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let stream = client.clone().protocols(offered);
        let stream = stream.connect(cluster.secure, HOST).await.unwrap();
        let protocol = stream.get_ref().1.alpn_protocol();
        assert_eq!(protocol, agreed.map(str::as_bytes));
    }
    let other = client.protocols(&["h3"]);
    let refused = other.connect(cluster.secure, HOST).await.unwrap_err();
    assert!(
        refused.to_string().contains("NoApplicationProtocol"),
        "{refused}"
    );
    settled("the handshakes", async || {
        let count = |end| {
            cluster
                .certified
                .handshakes()
                .counts()
                .find(|it| it.0 == end)
        };
        let counts = [HandshakeEnd::Done, HandshakeEnd::Protocol].map(|end| count(end).unwrap().1);
        if counts == [3, 1] {
            Ok(())
        } else {
            Err(format!("{counts:?}"))
        }
    })
    .await;
    cluster.finish().await;
}

#[tokio::test]
async fn after_an_upgrade_bytes_pass_both_ways_by_tls() {
    let authority = Authority::new("all");
    let endpoint = Upstream::start(async |mut connection: Connection| {
        connection.raw.until("\r\n\r\n").await;
        let switch =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        connection.send(switch).await;
        for _ in 0..2 {
            let echo = connection.raw.exactly(4).await;
            connection.send(echo).await;
        }
    })
    .await;
    let cluster = Cluster::with(spec(), &[endpoint.address()]).await;
    cluster.certify(&[&authority.issue(&[HOST])]);
    let client = TlsClient::trusting(&authority);
    let mut raw = Raw::connect(client.tunnel(cluster.secure, HOST).await).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    raw.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{upgrade}"))
        .await;
    let head = raw.head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    for text in ["ping", "pong"] {
        raw.send(text).await;
        assert_eq!(raw.exactly(text.len()).await, text);
    }
    drop(raw);
    cluster.finish().await;
}

#[tokio::test]
async fn a_host_that_wants_client_certificates_is_served_to_those_who_show_one() {
    let (authority, clients) = (Authority::new("all"), Authority::new("clients"));
    let upstream = Upstream::answering("it").await;
    let cluster = Cluster::with(spec(), &[upstream.address()]).await;
    let open = "open.example.com";
    let roots = [clients.root_der()].into();
    cluster.bind(&[
        Binding {
            client_ca: Some(Arc::new(ClientCa {
                source: "Secret shop/clients".into(),
                roots,
                wanted: ClientCertificate::Required,
            })),
            ..binding(&authority.issue(&[HOST]))
        },
        // It covers the other host too.
        Binding {
            hosts: vec![open.into()],
            ..binding(&authority.issue(&[open, HOST]))
        },
    ]);
    for version in [&TLS12, &TLS13] {
        let nobody = TlsClient::trusting(&authority).version(version);
        let stranger = Authority::new("strangers").issue(&["someone"]);
        let stranger = nobody.clone().showing(stranger);
        let known = nobody.clone().showing(clients.issue(&["someone"]));
        for (client, is_served) in [(&nobody, false), (&stranger, false), (&known, true)] {
            let mut raw = Raw::connect(client.tunnel(cluster.secure, HOST).await).await;
            let sent = raw.try_send(GET).await;
            let head = raw.try_until("\r\n\r\n").await;
            let head = head.unwrap_or_default();
            assert_eq!(
                head.starts_with("HTTP/1.1 200 "),
                is_served,
                "{sent:?} {head}"
            );
        }
        let mut around = Raw::connect(nobody.tunnel(cluster.secure, open).await).await;
        around.send(GET).await;
        around.answer().await.expect(421);
    }
    cluster.finish().await;
}
