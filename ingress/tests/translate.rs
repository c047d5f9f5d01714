//! Golden tests: each `translate/NAME.in.yaml` is loaded, and the world it makes is written as `NAME.out.yaml`.
//!
//! `UPDATE_GOLDEN=1 cargo test -p parkway-ingress --test translate` writes the expected files anew; read the
//! difference before you commit it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::{Protocol, RevisionSpec};
use parkway_ingress::provider::file::FileProvider;
use parkway_ingress::provider::{Options, Problem, RevisionEntry, Unchecked, World};
use parkway_ingress::routing::rules::{Backend, IngressRules, PathRule, Rule, Target};
use parkway_ingress::workload::Workload;

#[test]
fn every_configuration_becomes_the_world_written_beside_it() {
    let inputs = inputs();
    assert!(inputs.len() >= 7, "only {inputs:?}");
    let is_update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut different = Vec::new();
    for input in inputs {
        let output = expected_file(&input);
        let found = world(&input);
        if is_update {
            std::fs::write(&output, &found).expect("the expected file can be written");
        } else if std::fs::read_to_string(&output).unwrap_or_default() != found {
            different.push(format!("{}:\n{found}", output.display()));
        }
    }
    assert!(
        different.is_empty(),
        "not as expected:\n{}",
        different.join("\n")
    );
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/translate")
}

fn inputs() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder()).expect("the folder of the cases");
    let mut inputs: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    inputs.retain(|path| path.to_string_lossy().ends_with(".in.yaml"));
    inputs.sort();
    inputs
}

fn expected_file(input: &Path) -> PathBuf {
    PathBuf::from(input.to_string_lossy().replace(".in.yaml", ".out.yaml"))
}

fn world(input: &Path) -> String {
    let mut provider = FileProvider::new(
        vec![input.to_owned()],
        Options::default(),
        Arc::new(Unchecked),
    );
    let mut text = match provider.load() {
        Ok(world) => of_world(&world),
        Err(problems) => of_problems("refused", &problems),
    };
    let folder = format!("{}/", folder().display());
    text = text.replace(&folder, "");
    text
}

fn of_world(world: &World) -> String {
    let mut out = String::new();
    for ingress in world.ingresses.iter() {
        of_ingress(&mut out, ingress);
    }
    for (id, entry) in world.revisions.iter() {
        writeln!(out, "revision {id}:").expect("a string");
        of_revision(&mut out, entry);
    }
    for (id, (spec, endpoints)) in &world.services {
        let protocol = protocol(spec.protocol);
        writeln!(out, "service {id}: {protocol}, {}", of_endpoints(endpoints)).expect("a string");
    }
    for url in world.urls.iter() {
        let tag = url
            .tag
            .as_deref()
            .map_or_else(String::new, |tag| format!(" tag {tag}"));
        let local = if url.is_cluster_local {
            ", cluster-local"
        } else {
            ""
        };
        let shares: Vec<String> = url
            .shares
            .iter()
            .map(|(name, percent)| format!("{percent} % {name}"))
            .collect();
        let service = format!("{}/{}", url.namespace, url.service);
        writeln!(
            out,
            "url {service}{tag}: {}{local}: {}",
            url.url,
            shares.join(", ")
        )
        .expect("a string");
    }
    for (key, value) in &world.autoscaler_config {
        writeln!(out, "autoscaler {key}: {value}").expect("a string");
    }
    out + &of_problems("noticed", &world.warnings)
}

fn of_ingress(out: &mut String, ingress: &IngressRules) {
    writeln!(out, "ingress {}: {}", ingress.name, &ingress.hash).expect("a string");
    for Rule {
        hosts,
        visibility,
        paths,
    } in &ingress.rules
    {
        writeln!(out, "  {visibility:?} {}", hosts.join(" ")).expect("a string");
        for path in paths {
            of_path(out, path);
        }
    }
}

