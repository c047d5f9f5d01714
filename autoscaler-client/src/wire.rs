//! The protobuf form of stat messages.
//!
//! Proto3, package `metrics`; field numbers and types from knative/serving `pkg/autoscaler/metrics/stat.proto`. Zero
//! values are left out. One WebSocket message holds one list.

use prost::Message;

use parkway_activator::revision::RevisionId;

use crate::stat::{Stat, StatMessage};

/// Encodes a list for one WebSocket message.
pub fn encode(messages: &[StatMessage]) -> Vec<u8> {
    let messages = messages.iter().map(WireStatMessage::from).collect();
    WireStatMessages { messages }.encode_to_vec()
}

/// Decodes the list of one WebSocket message. A message without a stat is skipped, as the autoscaler does.
///
/// # Errors
///
/// When the bytes are no such list.
pub fn decode(bytes: &[u8]) -> Result<Vec<StatMessage>, InvalidStats> {
    let list = WireStatMessages::decode(bytes)?;
    Ok(list
        .messages
        .into_iter()
        .filter_map(WireStatMessage::known)
        .collect())
}

/// The bytes are no list of stat messages.
#[derive(Debug, thiserror::Error)]
#[error("not a list of stat messages")]
pub struct InvalidStats(#[from] prost::DecodeError);

#[derive(Clone, PartialEq, Message)]
struct WireStatMessages {
    #[prost(message, repeated, tag = "1")]
    messages: Vec<WireStatMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct WireStatMessage {
    #[prost(string, tag = "1")]
    namespace: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, optional, tag = "3")]
    stat: Option<WireStat>,
}

#[derive(Clone, PartialEq, Message)]
struct WireStat {
    #[prost(string, tag = "1")]
    pod_name: String,
    #[prost(double, tag = "2")]
    average_concurrent_requests: f64,
    #[prost(double, tag = "3")]
    average_proxied_concurrent_requests: f64,
    #[prost(double, tag = "4")]
    request_count: f64,
    #[prost(double, tag = "5")]
    proxied_request_count: f64,
    #[prost(double, tag = "6")]
    process_uptime: f64,
    #[prost(int64, tag = "7")]
    timestamp: i64,
}

impl From<&StatMessage> for WireStatMessage {
    fn from(message: &StatMessage) -> Self {
        Self {
            namespace: message.revision.namespace().to_owned(),
            name: message.revision.name().to_owned(),
            stat: Some(WireStat::from(&message.stat)),
        }
    }
}

impl WireStatMessage {
    fn known(self) -> Option<StatMessage> {
        let stat = self.stat?;
        Some(StatMessage {
            revision: RevisionId::new(self.namespace, self.name),
            stat: stat.into(),
        })
    }
}

impl From<&Stat> for WireStat {
    fn from(stat: &Stat) -> Self {
        Self {
            pod_name: stat.pod_name.as_ref().to_owned(),
            average_concurrent_requests: stat.average_concurrent_requests,
            average_proxied_concurrent_requests: stat.average_proxied_concurrent_requests,
            request_count: stat.request_count,
            proxied_request_count: stat.proxied_request_count,
            process_uptime: stat.process_uptime,
            timestamp: stat.timestamp,
        }
    }
}

impl From<WireStat> for Stat {
    fn from(wire: WireStat) -> Self {
        Self {
            pod_name: wire.pod_name.into(),
            average_concurrent_requests: wire.average_concurrent_requests,
            average_proxied_concurrent_requests: wire.average_proxied_concurrent_requests,
            request_count: wire.request_count,
            proxied_request_count: wire.proxied_request_count,
            process_uptime: wire.process_uptime,
            timestamp: wire.timestamp,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// The first request of default/hello-00001, told by the pod `activator-0`: 57 bytes.
    const POKE: [u8; 57] = *b"\x0a\x37\x0a\x07default\x12\x0bhello-00001\
        \x1a\x1f\x0a\x0bactivator-0\x11\x00\x00\x00\x00\x00\x00\xf0\x3f\x21\x00\x00\x00\x00\x00\x00\xf0\x3f";

    fn poke() -> StatMessage {
        let pod: Arc<str> = "activator-0".into();
        StatMessage::first_request(RevisionId::new("default", "hello-00001"), &pod)
    }

    #[test]
    fn the_first_request_message_has_its_golden_bytes() {
        assert_eq!(encode(&[poke()]), POKE);
    }

    #[test]
    fn the_golden_bytes_mean_the_first_request_message() {
        assert_eq!(decode(&POKE).unwrap(), [poke()]);
    }

    #[test]
    fn each_field_has_its_number_and_type() {
        let stat = Stat {
            pod_name: "p".into(),
            average_concurrent_requests: 1.0,
            average_proxied_concurrent_requests: 2.0,
            request_count: 3.0,
            proxied_request_count: 4.0,
            process_uptime: 5.0,
            timestamp: 300,
        };
        let message = StatMessage {
            revision: RevisionId::new("n", "r"),
            stat,
        };
        let golden = b"\x0a\x3b\x0a\x01n\x12\x01r\x1a\x33\x0a\x01p\
            \x11\x00\x00\x00\x00\x00\x00\xf0\x3f\
            \x19\x00\x00\x00\x00\x00\x00\x00\x40\
            \x21\x00\x00\x00\x00\x00\x00\x08\x40\
            \x29\x00\x00\x00\x00\x00\x00\x10\x40\
            \x31\x00\x00\x00\x00\x00\x00\x14\x40\
            \x38\xac\x02";
        assert_eq!(encode(std::slice::from_ref(&message)), golden);
        assert_eq!(decode(golden).unwrap(), [message]);
    }

    #[test]
    fn a_stat_of_zeros_keeps_only_its_pod_name() {
        let mut message = poke();
        message.stat = Stat {
            pod_name: "p".into(),
            ..Stat::default()
        };
        assert_eq!(
            encode(&[message]),
            *b"\x0a\x1b\x0a\x07default\x12\x0bhello-00001\x1a\x03\x0a\x01p"
        );
    }

    #[test]
    fn a_message_without_a_stat_is_skipped() {
        assert_eq!(decode(b"\x0a\x06\x0a\x01n\x12\x01r").unwrap(), []);
    }

    #[test]
    fn an_empty_list_is_no_bytes() {
        assert_eq!(encode(&[]), b"");
        assert_eq!(decode(b"").unwrap(), []);
    }

    #[test]
    fn a_torn_message_is_an_error() {
        for length in 1..POKE.len() {
            assert!(decode(&POKE[..length]).is_err(), "{length}");
        }
    }
}
