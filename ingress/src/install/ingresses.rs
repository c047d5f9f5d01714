//! Whether the cluster's KIngresses are where they should be: of this class, and Ready.

use std::collections::BTreeSet;

use serde_json::Value;

use super::api::{ApiError, Cluster};
use super::object::Object;
use super::progress::{Failure, State};

/// The annotation that says whose a KIngress is; on a Route the other spelling is known too.
///
/// Source: knative/networking `pkg/apis/networking/register.go`.
const CLASS_ANNOTATIONS: [&str; 2] = [
    "networking.knative.dev/ingress.class",
    "networking.knative.dev/ingress-class",
];
/// Group and version of KIngresses.
pub const KINGRESS: &str = "networking.internal.knative.dev/v1alpha1";
/// What Knative makes KIngresses of.
const OWNERS: [(&str, &str); 2] = [
    ("serving.knative.dev/v1", "Route"),
    ("serving.knative.dev/v1beta1", "DomainMapping"),
];
/// The Service of Parkway's cluster-local entrance, as its manifests name it.
const GATEWAY_LOCAL: &str = "parkway-internal";
/// How many are named where more are meant.
const NAMED: usize = 3;

/// What is waited for: that those which follow the cluster's class have this one, and that all of this class are Ready.
#[derive(Debug)]
pub struct Settled {
    class: String,
    /// Routes and `DomainMapping`s that say their class themselves: kind, namespace and name.
    own_class: BTreeSet<(String, String, String)>,
    /// Those of another class are to change.
    is_default: bool,
    /// It is Parkway's class.
    is_ours: bool,
}

impl Settled {
    /// For this class, Parkway's or another's; if it is that of the cluster, KIngresses of others are to change.
    ///
    /// # Errors
    ///
    /// When Routes cannot be read.
    pub async fn new(
        cluster: &Cluster,
        class: &str,
        is_default: bool,
        is_ours: bool,
    ) -> Result<Self, ApiError> {
        let mut own_class = BTreeSet::new();
        for (api_version, kind) in OWNERS {
            if !is_default || !cluster.knows(api_version, kind).await? {
                continue;
            }
            for owner in cluster.list(api_version, kind, None, &[]).await? {
                if CLASS_ANNOTATIONS
                    .iter()
                    .any(|name| owner.annotation(name).is_some())
                {
                    let namespace = owner.namespace().unwrap_or_default().to_owned();
                    own_class.insert((kind.to_owned(), namespace, owner.name().to_owned()));
                }
            }
        }
        Ok(Self {
            class: class.to_owned(),
            own_class,
            is_default,
            is_ours,
        })
    }

    /// How far they are.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    pub async fn look(&self, cluster: &Cluster) -> Result<State, Failure> {
        let all = cluster.list(KINGRESS, "Ingress", None, &[]).await?;
        let (mut ready, mut waiting) = (0, Vec::new());
        for ingress in &all {
            if ingress.annotation(CLASS_ANNOTATIONS[0]) != Some(&self.class) {
                if self.is_to_change(ingress) {
                    waiting.push(format!("{} is of another class still", place(ingress)));
                }
            } else if is_ready(ingress) && leads_here(ingress) != self.is_ours {
                // A change of class leaves the generation as it is, and with it the other's word that it is Ready.
                waiting.push(format!(
                    "{} is served by the other layer still",
                    place(ingress)
                ));
            } else if is_ready(ingress) {
                ready += 1;
            } else {
                waiting.push(format!("{} {}", place(ingress), why_not(ingress)));
            }
        }
        if waiting.is_empty() {
            return Ok(State::Done(format!("{ready} of {ready} Ready")));
        }
        let total = ready + waiting.len();
        let more = match waiting.len() > NAMED {
            true => ", …",
            false => "",
        };
        waiting.truncate(NAMED);
        Ok(State::Waiting(format!(
            "{ready} of {total} Ready: {}{more}",
            waiting.join(", ")
        )))
    }

    /// Whether it follows the class of the cluster.
    fn is_to_change(&self, ingress: &Object) -> bool {
        if !self.is_default {
            return false;
        }
        let Some(owner) = ingress.owned_by(&OWNERS.map(|(_, kind)| kind)) else {
            return false;
        };
        let text = |field: &str| owner[field].as_str().unwrap_or_default().to_owned();
        let namespace = ingress.namespace().unwrap_or_default().to_owned();
        !self
            .own_class
            .contains(&(text("kind"), namespace, text("name")))
    }
}

fn place(ingress: &Object) -> String {
    format!(
        "{}/{}",
        ingress.namespace().unwrap_or_default(),
        ingress.name()
    )
}

/// Ready, and that of this generation.
///
/// Source: knative/networking `pkg/apis/networking/v1alpha1/ingress_lifecycle.go`.
fn is_ready(ingress: &Object) -> bool {
    let is_observed =
        ingress.number("/status/observedGeneration") == ingress.number("/metadata/generation");
    is_observed && condition(ingress).is_some_and(|ready| ready["status"] == "True")
}

/// Whether its status leads to Parkway's Service.
fn leads_here(ingress: &Object) -> bool {
    let domain = ingress.text("/status/privateLoadBalancer/ingress/0/domainInternal");
    domain.split('.').next() == Some(GATEWAY_LOCAL)
}

fn why_not(ingress: &Object) -> String {
    let message = condition(ingress).and_then(|ready| ready["message"].as_str());
    match message {
        Some(message) if !message.is_empty() => format!("is not Ready ({message})"),
        _ => "is not Ready".to_owned(),
    }
}

fn condition(ingress: &Object) -> Option<&Value> {
    let mut conditions = ingress.list("/status/conditions").iter();
    conditions.find(|one| one["type"] == "Ready")
}
