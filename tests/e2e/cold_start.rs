//! From zero and back.

use parkway_tests::{Parkway, hello_service};

#[tokio::test]
async fn a_request_at_zero_is_parked_until_its_workload_is_started_and_then_answered() {
    let parkway = Parkway::with(hello_service("shop").start_delay_ms(300)).await;
    assert_eq!(parkway.state().await.revision("shop-00001").processes(), 0);

    let shop = parkway.service("shop");
    let (answer, ()) = tokio::join!(shop.get("/"), parkway.parked(1));

    assert_eq!(answer.expect(200).text(), "Hello from shop-00001!\n");
    let revision = parkway.state().await.revision("shop-00001");
    assert_eq!(revision.counter("coldStarts"), 1);
    assert_eq!(revision.counter("released"), 1);
    assert!(
        revision.0["parkedSeconds"]["sum"].as_f64().unwrap() >= 0.3,
        "{revision:?}"
    );
    let labels = [("kn_revision_name", "shop-00001")];
    assert_eq!(
        parkway.metric("parkway_cold_starts_total", &labels).await,
        Some(1.0)
    );
    assert_eq!(
        parkway
            .metric("parkway_parked_seconds_count", &labels)
            .await,
        Some(1.0)
    );
    assert_eq!(
        parkway.metric("parkway_parked_requests", &labels).await,
        Some(0.0)
    );
    parkway.finish().await;
}
