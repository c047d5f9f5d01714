//! Services over time, told as stories.

use super::super::document;
use super::super::object;
use super::super::world::Unchecked;
use super::*;

/// A configuration that is edited, and what comes of it.
struct Story {
    rollout: Rollout,
}

impl Story {
    fn new() -> Self {
        Self {
            rollout: Rollout::new(Options::default(), Arc::new(Unchecked)),
        }
    }

    fn apply(&mut self, manifest: &str) -> Result<World, Vec<Problem>> {
        let (documents, mut problems) = document::read("a.yaml", manifest.as_bytes());
        let mut objects = Vec::new();
        for document in &documents {
            object::read(document, &mut objects, &mut problems);
        }
        assert_eq!(problems, []);
        self.rollout.apply(objects)
    }

    fn shows(&mut self, manifest: &str) -> World {
        self.apply(manifest).expect("an accepted manifest")
    }

    fn refusal(&mut self, manifest: &str) -> String {
        let problems = self.apply(manifest).expect_err("a refused manifest");
        let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        texts.join("\n")
    }

    fn ready(&mut self, name: &str) -> Option<World> {
        self.rollout
            .revision_ready(&RevisionId::new("default", name))
    }

    fn failed(&mut self, name: &str, reason: &str) -> Option<World> {
        self.rollout
            .revision_failed(&RevisionId::new("default", name), reason)
    }
}

/// A Service `shop` that runs `command`.
fn shop(command: &str) -> String {
    service("", command, "")
}

fn named(name: &str, command: &str, traffic: &str) -> String {
    service(&format!("metadata: {{name: {name}}}, "), command, traffic)
}

fn service(metadata: &str, command: &str, traffic: &str) -> String {
    format!(
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {{name: shop}}\nspec:\n  template: {{{metadata}spec: {{containers: [{{command: [{command}]}}]}}}}\n{traffic}"
    )
}

fn traffic(targets: &[(&str, u8)]) -> String {
    let target = |(name, percent): &(&str, u8)| match *name {
        "latest" => format!("  - {{latestRevision: true, percent: {percent}}}\n"),
        name => format!("  - {{revisionName: {name}, percent: {percent}}}\n"),
    };
    let targets: String = targets.iter().map(target).collect();
    format!("  traffic:\n{targets}")
}

/// Who has the traffic of `shop`, as its URL shows it.
fn shares(world: &World) -> Vec<(&str, u8)> {
    let url = world
        .urls
        .iter()
        .find(|url| url.tag.is_none())
        .expect("a URL");
    url.shares
        .iter()
        .map(|(name, percent)| (&**name, *percent))
        .collect()
}

/// The Revisions, a `+` before those that must prove themselves.
fn revisions(world: &World) -> Vec<String> {
    let show = |(id, entry): (&RevisionId, &Arc<RevisionEntry>)| {
        format!("{}{}", if entry.takeover { "+" } else { "" }, id.name())
    };
    world.revisions.iter().map(show).collect()
}

#[test]
fn the_first_revision_has_the_traffic_at_once() {
    let world = Story::new().shows(&shop("one"));
    assert_eq!(shares(&world), [("shop-00001", 100)]);
    assert_eq!(revisions(&world), ["shop-00001"]);
    assert_eq!(world.generation, 1);
}

#[test]
fn a_changed_template_takes_over_when_it_is_ready() {
    let mut story = Story::new();
    story.shows(&shop("one"));

    let world = story.shows(&shop("two"));
    assert_eq!(shares(&world), [("shop-00001", 100)]);
    assert_eq!(revisions(&world), ["shop-00001", "+shop-00002"]);

    let world = story.ready("shop-00002").expect("a new world");
    assert_eq!(shares(&world), [("shop-00002", 100)]);
    assert_eq!(revisions(&world), ["shop-00002"], "the old one is retired");
    assert_eq!(world.generation, 3);
    assert!(
        story.ready("shop-00002").is_none(),
        "nothing waits any more"
    );
}

#[test]
fn an_unchanged_template_makes_no_revision() {
    let mut story = Story::new();
    story.shows(&shop("one"));
    let world = story.shows(&format!("# moved by a line\n{}", shop("one")));
    assert_eq!(revisions(&world), ["shop-00001"]);
    let entry = world.revisions.values().next().expect("a Revision");
    assert_eq!(entry.origin.line(), 2, "where it stands now");
}

