//! `parkway check --live`: what the data path would do with what a cluster has.
//!
//! The same provider that serves a cluster looks at it once; what it says is told instead of done.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use kube::Client;
use parkway_activator::revision::RevisionId;

use crate::cli::Live;
use crate::provider::kubernetes::client::client;
use crate::provider::kubernetes::{
    Changes, IngressChange, Key, KubernetesProvider, Outcome, RevisionChange, ServiceChange,
    Settings,
};
use crate::routing::rules::{Backend, IngressRules, Target, Visibility};
use crate::routing::table::{Age, DEFAULT_CLUSTER_DOMAIN, RouteTable};

/// How long it may take until the API server has told what there is.
pub const LOOK_FOR: Duration = Duration::from_secs(30);
/// Status when something is wrong.
const MISTAKES: u8 = 2;

/// What was found.
#[derive(Debug)]
pub struct Report {
    /// For people.
    pub text: String,
    /// Something is not served as it is written.
    pub has_mistakes: bool,
}

/// Looks at a cluster; prints what would be done with it.
///
/// # Errors
///
/// When there is no cluster, or it does not tell.
pub fn run(settings: &Live) -> anyhow::Result<ExitCode> {
    // Before anything makes a TLS connection. One that is there already is as good.
    rustls::crypto::ring::default_provider()
        .install_default()
        .unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(async {
        let access = &settings.access;
        let client = client(access.kubeconfig.as_deref(), access.context.as_deref()).await?;
        look(&client, settings).await
    })?;
    print(&report.text);
    Ok(match report.has_mistakes {
        true => ExitCode::from(MISTAKES),
        false => ExitCode::SUCCESS,
    })
}

#[expect(clippy::print_stdout, reason = "the answer to a command")]
fn print(text: &str) {
    print!("{text}");
}

/// Looks at a cluster once.
///
/// # Errors
///
/// When it does not tell what there is within [`LOOK_FOR`]: names the kinds that cannot be read, and why.
pub async fn look(client: &Client, settings: &Live) -> anyhow::Result<Report> {
    let namespace = settings.access.system_namespace.as_str();
    let watched = Settings {
        ingress_class: Some(settings.ingress_class.clone()),
        system_namespace: namespace.to_owned(),
        gateway: Key::new(namespace, "parkway"),
        default_certificate: None,
        ticket_keys: None,
        wants_public: false,
    };
    let mut provider = KubernetesProvider::new(client, &watched);
    let Ok(changes) = tokio::time::timeout(LOOK_FOR, provider.changed()).await else {
        let state = provider.health().state();
        let failing = state.iter().filter(|(_, watch)| !watch.is_synced);
        let failing: Vec<_> = failing
            .map(|(kind, watch)| {
                let why = watch.failing.as_deref().unwrap_or("no answer");
                format!("{kind}: {why}")
            })
            .collect();
        bail!(
            "the cluster does not tell what there is: {}",
            failing.join("; ")
        );
    };
    Ok(report(&changes, settings))
}

/// What would be done.
fn report(changes: &Changes, settings: &Live) -> Report {
    let mut table = RouteTable::new(DEFAULT_CLUSTER_DOMAIN);
    for change in &changes.ingresses {
        if let Some(rules) = &change.rules {
            table.set(Age::Created(change.created), rules.clone());
        }
    }
    let conflicts = table.conflicts();
    let known = Known::of(changes);
    let is_meant = |namespace: &str| {
        let only = settings.namespace.as_deref();
        only.is_none_or(|only| only == namespace)
    };
    let mut report = Report {
        text: String::new(),
        has_mistakes: false,
    };
    let mut ingresses: Vec<_> = changes.ingresses.iter().collect();
    ingresses.retain(|change| is_meant(&change.key.namespace));
    ingresses.sort_by(|a, b| a.key.cmp(&b.key));
    for change in &ingresses {
        report.tell(change, &known);
    }
    for conflict in &conflicts {
        if is_meant(&conflict.ingress.namespace) {
            report.mistake(format_args!("{conflict}"));
        }
    }
    for (id, revision) in &known.revisions {
        if let Some(failure) = revision
            .failure
            .as_deref()
            .filter(|_| is_meant(id.namespace()))
        {
            report.mistake(format_args!("Revision {id} cannot start: {failure}"));
        }
    }
    if ingresses.is_empty() {
        let of = settings.namespace.as_deref();
        let of = of.map_or_else(String::new, |namespace| {
            format!(" in namespace {namespace}")
        });
        report.say(format_args!(
            "nothing of class {}{of}; the cluster's class is {}",
            settings.ingress_class,
            class_of_the_cluster(changes)
        ));
    }
    report
}

