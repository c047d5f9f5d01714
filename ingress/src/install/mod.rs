//! `parkway install` and `parkway uninstall`: Parkway into a cluster that has Knative Serving, and out of it.
//!
//! [`manifests`] are those of `deploy/`, built and compiled in; [`converge`](mod@converge) makes the cluster have them, step by
//! step, and remembers in the cluster what was there [`former`]ly; [`workload`] and [`ingresses`] say how far the
//! cluster is and what is in the way; [`knative`] puts Knative itself there first, if asked. Everything is done with
//! objects of any kind ([`object`], [`api`]), because what is put back is whatever was there.

pub mod api;
pub mod converge;
pub mod former;
pub mod ingresses;
pub mod knative;
pub mod manifests;
pub mod object;
pub mod progress;
pub mod workload;
pub mod yaml;

use std::io::Write;
use std::process::ExitCode;

use serde_json::json;

use self::api::{Cluster, INSTALL_KNATIVE, Mode};
use self::converge::{Class, Outcome, Plan, config_network, converge, is_put_whole, put, unwanted};
use self::ingresses::KINGRESS;
use self::object::{Name, Object, PROVIDER, PROVIDER_LABEL};
use self::progress::{Failure, Progress};
use crate::cli::{Install, Role, Target, Uninstall};
use crate::provider::kubernetes::client::client;

/// Installs Parkway, or says what that would change.
///
/// # Errors
///
/// What went wrong, and how to mend it.
pub fn run(settings: &Install) -> anyhow::Result<ExitCode> {
    if let Some(version) = &settings.knative_version {
        print(&knative::commands(version)?);
        return Ok(ExitCode::SUCCESS);
    }
    let knative = knative::read(&settings.knative)?;
    if settings.dry_run {
        print(&yaml(&manifests::wanted(settings)));
    }
    // What would be changed is said beside the manifests, so that they can be piped.
    let mut out: Box<dyn Write + Send> = match settings.dry_run {
        true => Box::new(std::io::stderr()),
        false => Box::new(std::io::stdout()),
    };
    block_on(async {
        let mut progress = Progress::new(&mut *out);
        let cluster = match connect(&settings.target).await {
            Err(error) if settings.dry_run => {
                progress.say(format_args!(
                    "what this would change is not known: {error:#}"
                ));
                return Ok(());
            }
            cluster => cluster?,
        };
        install(&cluster, settings, &knative, &mut progress).await?;
        Ok(())
    })
}

/// Uninstalls Parkway, or says what that would change.
///
/// # Errors
///
/// What went wrong, and how to mend it.
pub fn run_uninstall(settings: &Uninstall) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    block_on(async {
        let mut progress = Progress::new(&mut out);
        let cluster = connect(&settings.target).await?;
        uninstall(&cluster, settings, &mut progress).await?;
        Ok(())
    })
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<ExitCode> {
    // Before anything makes a TLS connection. One that is there already is as good.
    rustls::crypto::ring::default_provider()
        .install_default()
        .unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(work)?;
    Ok(ExitCode::SUCCESS)
}

async fn connect(target: &Target) -> anyhow::Result<Cluster> {
    let access = &target.access;
    let client = client(access.kubeconfig.as_deref(), access.context.as_deref()).await?;
    Ok(Cluster::new(client))
}

/// Installs Parkway into this cluster, after Knative if there are objects of it.
///
/// # Errors
///
/// What went wrong, and how to mend it. What was done stays; begun again, it goes on.
pub async fn install(
    cluster: &Cluster,
    settings: &Install,
    knative: &[Object],
    progress: &mut Progress<'_>,
) -> Result<(), Failure> {
    let target = &settings.target;
    let version = cluster.version().await?;
    progress.say(format_args!(
        "Parkway {} as {} into Kubernetes {version}, namespace {}",
        env!("CARGO_PKG_VERSION"),
        roles(settings),
        target.namespace()
    ));
    let plan = plan(settings);
    if settings.dry_run {
        if !knative.is_empty() {
            progress.say(format_args!(
                "{} objects of Knative's would be applied first",
                knative.len()
            ));
        }
        return report(cluster, target, &plan, progress).await;
    }
    if !knative.is_empty() {
        knative::install(cluster, target, knative, progress).await?;
    }
    check(cluster, settings, &plan).await?;
    progress.say("Knative Serving is there, and nothing forbids the changes");
    converge(cluster, target, &plan, progress).await?;
    farewell(cluster, settings, progress).await
}

