//! What a Parkway in a cluster counts of its own part, for whoever watches over it.

use std::net::IpAddr;

use parkway_tests::api::Which;
use parkway_tests::cluster::{Cluster, serving};
use parkway_tests::queue_proxy::loopback;
use parkway_tests::{Parkway, Site, settled};

/// Waits until `/metrics`, as anybody may ask for it, has all of these lines.
async fn counted(parkway: &Parkway, lines: &[&str]) {
    let site = Site::new(parkway.listens("metrics"), "metrics");
    settled("the metrics to say so", async || {
        let text = site.get("/metrics").await.expect(200).text();
        let missing = |line: &&&str| !text.lines().any(|found| found == **line);
        match lines.iter().find(missing) {
            None => Ok(()),
            Some(line) => Err(format!("no {line} in {text}")),
        }
    })
    .await;
}

#[tokio::test]
async fn who_leads_what_waits_and_who_is_silent_is_counted_where_anybody_may_ask() {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    let address = IpAddr::V4(loopback());
    cluster.replicas(&[(address, "parkway-0")]);
    let parkway = cluster.replica(address, "parkway-0").start().await;
    cluster.ready("shop").await;
    counted(
        &parkway,
        &[
            "parkway_leader 1.0",
            "parkway_kingresses 1.0",
            "parkway_kingresses_unsettled 0.0",
            "parkway_kingresses_waiting_for_names 0.0",
            "parkway_replicas 1.0",
            "parkway_replicas_silent 0.0",
            "parkway_status_errors_total 0",
            "parkway_log_lines_dropped_total{log=\"request\"} 0",
            "parkway_watch_failing{kind=\"Ingress\"} 0.0",
        ],
    )
    .await;
    let written = parkway.metric("parkway_status_writes_total", &[]).await;
    assert!(written >= Some(1.0), "{written:?}");

    // A replica that is ready and where nobody answers, and a KIngress that cannot become Ready for that.
    let silent = IpAddr::V4(loopback());
    cluster.replicas(&[(address, "parkway-0"), (silent, "parkway-1")]);
    counted(&parkway, &["parkway_replicas 2.0"]).await;
    let cart = serving("cart");
    cluster.put(&cart);
    counted(
        &parkway,
        &[
            "parkway_kingresses 2.0",
            "parkway_kingresses_unsettled 1.0",
            "parkway_replicas 2.0",
            "parkway_replicas_silent 1.0",
        ],
    )
    .await;
    let named = |message: &str| message.contains("parkway-1");
    settled("the condition to name it", async || {
        let conditions = &cluster.ingress("cart")["status"]["conditions"];
        let all = conditions.as_array().into_iter().flatten();
        let mut messages = all.filter_map(|condition| condition["message"].as_str());
        match messages.any(named) {
            true => Ok(()),
            false => Err(conditions.to_string()),
        }
    })
    .await;

    cluster.replicas(&[(address, "parkway-0")]);
    cluster.ready("cart").await;
    cluster
        .api
        .refuse(Which::any().plural("revisions"), u32::MAX, 403);
    cluster.api.expire_watches("revisions");
    counted(
        &parkway,
        &[
            "parkway_kingresses_unsettled 0.0",
            "parkway_replicas_silent 0.0",
            "parkway_watch_failing{kind=\"Revision\"} 1.0",
        ],
    )
    .await;
    parkway.finish().await;
}
