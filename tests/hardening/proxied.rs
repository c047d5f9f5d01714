//! Entrances behind load balancers that say by the PROXY protocol whose connections they are.

use std::process::Command;

use http::Request;
use parkway_tests::cluster::{Cluster, NAMESPACE, PodIs, serving};
use parkway_tests::frames::{Frames, get, whole};
use parkway_tests::http1::Http1;
use parkway_tests::tls::{Authority, TlsClient};
use parkway_tests::{Parkway, QueueProxy, Raw, Upstream, eventually, revision_with_endpoints};
use serde_json::json;

use crate::programs::{Program, program};

const HOST: &str = "shop.default.localhost";
const REQUEST: &str = "GET / HTTP/1.1\r\nHost: shop.default.localhost\r\n\r\n";
const V1: &str = "PROXY TCP4 203.0.113.7 192.0.2.1 1234 80\r\n";
/// The same by version 2.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x07\xc0\0\x02\x01\x04\xd2\0\x50";

struct Shop {
    parkway: Parkway,
    upstream: Upstream,
}

impl Shop {
    /// Behind proxies of this network, at the external entrance.
    async fn behind(networks: &str) -> Self {
        Self::with(networks, &[]).await
    }

    async fn with(networks: &str, flags: &[(&str, u64)]) -> Self {
        let upstream = Upstream::answering("shop").await;
        let manifest = revision_with_endpoints("shop", &[upstream.address()]);
        let mut builder = Parkway::builder()
            .manifest("main", manifest)
            .flag("--proxy-protocol", "external")
            .flag("--trusted-proxies", networks);
        for (flag, value) in flags {
            builder = builder.flag(flag, value);
        }
        Self {
            parkway: builder.start().await,
            upstream,
        }
    }

    async fn client(&self) -> Raw {
        Raw::connect(self.parkway.external()).await
    }

    /// How many connections were closed for this reason.
    async fn refused(&self, reason: &str) -> f64 {
        let name = "parkway_connections_refused_total";
        let refused = self.parkway.metric(name, &[("reason", reason)]).await;
        refused.unwrap()
    }

    /// Whom the endpoint takes for the client of what is sent.
    async fn forwarded_for(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut client = self.client().await;
        client.send(bytes).await;
        forwarded_for(&client.answer().await.expect(200).json())
    }
}