/// Uninstalls Parkway from this cluster: what was there before is there again.
///
/// # Errors
///
/// What went wrong, and how to mend it. What was done stays; begun again, it goes on.
pub async fn uninstall(
    cluster: &Cluster,
    settings: &Uninstall,
    progress: &mut Progress<'_>,
) -> Result<(), Failure> {
    let target = &settings.target;
    let plan = Plan {
        wanted: Vec::new(),
        class: Class::Restore,
        ours: None,
    };
    if settings.dry_run {
        return report(cluster, target, &plan, progress).await;
    }
    converge(cluster, target, &plan, progress).await?;
    progress.say("Parkway is gone; what was there before is there again");
    Ok(())
}

fn plan(settings: &Install) -> Plan {
    let is_ingress = settings.has(Role::Ingress);
    let class = match (is_ingress, settings.set_ingress_class) {
        (true, true) => Class::Set(settings.ingress_class.clone()),
        (true, false) => Class::Leave,
        (false, _) => Class::Restore,
    };
    Plan {
        wanted: manifests::wanted(settings),
        class,
        ours: is_ingress.then(|| settings.ingress_class.clone()),
    }
}

fn roles(settings: &Install) -> &'static str {
    match (settings.has(Role::Ingress), settings.has(Role::Activator)) {
        (true, false) => "the ingress",
        (false, true) => "the activator",
        _ => "activator and ingress",
    }
}

/// What has to be so before anything is changed: Knative is there, nobody would change it back, nothing is forbidden.
async fn check(cluster: &Cluster, settings: &Install, plan: &Plan) -> Result<(), Failure> {
    let namespace = settings.target.namespace();
    for (api_version, kind) in [
        ("serving.knative.dev/v1", "Revision"),
        (KINGRESS, "Ingress"),
    ] {
        if !cluster.knows(api_version, kind).await? {
            return Err(Failure::new(format!(
                "Knative Serving is not in this cluster: there is no {kind} of {api_version}"
            ))
            .mend(INSTALL_KNATIVE));
        }
    }
    let Some(config) = config_network(cluster, namespace).await? else {
        return Err(Failure::new(format!(
            "Knative Serving is not in namespace {namespace}: there is no ConfigMap config-network"
        ))
        .mend("name its namespace with --system-namespace")
        .mend(INSTALL_KNATIVE));
    };
    if settings.has(Role::Activator) {
        let name = Name::new("apps/v1", "Deployment", namespace, "activator");
        if let Some(activator) = cluster.get(&name).await? {
            refuse_operator(&activator)?;
        }
    }
    if let Class::Set(class) = &plan.class {
        if config.0.pointer("/data/ingress-class") != Some(&json!(class)) {
            refuse_operator(&config)?;
        }
        let patch = json!({"data": {"ingress-class": class}});
        cluster.merge(&config.id(), &patch, Mode::Try).await?;
    }
    for wanted in &plan.wanted {
        refuse_strangers(cluster, wanted).await?;
        match put(cluster, wanted, Mode::Try).await {
            // A binding is refused before its role is there.
            Err(error) if error.is_missing() && wanted.kind().ends_with("Binding") => {}
            tried => drop(tried?),
        }
    }
    Ok(())
}

