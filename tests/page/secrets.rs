//! What nobody is shown, whoever may see the rest.

use std::fs;

use bytes::Bytes;
use http::Request;
use parkway_tests::cluster::{Cluster, PodIs, serving};
use parkway_tests::http1::Http1;
use parkway_tests::tls::Authority;
use parkway_tests::{Parkway, QueueProxy, eventually, hello_service, service};
use serde_json::json;

/// A part of every secret of these tests.
const SECRET: &str = "hunter2";

/// All that can be seen at the admin entrance, and the log.
async fn all_that_is_told(parkway: &Parkway, host: &str) -> Vec<(String, String)> {
    let mut told = Vec::new();
    for path in [
        "/".to_owned(),
        format!("/?url={host}"),
        "/state".to_owned(),
        "/metrics".to_owned(),
        format!("/why?host={host}"),
    ] {
        let answer = parkway.admin_get(&path).await.unwrap();
        told.push((path, answer.text()));
    }
    // The first event has everything.
    let admin = parkway.admin();
    let mut client = Http1::connect(admin, &admin.to_string()).await;
    let request = Request::get("/events").body(Bytes::new()).unwrap();
    let mut events = client.begin(request).await.unwrap();
    let frame = http_body_util::BodyExt::frame(&mut events).await;
    let data = frame.unwrap().unwrap().into_data().unwrap();
    let data = String::from_utf8_lossy(&data).into_owned();
    told.push(("/events".to_owned(), data));
    for arguments in [&[host][..], &[host, "--json"]] {
        for command in ["explain", "why"] {
            let said = parkway.asked_by(command, arguments);
            told.push((
                format!("{command} {arguments:?}"),
                String::from_utf8_lossy(&said.stdout).into_owned(),
            ));
        }
    }
    told.push(("the log".to_owned(), parkway.logs().join("\n")));
    told
}

async fn assert_nothing_is_shown(parkway: &Parkway, host: &str, secrets: &[String]) {
    let told = all_that_is_told(parkway, host).await;
    let name = host.split('.').next().unwrap();
    assert!(told[0].1.contains(name), "the page is there");
    for (what, text) in told {
        for secret in secrets {
            assert!(!text.contains(secret), "{secret} in {what}: {text}");
        }
    }
}

fn secret_request(host: &str) -> Request<Bytes> {
    Request::get(format!("/?token={SECRET}-query"))
        .header("host", host)
        .header("authorization", format!("Bearer {SECRET}-client"))
        .header("cookie", format!("session={SECRET}-cookie"))
        .body(Bytes::new())
        .unwrap()
}

#[tokio::test]
async fn neither_environment_nor_header_values_nor_queries_nor_tokens_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, format!("{SECRET}-admin")).unwrap();
    let shop = hello_service("shop").env("PASSWORD", format!("{SECRET}-env"));
    let broken = service("broken", &["sh", "-c", "exit 3"]).env("PASSWORD", SECRET);
    let parkway = Parkway::builder()
        .manifest("main", format!("{shop}---\n{broken}"))
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
        .env(
            "OTEL_EXPORTER_OTLP_HEADERS",
            format!("authorization=Bearer {SECRET}-otlp"),
        )
        .env("OTEL_BSP_SCHEDULE_DELAY", 50)
        .flag("--log", "info")
        .switch("--access-log")
        .start()
        .await;
    let site = parkway.service("shop");
    site.send(secret_request(site.host())).await.expect(200);
    parkway.service("broken").get("/").await.expect(503);
    eventually("traces to be lost", async || {
        parkway.state().await.0["traces"]["failing"]
            .is_string()
            .then_some(())
    })
    .await;

    assert_nothing_is_shown(&parkway, site.host(), &[SECRET.to_owned()]).await;
    parkway.finish().await;
}

#[tokio::test]
async fn in_a_cluster_neither_keys_nor_the_token_for_the_api_server_are_shown() {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.wants_token(SECRET);
    let host = shop.host();
    let identity = Authority::new("root").issue(&[&host]);
    cluster.api.put(identity.secret("certificates", "shop"));
    cluster.put(&shop);
    let tls = json!([{"hosts": [host], "secretName": "shop", "secretNamespace": "certificates"}]);
    let patch = json!({"spec": {"tls": tls}});
    cluster
        .api
        .edit("ingresses", "fixtures", shop.name(), patch);
    let parkway = cluster
        .parkway_with(|builder| builder.switch("--access-log"))
        .await;
    let pod = QueueProxy::start("shop-1", 1).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    let site = parkway.at(&host);
    site.send(secret_request(&host)).await.expect(200);

    let key_line = identity.key.lines().nth(1).unwrap().to_owned();
    let key_encoded = parkway_tests::certificates::base64(identity.key.as_bytes());
    let secrets = [
        SECRET.to_owned(),
        key_line,
        key_encoded,
        "PRIVATE KEY".to_owned(),
    ];
    assert_nothing_is_shown(&parkway, &host, &secrets).await;
    parkway.finish().await;
}
