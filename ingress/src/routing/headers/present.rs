//! Which of the fields that mean something to a proxy a head has.
//!
//! Most heads have none of them: a browser sends a dozen fields of its own and not one that must go. Looking each
//! forbidden name up would hash some thirty names for every request; one pass over the names that are there costs less
//! than a single removal.

use http::{HeaderMap, HeaderName};

/// Lengths of the names that have a hyphen: `keep-alive` and `knative-serving-default-route`.
const SHORTEST_HYPHENED: usize = 10;
const LONGEST: usize = 29;

/// A set of kinds of fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present(u16);

impl Present {
    /// For the next hop only, whatever `Connection` says.
    pub const HOP_BY_HOP: Self = Self(1);
    /// `Connection`.
    pub const CONNECTION: Self = Self(1 << 1);
    /// `Connection`, `Keep-Alive`, `Proxy-Connection`, `Transfer-Encoding`, `Upgrade`: not in HTTP/2 (RFC 9113 section 8.2.2).
    pub const CONNECTION_SPECIFIC: Self = Self(1 << 2);
    /// `TE`.
    pub const TE: Self = Self(1 << 3);
    /// `Upgrade`.
    pub const UPGRADE: Self = Self(1 << 4);
    /// `Transfer-Encoding`.
    pub const TRANSFER_ENCODING: Self = Self(1 << 5);
    /// `Content-Length`.
    pub const CONTENT_LENGTH: Self = Self(1 << 6);
    /// One of [`NOT_FROM_OUTSIDE`](super::NOT_FROM_OUTSIDE).
    pub const NOT_FROM_OUTSIDE: Self = Self(1 << 7);
    /// `X-Forwarded-For`, `-Proto`, `-Host` or `Forwarded`.
    pub const FORWARDING: Self = Self(1 << 8);
    /// What is meant for us and ends here: `Knative-Serving-Revision`, `-Namespace`, `K-Network-Hash`.
    pub const FOR_US: Self = Self(1 << 9);
    /// `K-Original-Host`.
    pub const ORIGINAL_HOST: Self = Self(1 << 10);

    /// `Knative-Serving-Revision`, `-Namespace`.
    pub const REVISION: Self = Self(1 << 11);

    /// `K-Network-Hash`.
    pub const NETWORK_HASH: Self = Self(1 << 12);
    /// `K-Network-Probe`.
    pub const NETWORK_PROBE: Self = Self(1 << 13);
    /// `Knative-Serving-Tag`.
    pub const SERVING_TAG: Self = Self(1 << 14);
    /// A name of the kinds above with an underscore in the place of a hyphen. Programs that are given fields as variables
    /// (RFC 3875 section 4.1.18, WSGI, PHP) cannot tell the two apart.
    pub const UNDERSCORED: Self = Self(1 << 15);

    /// Looks at each name once.
    pub fn in_head(headers: &HeaderMap) -> Self {
        headers
            .keys()
            .fold(Self::default(), |seen, name| seen.and(Self::of(name)))
    }

    /// The kinds one name belongs to.
    pub fn of(name: &HeaderName) -> Self {
        match name.as_str() {
            "connection" => Self::HOP_BY_HOP
                .and(Self::CONNECTION)
                .and(Self::CONNECTION_SPECIFIC),
            "keep-alive" | "proxy-connection" => Self::HOP_BY_HOP.and(Self::CONNECTION_SPECIFIC),
            "transfer-encoding" => Self::HOP_BY_HOP
                .and(Self::CONNECTION_SPECIFIC)
                .and(Self::TRANSFER_ENCODING),
            "upgrade" => Self::HOP_BY_HOP
                .and(Self::CONNECTION_SPECIFIC)
                .and(Self::UPGRADE),
            "te" => Self::HOP_BY_HOP.and(Self::TE),
            "proxy-authenticate" | "proxy-authorization" | "http2-settings" => Self::HOP_BY_HOP,
            "content-length" => Self::CONTENT_LENGTH,
            "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host" | "forwarded" => {
                Self::FORWARDING
            }
            "knative-serving-revision" | "knative-serving-namespace" => {
                Self::NOT_FROM_OUTSIDE.and(Self::FOR_US).and(Self::REVISION)
            }
            "k-network-hash" => Self::FOR_US.and(Self::NETWORK_HASH),
            "k-network-probe" => Self::NETWORK_PROBE,
            "knative-serving-tag" => Self::SERVING_TAG,
            "k-original-host" => Self::NOT_FROM_OUTSIDE.and(Self::ORIGINAL_HOST),
            "k-proxy-request"
            | "k-passthrough-lb"
            | "k-kubelet-probe"
            | "knative-direct-lb"
            | "knative-serving-default-route"
            | "x-forwarded-client-cert" => Self::NOT_FROM_OUTSIDE,
            other => Self::of_underscored(other.as_bytes()),
        }
    }

