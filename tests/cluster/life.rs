//! The life of a Service in a cluster: from zero to Pods and back, what is said of it in the API, what is none of our
//! business.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use parkway_tests::api::Which;
use parkway_tests::cluster::{CLASS, CLASS_ANNOTATION, Cluster, NAMESPACE, PodIs, SYSTEM, serving};
use parkway_tests::{QueueProxy, Site, eventually};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// Waits until this host is what it should be at the external entrance.
async fn answers(site: &Site, status: u16) {
    eventually(format!("{} to answer {status}", site.host()), async || {
        (site.get("/").await.status == status).then_some(())
    })
    .await;
}

fn get_in_background(site: Site) -> JoinHandle<Value> {
    tokio::spawn(async move { site.get("/").await.expect(200).json() })
}

#[tokio::test]
async fn request_is_parked_at_zero_and_answered_by_the_first_pod_before_kubernetes_calls_it_ready()
{
    let (cluster, shop) = (Cluster::start(), serving("shop").concurrency(1));
    cluster.put(&shop);
    let parkway = cluster.parkway().await;

    let request = get_in_background(parkway.at(shop.host()));
    parkway.parked(1).await;
    let pod = QueueProxy::starting("shop-1", 1).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::NotReady)]);
    eventually("the Pod to be asked", async || {
        (pod.probes() > 0).then_some(())
    })
    .await;
    assert!(!request.is_finished(), "its container is not ready");
    pod.set_ready(true);

    let answer = request.await.unwrap();
    assert_eq!(answer["pod"], "shop-1");
    assert_eq!(answer["host"], shop.host());
    let headers = &answer["headers"];
    assert_eq!(headers["x-forwarded-proto"], "http");
    assert_eq!(headers["knative-serving-revision"], Value::Null);
    assert_eq!(pod.unmarked(), 0, "queue-proxy must know that we count");
    assert_eq!(pod.probes(), 1, "one question that is waited for");
    parkway.finish().await;
}

#[tokio::test]
async fn revision_goes_to_zero_and_comes_back_and_no_request_fails() {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    let parkway = cluster.parkway().await;
    let site = parkway.at(shop.host());

    for round in 0..3 {
        let request = get_in_background(site.clone());
        parkway.parked(1).await;
        let pod = QueueProxy::start(&format!("shop-{round}"), 10).await;
        cluster.pods(&shop, &[(pod.address(), PodIs::NotReady)]);
        assert_eq!(request.await.unwrap()["pod"], format!("shop-{round}"));
        cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
        site.get("/").await.expect(200);

        // A request that runs is not disturbed by its Pod's end.
        // It runs until all of its body has come.
        let mut slow = site.raw().await;
        slow.send(site.head("POST /") + "content-length: 2\r\n\r\na")
            .await;
        parkway.in_flight(1).await;
        cluster.pods(&shop, &[(pod.address(), PodIs::Terminating)]);
        let no_endpoint =
            |state: &parkway_tests::State| state.revision("shop-00001").ready_endpoints() == 0;
        parkway
            .state_when("a Pod that ends to be left alone", no_endpoint)
            .await;
        cluster.pods(&shop, &[]);
        slow.send("b").await;
        slow.answer().await.expect(200);
    }
    parkway.finish().await;
}

#[tokio::test]
async fn entrances_and_activator_ports_serve_what_they_are_for() {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    let pod = QueueProxy::start("shop-1", 10).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    let parkway = cluster.parkway().await;

    parkway.at(shop.host()).get("/").await.expect(200);
    parkway.at_local(shop.host()).get("/").await.expect(200);
    for local in [
        shop.local_host(),
        format!("shop.{NAMESPACE}.svc"),
        format!("shop.{NAMESPACE}"),
    ] {
        parkway.at(local.as_str()).get("/").await.expect(404);
        parkway.at_local(local.as_str()).get("/").await.expect(200);
    }
    parkway.at("nobody.example.com").get("/").await.expect(404);

    let by_headers = Request::get("/")
        .header("Knative-Serving-Namespace", NAMESPACE)
        .header("Knative-Serving-Revision", shop.revision_name());
    let by_headers = by_headers.body(Bytes::new()).unwrap();
    for port in ["activator", "activator_h2c"] {
        let activator = Site::new(parkway.listens(port), shop.host());
        let answer = activator.send(by_headers.clone()).await.expect(200).json();
        assert_eq!(
            (&answer["pod"], &answer["host"]),
            (&json!("shop-1"), &json!(shop.host()))
        );
        let unknown = activator.get("/").await.expect(404).text();
        assert!(
            unknown.starts_with("Error getting active endpoint:"),
            "{unknown}"
        );
        let probe = Request::get("//healthz").header("K-Network-Probe", "activator");
        let probe = activator.send(probe.body(Bytes::new()).unwrap()).await;
        assert_eq!(probe.expect(200).text(), "activator");
    }
    parkway.finish().await;
}

