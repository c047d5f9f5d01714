//! Objects as a real cluster returned them: they are read without a complaint, and what is made of a Service is what
//! Knative's own controllers made of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parkway_activator::revision::{Protocol, RevisionId};
use parkway_ingress::provider::document;
use parkway_ingress::provider::file::FileProvider;
use parkway_ingress::provider::object::{self, Object};
use parkway_ingress::provider::translate::{Lookup, translate};
use parkway_ingress::provider::{Options, Problem, Severity, Unchecked, World};

fn recorded(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/recorded")
        .join(path)
}

fn read(path: &Path) -> (Vec<Object>, Vec<Problem>) {
    let text = std::fs::read(path).expect("a recorded file");
    let (documents, mut problems) = document::read(&path.display().to_string(), &text);
    let mut objects = Vec::new();
    for document in &documents {
        object::read(document, &mut objects, &mut problems);
    }
    (objects, problems)
}

fn ingresses(path: &str) -> Vec<Arc<object::Ingress>> {
    let (objects, _) = read(&recorded(path));
    let ingress = |object| match object {
        Object::Ingress(ingress) => Some(ingress),
        _ => None,
    };
    objects.into_iter().filter_map(ingress).collect()
}

fn load(paths: &[&str]) -> World {
    let paths = paths.iter().map(|path| recorded(path)).collect();
    let mut provider = FileProvider::new(paths, Options::default(), Arc::new(Unchecked));
    provider
        .load()
        .unwrap_or_else(|problems| panic!("{}", printed(&problems)))
}

fn printed(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(|problem| format!("{problem}\n"))
        .collect()
}

fn hashes(world: &World) -> BTreeMap<String, String> {
    let entry = |rules: &Arc<parkway_ingress::routing::rules::IngressRules>| {
        (rules.name.name.to_string(), rules.hash.to_string())
    };
    world.ingresses.iter().map(entry).collect()
}

#[test]
fn every_recorded_object_is_read_without_a_complaint() {
    let mut count = 0;
    for moment in ["main", "zero", "tag-header", "conformance", "probed"] {
        for file in std::fs::read_dir(recorded(moment)).expect("a folder") {
            let (objects, problems) = read(&file.expect("an entry").path());
            assert!(problems.is_empty(), "{}", printed(&problems));
            count += objects.len();
        }
    }
    assert_eq!(count, 316);
}

#[test]
fn the_hash_of_every_kingress_is_the_one_seen_on_the_wire() {
    let computed: Vec<String> = ingresses("probed/ingress.json")
        .iter()
        .map(|ingress| {
            ingress
                .spec
                .hash(&ingress.meta.namespace, &ingress.meta.name)
        })
        .collect();
    let seen = [
        "059237b9130a6ddb3ca0a8b0366a28c15e3e602a797521b55c7b5c58b44a4d72", // local
        "4540a7af6be2f8e21370d8c1e0a5ae96832ffd54de8bd98c2481b86d6cf74afc", // proxymode
        "0056a1b204297b845dd9b56c572ac93f83413ca7a04f440229f7ea15f67fb812", // redirected
        "746032bba69380c774b61eefe4b34b89a1ed92796423f0935e9a19626cb8d08c", // rollout
        "5f1a4ea9da82e89f2b7611f8cd8ce65be559e7b5dbf1829bf7cbead23e204ae6", // rollout
        "8ff0f6f8db61f914ba13d0567b727b0d5c3f4d28d8620f0604060c274db7b2d0", // secure.example.org
        "9e25efe3c41049bd259e1217b7eabc97bf3d6f4c8a95721381668200722c7592", // servemode
        "3be17cc102aa80ddf9e21d0b89af0c6fee00dd32a6dddce7d0ab252ce5331787", // shop.example.org
        "26d77e9b298e25146da04d3517a9a80b83de9fa91af619b10f968dd1fb242adf", // single
        "54d08f44f2e9beb4361d1eff3be6886965287333ca1d16d4c593e6dad487ad1c", // split
        "388248cca5f2d640be32e38b7897d59ea1ee22b9354b483b25d68c8ba5e8508d", // split
        "83068f70302cfa7576af877ea2ca63a1916ac6a5b1ab4ab7c3f03243d38961d8", // tagheader
    ];
    assert_eq!(computed, seen);
}

/// Equal hashes mean equal specs, to the byte.
#[test]
fn the_kingress_made_of_a_service_is_the_one_knative_made() {
    let parts =
        ["ksvc", "revision", "endpointslice", "configmap"].map(|kind| format!("main/{kind}.json"));
    let made = hashes(&load(&parts.each_ref().map(String::as_str)));
    let mut compared = Vec::new();
    for knatives in ingresses("main/ingress.json") {
        let name = &*knatives.meta.name;
        let Some(hash) = made.get(name) else { continue };
        if name == "rollout" {
            continue; // was recorded in the middle of a gradual rollout
        }
        assert_eq!(
            *hash,
            knatives.spec.hash(&knatives.meta.namespace, name),
            "{name}"
        );
        compared.push(name.to_owned());
    }
    let expected = [
        "grpc",
        "local",
        "proxymode",
        "redirected",
        "servemode",
        "single",
        "split",
        "tagheader",
    ];
    assert_eq!(compared, expected);
}

#[test]
fn a_recorded_namespace_becomes_a_world_with_someone_elses_endpoints() {
    let world = load(&["main"]);
    assert!(
        world
            .warnings
            .iter()
            .all(|problem| problem.severity != Severity::Error)
    );
    assert_eq!(world.revisions.len(), 13);
    assert!(
        world
            .revisions
            .values()
            .all(|entry| entry.workload.is_none() && !entry.takeover)
    );
    let entry = |name: &str| &world.revisions[&RevisionId::new("fixtures", name)];
    let endpoints = |name: &str| -> Vec<String> {
        let endpoints = entry(name).endpoints.as_ref().expect("a slice");
        endpoints.iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        endpoints("single-00001"),
        ["10.244.0.32:8012", "10.244.0.33:8012"]
    );
    assert_eq!(entry("grpc-00001").spec.protocol, Protocol::H2c);
    assert_eq!(endpoints("grpc-00001").len(), 1);
    assert!(
        endpoints("grpc-00001")[0].ends_with(":8013"),
        "the port that speaks HTTP/2"
    );
    assert_eq!(
        endpoints("local-00001"),
        Vec::<String>::new(),
        "at zero: the activator is not an endpoint of it"
    );
    assert_eq!(entry("single-00001").spec.concurrency.as_number(), 10);
    assert_eq!(&*entry("single-00001").spec.service, "single");
    assert_eq!(&*entry("single-00001").spec.configuration, "single");
}

#[test]
fn every_kingress_of_the_conformance_suite_is_translated() {
    for ingress in ingresses("conformance/ingress.json") {
        let translation = translate(vec![&ingress], &Lookup::default());
        let errors: Vec<Problem> = translation
            .problems
            .into_iter()
            .filter(Problem::is_error)
            .collect();
        assert!(errors.is_empty(), "{}", printed(&errors));
        assert_eq!(
            translation.ingresses[0].rules.len(),
            ingress.spec.rules.len()
        );
    }
}
