use std::collections::BTreeMap;

use http::HeaderMap;
use proptest::prelude::*;

use super::super::super::fixture::{external, ingress, ingress_name, local, path, revision};
use super::super::super::rules::Backend;
use super::super::super::split::Splits;
use super::super::NoRoute;
use super::*;

const EXTERNAL: Visibility = Visibility::ExternalIp;
const LOCAL: Visibility = Visibility::ClusterLocal;
const DOMAIN: &str = "cluster.local";

fn every_path() -> Vec<PathRule> {
    vec![path("", revision("r"))]
}

fn listing_hosts(name: &str, hosts: &[&str]) -> Arc<IngressRules> {
    Arc::new(ingress(name, vec![external(hosts, every_path())]))
}

fn owner(snapshot: &RouteSnapshot, host: &str) -> Option<String> {
    let host = Host::parse(host).unwrap();
    let found = snapshot.find(LOCAL, &host, "/", &HeaderMap::new());
    found.ok().map(|found| found.ingress.name.to_string())
}

#[test]
fn the_next_oldest_gets_a_host_when_its_owner_leaves_or_lists_it_no_more() {
    let mut table = RouteTable::new(DOMAIN);
    for (created, name) in [(30, "young"), (10, "old"), (20, "middle")] {
        table.set(Age::Created(created), listing_hosts(name, &["h.example"]));
    }
    assert_eq!(
        owner(&table.snapshot(1), "h.example").as_deref(),
        Some("old")
    );

    table.remove(&ingress_name("old"));
    assert_eq!(
        owner(&table.snapshot(2), "h.example").as_deref(),
        Some("middle")
    );

    table.set(
        Age::Created(20),
        listing_hosts("middle", &["other.example"]),
    );
    let routes = table.snapshot(3);
    assert_eq!(owner(&routes, "h.example").as_deref(), Some("young"));
    assert_eq!(owner(&routes, "other.example").as_deref(), Some("middle"));
    assert_eq!(table.conflicts(), []);

    table.remove(&ingress_name("young"));
    assert_eq!(owner(&table.snapshot(4), "h.example"), None);
}

#[test]
fn an_object_that_turns_out_to_be_older_takes_its_hosts() {
    let mut table = RouteTable::new(DOMAIN);
    let (one, other) = (
        listing_hosts("one", &["h.example"]),
        listing_hosts("other", &["h.example"]),
    );
    table.set(Age::Created(1), one);
    table.set(Age::Created(2), Arc::clone(&other));
    assert_eq!(
        owner(&table.snapshot(1), "h.example").as_deref(),
        Some("one")
    );

    table.set(Age::Created(0), other);
    assert_eq!(
        owner(&table.snapshot(2), "h.example").as_deref(),
        Some("other")
    );
    assert_eq!(table.conflicts()[0].ingress, ingress_name("one"));
}

#[test]
fn objects_of_one_second_go_by_name_and_those_without_a_time_come_after_them() {
    let mut table = RouteTable::new(DOMAIN);
    table.set(Age::Written(0), listing_hosts("a", &["h.example"]));
    table.set(Age::Created(5), listing_hosts("c", &["h.example"]));
    table.set(Age::Created(5), listing_hosts("b", &["h.example"]));

    let losers = table
        .conflicts()
        .into_iter()
        .map(|conflict| conflict.ingress);
    assert_eq!(
        losers.collect::<Vec<_>>(),
        [ingress_name("c"), ingress_name("a")]
    );
}

#[test]
fn a_short_form_goes_back_to_the_long_name_when_nobody_lists_it_any_more() {
    let mut table = RouteTable::new(DOMAIN);
    table.set(
        Age::Created(1),
        listing_hosts("long", &["r.ns.svc.cluster.local"]),
    );
    table.set(Age::Created(2), listing_hosts("short", &["r.ns"]));
    assert_eq!(owner(&table.snapshot(1), "r.ns").as_deref(), Some("short"));
    assert_eq!(table.conflicts(), []);

    table.remove(&ingress_name("short"));
    assert_eq!(owner(&table.snapshot(2), "r.ns").as_deref(), Some("long"));
}

#[test]
fn a_snapshot_shares_what_has_not_changed_and_keeps_what_it_said() {
    let mut table = RouteTable::new(DOMAIN);
    for number in 0..1_000 {
        let host = format!("h{number}.example");
        table.set(Age::Written(number), listing_hosts(&host, &[&host]));
    }
    let before = table.snapshot(1);

    table.remove(&ingress_name("h7.example"));
    let after = table.snapshot(2);

    assert_eq!(owner(&before, "h7.example").as_deref(), Some("h7.example"));
    assert_eq!(owner(&after, "h7.example"), None);
    assert_eq!(
        after
            .tables
            .hosts
            .parts_not_shared_with(&before.tables.hosts),
        1
    );
}

