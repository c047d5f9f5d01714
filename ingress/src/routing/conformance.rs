//! The rows of Knative's ingress conformance suite that concern routing, on KIngress objects recorded from it.
//!
//! Source: knative/networking `test/conformance/ingress`; each test here is named after the one there.

use std::collections::BTreeMap;

use http::{HeaderMap, Request, Version};

use super::fixture::{headers as fields, recorded};
use super::headers::{self, Arrival, EntranceKind, HostMode, Present, Scheme};
use super::host::Host;
use super::probe::probe_answer;
use super::rules::{Target, Visibility};
use super::split::Dealer;
use super::table::{NoRoute, RouteSnapshot};
use super::validate::{Limits, validate};

const OUTSIDE: Visibility = Visibility::ExternalIp;
const INSIDE: Visibility = Visibility::ClusterLocal;

/// A front end without a network: from the head of a request to the head that would be sent on.
struct Gateway {
    snapshot: RouteSnapshot,
    dealer: Dealer,
}

/// What a backend would see.
struct Seen {
    target: Target,
    headers: HeaderMap,
    hash: String,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next().map(|value| value.to_str().unwrap());
        assert!(values.next().is_none(), "{name} comes twice");
        value
    }

    fn revision(&self) -> &str {
        match &self.target {
            Target::Revision { id, .. } => id.name(),
            other => panic!("{other:?} is no Revision"),
        }
    }
}

impl Gateway {
    fn with(files: &[&str]) -> Self {
        let (snapshot, conflicts) =
            RouteSnapshot::build(1, files.iter().map(|file| recorded(file)).collect());
        assert_eq!(conflicts, []);
        Self {
            snapshot,
            dealer: Dealer::new(0),
        }
    }

    fn update(&mut self, file: &str) {
        let (snapshot, conflicts) =
            RouteSnapshot::build(self.snapshot.generation() + 1, vec![recorded(file)]);
        assert_eq!(conflicts, []);
        self.dealer.retain(|path| snapshot.has_path(path));
        self.snapshot = snapshot;
    }

    fn get(
        &mut self,
        entrance: Visibility,
        host: &str,
        path: &str,
        sent: &[(&str, &str)],
    ) -> Result<Seen, NoRoute> {
        let mut parts = Request::builder()
            .version(Version::HTTP_11)
            .uri(path)
            .header("host", host)
            .body(())
            .unwrap()
            .into_parts()
            .0;
        parts.headers.extend(fields(sent));
        let host = validate(&parts, &Limits::default()).unwrap().host.unwrap();
        let arrival = Arrival {
            entrance: EntranceKind::Gateway(entrance),
            peer: [192, 0, 2, 1].into(),
            scheme: Scheme::Http,
            trusted_hops: 0,
        };
        headers::admit(&mut parts, &arrival);
        let Self { snapshot, dealer } = self;
        let present = Present::in_head(&parts.headers);
        let fields = &mut parts.headers;
        let found = snapshot.resolve(entrance, &host.host(), path, fields, present, |found| {
            dealer.choose(found.key, &found.path.splits)
        })?;
        let mut headers = parts.headers;
        let endpoint = ([10, 0, 0, 1], 8012).into();
        let hash = found.matched.hash.to_string();
        let target = found.backend.target.clone();
        headers::address(
            &mut headers,
            &target,
            HostMode::QueueProxy,
            std::net::SocketAddr::into(endpoint),
        );
        Ok(Seen {
            target,
            headers,
            hash,
        })
    }

    fn status(&mut self, entrance: Visibility, host: &str) -> u16 {
        self.get(entrance, host, "/", &[])
            .map_or_else(|no_route| no_route.status().as_u16(), |_seen| 200)
    }

    /// How often each value of the header reaches a backend.
    fn count(
        &mut self,
        entrance: Visibility,
        host: &str,
        path: &str,
        header: &str,
        requests: usize,
    ) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..requests {
            let seen = self
                .get(entrance, host, path, &[(header, "bogus")])
                .unwrap();
            *counts
                .entry(seen.header(header).unwrap().to_owned())
                .or_default() += 1;
        }
        counts
    }
}

/// The hosts of a recorded object in their listed order.
fn hosts(file: &str) -> Vec<String> {
    recorded(file)
        .rules
        .into_iter()
        .flat_map(|rule| rule.hosts)
        .map(|host| host.to_string())
        .collect()
}

