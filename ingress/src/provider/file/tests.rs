//! Folders as people keep them, and edits as editors make them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use notify::event::{
    AccessKind, AccessMode, CreateKind, DataChange, Flag, MetadataKind, ModifyKind, RenameMode,
};
use notify::{Event, EventKind};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

use super::super::object::Object;
use super::super::world::Unchecked;
use super::watch::Noticed;
use super::*;

/// Longer than any change may take to be noticed.
const SOON: Duration = Duration::from_secs(20);

fn service(name: &str) -> String {
    format!(
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{template: {{spec: {{containers: [{{command: [x]}}]}}}}}}\n"
    )
}

fn provider(paths: &[PathBuf]) -> FileProvider {
    FileProvider::new(paths.to_vec(), Options::default(), Arc::new(Unchecked))
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn services(world: &World) -> Vec<&str> {
    world.urls.iter().map(|url| &*url.service).collect()
}

fn printed(problems: &[Problem], folder: &TempDir) -> String {
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    texts
        .join("\n")
        .replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn a_folder_is_its_manifests_and_those_of_its_folders() {
    let folder = folder(&[
        ("b.yaml", &service("b")),
        ("a.yml", &service("a")),
        ("sub/c.json", &service("c")),
        ("notes.txt", "not: [yaml"),
        (".hidden/d.yaml", &service("d")),
        (".e.yaml", &service("e")),
        ("f.yaml~", &service("f")),
    ]);
    let world = provider(&[folder.path().to_owned()]).load().unwrap();
    assert_eq!(services(&world), ["a", "b", "c"]);
}

#[test]
fn a_file_is_read_once_however_often_it_is_named() {
    let folder = folder(&[("a.yaml", &service("a"))]);
    let paths = [
        folder.path().to_owned(),
        folder.path().join("a.yaml"),
        folder.path().join("./a.yaml"),
    ];
    let world = provider(&paths).load().unwrap();
    assert_eq!(services(&world), ["a"]);
}

#[test]
fn a_file_that_is_named_is_read_whatever_it_is_called() {
    let folder = folder(&[("manifest", &service("a"))]);
    let world = provider(&[folder.path().join("manifest")]).load().unwrap();
    assert_eq!(services(&world), ["a"]);
}

#[test]
fn what_is_not_there_is_named() {
    let folder = folder(&[]);
    let problems = provider(&[folder.path().join("gone.yaml")])
        .load()
        .unwrap_err();
    assert_eq!(
        printed(&problems, &folder),
        "gone.yaml: error: there is no such file or folder: No such file or directory (os error 2)"
    );
}

#[test]
fn an_empty_folder_is_a_world_with_a_warning() {
    let folder = folder(&[]);
    let world = provider(&[folder.path().join("")]).load().unwrap();
    assert_eq!(
        printed(&world.warnings, &folder),
        ": warning: there is no file to read here\n  help: add files that end in .yaml, .yml or .json"
    );
}

#[test]
fn a_file_that_is_too_large_is_refused() {
    let folder = folder(&[]);
    let file = fs::File::create(folder.path().join("a.yaml")).unwrap();
    file.set_len(MAX_FILE_BYTES + 1).unwrap();
    let problems = provider(&[folder.path().to_owned()]).load().unwrap_err();
    assert_eq!(
        printed(&problems, &folder),
        "a.yaml: error: this file cannot be read: it is larger than 16777216 bytes"
    );
}

#[test]
fn too_many_files_are_refused() {
    let folder = folder(&[]);
    for number in 0..=MAX_FILES {
        fs::write(folder.path().join(format!("{number}.yaml")), "").unwrap();
    }
    let problems = provider(&[folder.path().to_owned()]).load().unwrap_err();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].message, "there are more than 1000 files");
}

#[cfg(unix)]
#[test]
fn folders_that_link_to_themselves_end() {
    let folder = folder(&[("a.yaml", &service("a"))]);
    std::os::unix::fs::symlink(folder.path(), folder.path().join("again")).unwrap();
    let world = provider(&[folder.path().to_owned()]).load().unwrap();
    assert_eq!(services(&world), ["a"]);
}