#[test]
fn snapshots_between_which_nothing_has_changed_are_one() {
    let mut table = RouteTable::new(DOMAIN);
    let rules = listing_hosts("a", &["h.example"]);
    table.set(Age::Created(1), Arc::clone(&rules));
    let before = table.snapshot(1);

    table.set(Age::Created(1), Arc::new(IngressRules::clone(&rules)));
    let after = table.snapshot(2);

    assert!(Arc::ptr_eq(&before.tables, &after.tables));
    assert_eq!((before.generation(), after.generation()), (1, 2));
}

#[test]
fn hosts_of_one_rule_have_their_routes_once() {
    let mut table = RouteTable::new(DOMAIN);
    let hosts = ["r.ns", "r.ns.svc", "r.ns.svc.cluster.local"];
    table.set(
        Age::Created(1),
        Arc::new(ingress("a", vec![local(&hosts, every_path())])),
    );
    let routes = table.snapshot(1);
    let of = |host: &str| routes.tables.hosts.get(host).unwrap();
    assert!(hosts.iter().all(|host| Arc::ptr_eq(of(host), of("r.ns"))));
}

/// What is written in few lines when nothing need be quick: all claims of all objects, oldest first.
struct Model {
    listed: BTreeMap<String, usize>,
    expanded: BTreeMap<String, usize>,
}

impl Model {
    fn of(ingresses: &[Arc<IngressRules>]) -> (Self, Vec<Conflict>) {
        let mut model = Self {
            listed: BTreeMap::new(),
            expanded: BTreeMap::new(),
        };
        let mut conflicts = Vec::new();
        for (owner, ingress) in ingresses.iter().enumerate() {
            let mut reported = HashSet::new();
            for (written, host) in ingress.rules.iter().flat_map(listed_hosts) {
                let reason = match host {
                    Ok(host) => {
                        let first = *model.listed.entry(host.to_string()).or_insert(owner);
                        if first == owner {
                            for short in short_forms(&host, DOMAIN) {
                                model.expanded.entry(short.to_owned()).or_insert(owner);
                            }
                            continue;
                        }
                        ConflictReason::ClaimedBy(ingresses[first].name.clone())
                    }
                    Err(invalid) => invalid.into(),
                };
                if reported.insert(written) {
                    conflicts.push(Conflict {
                        ingress: ingress.name.clone(),
                        host: written.to_owned(),
                        reason,
                    });
                }
            }
        }
        (model, conflicts)
    }

    /// Where a rule of `owner` is served.
    fn names_of(&self, owner: usize, rule: &Rule) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for host in listed_hosts(rule).filter_map(|(_, host)| host.ok()) {
            if self.listed.get(&*host) != Some(&owner) {
                continue;
            }
            for short in short_forms(&host, DOMAIN) {
                let is_free = self.listed.get(short).is_none_or(|lister| *lister == owner);
                if self.expanded.get(short) == Some(&owner) && is_free {
                    names.insert(short.to_owned());
                }
            }
            names.insert(host.to_string());
        }
        names
    }

    /// The routes of each host at an entrance, as object, rule and position.
    fn routes(&self, ingresses: &[Arc<IngressRules>], entrance: Visibility) -> Routes {
        let mut routes = Routes::new();
        for (owner, ingress) in ingresses.iter().enumerate() {
            for (index, rule) in ingress.rules.iter().enumerate() {
                if entrance == EXTERNAL && rule.visibility == LOCAL {
                    continue;
                }
                for name in self.names_of(owner, rule) {
                    let served = routes.entry(name).or_default();
                    let positions = 0..rule.paths.len();
                    served
                        .extend(positions.map(|position| (ingress.name.clone(), index, position)));
                }
            }
        }
        for served in routes.values_mut() {
            let path = |(name, rule, position): &(IngressName, usize, usize)| {
                let ingress = ingresses.iter().find(|one| one.name == *name).unwrap();
                Reverse(ingress.rules[*rule].paths[*position].prefix.len())
            };
            served.sort_by_key(path);
        }
        routes.retain(|_, served| !served.is_empty());
        routes
    }
}

type Routes = BTreeMap<String, Vec<(IngressName, usize, usize)>>;

fn routes_of(snapshot: &RouteSnapshot, entrance: Visibility) -> Routes {
    let tables = &snapshot.tables;
    let all = tables
        .any
        .iter()
        .map(|routes| (Arc::from(ALL_HOSTS), routes));
    let hosts = tables
        .hosts
        .iter()
        .map(|(host, routes)| (Arc::clone(host), routes));
    let served = hosts.chain(all).map(|(host, routes)| {
        let routes = routes.iter().filter(|route| route.is_for(entrance));
        let routes = routes.map(|route| {
            let at = |number| usize::try_from(number).unwrap();
            (
                route.ingress.name.clone(),
                at(route.rule),
                at(route.position),
            )
        });
        (host.to_string(), routes.collect::<Vec<_>>())
    });
    served.filter(|(_, routes)| !routes.is_empty()).collect()
}

/// Hosts of which many are short forms of each other.
const HOSTS: [&str; 10] = [
    "r.ns",
    "r.ns.svc",
    "r.ns.svc.cluster.local",
    "r.ns.cluster.local",
    "R.ns.svc.cluster.local.",
    "q.7.svc.cluster.local",
    "q.7.svc",
    "q.7",
    "h.example",
    "no host",
];

