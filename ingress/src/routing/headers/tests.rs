use http::{Request, Version};
use proptest::prelude::*;

use super::super::fixture::{
    backend, external, headers as fields, ingress, ourselves, path, revision, service,
};
use super::super::host::Host;
use super::super::rules::PathRule;
use super::super::table::RouteSnapshot;
use super::*;

const OUTSIDE: Arrival = Arrival {
    entrance: EntranceKind::Gateway(Visibility::ExternalIp),
    peer: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)),
    scheme: Scheme::Http,
    trusted_hops: 0,
};
const INSIDE: Arrival = Arrival {
    entrance: EntranceKind::Gateway(Visibility::ClusterLocal),
    ..OUTSIDE
};

fn map(sent: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields(sent) {
        map.append(name, value);
    }
    map
}

fn admitted(arrival: &Arrival, sent: &[(&str, &str)]) -> HeaderMap {
    let mut parts = Request::new(()).into_parts().0;
    parts.headers = map(sent);
    admit(&mut parts, arrival);
    parts.headers
}

fn values(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .map(|value| value.to_str().unwrap().to_owned())
        .collect()
}

fn set(sent: &[(&str, &str)], path_rule: PathRule) -> HeaderMap {
    let (snapshot, _) = RouteSnapshot::build(
        1,
        vec![ingress("a", vec![external(&["h"], vec![path_rule])])],
    );
    let mut headers = map(sent);
    let host = Host::parse("h").unwrap();
    let matched = snapshot
        .find(Visibility::ExternalIp, &host, "/", &headers)
        .unwrap();
    let present = Present::in_head(&headers);
    let backend = matched.path.splits.sole().unwrap();
    set_by_route(&mut headers, present, &matched, backend);
    headers
}

fn setting(by_path: &[(&str, &str)], by_split: &[(&str, &str)]) -> PathRule {
    let backend = Backend {
        set_headers: fields(by_split),
        ..backend(service("s"))
    };
    PathRule {
        set_headers: fields(by_path),
        splits: super::super::split::Splits::all_to(backend),
        ..path("", service("s"))
    }
}

#[test]
fn requests_of_one_connection_each_say_their_own_host() {
    let entry = Entry::new(OUTSIDE);
    for host in [
        "a.example",
        "b.example",
        "b.example",
        "b.example:80",
        "a",
        "\"a\"",
        "a",
    ] {
        let mut parts = Request::new(()).into_parts().0;
        parts.headers = map(&[("host", host)]);
        let written = HeaderValue::from_static(host);
        entry.admit(&mut parts, Present::default(), Some(&written));
        assert_eq!(
            parts.headers,
            admitted(&OUTSIDE, &[("host", host)]),
            "{host}"
        );
        let without_host = admitted(&OUTSIDE, &[]);
        let mut parts = Request::new(()).into_parts().0;
        entry.admit(&mut parts, Present::default(), None);
        assert_eq!(parts.headers, without_host);
    }
}

const FORGED: [(&str, &str); 9] = [
    ("K-Proxy-Request", "activator"),
    ("K-Original-Host", "forged"),
    ("K-Passthrough-Lb", "true"),
    ("K-Kubelet-Probe", "x"),
    ("Knative-Direct-Lb", "true"),
    ("Knative-Serving-Revision", "bogus"),
    ("Knative-Serving-Namespace", "bogus"),
    ("Knative-Serving-Default-Route", "true"),
    ("K-Original-Host", "again"),
];

#[test]
fn what_only_we_may_say_is_removed_outside_and_kept_inside() {
    let outside = admitted(&OUTSIDE, &FORGED);
    let inside = admitted(&INSIDE, &FORGED);
    for (name, _) in FORGED {
        assert!(!outside.contains_key(name), "{name}");
        assert!(inside.contains_key(name), "{name}");
    }
}

const AT_ACTIVATOR: Arrival = Arrival {
    entrance: EntranceKind::Activator,
    ..OUTSIDE
};

#[test]
fn the_activators_ports_take_nothing_away_but_what_is_hop_by_hop_and_add_the_peer_only() {
    let sent = [
        FORGED.as_slice(),
        &[("x-real", "1"), ("connection", "close")],
    ]
    .concat();
    let mut expected = map(&sent);
    expected.remove("connection");
    expected.insert("x-forwarded-for", HeaderValue::from_static("192.0.2.7"));

    assert_eq!(admitted(&AT_ACTIVATOR, &sent), expected);
}