    /// Nearly all names that are left are told from these by their first letter or their length.
    fn of_underscored(name: &[u8]) -> Self {
        let may_be = matches!(name, [b'c' | b'h' | b'k' | b'p' | b't' | b'x', ..])
            && (SHORTEST_HYPHENED..=LONGEST).contains(&name.len());
        if !may_be || !name.contains(&b'_') {
            return Self::default();
        }
        let hyphened: Vec<u8> = name
            .iter()
            .map(|byte| if *byte == b'_' { b'-' } else { *byte })
            .collect();
        match HeaderName::from_bytes(&hyphened) {
            // It has no underscore, so this goes no deeper.
            Ok(hyphened) if Self::of(&hyphened) != Self::default() => Self::UNDERSCORED,
            _ => Self::default(),
        }
    }

    /// Whether any field of these kinds is there.
    pub fn has(self, kinds: Self) -> bool {
        self.0 & kinds.0 != 0
    }

    /// Both together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::names::{
        NETWORK_HASH, NETWORK_PROBE, SERVING_NAMESPACE, SERVING_REVISION, SERVING_TAG,
    };
    use super::super::{NOT_FROM_OUTSIDE, ORIGINAL_HOST};
    use super::*;

    const HOP_BY_HOP: [&str; 9] = [
        "connection",
        "proxy-connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    ];

    /// All names that belong to a kind, as the lists that are worked through have them.
    fn listed() -> Vec<HeaderName> {
        let others = ["content-length", "x-forwarded-for", "x-forwarded-proto"];
        let more = ["x-forwarded-host", "forwarded"];
        let others = others.into_iter().chain(more);
        let others =
            others
                .map(HeaderName::from_static)
                .chain([NETWORK_HASH, NETWORK_PROBE, SERVING_TAG]);
        HOP_BY_HOP
            .map(HeaderName::from_static)
            .into_iter()
            .chain(NOT_FROM_OUTSIDE)
            .chain(others)
            .collect()
    }

    #[test]
    fn every_name_that_is_removed_is_noticed() {
        let all_of = |kind: Present, names: &[HeaderName]| {
            for name in names {
                assert!(Present::of(name).has(kind), "{name}");
            }
        };
        all_of(
            Present::HOP_BY_HOP,
            &HOP_BY_HOP.map(HeaderName::from_static),
        );
        all_of(Present::NOT_FROM_OUTSIDE, &NOT_FROM_OUTSIDE);
        all_of(
            Present::FOR_US,
            &[SERVING_REVISION, SERVING_NAMESPACE, NETWORK_HASH],
        );
        all_of(Present::ORIGINAL_HOST, &[ORIGINAL_HOST]);
        all_of(Present::NETWORK_HASH, &[NETWORK_HASH]);
        all_of(Present::NETWORK_PROBE, &[NETWORK_PROBE]);
        all_of(Present::SERVING_TAG, &[SERVING_TAG]);
    }

    #[test]
    fn a_name_with_any_hyphen_written_as_an_underscore_is_noticed() {
        for name in listed() {
            let hyphens = name.as_str().match_indices('-');
            for (at, _) in hyphens {
                let mut written = name.as_str().to_owned();
                written.replace_range(at..=at, "_");
                for written in [written, name.as_str().replace('-', "_")] {
                    let written: HeaderName = written.parse().unwrap();
                    assert_eq!(Present::of(&written), Present::UNDERSCORED, "{written}");
                }
            }
        }
        for ordinary in ["x_custom_name", "api_key", "knative_serving", "x_forwarded"] {
            let ordinary = HeaderName::from_static(ordinary);
            assert_eq!(Present::of(&ordinary), Present::default(), "{ordinary}");
        }
    }

    #[test]
    fn ordinary_fields_are_of_no_kind() {
        for name in [
            "host",
            "accept",
            "cookie",
            "user-agent",
            "trailer",
            "knative-serving",
            "k-network",
            "x-forwarded",
            "keep-alives",
        ] {
            let name = HeaderName::from_static(name);
            assert_eq!(Present::of(&name), Present::default(), "{name}");
            assert!(!listed().contains(&name));
        }
    }

    #[test]
    fn a_head_has_what_any_of_its_fields_is() {
        for name in listed() {
            let mut headers = HeaderMap::new();
            headers.insert("host", "h".parse().unwrap());
            headers.insert(name.clone(), "x".parse().unwrap());
            headers.append("accept", "a".parse().unwrap());
            headers.append("accept", "b".parse().unwrap());
            assert_eq!(Present::in_head(&headers), Present::of(&name));
            assert!(Present::of(&name) != Present::default(), "{name}");
        }
    }
}
