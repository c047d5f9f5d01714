//! Names that are spelt so that one program sees what another does not: fields with underscores, hosts in disguise.

use std::collections::BTreeMap;
use std::fs;

use bytes::Bytes;
use http::Request;
use parkway_ingress::routing::headers::NOT_FROM_OUTSIDE;
use parkway_tests::frames::{Frames, get, request, whole};
use parkway_tests::tls::{Authority, TlsClient};
use parkway_tests::{Answer, Parkway, Site, Upstream, hello_service, revision_with_endpoints};
use serde_json::Value;
use tempfile::TempDir;

/// What means something to a proxy, with what an outsider would like it to say.
const FORGED: [(&str, &str); 14] = [
    ("X-Forwarded-For", "203.0.113.7"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "admin.example.com"),
    ("K-Proxy-Request", "forged"),
    ("K-Original-Host", "forged"),
    ("K-Network-Probe", "forged"),
    ("K-Passthrough-Lb", "forged"),
    ("Knative-Serving-Revision", "forged"),
    ("Knative-Serving-Namespace", "forged"),
    ("Knative-Serving-Tag", "forged"),
    ("Content-Length", "5"),
    ("Transfer-Encoding", "chunked"),
    ("Proxy-Authorization", "forged"),
    ("Keep-Alive", "forged"),
];

