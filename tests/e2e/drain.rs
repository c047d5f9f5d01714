//! Parkway ends in order, and at once when told twice.

use std::time::Duration;

use parkway_tests::{Gate, Parkway, Raw, eventually, hello_service};
use tokio::net::TcpStream;

#[tokio::test]
async fn parked_and_running_requests_end_well_while_new_connections_are_refused() {
    let gate = Gate::closed();
    let services = gate.holds(hello_service("cold")).and(hello_service("warm"));
    let mut parkway = Parkway::with(services).await;
    let (cold, warm) = (parkway.service("cold"), parkway.service("warm"));
    let mut idle = warm.http1().await;
    idle.send(warm.request(http::Method::GET, "/", ""))
        .await
        .expect(200);
    let h2 = cold.http2().await;
    let mut running = warm.raw().await;
    running
        .send(warm.head("POST /") + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        .await;
    running.until("hello").await;

    let parked = async { tokio::join!(cold.get("/"), cold.post("/", "body"), h2.get("/")) };
    let (parked, ()) = tokio::join!(parked, async {
        parkway.parked(3).await;
        parkway.terminate();
        eventually("new connections to be refused", async || {
            TcpStream::connect(parkway.external()).await.err().map(drop)
        })
        .await;
        running.send("7\r\n, world\r\n0\r\n\r\n").await;
        running.until(", world").await;
        gate.open();
    });

    assert_eq!(parked.0.expect(200).text(), "Hello from cold-00001!\n");
    assert_eq!(parked.1.expect(200).text(), "body");
    assert_eq!(parked.2.expect(200).text(), "Hello from cold-00001!\n");
    running.until("0\r\n\r\n").await;
    assert!(running.is_closed().await);
    assert_eq!(parkway.ended().await.code(), Some(0));
    assert!(idle.is_closed());
    assert_eq!(parkway.left_processes(), [0; 0]);
}

#[tokio::test]
async fn a_parkway_that_drains_is_not_ready() {
    let gate = Gate::closed();
    let mut parkway = Parkway::with(gate.holds(hello_service("shop"))).await;
    let shop = parkway.service("shop");
    let (answer, ()) = tokio::join!(shop.get("/"), async {
        parkway.parked(1).await;
        parkway.terminate();
        eventually("/readyz to say no", async || {
            let answer = parkway.admin_get("/readyz").await.unwrap();
            (answer.status == 503).then_some(())
        })
        .await;
        gate.open();
    });
    answer.expect(200);
    assert_eq!(parkway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once_and_leaves_no_process() {
    let gate = Gate::closed();
    let mut parkway = Parkway::with(gate.holds(hello_service("shop"))).await;
    let shop = parkway.service("shop");
    let (answer, ()) = tokio::join!(shop.try_get("/"), async {
        parkway.parked(1).await;
        parkway.terminate();
        parkway
            .says("stopping: parked and running requests may end")
            .await;
        parkway.terminate();
    });
    // Never an answer by an endpoint: there was none.
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 503));
    assert_eq!(parkway.ended().await.code(), Some(0));
    assert_eq!(parkway.left_processes(), [0; 0]);
}

#[tokio::test]
async fn requests_that_do_not_end_are_cut_off_when_the_drain_deadline_passes() {
    let builder = Parkway::builder()
        .manifest("main", hello_service("shop"))
        .flag("--drain-seconds", 1);
    let mut parkway = builder.start().await;
    let shop = parkway.service("shop");
    let mut endless: Raw = shop.raw().await;
    endless
        .send(shop.head("GET /events?count=2&interval_ms=600000") + "\r\n")
        .await;
    endless.until("data: 1\n\n").await;

    parkway.terminate();

    assert_eq!(parkway.ended().await.code(), Some(0));
    assert!(
        !endless.rest().await.ends_with(b"0\r\n\r\n"),
        "the end is not made up"
    );
    assert_eq!(parkway.left_processes(), [0; 0]);
}

/// One that is queued, one whose request is queued with it, and one that has been answered before, each many times.
#[tokio::test]
async fn requests_sent_before_the_signal_are_answered_wherever_they_wait() {
    for _ in 0..3 {
        let mut parkway = Parkway::with(hello_service("shop")).await;
        let shop = parkway.service("shop");
        let get = shop.head("GET /") + "\r\n";
        shop.get("/").await.expect(200);
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut dormant = shop.raw().await;
            dormant.send(&get).await;
            dormant.until("Hello from shop-00001!\n").await;
            clients.push(dormant);
        }
        // Longer than an engine stays on a connection where nothing happens.
        tokio::time::sleep(DORMANT_AFTER).await;
        for client in &mut clients {
            client.send(&get).await;
        }
        for _ in 0..60 {
            let mut new = shop.raw().await;
            new.send(&get).await;
            clients.push(new);
        }

        parkway.terminate();

        for (number, client) in clients.iter_mut().enumerate() {
            let answer = client.try_until("Hello from shop-00001!\n").await;
            assert!(answer.is_ok(), "client {number}: {answer:?}");
        }
        assert_eq!(parkway.ended().await.code(), Some(0));
        assert_eq!(parkway.left_processes(), [0; 0]);
    }
}

const DORMANT_AFTER: Duration = Duration::from_millis(1_500);