/// The values its paths and splits set, in their listed order.
fn markers(file: &str) -> Vec<String> {
    let rules = recorded(file).rules.into_iter();
    let paths = rules.flat_map(|rule| rule.paths);
    let fields = paths.flat_map(|path| {
        let by_splits: Vec<_> = path
            .splits
            .iter()
            .flat_map(|(_, backend)| backend.set_headers.clone())
            .collect();
        path.set_headers.clone().into_iter().chain(by_splits)
    });
    fields
        .map(|(_, value)| value.to_str().unwrap().to_owned())
        .collect()
}

#[test]
fn basics() {
    assert_eq!(
        Gateway::with(&["basics"]).status(OUTSIDE, &hosts("basics")[0]),
        200
    );
}

#[test]
fn grpc_authority_with_a_port_is_the_same_host() {
    let host = format!("{}:80", hosts("grpc")[0]);
    assert_eq!(Gateway::with(&["grpc"]).status(OUTSIDE, &host), 200);
}

#[test]
fn grpc_and_websocket_splits_reach_both_backends() {
    for file in ["grpc-split", "websocket-split"] {
        let mut gateway = Gateway::with(&[file]);
        let host = &hosts(file)[0];
        let mut counts = BTreeMap::new();
        for _ in 0..100 {
            let seen = gateway.get(OUTSIDE, host, "/", &[]).unwrap();
            *counts.entry(format!("{:?}", seen.target)).or_insert(0) += 1;
        }
        assert_eq!(counts.into_values().collect::<Vec<_>>(), [50, 50], "{file}");
    }
}

#[test]
fn headers_pre_split() {
    let file = "headers-pre-split";
    let counts = Gateway::with(&[file]).count(OUTSIDE, &hosts(file)[0], "/", "foo-bar-baz", 1);
    assert_eq!(counts, BTreeMap::from([(markers(file)[0].clone(), 1)]));
}

#[test]
fn headers_post_split() {
    let file = "headers-post-split";
    let mut gateway = Gateway::with(&[file]);
    let (host, markers) = (&hosts(file)[0], markers(file));
    let shares = recorded(file).rules[0].paths[0].splits.clone();
    for _ in 0..100 {
        let seen = gateway
            .get(OUTSIDE, host, "/", &[("foo-bar-baz", "bogus")])
            .unwrap();
        let backend = shares
            .iter()
            .position(|(_, backend)| backend.target == seen.target)
            .unwrap();
        assert_eq!(seen.header("foo-bar-baz"), Some(markers[backend].as_str()));
    }
    let counts = gateway.count(OUTSIDE, host, "/", "foo-bar-baz", 100);
    assert_eq!(
        counts,
        markers.into_iter().map(|marker| (marker, 25)).collect()
    );
}

#[test]
fn headers_probe() {
    let mut gateway = Gateway::with(&["headers-probe"]);
    let host = &hosts("headers-probe")[0];
    for (sent, expected) in [("override", "hash-of-headers-probe"), ("a-hash", "a-hash")] {
        let probe = [("k-network-probe", "probe"), ("k-network-hash", sent)];
        let seen = gateway.get(OUTSIDE, host, "/", &probe).unwrap();
        assert_eq!(seen.header("k-network-probe"), Some("probe"));
        assert_eq!(seen.header("k-network-hash"), Some(expected));
    }
}

#[test]
fn headers_tags() {
    let mut gateway = Gateway::with(&["headers-tags"]);
    let host = &hosts("headers-tags")[0];
    let mut backend = |sent: &[(&str, &str)]| {
        let seen = gateway.get(OUTSIDE, host, "/", sent).unwrap();
        seen.header("which-backend").unwrap().to_owned()
    };
    assert_eq!(backend(&[("knative-serving-tag", "the-tag")]), "tag");
    assert_eq!(backend(&[("Knative-Serving-Tag", "")]), "no-tag");
    assert_eq!(backend(&[("Knative-Serving-Tag", "other")]), "no-tag");
    assert_eq!(backend(&[]), "no-tag");
}

#[test]
fn hosts_multiple() {
    let mut gateway = Gateway::with(&["hosts-multiple"]);
    let hosts = hosts("hosts-multiple");
    assert_eq!(hosts.len(), 4);
    for host in hosts {
        assert_eq!(gateway.status(OUTSIDE, &host), 200, "{host}");
    }
}

