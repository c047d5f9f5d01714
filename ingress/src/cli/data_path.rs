//! What `parkway run` and `parkway serve` have in common: everything about the data path.

use std::net::IpAddr;
use std::num::NonZeroU8;

use clap::{Args, ValueEnum};
use http::HeaderName;
use ipnet::IpNet;

use super::LogFormat;

/// Bounds and behaviour of the data path, and the log.
#[derive(Args, Debug)]
pub struct DataPath {
    /// Threads that serve requests. Default: one per core.
    #[arg(long, env = "PARKWAY_WORKERS", value_parser = clap::value_parser!(u16).range(1..=1024), value_name = "COUNT")]
    pub workers: Option<u16>,

    /// Form of the log on standard error.
    #[arg(
        long,
        env = "PARKWAY_LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,

    /// What is logged: `error`, `warn`, `info`, `debug`, or filters such as `parkway_ingress::proxy=debug`.
    #[arg(
        long,
        env = "PARKWAY_LOG",
        default_value = "info",
        value_name = "FILTER"
    )]
    pub log: String,

    /// Write requests to standard output when they have ended: `all`, `errors`, or a share such as 0.01, of which those
    /// that waited are always a part.
    #[arg(
        long,
        env = "PARKWAY_ACCESS_LOG",
        default_value = "off",
        default_missing_value = "all",
        num_args = 0..=1,
        require_equals = true,
        value_name = "all|errors|SHARE|off"
    )]
    pub access_log: AccessLogged,

    /// Form of these lines, as a template in the language of Knative's `logging.request-log-template`. Default: JSON.
    #[arg(long, env = "PARKWAY_ACCESS_LOG_TEMPLATE", value_name = "TEMPLATE")]
    pub access_log_template: Option<String>,

    /// Answer requests that waited for a cold start with `Server-Timing` and `X-Parkway-Cold-Start`, which say what it
    /// has cost them.
    #[arg(long, env = "PARKWAY_COLD_START_HEADERS")]
    pub cold_start_headers: bool,

    /// How many proxies in front of the external entrance may be believed about X-Forwarded-For and Forwarded.
    #[arg(
        long,
        env = "PARKWAY_TRUSTED_HOPS",
        default_value_t = 0,
        value_name = "COUNT"
    )]
    pub trusted_hops: usize,

    /// Requests that may be parked for one Revision. One more is answered 503 with Retry-After.
    #[arg(
        long,
        env = "PARKWAY_QUEUE_DEPTH",
        default_value_t = 10_000,
        value_name = "COUNT"
    )]
    pub queue_depth: usize,

    /// Memory that requests parked for one Revision may take, in MiB. Beyond: 503 with Retry-After.
    #[arg(
        long,
        env = "PARKWAY_QUEUE_MIB",
        default_value_t = 64,
        value_name = "MIB"
    )]
    pub queue_mib: usize,

    /// Memory that all parked requests together may take, in MiB. Beyond: 503 with Retry-After.
    #[arg(
        long,
        env = "PARKWAY_QUEUE_TOTAL_MIB",
        default_value_t = 256,
        value_name = "MIB"
    )]
    pub queue_total_mib: usize,

    /// Percentage of a Revision's queue that one client may hold. Default: all of it.
    #[arg(long, env = "PARKWAY_CLIENT_SHARE", value_parser = clap::value_parser!(u8).range(1..=100), value_name = "PERCENT")]
    pub client_share: Option<u8>,

    /// Header whose value tells clients apart for --client-share. Default: their address.
    #[arg(
        long,
        env = "PARKWAY_CLIENT_HEADER",
        requires = "client_share",
        value_name = "NAME"
    )]
    pub client_header: Option<HeaderName>,

    /// Connections from clients in all; one more is answered 503 and closed.
    #[arg(
        long,
        env = "PARKWAY_CONNECTIONS",
        default_value_t = 16_384,
        value_name = "COUNT"
    )]
    pub connections: usize,

    /// Connections from one client in all; one more is answered 429 and closed. Counted at the external entrances, by IPv4
    /// address or by the first 64 bits of an IPv6 address. Default: as --connections, which is no bound.
    #[arg(long, env = "PARKWAY_CLIENT_CONNECTIONS", value_parser = at_least_one, value_name = "COUNT")]
    pub client_connections: Option<usize>,

    /// Entrances behind load balancers that say by the PROXY protocol, version 1 or 2, whose connections they are. All
    /// others are closed there.
    #[arg(
        long,
        env = "PARKWAY_PROXY_PROTOCOL",
        value_enum,
        value_delimiter = ',',
        requires = "trusted_proxies",
        value_name = "ENTRANCES"
    )]
    pub proxy_protocol: Vec<ProxiedEntrance>,

    /// Networks of those load balancers, such as 10.0.0.0/8.
    #[arg(
        long,
        env = "PARKWAY_TRUSTED_PROXIES",
        value_delimiter = ',',
        requires = "proxy_protocol",
        value_parser = network,
        value_name = "NETWORKS"
    )]
    pub trusted_proxies: Vec<IpNet>,

    /// How long a new connection may stay silent before it is closed, in seconds.
    #[arg(long, env = "PARKWAY_FIRST_BYTE_SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400), value_name = "SECONDS")]
    pub first_byte_seconds: u64,

    /// How long a request's head may take from its first byte to its last, in seconds. Longer: 408.
    #[arg(long, env = "PARKWAY_HEADER_READ_SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400), value_name = "SECONDS")]
    pub header_read_seconds: u64,

    /// How long a connection without a request is kept before it is closed, in seconds.
    #[arg(long, env = "PARKWAY_IDLE_SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400), value_name = "SECONDS")]
    pub idle_seconds: u64,

    /// How long a client may take nothing of an answer that is there for it before it is cut off, in seconds.
    #[arg(long, env = "PARKWAY_STALL_SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400), value_name = "SECONDS")]
    pub stall_seconds: u64,

    /// Bytes per second that a client has to send of a request's body, on average, while an endpoint waits for it. Slower:
    /// 408. 0: no such bound.
    #[arg(
        long,
        env = "PARKWAY_BODY_RATE",
        default_value_t = 240,
        value_name = "BYTES"
    )]
    pub body_rate: u32,

    /// How long an endpoint waits for a client's body at first, and at most at a stretch, in seconds. Longer: 408.
    #[arg(long, env = "PARKWAY_BODY_PATIENCE_SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400), value_name = "SECONDS")]
    pub body_patience_seconds: u64,
}

