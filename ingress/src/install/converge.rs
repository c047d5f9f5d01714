//! From what a cluster has to what it is to have, in an order that keeps requests answered.
//!
//! What goes in the place of something of Knative's is kept first, put whole (so that nothing of the former stays: a
//! server-side apply would merge lists of containers, ports and variables), and waited for. Only then the class
//! changes, and only when the KIngresses have followed what is not wanted any more goes. To uninstall is the same with
//! nothing wanted. Each step finds what an earlier attempt has done, so it can be killed and begun again.

use serde_json::{Value, json};

use super::api::{ApiError, Cluster, FIELD_MANAGER, Mode};
use super::former::{CONFIG_MAP, Former};
use super::ingresses::{Settled, Unready};
use super::manifests;
use super::object::{Name, Object, PROVIDER, PROVIDER_LABEL, differences};
use super::progress::{Failure, Progress};
use super::workload::{Patience, REVISION, rollout};
use crate::cli::Target;

/// How often a write is tried again when somebody else was quicker.
const ATTEMPTS: usize = 5;
/// How the names of Parkway's Leases begin.
const LEASE_PREFIX: &str = "parkway.";
/// The kinds of everything that is Parkway's, in the order in which it goes.
const KINDS: [(&str, &str); 10] = [
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("policy/v1", "PodDisruptionBudget"),
    ("apps/v1", "Deployment"),
    ("v1", "Service"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io/v1", "Role"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole"),
    ("v1", "ServiceAccount"),
];

/// What becomes of config-network's ingress-class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Class {
    /// It becomes this.
    Set(String),
    /// It stays what it is.
    Leave,
    /// It becomes what it was before Parkway.
    Restore,
}

/// What a cluster is to have.
#[derive(Debug)]
pub struct Plan {
    /// In the order in which it is applied.
    pub wanted: Vec<Object>,
    /// The class of Routes without another.
    pub class: Class,
    /// Parkway's class, if it stands in for the ingress.
    pub ours: Option<String>,
}

/// What a write did, or would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was none.
    Created,
    /// These fields.
    Changed(Vec<String>),
    /// Everything was as wanted.
    Unchanged,
}

/// How it was when it began.
struct Known {
    config: Option<Object>,
    former: Former,
    unready: Unready,
}

/// Whether what has a name of this kind is kept, and the whole of ours put in its place.
pub(super) fn is_put_whole(kind: &str) -> bool {
    matches!(
        kind,
        "Deployment" | "HorizontalPodAutoscaler" | "PodDisruptionBudget"
    )
}

/// Makes one object as wanted, or says what that would change.
///
/// # Errors
///
/// When the API server refuses.
pub async fn put(cluster: &Cluster, wanted: &Object, mode: Mode) -> Result<Outcome, ApiError> {
    let name = wanted.id();
    let mut attempt = 1;
    loop {
        let live = cluster.get(&name).await?;
        let result = match &live {
            _ if !is_put_whole(wanted.kind()) => cluster.apply(wanted, FIELD_MANAGER, mode).await,
            None => cluster.create(wanted, mode).await,
            Some(live) => cluster.replace(&in_place_of(wanted, live), mode).await,
        };
        match result {
            Err(error) if error.is_conflict() && attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
            Ok(result) => {
                return Ok(match live {
                    None => Outcome::Created,
                    Some(live) => match differences(&live.written().0, &result.written().0) {
                        fields if fields.is_empty() => Outcome::Unchanged,
                        fields => Outcome::Changed(fields),
                    },
                });
            }
        }
    }
}

