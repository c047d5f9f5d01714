//! A queue has bounds, and says so.

use parkway_tests::parkway::Builder;
use parkway_tests::{Answer, Gate, Parkway, Raw, hello_service};

#[tokio::test]
async fn one_more_than_the_queue_holds_is_answered_503_and_the_others_are_served() {
    let gate = Gate::closed();
    let parkway = cold_shop(&gate).flag("--queue-depth", 3).start().await;
    let shop = parkway.service("shop");

    let waiting = async { tokio::join!(shop.get("/"), shop.get("/"), shop.get("/")) };
    let (served, ()) = tokio::join!(waiting, async {
        parkway.parked(3).await;
        is_queue_full(&shop.get("/").await);
        let h2 = shop.http2().await;
        is_queue_full(&h2.get("/").await);
        gate.open();
    });

    served.0.expect(200);
    served.1.expect(200);
    served.2.expect(200);
    assert_eq!(
        parkway
            .state()
            .await
            .revision("shop-00001")
            .counter("queueFull"),
        2
    );
    let labels = [
        ("kn_revision_name", "shop-00001"),
        ("reason", "queue_depth"),
    ];
    assert_eq!(
        parkway
            .metric("parkway_refused_requests_total", &labels)
            .await,
        Some(2.0)
    );
    parkway.finish().await;
}

#[tokio::test]
async fn a_queue_is_full_when_its_requests_take_as_many_bytes_as_allowed() {
    let gate = Gate::closed();
    let parkway = cold_shop(&gate).flag("--queue-mib", 1).start().await;

    let parked = park_large_heads(&parkway, "shop", &[]).await;

    assert_eq!(refused(&parkway, "shop-00001", "queue_bytes").await, 1.0);
    drop(parked);
    parkway.finish().await;
}

#[tokio::test]
async fn all_queues_together_are_full_when_they_take_as_many_bytes_as_allowed() {
    let gate = Gate::closed();
    let services = gate
        .holds(hello_service("shop"))
        .and(gate.holds(hello_service("cart")));
    let parkway = Parkway::builder()
        .manifest("main", services)
        .flag("--queue-total-mib", 1)
        .start()
        .await;
    let in_cart = [park_one(&parkway, "cart", &filling()).await];

    let parked = park_large_heads(&parkway, "shop", &in_cart).await;

    assert_eq!(refused(&parkway, "shop-00001", "total_bytes").await, 1.0);
    is_queue_full(
        &parkway
            .service("cart")
            .send(large_get(&parkway, "cart"))
            .await,
    );
    drop((parked, in_cart));
    parkway.finish().await;
}

#[tokio::test]
async fn a_client_that_holds_its_share_of_a_queue_is_refused_and_others_are_not() {
    let gate = Gate::closed();
    let shares = cold_shop(&gate)
        .flag("--queue-depth", 4)
        .flag("--client-share", 50);
    let parkway = shares.flag("--client-header", "x-client").start().await;
    let shop = parkway.service("shop");
    let of = |client: &str| {
        http::Request::get("/")
            .header("x-client", client)
            .body(bytes::Bytes::new())
            .unwrap()
    };

    let greedy = async { tokio::join!(shop.send(of("greedy")), shop.send(of("greedy"))) };
    let (served, modest) = tokio::join!(greedy, async {
        parkway.parked(2).await;
        is_queue_full(&shop.send(of("greedy")).await);
        let (modest, ()) = tokio::join!(shop.send(of("modest")), async {
            parkway.parked(3).await;
            gate.open();
        });
        modest
    });

    for answer in [served.0, served.1, modest] {
        answer.expect(200);
    }
    assert_eq!(refused(&parkway, "shop-00001", "client_share").await, 1.0);
    parkway.finish().await;
}

fn cold_shop(gate: &Gate) -> Builder {
    Parkway::builder().manifest("main", gate.holds(hello_service("shop")))
}

#[track_caller]
fn is_queue_full(answer: &Answer) {
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.text(), "pending request queue full\n");
    let retry_after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=300).contains(&retry_after), "{answer:?}");
}

async fn refused(parkway: &Parkway, revision: &str, reason: &str) -> f64 {
    let labels = [("kn_revision_name", revision), ("reason", reason)];
    parkway
        .metric("parkway_refused_requests_total", &labels)
        .await
        .unwrap()
}

/// Fills the one MiB there is with requests of 32 KiB until one is refused, and proves that the bound was kept and not
/// reached much too early.
async fn park_large_heads(parkway: &Parkway, service: &str, already: &[Raw]) -> Vec<Raw> {
    const MIB: u64 = 1024 * 1024;
    let site = parkway.service(service);
    let mut parked = Vec::new();
    loop {
        let before = (already.len() + parked.len()) as u64;
        let mut client = site.raw().await;
        client.send(site.head("GET /") + &filling() + "\r\n").await;
        let state = parkway
            .state_when("a request to be parked or refused", |state| {
                let refused: u64 = state
                    .revisions()
                    .iter()
                    .map(|revision| revision.counter("queueFull"))
                    .sum();
                state.parked() > before || refused > 0
            })
            .await;
        let bytes = state.0["parkedBytes"].as_u64().unwrap();
        assert!(bytes <= MIB, "{state:?}");
        if state.parked() > before {
            parked.push(client);
            continue;
        }
        is_queue_full(&client.answer().await);
        assert!(bytes > MIB / 2, "{state:?}");
        return parked;
    }
}

async fn park_one(parkway: &Parkway, service: &str, fields: &str) -> Raw {
    let site = parkway.service(service);
    let mut client = site.raw().await;
    client.send(site.head("GET /") + fields + "\r\n").await;
    parkway.parked(1).await;
    client
}

fn large_get(parkway: &Parkway, service: &str) -> http::Request<bytes::Bytes> {
    let mut request = parkway.service(service).request(http::Method::GET, "/", "");
    request
        .headers_mut()
        .insert("x-filling", "x".repeat(48 * 1024).parse().unwrap());
    request
}

fn filling() -> String {
    format!("x-filling: {}\r\n", "x".repeat(32 * 1024))
}
