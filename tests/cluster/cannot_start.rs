//! Revisions of which Serving says that their Pods cannot start: those who wait are told at once, and told why.

use std::fs;
use std::path::Path;

use parkway_tests::cluster::{Cluster, NAMESPACE, PodIs, serving};
use parkway_tests::{QueueProxy, Site};
use serde_json::{Value, json};

/// What was recorded of a Revision whose image cannot be pulled.
fn recorded_status() -> Value {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = tests.join("../ingress/tests/recorded/main/revision.json");
    let list: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let revisions = list["items"].as_array().unwrap();
    let broken = revisions
        .iter()
        .find(|revision| revision["metadata"]["name"] == "broken-00001");
    broken.unwrap()["status"].clone()
}

/// The recorded one, but it is the container that ends again and again, as Serving says of that.
///
/// Source: `MarkContainerHealthyFalse`, knative/serving `pkg/reconciler/revision/reconcile_resources.go`.
fn crash_loop() -> Value {
    let mut status = recorded_status();
    for condition in status["conditions"].as_array_mut().unwrap() {
        match condition["type"].as_str() {
            Some("ContainerHealthy") => {
                condition["status"] = "False".into();
                condition["reason"] = "ExitCode3".into();
                condition["message"] = "Container failed with: no database".into();
            }
            Some("ResourcesAvailable") => condition["status"] = "True".into(),
            _ => {}
        }
    }
    status
}

async fn is_told(status: Value, why: &str) {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    let parkway = cluster.parkway().await;
    let site = parkway.at(shop.host());
    let activator = Site::new(parkway.listens("activator"), shop.host());
    let by_headers = http::Request::get("/")
        .header("Knative-Serving-Namespace", NAMESPACE)
        .header("Knative-Serving-Revision", shop.revision_name());
    let by_headers = by_headers.body(bytes::Bytes::new()).unwrap();
    let http2 = site.http2().await;

    let answers = async { tokio::join!(site.get("/"), http2.get("/"), activator.send(by_headers)) };
    let ((first, second, third), ()) = tokio::join!(answers, async {
        parkway.parked(3).await;
        let revision = shop.revision_name();
        let status = json!({ "status": status });
        cluster.api.edit("revisions", NAMESPACE, &revision, status);
    });

    for answer in [first, second, third] {
        let text = answer.expect(503).text();
        assert!(text.starts_with("the Revision cannot start: "), "{text}");
        assert!(text.contains(why), "{text}");
    }
    // A Pod that starts all the same is used.
    let pod = QueueProxy::start("shop-1", 10).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    let served = |state: &parkway_tests::State| {
        let found = state.find(&shop.revision_name());
        found.is_some_and(|revision| revision.ready_endpoints() == 1)
    };
    parkway.state_when("the Pod to be used", served).await;
    site.get("/").await.expect(200);
    parkway.finish().await;
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_answers_all_who_wait_for_it_at_once_and_names_it() {
    let why = "ImagePullBackOff: Back-off pulling image \"dev.local/no-such-image\"";
    is_told(recorded_status(), why).await;
}

#[tokio::test]
async fn a_container_that_ends_again_and_again_answers_all_who_wait_for_it_at_once_and_quotes_it() {
    is_told(
        crash_loop(),
        "ExitCode3: Container failed with: no database",
    )
    .await;
}