/// What has one of Parkway's names and is neither Parkway's nor kept would be lost: applied over, then removed.
async fn refuse_strangers(cluster: &Cluster, wanted: &Object) -> Result<(), Failure> {
    let name = wanted.id();
    if is_put_whole(&name.kind) {
        return Ok(());
    }
    match cluster.get(&name).await? {
        Some(live) if !live.is_ours() => Err(Failure::new(format!(
            "{name} is there already, and is not Parkway's: it has no label {PROVIDER_LABEL}={PROVIDER}"
        ))
        .mend("if it is left of an earlier trial, delete it; if it is somebody's, rename it")),
        _ => Ok(()),
    }
}

/// Knative's operator applies its manifests again and again: what is changed beside it does not last.
///
/// Source: knative/operator `pkg/reconciler`.
fn refuse_operator(object: &Object) -> Result<(), Failure> {
    if object.owned_by(&["KnativeServing"]).is_none() || object.is_ours() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{} belongs to Knative's operator, which would change it back",
        object.id()
    ))
    .mend("for the ingress: set spec.config.network.ingress-class of the KnativeServing to Parkway's class, and install with --roles ingress --set-ingress-class false")
    .mend("for the activator: have the KnativeServing leave its Deployment out (spec.manifests)"))
}

/// Says what would be changed.
async fn report(
    cluster: &Cluster,
    target: &Target,
    plan: &Plan,
    progress: &mut Progress<'_>,
) -> Result<(), Failure> {
    for wanted in &plan.wanted {
        let name = wanted.id();
        match put(cluster, wanted, Mode::Try).await {
            Ok(Outcome::Created) => progress.say(format_args!("{name}: new")),
            Ok(Outcome::Unchanged) => progress.say(format_args!("{name}: as it is")),
            Ok(Outcome::Changed(fields)) => {
                progress.say(format_args!("{name}: changes {}", fields.join(", ")));
            }
            Err(error) => progress.say(error),
        }
    }
    let namespace = target.namespace();
    let config = config_network(cluster, namespace).await?;
    let live = config
        .as_ref()
        .map_or("", |config| config.text("/data/ingress-class"));
    let former = former::Former::read(cluster, namespace).await?;
    let class = match &plan.class {
        Class::Set(class) => Some(class.clone()),
        Class::Leave => None,
        Class::Restore => former.class().and_then(|class| class.former),
    };
    if let Some(class) = class.filter(|class| class != live) {
        progress.say(format_args!(
            "ConfigMap {namespace}/config-network: ingress-class becomes {class} (is {live})"
        ));
    }
    for object in unwanted(cluster, target, plan).await? {
        let name = object.id();
        let becomes = match former.object(&name) {
            Some(_) => "becomes what it was before",
            None => "goes",
        };
        progress.say(format_args!("{name}: {becomes}"));
    }
    Ok(())
}

/// Says where clients find it now.
async fn farewell(
    cluster: &Cluster,
    settings: &Install,
    progress: &mut Progress<'_>,
) -> Result<(), Failure> {
    let namespace = settings.target.namespace();
    if !settings.has(Role::Ingress) {
        progress.say("Parkway is the activator now");
        return Ok(());
    }
    let name = Name::new("v1", "Service", namespace, "parkway");
    let service = cluster.get(&name).await?;
    let address = service.as_ref().and_then(|service| {
        let first = service.list("/status/loadBalancer/ingress").first()?;
        let address = first.get("ip").or_else(|| first.get("hostname"))?;
        address.as_str().map(str::to_owned)
    });
    match address {
        Some(address) => progress.say(format_args!(
            "Parkway serves at {address}: that is where DNS has to lead"
        )),
        None => progress.say(format_args!(
            "Parkway serves; {name} has no address from a load balancer yet, and DNS has to lead to it"
        )),
    }
    Ok(())
}

fn yaml(objects: &[Object]) -> String {
    let values: Vec<_> = objects.iter().map(|object| object.0.clone()).collect();
    yaml::write(&values)
}

#[expect(clippy::print_stdout, reason = "the answer to a command")]
fn print(text: &str) {
    print!("{text}");
}
