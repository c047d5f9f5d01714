//! Hosts as they are looked up: lower case, without port, without the trailing dot.
//!
//! Source of the rules: RFC 3986 section 3.2.2, RFC 9110 section 4.2. Only names that DNS could hold (letters, digits,
//! `-`, `_`, `.`) and IP literals are accepted: nothing else can match a rule, and what two programs could read
//! differently must not get past us.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;

/// The longest name, in bytes: a DNS name's 253.
pub const MAX_HOST_BYTES: usize = 253;

/// A normalised host. Made without allocating when it was normal already.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host<'a>(Cow<'a, str>);

impl<'a> Host<'a> {
    /// Normalises what stands in a Host header, an `:authority` or a rule: `host [":" port]`.
    ///
    /// One trailing dot is dropped, letters become lower case, an IPv6 literal keeps its brackets and spelling.
    ///
    /// # Errors
    ///
    /// When it is empty, has user information, or holds what no host name may hold.
    pub fn parse(written: &'a str) -> Result<Self, InvalidHost> {
        match normal_name(written) {
            Some(name) => Ok(Self(Cow::Borrowed(name))),
            None => Self::parse_unusual(written),
        }
    }

    fn parse_unusual(written: &'a str) -> Result<Self, InvalidHost> {
        let (name, _port) = split_port(written)?;
        let name = if name.starts_with('[') {
            check_literal(name)?;
            name
        } else {
            let name = name.strip_suffix('.').unwrap_or(name);
            check_name(name)?;
            name
        };
        Ok(Self(lower_case(name)))
    }

    /// The normalised text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Keeps it longer than the text it was read from.
    pub fn into_owned(self) -> Host<'static> {
        Host(Cow::Owned(self.0.into_owned()))
    }
}

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a host was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHost {
    /// There is no name. RFC 9110 section 4.2.1: an http URI with an empty host is invalid.
    #[error("host is empty")]
    Empty,
    /// Longer than [`MAX_HOST_BYTES`].
    #[error("host is longer than {MAX_HOST_BYTES} bytes")]
    TooLong,
    /// `user@host`; RFC 9110 section 4.2.4.
    #[error("host has user information")]
    UserInfo,
    /// A character or an empty label that no name has.
    #[error("host has characters or labels that no name may have")]
    Malformed,
    /// Not a number up to 65535.
    #[error("port of the host is not a number up to 65535")]
    Port,
}

/// The name in what nearly all requests carry: a name that is normal as it stands, and perhaps a port. One pass.
fn normal_name(written: &str) -> Option<&str> {
    let mut label_is_empty = true;
    let mut name_end = written.len();
    for (index, byte) in written.bytes().enumerate() {
        match NORMAL[usize::from(byte)] {
            Normal::InLabel => label_is_empty = false,
            Normal::Dot if !label_is_empty => label_is_empty = true,
            Normal::Colon => {
                name_end = index;
                break;
            }
            Normal::Dot | Normal::No => return None,
        }
    }
    let (name, port) = written.split_at_checked(name_end)?;
    // Numbers of the same length compare as text.
    const LARGEST: &str = ":65535";
    let fits = port.len() < LARGEST.len() || (port.len() == LARGEST.len() && port <= LARGEST);
    let port_is_sound = fits && port.bytes().skip(1).all(is_digit);
    (!label_is_empty && port_is_sound && name.len() <= MAX_HOST_BYTES).then_some(name)
}

/// What a byte is in a name that is normal as it stands.
#[derive(Clone, Copy)]
enum Normal {
    No,
    InLabel,
    Dot,
    Colon,
}

/// By byte: a table reads a host in half the time of comparisons.
const NORMAL: [Normal; 256] = {
    let mut table = [Normal::No; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => Normal::InLabel,
            b'.' => Normal::Dot,
            b':' => Normal::Colon,
            _ => Normal::No,
        };
        byte += 1;
    }
    table
};

/// Splits the port off; it may be empty (RFC 3986 section 3.2.3).
pub(super) fn split_port(written: &str) -> Result<(&str, Option<u16>), InvalidHost> {
    if written.contains('@') {
        return Err(InvalidHost::UserInfo);
    }
    let name_end = match written.rfind(']') {
        Some(bracket) => bracket + 1,
        None => written.find(':').unwrap_or(written.len()),
    };
    let (name, rest) = written.split_at(name_end);
    match rest.strip_prefix(':') {
        None if rest.is_empty() => Ok((name, None)),
        None => Err(InvalidHost::Malformed),
        Some("") => Ok((name, None)),
        Some(port) if port.bytes().all(is_digit) => port
            .parse()
            .map(|port| (name, Some(port)))
            .map_err(|_too_big| InvalidHost::Port),
        Some(_) => Err(InvalidHost::Port),
    }
}

