//! The same on a live cluster: Pods of a Service are deleted in the middle of requests, with grace and without.
//!
//! ```text
//! KUBECONFIG=… PARKWAY_LIVE_GATEWAY=ADDRESS[:PORT] \
//!     cargo test -p parkway-tests --test chaos live -- --ignored --test-threads 1
//! ```
//!
//! | variable | |
//! |---|---|
//! | `KUBECONFIG` | the cluster, in which Parkway serves; whoever it is may make and delete namespaces and Services |
//! | `PARKWAY_LIVE_GATEWAY` | where the Service `parkway` can be reached from here; port 80 unless it says another |
//! | `PARKWAY_LIVE_IMAGE` | what the Service runs; `ghcr.io/knative/autoscale-go:latest` unless it says another |
//! | `PARKWAY_LIVE_PATH` | a request that takes a while; `/?sleep=100` unless it says another |
//!
//! Each test makes a namespace of its own and removes it.

use std::env;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::{Api, Client};
use parkway_tests::Site;
use serde_json::{Value, json};
use tokio::net::lookup_host;
use tokio::time::{Instant, sleep};

use crate::load::Load;

/// How many Pods are deleted, one after the other.
const DELETED: usize = 4;
const CLIENTS: usize = 16;
/// An image may have to be fetched, a Pod to end.
const PATIENCE: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_millis(200);
const SERVICE: &str = "shop";

fn variable(name: &str, default: Option<&str>) -> String {
    let found = env::var(name).ok().or(default.map(str::to_owned));
    found.unwrap_or_else(|| panic!("{name} is not set: see the top of {}", file!()))
}

async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let due = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < due, "waited in vain for {what}");
        sleep(PAUSE).await;
    }
}

/// A namespace with one Service in it.
struct Live {
    client: Client,
    namespace: String,
    site: Site,
}

/// Runs a test on a Service of so many Pods, and leaves nothing behind whatever becomes of it.
async fn with_pods(count: usize, test: impl AsyncFnOnce(&Live)) {
    variable("KUBECONFIG", None);
    // Made by another process before, it is an error that says nothing.
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = Client::try_default().await.unwrap();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let name = json!({"metadata": {"generateName": "parkway-live-"}});
    let namespace = serde_json::from_value(name).unwrap();
    let made = namespaces.create(&PostParams::default(), &namespace).await;
    let namespace = made.unwrap().metadata.name.unwrap();

    let body = async {
        let live = Live::start(&client, &namespace, count).await;
        test(&live).await;
    };
    let end = AssertUnwindSafe(body).catch_unwind().await;

    let deleting = DeleteParams::default();
    let deleted = namespaces.delete(&namespace, &deleting).await;
    drop(deleted.unwrap());
    eventually("the namespace to be gone", async || {
        let found = namespaces.get_opt(&namespace).await.unwrap();
        found.is_none().then_some(())
    })
    .await;
    if let Err(panic) = end {
        resume_unwind(panic);
    }
}

