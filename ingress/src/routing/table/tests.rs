use std::cmp::Reverse;

use proptest::prelude::*;

use super::super::fixture::{external, headers, ingress, ingress_name, local, path, revision};
use super::super::host::InvalidHost;
use super::super::rules::Backend;
use super::super::split::Splits;
use super::claims::short_forms;
use super::*;

const EXTERNAL: Visibility = Visibility::ExternalIp;
const LOCAL: Visibility = Visibility::ClusterLocal;

fn snapshot(ingresses: Vec<IngressRules>) -> RouteSnapshot {
    let (snapshot, conflicts) = RouteSnapshot::build(7, ingresses);
    assert_eq!(conflicts, []);
    snapshot
}

fn found(
    snapshot: &RouteSnapshot,
    entrance: Visibility,
    host: &str,
    path: &str,
) -> Result<String, NoRoute> {
    found_with(snapshot, entrance, host, path, &[])
}

/// The prefix of the path, after the name of its object.
fn found_with(
    snapshot: &RouteSnapshot,
    entrance: Visibility,
    host: &str,
    path: &str,
    fields: &[(&str, &str)],
) -> Result<String, NoRoute> {
    let headers = headers(fields)
        .into_iter()
        .fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        });
    let host = Host::parse(host).unwrap();
    let found = snapshot.find(entrance, &host, path, &headers)?;
    Ok(format!("{}{}", found.ingress.name, found.path.prefix))
}

fn with_headers(prefix: &str, fields: &[(&str, &str)]) -> PathRule {
    PathRule {
        headers: headers(fields),
        ..path(prefix, revision("r"))
    }
}

fn every_path() -> Vec<PathRule> {
    vec![path("", revision("r"))]
}

#[test]
fn external_entrance_serves_external_rules_only_and_the_internal_one_all() {
    let routes = snapshot(vec![ingress(
        "a",
        vec![
            external(&["out.example"], every_path()),
            local(&["in.ns"], every_path()),
        ],
    )]);
    assert_eq!(found(&routes, EXTERNAL, "out.example", "/"), Ok("a".into()));
    assert_eq!(
        found(&routes, EXTERNAL, "in.ns", "/"),
        Err(NoRoute::UnknownHost)
    );
    assert_eq!(found(&routes, LOCAL, "out.example", "/"), Ok("a".into()));
    assert_eq!(found(&routes, LOCAL, "in.ns", "/"), Ok("a".into()));
}

#[test]
fn hosts_of_rules_are_normalised_like_those_of_requests() {
    let routes = snapshot(vec![ingress(
        "a",
        vec![external(&["Shop.Example.", "[2001:DB8::1]"], every_path())],
    )]);
    assert_eq!(
        found(&routes, EXTERNAL, "SHOP.example:8080", "/"),
        Ok("a".into())
    );
    assert_eq!(
        found(&routes, EXTERNAL, "[2001:db8::1]:80", "/"),
        Ok("a".into())
    );
}

#[test]
fn host_must_match_as_a_whole() {
    let routes = snapshot(vec![ingress(
        "a",
        vec![external(&["shop.example"], every_path())],
    )]);
    for host in [
        "shop.example.org",
        "xshop.example",
        "a.shop.example",
        "example",
        "shop",
    ] {
        assert_eq!(
            found(&routes, EXTERNAL, host, "/"),
            Err(NoRoute::UnknownHost),
            "{host}"
        );
    }
}

#[test]
fn names_below_the_cluster_domain_are_known_by_their_short_forms() {
    let routes = snapshot(vec![ingress(
        "a",
        vec![local(&["r.ns.svc.cluster.local"], every_path())],
    )]);
    for host in ["r.ns.svc.cluster.local", "r.ns.svc", "r.ns"] {
        assert_eq!(found(&routes, LOCAL, host, "/"), Ok("a".into()), "{host}");
    }
    assert_eq!(found(&routes, LOCAL, "r", "/"), Err(NoRoute::UnknownHost));
}