fn forwarded_for(described: &serde_json::Value) -> String {
    let client = described["headers"]["x-forwarded-for"].as_array().unwrap();
    assert_eq!(client.len(), 1, "{described}");
    client[0].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_client_is_whom_a_trusted_proxy_names_by_either_version() {
    let shop = Shop::behind("10.0.0.0/8,127.0.0.0/8").await;
    let request = REQUEST.as_bytes();
    for header in [V1.as_bytes(), V2] {
        let named = shop.forwarded_for([header, request].concat()).await;
        assert_eq!(named, "203.0.113.7");
        // What the client says by itself is worth nothing here as anywhere.
        let forged = REQUEST.replace("\r\n\r\n", "\r\nX-Forwarded-For: 198.51.100.1\r\n\r\n");
        let named = shop.forwarded_for([header, forged.as_bytes()].concat());
        assert_eq!(named.await, "203.0.113.7");
    }
    let v6 = "PROXY TCP6 2001:db8::7 2001:db8::1 1234 80\r\n";
    let named = shop.forwarded_for([v6, REQUEST].concat()).await;
    assert_eq!(named, "2001:db8::7");
    shop.parkway.finish().await;
}

#[tokio::test]
async fn a_proxy_that_speaks_for_itself_is_the_client() {
    let shop = Shop::behind("127.0.0.1").await;
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    for header in [&b"PROXY UNKNOWN\r\n"[..], local] {
        let named = shop.forwarded_for([header, REQUEST.as_bytes()].concat());
        assert_eq!(named.await, "127.0.0.1");
    }
    shop.parkway.finish().await;
}

#[tokio::test]
async fn a_header_may_come_in_pieces_and_http2_behind_it() {
    let shop = Shop::behind("127.0.0.1").await;
    for header in [V1.as_bytes(), V2] {
        let mut client = shop.client().await;
        for byte in header {
            client.send([*byte]).await;
            tokio::task::yield_now().await;
        }
        client.send(REQUEST).await;
        let answer = client.answer().await.expect(200).json();
        assert_eq!(forwarded_for(&answer), "203.0.113.7");

        let mut client = shop.client().await;
        client.send(header).await;
        let preface = parkway_tests::frames::PREFACE;
        let settings = parkway_tests::frames::settings(&[]);
        client.send([preface, &settings].concat()).await;
        let mut client = Frames::of(client);
        client.send(whole(1, &get(HOST, "/"))).await;
        assert_eq!(client.status(1).await, Some(200));
    }
    shop.parkway.finish().await;
}

#[tokio::test]
async fn what_begins_with_anything_but_a_header_is_closed_without_a_word_and_counted() {
    let shop = Shop::behind("127.0.0.1").await;
    let long = [V2[..14].to_vec(), vec![0x20, 0], vec![0; 0x2000]].concat();
    let wrong = [
        REQUEST.as_bytes(),
        parkway_tests::frames::PREFACE,
        b"PROXY TCP4 203.0.113.7 192.0.2.1 1234 99999\r\n",
        b"PROXY nonsense\r\n",
        &[b"PROXY UNKNOWN ", &[b'x'; 1_000][..]].concat(),
        b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0c",
        &long,
    ];
    for bytes in wrong {
        let mut client = shop.client().await;
        drop(client.try_send(bytes).await);
        assert!(client.rest().await.is_empty());
    }
    assert_eq!(shop.refused("proxy_header").await, 7.0);
    assert_eq!(shop.upstream.connections(), 0);
    shop.parkway.finish().await;
}

#[tokio::test]
async fn a_proxy_that_does_not_say_all_of_its_header_in_time_is_closed_and_counted() {
    let shop = Shop::behind("127.0.0.1").await;
    let mut silent = shop.client().await;
    let mut half = shop.client().await;
    half.send(&V2[..20]).await;
    let mut gone = shop.client().await;
    gone.send("PROXY TCP4").await;
    gone.half_close().await;
    assert!(gone.is_closed().await && half.is_closed().await && silent.is_closed().await);
    assert_eq!(shop.refused("proxy_header_timeout").await, 3.0);
    shop.parkway.finish().await;
}

#[tokio::test]
async fn who_is_no_trusted_proxy_is_closed_whatever_it_says_and_other_entrances_are_as_ever() {
    let shop = Shop::behind("10.0.0.0/8,fd00::/8").await;
    for bytes in [V1.as_bytes(), V2, REQUEST.as_bytes()] {
        let mut client = shop.client().await;
        drop(client.try_send(bytes).await);
        assert!(client.rest().await.is_empty());
    }
    assert_eq!(shop.refused("untrusted_proxy").await, 3.0);
    shop.parkway.says("untrusted_proxy").await;
    let said = shop.parkway.logs();
    let said = said.iter().filter(|line| line.contains("untrusted_proxy"));
    assert_eq!(said.count(), 1, "said once");

    let inside = shop.parkway.at_local("shop.default.svc.cluster.local");
    inside.get("/").await.expect(200);
    let mut headed = inside.raw().await;
    headed.send([V1, REQUEST].concat()).await;
    headed.answer().await.expect(400);
    shop.parkway.finish().await;
}

#[tokio::test]
async fn a_clients_connections_are_counted_by_the_address_that_the_proxy_names() {
    let shop = Shop::with("127.0.0.1", &[("--client-connections", 1)]).await;
    let mut first = shop.client().await;
    first.send([V1, REQUEST].concat()).await;
    first.answer().await.expect(200);

    let mut second = shop.client().await;
    second.send([V1, REQUEST].concat()).await;
    second.answer().await.expect(429);
    let other = V1.replace("203.0.113.7", "203.0.113.8");
    let mut third = shop.client().await;
    third.send([&other, REQUEST].concat()).await;
    third.answer().await.expect(200);

    drop(first);
    let again = eventually("room for the client", async || {
        let mut again = shop.client().await;
        again.send([V1, REQUEST].concat()).await;
        (again.answer().await.status == 200).then_some(again)
    });
    drop((again.await, third, second));
    shop.parkway.finish().await;
}

#[tokio::test]
async fn behind_the_header_comes_tls_where_the_entrance_has_it() {
    let authority = Authority::new("all");
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    let host = shop.host();
    cluster
        .api
        .put(authority.issue(&[&host]).secret("certificates", "shop"));
    cluster.put(&shop);
    let tls = json!([{"hosts": [host], "secretName": "shop", "secretNamespace": "certificates"}]);
    let spec = json!({ "spec": { "tls": tls } });
    cluster.api.edit("ingresses", NAMESPACE, shop.name(), spec);
    let pod = QueueProxy::start("shop-1", 10).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    let flags = |builder: parkway_tests::Builder| {
        builder
            .flag("--proxy-protocol", "external-tls")
            .flag("--trusted-proxies", "127.0.0.1/32")
    };
    let parkway = cluster.parkway_with(flags).await;
    cluster.ready("shop").await;
    let client = TlsClient::trusting(&authority);
    let to = parkway.listens("external_tls");

    for header in [V1.as_bytes(), V2] {
        let stream = client.connect_behind(header, to, &host).await.unwrap();
        let mut client = Http1::over(stream, &host).await;
        let request = Request::get("/").body("".into()).unwrap();
        client.send(request).await.expect(200);
    }
    assert!(client.connect(to, &host).await.is_err());
    parkway.at(&host).get("/").await.expect(200);
    parkway.stop().await;
}

#[tokio::test]
async fn haproxy_says_whose_connections_it_passes_on_by_either_version() {
    let shop = Shop::behind("127.0.0.1").await;
    for how in [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2 proxy-v2-options ssl,unique-id,crc32c",
    ] {
        let Some(haproxy) = haproxy(&shop.parkway, how).await else {
            return;
        };
        let mut client = Raw::connect_from("127.0.0.9", haproxy.address).await;
        client.send(REQUEST).await;
        let answer = client.answer().await.expect(200).json();
        assert_eq!(forwarded_for(&answer), "127.0.0.9", "{how}");
    }
    shop.parkway.finish().await;
}

async fn haproxy(parkway: &Parkway, how: &str) -> Option<Program> {
    let behind = parkway.external();
    program("haproxy", |port, directory| {
        let configuration = directory.join("haproxy.cfg");
        let text = format!(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
             listen all\n  bind 127.0.0.1:{port}\n  server one {behind} {how}\n"
        );
        std::fs::write(&configuration, text).unwrap();
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(configuration);
        command
    })
    .await
}

#[tokio::test]
async fn curl_says_whose_connection_it_is() {
    let shop = Shop::behind("127.0.0.0/8").await;
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let curl = tokio::process::Command::new("curl")
            .args(["--silent", "--show-error", "--haproxy-protocol", version])
            .args(["--interface", "127.0.0.11"])
            .args(["--header", &format!("Host: {HOST}")])
            .arg(format!("http://{}/", shop.parkway.external()))
            .output();
        let Ok(curl) = curl.await else {
            crate::programs::absent("curl");
            return;
        };
        let answer = serde_json::from_slice(&curl.stdout);
        let answer = answer.unwrap_or_else(|_| panic!("{curl:?}"));
        assert_eq!(forwarded_for(&answer), "127.0.0.11");
    }
    shop.parkway.finish().await;
}
