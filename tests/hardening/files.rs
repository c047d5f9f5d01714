//! Running out of files: those who are there are served, those who come wait, and all is well when there are files again.

use std::collections::BTreeSet;
use std::fs;

use http::Request;
use parkway_tests::upstream::Connection;
use parkway_tests::{Parkway, Upstream, eventually, revision_with_endpoints};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::time::Instant;

/// Lets Parkway open `more` files beyond those it has open, and no others.
fn allow(parkway: &Parkway, more: u64) {
    let open = fs::read_dir(format!("/proc/{}/fd", parkway.pid())).unwrap();
    let open: BTreeSet<u64> = open
        .map(|entry| {
            entry
                .unwrap()
                .file_name()
                .into_string()
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect();
    // A file gets the lowest number that is free, and numbers are what is bounded.
    let mut free = (0..).filter(|number| !open.contains(number));
    let bound = free.nth(usize::try_from(more).unwrap());
    restrict(
        parkway,
        Rlimit {
            current: bound,
            ..own()
        },
    );
}

fn own() -> Rlimit {
    rustix::process::getrlimit(Resource::Nofile)
}

fn restrict(parkway: &Parkway, limit: Rlimit) {
    prlimit(Pid::from_raw(parkway.pid()), Resource::Nofile, limit).unwrap();
}

#[tokio::test]
async fn without_files_connections_wait_nothing_spins_and_they_are_served_when_there_are_files() {
    let upstream = Upstream::answering("shop").await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await;
    let shop = parkway.service("shop");
    let get = || Request::get("/").body("".into()).unwrap();
    let mut there = shop.http1().await;
    there.send(get()).await.expect(200);
    let begun = Instant::now();
    allow(&parkway, 4);

    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(shop.raw().await);
    }
    parkway.says("cannot accept connections").await;
    there.send(get()).await.expect(200);

    restrict(&parkway, own());
    parkway.says("accepting connections again").await;
    for client in &mut clients {
        client.send(shop.head("GET /") + "\r\n").await;
        client.answer().await.expect(200);
    }
    // Twenty times a second for each listener of each thread, at most.
    let tried = parkway.metric("parkway_accept_failures_total", &[]).await;
    let rounds = begun.elapsed().as_secs_f64() / 0.05 + 1.0;
    let tried = tried.unwrap();
    assert!((1.0..=4.0 * rounds).contains(&tried), "{tried} of {rounds}");
    let said = parkway.logs();
    let said = said.iter().filter(|line| line.contains("cannot accept"));
    assert!(said.count() <= 8, "it is not said each time");
    drop((clients, there));
    parkway.finish().await;
}

#[tokio::test]
async fn without_files_to_connect_a_request_is_answered_503_and_the_endpoint_is_not_blamed() {
    // Each request needs a connection of its own.
    let upstream = Upstream::start(async |mut connection: Connection| {
        connection.request().await;
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        connection.send(answer).await;
    });
    let upstream = upstream.await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await;
    let shop = parkway.service("shop");
    let mut client = shop.http1().await;
    let get = || Request::get("/").body("".into()).unwrap();
    client.send(get()).await.expect(200);

    let answer = eventually("no file to be left", async || {
        // Connections that were closed before may give one back at this moment.
        allow(&parkway, 0);
        let answer = client.send(get()).await;
        (answer.status != 200).then_some(answer)
    });
    let answer = answer.await.expect(503);
    assert_eq!(answer.text(), "out of files or ports\n");
    assert_eq!(answer.header("retry-after"), Some("1"));

    restrict(&parkway, own());
    client.send(get()).await.expect(200);
    let state = parkway.state().await.revision("shop-00001");
    assert_eq!(state.ready_endpoints(), 1);
    drop(client);
    parkway.finish().await;
}

#[tokio::test]
async fn there_are_never_more_connections_of_clients_than_leave_files_for_endpoints() {
    let upstream = Upstream::answering("shop").await;
    let manifest = revision_with_endpoints("shop", &[upstream.address()]);
    let most = own().maximum.unwrap_or(u64::MAX);
    let parkway = Parkway::builder()
        .manifest("main", manifest)
        .flag("--connections", usize::MAX)
        .start()
        .await;
    let said = parkway.logged("fewer connections: there may be no more files");
    assert_eq!(said.len(), usize::from(most < u64::MAX), "{most}");
    parkway.service("shop").get("/").await.expect(200);
    parkway.finish().await;
}
