//! The rights that the manifests grant, against what a Parkway in a cluster asks of the API server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "deploy/grants.rs"]
mod grants;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use grants::Right;
use parkway_ingress::install::manifests::built;
use parkway_ingress::install::object::Object;
use parkway_ingress::install::yaml;
use parkway_ingress::provider::kubernetes::peers::auth::AUDIENCE;
use parkway_tests::api::ApiDouble;
use parkway_tests::{eventually, settled};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const NS: &str = "knative-serving";
const TOKEN: &str = "a-token-of-parkways-account";

/// Ended with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap_or_default();
        self.0.wait().map(drop).unwrap_or_default();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parkway_in_a_cluster_uses_the_rights_it_is_granted_and_no_others() {
    let api = ApiDouble::start();
    let folder = tempfile::tempdir().unwrap();
    furnish(&api);
    let activator = unused_port("127.0.0.2");
    let process = start(&api, folder.path(), &activator);
    let waiting = wake(&activator).await;
    // The Lease is written again when it is given up, so not yet.
    let later = |right: &Right| right.2 == "leases" && right.3 == "update";
    settled("rights to be used", async || {
        let idle = idle(&api);
        match idle.iter().all(later) {
            true => Ok(()),
            false => Err(format!("{idle:?}")),
        }
    })
    .await;
    let pid = Pid::from_raw(i32::try_from(process.0.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    settled("rights to be used", async || match idle(&api) {
        idle if idle.is_empty() => Ok(()),
        idle => Err(format!("{idle:?}")),
    })
    .await;
    drop((waiting, process));

    let granted = granted();
    let denied: Vec<_> = used(&api)
        .into_iter()
        .filter(|(is_cluster, group, resource, verb)| {
            let is_granted = |is_cluster| {
                let right = (is_cluster, group.clone(), resource.clone(), verb.clone());
                granted.contains(&right)
            };
            !is_granted(true) && (*is_cluster || !is_granted(false))
        })
        .collect();
    assert!(denied.is_empty(), "used, but not granted: {denied:?}");
}

/// Rights that are granted and have not been used.
fn idle(api: &ApiDouble) -> Vec<Right> {
    let used = used(api);
    granted()
        .into_iter()
        // Who may list may read each: get adds nothing.
        .filter(|(_, _, resource, verb)| verb != "get" || resource == "leases")
        .filter(|right| !used.contains(right))
        .collect()
}

/// What there is to see and to do.
fn furnish(api: &ApiDouble) {
    let user = format!("system:serviceaccount:{NS}:parkway");
    api.issue(TOKEN, &user, &[AUDIENCE]);
    api.put(json!({
        "apiVersion": "networking.internal.knative.dev/v1alpha1", "kind": "Ingress",
        "metadata": {
            "name": "hello", "namespace": "default", "generation": 1,
            "annotations": {"networking.knative.dev/ingress.class": "parkway.ingress.networking.knative.dev"},
        },
        "spec": {"httpOption": "Enabled",
            "tls": [{"hosts": ["hello.example.com"], "secretName": "hello", "secretNamespace": "default"}],
            "rules": [{
            "hosts": ["hello.example.com"], "visibility": "ExternalIP",
            "http": {"paths": [{"splits": [
                {"serviceName": "hello", "serviceNamespace": "default", "servicePort": 80, "percent": 100},
            ]}]},
        }]},
    }));
    api.put(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "config-network", "namespace": NS},
        "data": {"system-internal-tls": "Enabled"},
    }));
    api.put(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": "parkway-1", "namespace": NS, "labels": {"kubernetes.io/service-name": "parkway"},
        },
        "endpoints": [{
            "addresses": ["127.0.0.3"], "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "name": "other", "namespace": NS},
        }],
        "ports": [{"name": "http2", "port": 8080, "protocol": "TCP"}],
    }));
    // One that is to start, and what becomes of it.
    let revision = "hello-00001";
    api.put(json!({
        "apiVersion": "serving.knative.dev/v1", "kind": "Revision",
        "metadata": {"name": revision, "namespace": "default"},
        "spec": {"containers": [{"name": "user-container", "image": "hello"}]},
    }));
    api.put(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "hello-1", "namespace": "default", "labels": {"serving.knative.dev/revision": revision},
        },
        "spec": {"containers": [{"name": "user-container", "image": "hello"}]},
        "status": {"phase": "Pending"},
    }));
}

/// A request that waits for the Revision's Pod, as long as it is kept.
async fn wake(activator: &str) -> TcpStream {
    let request = "GET / HTTP/1.1\r\nHost: hello.default.example.com\r\n\
                   Knative-Serving-Namespace: default\r\nKnative-Serving-Revision: hello-00001\r\n\r\n";
    eventually("the activator's port", async || {
        let mut stream = TcpStream::connect(activator).await.ok()?;
        stream.write_all(request.as_bytes()).await.ok()?;
        Some(stream)
    })
    .await
}

/// A port of an address that nobody else binds.
fn unused_port(on: &str) -> String {
    let reserved = TcpListener::bind((on, 0)).unwrap();
    reserved.local_addr().unwrap().to_string()
}

fn start(api: &ApiDouble, folder: &Path, activator: &str) -> Process {
    let kubeconfig = folder.join("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "double",
        "clusters": [{"name": "double", "cluster": {"server": api.url()}}],
        "users": [{"name": "double", "user": {}}],
        "contexts": [{"name": "double", "context": {"cluster": "double", "user": "double"}}],
    });
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    let token = folder.join("token");
    std::fs::write(&token, TOKEN).unwrap();
    // Other replicas are asked at the same port, so it has to be known.
    let peers = unused_port("127.0.0.3");
    let mut command = Command::new(env!("CARGO_BIN_EXE_parkway"));
    command.args(["serve", "--workers=1"]);
    command.args(["--pod-name=this", "--pod-ip=127.0.0.1"]);
    command.arg("--kubeconfig").arg(kubeconfig);
    command.arg("--peer-token-file").arg(token);
    command.args(["--listen-peers", &peers]);
    command.args(["--listen-activator", activator]);
    for listens in [
        "listen",
        "listen-tls",
        "listen-local",
        "listen-local-tls",
        "listen-activator-h2c",
        "listen-activator-tls",
        "metrics-listen",
        "admin",
    ] {
        command.arg(format!("--{listens}=127.0.0.1:0"));
    }
    command.arg("--autoscaler=ws://127.0.0.1:9");
    Process(command.stderr(Stdio::null()).spawn().unwrap())
}

fn used(api: &ApiDouble) -> BTreeSet<Right> {
    let asked = api.requests().into_iter();
    asked
        .map(|request| {
            let resource = match request.subresource.as_str() {
                "" => request.plural,
                subresource => format!("{}/{subresource}", request.plural),
            };
            let is_cluster = request.namespace != NS;
            (is_cluster, request.group, resource, request.verb.to_owned())
        })
        .collect()
}

/// What the manifests for both roles grant.
fn granted() -> BTreeSet<Right> {
    let (name, text) = built(&[]);
    let objects = yaml::read(name, text.as_bytes()).unwrap();
    let objects: Vec<_> = objects.into_iter().map(Object).collect();
    grants::granted(&objects)
}