#[tokio::test]
async fn kingress_becomes_ready_when_its_rules_are_in_effect_and_names_the_entrances() {
    let cluster = Cluster::start();
    let parkway = cluster.parkway().await;
    let shop = serving("shop");

    cluster.put(&shop);
    cluster.ready("shop").await;

    let status = &cluster.ingress("shop")["status"];
    let entrance = |name: &str| json!({"ingress": [{"domainInternal": format!("{name}.{SYSTEM}.svc.cluster.local")}]});
    assert_eq!(status["publicLoadBalancer"], entrance("parkway"));
    assert_eq!(status["privateLoadBalancer"], entrance("parkway-internal"));
    let conditions = status["conditions"].as_array().unwrap().iter();
    let conditions: Vec<_> = conditions
        .map(|condition| (condition["type"].as_str().unwrap(), &condition["status"]))
        .collect();
    let yes = &json!("True");
    assert_eq!(
        conditions,
        [
            ("LoadBalancerReady", yes),
            ("NetworkConfigured", yes),
            ("Ready", yes)
        ]
    );
    // At zero, and Ready all the same.
    let request = get_in_background(parkway.at(shop.host()));
    parkway.parked(1).await;
    request.abort();
    parkway.finish().await;
}

#[tokio::test]
async fn class_that_is_taken_away_leaves_the_routes_in_effect_while_names_may_lead_here() {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    let pod = QueueProxy::start("shop-1", 10).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    let parkway = cluster.parkway().await;
    let site = parkway.at(shop.host());
    cluster.ready("shop").await;
    answers(&site, 200).await;

    let class = |class: &str| json!({"metadata": {"annotations": {CLASS_ANNOTATION: class}}});
    let other = "istio.ingress.networking.knative.dev";
    let given_away = cluster
        .api
        .edit("ingresses", NAMESPACE, "shop", class(other));
    // What is made after it is Ready, so it has been seen.
    let cart = serving("cart");
    cluster.put(&cart);
    cluster.ready("cart").await;
    assert_eq!(
        cluster.ingress("shop"),
        given_away,
        "it is somebody else's now"
    );
    site.get("/").await.expect(200);

    let elsewhere = json!({"ingress": [{"domainInternal": "istio.istio-system.svc"}]});
    let status = json!({"publicLoadBalancer": elsewhere, "privateLoadBalancer": elsewhere});
    let patch = json!({ "status": status });
    let served = cluster.api.edit("ingresses", NAMESPACE, "shop", patch);
    let desk = serving("desk");
    cluster.put(&desk);
    cluster.ready("desk").await;
    assert_eq!(cluster.ingress("shop"), served);
    site.get("/").await.expect(200);

    cluster
        .api
        .edit("ingresses", NAMESPACE, "shop", class(CLASS));
    answers(&site, 200).await;
    cluster.ready("shop").await;
    parkway.finish().await;
}

#[tokio::test]
async fn objects_of_other_classes_stay_as_they_were_made_to_the_last_byte() {
    let cluster = Cluster::start();
    let parkway = cluster.parkway().await;
    let classes = [Some(json!("incorrect")), Some(json!("")), None];
    let mut made = Vec::new();
    for (number, class) in classes.into_iter().enumerate() {
        let mut ingress = serving(&format!("other-{number}")).ingress();
        let annotations = ingress["metadata"]["annotations"].as_object_mut().unwrap();
        match class {
            Some(class) => drop(annotations.insert(CLASS_ANNOTATION.to_owned(), class)),
            None => drop(annotations.remove(CLASS_ANNOTATION)),
        }
        made.push(cluster.api.put(ingress));
    }
    // What came after them is Ready, so they have been seen.
    let shop = serving("shop");
    cluster.put(&shop);
    cluster.ready("shop").await;

    for (number, made) in made.into_iter().enumerate() {
        assert_eq!(cluster.ingress(&format!("other-{number}")), made);
        let host = serving(&format!("other-{number}")).host();
        parkway.at(host).get("/").await.expect(404);
    }
    let wrote = cluster.api.requests().into_iter().filter(|request| {
        request.plural == "ingresses" && !matches!(request.verb, "list" | "watch" | "get")
    });
    assert!(wrote.into_iter().all(|request| request.name == "shop"));
    parkway.finish().await;
}