/// The wanted object with what belongs to others: its version, and how many there are.
fn in_place_of(wanted: &Object, live: &Object) -> Object {
    let mut object = wanted.clone();
    let version = live.text("/metadata/resourceVersion");
    object.set_metadata("resourceVersion", json!(version));
    if let Some(revision) = live.annotation(REVISION) {
        object.0["metadata"]["annotations"][REVISION] = json!(revision);
    }
    let Some(Value::Object(spec)) = object.0.get_mut("spec") else {
        return object;
    };
    match wanted.kind() {
        // Never fewer than there are, and one at least: an autoscaler leaves a Deployment at 0 alone.
        "Deployment" => {
            let most = wanted
                .number("/spec/replicas")
                .max(live.number("/spec/replicas"))
                .max(1);
            spec.insert("replicas".to_owned(), json!(most));
        }
        "HorizontalPodAutoscaler" if !spec.contains_key("minReplicas") => {
            for bound in ["minReplicas", "maxReplicas"] {
                if let Some(value) = live.0["spec"].get(bound) {
                    spec.insert(bound.to_owned(), value.clone());
                }
            }
        }
        _ => {}
    }
    object
}

/// Makes the cluster as planned.
///
/// # Errors
///
/// When the API server refuses, or something does not come true in time. What was done stays; begun again, it goes on.
pub async fn converge(
    cluster: &Cluster,
    target: &Target,
    plan: &Plan,
    progress: &mut Progress<'_>,
) -> Result<(), Failure> {
    let namespace = target.namespace();
    let unready = Unready::now(cluster).await?;
    let mut former = Former::read(cluster, namespace).await?;
    let config = config_network(cluster, namespace).await?;
    keep(cluster, plan, config.as_ref(), &mut former).await?;
    former.write(cluster).await?;

    apply(cluster, plan, progress).await?;
    wait_for_deployments(cluster, target, &plan.wanted, progress).await?;
    let known = Known {
        config,
        former,
        unready,
    };
    change_class(cluster, target, plan, &known, progress).await?;
    let former = known.former;
    let gone = remove(cluster, target, plan, &former, progress).await?;
    if plan.wanted.is_empty() {
        former.remove(cluster).await?;
    }
    if gone > 0 || plan.wanted.is_empty() {
        progress.say(format_args!("{gone} objects of Parkway's removed"));
    }
    Ok(())
}

/// `config-network`, if it is there.
pub(super) async fn config_network(
    cluster: &Cluster,
    namespace: &str,
) -> Result<Option<Object>, ApiError> {
    let name = Name::new("v1", "ConfigMap", namespace, "config-network");
    cluster.get(&name).await
}

fn class_of(config: Option<&Object>) -> Option<&str> {
    config?.0.pointer("/data/ingress-class")?.as_str()
}

/// Keeps what is about to be replaced, unless it is Parkway's already.
async fn keep(
    cluster: &Cluster,
    plan: &Plan,
    config: Option<&Object>,
    former: &mut Former,
) -> Result<(), ApiError> {
    for wanted in plan.wanted.iter().filter(|one| is_put_whole(one.kind())) {
        if let Some(live) = cluster.get(&wanted.id()).await?
            && !live.is_ours()
        {
            former.keep_object(&live);
        }
    }
    if let Class::Set(class) = &plan.class {
        former.keep_class(class_of(config), class);
    }
    Ok(())
}

async fn apply(cluster: &Cluster, plan: &Plan, progress: &mut Progress<'_>) -> Result<(), Failure> {
    let (mut created, mut changed, mut same) = (0, 0, 0);
    for wanted in &plan.wanted {
        match put(cluster, wanted, Mode::Change).await? {
            Outcome::Created => created += 1,
            Outcome::Changed(_) => changed += 1,
            Outcome::Unchanged => same += 1,
        }
    }
    if !plan.wanted.is_empty() {
        progress.say(format_args!(
            "{} objects applied: {created} new, {changed} changed, {same} as they were",
            plan.wanted.len()
        ));
    }
    Ok(())
}

