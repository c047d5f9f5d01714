//! Hosts as they are looked up: lower case, without port, without the trailing dot.
//!
//! Source of the rules: RFC 3986 section 3.2.2, RFC 9110 section 4.2. Only names that DNS could hold (letters, digits,
//! `-`, `_`, `.`) and IP literals are accepted: nothing else can match a rule, and what two programs could read
//! differently must not get past us.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;

use http::HeaderValue;

/// The longest name, in bytes: a DNS name's 253.
pub const MAX_HOST_BYTES: usize = 253;

/// A normalised host. Made without allocating when it was normal already.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host<'a>(Cow<'a, str>);

impl Host<'static> {
    /// What stands for no host at all, which only HTTP/1.0 allows: a name that nobody has (RFC 6761 section 6.4), so that
    /// the rules for all hosts serve it.
    pub const NONE: Self = Self(Cow::Borrowed("no-host.invalid"));
}

impl<'a> Host<'a> {
    /// Normalises what stands in a Host header, an `:authority` or a rule: `host [":" port]`.
    ///
    /// One trailing dot is dropped, letters become lower case, an IPv6 literal keeps its brackets and spelling.
    ///
    /// # Errors
    ///
    /// When it is empty, has user information, or holds what no host name may hold.
    pub fn parse(written: &'a str) -> Result<Self, InvalidHost> {
        let normal = normal_length(written.as_bytes()).and_then(|length| written.get(..length));
        match normal {
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

/// A host with the field value it was read from, so that it outlives edits of the head.
///
/// Made without allocating when it was normal already.
#[derive(Clone, Debug)]
pub struct WrittenHost {
    written: HeaderValue,
    normal: NormalForm,
}

/// Where the normalised text is.
#[derive(Clone, Debug)]
enum NormalForm {
    /// In so many bytes at the beginning of what was written.
    Prefix(usize),
    Other(Box<str>),
}

impl WrittenHost {
    /// Normalises what was written, as [`Host::parse`] does.
    ///
    /// # Errors
    ///
    /// Likewise.
    pub fn parse(written: HeaderValue) -> Result<Self, InvalidHost> {
        let normal = match normal_length(written.as_bytes()) {
            Some(length) => NormalForm::Prefix(length),
            None => {
                let text = written.to_str();
                let text = text.map_err(|_not_text| InvalidHost::Malformed)?;
                NormalForm::Other(Host::parse_unusual(text)?.as_str().into())
            }
        };
        Ok(Self { written, normal })
    }

    /// As it was written.
    pub fn written(&self) -> &HeaderValue {
        &self.written
    }

    /// Normalised.
    pub fn host(&self) -> Host<'_> {
        let name = match &self.normal {
            NormalForm::Prefix(length) => {
                let name = self.written.as_bytes().get(..*length);
                // It was text when it was read; what is not would be nobody's host.
                name.and_then(|name| str::from_utf8(name).ok())
                    .unwrap_or_default()
            }
            NormalForm::Other(name) => name,
        };
        Host(Cow::Borrowed(name))
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

/// The length of the name in what nearly all requests carry: a name that is normal as it stands, and perhaps a port.
fn normal_length(written: &[u8]) -> Option<usize> {
    let mut length = 0;
    loop {
        let rest = written.get(length..)?;
        let is_end = |byte: &u8| !IN_LABEL[usize::from(*byte)];
        let label = rest.iter().position(is_end).unwrap_or(rest.len());
        length += label;
        if label == 0 || length > MAX_HOST_BYTES {
            return None;
        }
        match rest.get(label..)? {
            [] => return Some(length),
            [b'.', ..] => length += 1,
            [b':', port @ ..] => return is_port(port).then_some(length),
            _ => return None,
        }
    }
}

/// Whether it is empty, or a number up to 65535 that does not begin with more zeros than fit.
fn is_port(port: &[u8]) -> bool {
    // Numbers of the same length compare as text.
    const LARGEST: &[u8] = b"65535";
    let fits = port.len() < LARGEST.len() || (port.len() == LARGEST.len() && port <= LARGEST);
    fits && port.iter().all(u8::is_ascii_digit)
}

/// Which bytes stand in a label that is normal as it stands.
const IN_LABEL: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
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
            if let Some(length) = normal_length(written.as_bytes()) {
                prop_assert_eq!(carefully.as_ref().map(Host::as_str).ok(), written.get(..length));
            }
            prop_assert_eq!(Host::parse(&written), carefully);
        }

        #[test]
        fn a_host_that_is_kept_is_the_host_that_was_read(written in r"[a-zA-Z0-9_\-.\[\]:@ ]{0,24}") {
            let kept = WrittenHost::parse(HeaderValue::try_from(&written).unwrap());
            let parsed = Host::parse(&written);
            prop_assert_eq!(kept.as_ref().map(WrittenHost::host), parsed.as_ref().cloned());
        }

        #[test]
        fn any_text_is_answered_without_panic(written in any::<String>()) {
            if let Ok(once) = normal(&written) {
                prop_assert!(!once.bytes().any(|b| b.is_ascii_uppercase()));
            }
        }
    }
}
