//! A cluster around the real `parkway serve`: the API server's double, objects as Serving makes them, Pods as
//! [`QueueProxy`](crate::QueueProxy) plays them.
//!
//! ```no_run
//! # use parkway_tests::cluster::{Cluster, PodIs, serving};
//! # use parkway_tests::QueueProxy;
//! # async fn example() {
//! let (cluster, shop) = (Cluster::start(), serving("shop").concurrency(1));
//! cluster.put(&shop);
//! let parkway = cluster.parkway().await;
//! let pod = QueueProxy::start("shop-1", 1).await;
//! cluster.pods(&shop, &[(pod.address(), PodIs::NotReady)]);
//! parkway.at(shop.host()).get("/").await.expect(200);
//! parkway.finish().await;
//! # }
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::OnceLock;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api::ApiDouble;
use crate::parkway::{Builder, Parkway, directory};
use crate::queue_proxy::loopback;
use crate::upstream::Upstream;
use crate::wait::{eventually, settled};

/// The namespace of everything that [`serving`] makes.
pub const NAMESPACE: &str = "fixtures";
/// The namespace of Knative Serving.
pub const SYSTEM: &str = "knative-serving";
/// The Service of the gateway.
const GATEWAY: &str = "parkway";
/// The class of our KIngresses.
pub const CLASS: &str = "parkway.ingress.networking.knative.dev";
/// The annotation that says a KIngress's class.
pub const CLASS_ANNOTATION: &str = "networking.knative.dev/ingress.class";

/// What an EndpointSlice says of a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodIs {
    /// Kubernetes calls it ready.
    Ready,
    /// It has an address, and no more.
    NotReady,
    /// It is about to end.
    Terminating,
}

/// What Serving makes of a Service of one Revision, as it was recorded, under another name.
#[derive(Clone, Debug)]
#[must_use]
pub struct Serving {
    name: String,
    concurrency: u32,
}

/// A Service of one Revision, `NAME-00001`, with concurrency 10 and no Pods.
pub fn serving(name: &str) -> Serving {
    Serving {
        name: name.to_owned(),
        concurrency: 10,
    }
}

impl Serving {
    /// ContainerConcurrency; 0 is unlimited.
    pub fn concurrency(self, concurrency: u32) -> Self {
        Self {
            concurrency,
            ..self
        }
    }

    /// Its name, and its KIngress's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its name outside.
    pub fn host(&self) -> String {
        format!("{}.{NAMESPACE}.example.com", self.name)
    }

    /// Its longest name inside.
    pub fn local_host(&self) -> String {
        format!("{}.{NAMESPACE}.svc.cluster.local", self.name)
    }

    /// Its Revision's name.
    pub fn revision_name(&self) -> String {
        format!("{}-00001", self.name)
    }

    /// Its KIngress.
    pub fn ingress(&self) -> Value {
        let mut ingress = self.object("ingress/single");
        ingress["metadata"]["annotations"][CLASS_ANNOTATION] = CLASS.into();
        ingress
    }

    /// Its Revision.
    pub fn revision(&self) -> Value {
        let mut revision = self.object("revision/single-00001");
        revision["spec"]["containerConcurrency"] = self.concurrency.into();
        revision
    }

    /// The Services of its Revision.
    pub fn services(&self) -> [Value; 2] {
        [
            self.object("service/single-00001-private"),
            self.object("service/single-00001"),
        ]
    }

    /// The slice of its private Service. All Pods listen on the same port.
    pub fn slice(&self, pods: &[(SocketAddr, PodIs)]) -> Value {
        let mut slice = self.object("endpointslice/single-00001-private-x8lmk");
        let like = slice["endpoints"][0].clone();
        let endpoints = pods.iter().map(|(address, is)| {
            let mut endpoint = like.clone();
            endpoint["addresses"] = json!([address.ip().to_string()]);
            endpoint["conditions"] = json!({
                "ready": *is == PodIs::Ready,
                "serving": *is != PodIs::NotReady,
                "terminating": *is == PodIs::Terminating,
            });
            endpoint
        });
        slice["endpoints"] = endpoints.collect();
        if let Some((first, _)) = pods.first() {
            assert!(pods.iter().all(|(pod, _)| pod.port() == first.port()));
            let ports = slice["ports"].as_array_mut().unwrap();
            let http = ports.iter_mut().find(|port| port["name"] == "http");
            http.unwrap()["port"] = first.port().into();
        }
        slice
    }