#[test]
fn the_activators_ports_append_the_peer_to_whatever_was_said_and_leave_the_rest() {
    let sent = [
        ("x-forwarded-for", "10.0.0.1, \"10.0.0.2"),
        ("x-forwarded-for", "not an address"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "theirs"),
        ("forwarded", "for=10.0.0.2"),
    ];
    let mut expected = map(&sent);
    let line = "10.0.0.1, \"10.0.0.2, not an address, 192.0.2.7";
    expected.insert("x-forwarded-for", HeaderValue::from_static(line));

    assert_eq!(admitted(&AT_ACTIVATOR, &sent), expected);
}

#[test]
fn probe_headers_and_the_tag_from_outside_stay_for_matching() {
    let sent = [
        ("k-network-probe", "probe"),
        ("k-network-hash", "x"),
        ("knative-serving-tag", "t"),
    ];
    let headers = admitted(&OUTSIDE, &sent);
    for (name, value) in sent {
        assert_eq!(values(&headers, name), [value]);
    }
}

#[test]
fn host_of_the_target_uri_becomes_the_host_header() {
    let (mut parts, ()) = Request::builder()
        .version(Version::HTTP_2)
        .uri("http://shop.example:81/")
        .body(())
        .unwrap()
        .into_parts();
    admit(&mut parts, &OUTSIDE);
    assert_eq!(parts.headers[HOST], "shop.example:81");
}

#[test]
fn hop_by_hop_headers_go_including_those_connection_names() {
    let sent = [
        ("connection", "close, X-Secret"),
        ("connection", "x-other"),
        ("keep-alive", "5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "basic"),
        ("te", "gzip"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("x-secret", "1"),
        ("x-other", "2"),
        ("x-stays", "3"),
        ("trailer", "x-sum"),
    ];
    let mut headers = map(&sent);
    assert_eq!(remove_from_request(&mut headers, Version::HTTP_11), None);
    assert_eq!(headers, map(&[("x-stays", "3"), ("trailer", "x-sum")]));
}

#[test]
fn connection_cannot_name_away_the_host_the_length_or_what_we_add() {
    let headers = admitted(
        &OUTSIDE,
        &[
            (
                "connection",
                "host, content-length, x-forwarded-for, forwarded",
            ),
            ("host", "h"),
            ("content-length", "5"),
        ],
    );
    assert_eq!(values(&headers, "host"), ["h"]);
    assert_eq!(values(&headers, "content-length"), ["5"]);
    assert_eq!(values(&headers, "x-forwarded-for"), ["192.0.2.7"]);
}

#[test]
fn te_trailers_stays_without_its_companions() {
    let mut headers = map(&[("te", "gzip;q=0.5, Trailers"), ("connection", "te")]);
    remove_from_request(&mut headers, Version::HTTP_11);
    assert_eq!(headers, map(&[("te", "trailers")]));
}

#[test]
fn upgrade_over_http_1_1_stays_and_is_told() {
    let mut headers = map(&[
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "k"),
    ]);
    let upgrade = remove_from_request(&mut headers, Version::HTTP_11);
    assert_eq!(upgrade, Some(HeaderValue::from_static("websocket")));
    assert_eq!(
        headers,
        map(&[
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "k")
        ])
    );
}

