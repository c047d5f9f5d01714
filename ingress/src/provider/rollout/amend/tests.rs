//! The short way held against the long one.

use std::cell::RefCell;

use proptest::prelude::*;

use super::super::super::document;
use super::super::super::object::{self, Object};
use super::super::super::problem::Problem;
use super::super::super::world::{Options, Unchecked};
use super::*;

/// Objects by their text: what is written the same way is the same value in memory.
#[derive(Default)]
struct Objects(RefCell<HashMap<String, Object>>);

impl Objects {
    fn of(&self, text: &str) -> Object {
        let mut known = self.0.borrow_mut();
        let read = || {
            let (documents, mut problems) = document::read("a.yaml", text.as_bytes());
            let mut objects = Vec::new();
            object::read(&documents[0], &mut objects, &mut problems);
            assert_eq!(problems, []);
            objects.remove(0)
        };
        known.entry(text.to_owned()).or_insert_with(read).clone()
    }
}

/// How a Service is written.
#[derive(Clone, Copy, Debug)]
struct Written {
    template: usize,
    traffic: usize,
    is_local: bool,
    created: usize,
}

const SERVICES: [&str; 4] = ["shop", "blue-shop", "shop-x", "till"];

impl Written {
    fn text(self, name: &str) -> String {
        let template = match self.template {
            0 => "spec: {containers: [{command: [one]}]}".to_owned(),
            1 => "spec: {containers: [{command: [two]}]}".to_owned(),
            2 => "spec: {containers: [{image: elsewhere}]}".to_owned(),
            3 => "metadata: {annotations: {autoscaling.knative.dev/misspelt: x}}, spec: {containers: [{command: [three]}]}".to_owned(),
            // What another Service calls its first Revision.
            _ => format!("metadata: {{name: {name}-x-00001}}, spec: {{containers: [{{command: [four]}}]}}"),
        };
        let traffic = match self.traffic {
            0 => String::new(),
            // A host that another Service may have.
            1 => ", traffic: [{latestRevision: true, percent: 100, tag: blue}]".to_owned(),
            _ => format!(
                ", traffic: [{{latestRevision: true, percent: 50}}, {{revisionName: {name}-00001, percent: 50}}]"
            ),
        };
        let labels = if self.is_local {
            ", labels: {networking.knative.dev/visibility: cluster-local}"
        } else {
            ""
        };
        let created = [
            "",
            ", creationTimestamp: 2026-01-01T00:00:00Z",
            ", creationTimestamp: 2025-01-01T00:00:00Z",
        ][self.created];
        format!(
            "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {{name: {name}{labels}{created}}}\nspec: {{template: {{{template}}}{traffic}}}\n"
        )
    }
}

fn slice(revision: &str, port: u16) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {revision}, labels: {{serving.knative.dev/revision: {revision}}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: {port}}}]\nendpoints: [{{addresses: [127.0.0.1]}}]\n"
    )
}

fn config(domain: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: config-domain, namespace: knative-serving}}\ndata: {{{domain}: \"\"}}\n"
    )
}