#[test]
fn a_revision_that_fails_leaves_the_traffic_where_it_was_and_is_visible() {
    let mut story = Story::new();
    story.shows(&shop("one"));
    story.shows(&shop("two"));

    let world = story
        .failed("shop-00002", "it exited with status 1")
        .expect("a new world");

    assert_eq!(shares(&world), [("shop-00001", 100)]);
    assert_eq!(revisions(&world), ["shop-00001"]);
    assert_eq!(
        world.warnings[0].to_string(),
        "a.yaml:5:3: warning: the Revision shop-00002 did not become ready: it exited with status 1\n  at spec.template\n  help: shop-00001 keeps the traffic; change the template"
    );
    let again = story.shows(&shop("two"));
    assert_eq!(
        again.warnings.len(),
        1,
        "it stays visible, and is not tried again"
    );
    assert_eq!(revisions(&again), ["shop-00001"]);

    let world = story.shows(&shop("three"));
    assert_eq!(revisions(&world), ["shop-00001", "+shop-00003"]);
    assert_eq!(world.warnings, []);
}

#[test]
fn a_template_that_changes_again_before_it_is_ready_gives_up_the_one_between() {
    let mut story = Story::new();
    story.shows(&shop("one"));
    story.shows(&shop("two"));
    let world = story.shows(&shop("three"));
    assert_eq!(revisions(&world), ["shop-00001", "+shop-00003"]);

    assert!(
        story.ready("shop-00002").is_none(),
        "nothing waits for it any more"
    );
    let world = story.ready("shop-00003").expect("a new world");
    assert_eq!(shares(&world), [("shop-00003", 100)]);
}

#[test]
fn a_template_that_goes_back_is_a_new_revision() {
    let mut story = Story::new();
    story.shows(&shop("one"));
    story.shows(&shop("two"));
    story.ready("shop-00002");
    let world = story.shows(&shop("one"));
    assert_eq!(revisions(&world), ["shop-00002", "+shop-00003"]);
}

#[test]
fn traffic_can_be_given_back_to_a_retired_revision() {
    let mut story = Story::new();
    story.shows(&shop("one"));
    story.shows(&shop("two"));
    story.ready("shop-00002");

    let back = service("", "two", &traffic(&[("shop-00001", 90), ("latest", 10)]));
    let world = story.shows(&back);

    assert_eq!(shares(&world), [("shop-00001", 90), ("shop-00002", 10)]);
    assert_eq!(revisions(&world), ["shop-00001", "shop-00002"]);
}

#[test]
fn a_template_may_be_named_and_taken_up_again() {
    let mut story = Story::new();
    story.shows(&named("shop-a", "one", ""));
    story.shows(&named("shop-b", "two", ""));
    assert_eq!(
        shares(&story.ready("shop-b").expect("a new world")),
        [("shop-b", 100)]
    );

    let world = story.shows(&named("shop-a", "one", ""));
    assert_eq!(
        shares(&world),
        [("shop-a", 100)],
        "it has proved itself before"
    );
    let world = story.shows(&shop("four"));
    assert_eq!(
        revisions(&world),
        ["+shop-00004", "shop-a"],
        "named templates count"
    );
}

#[test]
fn a_changed_template_under_its_old_name_is_refused_and_changes_nothing() {
    let mut story = Story::new();
    story.shows(&named("shop-a", "one", ""));
    assert_eq!(
        story.refusal(&named("shop-a", "two", "")),
        "a.yaml:5:25: error: the template has changed, but a Revision shop-a exists already\n  at spec.template.metadata.name = shop-a\n  help: a Revision cannot be changed: give the template a new name, or none"
    );
    let world = story.shows(&named("shop-a", "one", ""));
    assert_eq!(revisions(&world), ["shop-a"]);
}

#[test]
fn a_refused_state_counts_for_nothing() {
    let mut story = Story::new();
    story.shows(&shop("one"));
    story.refusal(&service("", "two", &traffic(&[("shop-gone", 100)])));
    let world = story.shows(&shop("three"));
    assert_eq!(revisions(&world), ["shop-00001", "+shop-00002"]);
    assert_eq!(world.generation, 2);
}

