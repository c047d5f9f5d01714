//! Rows `tls`, `httpoption` and `ingressclass`: certificates from Secrets, and whose object is whose.

use parkway_tests::Site;
use parkway_tests::cluster::{CLASS, CLASS_ANNOTATION};
use parkway_tests::tls::{Authority, TlsClient};
use serde_json::{Value, json};

use crate::images::Image;
use crate::recording;
use crate::source::Source;
use crate::suite::{Cluster, Suite};

const NAMESPACE: &str = "serving-tests";

/// A row's KIngress with a certificate for its hosts, as the suite makes it, whose Secret it puts there.
fn with_tls(suite: &mut Suite, row: &str, option: &str, authority: &Authority) -> Value {
    let mut ingress = recording::ingress(row);
    let name = ingress["metadata"]["name"].as_str().unwrap().to_owned();
    let hosts = ingress["spec"]["rules"][0]["hosts"].clone();
    let names: Vec<_> = { hosts.as_array().unwrap().iter() }
        .map(|host| host.as_str().unwrap())
        .collect();
    let mut secret = authority.issue(&names).secret(NAMESPACE, &name);
    secret["metadata"]["labels"] =
        json!({"networking.internal.knative.dev/certificate-uid": "conformance"});
    suite.cluster.put(secret);
    ingress["spec"]["tls"] =
        json!([{"hosts": hosts, "secretName": name, "secretNamespace": NAMESPACE}]);
    ingress["spec"]["httpOption"] = option.into();
    ingress
}

/// This host by TLS.
async fn by_tls(suite: &Suite, client: &TlsClient, host: &str) -> Site {
    let at = suite.parkway.listens("external_tls");
    Site::new(client.tunnel(at, host).await, host)
}

#[tokio::test]
async fn host_with_a_secret_is_served_plainly_and_by_tls() {
    let authority = Authority::new("conformance");
    let mut suite = Suite::of(Source::ApiServer, Cluster::default()).await;
    let ingress = with_tls(&mut suite, "basics", "Enabled", &authority);
    suite.add_row("tls", ingress, Image::Runtime).await;

    let host = suite.row("tls").host().to_owned();
    suite.outside(&host).get("/").await.expect(200);
    let client = TlsClient::trusting(&authority);
    let site = by_tls(&suite, &client, &host).await;
    let answer = site.get("/").await.expect(200).json();
    assert_eq!(answer["request"]["headers"]["x-forwarded-proto"], "https");
    suite.finish().await;
}

#[tokio::test]
async fn redirect_of_one_kingress_is_not_that_of_another() {
    let authority = Authority::new("conformance");
    let mut suite = Suite::of(Source::ApiServer, Cluster::default()).await;
    for (name, row, option) in [
        ("enabled", "basics", "Enabled"),
        ("redirected", "retry", "Redirected"),
    ] {
        let ingress = with_tls(&mut suite, row, option, &authority);
        suite.add_row(name, ingress, Image::Runtime).await;
    }

    let client = TlsClient::trusting(&authority);
    for (name, plain) in [("enabled", 200), ("redirected", 301)] {
        let host = suite.row(name).host().to_owned();
        let answer = suite.outside(&host).get("/").await.expect(plain);
        let location = (plain == 301).then(|| format!("https://{host}/"));
        assert_eq!(answer.header("location"), location.as_deref());
        let site = by_tls(&suite, &client, &host).await;
        site.get("/").await.expect(200);
    }
    suite.finish().await;
}

/// The suite looks once, after two seconds; here a KIngress that was made later has become Ready meanwhile.
#[tokio::test]
async fn kingress_of_another_class_or_none_stays_as_it_was_made() {
    let suite = Suite::start(Source::ApiServer, &["basics"], Image::Runtime).await;
    let api = &suite.place.cluster().api;
    let recorded = recording::ingress("basics");
    let of_class = |name: &str, annotations: Option<Value>| {
        let mut metadata = json!({"name": name, "namespace": NAMESPACE});
        if let Some(annotations) = annotations {
            metadata["annotations"] = annotations;
        }
        let mut ingress = recorded.clone();
        ingress["metadata"] = metadata;
        ingress["spec"]["rules"][0]["hosts"] = json!([format!("{name}.example.com")]);
        ingress.as_object_mut().unwrap().remove("status");
        api.put(ingress)
    };

    let made = [
        ("null", Some(Value::Null)),
        ("absent", None),
        ("incorrect", Some(json!({CLASS_ANNOTATION: "incorrect"}))),
        ("empty", Some(json!({CLASS_ANNOTATION: ""}))),
    ]
    .map(|(name, annotations)| (name, of_class(name, annotations)));
    let ours = of_class("ours", Some(json!({CLASS_ANNOTATION: CLASS})));
    parkway_tests::eventually("what came last to be Ready", async || {
        let ingress = api.get("ingresses", NAMESPACE, "ours").unwrap();
        parkway_tests::cluster::is_ready(&ingress).then_some(())
    })
    .await;

    suite.outside("ours.example.com").get("/").await.expect(200);
    assert_ne!(api.get("ingresses", NAMESPACE, "ours"), Some(ours));
    for (name, made) in made {
        assert_eq!(api.get("ingresses", NAMESPACE, name), Some(made), "{name}");
        let host = format!("{name}.example.com");
        suite.outside(&host).get("/").await.expect(404);
    }
    suite.finish().await;
}