impl Live {
    async fn start(client: &Client, namespace: &str, count: usize) -> Self {
        let service = json!({
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Service",
            "metadata": {"name": SERVICE},
            "spec": {"template": {
                "metadata": {"annotations": {
                    "autoscaling.knative.dev/min-scale": count.to_string(),
                    "autoscaling.knative.dev/max-scale": count.to_string(),
                }},
                "spec": {
                    "containerConcurrency": 20,
                    "containers": [{"image": variable(
                        "PARKWAY_LIVE_IMAGE",
                        Some("ghcr.io/knative/autoscale-go:latest"),
                    )}],
                },
            }},
        });
        let kind = ApiResource {
            group: "serving.knative.dev".to_owned(),
            version: "v1".to_owned(),
            api_version: "serving.knative.dev/v1".to_owned(),
            kind: "Service".to_owned(),
            plural: "services".to_owned(),
        };
        let services: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind);
        let service = serde_json::from_value(service).unwrap();
        let made = services.create(&PostParams::default(), &service).await;
        made.unwrap();
        let host = eventually("the Service to be Ready", async || {
            let now = services.get(SERVICE).await.unwrap().data;
            let conditions = now["status"]["conditions"].as_array().cloned();
            let is_ready = |it: &Value| it["type"] == "Ready" && it["status"] == "True";
            let ready = conditions.unwrap_or_default().iter().any(is_ready);
            let url = now["status"]["url"].as_str().filter(|_| ready)?;
            let (_scheme, host) = url.split_once("://").unwrap();
            Some(host.to_owned())
        })
        .await;
        let live = Self {
            client: client.clone(),
            namespace: namespace.to_owned(),
            site: Site::new(gateway().await, host),
        };
        live.ready_pods(count).await;
        live
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Waits until so many Pods are ready and stay; their names.
    async fn ready_pods(&self, count: usize) -> Vec<String> {
        let ours = ListParams::default().labels(&format!("serving.knative.dev/service={SERVICE}"));
        eventually(&format!("{count} ready Pods"), async || {
            let all = self.pods().list(&ours).await.unwrap();
            let ready = all.items.into_iter().filter(is_ready);
            let names: Vec<_> = ready.filter_map(|pod| pod.metadata.name).collect();
            (names.len() == count).then_some(names)
        })
        .await
    }

    /// Deletes one Pod after the other under load, each with all others back. Returns what became of the requests, and
    /// proves that no request failed but for those whose answers had begun.
    async fn assert_nothing_fails(&self, pods: usize, deleting: &DeleteParams, begun: usize) {
        let path = variable("PARKWAY_LIVE_PATH", Some("/?sleep=100"));
        let load = Load::get(&self.site, &path, CLIENTS);
        let mut deleted = Vec::new();
        for turn in 0..DELETED {
            load.more(CLIENTS * 3).await;
            let ready = self.ready_pods(pods).await;
            let victim = ready[turn % ready.len()].clone();
            // A Pod that takes its time to end is no reason to fail.
            drop(self.pods().delete(&victim, deleting).await.unwrap());
            deleted.push(victim);
            eventually("another in its place", async || {
                let ready = self.ready_pods(pods).await;
                ready.iter().all(|pod| !deleted.contains(pod)).then_some(())
            })
            .await;
        }
        load.more(CLIENTS * 3).await;
        let tally = load.stop().await;
        tally.assert_succeeded_unless_begun(CLIENTS * 3 * DELETED, begun);
    }
}

async fn gateway() -> SocketAddr {
    let said = variable("PARKWAY_LIVE_GATEWAY", None);
    let with_port = match said.parse::<SocketAddr>() {
        Ok(address) => return address,
        Err(_) if said.contains(':') => said,
        Err(_) => format!("{said}:80"),
    };
    let mut found = lookup_host(&with_port).await.unwrap();
    found.next().unwrap()
}

fn is_ready(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let mut conditions = status.and_then(|it| it.conditions.as_ref()).into_iter();
    pod.metadata.deletion_timestamp.is_none()
        && conditions.any(|all| {
            let mut all = all.iter();
            all.any(|condition| condition.type_ == "Ready" && condition.status == "True")
        })
}

fn with_grace() -> DeleteParams {
    DeleteParams::default()
}

fn without_grace() -> DeleteParams {
    DeleteParams::default().grace_period(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a live cluster"]
async fn pods_deleted_with_grace_in_the_middle_of_requests_fail_none_of_them() {
    with_pods(3, async |live| {
        live.assert_nothing_fails(3, &with_grace(), 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a live cluster"]
async fn pods_deleted_without_grace_fail_no_request_that_may_be_repeated() {
    with_pods(3, async |live| {
        live.assert_nothing_fails(3, &without_grace(), DELETED)
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a live cluster"]
async fn requests_are_parked_while_the_only_pod_is_replaced() {
    for deleting in [with_grace(), without_grace()] {
        with_pods(1, async |live| {
            live.assert_nothing_fails(1, &deleting, DELETED).await;
        })
        .await;
    }
}
