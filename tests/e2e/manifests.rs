//! Manifests while they are edited.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parkway_tests::upstream::Connection;
use parkway_tests::{Parkway, Site, Upstream, command, hello_service, service, settled};
use tokio::task::JoinHandle;

#[tokio::test]
async fn a_bad_edit_keeps_the_last_good_configuration_and_is_reported_until_it_is_mended() {
    let parkway = Parkway::with(hello_service("shop")).await;
    let shop = parkway.service("shop");
    shop.get("/").await.expect(200);

    let bad = hello_service("shop")
        .to_string()
        .replace("containers:", "container:");
    parkway.edit("main", bad);

    let rejected = parkway
        .state_when("the rejection", |state| {
            state.configuration()["rejected"] == true
        })
        .await;
    let problems = rejected.configuration()["problems"].to_string();
    assert!(
        problems.contains("main.yaml") && problems.contains("container"),
        "{problems}"
    );
    assert_eq!(
        parkway.metric("parkway_configuration_rejected", &[]).await,
        Some(1.0)
    );
    assert!(
        parkway
            .metric("parkway_configuration_rejections_total", &[])
            .await
            >= Some(1.0)
    );
    parkway
        .says("the configuration before this change stays in effect")
        .await;
    shop.get("/").await.expect(200);

    parkway.edit("main", hello_service("shop"));

    parkway
        .state_when("the mended one", |state| {
            state.configuration()["rejected"] == false
        })
        .await;
    assert_eq!(
        parkway.metric("parkway_configuration_rejected", &[]).await,
        Some(0.0)
    );
    shop.get("/").await.expect(200);
    parkway.finish().await;
}

#[tokio::test]
async fn a_changed_template_takes_over_when_it_is_ready_and_no_request_fails() {
    let parkway = Parkway::with(hello_service("shop").env("TARGET", "old")).await;
    let load = Load::on(&parkway.service("shop"));
    load.gets("Hello old!\n").await;

    parkway.edit(
        "main",
        hello_service("shop")
            .env("TARGET", "new")
            .start_delay_ms(300),
    );

    load.gets("Hello new!\n").await;
    load.stop().await;
    let is_gone = |state: &parkway_tests::State| state.find("shop-00001").is_none();
    parkway
        .state_when("the old Revision to retire", is_gone)
        .await;
    parkway.finish().await;
}

#[tokio::test]
async fn a_changed_template_that_cannot_start_leaves_the_old_one_serving() {
    let parkway = Parkway::with(hello_service("shop").env("TARGET", "old")).await;
    let load = Load::on(&parkway.service("shop"));
    load.gets("Hello old!\n").await;

    parkway.edit(
        "main",
        hello_service("shop")
            .env("TARGET", "new")
            .env("START_EXIT_CODE", 1),
    );

    parkway.says("START_EXIT_CODE is set").await;
    parkway
        .state_when("the failure to be reported", |state| {
            state.configuration()["problems"]
                .to_string()
                .contains("shop-00002")
        })
        .await;
    assert_eq!(
        parkway.service("shop").get("/").await.expect(200).text(),
        "Hello old!\n"
    );
    load.stop().await;
    parkway.finish().await;
}

#[tokio::test]
async fn manifests_edited_again_and_again_under_load_fail_no_request() {
    let shop = |version: u32| hello_service("shop").env("TARGET", version);
    let parkway = Parkway::with(shop(0)).await;
    let load = Load::on(&parkway.service("shop"));
    for version in 1..=5 {
        parkway.edit("other", hello_service(&format!("other-{version}")));
        parkway.edit("main", shop(version));
        load.gets(&format!("Hello {version}!\n")).await;
    }
    load.stop().await;
    parkway.finish().await;
}

#[tokio::test]
async fn a_removed_service_is_not_found_and_its_process_ends() {
    let builder = Parkway::builder()
        .manifest("shop", hello_service("shop"))
        .manifest("cart", hello_service("cart"));
    let parkway = builder.start().await;
    let (shop, cart) = (parkway.service("shop"), parkway.service("cart"));
    shop.get("/").await.expect(200);
    cart.get("/").await.expect(200);

    parkway.remove("shop");

    parkway
        .state_when("the Revision to retire", |state| {
            state.find("shop-00001").is_none()
        })
        .await;
    shop.get("/").await.expect(404);
    cart.get("/").await.expect(200);
    settled("its process to end", async || {
        match parkway.left_processes().len() {
            1 => Ok(()),
            count => Err(format!("{count} processes run")),
        }
    })
    .await;
    parkway.finish().await;
}