#[test]
fn a_bad_edit_keeps_the_good_world_and_what_was_noticed_stays() {
    let folder = folder(&[
        ("a.yaml", &service("a")),
        ("b.yaml", "apiVersion: v1\nkind: Pod\n"),
    ]);
    let mut provider = provider(&[folder.path().to_owned()]);
    assert_eq!(provider.load().unwrap().warnings.len(), 1);

    fs::write(
        folder.path().join("a.yaml"),
        service("a").replace("command", "comand"),
    )
    .unwrap();
    assert!(provider.load().is_err());

    fs::write(
        folder.path().join("a.yaml"),
        service("a").replace("[x]", "[y]"),
    )
    .unwrap();
    let world = provider.load().unwrap();
    assert_eq!(world.generation, 2);
    let world = provider
        .revision_ready(&RevisionId::new("default", "a-00002"))
        .unwrap();
    assert_eq!(world.warnings.len(), 1);
}

async fn noticed(watch: &mut Watch) {
    timeout(SOON, watch.changed())
        .await
        .expect("the change is noticed");
}

#[tokio::test]
async fn every_way_to_edit_is_noticed() {
    let folder = folder(&[("a.yaml", &service("a"))]);
    let path = folder.path().join("a.yaml");
    let mut provider = provider(std::slice::from_ref(&path));
    let mut watch = provider.watch().unwrap();
    assert_eq!(services(&provider.load().unwrap()), ["a"]);

    fs::write(&path, service("written")).unwrap();
    noticed(&mut watch).await;
    assert_eq!(services(&provider.load().unwrap()), ["written"]);

    fs::write(folder.path().join("new"), service("moved-over")).unwrap();
    fs::rename(folder.path().join("new"), &path).unwrap();
    noticed(&mut watch).await;
    assert_eq!(services(&provider.load().unwrap()), ["moved-over"]);

    fs::remove_file(&path).unwrap();
    noticed(&mut watch).await;
    assert!(provider.load().is_err());
    fs::write(&path, service("back")).unwrap();
    noticed(&mut watch).await;
    assert_eq!(services(&provider.load().unwrap()), ["back"]);
}

#[tokio::test]
async fn files_in_new_folders_are_noticed() {
    let folder = folder(&[]);
    let mut provider = provider(&[folder.path().to_owned()]);
    let mut watch = provider.watch().unwrap();

    fs::create_dir(folder.path().join("sub")).unwrap();
    noticed(&mut watch).await;
    fs::write(folder.path().join("sub/a.yaml"), service("a")).unwrap();
    noticed(&mut watch).await;

    assert_eq!(services(&provider.load().unwrap()), ["a"]);
}

#[cfg(unix)]
#[tokio::test]
async fn a_mounted_config_map_is_noticed() {
    use std::os::unix::fs::symlink;
    let folder = folder(&[
        ("..1/a.yaml", &service("one")),
        ("..2/a.yaml", &service("two")),
    ]);
    let at = |name: &str| folder.path().join(name);
    symlink("..1", at("..data")).unwrap();
    symlink("..data/a.yaml", at("a.yaml")).unwrap();
    let mut provider = provider(&[at("a.yaml")]);
    let mut watch = provider.watch().unwrap();
    assert_eq!(services(&provider.load().unwrap()), ["one"]);

    symlink("..2", at("..tmp")).unwrap();
    fs::rename(at("..tmp"), at("..data")).unwrap();
    noticed(&mut watch).await;

    assert_eq!(services(&provider.load().unwrap()), ["two"]);
}

#[test]
fn reading_is_not_a_change_and_neither_are_other_files() {
    let noticed = Noticed::of(&["/etc/app/a.yaml", "/srv/manifests"]);
    let matters =
        |kind: EventKind, path: &str| noticed.concerns_us(&Event::new(kind).add_path(path.into()));
    let read = EventKind::Access(AccessKind::Close(AccessMode::Read));
    let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
    let modified = EventKind::Modify(ModifyKind::Any);

    assert!(!matters(read, "/etc/app/a.yaml"));
    assert!(matters(written, "/etc/app/a.yaml"));
    assert!(matters(modified, "/etc/app/a.yaml"));
    assert!(matters(modified, "/srv/manifests/sub/b.yaml"));
    assert!(matters(modified, "/etc/app/..data"));
    assert!(!matters(modified, "/etc/app/other.yaml"));
    assert!(!matters(modified, "/srv/manifests.old"));
    let overflow = Event::new(EventKind::Other).set_flag(Flag::Rescan);
    assert!(noticed.concerns_us(&overflow), "events were lost");
}