#[test]
fn dispatch_path() {
    let mut gateway = Gateway::with(&["dispatch-path"]);
    let (host, markers) = (&hosts("dispatch-path")[0], markers("dispatch-path"));
    for (path, expected) in [
        ("/foo", 0),
        ("/bar", 1),
        ("/baz", 2),
        ("/asdf", 3),
        ("/", 3),
    ] {
        let counts = gateway.count(OUTSIDE, host, path, "which-backend", 10);
        assert_eq!(
            counts,
            BTreeMap::from([(markers[expected].clone(), 10)]),
            "{path}"
        );
    }
}

#[test]
fn dispatch_percentage() {
    let expected = [1, 2, 4, 8, 16, 32, 37, 0, 0, 0];
    for (file, entrance) in [
        ("dispatch-percentage", OUTSIDE),
        ("visibility-split", INSIDE),
    ] {
        let counts =
            Gateway::with(&[file]).count(entrance, &hosts(file)[0], "/", "foo-bar-baz", 1000);
        let counts: Vec<_> = markers(file)
            .iter()
            .map(|marker| counts.get(marker).copied().unwrap_or(0) / 10)
            .collect();
        assert_eq!(counts, expected, "{file}");
    }
}

#[test]
fn dispatch_path_and_percentage() {
    let file = "dispatch-path-and-percentage";
    let mut gateway = Gateway::with(&[file]);
    let (host, markers) = (&hosts(file)[0], markers(file));
    let counts = gateway.count(OUTSIDE, host, "/foo", "which-backend", 1000);
    assert_eq!(
        counts,
        BTreeMap::from([(markers[0].clone(), 500), (markers[1].clone(), 500)])
    );
    let counts = gateway.count(OUTSIDE, host, "/", "which-backend", 10);
    assert_eq!(counts, BTreeMap::from([(markers[2].clone(), 10)]));
}

#[test]
fn dispatch_rule() {
    let mut gateway = Gateway::with(&["dispatch-rule"]);
    for (host, marker) in hosts("dispatch-rule").iter().zip(markers("dispatch-rule")) {
        let counts = gateway.count(OUTSIDE, host, "/", "foo-bar-baz", 10);
        assert_eq!(counts, BTreeMap::from([(marker, 10)]));
    }
}

#[test]
fn update() {
    let mut gateway = Gateway::with(&["update"]);
    let host = &hosts("update")[0];
    let before = gateway.get(OUTSIDE, host, "/", &[]).unwrap();
    assert_eq!(
        before.header("who-are-you"),
        Some(markers("update")[0].as_str())
    );

    gateway.update("update.v2");

    let after = gateway.get(OUTSIDE, host, "/", &[]).unwrap();
    assert_eq!(
        after.header("who-are-you"),
        Some(markers("update.v2")[0].as_str())
    );
    assert_ne!(after.hash, before.hash);
}

#[test]
fn visibility() {
    let mut gateway = Gateway::with(&["visibility", "visibility-split", "visibility-path"]);
    let hosts: Vec<_> = ["visibility", "visibility-split", "visibility-path"]
        .into_iter()
        .flat_map(hosts)
        .collect();
    assert_eq!(hosts.len(), 5);
    for host in hosts {
        assert_eq!(gateway.status(OUTSIDE, &host), 404, "{host}");
        assert_eq!(gateway.status(INSIDE, &host), 200, "{host}");
    }
}

#[test]
fn visibility_path() {
    let mut gateway = Gateway::with(&["visibility-path"]);
    let (host, markers) = (&hosts("visibility-path")[0], markers("visibility-path"));
    for (path, expected) in [("/foo", 0), ("/bar", 1), ("/baz", 2), ("/asdf", 3)] {
        let counts = gateway.count(INSIDE, host, path, "which-backend", 10);
        assert_eq!(
            counts,
            BTreeMap::from([(markers[expected].clone(), 10)]),
            "{path}"
        );
    }
}

#[test]
fn host_rewrite() {
    let mut gateway = Gateway::with(&["host-rewrite", "host-rewrite-local"]);
    let inside = &hosts("host-rewrite-local")[0];
    let expected = gateway.get(INSIDE, inside, "/", &[]).unwrap().target;
    assert!(matches!(expected, Target::Service { .. }));
    for host in hosts("host-rewrite") {
        let seen = gateway.get(OUTSIDE, &host, "/", &[]).unwrap();
        assert_eq!(seen.target, expected);
        assert_eq!(seen.header("host"), Some(inside.as_str()));
    }
    assert_eq!(gateway.status(OUTSIDE, inside), 404);
}

