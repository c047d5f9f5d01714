//! Sessions that begin at one replica and go on at another, by tickets whose keys a Secret has given to both.

use std::net::SocketAddr;
use std::process::{Output, Stdio};

use parkway_tests::cluster::{Cluster, NAMESPACE, PodIs, Serving, serving};
use parkway_tests::queue_proxy::loopback;
use parkway_tests::tls::{Authority, TlsClient};
use parkway_tests::{Parkway, QueueProxy, certificates, eventually, has_program};
use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// A Secret with these keys.
fn keys(all: &[(&str, &[u8])]) -> Value {
    let data: serde_json::Map<_, _> = { all.iter() }
        .map(|(name, key)| ((*name).to_owned(), json!(certificates::base64(key))))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {"namespace": "certificates", "name": "tickets"},
        "data": data,
    })
}

struct Shop {
    cluster: Cluster,
    serving: Serving,
    authority: Authority,
    _pod: QueueProxy,
}

impl Shop {
    async fn start() -> Self {
        let authority = Authority::new("all");
        let (cluster, serving) = (Cluster::start(), serving("shop"));
        let host = serving.host();
        cluster
            .api
            .put(authority.issue(&[&host]).secret("certificates", "shop"));
        cluster.put(&serving);
        let tls =
            json!([{"hosts": [host], "secretName": "shop", "secretNamespace": "certificates"}]);
        let spec = json!({ "spec": { "tls": tls } });
        cluster.api.edit("ingresses", NAMESPACE, "shop", spec);
        let pod = QueueProxy::start("shop-1", 10).await;
        cluster.pods(&serving, &[(pod.address(), PodIs::Ready)]);
        Self {
            cluster,
            serving,
            authority,
            _pod: pod,
        }
    }

    async fn replica(&self, name: &str, shares_tickets: bool) -> Parkway {
        let builder = self.cluster.replica(loopback().into(), name);
        let builder = match shares_tickets {
            true => builder.flag("--tls-tickets-secret", "certificates/tickets"),
            false => builder,
        };
        builder.start().await
    }

    /// A request over a new connection; whether its session was one of before.
    async fn resumes(&self, client: &TlsClient, at: &Parkway) -> bool {
        let host = self.serving.host();
        let at = at.listens("external_tls");
        let mut stream = client.connect(at, &host).await.unwrap();
        let get = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(get.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
    }
}

async fn shares(parkway: &Parkway, times: usize) {
    eventually("the keys", async || {
        (parkway.logged("session tickets are shared").len() >= times).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_session_of_one_replica_goes_on_at_the_other_while_they_share_a_key() {
    let shop = Shop::start().await;
    shop.cluster.api.put(keys(&[("2026-01", &[1; 80])]));
    let one = shop.replica("one", true).await;
    let other = shop.replica("other", true).await;
    let stranger = shop.replica("stranger", false).await;
    shares(&one, 1).await;
    shares(&other, 1).await;
    for version in [&TLS12, &TLS13] {
        let client = || {
            let client = TlsClient::trusting(&shop.authority);
            client.version(version).resuming()
        };
        let visitor = client();
        assert!(!shop.resumes(&visitor, &one).await);
        assert!(shop.resumes(&visitor, &other).await, "{version:?}");
        assert!(shop.resumes(&visitor, &one).await, "{version:?}");
        assert!(!shop.resumes(&visitor, &stranger).await, "{version:?}");
        let alone = client();
        assert!(!shop.resumes(&alone, &stranger).await);
        assert!(shop.resumes(&alone, &stranger).await, "{version:?}");
        assert!(!shop.resumes(&alone, &one).await, "{version:?}");
    }
    let resumed = one.metric("parkway_tls_resumptions_total", &[("entrance", "external")]);
    assert_eq!(resumed.await, Some(2.0));
    for parkway in [one, other, stranger] {
        parkway.finish().await;
    }
}

#[tokio::test]
async fn a_rotated_key_decrypts_until_it_is_taken_away_and_bad_keys_change_nothing() {
    let shop = Shop::start().await;
    let (old, new) = (("2026-01", [1; 80]), ("2026-02", [2; 48]));
    shop.cluster.api.put(keys(&[(old.0, &old.1)]));
    let (one, other) = (
        shop.replica("one", true).await,
        shop.replica("other", true).await,
    );
    shares(&one, 1).await;
    shares(&other, 1).await;
    let client = || TlsClient::trusting(&shop.authority).resuming();
    let (visitor, latecomer) = (client(), client());
    assert!(!shop.resumes(&visitor, &one).await);
    assert!(!shop.resumes(&latecomer, &one).await);

    shop.cluster
        .api
        .put(keys(&[(new.0, &new.1), (old.0, &old.1)]));
    shares(&other, 2).await;
    shares(&one, 2).await;
    assert!(shop.resumes(&visitor, &other).await, "by the older key");

    shop.cluster
        .api
        .put(keys(&[(new.0, &new.1), ("2026-03", &[3; 32])]));
    other
        .says("a key has 80 bytes, or 48, and this has 32")
        .await;
    assert!(shop.resumes(&visitor, &one).await, "by the keys of before");

    shop.cluster.api.put(keys(&[(new.0, &new.1)]));
    shares(&other, 3).await;
    shares(&one, 3).await;
    assert!(shop.resumes(&visitor, &other).await, "by the newest key");
    assert!(!shop.resumes(&latecomer, &other).await, "by none");
    one.finish().await;
    other.finish().await;
}

#[tokio::test]
async fn openssl_goes_on_at_the_other_replica_with_a_session_it_has_written_down() {
    if !has_program("openssl") {
        return;
    }
    let shop = Shop::start().await;
    shop.cluster.api.put(keys(&[("1", &[1; 80])]));
    let (one, other) = (
        shop.replica("one", true).await,
        shop.replica("other", true).await,
    );
    shares(&one, 1).await;
    shares(&other, 1).await;
    let host = shop.serving.host();
    let folder = TempDir::new().unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        let session = folder.path().join(version);
        let session = session.to_str().unwrap();
        let at = |parkway: &Parkway| parkway.listens("external_tls");
        let (first, second) = (at(&one), at(&other));
        let begun = s_client(first, &host, &[version, "-sess_out", session]).await;
        assert!(begun.contains("New, TLSv1."), "{begun}");
        let gone_on = s_client(second, &host, &[version, "-sess_in", session]).await;
        assert!(gone_on.contains("Reused, TLSv1."), "{gone_on}");
        assert!(gone_on.contains("HTTP/1.1 200 "), "{gone_on}");
    }
    one.finish().await;
    other.finish().await;
}

/// What OpenSSL's client says of a connection, with the answer to a request.
async fn s_client(at: SocketAddr, host: &str, arguments: &[&str]) -> String {
    let mut client = Command::new("openssl")
        .args(["s_client", "-connect", &at.to_string()])
        .args(["-servername", host, "-ign_eof"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is needed for this test: install it");
    let get = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    client
        .stdin
        .take()
        .unwrap()
        .write_all(get.as_bytes())
        .await
        .unwrap();
    let Output { stdout, .. } = client.wait_with_output().await.unwrap();
    String::from_utf8_lossy(&stdout).into_owned()
}