#[test]
fn what_other_files_beside_the_manifests_say_is_nobody_s_business_but_what_they_are_is() {
    let noticed = Noticed::of(&["/srv/manifests", "/srv/service.conf"]);
    let matters =
        |kind: EventKind, path: &str| noticed.concerns_us(&Event::new(kind).add_path(path.into()));
    let grown = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
    for event in [grown, written] {
        assert!(!matters(event, "/srv/manifests/app.log"));
        assert!(matters(event, "/srv/manifests/shop.yaml"));
        assert!(matters(event, "/srv/service.conf"), "named as it is");
    }
    let created = EventKind::Create(CreateKind::File);
    assert!(
        matters(created, "/srv/manifests/more"),
        "it may be a link to a folder"
    );
}

#[test]
fn new_permissions_do_not_open_a_file_again() {
    let mut noticed = Noticed::default();
    let permitted = EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any));
    noticed.note(&Event::new(permitted).add_path("/d/shop.yaml".into()));
    assert!(noticed.unfinished.is_empty());
}

#[tokio::test]
async fn folders_behind_new_links_are_watched() {
    use std::os::unix::fs::symlink;
    let elsewhere = folder(&[("a.yaml", &service("a"))]);
    let folder = folder(&[]);
    let mut provider = provider(&[folder.path().to_owned()]);
    let mut watch = provider.watch().unwrap();

    symlink(elsewhere.path(), folder.path().join("more")).unwrap();
    noticed(&mut watch).await;
    fs::write(elsewhere.path().join("a.yaml"), service("b")).unwrap();
    noticed(&mut watch).await;

    assert_eq!(services(&provider.load().unwrap()), ["b"]);
}

#[tokio::test]
async fn a_change_that_was_noticed_survives_a_dropped_wait() {
    let folder = folder(&[("a.yaml", &service("a"))]);
    let mut watch = provider(&[folder.path().join("a.yaml")]).watch().unwrap();
    fs::write(folder.path().join("a.yaml"), service("b")).unwrap();
    let deadline = Instant::now() + SOON;
    while !watch.has_noticed() {
        assert!(Instant::now() < deadline, "the change is noticed");
        drop(timeout(Duration::from_millis(1), watch.changed()).await);
    }
    noticed(&mut watch).await;
}

/// Where each object of the files is in memory, by its name.
fn addresses(files: &mut Files, folder: &TempDir) -> BTreeMap<String, usize> {
    let mut problems = Vec::new();
    let objects = files.read(&[folder.path().to_owned()], &mut problems);
    assert_eq!(problems, []);
    let address = |object: &Object| {
        (
            object.meta().name.to_string(),
            std::ptr::from_ref(object.meta()).addr(),
        )
    };
    objects.iter().map(address).collect()
}

#[test]
fn only_what_has_changed_is_read_again() {
    let three = |second: &str| [service("one"), second.to_owned(), service("three")].join("---\n");
    let folder = folder(&[
        ("many.yaml", &three(&service("two"))),
        ("other.yaml", &service("other")),
    ]);
    let mut files = Files::default();
    let first = addresses(&mut files, &folder);
    assert_eq!(addresses(&mut files, &folder), first);

    let edited = service("two").replace("[x]", "[y]");
    fs::write(folder.path().join("many.yaml"), three(&edited)).unwrap();
    let second = addresses(&mut files, &folder);
    assert_eq!(second.len(), 4);
    for name in ["one", "three", "other"] {
        assert_eq!(second[name], first[name], "{name}");
    }
    assert_ne!(second["two"], first["two"]);
}

