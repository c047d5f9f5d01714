//! A cluster with Knative Serving in it, as far as installing can tell: the double of the API server, and beside it
//! what the controllers of Kubernetes, of Knative and of the networking layers would do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use clap::Parser;
use kube::Client;
use parkway_ingress::cli::{Cli, Command, Install, Uninstall};
use parkway_ingress::install::api::Cluster;
use parkway_ingress::install::object::{Name, Object};
use parkway_ingress::install::progress::{Failure, Progress};
use parkway_ingress::install::{self, ingresses};
use parkway_tests::api::{ApiDouble, Kind};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::sleep;

pub(crate) const NS: &str = "knative-serving";
pub(crate) const KOURIER: &str = "kourier.ingress.networking.knative.dev";
pub(crate) const PARKWAY: &str = "parkway.ingress.networking.knative.dev";
const CLASS: &str = "networking.knative.dev/ingress.class";
const REVISION: &str = "deployment.kubernetes.io/revision";
/// How long the controllers take for anything.
const STEP: Duration = Duration::from_millis(300);

/// The cluster.
pub(crate) struct Site {
    pub(crate) api: Arc<ApiDouble>,
    controllers: JoinHandle<()>,
    /// How many more writes are let through.
    writes: Arc<AtomicI64>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.controllers.abort();
    }
}

impl Site {
    /// With Knative as released, Kourier as its networking layer, and two Routes.
    pub(crate) fn with_knative() -> Self {
        let site = Self::empty();
        for object in knative() {
            site.api.put(object);
        }
        site
    }

    /// With nothing but Kubernetes.
    pub(crate) fn empty() -> Self {
        let api = Arc::new(ApiDouble::in_memory());
        api.register(Kind::built_in("apps/v1", "ReplicaSet", "replicasets"));
        let controllers = tokio::spawn(controllers(Arc::clone(&api)));
        Self {
            api,
            controllers,
            writes: Arc::new(AtomicI64::new(i64::MAX)),
        }
    }

    /// From now on only so many writes are answered; the next ones never are.
    pub(crate) fn answer_writes(&self, count: i64) {
        self.writes.store(count, Ordering::Relaxed);
    }

    pub(crate) fn cluster(&self) -> Cluster {
        let writes = Arc::clone(&self.writes);
        let counted = move |request: Request, next: Next| {
            let is_write = request.method() != http::Method::GET
                && !request.uri().query().unwrap_or_default().contains("dryRun");
            let is_answered = !is_write || writes.fetch_sub(1, Ordering::Relaxed) > 0;
            async move {
                if !is_answered {
                    std::future::pending::<()>().await;
                }
                next.run(request).await
            }
        };
        let router: Router = self.api.router().layer(middleware::from_fn(counted));
        Cluster::new(Client::new(router, "default"))
    }

    /// `parkway install` with these flags; what it said, and what became of it.
    pub(crate) async fn install(&self, flags: &[&str]) -> (String, Result<(), Failure>) {
        self.install_after(&[], flags).await
    }

    pub(crate) async fn install_after(
        &self,
        knative: &[Value],
        flags: &[&str],
    ) -> (String, Result<(), Failure>) {
        let knative: Vec<_> = knative.iter().cloned().map(Object).collect();
        let mut said = Vec::new();
        let mut progress = Progress::new(&mut said);
        let settings = settings(flags);
        let done = install::install(&self.cluster(), &settings, &knative, &mut progress).await;
        (String::from_utf8(said).unwrap(), done)
    }

    /// `parkway uninstall` with these flags.
    pub(crate) async fn uninstall(&self, flags: &[&str]) -> (String, Result<(), Failure>) {
        let mut line = vec!["parkway", "uninstall"];
        line.extend(flags);
        let Command::Uninstall(settings) = Cli::try_parse_from(line).unwrap().command else {
            panic!("not uninstall");
        };
        let settings: Uninstall = *settings;
        let mut said = Vec::new();
        let mut progress = Progress::new(&mut said);
        let done = install::uninstall(&self.cluster(), &settings, &mut progress).await;
        (String::from_utf8(said).unwrap(), done)
    }