#[derive(Clone, Debug)]
enum Step {
    /// A Service is written so, or not at all.
    Write(usize, Option<Written>),
    /// A Revision's endpoints are at this port, or not known.
    Reach(usize, u8, Option<u16>),
    Config(&'static str),
    /// What is written first is written last.
    Turn,
    Ready(usize, u8),
    Failed(usize, u8),
}

fn any_step() -> impl Strategy<Value = Step> {
    let created = prop_oneof![4 => Just(0_usize), 1 => Just(1), 1 => Just(2)];
    let written = (0_usize..5, 0_usize..3, any::<bool>(), created);
    let written = written.prop_map(|(template, traffic, is_local, created)| Written {
        template,
        traffic,
        is_local,
        created,
    });
    let (service, revision) = (0..SERVICES.len(), 1_u8..4);
    prop_oneof![
        6 => (service.clone(), prop::option::weighted(0.85, written)).prop_map(|(service, written)| Step::Write(service, written)),
        4 => (service.clone(), revision.clone(), prop::option::weighted(0.7, 81_u16..84))
            .prop_map(|(service, revision, port)| Step::Reach(service, revision, port)),
        1 => prop::sample::select(vec!["example.com", "example.org"]).prop_map(Step::Config),
        1 => Just(Step::Turn),
        2 => (service.clone(), revision.clone()).prop_map(|(service, revision)| Step::Ready(service, revision)),
        1 => (service, revision).prop_map(|(service, revision)| Step::Failed(service, revision)),
    ]
}

fn rollout() -> Rollout {
    Rollout::new(Options::default(), Arc::new(Unchecked))
}

/// A world without what depends on how it was made, and complaints as people read them.
fn said(outcome: Result<World, Vec<Problem>>) -> Result<String, Vec<String>> {
    let outcome = outcome.map(|world| format!("{world:#?}"));
    outcome.map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

proptest! {
    #[test]
    fn a_small_change_leads_to_what_looking_at_the_whole_would(steps in prop::collection::vec(any_step(), 1..24)) {
        let objects = Objects::default();
        let (mut short, mut long) = (rollout(), rollout());
        let mut services: Vec<(usize, Written)> = Vec::new();
        let mut slices = BTreeMap::new();
        let mut domain = None;
        for step in steps {
            match step {
                Step::Write(service, written) => {
                    match (services.iter().position(|(known, _)| *known == service), written) {
                        (Some(place), Some(written)) => services[place].1 = written,
                        (Some(place), None) => drop(services.remove(place)),
                        (None, Some(written)) => services.push((service, written)),
                        (None, None) => {}
                    }
                }
                Step::Reach(service, revision, port) => {
                    let revision = format!("{}-{revision:05}", SERVICES[service]);
                    match port {
                        Some(port) => drop(slices.insert(revision, port)),
                        None => drop(slices.remove(&revision)),
                    }
                }
                Step::Config(other) => domain = Some(other),
                Step::Turn if services.is_empty() => {}
                Step::Turn => services.rotate_left(1),
                Step::Ready(service, revision) | Step::Failed(service, revision) => {
                    let id = RevisionId::new("default", format!("{}-{revision:05}", SERVICES[service]));
                    let is_ready = matches!(step, Step::Ready(..));
                    let settle = |rollout: &mut Rollout| {
                        let world = if is_ready {
                            rollout.revision_ready(&id)
                        } else {
                            rollout.revision_failed(&id, "it would not")
                        };
                        world.map(|world| said(Ok(world)))
                    };
                    prop_assert_eq!(settle(&mut short), settle(&mut long));
                    continue;
                }
            }
            let mut all: Vec<Object> = slices.iter().map(|(revision, port)| objects.of(&slice(revision, *port))).collect();
            all.extend(domain.map(|domain| objects.of(&config(domain))));
            all.extend(services.iter().map(|(service, written)| objects.of(&written.text(SERVICES[*service]))));
            let outcome = said(short.apply(all.clone()));
            // From now on nothing is known that could be used again.
            prop_assert_eq!(outcome, said(long.apply_as_a_whole(all.into(), Rollout::make_world)));
        }
    }
}

/// Five Services with endpoints.
fn five() -> Vec<String> {
    let services = (0..5).flat_map(|number| {
        let name = format!("s{number}");
        let written = Written {
            template: 2,
            traffic: 0,
            is_local: false,
            created: 0,
        };
        [written.text(&name), slice(&format!("{name}-00001"), 81)]
    });
    services.collect()
}

#[test]
fn usual_changes_take_the_short_way_and_leave_the_rest_as_it_was() {
    let objects = Objects::default();
    let sorted = |texts: &[String]| -> Sorted {
        let objects = texts.iter().map(|text| objects.of(text));
        objects.collect::<Vec<_>>().into()
    };
    let mut rollout = rollout();
    let mut texts = five();
    assert!(rollout.amend(sorted(&texts)).is_err(), "all of it is new");
    let outcome = rollout.apply_as_a_whole(sorted(&texts), |rollout, entries, input| {
        let world = rollout.make_world_one_by_one(entries, input);
        Ok(world.expect("they do not concern each other"))
    });
    let mut before = outcome.unwrap();
    let mut changed = |texts: &[String], rules: usize, revisions: usize| {
        let after = rollout.amend(sorted(texts)).expect("a small change");
        let same = { after.ingresses.iter() }.filter(|rules| {
            before
                .ingresses
                .iter()
                .any(|known| Arc::ptr_eq(known, rules))
        });
        assert_eq!(same.count(), rules);
        let same = { after.revisions.iter() }.filter(|(id, entry)| {
            let known = before.revisions.get(id);
            known.is_some_and(|known| Arc::ptr_eq(known, entry))
        });
        assert_eq!(same.count(), revisions);
        before = after;
    };
    changed(&texts, 5, 5);
    texts[1] = slice("s0-00001", 82);
    changed(&texts, 5, 4);
    texts[2] = texts[2].replace(
        "}}\n",
        "}, traffic: [{latestRevision: true, percent: 100, tag: green}]}\n",
    );
    changed(&texts, 4, 5);
    texts.extend(five()[..2].iter().map(|text| text.replace("s0", "s9")));
    changed(&texts, 5, 5);
    texts.drain(..2);
    changed(&texts, 5, 5);
}
