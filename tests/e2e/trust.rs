//! What clients outside may say, and what of it acts.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use parkway_tests::{Parkway, Site, Upstream, hello_service, revision_with_endpoints};
use serde_json::Value;

/// What outsiders may not say.
const OURS: [&str; 8] = [
    "K-Proxy-Request",
    "K-Original-Host",
    "K-Passthrough-Lb",
    "K-Kubelet-Probe",
    "Knative-Direct-Lb",
    "Knative-Serving-Revision",
    "Knative-Serving-Namespace",
    "Knative-Serving-Default-Route",
];

#[tokio::test]
async fn headers_that_must_not_act_from_outside_are_not_seen_by_the_workload() {
    let shop = shop().await;
    let site = shop.parkway.service("shop");

    let forged = OURS.map(|name| (name, "forged"));
    for seen in both_protocols(&site, &forged).await {
        for name in OURS {
            let values = seen.all(name);
            assert!(!values.contains(&"forged"), "{name}: {values:?}");
        }
        assert_eq!(seen.all("k-proxy-request"), ["activator"], "ours");
        assert_eq!(seen.all("host"), ["shop.default.localhost"]);
    }
    shop.parkway.finish().await;
}

#[tokio::test]
async fn a_header_named_in_connection_is_gone_and_what_we_say_cannot_be_taken_away_by_it() {
    let shop = shop().await;
    let fields = [
        (
            "Connection",
            "x-secret, x-forwarded-for, k-proxy-request, host",
        ),
        ("X-Secret", "1"),
    ];

    let seen = seen_over_http1(&shop.parkway.service("shop"), &fields).await;

    assert_eq!(seen.all("x-secret"), [""; 0]);
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.all("k-proxy-request"), ["activator"]);
    assert_eq!(seen.all("host"), ["shop.default.localhost"]);
    shop.parkway.finish().await;
}

#[tokio::test]
async fn what_outsiders_say_about_proxies_is_replaced() {
    let shop = shop().await;
    for seen in both_protocols(&shop.parkway.service("shop"), &FORGED_PROXIES).await {
        assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(seen.all("x-forwarded-proto"), ["http"]);
        assert_eq!(seen.all("x-forwarded-host"), ["shop.default.localhost"]);
        assert_eq!(
            seen.all("forwarded"),
            ["for=127.0.0.1;host=shop.default.localhost;proto=http"]
        );
    }
    shop.parkway.finish().await;
}

#[tokio::test]
async fn one_trusted_hop_is_believed_about_one_proxy_and_no_more() {
    let upstream = Upstream::answering("shop").await;
    let parkway = Parkway::builder()
        .manifest(
            "main",
            revision_with_endpoints("shop", &[upstream.address()]),
        )
        .flag("--trusted-hops", 1)
        .start()
        .await;

    let seen = seen_over_http1(&parkway.service("shop"), &FORGED_PROXIES).await;

    assert_eq!(seen.all("x-forwarded-for"), ["10.0.0.2, 127.0.0.1"]);
    assert_eq!(
        seen.all("forwarded"),
        ["for=10.0.0.2, for=127.0.0.1;host=shop.default.localhost;proto=http"]
    );
    assert_eq!(seen.all("x-forwarded-proto"), ["https"]);
    parkway.finish().await;
}

#[tokio::test]
async fn the_workload_sees_the_host_that_the_client_sent() {
    let shop = shop().await;
    for host in [
        "shop.default.localhost",
        "shop.default.localhost:8080",
        "SHOP.default.localhost",
    ] {
        let seen = seen_over_http1(&shop.parkway.at(host), &[]).await;
        assert_eq!(seen.all("host"), [host]);
    }
    shop.parkway.finish().await;
}

#[tokio::test]
async fn a_tag_is_no_header_of_the_workload() {
    let shop = shop().await;
    let tagged = [("Knative-Serving-Tag", "blue")];
    for seen in both_protocols(&shop.parkway.service("shop"), &tagged).await {
        assert_eq!(seen.all("knative-serving-tag"), [""; 0]);
    }
    shop.parkway.finish().await;
}

#[tokio::test]
async fn a_cluster_local_host_is_404_from_outside_however_it_is_spelt() {
    let upstream = Upstream::answering("shop").await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await;
    let names = [
        "shop.default.svc.cluster.local",
        "shop.default.svc",
        "shop.default",
    ];
    let spellings = names.iter().flat_map(|name| {
        [
            (*name).to_owned(),
            name.to_uppercase(),
            format!("{name}:80"),
            format!("{name}:{}", parkway.local().port()),
            format!("{name}."),
            format!("{name}.:80"),
        ]
    });
    let spellings: BTreeSet<_> = spellings.collect();

    for host in &spellings {
        parkway.at(host).get("/").await.expect(404);
        parkway.at(host).http2().await.get("/").await.expect(404);
        let absolute = format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let mut client = parkway.at(host).raw().await;
        client.send(absolute).await;
        client.answer().await.expect(404);
        let in_two_minds =
            format!("GET http://{host}/ HTTP/1.1\r\nHost: shop.default.localhost\r\n\r\n");
        let mut client = parkway.at(host).raw().await;
        client.send(in_two_minds).await;
        client.answer().await.expect(400);
    }

    assert_eq!(upstream.connections(), 0);
    for host in &spellings {
        parkway.at_local(host).get("/").await.expect(200);
    }
    parkway.finish().await;
}

