//! Names that are spelt so that one program sees what another does not: fields with underscores, hosts in disguise.

use std::collections::BTreeMap;

use parkway_tests::{Parkway, Upstream, revision_with_endpoints};

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

#[tokio::test]
async fn a_cluster_local_host_in_disguise_is_never_served_outside() {
    let upstream = Upstream::answering("shop").await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await;
    let name = "shop.default.svc.cluster.local";
    let spelt = [
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
    for host in spelt {
        let heads = [
            format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            format!("GET / HTTP/1.0\r\nHost: {host}\r\n\r\n"),
            format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            format!("GET HTTP://{host}/ HTTP/1.1\r\nHost: {name}\r\n\r\n"),
            format!("GET //{host}/ HTTP/1.1\r\nHost: {name}\r\n\r\n"),
        ];
        for head in heads {
            let mut client = parkway.at(name).raw().await;
            client.send(&head).await;
            let answer = client.answer().await;
            let is_refused = matches!(answer.status.as_u16(), 400 | 404);
            assert!(is_refused, "{head:?}: {answer:?}");
        }
    }
    assert_eq!(upstream.connections(), 0);
    parkway.finish().await;
}