fn of_path(out: &mut String, path: &PathRule) {
    let prefix = if path.prefix.is_empty() {
        "every path"
    } else {
        &path.prefix
    };
    write!(out, "    {prefix}").expect("a string");
    if !path.headers.is_empty() {
        write!(out, " with {}", of_headers(&path.headers)).expect("a string");
    }
    if let Some(host) = &path.rewrite_host {
        write!(out, " as host {host}").expect("a string");
    }
    if !path.set_headers.is_empty() {
        write!(out, " set {}", of_headers(&path.set_headers)).expect("a string");
    }
    out.push('\n');
    for (
        percent,
        Backend {
            target,
            set_headers,
        },
    ) in path.splits.iter()
    {
        let target = of_target(target);
        write!(out, "      {percent} % {target}").expect("a string");
        if !set_headers.is_empty() {
            write!(out, " set {}", of_headers(set_headers)).expect("a string");
        }
        out.push('\n');
    }
}

fn of_target(target: &Target) -> String {
    match target {
        Target::Revision { id, spec } => format!("revision {id} ({})", protocol(spec.protocol)),
        Target::Service { id, spec } => format!("service {id} ({})", protocol(spec.protocol)),
        Target::External {
            id,
            host,
            port,
            spec,
        } => {
            format!(
                "external {id} = {host}:{port} ({})",
                protocol(spec.protocol)
            )
        }
        Target::Missing { reason } => format!("missing ({reason})"),
    }
}

fn of_headers(headers: &[(HeaderName, HeaderValue)]) -> String {
    let header = |(name, value): &(HeaderName, HeaderValue)| {
        format!("{name}={}", value.to_str().unwrap_or("?"))
    };
    let headers: Vec<String> = headers.iter().map(header).collect();
    if headers.is_empty() {
        "nothing".to_owned()
    } else {
        headers.join(" ")
    }
}

fn of_revision(out: &mut String, entry: &RevisionEntry) {
    let RevisionSpec {
        concurrency,
        protocol: speaks,
        timeouts,
        service,
        configuration,
    } = &*entry.spec;
    let owner = format!("service {service:?} configuration {configuration:?}");
    writeln!(
        out,
        "  concurrency {} {} {owner}",
        concurrency.as_number(),
        protocol(*speaks)
    )
    .expect("a string");
    let (total, start, idle) = (timeouts.total, timeouts.response_start, timeouts.idle);
    writeln!(
        out,
        "  timeouts total {total:?} response start {start:?} idle {idle:?}"
    )
    .expect("a string");
    writeln!(
        out,
        "  annotations {:?} takeover {} from {}",
        entry.annotations, entry.takeover, entry.origin
    )
    .expect("a string");
    if let Some(workload) = &entry.workload {
        of_workload(out, workload);
    }
    if let Some(endpoints) = &entry.endpoints {
        writeln!(out, "  {}", of_endpoints(endpoints)).expect("a string");
    }
}

fn of_workload(out: &mut String, workload: &Workload) {
    writeln!(
        out,
        "  runs {:?} {:?} env {:?}",
        workload.command, workload.args, workload.env
    )
    .expect("a string");
    writeln!(
        out,
        "  in {:?} progress deadline {:?} grace {:?}",
        workload.working_dir, workload.progress_deadline, workload.termination_grace
    )
    .expect("a string");
    writeln!(out, "  ready when {:?}", workload.readiness).expect("a string");
}

fn of_endpoints(endpoints: &[Endpoint]) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    format!("endpoints [{}]", endpoints.join(", "))
}

fn of_problems(what: &str, problems: &[Problem]) -> String {
    let text: String = problems
        .iter()
        .map(|problem| format!("{problem}\n"))
        .collect();
    if text.is_empty() {
        text
    } else {
        format!("{what}:\n{text}")
    }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http1 => "HTTP/1",
        Protocol::H2c => "h2c",
    }
}
