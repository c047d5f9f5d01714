use super::super::fixture::{
    backend, external, headers as fields, ingress, local, mapping, path, revision, service,
};
use super::super::rules::{IngressRules, PathRule};
use super::super::split::{Dealer, Splits};
use super::*;

const EXTERNAL: Visibility = Visibility::ExternalIp;
const LOCAL: Visibility = Visibility::ClusterLocal;
const CART: &str = "cart.shop.svc.cluster.local";

struct Outcome {
    target: Target,
    passes: usize,
    headers: HeaderMap,
}

fn resolve(
    rules: Vec<IngressRules>,
    entrance: Visibility,
    host: &str,
    sent: &[(&str, &str)],
) -> Result<Outcome, NoRoute> {
    let (snapshot, conflicts) = RouteSnapshot::build(1, rules);
    assert_eq!(conflicts, []);
    let mut headers: HeaderMap = fields(sent).into_iter().collect();
    let mut dealer = Dealer::new(0);
    let host = Host::parse(host).unwrap();
    let present = Present::in_head(&headers);
    let resolved = snapshot.resolve(entrance, &host, "/x", &mut headers, present, |found| {
        dealer.choose(found.key, &found.path.splits)
    })?;
    Ok(Outcome {
        target: resolved.backend.target.clone(),
        passes: resolved.passes,
        headers,
    })
}

fn cart() -> IngressRules {
    let tagged = PathRule {
        headers: fields(&[("knative-serving-tag", "beta")]),
        ..path("", revision("cart-beta"))
    };
    ingress(
        "cart",
        vec![local(&[CART], vec![tagged, path("", revision("cart-1"))])],
    )
}

fn domain_mapping() -> IngressRules {
    ingress(
        "cart.example",
        vec![external(
            &["cart.example"],
            vec![mapping("cart.example", CART)],
        )],
    )
}

#[test]
fn domain_mapping_leads_to_the_revision_and_keeps_the_host_the_client_meant() {
    let outcome = resolve(
        vec![cart(), domain_mapping()],
        EXTERNAL,
        "cart.example",
        &[("host", "cart.example")],
    )
    .unwrap();
    assert_eq!(outcome.target, revision("cart-1"));
    assert_eq!(outcome.passes, 2);
    assert_eq!(outcome.headers["k-original-host"], "cart.example");
    assert_eq!(outcome.headers["host"], CART);
}

#[test]
fn tag_from_outside_takes_part_in_every_pass_and_is_not_passed_on() {
    let sent = [("knative-serving-tag", "beta")];
    let outcome = resolve(
        vec![cart(), domain_mapping()],
        EXTERNAL,
        "cart.example",
        &sent,
    )
    .unwrap();
    assert_eq!(outcome.target, revision("cart-beta"));
    assert!(!outcome.headers.contains_key(SERVING_TAG));
}

#[test]
fn tag_stays_when_it_came_from_inside_or_a_rule_sets_it() {
    let inside = resolve(
        vec![cart()],
        LOCAL,
        CART,
        &[("knative-serving-tag", "beta")],
    )
    .unwrap();
    assert_eq!(inside.headers[SERVING_TAG], "beta");

    let setting = PathRule {
        set_headers: fields(&[("knative-serving-tag", "ours")]),
        ..path("", revision("r"))
    };
    let rules = vec![ingress("a", vec![external(&["h"], vec![setting])])];
    let outside = resolve(rules, EXTERNAL, "h", &[("knative-serving-tag", "theirs")]).unwrap();
    assert_eq!(outside.headers[SERVING_TAG], "ours");
}

#[test]
fn probe_through_a_domain_mapping_gets_the_hash_of_the_mapping() {
    let sent = [("k-network-probe", "probe"), ("k-network-hash", "override")];
    let outcome = resolve(
        vec![cart(), domain_mapping()],
        EXTERNAL,
        "cart.example",
        &sent,
    )
    .unwrap();
    assert_eq!(outcome.headers["k-network-hash"], "hash-of-cart.example");
}

#[test]
fn rewritten_host_that_is_not_ours_is_left_to_the_network() {
    let outcome = resolve(vec![domain_mapping()], EXTERNAL, "cart.example", &[]).unwrap();
    assert!(matches!(outcome.target, Target::External { .. }));
    assert_eq!(outcome.passes, 1);
    assert_eq!(outcome.headers["host"], CART);
}

#[test]
fn rule_for_all_hosts_does_not_make_a_rewritten_host_ours() {
    let all = ingress("all", vec![local(&[], vec![path("", revision("r"))])]);
    let outcome = resolve(vec![all, domain_mapping()], EXTERNAL, "cart.example", &[]).unwrap();
    assert!(matches!(outcome.target, Target::External { .. }));
}

#[test]
fn rewritten_host_of_an_ordinary_service_stays_with_that_service() {
    let rewriting = PathRule {
        rewrite_host: Some(CART.to_owned()),
        ..path("", service("plain"))
    };
    let rules = vec![
        cart(),
        ingress("a", vec![external(&["h"], vec![rewriting])]),
    ];
    assert_eq!(
        resolve(rules, EXTERNAL, "h", &[]).unwrap().target,
        service("plain")
    );
}

#[test]
fn three_passes_are_allowed_and_a_circle_is_an_error() {
    let second = ingress(
        "second",
        vec![external(
            &["second.example"],
            vec![mapping("second.example", "cart.example")],
        )],
    );
    let third = ingress(
        "third",
        vec![external(
            &["third.example"],
            vec![mapping("third.example", "second.example")],
        )],
    );
    let rules = vec![cart(), domain_mapping(), second, third];
    assert_eq!(
        resolve(rules.clone(), EXTERNAL, "second.example", &[])
            .unwrap()
            .passes,
        3
    );
    assert_eq!(
        resolve(rules, EXTERNAL, "third.example", &[]).err(),
        Some(NoRoute::Loop)
    );

    let circle = ingress(
        "circle",
        vec![external(
            &["a.example"],
            vec![mapping("a.example", "a.example")],
        )],
    );
    let error = resolve(vec![circle], EXTERNAL, "a.example", &[]).err();
    assert_eq!(error, Some(NoRoute::Loop));
    assert_eq!(NoRoute::Loop.status().as_u16(), 508);
}

#[test]
fn rewritten_host_without_a_matching_path_is_not_found() {
    let cart = ingress(
        "cart",
        vec![local(&[CART], vec![path("/only", revision("r"))])],
    );
    let error = resolve(vec![cart, domain_mapping()], EXTERNAL, "cart.example", &[]).err();
    assert_eq!(error, Some(NoRoute::NoPath));
    assert_eq!(NoRoute::NoPath.status().as_u16(), 404);
}

#[test]
fn each_pass_draws_for_its_own_path() {
    let split = PathRule {
        splits: Splits::try_new(vec![
            (50, backend(revision("a"))),
            (50, backend(revision("b"))),
        ])
        .unwrap(),
        ..path("", revision("a"))
    };
    let rules = vec![
        ingress("cart", vec![local(&[CART], vec![split])]),
        domain_mapping(),
    ];
    let (snapshot, _) = RouteSnapshot::build(1, rules);
    let mut dealer = Dealer::new(0);
    let host = Host::parse("cart.example").unwrap();
    let to_a = (0..100).filter(|_| {
        let resolved = snapshot.resolve(
            EXTERNAL,
            &host,
            "/",
            &mut HeaderMap::new(),
            Present::default(),
            |found| dealer.choose(found.key, &found.path.splits),
        );
        resolved.unwrap().backend.target == revision("a")
    });
    assert_eq!(to_a.count(), 50);
}