#[test]
fn what_is_removed_from_a_file_goes_and_what_follows_it_knows_its_new_line() {
    let folder = folder(&[("a.yaml", &[service("one"), service("two")].join("---\n"))]);
    let mut provider = provider(&[folder.path().to_owned()]);
    assert_eq!(services(&provider.load().unwrap()), ["one", "two"]);

    fs::write(folder.path().join("a.yaml"), service("two")).unwrap();
    let world = provider.load().unwrap();
    assert_eq!(services(&world), ["two"]);
    let lines: Vec<u32> = world
        .revisions
        .values()
        .map(|entry| entry.origin.line())
        .collect();
    assert_eq!(lines, [1]);
}

#[test]
fn a_mistake_that_is_mended_is_forgotten_and_its_lines_are_those_of_the_file() {
    let with = |second: &str| [service("one"), second.to_owned()].join("---\n");
    let folder = folder(&[("a.yaml", &with(&service("two")))]);
    let mut provider = provider(&[folder.path().to_owned()]);
    provider.load().unwrap();

    for mistake in [
        service("two").replace("command", "comand"),
        "a: ]\n".to_owned(),
    ] {
        fs::write(folder.path().join("a.yaml"), with(&mistake)).unwrap();
        for _again in 0..2 {
            let problems = provider.load().unwrap_err();
            let at: BTreeSet<_> = problems
                .iter()
                .map(|problem| (problem.document, problem.line))
                .collect();
            let line = if mistake.starts_with("a: ]") { 6 } else { 9 };
            assert_eq!(at, BTreeSet::from([(2, line)]), "{mistake}");
        }
    }
    fs::write(folder.path().join("a.yaml"), with(&service("two"))).unwrap();
    assert_eq!(services(&provider.load().unwrap()), ["one", "two"]);
}

/// A Service `name` with an endpoint at `port`.
fn reached_at(name: &str, port: u16) -> String {
    format!(
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{template: {{spec: {{containers: [{{image: x}}]}}}}}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: {{serving.knative.dev/revision: {name}-00001}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: {port}}}]\nendpoints: [{{addresses: [127.0.0.1]}}]\n"
    )
}

#[test]
fn a_changed_endpoint_leaves_the_rest_of_the_world_as_it_was() {
    let folder = folder(&[
        ("a.yaml", &reached_at("a", 81)),
        ("b.yaml", &reached_at("b", 81)),
    ]);
    let mut provider = provider(&[folder.path().to_owned()]);
    let entry =
        |world: &World, name: &str| Arc::clone(&world.revisions[&RevisionId::new("default", name)]);
    let first = provider.load().unwrap();
    fs::write(folder.path().join("a.yaml"), reached_at("a", 82)).unwrap();
    let second = provider.load().unwrap();

    let ports: Vec<u16> = [&first, &second]
        .iter()
        .flat_map(|world| entry(world, "a-00001").endpoints.clone().unwrap())
        .map(|endpoint| endpoint.address().port())
        .collect();
    assert_eq!(ports, [81, 82]);
    assert!(Arc::ptr_eq(
        &entry(&first, "b-00001"),
        &entry(&second, "b-00001")
    ));
    let pairs = first.ingresses.iter().zip(second.ingresses.iter());
    assert_eq!(
        pairs.filter(|(one, other)| Arc::ptr_eq(one, other)).count(),
        2
    );
    assert!(
        first
            .urls
            .iter()
            .any(|url| Arc::ptr_eq(url, &second.urls[1]))
    );

    fs::write(
        folder.path().join("b.yaml"),
        reached_at("b", 81).split("---").next().unwrap(),
    )
    .unwrap();
    assert!(provider.load().is_err(), "nothing says where b runs");

    fs::write(folder.path().join("b.yaml"), reached_at("b", 83)).unwrap();
    fs::write(
        folder.path().join("domain.yaml"),
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config-domain, namespace: knative-serving}\ndata: {example.com: \"\"}\n",
    )
    .unwrap();
    let third = provider.load().unwrap();
    let hosts: Vec<&str> = third.urls.iter().map(|url| url.host()).collect();
    assert_eq!(hosts, ["a.default.example.com", "b.default.example.com"]);
}

