//! The stream recorded between Knative's activator and autoscaler: each payload means the same here, byte for byte.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use serde_json::Value;

use parkway_autoscaler_client::stat::StatMessage;
use parkway_autoscaler_client::wire;

const FRAMES: &str = include_str!("fixtures/frames.jsonl");

/// The recorded binary frames: payload and decoded messages.
fn binary_frames() -> Vec<(Vec<u8>, Value)> {
    let frames = FRAMES
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    frames
        .filter(|frame| frame["opcode"] == "binary")
        .map(|frame| {
            (
                bytes(&frame["payload_hex"]),
                frame["decoded"]["messages"].clone(),
            )
        })
        .collect()
}

fn bytes(hex: &Value) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .as_str()
        .unwrap()
        .chars()
        .map(|c| u8::try_from(c.to_digit(16).unwrap()).unwrap())
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] * 16 + pair[1])
        .collect()
}

#[test]
fn every_recorded_payload_encodes_to_the_same_bytes_again() {
    let frames = binary_frames();
    assert!(frames.len() >= 25, "{}", frames.len());
    for (payload, _) in frames {
        assert_eq!(wire::encode(&wire::decode(&payload).unwrap()), payload);
    }
}

#[test]
fn every_recorded_payload_means_what_was_decoded_beside_it() {
    for (payload, expected) in binary_frames() {
        let messages = wire::decode(&payload).unwrap();
        let expected = expected.as_array().unwrap();
        assert_eq!(messages.len(), expected.len());
        for (message, expected) in messages.iter().zip(expected) {
            assert_same(message, expected);
        }
    }
}

fn assert_same(message: &StatMessage, expected: &Value) {
    let number = |name: &str| expected["stat"][name].as_f64().unwrap_or(0.0);
    let stat = &message.stat;
    assert_eq!(message.revision.namespace(), expected["namespace"]);
    assert_eq!(message.revision.name(), expected["name"]);
    assert_eq!(
        *stat.pod_name,
        *expected["stat"]["pod_name"].as_str().unwrap()
    );
    // JSON's decimals are read with the error of a last place; the bytes are compared exactly above.
    let difference = stat.average_concurrent_requests - number("average_concurrent_requests");
    assert!(difference.abs() < 1e-12, "{difference}");
    assert_eq!(stat.request_count, number("request_count"));
    assert_eq!(stat.average_proxied_concurrent_requests, 0.0);
    assert_eq!(stat.proxied_request_count, 0.0);
    assert_eq!(stat.process_uptime, 0.0);
    assert_eq!(stat.timestamp, 0);
}
