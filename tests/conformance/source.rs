//! Where a Parkway learns what there is: manifests in a folder, or an API server.

use std::collections::BTreeMap;

use parkway_tests::Parkway;
use parkway_tests::cluster::{self, CLASS, CLASS_ANNOTATION};
use parkway_tests::settled;
use serde_json::{Value, json};

use crate::suite::Objects;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// `parkway run`: everything is in one manifest.
    Files,
    /// `parkway serve`: everything is at the API server's double.
    ApiServer,
}

/// One of them at work.
#[derive(Debug)]
pub(crate) enum Place {
    Files,
    ApiServer {
        cluster: Box<cluster::Cluster>,
        /// What is there, as it was put.
        put: Objects,
    },
}

impl Place {
    /// A Parkway that learns of these objects.
    pub(crate) async fn start(source: Source, objects: &Objects) -> (Self, Parkway) {
        match source {
            Source::Files => {
                let parkway = Parkway::builder()
                    .manifest("all", manifest(objects))
                    .flag("--domain", "example.com");
                (Self::Files, parkway.start().await)
            }
            Source::ApiServer => {
                let cluster = Box::new(cluster::Cluster::start());
                let mut put = Objects::new();
                synchronise(&cluster, &mut put, objects);
                let parkway = cluster.parkway().await;
                all_ready(&cluster, &put).await;
                (Self::ApiServer { cluster, put }, parkway)
            }
        }
    }

    /// Makes these objects those that are there, and waits until requests are served by it: as the suite does, no
    /// longer than until each KIngress says that it is Ready.
    pub(crate) async fn write(&mut self, parkway: &Parkway, objects: &Objects) {
        match self {
            Self::Files => edit(parkway, objects).await,
            Self::ApiServer { cluster, put } => {
                synchronise(cluster, put, objects);
                all_ready(cluster, put).await;
            }
        }
    }

    /// The cluster, where there is one.
    pub(crate) fn cluster(&self) -> &cluster::Cluster {
        match self {
            Self::Files => panic!("only a cluster has that"),
            Self::ApiServer { cluster, .. } => cluster,
        }
    }
}

/// All objects as one manifest, so that they change together.
fn manifest(objects: &Objects) -> String {
    let items: Vec<_> = objects.values().collect();
    json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()
}

async fn edit(parkway: &Parkway, objects: &Objects) {
    let generation = |state: &Value| state["configuration"]["generation"].as_u64().unwrap();
    let before = generation(&parkway.state().await.0);
    parkway.edit("all", manifest(objects));
    let has_changed = |state: &parkway_tests::State| generation(&state.0) > before;
    let state = parkway
        .state_when("the change to take effect", has_changed)
        .await;
    assert_eq!(state.configuration()["rejected"], false, "{state:?}");
}

/// Puts and deletes what differs; KIngresses come last, as whoever makes them waits for what they name.
fn synchronise(cluster: &cluster::Cluster, put: &mut Objects, objects: &Objects) {
    let wanted: Objects = { objects.iter() }
        .map(|(key, object)| (key.clone(), as_created(object.clone())))
        .collect();
    let (ingresses, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
        { wanted.iter() }.partition(|((kind, _), _)| kind == "Ingress");
    for (key, object) in others.into_iter().chain(ingresses) {
        if put.get(key) != Some(object) {
            cluster.api.put(object.clone());
        }
    }
    for ((kind, name), object) in put.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
        let namespace = object["metadata"]["namespace"].as_str().unwrap();
        let plural = match kind.as_str() {
            "Ingress" => "ingresses".to_owned(),
            other => format!("{}s", other.to_lowercase()),
        };
        cluster.api.delete(&plural, namespace, name);
    }
    *put = wanted;
}

/// An object as whoever created it sent it; a KIngress is of our class.
fn as_created(mut object: Value) -> Value {
    let metadata = object["metadata"].as_object_mut().unwrap();
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
    if object["kind"] == "Ingress" {
        object.as_object_mut().unwrap().remove("status");
        let recorded = object["metadata"]["annotations"][CLASS_ANNOTATION].as_str();
        if recorded == Some("kourier.ingress.networking.knative.dev") {
            object["metadata"]["annotations"][CLASS_ANNOTATION] = CLASS.into();
        }
    }
    object
}

async fn all_ready(cluster: &cluster::Cluster, put: &Objects) {
    let ours = put.iter().filter(|((kind, _), object)| {
        kind == "Ingress" && object["metadata"]["annotations"][CLASS_ANNOTATION] == CLASS
    });
    for ((_, name), object) in ours {
        let namespace = object["metadata"]["namespace"].as_str().unwrap();
        settled(format!("KIngress {name} to be Ready"), async || {
            let ingress = cluster.api.get("ingresses", namespace, name).unwrap();
            match cluster::is_ready(&ingress) {
                true => Ok(()),
                false => Err(ingress["status"].to_string()),
            }
        })
        .await;
    }
}
