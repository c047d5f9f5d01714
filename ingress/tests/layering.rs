//! Who may name whom: the map of the code, as a test. After knative/serving `test/…/nodeps_test.go`.

#![expect(clippy::unwrap_used, reason = "a test: what cannot be read fails it")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules of `ingress` and what each may name of the others.
const MAY_NAME: [(&str, &[&str]); 20] = [
    ("routing", &[]),
    ("config", &[]),
    ("cli", &[]),
    ("ready", &[]),
    ("telemetry", &["cli"]),
    ("trace", &["telemetry"]),
    ("workload", &[]),
    ("hello", &[]),
    ("ask", &["cli"]),
    ("explain", &["ask", "cli"]),
    ("why", &["ask", "cli", "explain"]),
    ("top", &["ask", "cli"]),
    ("proxy", &["routing", "config", "telemetry", "trace"]),
    ("frontend", &["proxy", "routing", "config", "trace"]),
    ("provider", &["routing", "workload"]),
    ("standalone", &["workload"]),
    (
        "admin",
        &[
            "frontend",
            "provider",
            "standalone",
            "proxy",
            "routing",
            "ready",
            "explain",
            "telemetry",
            "trace",
        ],
    ),
    ("install", &["cli", "provider"]),
    ("check", &["app", "cli", "provider", "routing"]),
    (
        "app",
        &[
            "admin",
            "frontend",
            "provider",
            "standalone",
            "proxy",
            "routing",
            "config",
            "cli",
            "ready",
            "telemetry",
            "trace",
        ],
    ),
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The module of `ingress` a file belongs to: `routing` for `src/routing/table.rs` and `src/routing.rs`.
fn module_of(file: &Path) -> String {
    let relative = file.strip_prefix(source()).unwrap();
    let first = relative
        .components()
        .next()
        .unwrap()
        .as_os_str()
        .to_str()
        .unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// Modules that a file names as `crate::module`.
fn named_by(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| {
        line.split("crate::")
            .skip(1)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    })
    .map(|rest| {
        rest.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    })
    .filter(|module: &String| !module.is_empty())
    .collect()
}

#[test]
fn modules_name_only_what_lies_below_them() {
    let may_name: BTreeMap<_, _> = MAY_NAME.into_iter().collect();
    let mut wrong = Vec::new();
    for file in rust_files(&source()) {
        let module = module_of(&file);
        if module == "lib" || module == "main" {
            continue;
        }
        let allowed = may_name.get(module.as_str());
        let allowed =
            allowed.unwrap_or_else(|| panic!("{module} is not on the map: say what it may name"));
        for named in named_by(&file) {
            if named != module && !allowed.contains(&named.as_str()) {
                wrong.push(format!("{} names crate::{named}", file.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn the_map_has_no_circles() {
    let may_name: BTreeMap<_, _> = MAY_NAME.into_iter().collect();
    let mut settled: Vec<&str> = Vec::new();
    while settled.len() < may_name.len() {
        let next = may_name.iter().find(|(module, below)| {
            !settled.contains(module) && below.iter().all(|one| settled.contains(one))
        });
        let (module, _) =
            next.unwrap_or_else(|| panic!("a circle among what is not in {settled:?}"));
        settled.push(module);
    }
}

#[test]
fn the_heart_knows_neither_http_nor_kubernetes() {
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let forbidden: [(&str, &[&str]); 2] = [
        (
            "activator",
            &[
                "hyper",
                "axum",
                "kube",
                "h2",
                "http",
                "tungstenite",
                "parkway-ingress",
            ],
        ),
        (
            "autoscaler-client",
            &["hyper", "axum", "kube", "h2 ", "parkway-ingress"],
        ),
    ];
    for (package, names) in forbidden {
        let manifest = fs::read_to_string(packages.join(package).join("Cargo.toml")).unwrap();
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap();
        for line in dependencies
            .lines()
            .take_while(|line| !line.starts_with('['))
        {
            let name = line.split(['.', ' ', '=']).next().unwrap();
            assert!(!names.contains(&name), "{package} depends on {name}");
        }
    }
}