#[tokio::test]
async fn deleted_kingress_is_404_and_a_deleted_revision_answers_what_is_parked_for_it() {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    let parkway = cluster.parkway().await;
    let site = parkway.at(shop.host());
    let parked = site.clone();
    let parked = tokio::spawn(async move { parked.get("/").await });
    parkway.parked(1).await;

    cluster.api.delete("ingresses", NAMESPACE, "shop");
    let no_host = |state: &parkway_tests::State| state.0["hosts"]["external"] == json!([]);
    parkway.state_when("its host to be gone", no_host).await;
    site.get("/").await.expect(404);
    parkway.parked(1).await;
    cluster
        .api
        .delete("revisions", NAMESPACE, &shop.revision_name());
    let answer = parked.await.unwrap();
    assert!(
        answer.status.is_server_error() || answer.status == 404,
        "{answer:?}"
    );
    assert_eq!(answer.broken, None);
    parkway.finish().await;
}

#[tokio::test]
async fn update_under_load_fails_no_request_and_is_in_effect_at_ready() {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    let pod = QueueProxy::start("shop-1", 10).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    let parkway = cluster.parkway().await;
    cluster.ready("shop").await;
    let site = parkway.at(shop.host());
    let load = crate::load::Load::get(&site, "/", 4);

    let mut pods = vec![pod];
    let mut before = shop.clone();
    for number in 0..20 {
        // A further marker, and every other time a further Revision with a Pod of its own.
        let next = serving(&format!("shop-v{}", number / 2));
        if number % 2 == 0 {
            let pod = QueueProxy::start(next.name(), 10).await;
            cluster.api.put(next.revision());
            cluster.pods(&next, &[(pod.address(), PodIs::Ready)]);
            pods.push(pod);
        }
        let mut spec = shop.ingress()["spec"].clone();
        for rule in spec["rules"].as_array_mut().unwrap() {
            let split = &mut rule["http"]["paths"][0]["splits"][0];
            split["serviceName"] = next.revision_name().into();
            split["appendHeaders"]["Knative-Serving-Revision"] = next.revision_name().into();
            split["appendHeaders"]["Who-Are-You"] = number.to_string().into();
        }
        let spec = json!({ "spec": spec });
        cluster.api.edit("ingresses", NAMESPACE, "shop", spec);
        cluster.ready("shop").await;

        let first = site.get("/").await.expect(200).json();
        assert_eq!(first["headers"]["who-are-you"], number.to_string());
        assert_eq!(first["pod"], next.name());
        if number % 2 == 0 {
            // As in the suite: what was before is taken away right after.
            cluster.pods(&before, &[]);
            let gone = before.revision_name();
            cluster.api.delete("revisions", NAMESPACE, &gone);
            before = next;
        }
    }
    load.stop().await.assert_all_succeeded(100);
    parkway.finish().await;
}

#[tokio::test]
async fn lease_is_given_back_at_the_end_however_soon_that_is() {
    let cluster = Cluster::start();
    let parkway = cluster.parkway().await;
    let holder = || {
        let lease = cluster.api.list("leases").pop()?;
        let holder = lease["spec"]["holderIdentity"].as_str();
        Some(holder.unwrap_or_default().to_owned())
    };
    eventually("a leader", async || {
        holder().filter(|holder| holder.starts_with("parkway-0"))
    })
    .await;

    // All that has to end has ended long before the API server has answered.
    let late = Duration::from_millis(300);
    cluster
        .api
        .delay(Which::any().plural("leases"), u32::MAX, late);
    parkway.finish().await;
    assert_eq!(holder().unwrap(), "", "nobody has to wait for it to expire");
}

#[tokio::test]
async fn a_wrong_annotation_is_left_out_and_said_and_the_others_act() {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    let mut ingress = shop.ingress();
    ingress["metadata"]["annotations"]["parkway.dev/retry-no"] = "503".into();
    ingress["metadata"]["annotations"]["parkway.dev/no-wake-paths"] = "/healthz".into();
    cluster.api.put(ingress);

    let parkway = cluster.parkway().await;

    let site = parkway.at(shop.host());
    let asleep = site.get("/healthz").await.expect(503).text();
    assert!(asleep.starts_with("the Revision is scaled to zero"));
    cluster.ready("shop").await;
    parkway.says("an annotation is left out").await;
    let [said] = &parkway.logged("an annotation is left out")[..] else {
        panic!("{:?}", parkway.logs());
    };
    assert_eq!(said["level"], "WARN");
    assert!(
        said["problem"]
            .as_str()
            .unwrap()
            .contains("did you mean parkway.dev/retry-on?"),
        "{said}"
    );

    let mended = {
        let mut ingress = shop.ingress();
        ingress["metadata"]["annotations"]["parkway.dev/no-wake-paths"] = "/robots.txt".into();
        ingress
    };
    cluster.api.put(mended);
    // Before it acts, requests are parked: those leave again.
    let soon = Duration::from_millis(500);
    eventually("the new annotation to act", async || {
        let answer = tokio::time::timeout(soon, site.get("/robots.txt"))
            .await
            .ok();
        answer.filter(|answer| answer.status == 503).map(drop)
    })
    .await;
    parkway.finish().await;
}