fn any_rule() -> impl Strategy<Value = Rule> {
    let hosts = prop::sample::subsequence(HOSTS.to_vec(), 0..4);
    let paths = prop::sample::subsequence(vec!["", "/a", "/a/b"], 0..3);
    (hosts, paths, any::<bool>()).prop_map(|(hosts, prefixes, is_local)| {
        let paths = prefixes.iter().map(|prefix| path(prefix, revision("r")));
        let paths = paths.collect();
        if is_local {
            local(&hosts, paths)
        } else {
            external(&hosts, paths)
        }
    })
}

#[derive(Clone, Debug)]
enum Step {
    Set(Age, Arc<IngressRules>),
    Remove(IngressName),
    /// Everything as it is, one KIngress in another place.
    Age(Age, IngressName),
}

fn any_step() -> impl Strategy<Value = Step> {
    let age = prop_oneof![
        (0_i64..3).prop_map(Age::Created),
        (0_usize..3).prop_map(Age::Written)
    ];
    let name = prop::sample::select(vec!["a", "b", "c", "d"]);
    let rules = prop::collection::vec(any_rule(), 0..3);
    prop_oneof![
        4 => (age.clone(), name.clone(), rules).prop_map(|(age, name, rules)| Step::Set(age, Arc::new(ingress(name, rules)))),
        1 => name.clone().prop_map(|name| Step::Remove(ingress_name(name))),
        1 => (age, name).prop_map(|(age, name)| Step::Age(age, ingress_name(name))),
    ]
}

proptest! {
    #[test]
    fn any_changes_lead_to_what_building_from_scratch_would(steps in prop::collection::vec(any_step(), 1..16)) {
        let mut table = RouteTable::new(DOMAIN);
        let mut there: BTreeMap<IngressName, (Age, Arc<IngressRules>)> = BTreeMap::new();
        let mut earlier = Vec::new();
        for step in steps {
            match step {
                Step::Set(age, rules) => {
                    there.insert(rules.name.clone(), (age, Arc::clone(&rules)));
                    table.set(age, rules);
                }
                Step::Remove(name) => {
                    there.remove(&name);
                    table.remove(&name);
                }
                Step::Age(age, name) => {
                    if let Some((known, rules)) = there.get_mut(&name) {
                        *known = age;
                        table.set(age, Arc::clone(rules));
                    }
                }
            }
            let mut oldest_first: Vec<_> = there.values().cloned().collect();
            oldest_first.sort_by_key(|(age, rules)| (*age, rules.name.clone()));
            let ingresses: Vec<_> = oldest_first.into_iter().map(|(_, rules)| rules).collect();
            let (model, conflicts) = Model::of(&ingresses);

            let snapshot = table.snapshot(1);
            for entrance in [EXTERNAL, LOCAL] {
                let expected = model.routes(&ingresses, entrance);
                prop_assert_eq!(&routes_of(&snapshot, entrance), &expected);
                earlier.push((snapshot.clone(), entrance, expected));
            }
            prop_assert_eq!(table.conflicts(), conflicts);
        }
        for (snapshot, entrance, expected) in earlier {
            prop_assert_eq!(routes_of(&snapshot, entrance), expected);
        }
    }

    #[test]
    fn keys_of_drawn_paths_are_known_while_some_object_has_them(steps in prop::collection::vec((0_usize..3, 0_usize..4), 1..12)) {
        let drawn = |prefix: &str| PathRule {
            splits: Splits::try_new(vec![(50, revision("r")), (50, revision("s"))]
                .into_iter()
                .map(|(share, target)| (share, Backend { target, set_headers: Vec::new() }))
                .collect()).unwrap(),
            ..path(prefix, revision("r"))
        };
        let rules = |object: usize, paths: usize| {
            // Two paths of one rule may have one key.
            let paths = (0..paths).map(|path| drawn(["/x", "/y"][path % 2])).collect();
            ingress(&format!("i{object}"), vec![external(&["h.example"], paths)])
        };
        let mut table = RouteTable::new(DOMAIN);
        let mut there = BTreeMap::new();
        for (object, paths) in steps {
            let rules = rules(object, paths);
            there.insert(object, rules.clone());
            table.set(Age::Written(object), Arc::new(rules));
            let snapshot = table.snapshot(1);
            let expected: BTreeSet<PathKey> = there.values().flat_map(keys_of).collect();
            let known: BTreeSet<PathKey> = snapshot.tables.keys.keys().copied().collect();
            prop_assert_eq!(known, expected);
        }
    }
}

#[test]
fn a_host_without_paths_is_not_served() {
    let mut table = RouteTable::new(DOMAIN);
    table.set(
        Age::Created(1),
        Arc::new(ingress("a", vec![external(&["h.example"], Vec::new())])),
    );
    let host = Host::parse("h.example").unwrap();
    let found = table.snapshot(1);
    let found = found.find(EXTERNAL, &host, "/", &HeaderMap::new());
    assert_eq!(found.map(|found| found.rule), Err(NoRoute::UnknownHost));
}