fn check_literal(name: &str) -> Result<(), InvalidHost> {
    name.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .and_then(|address| address.parse::<Ipv6Addr>().ok())
        .map(|_address| ())
        .ok_or(InvalidHost::Malformed)
}

fn check_name(name: &str) -> Result<(), InvalidHost> {
    if name.is_empty() {
        return Err(InvalidHost::Empty);
    }
    if name.len() > MAX_HOST_BYTES {
        return Err(InvalidHost::TooLong);
    }
    let mut label_is_empty = true;
    for byte in name.bytes() {
        match byte {
            b'.' if label_is_empty => return Err(InvalidHost::Malformed),
            b'.' => label_is_empty = true,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => label_is_empty = false,
            _ => return Err(InvalidHost::Malformed),
        }
    }
    if label_is_empty {
        Err(InvalidHost::Malformed)
    } else {
        Ok(())
    }
}

fn is_digit(byte: u8) -> bool {
    byte.is_ascii_digit()
}

fn lower_case(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(written: &str) -> Result<String, InvalidHost> {
        Host::parse(written).map(|host| host.as_str().to_owned())
    }

    #[test]
    fn case_port_and_one_trailing_dot_do_not_matter() {
        for written in [
            "shop.example.com",
            "SHOP.Example.com",
            "shop.example.com:80",
            "shop.example.com.",
            "shop.example.com.:8080",
            "shop.example.com:",
        ] {
            assert_eq!(
                normal(written).as_deref(),
                Ok("shop.example.com"),
                "{written}"
            );
        }
    }

    #[test]
    fn address_literals_keep_their_form_without_the_port() {
        assert_eq!(normal("[::1]:8080").as_deref(), Ok("[::1]"));
        assert_eq!(normal("[2001:DB8::1]").as_deref(), Ok("[2001:db8::1]"));
        assert_eq!(normal("127.0.0.1:80").as_deref(), Ok("127.0.0.1"));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        assert_eq!(normal(""), Err(InvalidHost::Empty));
        assert_eq!(normal("."), Err(InvalidHost::Empty));
        assert_eq!(normal(":80"), Err(InvalidHost::Empty));
        assert_eq!(normal("user@shop"), Err(InvalidHost::UserInfo));
        assert_eq!(normal("user:pw@shop:80"), Err(InvalidHost::UserInfo));
        assert_eq!(normal("shop:http"), Err(InvalidHost::Port));
        assert_eq!(normal("shop:65536"), Err(InvalidHost::Port));
        assert_eq!(normal("shop:80:80"), Err(InvalidHost::Port));
        assert_eq!(normal("::1"), Err(InvalidHost::Port));
        assert_eq!(normal("[::1"), Err(InvalidHost::Port));
        for written in [
            "a..b",
            ".a",
            "a..",
            "a b",
            "a/b",
            "a\\b",
            "a,b",
            "*.a",
            "a%2eb",
            "ä.de",
            "::1]",
            "[::1]x",
            "[fe80::1%25eth0]",
            "[1.2.3.4]",
            "[]",
        ] {
            assert_eq!(normal(written), Err(InvalidHost::Malformed), "{written}");
        }
        assert_eq!(normal(&"a".repeat(254)), Err(InvalidHost::TooLong));
    }

    #[test]
    fn normal_hosts_are_borrowed() {
        assert!(matches!(
            Host::parse("shop.example.com:80").unwrap().0,
            Cow::Borrowed(_)
        ));
        assert!(matches!(
            Host::parse("Shop.example.com").unwrap().0,
            Cow::Owned(_)
        ));
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(written in r"[a-zA-Z0-9_\-.\[\]:@]{0,24}") {
            if let Ok(once) = normal(&written) {
                prop_assert_eq!(normal(&once), Ok(once.clone()));
            }
        }

        #[test]
        fn the_short_way_says_what_the_careful_one_says(written in r"[a-zA-Z0-9_\-.\[\]:@ ]{0,24}|[a-z]{0,4}(\.[a-z]{0,4}){0,2}(:[0-9]{0,6})?") {
            let carefully = Host::parse_unusual(&written);
            if let Some(name) = normal_name(&written) {
                prop_assert_eq!(carefully.as_ref().map(Host::as_str), Ok(name));
            }
            prop_assert_eq!(Host::parse(&written), carefully);
        }

        #[test]
        fn any_text_is_answered_without_panic(written in any::<String>()) {
            if let Ok(once) = normal(&written) {
                prop_assert!(!once.bytes().any(|b| b.is_ascii_uppercase()));
            }
        }
    }
}