#[test]
fn a_file_that_was_moved_over_another_is_complete() {
    let (draft, file) = (
        PathBuf::from("/d/draft.yaml"),
        PathBuf::from("/d/shop.yaml"),
    );
    let event = |kind: EventKind, paths: &[&PathBuf]| {
        let paths = paths.iter().map(|path| (*path).clone());
        paths.fold(Event::new(kind), Event::add_path)
    };
    let moved = |mode| EventKind::Modify(ModifyKind::Name(mode));
    let mut noticed = Noticed::default();

    noticed.note(&event(EventKind::Create(CreateKind::File), &[&draft]));
    assert_eq!(noticed.unfinished.len(), 1);
    noticed.note(&event(moved(RenameMode::From), &[&draft]));
    noticed.note(&event(moved(RenameMode::To), &[&file]));
    assert_eq!(noticed.unfinished.len(), 1, "it may have gone for good");
    noticed.note(&event(moved(RenameMode::Both), &[&draft, &file]));

    assert!(noticed.unfinished.is_empty());
}

#[test]
fn a_document_that_moved_in_its_file_is_the_same_value_and_knows_its_new_line() {
    let document = |name| "---\n".to_owned() + &service(name);
    let three = || ["one", "two", "three"].map(document).to_vec();
    let folder = folder(&[("many.yaml", &three().concat())]);
    let path = folder.path().join("many.yaml");
    let mut files = Files::default();
    let first = addresses(&mut files, &folder);
    let mut lines = |documents: Vec<String>| {
        fs::write(&path, documents.concat()).unwrap();
        let after = addresses(&mut files, &folder);
        assert!(
            after
                .iter()
                .all(|(name, at)| first.get(name).is_none_or(|known| known == at))
        );
        let objects = files.read(&[folder.path().to_owned()], &mut Vec::new());
        let lines = objects.iter().map(|object| object.meta().origin.line());
        lines.collect::<Vec<_>>()
    };

    let mut documents = three();
    documents.insert(0, "# why\n# and wherefore\n".to_owned() + &service("new"));
    assert_eq!(lines(documents.clone()), [3, 8, 13, 18]);
    documents.swap(1, 3);
    assert_eq!(lines(documents.clone()), [3, 8, 13, 18]);
    documents.remove(0);
    documents.remove(1);
    assert_eq!(lines(documents), [2, 7]);
}

#[test]
fn what_is_wrong_is_found_in_the_file_when_its_text_was_let_go() {
    let folder = folder(&[("a.yaml", &[service("a"), service("b")].join("---\n"))]);
    let path = folder.path().join("a.yaml");
    let mut files = Files::default();
    let objects = files.read(&[folder.path().to_owned()], &mut Vec::new());
    files.let_go_of_texts();
    let origin = &objects[1].meta().origin;
    let found = || {
        let problem = origin.problem("metadata.name", "this will not do");
        (
            problem.document,
            problem.line,
            problem.column,
            problem.value,
        )
    };

    assert_eq!(found(), (2, 8, 12, "\"b\"".to_owned()));
    files.let_go_of_texts();
    fs::write(&path, "something else").unwrap();
    assert_eq!(found(), (2, 6, 1, String::new()));
}

#[test]
fn warnings_name_the_lines_that_services_stand_in_now() {
    let misspelt = service("b").replace(
        "{spec:",
        "{metadata: {annotations: {autoscaling.knative.dev/tagret: \"1\"}}, spec:",
    );
    let folder = folder(&[("a.yaml", &[service("a"), misspelt.clone()].join("---\n"))]);
    let mut provider = provider(&[folder.path().to_owned()]);
    let line = |world: &World| {
        world
            .warnings
            .iter()
            .map(|warning| warning.line)
            .collect::<Vec<_>>()
    };
    let before = line(&provider.load().unwrap());

    let moved = ["# more\n".to_owned() + &service("a"), misspelt].join("---\n");
    fs::write(folder.path().join("a.yaml"), moved).unwrap();

    let after = line(&provider.load().unwrap());
    assert_eq!(before.len(), 1);
    assert_eq!(after, [before[0] + 1]);
}