    /// A recorded object under our name, as whoever creates it sends it.
    fn object(&self, path: &str) -> Value {
        let text = template(path).replace("single", &self.name);
        serde_json::from_str(&text).unwrap()
    }
}

/// A recorded object without what the API server and others fill in.
fn template(path: &str) -> &'static str {
    static TEMPLATES: OnceLock<BTreeMap<&'static str, String>> = OnceLock::new();
    let paths = [
        "ingress/single",
        "revision/single-00001",
        "service/single-00001-private",
        "service/single-00001",
        "endpointslice/single-00001-private-x8lmk",
    ];
    let read = |path: &str| {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/serving/main");
        let text = fs::read(folder.join(format!("{path}.json"))).unwrap();
        let mut object: Value = serde_json::from_slice(&text).unwrap();
        let fields = object.as_object_mut().unwrap();
        if path.starts_with("ingress/") {
            fields.remove("status");
        }
        let metadata = fields["metadata"].as_object_mut().unwrap();
        for filled in [
            "uid",
            "resourceVersion",
            "generation",
            "managedFields",
            "finalizers",
            "ownerReferences",
        ] {
            metadata.remove(filled);
        }
        object.to_string()
    };
    &TEMPLATES.get_or_init(|| paths.map(|path| (path, read(path))).into())[path]
}

/// A cluster without nodes. Dropping it ends its API server.
#[derive(Debug)]
pub struct Cluster {
    /// Its API server.
    pub api: ApiDouble,
    directory: TempDir,
    /// The autoscaler of tests that are not about it.
    no_autoscaler: Upstream,
}

impl Cluster {
    /// Nothing is there but the API server.
    pub fn start() -> Self {
        let cluster = Self {
            api: ApiDouble::start(),
            directory: directory(),
            no_autoscaler: Upstream::refusing(),
        };
        cluster.write_kubeconfig(None);
        cluster
    }

    /// Puts everything of this Service there, its KIngress last; without Pods.
    pub fn put(&self, serving: &Serving) {
        self.api.put(serving.revision());
        for service in serving.services() {
            self.api.put(service);
        }
        self.api.put(serving.slice(&[]));
        self.api.put(serving.ingress());
    }

    /// These are the Pods of its Revision now.
    pub fn pods(&self, serving: &Serving, pods: &[(SocketAddr, PodIs)]) {
        self.api.put(serving.slice(pods));
    }