    /// Everything as a person would have written it; the double's own kinds only.
    pub(crate) fn written(&self) -> BTreeMap<Name, Value> {
        let kinds = [
            "deployments",
            "horizontalpodautoscalers",
            "poddisruptionbudgets",
            "networkpolicies",
            "services",
            "configmaps",
            "serviceaccounts",
            "roles",
            "rolebindings",
            "clusterroles",
            "clusterrolebindings",
            "leases",
            "ingresses",
        ];
        let objects = kinds.iter().flat_map(|kind| self.api.list(kind));
        let objects = objects.map(|object| {
            let mut object = Object(object).written();
            // Counts what has become of it: that goes on.
            if let Some(Value::Object(annotations)) = object.0.pointer_mut("/metadata/annotations")
            {
                annotations.remove(REVISION);
            }
            object
        });
        objects.map(|object| (object.id(), object.0)).collect()
    }

    pub(crate) fn deployment(&self, name: &str) -> Value {
        self.api.get("deployments", NS, name).unwrap()
    }

    pub(crate) fn class(&self) -> Value {
        let config = self.api.get("configmaps", NS, "config-network").unwrap();
        config["data"]["ingress-class"].clone()
    }

    /// Waits until the controllers have done what there is to do.
    pub(crate) async fn settle(&self) {
        sleep(STEP * 10).await;
    }
}

pub(crate) fn settings(flags: &[&str]) -> Install {
    let mut line = vec!["parkway", "install"];
    line.extend(flags);
    match Cli::try_parse_from(line).unwrap().command {
        Command::Install(settings) => *settings,
        other => panic!("{other:?}"),
    }
}

/// Knative's objects, as far as they matter here.
///
/// Source: knative/serving `config/core`.
pub(crate) fn knative() -> Vec<Value> {
    let config = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": "config-network", "namespace": NS,
            "labels": {"app.kubernetes.io/name": "knative-serving", "app.kubernetes.io/component": "networking"},
        },
        "data": {"_example": "# an example\n", "ingress-class": KOURIER},
    });
    let mut objects = activator();
    objects.push(config);
    for (name, class) in [("hello", None), ("own", Some(KOURIER))] {
        let mut route = json!({
            "apiVersion": "serving.knative.dev/v1", "kind": "Route",
            "metadata": {"name": name, "namespace": "default"},
        });
        if let Some(class) = class {
            route["metadata"]["annotations"] = json!({CLASS: class});
        }
        objects.push(route);
        objects.push(json!({
            "apiVersion": ingresses::KINGRESS, "kind": "Ingress",
            "metadata": {
                "name": name, "namespace": "default", "annotations": {CLASS: KOURIER},
                "ownerReferences": [{"kind": "Route", "name": name, "controller": true}],
            },
            "spec": {},
        }));
    }
    objects
}

/// The activator's Deployment, autoscaler and disruption budget.
pub(crate) fn activator() -> Vec<Value> {
    let labels = json!({
        "app.kubernetes.io/component": "activator", "app.kubernetes.io/name": "knative-serving",
        "app.kubernetes.io/version": "1.20.0",
    });
    let mut template = labels.clone();
    template["app"] = json!("activator");
    template["role"] = json!("activator");
    vec![
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "activator", "namespace": NS, "labels": labels, "annotations": {"kept": "yes"}},
            "spec": {
                "replicas": 2,
                "selector": {"matchLabels": {"app": "activator", "role": "activator"}},
                "template": {
                    "metadata": {"labels": template},
                    "spec": {
                        "serviceAccountName": "activator",
                        "terminationGracePeriodSeconds": 600,
                        "containers": [{
                            "name": "activator",
                            "image": "gcr.io/knative-releases/activator",
                            "env": [{"name": "GOGC", "value": "500"}, {"name": "POD_NAME", "value": "x"}],
                            "ports": [
                                {"name": "metrics", "containerPort": 9090},
                                {"name": "profiling", "containerPort": 8008},
                            ],
                        }],
                    },
                },
            },
        }),
        json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "activator", "namespace": NS, "labels": labels},
            "spec": {
                "minReplicas": 2, "maxReplicas": 21,
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "activator"},
            },
        }),
        json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": "activator-pdb", "namespace": NS, "labels": labels},
            "spec": {"minAvailable": "80%", "selector": {"matchLabels": {"app": "activator"}}},
        }),
    ]
}

