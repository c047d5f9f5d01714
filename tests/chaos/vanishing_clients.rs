//! Clients that begin something and leave, in every way, at every time.

use std::fs;

use std::time::Duration;

use futures::future::join_all;
use parkway_tests::{Parkway, RevisionState, Site, State, eventually, hello_service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::random::Random;

/// How many clients come, and leave.
const CLIENTS: usize = 200;
const SERVICES: [&str; 3] = ["shop", "cart", "till"];
/// How long a client waits for an answer that may never come.
const NO_LONGER: Duration = Duration::from_secs(1);
/// Files that may be open at the end and were not at the start.
const SLACK: usize = 8;

/// What HTTP/2 begins with: the preface and empty settings (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// Begins one of many things.
async fn begin(client: &mut TcpStream, site: &Site, random: &mut Random) {
    let paths = [
        "/",
        "/?sleep_ms=200",
        "/?bytes=300000",
        "/events?count=50&interval_ms=20",
        "/?body_sleep_ms=200",
    ];
    let path = paths[random.below(paths.len())];
    let get = site.head(&format!("GET {path}"));
    let post = site.head(&format!("POST {path}"));
    let bytes = match random.below(10) {
        0 => get.as_bytes()[..random.below(get.len())].to_vec(),
        1 => (post + "Content-Length: 1000\r\n\r\nonly the beginning").into_bytes(),
        2 => (post + "Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n").into_bytes(),
        3 => (post + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").into_bytes(),
        4 => (get + "Connection: Upgrade\r\nUpgrade: echo\r\n\r\n").into_bytes(),
        5 => format!("{get}\r\n{get}\r\n{get}").into_bytes(),
        6 => http2_get(site, path),
        7 => PREFACE[..random.below(PREFACE.len())].to_vec(),
        _ => (get + "\r\n").into_bytes(),
    };
    drop(client.write_all(&bytes).await);
}

/// A request by HTTP/2 whose fields are literals without a table (RFC 7541 section 6.2.2).
fn http2_get(site: &Site, path: &str) -> Vec<u8> {
    let literal = |name: &str, value: &str| {
        let short = |text: &str| {
            u8::try_from(text.len())
                .ok()
                .filter(|length| *length < 127)
                .unwrap()
        };
        [
            &[0, short(name)],
            name.as_bytes(),
            &[short(value)],
            value.as_bytes(),
        ]
        .concat()
    };
    let fields = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", site.host()),
        (":path", path),
    ];
    let block: Vec<u8> = fields
        .iter()
        .flat_map(|(name, value)| literal(name, value))
        .collect();
    let length = u8::try_from(block.len()).unwrap();
    let (headers, end_stream_and_headers) = (1, 5);
    [
        PREFACE,
        &[0, 0, length, headers, end_stream_and_headers, 0, 0, 0, 1],
        &block,
    ]
    .concat()
}

/// Leaves in one of many ways.
async fn leave(mut client: TcpStream, random: &mut Random) {
    match random.below(4) {
        0 => client.set_zero_linger().unwrap(),
        1 => {
            drop(client.shutdown().await);
            let mut rest = Vec::new();
            drop(timeout(NO_LONGER, client.read_to_end(&mut rest)).await);
        }
        // In the middle of an answer.
        2 => drop(timeout(NO_LONGER, client.read_u8()).await),
        _ => {}
    }
}

async fn client(parkway: &Parkway, seed: usize) {
    let mut random = Random::of(seed);
    let site = parkway.service(SERVICES[random.below(SERVICES.len())]);
    chance_to_happen(&mut random, 900).await;
    let mut client = TcpStream::connect(site.address()).await.unwrap();
    begin(&mut client, &site, &mut random).await;
    chance_to_happen(&mut random, 300).await;
    leave(client, &mut random).await;
}

/// So that clients are met by every state of what serves them.
async fn chance_to_happen(random: &mut Random, at_most_ms: usize) {
    sleep(Duration::from_millis(
        u64::try_from(random.below(at_most_ms)).unwrap(),
    ))
    .await;
}

/// Everything a Parkway has open.
fn open_files(parkway: &Parkway) -> usize {
    fs::read_dir(format!("/proc/{}/fd", parkway.pid()))
        .unwrap()
        .count()
}

/// The autoscaler wants no process any more.
fn is_leaving(revision: &RevisionState) -> bool {
    revision.0["autoscaler"]["desired"] == 0
}

#[tokio::test]
async fn nothing_remains_of_clients_that_vanish_and_the_others_are_served() {
    let mut builder = Parkway::builder();
    for service in SERVICES {
        builder = builder.manifest(
            service,
            hello_service(service)
                .window(6)
                .start_delay_ms(300)
                .concurrency(10),
        );
    }
    let parkway = builder.start().await;
    let at_start = open_files(&parkway);

    join_all((0..CLIENTS / 2).map(|seed| client(&parkway, seed))).await;
    parkway.quiet().await;
    let left_while_parked = |state: &State| {
        state
            .revisions()
            .iter()
            .map(|revision| revision.counter("cancelled"))
            .sum::<u64>()
    };
    assert!(
        left_while_parked(&parkway.state().await) > 10,
        "hardly anyone met a cold start"
    );
    // The others come when processes are about to end.
    parkway
        .state_when("a Revision to go to zero", |state| {
            state.revisions().iter().any(is_leaving)
        })
        .await;
    join_all((CLIENTS / 2..CLIENTS).map(|seed| client(&parkway, seed))).await;
    parkway.quiet().await;
    for service in SERVICES {
        parkway.service(service).get("/").await.expect(200);
    }
    let is_at_zero = |state: &State| {
        state
            .revisions()
            .iter()
            .all(|revision| revision.processes() == 0)
            && state.connections() == 0
    };
    parkway.state_when("all processes to end", is_at_zero).await;

    eventually("files to be closed", async || {
        (open_files(&parkway) <= at_start + SLACK).then_some(())
    })
    .await;
    for service in SERVICES {
        parkway.service(service).get("/").await.expect(200);
    }
    parkway.finish().await;
}
