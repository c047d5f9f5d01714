//! Requests that are hidden in others: each message is refused, or read the same way by whoever is behind us.

use parkway_tests::{Parkway, Site, revision_with_endpoints};

use crate::messages::{self, HOST, Message, Outcome};
use crate::peers::{self, Peer};
use crate::recorder::Seen;

/// Behind each message comes this, which tells where it was thought to end.
const LAST: &str = "GET /last HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_refused_and_the_rest_is_read_the_same_way_by_everybody() {
    let peers = peers::all().await;
    let parkway = in_front_of(&peers).await;
    let mut wrong = Vec::new();
    for message in messages::all() {
        for peer in &peers {
            let answers = answers(&parkway.service(peer.name), &message).await;
            let (seen, begun) = peer.record.take();
            if let Err(why) = judge(&message.outcome, &answers, &seen, begun, peer) {
                wrong.push(format!("{} {message:?}\n    {why}", peer.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    parkway.finish().await;
}

async fn in_front_of(peers: &[Peer]) -> Parkway {
    let manifests = peers
        .iter()
        .map(|peer| revision_with_endpoints(peer.name, &[peer.address]));
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
            let last = Seen::new("GET", "/last", "");
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
