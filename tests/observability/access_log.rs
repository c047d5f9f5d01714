//! The access log: which requests, in which form, and that nobody waits for it; and what answers say of cold starts.

use bytes::Bytes;
use http::Request;
use parkway_tests::cluster::{Cluster, PodIs, serving};
use parkway_tests::{Gate, Parkway, QueueProxy, eventually, hello_service, service};
use serde_json::Value;

/// The lines of the log, as soon as there are as many.
async fn lines(parkway: &Parkway, count: usize) -> Vec<Value> {
    eventually(format!("{count} lines"), async || {
        let lines = parkway.logged("request");
        (lines.len() >= count).then_some(lines)
    })
    .await
}

#[tokio::test]
async fn a_request_that_waited_for_a_start_is_marked_with_its_phases_and_a_warm_one_is_not() {
    let gate = Gate::closed();
    let parkway = Parkway::builder()
        .manifest("main", gate.holds(hello_service("shop")))
        .switch("--access-log")
        .start()
        .await;
    let shop = parkway.service("shop");
    let (cold, ()) = tokio::join!(shop.get("/cold?secret=1"), async {
        parkway.parked(1).await;
        gate.open();
    });
    cold.expect(200);
    shop.post("/warm", "hello").await.expect(200);

    let lines = lines(&parkway, 2).await;

    let cold = &lines[0];
    assert_eq!(
        cold["path"], "/cold",
        "what is asked for is nobody's business"
    );
    assert_eq!(cold["host"], shop.host());
    assert_eq!(cold["status"], 200);
    assert_eq!(cold["revision"], "default/shop-00001");
    assert!(cold["time"].as_str().unwrap().ends_with('Z'), "{cold}");
    assert_eq!(cold["cold_start"]["number"], 1);
    assert_eq!(cold["cold_start"]["outcome"], "ready");
    let phases = cold["cold_start"]["phases_ms"].as_object().unwrap();
    let told: f64 = phases.values().map(|ms| ms.as_f64().unwrap()).sum();
    assert!(phases.contains_key("readiness"), "{cold}");
    let took = cold["took_ms"].as_f64().unwrap();
    assert!(
        told <= took + 1.1 && took <= told + 1_000.0,
        "{told} of {took}: in whole milliseconds, and written a moment after the end"
    );
    let warm = &lines[1];
    assert_eq!(warm["cold_start"], Value::Null);
    assert_eq!(
        (&warm["method"], &warm["received_bytes"]),
        (&"POST".into(), &5.into())
    );
    parkway.finish().await;
}

#[tokio::test]
async fn of_a_share_those_that_waited_are_written_and_of_the_others_every_so_many() {
    let parkway = Parkway::builder()
        .manifest("main", hello_service("shop"))
        .switch("--access-log=0.1")
        .workers(1)
        .start()
        .await;
    let mut client = parkway.service("shop").http1().await;
    for number in 0..31 {
        let request = Request::get(format!("/{number}"))
            .body(Bytes::new())
            .unwrap();
        client.send(request).await.expect(200);
    }

    drop(client);
    let lines = lines(&parkway, 4).await;
    let paths: Vec<_> = lines.iter().map(|line| line["path"].clone()).collect();
    assert_eq!(paths, ["/0", "/9", "/19", "/29"], "the first one waited");
    parkway.finish().await;
}

#[tokio::test]
async fn only_errors_are_written_where_that_is_asked_for_in_the_form_of_a_template() {
    let broken = service("broken", &["no-such-command-anywhere"]);
    let template =
        "{{.Request.Method}} {{js .Request.RequestURI}} {{.Response.Code}} [{{.Revision.Name}}]";
    let parkway = Parkway::builder()
        .manifest("main", format!("{}---\n{broken}", hello_service("shop")))
        .switch("--access-log=errors")
        .flag("--access-log-template", template)
        .start()
        .await;
    parkway.service("shop").get("/well").await.expect(200);
    parkway.at("nobody.example.com").get("/").await.expect(404);
    parkway.service("broken").get("/lost").await.expect(503);

    parkway.says("GET /lost 503 [broken-00001]").await;

    let is_no_error = |line: &String| line.starts_with("GET /well") || line.starts_with("GET / ");
    assert!(!parkway.logs().iter().any(is_no_error));
    parkway.finish().await;
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_no_request_and_what_is_lost_is_counted() {
    let long = "x".repeat(4_000);
    let parkway = Parkway::builder()
        .manifest("main", hello_service("shop"))
        .switch("--access-log")
        .flag("--access-log-template", long)
        .unread()
        .start()
        .await;
    let mut client = parkway.service("shop").http1().await;
    for _ in 0..5_000 {
        let request = Request::get("/").body(Bytes::new()).unwrap();
        client.send(request).await.expect(200);
    }

    let lost = parkway.metric("parkway_log_lines_dropped_total", &[("log", "access")]);
    assert!(lost.await.unwrap() > 0.0);
    drop(client);
    parkway.finish().await;
}

#[tokio::test]
async fn answers_say_what_a_start_has_cost_only_where_that_is_asked_for() {
    for (flag, is_told) in [(None, false), (Some("--cold-start-headers"), true)] {
        let builder = Parkway::builder().manifest("main", hello_service("shop"));
        let builder = match flag {
            Some(flag) => builder.switch(flag),
            None => builder,
        };
        let parkway = builder.start().await;
        let shop = parkway.service("shop");

        let cold = shop.get("/").await.expect(200);
        let warm = shop.get("/").await.expect(200);

        assert_eq!(warm.header("server-timing"), None);
        assert_eq!(cold.header("x-parkway-cold-start").is_some(), is_told);
        if is_told {
            let timing = cold.header("server-timing").unwrap();
            assert!(timing.starts_with("parkway;dur="), "{timing}");
            assert!(timing.contains(", cold-readiness;dur="), "{timing}");
            let told = cold.header("x-parkway-cold-start").unwrap();
            assert!(
                told.starts_with("start=1, outcome=ready, waited-ms="),
                "{told}"
            );
        } else {
            assert_eq!(cold.header("server-timing"), None);
        }
        parkway.finish().await;
    }
}

#[tokio::test]
async fn in_a_cluster_all_of_that_is_the_same() {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    let parkway = cluster
        .parkway_with(|builder| {
            builder
                .switch("--access-log")
                .switch("--cold-start-headers")
        })
        .await;
    let site = parkway.at(shop.host());
    let pod = QueueProxy::start("shop-1", 1).await;
    let (cold, ()) = tokio::join!(site.get("/"), async {
        parkway.parked(1).await;
        cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    });

    let cold = cold.expect(200);

    assert!(
        cold.header("x-parkway-cold-start")
            .unwrap()
            .contains("outcome=ready")
    );
    let line = lines(&parkway, 1).await.remove(0);
    assert_eq!(line["cold_start"]["outcome"], "ready");
    parkway.finish().await;
}