#[test]
fn routes_of_serving_overwrite_the_revision_a_client_asks_for() {
    let mut gateway = Gateway::with(&["serving-split", "serving-single"]);
    let forged = [
        ("knative-serving-revision", "single-00001"),
        ("knative-serving-namespace", "other"),
    ];
    for entrance in [OUTSIDE, INSIDE] {
        let mut counts = BTreeMap::new();
        for _ in 0..100 {
            let seen = gateway
                .get(entrance, "split.fixtures.example.com", "/", &forged)
                .unwrap();
            assert_eq!(seen.header("knative-serving-revision"), None);
            assert_eq!(
                seen.header("k-original-host"),
                Some("split.fixtures.example.com")
            );
            *counts.entry(seen.revision().to_owned()).or_default() += 1;
        }
        assert_eq!(
            counts,
            BTreeMap::from([("split-v1".to_owned(), 80), ("split-v2".to_owned(), 20)])
        );
    }
}

#[test]
fn probe_for_a_revision_is_answered_with_the_hash_of_its_object() {
    let gateway = Gateway::with(&["serving-single"]);
    let probe: HeaderMap = fields(&[("k-network-probe", "probe"), ("k-network-hash", "override")])
        .into_iter()
        .collect();
    let host = Host::parse("single.fixtures").unwrap();
    let found = gateway
        .snapshot
        .find(INSIDE, &host, "/healthz", &probe)
        .unwrap();
    let answer = probe_answer(&probe, found.hash).unwrap();
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, ""));
    assert_eq!(answer.hash.unwrap(), "hash-of-serving-single");
}

#[test]
fn domain_mapping_of_serving_reaches_the_revision_with_the_mapped_host() {
    let mut gateway = Gateway::with(&["serving-domain-mapping", "serving-single"]);
    let seen = gateway
        .get(
            OUTSIDE,
            "shop.example.org",
            "/",
            &[("k-original-host", "forged")],
        )
        .unwrap();
    assert_eq!(seen.revision(), "single-00001");
    assert_eq!(seen.header("k-original-host"), Some("shop.example.org"));
    assert_eq!(seen.header("host"), Some("10.0.0.1:8012"));
}

#[test]
fn tag_header_based_routing_of_serving() {
    let mut gateway = Gateway::with(&["serving-tag-header"]);
    for (host, tag, revision, default_route) in [
        ("tagheader.fixtures", "beta", "tagheader-v2", None),
        ("tagheader.fixtures", "other", "tagheader-v1", Some("true")),
        (
            "tagheader.fixtures.example.com",
            "beta",
            "tagheader-v2",
            None,
        ),
        ("beta-tagheader.fixtures", "other", "tagheader-v2", None),
    ] {
        let seen = gateway
            .get(INSIDE, host, "/", &[("knative-serving-tag", tag)])
            .unwrap();
        assert_eq!(seen.revision(), revision, "{host} {tag}");
        assert_eq!(
            seen.header("knative-serving-default-route"),
            default_route,
            "{host} {tag}"
        );
    }
    let outside = gateway
        .get(
            OUTSIDE,
            "tagheader.fixtures.example.com",
            "/",
            &[("knative-serving-tag", "beta")],
        )
        .unwrap();
    assert_eq!(outside.revision(), "tagheader-v2");
    assert_eq!(outside.header("knative-serving-tag"), None);
}

#[test]
fn cluster_local_service_of_serving_is_unknown_outside_under_all_its_names() {
    let mut gateway = Gateway::with(&["serving-local"]);
    let hosts = hosts("serving-local");
    assert!(hosts.len() >= 3);
    for host in hosts {
        assert_eq!(gateway.status(OUTSIDE, &host), 404, "{host}");
        assert_eq!(gateway.status(INSIDE, &host), 200, "{host}");
    }
}

#[test]
fn recorded_objects_live_side_by_side() {
    let files = [
        "basics",
        "grpc",
        "grpc-split",
        "headers-pre-split",
        "headers-post-split",
        "headers-probe",
        "headers-tags",
        "host-rewrite",
        "host-rewrite-local",
        "hosts-multiple",
        "dispatch-path",
        "dispatch-percentage",
        "dispatch-path-and-percentage",
        "dispatch-rule",
        "retry",
        "timeout",
        "update",
        "visibility",
        "visibility-split",
        "visibility-path",
        "websocket-split",
        "serving-domain-mapping",
        "serving-single",
        "serving-split",
        "serving-local",
        "serving-tag-header",
    ];
    let mut gateway = Gateway::with(&files);
    for host in files.iter().flat_map(|file| hosts(file)) {
        assert_eq!(gateway.status(INSIDE, &host), 200, "{host}");
    }
}