#[test]
fn traffic_that_names_an_unproven_revision_waits_as_a_whole() {
    let mut story = Story::new();
    story.shows(&named("shop-a", "one", ""));

    let split = traffic(&[("shop-a", 80), ("shop-b", 20)]);
    let world = story.shows(&named("shop-b", "two", &split));
    assert_eq!(shares(&world), [("shop-a", 100)]);
    assert_eq!(revisions(&world), ["shop-a", "+shop-b"]);

    let world = story.ready("shop-b").expect("a new world");
    assert_eq!(shares(&world), [("shop-a", 80), ("shop-b", 20)]);
    assert_eq!(revisions(&world), ["shop-a", "shop-b"]);
}

#[test]
fn a_mistake_in_traffic_that_waits_is_told_at_once() {
    let mut story = Story::new();
    story.shows(&named("shop-a", "one", ""));
    let tag = "t".repeat(60);
    let tagged = format!("  traffic: [{{revisionName: shop-b, percent: 100, tag: {tag}}}]\n");
    let refusal = story.refusal(&named("shop-b", "two", &tagged));
    assert!(refusal.contains("would not be a host name"), "{refusal}");
}

#[test]
fn a_latest_revision_without_traffic_is_not_started() {
    let mut story = Story::new();
    let pinned = traffic(&[("shop-a", 100)]);
    story.shows(&named("shop-a", "one", &pinned));
    let world = story.shows(&named("shop-b", "two", &pinned));
    assert_eq!(revisions(&world), ["shop-a"]);
    let world = story.shows(&named("shop-b", "two", &traffic(&[("latest", 100)])));
    assert_eq!(revisions(&world), ["shop-a", "+shop-b"]);
    assert_eq!(shares(&world), [("shop-a", 100)]);
}

#[test]
fn a_revision_document_is_there_at_once_and_cannot_be_changed() {
    let revision = |command: &str| {
        format!(
            "apiVersion: serving.knative.dev/v1\nkind: Revision\nmetadata: {{name: shop-old}}\nspec: {{containers: [{{command: [{command}]}}]}}\n---\n"
        )
    };
    let split = service("", "one", &traffic(&[("shop-old", 50), ("latest", 50)]));
    let mut story = Story::new();
    let world = story.shows(&(revision("old") + &split));
    assert_eq!(shares(&world), [("shop-old", 50), ("shop-00001", 50)]);
    assert_eq!(
        story.refusal(&(revision("other") + &split)),
        "a.yaml:4:1: error: a Revision cannot be changed\n  at spec\n  help: give the changed one a new metadata.name"
    );
    let refusal = story.refusal(&split);
    assert!(
        refusal.contains("there is no Revision shop-old"),
        "{refusal}"
    );
}

#[test]
fn someone_elses_endpoints_prove_a_revision_by_being_there() {
    let image = |image: &str| shop("x").replace("command: [x]", &format!("image: {image}"));
    let slice = |revision: &str, endpoints: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s-{revision}, labels: {{kubernetes.io/service-name: {revision}}}}}\naddressType: IPv4\nports: [{{port: 80}}]\nendpoints: [{endpoints}]\n"
        )
    };
    let ready = "{addresses: [127.0.0.1]}";
    let mut story = Story::new();
    let old = slice("shop-00001", ready);
    story.shows(&(image("one") + &old));

    let world = story.shows(&(image("two") + &old + &slice("shop-00002", "")));
    assert_eq!(revisions(&world), ["shop-00001", "+shop-00002"]);
    assert_eq!(shares(&world), [("shop-00001", 100)]);

    let world = story.shows(&(image("two") + &old + &slice("shop-00002", ready)));
    assert_eq!(shares(&world), [("shop-00002", 100)]);
}

#[test]
fn a_revision_keeps_the_defaults_it_was_made_with() {
    let config = |seconds: u32| {
        format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: config-defaults}}\ndata: {{revision-timeout-seconds: \"{seconds}\"}}\n"
        )
    };
    let timeout = |world: &World| {
        world
            .revisions
            .values()
            .next()
            .expect("a Revision")
            .spec
            .timeouts
            .total
            .as_secs()
    };
    let mut story = Story::new();
    assert_eq!(timeout(&story.shows(&(shop("one") + &config(10)))), 10);
    assert_eq!(timeout(&story.shows(&(shop("one") + &config(20)))), 10);
}

