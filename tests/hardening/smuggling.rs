//! Requests that are hidden in others: each message is refused, or read the same way by whoever is behind us.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parkway_tests::upstream::Connection;
use parkway_tests::{
    Parkway, Site, Upstream, h2c_revision_with_endpoints, revision_with_endpoints,
};

use crate::messages::{self, HOST, Message, Outcome, SMUGGLED};
use crate::peers::{self, By, Peer};
use crate::recorder::Seen;

/// Behind each message comes this, which tells where it was thought to end.
const LAST: &str = "GET /last HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_refused_and_the_rest_is_read_the_same_way_by_everybody() {
    are_all_read_as_said(peers::all().await).await;
}

#[tokio::test]
async fn what_passes_by_http2_is_read_the_same_way_too() {
    are_all_read_as_said(peers::by_http2().await).await;
}

async fn are_all_read_as_said(peers: Vec<Peer>) {
    let parkway = in_front_of(&peers).await;
    let mut wrong = Vec::new();
    for message in messages::all() {
        for peer in &peers {
            let site = parkway.service(peer.name);
            let answers = answers(&site, &message).await;
            let (mut seen, begun) = peer.record.take();
            for seen in &mut seen {
                seen.host = seen.host.replace(site.host(), HOST);
            }
            let mut outcome = message.outcome.clone();
            if let (Outcome::Reads(expected), By::Http2) = (&mut outcome, peer.by) {
                // Where a scheme is said beside the host, its port says nothing (RFC 9110 section 4.2.3).
                for read in expected.iter_mut().chain(&mut seen) {
                    read.host = read.host.trim_end_matches(":80").to_owned();
                }
            }
            if let Err(why) = judge(&outcome, &answers, &seen, begun, peer) {
                wrong.push(format!("{} {message:?}\n    {why}", peer.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    parkway.finish().await;
}

async fn in_front_of(peers: &[Peer]) -> Parkway {
    let manifests = peers.iter().map(|peer| match peer.by {
        By::Http1 => revision_with_endpoints(peer.name, &[peer.address]),
        By::Http2 => h2c_revision_with_endpoints(peer.name, &[peer.address]),
    });
    let manifests = manifests.reduce(parkway_tests::manifest::Manifests::and);
    Parkway::with(manifests.unwrap()).await
}

/// The statuses that come back when `message` is sent on a connection of its own, with another request behind it.
async fn answers(site: &Site, message: &Message) -> Vec<u16> {
    let wire = [&*message.wire, LAST.as_bytes()].concat();
    let wire = replaced(&wire, HOST.as_bytes(), site.host().as_bytes());
    let mut client = site.raw().await;
    // Who is refused early may find that nobody reads the rest.
    drop(client.try_send(&wire).await);
    let all = client.rest().await;
    let all = String::from_utf8_lossy(&all);
    let statuses = all.split("HTTP/1.").skip(1);
    let statuses = statuses.filter_map(|answer| answer.get(2..5)?.parse().ok());
    statuses.filter(|status| *status != 100).collect()
}

fn replaced(wire: &[u8], what: &[u8], with: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(wire.len() + 256);
    let mut rest = wire;
    while let Some(at) = memchr::memmem::find(rest, what) {
        replaced.extend_from_slice(&rest[..at]);
        replaced.extend_from_slice(with);
        rest = &rest[at + what.len()..];
    }
    replaced.extend_from_slice(rest);
    replaced
}

fn judge(
    outcome: &Outcome,
    answers: &[u16],
    seen: &[Seen],
    begun: usize,
    peer: &Peer,
) -> Result<(), String> {
    let told = || Err(format!("{answers:?}, of {begun} begun: {seen:?}"));
    match outcome {
        Outcome::Refused(status) if answers == [*status] && begun == 0 => Ok(()),
        Outcome::Broken if matches!(answers, [] | [400]) && seen.is_empty() => Ok(()),
        Outcome::Reads(expected) => {
            let last = Seen::new("GET", HOST, "/last", "");
            let expected: Vec<_> = expected.iter().chain([&last]).collect();
            // Somebody who refuses what passes us does not read it differently.
            let accepted = |(index, seen): (usize, &&Seen)| match answers.get(index) {
                Some(200) => Some((*seen).clone()),
                _ => None,
            };
            let accepted: Vec<_> = expected.iter().enumerate().filter_map(accepted).collect();
            let is_all = accepted.len() == expected.len();
            let may_refuse = !matches!(peer.name, "letter");
            if (is_all || may_refuse) && seen == accepted && answers.len() == expected.len() {
                Ok(())
            } else {
                told()
            }
        }
        _ => told(),
    }
}

/// CVE-2026-2833: bytes behind a request for an upgrade are another protocol's only once the endpoint has said so.
#[tokio::test]
async fn what_comes_behind_an_upgrade_waits_for_what_the_endpoint_says() {
    let upgrade =
        "GET /socket HTTP/1.1\r\nHost: HOST\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let (waiting, mut heads) = tokio::sync::mpsc::channel(8);
    let switches = Arc::new(AtomicBool::new(false));
    let do_switch = Arc::clone(&switches);
    let upstream = Upstream::start(move |mut connection: Connection| {
        let (waiting, do_switch) = (waiting.clone(), Arc::clone(&do_switch));
        async move {
            while let Some(head) = connection.request().await {
                connection.step().await;
                // What came before the answer, if anything did, is here by now.
                let early = connection.raw.arrived();
                waiting.send((head.target.clone(), early)).await.unwrap();
                if do_switch.load(Ordering::SeqCst) {
                    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
                    connection.send(switch).await;
                    let behind = connection.raw.until("\r\n\r\n").await;
                    waiting.send((behind, String::new())).await.unwrap();
                    return;
                }
                connection.answer("no").await;
            }
        }
    });
    let upstream = upstream.await;
    let parkway = Parkway::with(revision_with_endpoints("letter", &[upstream.address()])).await;
    let letter = parkway.service("letter");
    let wire = [upgrade, SMUGGLED].concat().replace(HOST, letter.host());

    // The endpoint stays with HTTP/1: what came behind is the next request, to be answered behind the first.
    let mut refused = letter.raw().await;
    refused.send(&wire).await;
    parkway.in_flight(1).await;
    upstream.go_on();
    assert_eq!(
        heads.recv().await.unwrap(),
        ("/socket".into(), String::new())
    );
    assert_eq!(refused.answer().await.expect(200).text(), "no");
    upstream.go_on();
    assert_eq!(
        heads.recv().await.unwrap(),
        ("/smuggled".into(), String::new())
    );
    refused.answer().await.expect(200);
    drop(refused);

    // The endpoint switches: it gets the same bytes as they are, and only then.
    switches.store(true, Ordering::SeqCst);
    let mut switched = letter.raw().await;
    switched.send(&wire).await;
    parkway.in_flight(1).await;
    upstream.go_on();
    assert_eq!(
        heads.recv().await.unwrap(),
        ("/socket".into(), String::new())
    );
    assert!(switched.head().await.starts_with("HTTP/1.1 101 "));
    assert_eq!(heads.recv().await.unwrap().0, SMUGGLED);
    drop(switched);
    parkway.finish().await;
}