/// A field's name as a program sees it that is given fields as variables (RFC 3875 section 4.1.18).
fn variable(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

#[tokio::test]
async fn names_with_underscores_do_not_say_what_those_with_hyphens_may_not() {
    let upstream = Upstream::answering("shop").await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await;
    let sites = [
        parkway.service("shop"),
        parkway.at_local("shop.default.svc.cluster.local"),
    ];
    for site in sites {
        for (name, value) in FORGED {
            let all = name.replace('-', "_");
            let one = name.replacen('-', "_", 1);
            for spelt in [&all, &one, &all.to_lowercase()] {
                let mut client = site.raw().await;
                let fields = format!("{spelt}: {value}\r\nMy_Own: kept\r\n\r\n");
                client.send(site.head("GET /") + &fields).await;
                let seen = client.answer().await.expect(200).json();
                let mut variables = BTreeMap::<_, Vec<_>>::new();
                for (name, values) in seen["headers"].as_object().unwrap() {
                    let of_name = variables.entry(variable(name)).or_default();
                    of_name.extend(values.as_array().unwrap().clone());
                }
                let said = variables.get(&variable(name));
                let is_said = said.is_some_and(|said| said.iter().any(|said| said == value));
                // Whoever is spoken of by that name is told once, by us.
                assert!(!is_said, "{spelt}: {variables:?}");
                assert!(said.is_none_or(|said| said.len() == 1), "{variables:?}");
                assert_eq!(variables["MY_OWN"], ["kept"]);
            }
        }
    }
    parkway.finish().await;
}

const INSIDE: &str = "shop.default.svc.cluster.local";

const OUTSIDE: &str = "shop.default.localhost";

/// The name that is for those inside, as somebody might spell it who is not.
const SPELT: [&str; 26] = [
    "shop.default.svc.cluster.local",
    "SHOP.default.svc.cluster.LOCAL",
    "shop.default.svc.cluster.local.:80",
    "shop%2Edefault%2Esvc%2Ecluster%2Elocal",
    "%73hop.default.svc.cluster.local",
    "shop.default.svc.cluster.local%00",
    "shop.default.svc.cluster.local..",
    "shop..default.svc.cluster.local",
    ".shop.default.svc.cluster.local",
    "shop\u{3002}default\u{ff0e}svc.cluster.local",
    "\u{ff53}hop.default.svc.cluster.local",
    "sho\u{212a}.default.svc.cluster.local",
    "shop.default.svc.cluster.local\t",
    "user@shop.default.svc.cluster.local",
    "shop.default.svc.cluster.local:",
    "shop.default.svc.cluster.local:0",
    "shop.default.svc.cluster.local:65535",
    "shop.default.svc.cluster.local:http",
    "shop.default.svc.cluster.local:80:80",
    "[shop.default.svc.cluster.local]",
    "shop.default.svc.cluster.local/",
    "shop.default.svc.cluster.local#",
    "shop.default.svc.cluster.local, shop.default.localhost",
    "shop.default.localhost, shop.default.svc.cluster.local",
    "http://shop.default.svc.cluster.local",
    "SHOP.DEFAULT.SVC.CLUSTER.LOCAL.:080",
];

/// With an entrance by TLS, whose certificate covers everything.
struct Outside {
    parkway: Parkway,
    upstream: Upstream,
    authority: Authority,
    _files: TempDir,
}

impl Outside {
    async fn open() -> Self {
        let authority = Authority::new("all");
        let names = [OUTSIDE, INSIDE, "shop.default.svc", "shop.default"];
        let identity = authority.issue(&names);
        let files = TempDir::new().unwrap();
        let [chain, key] = ["tls.crt", "tls.key"].map(|name| files.path().join(name));
        fs::write(&chain, &identity.chain).unwrap();
        fs::write(&key, &identity.key).unwrap();
        let upstream = Upstream::answering("shop").await;
        let manifest = revision_with_endpoints("shop", &[upstream.address()]);
        let parkway = Parkway::builder()
            .manifest("main", manifest)
            .flag("--listen-tls", "127.0.0.1:0")
            .flag("--tls-cert", chain.display())
            .flag("--tls-key", key.display());
        Self {
            parkway: parkway.start().await,
            upstream,
            authority,
            _files: files,
        }
    }

    /// The ways in, by name: in the clear, and by TLS for this name, with this protocol.
    async fn ways_in(&self, name: &str, protocol: &str) -> [(&'static str, Site); 2] {
        let client = TlsClient::trusting(&self.authority).protocols(&[protocol]);
        let by_tls = client.tunnel(self.parkway.listens("external_tls"), name);
        let plain = Site::new(self.parkway.external(), name);
        [("plain", plain), ("TLS", Site::new(by_tls.await, name))]
    }
}

#[tokio::test]
async fn a_cluster_local_host_in_disguise_is_never_served_outside() {
    let outside = Outside::open().await;
    for name in [OUTSIDE, INSIDE] {
        for (way, site) in outside.ways_in(name, "http/1.1").await {
            for host in SPELT {
                let heads = [
                    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"),
                    format!("GET / HTTP/1.0\r\nHost: {host}\r\n\r\n"),
                    format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n"),
                    format!("GET HTTP://{host}/ HTTP/1.1\r\nHost: {INSIDE}\r\n\r\n"),
                    format!("GET http://{host}/ HTTP/1.1\r\nHost: {OUTSIDE}\r\n\r\n"),
                    format!("GET //{host}/ HTTP/1.1\r\nHost: {INSIDE}\r\n\r\n"),
                ];
                for head in heads {
                    let mut client = site.raw().await;
                    client.send(&head).await;
                    let answer = client.answer().await;
                    let is_refused = matches!(answer.status.as_u16(), 400 | 404);
                    assert!(is_refused, "{way}, {head:?}: {answer:?}");
                }
            }
        }
    }
    assert_eq!(outside.upstream.connections(), 0);
    outside.parkway.finish().await;
}

#[tokio::test]
async fn a_cluster_local_host_in_disguise_is_never_served_outside_by_http2_either() {
    let outside = Outside::open().await;
    for name in [OUTSIDE, INSIDE] {
        for (way, site) in outside.ways_in(name, "h2").await {
            for host in SPELT {
                for block in [
                    get(host, "/"),
                    request("GET", host, "/", &[("host", host)]),
                    request("GET", host, "/", &[("host", OUTSIDE)]),
                    request("GET", OUTSIDE, "/", &[("host", host)]),
                ] {
                    let mut client = Frames::connect(site.address(), &[]).await;
                    client.send(whole(1, &block)).await;
                    // Reset, or with the connection, where it is no name at all.
                    let status = client.status(1).await;
                    let is_refused = matches!(status, None | Some(400 | 404));
                    assert!(is_refused, "{way}, {host:?}: {status:?}");
                }
            }
        }
    }
    assert_eq!(outside.upstream.connections(), 0);
    outside.parkway.finish().await;
}

#[tokio::test]
async fn what_parts_of_knative_tell_each_other_is_not_believed_at_any_entrance_outside() {
    let outside = Outside::open().await;
    let asking = || {
        let forged = NOT_FROM_OUTSIDE.into_iter();
        let head = forged.fold(Request::get("/"), |head, name| head.header(name, "forged"));
        head.body(Bytes::new()).unwrap()
    };
    let mut answers = Vec::new();
    for (way, site) in outside.ways_in(OUTSIDE, "http/1.1").await {
        answers.push((way, site.send(asking()).await));
    }
    for (way, site) in outside.ways_in(OUTSIDE, "h2").await {
        answers.push((way, site.http2().await.send(asking()).await));
    }
    for (way, answer) in answers {
        let seen = answer.expect(200).json()["headers"].take();
        for name in &NOT_FROM_OUTSIDE {
            let values = &seen[name.as_str()];
            let is_forged = |value: &Value| value.to_string().contains("forged");
            assert!(!is_forged(values), "{way}, {name}: {seen}");
        }
    }
    outside.parkway.finish().await;
}

#[tokio::test]
async fn probes_from_outside_are_told_only_what_may_be_known_and_wake_nothing() {
    let parkway =
        Parkway::with(hello_service("shop").and(hello_service("inner").cluster_local())).await;
    let hosts = [
        (OUTSIDE, true),
        ("inner.default.localhost", false),
        ("inner.default.svc.cluster.local", false),
        ("shop.default.svc.cluster.local", false),
        ("nobody.example.com", false),
    ];
    let probes = [
        ("probe", "override", 200),
        ("probe", "echoed", 200),
        ("probe", "", 400),
        ("activator", "", 200),
        ("queue", "", 400),
        ("autoscaler", "override", 400),
        ("forged", "", 400),
    ];
    for (host, is_outside) in hosts {
        for (probe, hash, status) in probes {
            let asking = || {
                let mut head = Request::get("/healthz").header("k-network-probe", probe);
                if !hash.is_empty() {
                    head = head.header("k-network-hash", hash);
                }
                head.body(Bytes::new()).unwrap()
            };
            let expected = if is_outside { status } else { 404 };
            let site = parkway.at(host);
            let answers: [Answer; 2] = [
                site.send(asking()).await,
                site.http2().await.send(asking()).await,
            ];
            for answer in answers {
                assert_eq!(answer.status, expected, "{host}, {probe}: {answer:?}");
                let is_told = answer.header("k-network-hash").is_some();
                assert_eq!(is_told, expected == 200 && probe == "probe", "{answer:?}");
            }
        }
    }
    for revision in ["shop-00001", "inner-00001"] {
        let revision = parkway.state().await.revision(revision);
        assert_eq!(revision.processes(), 0);
        assert_eq!(revision.counter("parked"), 0);
        assert_eq!(revision.counter("coldStarts"), 0);
        assert_eq!(revision.0["autoscaler"]["wanted"], 0, "{revision:?}");
    }
    parkway.finish().await;
}