/// An entrance that may be behind load balancers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProxiedEntrance {
    /// `--listen`.
    External,
    /// `--listen-tls`.
    ExternalTls,
    /// `--listen-local`.
    Local,
    /// `--listen-local-tls`.
    LocalTls,
}

fn at_least_one(text: &str) -> Result<usize, &'static str> {
    match text.parse() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err("must be a number above 0"),
    }
}

/// A network, or an address, which is one of its own.
fn network(text: &str) -> Result<IpNet, &'static str> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address
        .or_else(|_| text.parse::<IpNet>())
        .map_err(|_| "must be a network such as 10.0.0.0/8")
}

/// Which requests are written to the access log.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum AccessLogged {
    /// None.
    #[default]
    Off,
    /// Those that failed.
    Errors,
    /// This share of them, above 0 and at most 1, and those that waited.
    Share(f64),
}

impl std::str::FromStr for AccessLogged {
    type Err = String;

    fn from_str(written: &str) -> Result<Self, String> {
        match written {
            "all" | "true" => return Ok(Self::Share(1.0)),
            "off" | "false" => return Ok(Self::Off),
            "errors" => return Ok(Self::Errors),
            _ => {}
        }
        match written.parse() {
            Ok(share) if share > 0.0 && share <= 1.0 => Ok(Self::Share(share)),
            _ => Err("expected all, errors, off, or a share such as 0.01".to_owned()),
        }
    }
}

impl DataPath {
    /// The share of a queue one client may hold, if it is bounded.
    pub fn client_share(&self) -> Option<NonZeroU8> {
        self.client_share.and_then(NonZeroU8::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_logged_is_all_errors_a_share_or_nothing() {
        assert_eq!("all".parse(), Ok(AccessLogged::Share(1.0)));
        assert_eq!("true".parse(), Ok(AccessLogged::Share(1.0)));
        assert_eq!("0.01".parse(), Ok(AccessLogged::Share(0.01)));
        assert_eq!("errors".parse(), Ok(AccessLogged::Errors));
        assert_eq!("off".parse(), Ok(AccessLogged::Off));
        for wrong in ["", "0", "1.1", "-1", "NaN", "some"] {
            assert!(wrong.parse::<AccessLogged>().is_err(), "{wrong}");
        }
    }
}
