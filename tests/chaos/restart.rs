//! Parkway itself is killed, and started again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use parkway_tests::{Parkway, Site, eventually, hello_service};
use tokio::time::sleep;

/// Asks until it is answered, wherever Parkway listens at the moment; counts how many requests were.
async fn insist(
    entrance: Arc<Mutex<SocketAddr>>,
    host: String,
    served: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
) {
    while !ends.load(Ordering::Relaxed) {
        let address = *entrance.lock();
        match Site::new(address, host.as_str())
            .try_get("/?sleep_ms=5")
            .await
        {
            // Of a dead Parkway's port anybody may answer by now.
            Ok(answer) if answer.broken.is_none() && *entrance.lock() == address => {
                answer.expect(200);
                served.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) | Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

#[tokio::test]
async fn killed_parkway_ends_what_it_left_and_serves_on_when_it_is_started_again() {
    let mut parkway = Parkway::with(hello_service("shop").min_scale(2)).await;
    let entrance = Arc::new(Mutex::new(parkway.external()));
    let host = parkway.service("shop").host().to_owned();
    let (served, ends) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let clients: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn(insist(
                Arc::clone(&entrance),
                host.clone(),
                Arc::clone(&served),
                Arc::clone(&ends),
            ))
        })
        .collect();
    let more = async || {
        let wanted = served.load(Ordering::Relaxed) + 50;
        eventually("50 more answers", async || {
            (served.load(Ordering::Relaxed) >= wanted).then_some(())
        })
        .await;
    };

    // What drops a killed one ends all that bears its mark, so they are kept to the end.
    let mut all_killed = Vec::new();
    for _ in 0..2 {
        more().await;
        parkway
            .state_when("two processes", |state| {
                state.revision("shop-00001").ready_endpoints() == 2
            })
            .await;
        let killed = parkway.kill().await;
        let left = killed.left_processes();
        assert!(left.len() >= 2, "nothing was left: {left:?}");

        parkway = killed.builder().start().await;
        *entrance.lock() = parkway.external();
        more().await;

        let now = parkway.left_processes();
        assert!(
            left.iter().all(|pid| !now.contains(pid)),
            "{left:?} were left, and run: {now:?}"
        );
        all_killed.push(killed);
    }

    ends.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    parkway.finish().await;
}
