//! Connections by TLS: what is agreed, what is served, and that everything a connection can do it can do there too.

use parkway_ingress::frontend::tls::HandshakeEnd;
use parkway_tests::tls::{Authority, TlsClient};
use parkway_tests::{Raw, Upstream, settled};
use rustls::version::{TLS12, TLS13};

use crate::cluster::{Cluster, HOST, spec};

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