#[tokio::test]
async fn a_cluster_local_service_is_404_from_outside_whatever_headers_say() {
    let parkway = Parkway::with(hello_service("shop").cluster_local()).await;
    let hosts = [
        "shop.default.localhost",
        "shop.default.svc.cluster.local",
        "shop.default",
    ];
    let internal = "shop.default.svc.cluster.local";
    for host in hosts {
        let mut request = Request::get("/").body(Bytes::new()).unwrap();
        for (name, value) in [
            ("k-original-host", internal),
            ("x-forwarded-host", internal),
            ("forwarded", "host=shop.default.svc.cluster.local"),
            ("knative-serving-revision", "shop-00001"),
            ("knative-serving-namespace", "default"),
        ] {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        parkway.at(host).send(request).await.expect(404);
    }
    assert_eq!(parkway.state().await.revision("shop-00001").processes(), 0);

    parkway.at_local(internal).get("/").await.expect(200);
    parkway.finish().await;
}

#[tokio::test]
async fn a_network_probe_is_answered_and_wakes_nothing() {
    let parkway = Parkway::with(hello_service("shop")).await;
    let probe = || {
        Request::get("/healthz")
            .header("k-network-probe", "probe")
            .header("k-network-hash", "override")
            .body(Bytes::new())
            .unwrap()
    };

    for site in [
        parkway.service("shop"),
        parkway.at_local("shop.default.svc.cluster.local"),
    ] {
        let answer = site.send(probe()).await.expect(200);
        assert_eq!(
            answer.header("k-network-hash").map(str::len),
            Some(64),
            "{answer:?}"
        );
        site.http2().await.send(probe()).await.expect(200);
    }

    let shop = parkway.state().await.revision("shop-00001");
    assert_eq!(shop.processes(), 0);
    assert_eq!(shop.counter("parked"), 0);
    assert_eq!(shop.counter("coldStarts"), 0);
    assert_eq!(shop.counter("grantedAtOnce"), 0);
    assert_eq!(shop.0["autoscaler"]["phase"], "Inactive", "{shop:?}");
    assert_eq!(shop.0["autoscaler"]["wanted"], 0, "{shop:?}");
    parkway.finish().await;
}

const FORGED_PROXIES: [(&str, &str); 4] = [
    ("X-Forwarded-For", "10.0.0.1, 10.0.0.2"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "evil.example"),
    ("Forwarded", "for=10.0.0.1;host=evil.example, for=10.0.0.2"),
];

/// A Service whose endpoint tells what it got.
struct Shop {
    parkway: Parkway,
    _upstream: Upstream,
}

async fn shop() -> Shop {
    let upstream = Upstream::answering("shop").await;
    let manifest = revision_with_endpoints("shop", &[upstream.address()]);
    Shop {
        parkway: Parkway::with(manifest).await,
        _upstream: upstream,
    }
}

/// The headers that an endpoint got.
struct Seen(Value);

impl Seen {
    fn all(&self, name: &str) -> Vec<&str> {
        let values = self.0[name.to_ascii_lowercase()].as_array();
        values
            .into_iter()
            .flatten()
            .map(|value| value.as_str().unwrap())
            .collect()
    }
}

fn asking(site: &Site, fields: &[(&str, &str)]) -> Request<Bytes> {
    let mut request = site.request(Method::GET, "/headers", "");
    let fields = fields.iter().map(|(name, value)| {
        let name: http::HeaderName = name.parse().unwrap();
        (name, value.parse().unwrap())
    });
    request.headers_mut().extend(HeaderMap::from_iter(fields));
    request
}

/// Over HTTP/1.1, with names written as they are here.
async fn seen_over_http1(site: &Site, fields: &[(&str, &str)]) -> Seen {
    let mut client = site.raw().await;
    let fields: String = fields
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    client
        .send(site.head("GET /headers") + &fields + "\r\n")
        .await;
    Seen(client.answer().await.expect(200).json()["headers"].take())
}

async fn both_protocols(site: &Site, fields: &[(&str, &str)]) -> [Seen; 2] {
    let http2 = site.http2().await;
    let answer = http2.send(asking(site, fields)).await.expect(200);
    let over_http2 = Seen(answer.json()["headers"].take());
    [seen_over_http1(site, fields).await, over_http2]
}