#[tokio::test]
async fn a_service_that_is_added_is_served() {
    let parkway = Parkway::with(hello_service("shop")).await;
    parkway.service("cart").get("/").await.expect(404);
    parkway.edit("cart", hello_service("cart"));
    let cart = parkway.service("cart");
    settled("the added Service to be served", async || {
        match cart.get("/").await {
            answer if answer.status == 200 => Ok(()),
            answer => Err(format!("{answer:?}")),
        }
    })
    .await;
    parkway.finish().await;
}

#[tokio::test]
async fn a_name_that_is_edited_in_while_something_retires_is_resolved_before_it_is_routed_to() {
    for external_name in ["127.0.0.1", "localhost"] {
        let here = "127.0.0.1:0".parse().unwrap();
        let upstream = Upstream::start_at(here, async |mut connection: Connection| {
            while connection.whole_request().await.is_some() {
                connection.answer("elsewhere").await;
            }
        })
        .await;
        let builder = Parkway::builder()
            .manifest("shop", hello_service("shop"))
            .manifest("cart", hello_service("cart"));
        let parkway = builder.start().await;
        parkway.service("shop").get("/").await.expect(200);

        parkway.remove("shop");
        parkway.says("has no traffic any more").await;
        parkway.edit(
            "name",
            leading_elsewhere(external_name, upstream.address().port()),
        );

        let elsewhere = parkway.at("elsewhere.example.com");
        settled("the name to be routed to", async || {
            match elsewhere.get("/").await.status.as_u16() {
                404 => Err("not routed to yet"),
                status => {
                    assert_eq!(status, 200, "{external_name}");
                    Ok(())
                }
            }
        })
        .await;
        parkway.finish().await;
    }
}

/// A KIngress to a Service of type ExternalName.
fn leading_elsewhere(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: elsewhere, namespace: default}}\n\
         spec: {{type: ExternalName, externalName: {name}, ports: [{{name: http, port: {port}}}]}}\n---\n\
         apiVersion: networking.internal.knative.dev/v1alpha1\nkind: Ingress\n\
         metadata: {{name: elsewhere, namespace: default}}\nspec:\n  rules:\n  \
         - hosts: [elsewhere.example.com]\n    visibility: ExternalIP\n    http: {{paths: [{{splits: [\
         {{serviceName: elsewhere, serviceNamespace: default, servicePort: {port}, percent: 100}}]}}]}}\n"
    )
}

#[test]
fn parkway_does_not_start_with_mistakes_in_its_manifests() {
    let bad = hello_service("shop")
        .to_string()
        .replace("containers:", "container:");
    let output = Parkway::builder().manifest("main", bad).run_to_end();
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        told.contains("main.yaml") && told.contains("nothing was started"),
        "{told}"
    );
}

#[test]
fn check_says_what_would_be_served_or_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.yaml");
    let check = |yaml: String| {
        std::fs::write(&path, yaml).unwrap();
        command(&["check", path.to_str().unwrap()])
            .output()
            .unwrap()
    };

    let good = check(hello_service("shop").to_string());
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    let told = String::from_utf8_lossy(&good.stdout);
    assert!(
        told.contains("shop.default.localhost") && told.contains("100%"),
        "{told}"
    );

    let image_only = check(service("shop", &[]).to_string());
    assert_eq!(image_only.status.code(), Some(2), "{image_only:?}");
    assert!(
        String::from_utf8_lossy(&image_only.stderr).contains("help: "),
        "{image_only:?}"
    );

    let broken = check("kind: [".to_owned());
    assert_eq!(broken.status.code(), Some(2), "{broken:?}");
    assert!(
        String::from_utf8_lossy(&broken.stderr).contains("shop.yaml:1"),
        "{broken:?}"
    );
}

/// A client that sends one request after the other until it is stopped, and remembers.
struct Load {
    site: Site,
    goes_on: Arc<AtomicBool>,
    client: JoinHandle<usize>,
}

impl Load {
    fn on(site: &Site) -> Self {
        let goes_on = Arc::new(AtomicBool::new(true));
        let (theirs, of_client) = (site.clone(), Arc::clone(&goes_on));
        let client = tokio::spawn(async move {
            let mut count = 0;
            while of_client.load(Ordering::Relaxed) {
                theirs.get("/").await.expect(200);
                theirs.post("/", "body").await.expect(200);
                count += 2;
            }
            count
        });
        Self {
            site: site.clone(),
            goes_on,
            client,
        }
    }

    /// Waits until this is what is answered.
    async fn gets(&self, text: &str) {
        settled(format!("{text:?}"), async || {
            match self.site.get("/").await.expect(200).text() {
                told if told == text => Ok(()),
                told => Err(told),
            }
        })
        .await;
    }

    /// Proves that every request so far was answered 200.
    async fn stop(self) {
        self.goes_on.store(false, Ordering::Relaxed);
        assert!(self.client.await.unwrap() > 0);
    }
}
