//! Probes at the activator's ports, as they were recorded.

use parkway_tests::Raw;

use crate::cluster::Cluster;
use crate::recording::{self, Message};

/// Each recorded request is answered as it was, but for the time of day.
async fn is_answered_as_recorded(path: &str, least: usize) {
    let cluster = Cluster::with(crate::cluster::spec(), &[]).await;
    let exchanges = recording::exchanges(path);
    assert!(exchanges.len() >= least, "{} exchanges", exchanges.len());
    for exchange in exchanges {
        let recorded = Message::parse(&exchange.response);
        let mut client = Raw::connect(cluster.activator).await;
        client.send(&exchange.request).await;
        let mut answer = client.head().await.into_bytes();
        let length = recorded.field("content-length").parse().unwrap();
        answer.extend(client.exactly(length).await);

        let answer = Message::parse(&answer);

        let context = String::from_utf8_lossy(&exchange.request).into_owned();
        assert_eq!(
            answer.without("date"),
            recorded.without("date"),
            "{context}"
        );
    }
    let counts = cluster.counts.total();
    let counted: u64 = counts
        .values()
        .flat_map(|it| it.by_status())
        .map(|(_, n)| n)
        .sum();
    assert_eq!(counted, 0, "probes are nobody's requests: {counts:?}");
    assert_eq!(cluster.state().counters.cold_starts, 0);
    cluster.finish().await;
}

#[tokio::test]
async fn the_kubelet_is_answered_as_recorded() {
    is_answered_as_recorded("probes/kubelet-to-activator.json", 5).await;
}

#[tokio::test]
async fn the_autoscaler_is_answered_as_recorded_at_a_path_of_two_slashes() {
    let path = "probes/autoscaler-to-activator.as-received.json";
    for exchange in recording::exchanges(path) {
        assert!(exchange.request.starts_with(b"GET //healthz HTTP/1.1\r\n"));
    }
    is_answered_as_recorded(path, 14).await;
}

#[tokio::test]
async fn the_ingress_controllers_probes_are_answered_as_recorded_with_their_hashes() {
    is_answered_as_recorded("probes/ingress-probe-at-activator.json", 40).await;
}

/// The streams that were answered, and whether each answer is a head that says 200 and ends its stream.
fn answered(mut frames: &[u8]) -> Vec<(u32, bool)> {
    const HEADERS: u8 = 1;
    const END_OF_STREAM_AND_HEADERS: u8 = 5;
    /// `:status: 200`, RFC 7541 appendix A.
    const OK: u8 = 0x88;
    let mut answered = Vec::new();
    while let Some((head, rest)) = frames.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let Some((payload, rest)) = rest.split_at_checked(length as usize) else {
            break;
        };
        if head[3] == HEADERS {
            // Behind a change of the table's size, if there is one (RFC 7541 section 6.3).
            let mut block = payload;
            if block[0] & 0xe0 == 0x20 {
                let last = block[1..].iter().position(|byte| byte & 0x80 == 0).unwrap();
                block = &block[last + 2..];
            }
            answered.push((
                stream,
                head[4] == END_OF_STREAM_AND_HEADERS && block[0] == OK,
            ));
        }
        frames = rest;
    }
    answered
}

#[tokio::test]
async fn the_recorded_bytes_of_a_gateway_that_speaks_http2_are_answered_like_the_recorded_ones() {
    let sent = recording::bytes("probes/gateway-to-activator-h2c.client.bin");
    let recorded = answered(&recording::bytes(
        "probes/gateway-to-activator-h2c.server.bin",
    ));
    assert_eq!(recorded, [1, 3, 5, 7].map(|stream| (stream, true)));
    let cluster = Cluster::with(crate::cluster::spec(), &[]).await;
    let mut client = Raw::connect(cluster.activator).await;
    client.send(&sent).await;

    let mut received = Vec::new();
    while answered(&received).len() < recorded.len() {
        received.extend(client.exactly(1).await);
    }

    let mut answers = answered(&received);
    answers.sort_unstable();
    assert_eq!(answers, recorded);
    drop(client);
    cluster.finish().await;
}

/// Request lines and fields, and how they are answered.
const REFUSED: [(&str, &str); 4] = [
    (
        "k-network-probe: probe",
        "a probe request must contain a non-empty \"K-Network-Hash\" header\n",
    ),
    (
        "k-network-probe: queue",
        "unexpected probe header value: \"queue\"\n",
    ),
    (
        "k-network-probe: Activator",
        "unexpected probe header value: \"Activator\"\n",
    ),
    (
        "k-network-probe: a\"b\\",
        "unexpected probe header value: \"a\\\"b\\\\\"\n",
    ),
];

#[tokio::test]
async fn probes_that_nobody_knows_are_refused_with_the_activators_words() {
    let cluster = Cluster::with(crate::cluster::spec(), &[]).await;
    for (field, text) in REFUSED {
        let mut client = Raw::connect(cluster.activator).await;
        let request = format!("POST /any HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n");
        client.send(request).await;
        let mut answer = client.head().await.into_bytes();
        answer.extend(client.exactly(text.len()).await);

        // As Go's `http.Error` writes it.
        let expected = format!(
            "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
             X-Content-Type-Options: nosniff\r\nDate: now\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        );
        assert_eq!(
            Message::parse(&answer).with("date", "now"),
            Message::parse(expected.as_bytes())
        );
    }
    cluster.finish().await;
}