#[test]
fn upgrades_that_are_not_meant_for_us_are_ignored() {
    let h2c = [
        ("connection", "upgrade, http2-settings"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABkAAQAAP__"),
    ];
    let unasked = [("upgrade", "websocket")];
    let unnamed = [("connection", "upgrade")];
    for sent in [h2c.as_slice(), &unasked, &unnamed] {
        let mut headers = map(sent);
        assert_eq!(remove_from_request(&mut headers, Version::HTTP_11), None);
        assert!(headers.is_empty(), "{sent:?} leaves {headers:?}");
    }
    let mut old = map(&[("connection", "upgrade"), ("upgrade", "websocket")]);
    assert_eq!(remove_from_request(&mut old, Version::HTTP_10), None);
    assert!(old.is_empty());
}

#[test]
fn response_loses_its_hop_by_hop_headers_unless_it_grants_an_upgrade() {
    let sent = [
        ("connection", "upgrade, x-hop"),
        ("upgrade", "websocket"),
        ("x-hop", "1"),
        ("trailer", "x"),
        ("content-length", "0"),
    ];
    let mut ok = map(&sent);
    edit_response(&mut ok, StatusCode::OK);
    assert_eq!(ok, map(&[("trailer", "x"), ("content-length", "0")]));
    let mut switching = map(&sent);
    edit_response(&mut switching, StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(values(&switching, "connection"), ["upgrade"]);
    assert_eq!(values(&switching, "upgrade"), ["websocket"]);
    assert!(!switching.contains_key("x-hop"));
}

const CLAIMS: [(&str, &str); 7] = [
    ("host", "shop.example:8080"),
    ("x-forwarded-for", "10.0.0.1, 10.0.0.2"),
    ("x-forwarded-for", "10.0.0.3"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "theirs"),
    ("forwarded", "for=10.0.0.2;host=\"a,b\", for=10.0.0.3"),
    ("forwarded", "for=10.0.0.4"),
];
const OURS: &str = "for=192.0.2.7;host=\"shop.example:8080\";proto=http";

#[test]
fn what_outsiders_say_they_forwarded_is_replaced() {
    let headers = admitted(&OUTSIDE, &CLAIMS);
    assert_eq!(values(&headers, "x-forwarded-for"), ["192.0.2.7"]);
    assert_eq!(values(&headers, "x-forwarded-proto"), ["http"]);
    assert_eq!(values(&headers, "x-forwarded-host"), ["shop.example:8080"]);
    assert_eq!(values(&headers, "forwarded"), [OURS]);
}

#[test]
fn entries_of_trusted_hops_stay_and_no_more() {
    let headers = admitted(
        &Arrival {
            trusted_hops: 2,
            ..OUTSIDE
        },
        &CLAIMS,
    );
    assert_eq!(
        values(&headers, "x-forwarded-for"),
        ["10.0.0.2, 10.0.0.3, 192.0.2.7"]
    );
    assert_eq!(values(&headers, "x-forwarded-proto"), ["https"]);
    assert_eq!(values(&headers, "x-forwarded-host"), ["theirs"]);
    assert_eq!(
        values(&headers, "forwarded"),
        [format!("for=10.0.0.3, for=10.0.0.4, {OURS}")]
    );
}

#[test]
fn internal_entrance_appends() {
    let headers = admitted(&INSIDE, &CLAIMS);
    assert_eq!(
        values(&headers, "x-forwarded-for"),
        ["10.0.0.1, 10.0.0.2, 10.0.0.3, 192.0.2.7"]
    );
    assert_eq!(values(&headers, "x-forwarded-proto"), ["https"]);
    let forwarded = format!("for=10.0.0.2;host=\"a,b\", for=10.0.0.3, for=10.0.0.4, {OURS}");
    assert_eq!(values(&headers, "forwarded"), [forwarded]);
}

#[test]
fn forwarded_lists_that_cannot_be_read_are_not_believed() {
    for forged in ["for=\"1, for=2", "for=\"\\\", for=2"] {
        let headers = admitted(&INSIDE, &[("host", "h"), ("forwarded", forged)]);
        assert_eq!(
            values(&headers, "forwarded"),
            ["for=192.0.2.7;host=h;proto=http"],
            "{forged}"
        );
    }
    let headers = admitted(&INSIDE, &[("x-forwarded-proto", "javascript")]);
    assert_eq!(values(&headers, "x-forwarded-proto"), ["http"]);
}

#[test]
fn addresses_of_version_six_are_quoted_and_mapped_ones_unfolded() {
    let peer = |text: &str| Arrival {
        peer: text.parse().unwrap(),
        scheme: Scheme::Https,
        ..OUTSIDE
    };
    let six = admitted(&peer("2001:db8::1"), &[("host", "h")]);
    assert_eq!(
        values(&six, "forwarded"),
        ["for=\"[2001:db8::1]\";host=h;proto=https"]
    );
    assert_eq!(values(&six, "x-forwarded-for"), ["2001:db8::1"]);
    let mapped = admitted(&peer("::ffff:192.0.2.9"), &[]);
    assert_eq!(values(&mapped, "x-forwarded-for"), ["192.0.2.9"]);
}

#[test]
fn headers_of_path_and_split_replace_those_of_the_client() {
    let sent = [
        ("foo", "bogus"),
        ("foo", "bogus"),
        ("bar", "bogus"),
        ("other", "1"),
    ];
    let headers = set(&sent, setting(&[("foo", "path")], &[("bar", "split")]));
    assert_eq!(values(&headers, "foo"), ["path"]);
    assert_eq!(values(&headers, "bar"), ["split"]);
    assert_eq!(values(&headers, "other"), ["1"]);
}

#[test]
fn split_has_the_last_word() {
    assert_eq!(
        values(
            &set(&[], setting(&[("foo", "path")], &[("foo", "split")])),
            "foo"
        ),
        ["split"]
    );
}

#[test]
fn rules_cannot_change_the_framing() {
    let framing = [
        ("content-length", "0"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("foo", "1"),
    ];
    assert_eq!(set(&[], setting(&framing, &framing)), map(&[("foo", "1")]));
}

#[test]
fn hash_is_told_to_those_who_ask_and_other_values_pass() {
    let hash = |sent: &[(&str, &str)]| values(&set(sent, path("", service("s"))), "k-network-hash");
    assert_eq!(hash(&[("k-network-hash", "override")]), ["hash-of-a"]);
    assert_eq!(hash(&[("k-network-hash", "Override")]), ["Override"]);
    assert_eq!(hash(&[("k-network-hash", "3f2a")]), ["3f2a"]);
    assert_eq!(
        hash(&[("k-network-hash", "override"), ("k-network-hash", "x")]),
        ["override", "x"]
    );
    assert!(hash(&[]).is_empty());
}

#[test]
fn rewritten_host_replaces_the_host() {
    let rewriting = PathRule {
        rewrite_host: Some("in.ns".to_owned()),
        ..path("", ourselves())
    };
    assert_eq!(values(&set(&[("host", "h")], rewriting), "host"), ["in.ns"]);
}

const ENDPOINT: &str = "[2001:db8::5]:8012";

fn addressed(mode: HostMode, target: &Target, sent: &[(&str, &str)]) -> HeaderMap {
    let mut headers = map(sent);
    let first = Endpoint::new("10.0.0.1:8012".parse().unwrap());
    address(&mut headers, target, mode, first);
    address(
        &mut headers,
        target,
        mode,
        Endpoint::new(ENDPOINT.parse().unwrap()),
    );
    headers
}

#[test]
fn request_to_queue_proxy_carries_the_address_as_host_and_the_name_beside_it() {
    let sent = [
        ("host", "cart.example"),
        ("knative-serving-revision", "r"),
        ("knative-serving-namespace", "n"),
        ("k-network-hash", "x"),
    ];
    let headers = addressed(HostMode::QueueProxy, &revision("r"), &sent);
    assert_eq!(
        headers,
        map(&[
            ("host", ENDPOINT),
            ("k-original-host", "cart.example"),
            ("k-proxy-request", "activator")
        ])
    );
}

#[test]
fn request_to_a_process_carries_the_name_as_host() {
    let headers = addressed(
        HostMode::Process,
        &revision("r"),
        &[("host", "cart.example")],
    );
    assert_eq!(
        headers,
        map(&[("host", "cart.example"), ("k-proxy-request", "activator")])
    );
}

#[test]
fn original_host_of_a_first_pass_is_kept_in_both_modes() {
    let sent = [
        ("host", "cart.ns.svc.cluster.local"),
        ("k-original-host", "cart.example"),
    ];
    assert_eq!(
        addressed(HostMode::QueueProxy, &revision("r"), &sent)["k-original-host"],
        "cart.example"
    );
    assert_eq!(
        addressed(HostMode::Process, &revision("r"), &sent)["host"],
        "cart.example"
    );
}

#[test]
fn an_original_host_that_says_nothing_is_none() {
    let sent = [("host", "cart.example"), ("k-original-host", "")];
    let to_queue_proxy = addressed(HostMode::QueueProxy, &revision("r"), &sent);
    assert_eq!(to_queue_proxy["k-original-host"], "cart.example");
    let to_process = addressed(HostMode::Process, &revision("r"), &sent);
    assert_eq!(to_process["host"], "cart.example");
}

#[test]
fn tags_and_forwarding_headers_reach_the_workload() {
    let sent = [
        ("host", "h"),
        ("knative-serving-tag", "t"),
        ("knative-serving-default-route", "true"),
        ("forwarded", "for=x"),
        ("te", "trailers"),
    ];
    let headers = addressed(HostMode::QueueProxy, &revision("r"), &sent);
    for (name, value) in sent.into_iter().skip(1) {
        assert_eq!(values(&headers, name), [value]);
    }
}

#[test]
fn requests_to_ordinary_services_are_not_touched() {
    let sent = [
        ("host", "h"),
        ("k-network-hash", "x"),
        ("k-original-host", "o"),
        ("knative-serving-revision", "r"),
    ];
    for target in [service("s"), ourselves()] {
        assert_eq!(addressed(HostMode::QueueProxy, &target, &sent), map(&sent));
    }
}

proptest! {
    #[test]
    fn header_that_is_set_is_there_exactly_once(
        sent in prop::collection::vec(("[abc]", "[x-z]{0,3}"), 0..12),
        by_path in prop::collection::vec(("[abc]", "[x-z]{0,3}"), 0..4),
        by_split in prop::collection::vec(("[abc]", "[x-z]{0,3}"), 0..4),
    ) {
        let pairs = |fields: &'_ [(String, String)]| fields.iter().map(|(n, v)| (n.clone(), v.clone())).collect::<Vec<_>>();
        let borrowed = |fields: &[(String, String)]| -> Vec<(&'static str, &'static str)> {
            pairs(fields).into_iter().map(|(n, v)| (&*n.leak(), &*v.leak())).collect()
        };
        let headers = set(&borrowed(&sent), setting(&borrowed(&by_path), &borrowed(&by_split)));
        for name in ["a", "b", "c"] {
            let wanted = by_path.iter().chain(&by_split).rfind(|(set, _)| set == name);
            match wanted {
                Some((_, value)) => prop_assert_eq!(values(&headers, name), [value.clone()]),
                None => prop_assert_eq!(values(&headers, name).len(), sent.iter().filter(|(n, _)| n == name).count()),
            }
        }
    }

    #[test]
    fn nothing_forged_from_outside_survives(named in prop::collection::vec(0..FORGED.len(), 0..20), hops in 0_usize..3) {
        let sent: Vec<_> = named.into_iter().map(|i| FORGED[i]).collect();
        let headers = admitted(&Arrival { trusted_hops: hops, ..OUTSIDE }, &sent);
        for name in NOT_FROM_OUTSIDE {
            prop_assert!(!headers.contains_key(name));
        }
    }

    #[test]
    fn any_forwarding_claims_are_answered_with_one_line_that_ends_with_ours(
        claim in "[ -~]{0,40}", hops in 0_usize..4,
    ) {
        let headers = admitted(&Arrival { trusted_hops: hops, ..OUTSIDE }, &[("host", "h"), ("forwarded", &claim), ("x-forwarded-for", &claim)]);
        let forwarded = values(&headers, "forwarded");
        prop_assert_eq!(forwarded.len(), 1);
        prop_assert!(forwarded[0].ends_with("for=192.0.2.7;host=h;proto=http"));
        let entries = values(&headers, "x-forwarded-for");
        prop_assert!(entries.len() == 1 && entries[0].ends_with("192.0.2.7"));
    }
}

#[test]
fn trailers_say_nothing_that_a_proxy_would_act_on() {
    let mut trailers = HeaderMap::new();
    for name in [
        "x-sum",
        "grpc-status",
        "connection",
        "transfer-encoding",
        "content-length",
        "k-proxy-request",
        "k-original-host",
        "x-forwarded-for",
        "forwarded",
        "knative-serving-revision",
    ] {
        trailers.insert(name, HeaderValue::from_static("1"));
    }
    keep_harmless(&mut trailers);
    let kept: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
    assert_eq!(kept, ["x-sum", "grpc-status"]);
}