async fn wait_for_deployments(
    cluster: &Cluster,
    target: &Target,
    objects: &[Object],
    progress: &mut Progress<'_>,
) -> Result<(), Failure> {
    if target.no_wait {
        return Ok(());
    }
    for deployment in objects.iter().filter(|one| one.kind() == "Deployment") {
        let name = deployment.id();
        let subject = name.to_string();
        let look = async || rollout(cluster, &name, Patience::GivesUp).await;
        let waited = progress.until(&subject, target.timeout(), look).await;
        waited.map_err(|failure| {
            failure
                .note("what was there before goes on serving; `parkway install` again goes on from here, `parkway uninstall` goes back")
        })?;
    }
    Ok(())
}

/// Sets the class, or puts the former one back, and waits until the KIngresses have followed.
async fn change_class(
    cluster: &Cluster,
    target: &Target,
    plan: &Plan,
    known: &Known,
    progress: &mut Progress<'_>,
) -> Result<(), Failure> {
    let (config, former, unready) = (known.config.as_ref(), &known.former, &known.unready);
    let live = class_of(config);
    let class = match &plan.class {
        Class::Leave => None,
        Class::Set(class) => Some(Some(class.clone())),
        // Who has changed it since knows better.
        Class::Restore => former
            .class()
            .filter(|class| live == Some(class.set.as_str()))
            .map(|class| class.former),
    };
    if let (Some(class), Some(config)) = (&class, config)
        && class.as_deref() != live
    {
        let patch = json!({"data": {"ingress-class": class}});
        let changed = cluster.merge(&config.id(), &patch, Mode::Change).await?;
        if plan.class == Class::Restore {
            disown(cluster, &changed).await?;
        }
        let shown = |class: Option<&str>| class.unwrap_or("(none)").to_owned();
        progress.say(format_args!(
            "config-network: ingress-class {} (was {})",
            shown(class.as_deref()),
            shown(live)
        ));
    }
    let now = class.unwrap_or_else(|| live.map(str::to_owned));
    // Without Parkway, what follows the cluster's class has to be served by another; with it, what is Parkway's.
    let settled = match &plan.ours {
        Some(ours) => {
            let is_default = now.as_ref() == Some(ours);
            Settled::new(cluster, ours, is_default, true, unready).await?
        }
        None => match now {
            Some(class) if !former.is_empty() => {
                Settled::new(cluster, &class, true, false, unready).await?
            }
            _ => return Ok(()),
        },
    };
    if target.no_wait {
        return Ok(());
    }
    let look = async || settled.look(cluster).await;
    let waited = progress.until("KIngresses", target.timeout(), look).await;
    waited.map_err(|failure| match &plan.ours {
        Some(_) => failure.mend(format!(
            "`kubectl get kingress -A` and Parkway's log say more: `kubectl -n {} logs -l {PROVIDER_LABEL}={PROVIDER}`",
            target.namespace()
        )),
        None => failure.mend(
            "see that the former networking layer runs; or go on without it by --no-wait, and nobody answers for these until one does",
        ),
    })
}

/// Removes what is Parkway's and not wanted, and puts back what was there before.
async fn remove(
    cluster: &Cluster,
    target: &Target,
    plan: &Plan,
    former: &Former,
    progress: &mut Progress<'_>,
) -> Result<usize, Failure> {
    let unwanted = unwanted(cluster, target, plan).await?;
    let mut restored = Vec::new();
    for object in &unwanted {
        let name = object.id();
        if let Some(before) = former.object(&name) {
            restore(cluster, &before).await?;
            progress.say(format_args!("{name}: as it was"));
            restored.push(before);
        } else if name.kind == "Deployment" && name.name == "activator" {
            return Err(no_former_activator(&name, target));
        }
    }
    wait_for_deployments(cluster, target, &restored, progress).await?;
    let mut gone = 0;
    for object in &unwanted {
        let name = object.id();
        if former.object(&name).is_none() && cluster.delete(&name, Mode::Change).await? {
            gone += 1;
        }
    }
    if plan.ours.is_none() {
        gone += remove_leases(cluster, target).await?;
    }
    Ok(gone)
}