#[test]
fn a_service_that_goes_takes_its_revisions_along() {
    let mut story = Story::new();
    story.shows(&shop("one"));
    let world = story.shows("");
    assert!(world.revisions.is_empty() && world.ingresses.is_empty() && world.urls.is_empty());
    let world = story.shows(&shop("two"));
    assert_eq!(revisions(&world), ["shop-00001"]);
}

#[test]
fn revisions_of_other_namespaces_are_not_meant() {
    let mut story = Story::new();
    let both = |command: &str| {
        let there = shop(command).replace("{name: shop}", "{name: shop, namespace: there}");
        format!("{}---\n{there}", shop(command))
    };
    story.shows(&both("one"));
    story.shows(&both("two"));
    let there = RevisionId::new("there", "shop-00002");
    let world = story.rollout.revision_ready(&there).expect("a new world");
    let shares: Vec<_> = world
        .urls
        .iter()
        .map(|url| (&*url.namespace, &*url.shares[0].0))
        .collect();
    assert_eq!(shares, [("default", "shop-00001"), ("there", "shop-00002")]);
}

#[test]
fn what_is_remembered_without_traffic_is_bounded() {
    let mut story = Story::new();
    for edit in 1..=60 {
        story.shows(&shop(&format!("c{edit}")));
        story.ready(&format!("shop-{edit:05}"));
    }
    let pinned = |name: &str| service("", "c60", &traffic(&[(name, 100)]));
    assert!(story.apply(&pinned("shop-00041")).is_ok());
    let forgotten = story.refusal(&pinned("shop-00030"));
    assert!(
        forgotten.contains("there is no Revision shop-00030"),
        "{forgotten}"
    );
}

#[test]
fn a_failed_revision_that_is_asked_for_again_is_tried_again() {
    let mut story = Story::new();
    story.shows(&named("shop-a", "one", ""));
    story.shows(&named("shop-b", "two", ""));
    story.failed("shop-b", "the port was taken");
    story.shows(&named("shop-a", "one", ""));
    let world = story.shows(&named("shop-b", "two", ""));
    assert_eq!(revisions(&world), ["shop-a", "+shop-b"]);
    assert_eq!(world.warnings, []);
}

/// Manifests with everything in them, as material to be damaged.
const MATERIAL: [&str; 5] = [
    include_str!("../../../tests/translate/everything-of-a-service.in.yaml"),
    include_str!("../../../tests/translate/split-with-tags.in.yaml"),
    include_str!("../../../tests/translate/rules-and-services.in.yaml"),
    include_str!("../../../tests/translate/settings.in.yaml"),
    include_str!("../../../tests/translate/someone-elses-endpoints.in.yaml"),
];

/// Words that have a meaning somewhere, put where they have none.
const WORDS: [&str; 18] = [
    "",
    "null",
    "[]",
    "{}",
    "-1",
    "99999999999",
    "1.5",
    "\"\"",
    "true",
    "name",
    "latestRevision: true",
    "percent: 100",
    "\u{feff}",
    "ü",
    "shop-00001",
    "- - -",
    "h2c",
    "{{.Name}}",
];

proptest::proptest! {
    #[test]
    fn no_damage_to_a_manifest_makes_anything_panic(
        first in 0..MATERIAL.len(),
        second in 0..MATERIAL.len(),
        edits in proptest::collection::vec((0..4000_usize, 0..30_usize, proptest::sample::select(WORDS.to_vec())), 0..4),
    ) {
        let mut text: Vec<char> = format!("{}---\n{}", MATERIAL[first], MATERIAL[second]).chars().collect();
        for (at, length, word) in edits {
            let from = at.min(text.len());
            let to = (from + length).min(text.len());
            drop(text.splice(from..to, word.chars()));
        }
        let text: String = text.into_iter().collect();
        let (documents, mut problems) = document::read("a.yaml", text.as_bytes());
        let mut objects = Vec::new();
        for document in &documents {
            object::read(document, &mut objects, &mut problems);
        }
        let mut rollout = Rollout::new(Options::default(), Arc::new(Unchecked));
        for _ in 0..2 {
            match rollout.apply(objects.clone()) {
                Ok(world) => problems.extend(world.warnings),
                Err(found) => problems.extend(found),
            }
        }
        for problem in problems {
            proptest::prop_assert!(problem.to_string().starts_with("a.yaml"));
            proptest::prop_assert!(problem.line > 0, "{problem}");
        }
    }
}