/// What happens by itself in a cluster, again and again.
async fn controllers(api: Arc<ApiDouble>) {
    loop {
        sleep(STEP).await;
        for deployment in api.list("deployments") {
            roll_out(&api, &Object(deployment));
        }
        for definition in api.list("customresourcedefinitions") {
            establish(&api, &Object(definition));
        }
        let config = api.get("configmaps", NS, "config-network");
        let class = config.and_then(|config| {
            let class = config.pointer("/data/ingress-class")?.as_str()?;
            Some(class.to_owned())
        });
        for ingress in api.list("ingresses") {
            route(&api, &Object(ingress), class.as_deref());
        }
    }
}

/// Its Pods are ready at the next look, unless their image cannot be had.
fn roll_out(api: &ApiDouble, deployment: &Object) {
    let generation = deployment.number("/metadata/generation");
    if deployment.number("/status/observedGeneration") == generation {
        return;
    }
    let replicas = match deployment.0.pointer("/spec/replicas") {
        Some(_) => deployment.number("/spec/replicas"),
        None => 1,
    };
    let image = deployment.text("/spec/template/spec/containers/0/image");
    let available = match image.contains("missing") {
        true => 0,
        false => replicas,
    };
    let status = json!({
        "observedGeneration": generation, "replicas": replicas, "updatedReplicas": replicas,
        "availableReplicas": available,
    });
    let revision = json!({REVISION: generation.to_string()});
    let patch = json!({"metadata": {"annotations": revision}, "status": status});
    api.edit("deployments", NS, deployment.name(), patch);
    let mut labels = deployment.0["spec"]["template"]["metadata"]["labels"].clone();
    labels["pod-template-hash"] = json!(format!("hash{generation}"));
    let name = format!("{}-hash{generation}", deployment.name());
    api.put(json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": name, "namespace": NS, "labels": labels, "annotations": revision},
    }));
    if available == 0 {
        api.put(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("{name}-1"), "namespace": NS, "labels": labels},
            "status": {"containerStatuses": [{
                "image": image,
                "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}},
            }]},
        }));
    }
}

fn establish(api: &ApiDouble, definition: &Object) {
    if definition.0.get("status").is_none() {
        let status = json!({"conditions": [{"type": "Established", "status": "True"}]});
        let patch = json!({"status": status});
        api.edit("customresourcedefinitions", "", definition.name(), patch);
    }
}

/// The Route's controller gives it the cluster's class; its networking layer makes it Ready if it is there.
fn route(api: &ApiDouble, ingress: &Object, class: Option<&str>) {
    if ingress.owned_by(&["Route"]).is_none() {
        return; // somebody else's
    }
    let (namespace, name) = (ingress.namespace().unwrap(), ingress.name());
    let wanted = match name {
        "own" => Some(KOURIER),
        _ => class,
    };
    if ingress.annotation(CLASS) != wanted {
        let patch = json!({"metadata": {"annotations": {CLASS: wanted}}});
        api.edit("ingresses", namespace, name, patch);
        return; // who it belongs to now sees that later
    }
    let gateway = match wanted {
        Some(KOURIER) => "kourier-internal.kourier-system",
        Some(PARKWAY) if api.get("services", NS, "parkway-internal").is_some() => {
            "parkway-internal.knative-serving"
        }
        _ => return,
    };
    let domain = format!("{gateway}.svc.cluster.local");
    if ingress.text("/status/privateLoadBalancer/ingress/0/domainInternal") != domain {
        let status = json!({
            "observedGeneration": ingress.number("/metadata/generation"),
            "conditions": [{"type": "Ready", "status": "True"}],
            "privateLoadBalancer": {"ingress": [{"domainInternal": domain}]},
        });
        api.edit("ingresses", namespace, name, json!({"status": status}));
    }
}