fn class_of_the_cluster(changes: &Changes) -> &str {
    let config = changes.config.as_ref();
    let network = config.and_then(|config| config.get("config-network"));
    let class = network.and_then(|network| network.get("ingress-class"));
    class.map_or("not set", String::as_str)
}

/// What rules lead to.
struct Known<'c> {
    revisions: BTreeMap<&'c RevisionId, &'c RevisionChange>,
    services: BTreeMap<&'c RevisionId, &'c ServiceChange>,
}

impl<'c> Known<'c> {
    fn of(changes: &'c Changes) -> Self {
        fn there<T>((id, change): &(RevisionId, Option<T>)) -> Option<(&RevisionId, &T)> {
            Some((id, change.as_ref()?))
        }
        Self {
            revisions: changes.revisions.iter().filter_map(there).collect(),
            services: changes.services.iter().filter_map(there).collect(),
        }
    }

    /// Where a request goes, and whether it would have to wait.
    fn target(&self, backend: &Backend) -> String {
        match &backend.target {
            Target::Revision { id, .. } => {
                let revision = self.revisions.get(id);
                match revision.map_or(0, |revision| revision.ready.len()) {
                    0 => format!("{id} (at zero: requests wait)"),
                    ready => format!("{id} ({ready} ready)"),
                }
            }
            Target::Service { id, .. } => {
                let service = self.services.get(id);
                let ready = service.map_or(0, |service| service.endpoints.len());
                format!("{id} (Service, {ready} ready)")
            }
            Target::External { host, port, .. } => format!("{host}:{port}"),
            Target::Missing { reason } => format!("nowhere: {reason}"),
        }
    }
}

impl Report {
    fn say(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").unwrap_or_default(); // a String takes everything
    }

    fn mistake(&mut self, line: std::fmt::Arguments<'_>) {
        self.has_mistakes = true;
        self.say(line);
    }

    fn tell(&mut self, change: &IngressChange, known: &Known<'_>) {
        let key = &change.key;
        match &change.outcome {
            Outcome::Programmed => self.say(format_args!("{key}: served")),
            Outcome::Waiting { reason, message } => {
                self.mistake(format_args!("{key}: waits, {reason}: {message}"));
            }
            Outcome::Refused { reason, message } => {
                self.mistake(format_args!("{key}: refused, {reason}: {message}"));
            }
        }
        for problem in &change.notes {
            let (field, message) = (&problem.field, &problem.message);
            let (value, remedy) = (&problem.value, &problem.remedy);
            self.mistake(format_args!("  {field} = {value}: {message}; {remedy}"));
        }
        if let Some(rules) = &change.rules {
            self.rules(rules, known);
        }
    }

    fn rules(&mut self, rules: &IngressRules, known: &Known<'_>) {
        for rule in &rules.rules {
            let entrance = match rule.visibility {
                Visibility::ExternalIp => "external",
                Visibility::ClusterLocal => "local",
            };
            let hosts = match rule.hosts.is_empty() {
                true => "all hosts".to_owned(),
                false => rule.hosts.join(", "),
            };
            self.say(format_args!("  {entrance}  {hosts}"));
            for path in &rule.paths {
                let prefix = match path.prefix.as_str() {
                    "" => "/",
                    prefix => prefix,
                };
                let headers: Vec<_> = path
                    .headers
                    .iter()
                    .map(|(name, value)| format!(" {name}: {}", value.to_str().unwrap_or("…")))
                    .collect();
                let targets: Vec<_> = path
                    .splits
                    .iter()
                    .map(|(percent, backend)| format!("{percent}% {}", known.target(backend)))
                    .collect();
                self.say(format_args!(
                    "    {prefix}{}  {}",
                    headers.concat(),
                    targets.join(", ")
                ));
                self.has_mistakes |= path
                    .splits
                    .iter()
                    .any(|(_, backend)| matches!(backend.target, Target::Missing { .. }));
            }
        }
    }
}
