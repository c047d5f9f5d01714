//! Clients that begin with TLS and do not come to an end: what they cost, and that they are closed in time.

use std::fs;

use parkway_tests::tls::{Authority, TlsClient};
use parkway_tests::{Parkway, Raw, Upstream, anonymous_kib, eventually, revision_with_endpoints};
use tempfile::TempDir;
use tokio::net::TcpListener;

const HOST: &str = "shop.default.localhost";

const KIB: u64 = 1024;

/// What a client says first.
async fn hello(client: &TlsClient) -> Vec<u8> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let to = listener.local_addr().unwrap();
    let client = client.clone();
    let connecting = tokio::spawn(async move { drop(client.connect(to, HOST).await) });
    let mut server = Raw::of(listener.accept().await.unwrap().0);
    // A record's head says how long it is (RFC 8446 section 5.1).
    let head = server.exactly(5).await;
    let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
    let hello = [&head[..], &server.exactly(length).await].concat();
    connecting.abort();
    hello
}

/// The most memory that it takes, as soon as that is settled, in KiB.
async fn most_kib(parkway: &Parkway) -> u64 {
    let (mut most, mut settled) = (0, 0);
    eventually("memory to be what it is", async || {
        let now = anonymous_kib(parkway.pid());
        settled = if now > most { 0 } else { settled + 1 };
        most = most.max(now);
        (settled == 10).then_some(())
    })
    .await;
    most
}

#[tokio::test]
async fn handshakes_that_never_end_take_little_memory_are_closed_in_time_and_others_are_served() {
    const COUNT: usize = 200;
    let authority = Authority::new("all");
    let identity = authority.issue(&[HOST]);
    let files = TempDir::new().unwrap();
    let [chain, key] = ["tls.crt", "tls.key"].map(|name| files.path().join(name));
    fs::write(&chain, &identity.chain).unwrap();
    fs::write(&key, &identity.key).unwrap();
    let upstream = Upstream::answering("shop").await;
    let manifest = revision_with_endpoints("shop", &[upstream.address()]);
    let parkway = Parkway::builder()
        .manifest("main", manifest)
        .flag("--listen-tls", "127.0.0.1:0")
        .flag("--tls-cert", chain.display())
        .flag("--tls-key", key.display());
    let parkway = parkway.start().await;
    let client = TlsClient::trusting(&authority);
    let to = parkway.listens("external_tls");
    let hello = hello(&client).await;
    // Whatever is made once is made.
    client.connect(to, HOST).await.unwrap();
    let is_empty = |state: &parkway_tests::State| state.connections() == 0;
    parkway.state_when("no connection", is_empty).await;

    let before = anonymous_kib(parkway.pid());
    for (what, said, bound) in [
        ("nothing by TLS", &hello[..0], 32 * KIB),
        ("half a hello", &hello[..hello.len() / 2], 48 * KIB),
        ("a hello and no more", &hello[..], 96 * KIB),
    ] {
        let mut kept = Vec::new();
        for _ in 0..COUNT {
            let mut raw = Raw::connect(to).await;
            raw.send(said).await;
            kept.push(raw);
        }
        let most = most_kib(&parkway).await;
        let each = most.saturating_sub(before) * KIB / COUNT as u64;
        println!("{what}: {each} bytes for each of {COUNT} connections, of {bound}");
        assert!(each <= bound, "{what}: {each} bytes for each, not {bound}");
        client.connect(to, HOST).await.unwrap();
        parkway.service("shop").get("/").await.expect(200);
        // Nobody ends them but Parkway.
        parkway.state_when("no connection", is_empty).await;
        drop(kept);
    }
    parkway.finish().await;
}
