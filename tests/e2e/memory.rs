//! Memory that a burst took goes back to the system, without anybody setting anything.

use parkway_tests::{
    Parkway, Raw, Upstream, anonymous_kib, command, eventually, revision_with_endpoints,
};

/// Jemalloc tells its settings at the end of a process that is asked to (jemalloc's manual, `opt.stats_print`).
#[test]
fn the_allocator_is_set_up_in_the_binary_itself() {
    let told = command(&["--version"])
        .env("_RJEM_MALLOC_CONF", "stats_print:true")
        .output()
        .unwrap();
    let told = String::from_utf8(told.stderr).unwrap();
    for setting in [
        "opt.background_thread: true (background_thread: true)",
        "opt.dirty_decay_ms: 500 (arenas.dirty_decay_ms: 500)",
        "opt.muzzy_decay_ms: 0 (arenas.muzzy_decay_ms: 0)",
    ] {
        assert!(told.contains(setting), "{setting} is not in\n{told}");
    }
}

/// Each connection holds half a request head, and with it the engine's buffers.
#[tokio::test]
async fn memory_of_2000_connections_goes_back_when_they_are_gone() {
    let upstream = Upstream::answering("shop").await;
    let manifest = revision_with_endpoints("shop", &[upstream.address()]);
    let parkway = Parkway::with(manifest).await;
    let shop = parkway.service("shop");
    shop.get("/").await.expect(200);
    let before = anonymous_kib(parkway.pid());
    let mut clients: Vec<Raw> = Vec::new();
    for _ in 0..2_000 {
        let mut client = shop.raw().await;
        client.send(&shop.head("GET /")).await;
        clients.push(client);
    }
    parkway
        .state_when("all to be connected", |state| state.connections() >= 2_000)
        .await;
    // More than 8 KiB each.
    let grown = before + 16_000;
    eventually("buffers to be taken", async || {
        (anonymous_kib(parkway.pid()) > grown).then_some(())
    })
    .await;

    drop(clients);

    let most_of_it_gone = before + 8_000;
    eventually("memory to be given back", async || {
        (anonymous_kib(parkway.pid()) < most_of_it_gone).then_some(())
    })
    .await;
    parkway.finish().await;
}