    /// These are the ready replicas of the gateway now: addresses and names of their Pods.
    pub fn replicas(&self, replicas: &[(IpAddr, &str)]) {
        let endpoints = replicas.iter().map(|(address, pod)| {
            json!({
                "addresses": [address.to_string()],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": SYSTEM, "name": pod},
            })
        });
        self.api.put(json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{GATEWAY}-abcde"),
                "namespace": SYSTEM,
                "labels": {"kubernetes.io/service-name": GATEWAY},
            },
            "addressType": "IPv4",
            "endpoints": endpoints.collect::<Vec<_>>(),
            "ports": [{"name": "http2", "port": 8080, "protocol": "TCP"}],
        }));
    }

    /// One replica, in the gateway's Service and ready.
    pub async fn parkway(&self) -> Parkway {
        self.parkway_with(|builder| builder).await
    }

    /// The same with more flags.
    pub async fn parkway_with(&self, flags: impl FnOnce(Builder) -> Builder) -> Parkway {
        let address = IpAddr::V4(loopback());
        self.replicas(&[(address, "parkway-0")]);
        flags(self.replica(address, "parkway-0")).start().await
    }

    /// A replica with this Pod's address and name, to be started. It is not in the gateway's Service yet; it does not
    /// wait for the cluster to notice that it ends.
    pub fn replica(&self, address: IpAddr, pod: &str) -> Builder {
        let flags = [
            ("--kubeconfig", self.path("kubeconfig")),
            ("--ingress-class", CLASS.to_owned()),
            ("--system-namespace", SYSTEM.to_owned()),
            ("--pod-namespace", SYSTEM.to_owned()),
            ("--cluster-domain", "cluster.local".to_owned()),
            ("--gateway-service", GATEWAY.to_owned()),
            ("--pod-name", pod.to_owned()),
            ("--pod-ip", address.to_string()),
            ("--peer-auth", "none".to_owned()),
            ("--drain-delay-seconds", "0".to_owned()),
            ("--drain-seconds", "20".to_owned()),
            (
                "--autoscaler",
                format!("ws://{}", self.no_autoscaler.address()),
            ),
        ];
        let listens = [
            "--listen",
            "--listen-tls",
            "--listen-local",
            "--listen-local-tls",
            "--listen-activator",
            "--listen-activator-h2c",
            "--listen-activator-tls",
            "--listen-peers",
            "--metrics-listen",
            "--admin",
        ];
        let listens = listens.map(|flag| (flag, format!("{address}:0")));
        let all = flags.into_iter().chain(listens);
        let serve = Builder::of_command(directory(), &["serve"]);
        all.fold(serve, |serve, (flag, value)| {
            serve.default_flag(flag, &value)
        })
    }

    /// From now on the API server wants this token; replicas that are started read it from this cluster's file.
    pub fn wants_token(&self, token: &str) {
        self.api.admit(token);
        self.write_token(token);
        self.write_kubeconfig(Some("token"));
    }

    /// Puts another token into the file.
    pub fn write_token(&self, token: &str) {
        self.write("token", token);
    }

    /// Writes a file that is there as long as this cluster; where it is.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn path(&self, name: &str) -> String {
        let path = self.directory.path().join(name);
        path.to_str().unwrap().to_owned()
    }

    fn write_kubeconfig(&self, token_file: Option<&str>) {
        let user = token_file.map(|name| json!({"tokenFile": self.path(name)}));
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "double", "cluster": {"server": self.api.url()}}],
            "users": [{"name": "parkway", "user": user.unwrap_or(json!({}))}],
            "contexts": [{"name": "double", "context": {"cluster": "double", "user": "parkway"}}],
            "current-context": "double",
        });
        self.write("kubeconfig", &config.to_string());
    }

    /// The KIngress of this name as it is.
    pub fn ingress(&self, name: &str) -> Value {
        let found = self.api.get("ingresses", NAMESPACE, name);
        found.unwrap_or_else(|| panic!("there is no KIngress {name}"))
    }

    /// Waits until the KIngress of this name says that its present generation is Ready.
    pub async fn ready(&self, name: &str) {
        settled(format!("KIngress {name} to be Ready"), async || {
            let ingress = self.ingress(name);
            match is_ready(&ingress) {
                true => Ok(()),
                false => Err(ingress["status"].to_string()),
            }
        })
        .await;
    }

    /// Waits until `count` KIngresses are Ready.
    pub async fn all_ready(&self, count: usize) {
        eventually(format!("{count} KIngresses to be Ready"), async || {
            let ready = self.api.how_many("ingresses", is_ready);
            (ready == count).then_some(())
        })
        .await;
    }
}

/// As Serving judges.
///
/// Source: `IsReady`, knative/networking `pkg/apis/networking/v1alpha1/ingress_lifecycle.go`.
pub fn is_ready(ingress: &Value) -> bool {
    let status = &ingress["status"];
    let conditions = status["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    let is_true = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    status["observedGeneration"] == ingress["metadata"]["generation"] && conditions.any(is_true)
}