#[test]
fn cluster_domain_is_configurable() {
    let rules = vec![ingress(
        "a",
        vec![local(
            &["r.ns.svc.corp.example", "s.ns.svc.cluster.local"],
            every_path(),
        )],
    )];
    let (routes, _) = RouteSnapshot::build_in("corp.example", 1, rules);
    assert_eq!(found(&routes, LOCAL, "r.ns", "/"), Ok("a".into()));
    assert_eq!(
        found(&routes, LOCAL, "s.ns", "/"),
        Err(NoRoute::UnknownHost)
    );
}

#[test]
fn short_forms_that_cannot_be_names_are_left_out() {
    let long = "x".repeat(64);
    let short = |host: &str| {
        short_forms(host, "cluster.local")
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(short("r.ns.svc.cluster.local"), ["r.ns.svc", "r.ns"]);
    assert_eq!(short("r.123.svc.cluster.local"), ["r.123.svc"]);
    assert_eq!(short("r.1-3.svc.cluster.local"), ["r.1-3.svc", "r.1-3"]);
    assert_eq!(
        short(&format!("r.{long}.svc.cluster.local")),
        [format!("r.{long}.svc")]
    );
    assert_eq!(short("r.nscluster.local"), Vec::<String>::new());
    assert_eq!(short("cluster.local"), Vec::<String>::new());
}

#[test]
fn listed_host_belongs_to_its_object_even_if_it_is_the_short_form_of_an_older_one() {
    let routes = snapshot(vec![
        ingress(
            "older",
            vec![external(&["r.ns.svc.cluster.local"], every_path())],
        ),
        ingress("younger", vec![external(&["r.ns"], every_path())]),
    ]);
    assert_eq!(found(&routes, EXTERNAL, "r.ns", "/"), Ok("younger".into()));
    assert_eq!(
        found(&routes, EXTERNAL, "r.ns.svc", "/"),
        Ok("older".into())
    );
}

#[test]
fn first_object_keeps_a_host_and_the_second_learns_who_has_it() {
    let older = ingress("older", vec![external(&["shop.example"], every_path())]);
    let younger = ingress(
        "younger",
        vec![local(&["SHOP.example", "free.example"], every_path())],
    );

    let (routes, conflicts) = RouteSnapshot::build(1, vec![older, younger.clone()]);
    let expected = Conflict {
        ingress: ingress_name("younger"),
        host: "SHOP.example".into(),
        reason: ConflictReason::ClaimedBy(ingress_name("older")),
    };
    assert_eq!(conflicts, [expected]);
    assert_eq!(
        conflicts[0].to_string(),
        "host \"SHOP.example\" of shop/younger: already served for shop/older"
    );
    assert_eq!(
        found(&routes, LOCAL, "shop.example", "/"),
        Ok("older".into())
    );
    assert_eq!(
        found(&routes, LOCAL, "free.example", "/"),
        Ok("younger".into())
    );

    let (routes, conflicts) = RouteSnapshot::build(2, vec![younger]);
    assert_eq!(conflicts, []);
    assert_eq!(
        found(&routes, LOCAL, "shop.example", "/"),
        Ok("younger".into())
    );
}

#[test]
fn hosts_that_are_none_are_reported_and_do_not_become_all_hosts() {
    let (routes, conflicts) = RouteSnapshot::build(
        1,
        vec![ingress(
            "a",
            vec![external(&["*.example", ""], every_path())],
        )],
    );
    let reasons: Vec<_> = conflicts
        .into_iter()
        .map(|conflict| conflict.reason)
        .collect();
    assert_eq!(
        reasons,
        [InvalidHost::Malformed.into(), InvalidHost::Empty.into()]
    );
    assert_eq!(
        found(&routes, EXTERNAL, "shop.example", "/"),
        Err(NoRoute::UnknownHost)
    );
}

#[test]
fn rule_without_hosts_serves_what_no_other_rule_lists() {
    let routes = snapshot(vec![
        ingress("all", vec![external(&[], every_path())]),
        ingress(
            "shop",
            vec![external(
                &["shop.example"],
                vec![path("/cart", revision("r"))],
            )],
        ),
    ]);
    assert_eq!(
        found(&routes, EXTERNAL, "other.example", "/x"),
        Ok("all".into())
    );
    assert_eq!(
        found(&routes, EXTERNAL, "shop.example", "/cart"),
        Ok("shop/cart".into())
    );
    assert_eq!(
        found(&routes, EXTERNAL, "shop.example", "/x"),
        Err(NoRoute::NoPath)
    );
}

#[test]
fn all_hosts_go_to_one_object_too() {
    let all = |name| ingress(name, vec![external(&[], every_path())]);
    let (_, conflicts) = RouteSnapshot::build(1, vec![all("older"), all("younger")]);
    assert_eq!(conflicts.len(), 1);
    assert_eq!(conflicts[0].host, "*");
}

#[test]
fn rules_without_hosts_for_cluster_local_do_not_serve_outside() {
    let routes = snapshot(vec![ingress("all", vec![local(&[], every_path())])]);
    assert_eq!(
        found(&routes, EXTERNAL, "shop.example", "/"),
        Err(NoRoute::UnknownHost)
    );
    assert_eq!(found(&routes, LOCAL, "shop.example", "/"), Ok("all".into()));
}

#[test]
fn prefix_is_compared_as_it_is() {
    let routes = snapshot(vec![ingress(
        "a",
        vec![external(&["h"], vec![path("/foo", revision("r"))])],
    )]);
    assert_eq!(
        found(&routes, EXTERNAL, "h", "/foo/bar"),
        Ok("a/foo".into())
    );
    assert_eq!(found(&routes, EXTERNAL, "h", "/foobar"), Ok("a/foo".into()));
    for other in ["/", "/fo", "/Foo", "//foo", "/%66oo", "*"] {
        assert_eq!(
            found(&routes, EXTERNAL, "h", other),
            Err(NoRoute::NoPath),
            "{other}"
        );
    }
}

#[test]
fn options_asterisk_falls_to_the_path_for_every_path() {
    let routes = snapshot(vec![ingress("a", vec![external(&["h"], every_path())])]);
    assert_eq!(found(&routes, EXTERNAL, "h", "*"), Ok("a".into()));
}

#[test]
fn longest_prefix_goes_first_across_the_rules_of_a_host() {
    let routes = snapshot(vec![ingress(
        "a",
        vec![
            external(
                &["h"],
                vec![path("", revision("r")), path("/a", revision("r"))],
            ),
            external(&["h"], vec![path("/a/b", revision("r"))]),
        ],
    )]);
    assert_eq!(found(&routes, EXTERNAL, "h", "/a/b/c"), Ok("a/a/b".into()));
    assert_eq!(found(&routes, EXTERNAL, "h", "/a/c"), Ok("a/a".into()));
    assert_eq!(found(&routes, EXTERNAL, "h", "/c"), Ok("a".into()));
}

#[test]
fn of_two_equal_paths_the_first_listed_one_wins() {
    let routes = snapshot(vec![ingress(
        "a",
        vec![local(&["h"], every_path()), external(&["h"], every_path())],
    )]);
    let host = Host::parse("h").unwrap();
    assert_eq!(
        routes
            .find(LOCAL, &host, "/", &HeaderMap::new())
            .unwrap()
            .rule,
        0
    );
    assert_eq!(
        routes
            .find(EXTERNAL, &host, "/", &HeaderMap::new())
            .unwrap()
            .rule,
        1
    );
}

#[test]
fn path_that_asks_for_headers_goes_before_one_that_does_not() {
    let paths = vec![
        path("", revision("r")),
        with_headers("", &[("tag", "t")]),
        with_headers("", &[("tag", "t"), ("x", "y")]),
    ];
    let routes = snapshot(vec![ingress("a", vec![external(&["h"], paths)])]);
    let position = |fields: &[(&str, &str)]| {
        let headers = headers(fields).into_iter().collect();
        routes
            .find(EXTERNAL, &Host::parse("h").unwrap(), "/", &headers)
            .unwrap()
            .position
    };
    assert_eq!(position(&[]), 0);
    assert_eq!(position(&[("TAG", "t")]), 1);
    assert_eq!(position(&[("tag", "T")]), 0);
    assert_eq!(position(&[("tag", "t"), ("x", "y")]), 2);
    assert_eq!(position(&[("x", "y")]), 0);
}

#[test]
fn header_that_comes_twice_does_not_match() {
    let routes = snapshot(vec![ingress(
        "a",
        vec![external(&["h"], vec![with_headers("/", &[("tag", "t")])])],
    )]);
    assert_eq!(
        found_with(&routes, EXTERNAL, "h", "/", &[("tag", "t")]),
        Ok("a/".into())
    );
    assert_eq!(
        found_with(&routes, EXTERNAL, "h", "/", &[("tag", "t"), ("tag", "t")]),
        Err(NoRoute::NoPath)
    );
    assert_eq!(
        found_with(
            &routes,
            EXTERNAL,
            "h",
            "/",
            &[("tag", "other"), ("tag", "t")]
        ),
        Err(NoRoute::NoPath)
    );
}

#[test]
fn path_keeps_its_key_when_shares_and_other_rules_change() {
    let shared = |share: u8| {
        let backend = |name| Backend {
            target: revision(name),
            set_headers: Vec::new(),
        };
        let shares = vec![(share, backend("r")), (100 - share, backend("r-2"))];
        vec![PathRule {
            splits: Splits::try_new(shares).unwrap(),
            ..path("", revision("r"))
        }]
    };
    let key = |rules| {
        let routes = snapshot(vec![ingress("a", rules)]);
        let key = routes
            .find(EXTERNAL, &Host::parse("h").unwrap(), "/", &HeaderMap::new())
            .unwrap()
            .key;
        assert!(routes.has_path(key));
        key
    };
    let before = key(vec![external(&["h"], shared(1))]);
    let after = key(vec![
        external(&["new"], every_path()),
        external(&["h"], shared(2)),
    ]);
    let other = key(vec![external(&["h", "i"], shared(1))]);
    assert_eq!(before, after);
    assert_ne!(before, other);
}

#[test]
fn snapshot_lists_its_hosts_with_their_objects() {
    let routes = snapshot(vec![ingress(
        "a",
        vec![
            external(&["h", "i"], every_path()),
            local(&["j"], every_path()),
        ],
    )]);
    let mut hosts: Vec<_> = routes
        .hosts(EXTERNAL)
        .map(|(host, ingress)| format!("{host} {ingress}"))
        .collect();
    hosts.sort();
    assert_eq!(hosts, ["h shop/a", "i shop/a"]);
    assert_eq!(routes.hosts(LOCAL).count(), 3);
    assert_eq!(routes.generation(), 7);
}

#[test]
fn ten_thousand_hosts_are_all_found() {
    let rules = (0..10_000).map(|i| {
        ingress(
            &format!("i{i}"),
            vec![external(&[&format!("h{i}.example")], every_path())],
        )
    });
    let routes = snapshot(rules.collect());
    for i in 0..10_000 {
        assert_eq!(
            found(&routes, EXTERNAL, &format!("h{i}.example"), "/"),
            Ok(format!("i{i}"))
        );
    }
}

proptest! {
    /// The order said in words: among the paths that match, the longest prefix, then the most headers, then the first.
    #[test]
    fn path_found_is_the_one_the_order_names(
        listed in prop::collection::vec(("(/[ab]{0,2}){0,2}", 0_usize..3), 1..8),
        asked in "(/[ab]{0,2}){1,3}",
        sent in 0_usize..3,
    ) {
        const FIELDS: [(&str, &str); 2] = [("x", "1"), ("y", "2")];
        let paths = listed.iter().map(|(prefix, fields)| with_headers(prefix, &FIELDS[..*fields])).collect();
        let routes = snapshot(vec![ingress("a", vec![external(&["h"], paths)])]);

        let matching = listed.iter().enumerate().filter(|(_, (prefix, fields))| asked.starts_with(prefix) && *fields <= sent);
        let expected = matching.min_by_key(|(position, (prefix, fields))| (Reverse(prefix.len()), Reverse(*fields), *position));

        let headers = headers(&FIELDS[..sent]).into_iter().collect();
        let found = routes.find(EXTERNAL, &Host::parse("h").unwrap(), &asked, &headers);
        let found = found.ok().map(|found| found.position);
        prop_assert_eq!(found, expected.map(|(position, _)| position));
    }
}
