use super::super::fixture::{
    backend, external, headers as fields, ingress, local, mapping, path, revision, service,
};
use super::super::rules::{IngressRules, PathRule};
use super::super::split::Splits;
use super::*;

const CART: &str = "cart.shop.svc.cluster.local";

fn rules() -> Vec<IngressRules> {
    let by_split = |name| Backend {
        set_headers: fields(&[("knative-serving-revision", name), ("x-split", name)]),
        ..backend(revision(name))
    };
    let split = PathRule {
        splits: Splits::try_new(vec![(80, by_split("cart-1")), (20, by_split("cart-2"))]).unwrap(),
        ..path("", revision("cart-1"))
    };
    let gone = path(
        "/gone",
        Target::Missing {
            reason: "Service shop/gone does not exist".into(),
        },
    );
    vec![
        ingress("cart", vec![local(&[CART], vec![split])]),
        ingress(
            "cart.example",
            vec![external(
                &["cart.example"],
                vec![mapping("cart.example", CART)],
            )],
        ),
        ingress(
            "plain",
            vec![external(
                &["plain.example"],
                vec![path("/api", service("plain")), gone],
            )],
        ),
        ingress(
            "circle",
            vec![external(
                &["circle.example"],
                vec![mapping("circle.example", "circle.example")],
            )],
        ),
    ]
}

fn explained(host: &str, path: &str, next: Option<u8>) -> Explanation {
    let (snapshot, _) = RouteSnapshot::build(3, rules());
    let headers = fields(&[("k-original-host", "forged")])
        .into_iter()
        .collect();
    let next = next.and_then(Percentile::try_new);
    explain(
        &snapshot,
        Visibility::ExternalIp,
        &Method::GET,
        &Host::parse(host).unwrap(),
        path,
        &headers,
        next,
    )
}

fn refusal(host: &str, path: &str) -> (u16, String) {
    let refusal = explained(host, path, Some(0)).refusal.unwrap();
    (refusal.status, refusal.reason)
}

#[test]
fn all_shares_are_shown_and_with_a_draw_the_chosen_one() {
    let chosen = |next| {
        explained("cart.example", "/", next).passes[1]
            .shares
            .iter()
            .map(|share| share.is_chosen)
            .collect::<Vec<_>>()
    };
    assert_eq!(chosen(None), [None, None]);
    assert_eq!(chosen(Some(79)), [Some(true), Some(false)]);
    assert_eq!(chosen(Some(80)), [Some(false), Some(true)]);
}

#[test]
fn explanation_reads_as_a_story() {
    let expected = "\
GET cart.example/x at the external entrance, generation 3
  shop/cart.example rule 0 path 0: every path, host becomes cart.shop.svc.cluster.local
  -> 100 % external parkway-internal.parkway.svc.cluster.local:80, http1, unlimited concurrency, timeout 300s
  shop/cart rule 0 path 0: every path
      80 % revision shop/cart-1, http1, unlimited concurrency, timeout 300s
  ->  20 % revision shop/cart-2, http1, unlimited concurrency, timeout 300s
  set k-proxy-request: activator
  set x-split: cart-2
  remove k-original-host
";
    assert_eq!(
        explained("cart.example", "/x", Some(99)).to_string(),
        expected
    );
}

#[test]
fn cluster_local_host_asked_outside_is_said_to_be_one() {
    let reason =
        format!("{CART} is cluster-local: it is served at the cluster-local entrance only");
    assert_eq!(refusal(CART, "/"), (404, reason));
}

#[test]
fn reasons_for_having_no_route_are_told_apart() {
    assert_eq!(
        refusal("nowhere.example", "/"),
        (404, "no rule serves this host".into())
    );
    assert_eq!(
        refusal("plain.example", "/x"),
        (404, "no path of this host matches".into())
    );
    assert_eq!(
        refusal("plain.example", "/gone"),
        (503, "Service shop/gone does not exist".into())
    );
    assert_eq!(
        refusal("circle.example", "/"),
        (508, "rewritten hosts lead in a circle".into())
    );
}

#[test]
fn explanation_is_json_too() {
    let json = serde_json::to_value(explained("plain.example", "/api/v1", None)).unwrap();
    assert_eq!(json["passes"][0]["ingress"], "shop/plain");
    assert_eq!(json["passes"][0]["shares"][0]["target"], "shop/plain:80");
    assert_eq!(
        json["passes"][0]["shares"][0]["spec"]["timeout_ms"],
        300_000
    );
    assert_eq!(json["refusal"], serde_json::Value::Null);
}