/// Removes the Leases by which Parkways have chosen who leads: they belong to no manifest, and `config-leader-election`
/// may have given them any name (`map-lease-prefix`).
async fn remove_leases(cluster: &Cluster, target: &Target) -> Result<usize, ApiError> {
    let namespace = Some(target.namespace());
    let leases = cluster
        .list("coordination.k8s.io/v1", "Lease", namespace, &[])
        .await?;
    let mut gone = 0;
    for lease in leases {
        let is_ours = lease.is_ours() || lease.name().starts_with(LEASE_PREFIX);
        if is_ours && cluster.delete(&lease.id(), Mode::Change).await? {
            gone += 1;
        }
    }
    Ok(gone)
}

/// What is Parkway's and not wanted. As long as something is wanted, only what the manifests have is meant: what else
/// carries the label (the monitoring, say) somebody has added.
pub(super) async fn unwanted(
    cluster: &Cluster,
    target: &Target,
    plan: &Plan,
) -> Result<Vec<Object>, ApiError> {
    let selector = format!("{PROVIDER_LABEL}={PROVIDER}");
    let known = manifests::names(target.namespace());
    let mut found = Vec::new();
    for (api_version, kind) in KINDS {
        let namespace = match kind {
            "ClusterRole" | "ClusterRoleBinding" => None,
            _ => Some(target.namespace()),
        };
        let selectors = [("labelSelector", selector.as_str())];
        found.extend(
            cluster
                .list(api_version, kind, namespace, &selectors)
                .await?,
        );
    }
    found.retain(|object| {
        let name = object.id();
        let is_wanted = plan.wanted.iter().any(|wanted| wanted.id() == name);
        !is_wanted && (plan.wanted.is_empty() || known.contains(&name))
    });
    Ok(found)
}

/// Puts an object back as it was, and with it whose fields they are.
async fn restore(cluster: &Cluster, before: &Object) -> Result<(), ApiError> {
    let name = before.id();
    let mut attempt = 1;
    loop {
        let live = cluster.get(&name).await?;
        let result = match &live {
            None => cluster.create(before, Mode::Change).await,
            Some(live) => {
                let mut object = before.clone();
                let version = live.text("/metadata/resourceVersion");
                object.set_metadata("resourceVersion", json!(version));
                if let Some(revision) = live.annotation(REVISION) {
                    object.0["metadata"]["annotations"][REVISION] = json!(revision);
                }
                cluster.replace(&object, Mode::Change).await
            }
        };
        match result {
            Err(error) if error.is_conflict() && attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    // The write has made the fields ours; the next `kubectl apply --server-side` of a release would find a conflict.
    let Some(fields) = before.0.pointer("/metadata/managedFields") else {
        return Ok(());
    };
    let patch = json!({"metadata": {"managedFields": fields}});
    cluster.merge(&name, &patch, Mode::Change).await?;
    Ok(())
}

/// Gives up what has been written to an object: whoever applies it next finds no conflict with Parkway.
async fn disown(cluster: &Cluster, object: &Object) -> Result<(), ApiError> {
    let all = object.list("/metadata/managedFields");
    let others: Vec<_> = all
        .iter()
        .filter(|entry| entry["manager"] != FIELD_MANAGER)
        .collect();
    if others.is_empty() || others.len() == all.len() {
        return Ok(());
    }
    let patch = json!({"metadata": {"managedFields": others}});
    cluster.merge(&object.id(), &patch, Mode::Change).await?;
    Ok(())
}

fn no_former_activator(name: &Name, target: &Target) -> Failure {
    let namespace = target.namespace();
    Failure::new(format!(
        "{name} is Parkway's, and what was there before is not known: ConfigMap {namespace}/{CONFIG_MAP} does not have it"
    ))
    .mend(format!(
        "put Knative's there, `kubectl -n {namespace} delete deployment activator && kubectl apply -f serving-core.yaml`, then `parkway uninstall` again"
    ))
}
