//! The PROXY protocol, versions 1 and 2: how a load balancer that passes bytes on says whose they are.
//!
//! An entrance behind such proxies takes connections from them only, and each has to begin with a header: whether there is
//! one is never guessed, because a client could then say by itself who it is. Bytes and time for it are bounded. What comes
//! behind it is TLS or HTTP, as at any other entrance.
//!
//! Source: `doc/proxy-protocol.txt` of haproxy/haproxy.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use ipnet::IpNet;
use proxy_header::{ParseConfig, ProxyHeader};
use tokio::net::TcpStream;
use tracing::debug;

use super::connection::{Patience, Peer};
use super::places::Unwelcome;

/// The networks of the proxies in front of an entrance.
#[derive(Clone, Debug)]
pub struct TrustedProxies(Arc<[IpNet]>);

impl TrustedProxies {
    /// Those in these networks.
    pub fn new(networks: &[IpNet]) -> Self {
        Self(networks.into())
    }

    /// Whether who has this address may say whose connection it is.
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// What the first bytes of a connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// They begin a header, and more of it has to come.
    Begun,
    /// They are a header of this length, and then something else.
    Whole {
        /// Who has connected to the proxy. `None`: the proxy speaks for itself, or of nobody with an IP address; then the
        /// connection is its own.
        client: Option<SocketAddr>,
        /// How many of the bytes are the header.
        length: usize,
    },
}

/// The first bytes of a connection are no header of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a header of the PROXY protocol")]
pub struct NoHeader;

/// Version 1 in bytes, with its line end (section 2.1).
const V1_LONGEST: usize = 107;
const V1_PREFIX: &[u8] = b"PROXY ";

/// The fixed part of version 2 in bytes (section 2.2): signature, version and command, family, length.
const V2_FIXED: usize = 16;
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2 and LOCAL.
const V2_LOCAL: u8 = 0x20;

/// Reads a header of either version.
///
/// # Errors
///
/// When the bytes do not begin one that is at most `longest` bytes long. Said as early as they show it.
pub fn header(bytes: &[u8], longest: usize) -> Result<Header, NoHeader> {
    match bytes.first() {
        None => Ok(Header::Begun),
        Some(b'P') => version_1(bytes, longest.min(V1_LONGEST)),
        Some(_) => version_2(bytes, longest),
    }
}

/// A line of text. The library reads the words; where the line ends is looked at before, so that it sees whole lines only.
fn version_1(bytes: &[u8], longest: usize) -> Result<Header, NoHeader> {
    begins_like(bytes, V1_PREFIX)?;
    let line = bytes.get(..longest).unwrap_or(bytes);
    let Some(end) = memchr::memmem::find(line, b"\r\n") else {
        return begun(bytes, longest);
    };
    let (line, _) = bytes.split_at(end + 2);
    // A sign is none of a port's digits (section 2.1), but the library reads it.
    if memchr::memchr3(b'+', b'\n', b'\r', line.get(..end).unwrap_or_default()).is_some() {
        return Err(NoHeader);
    }
    whole(line)
}

fn version_2(bytes: &[u8], longest: usize) -> Result<Header, NoHeader> {
    begins_like(bytes, V2_SIGNATURE)?;
    let Some(fixed) = bytes.first_chunk::<V2_FIXED>() else {
        return begun(bytes, longest);
    };
    let [.., command, _family, high, low] = *fixed;
    let length = V2_FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > longest || !matches!(command, V2_LOCAL | 0x21) {
        return Err(NoHeader);
    }
    match bytes.split_at_checked(length) {
        None => Ok(Header::Begun),
        // Whatever addresses there are, they are to be ignored.
        Some(_) if command == V2_LOCAL => Ok(Header::Whole {
            client: None,
            length,
        }),
        Some((all, _)) => whole(all),
    }
}

fn begins_like(bytes: &[u8], prefix: &[u8]) -> Result<(), NoHeader> {
    let known = bytes.len().min(prefix.len());
    match bytes.get(..known) == prefix.get(..known) {
        true => Ok(()),
        false => Err(NoHeader),
    }
}

fn begun(bytes: &[u8], longest: usize) -> Result<Header, NoHeader> {
    match bytes.len() < longest {
        true => Ok(Header::Begun),
        false => Err(NoHeader),
    }
}

/// Reads what is a header from its first byte to its last, or none.
fn whole(bytes: &[u8]) -> Result<Header, NoHeader> {
    let config = ParseConfig {
        include_tlvs: false,
        ..ParseConfig::default()
    };
    let (header, length) = ProxyHeader::parse(bytes, config).map_err(|_malformed| NoHeader)?;
    if length != bytes.len() {
        return Err(NoHeader);
    }
    let client = header.proxied_address().map(|address| address.source);
    Ok(Header::Whole { client, length })
}

/// Reads the header of a connection: whose it is, and what was read behind.
pub(super) async fn read(
    trusted: &TrustedProxies,
    peer: &Peer,
    stream: &mut TcpStream,
) -> Result<(SocketAddr, Bytes), Unwelcome> {
    if !trusted.trusts(peer.address.ip()) {
        return Err(Unwelcome::UntrustedProxy);
    }
    let limits = &peer.worker.limits;
    let mut patience = Patience::new(peer, limits.proxy_header);
    let mut bytes = Vec::new();
    let read = poll_fn(|cx| {
        if let Poll::Ready(read) = poll_header(stream, &mut bytes, limits.proxy_header_bytes, cx) {
            return Poll::Ready(read);
        }
        let over = patience.poll_over(peer, cx);
        over.map(|()| Err(Unwelcome::ProxyHeaderTimeout))
    });
    let (client, length) = read.await?;
    let rest = Bytes::from(bytes).split_off(length);
    let client = client.unwrap_or(peer.address);
    debug!(proxy = %peer.address, %client, "a connection by a proxy");
    Ok((client, rest))
}

fn poll_header(
    stream: &mut TcpStream,
    bytes: &mut Vec<u8>,
    longest: usize,
    cx: &mut Context<'_>,
) -> Poll<Result<(Option<SocketAddr>, usize), Unwelcome>> {
    loop {
        match header(bytes, longest) {
            Err(NoHeader) => return Poll::Ready(Err(Unwelcome::ProxyHeader)),
            Ok(Header::Whole { client, length }) => return Poll::Ready(Ok((client, length))),
            Ok(Header::Begun) => {}
        }
        let mut room = [0; READ];
        match ready!(poll_read(stream, &mut room, cx)) {
            Ok(0) | Err(_) => return Poll::Ready(Err(Unwelcome::ProxyHeaderTimeout)),
            Ok(read) => bytes.extend(room.iter().take(read)),
        }
    }
}

fn poll_read(stream: &TcpStream, room: &mut [u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_read_ready(cx))?;
        match stream.try_read(room) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return Poll::Ready(read),
        }
    }
}

/// How much is read at once: a header and, often, all that comes behind it first.
const READ: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: usize = 4 * 1024;

    fn client(text: &str, length: usize) -> Header {
        Header::Whole {
            client: Some(text.parse().unwrap()),
            length,
        }
    }

    fn nobody(length: usize) -> Header {
        Header::Whole {
            client: None,
            length,
        }
    }

    /// What a header is read as, wherever reads are cut, and with something behind it.
    fn read(bytes: &[u8]) -> Result<Header, NoHeader> {
        let read = header(bytes, LONGEST);
        if let Ok(Header::Whole { length, .. }) = read {
            for cut in 0..length {
                assert_eq!(
                    header(&bytes[..cut], LONGEST),
                    Ok(Header::Begun),
                    "cut at {cut}"
                );
            }
            let more = [bytes, b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(header(&more, LONGEST), read);
        }
        read
    }

    fn version_2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
        [V2_SIGNATURE, &[command, family][..], &length, addresses].concat()
    }

    /// 192.0.2.7:1 to 192.0.2.8:2.
    const ADDRESSES: [u8; 12] = [192, 0, 2, 7, 192, 0, 2, 8, 0, 1, 0, 2];

    #[test]
    fn a_line_of_version_1_says_who_the_client_is() {
        let v4 = b"PROXY TCP4 192.0.2.7 192.0.2.8 56324 443\r\n";
        assert_eq!(read(v4), Ok(client("192.0.2.7:56324", v4.len())));
        let v6 = b"PROXY TCP6 2001:db8::7 2001:db8::8 1 65535\r\n";
        assert_eq!(read(v6), Ok(client("[2001:db8::7]:1", v6.len())));
        let longest = [
            &b"PROXY TCP6 "[..],
            &b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ".repeat(2),
            b"65535 65535\r\n",
        ]
        .concat();
        assert_eq!(
            read(&longest),
            Ok(client(
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
                longest.len()
            ))
        );
    }

    #[test]
    fn a_proxy_that_says_unknown_or_local_speaks_for_itself() {
        assert_eq!(read(b"PROXY UNKNOWN\r\n"), Ok(nobody(15)));
        let with_words = b"PROXY UNKNOWN ffff:f...f:ffff 1 2 3\r\n";
        assert_eq!(read(with_words), Ok(nobody(with_words.len())));
        assert_eq!(read(&version_2(0x20, 0, &[])), Ok(nobody(16)));
        // Whatever it says of addresses.
        assert_eq!(read(&version_2(0x20, 0x11, &[1, 2])), Ok(nobody(18)));
        assert_eq!(read(&version_2(0x21, 0, &[])), Ok(nobody(16)));
        // By a socket that has no address.
        assert_eq!(read(&version_2(0x21, 0x31, &[0; 216])), Ok(nobody(232)));
    }

    #[test]
    fn version_2_says_who_the_client_is_whatever_else_it_says() {
        let plain = version_2(0x21, 0x11, &ADDRESSES);
        assert_eq!(read(&plain), Ok(client("192.0.2.7:1", 28)));
        let more = [&ADDRESSES[..], b"\x04\0\x03abc"].concat();
        assert_eq!(
            read(&version_2(0x21, 0x11, &more)),
            Ok(client("192.0.2.7:1", 34))
        );
        let mut v6 = [0; 36];
        v6[15] = 1;
        v6[33] = 80;
        assert_eq!(
            read(&version_2(0x21, 0x21, &v6)),
            Ok(client("[::1]:80", 52))
        );
    }

    #[test]
    fn anything_else_is_no_header() {
        let long_line = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
        let lines = [
            "GET / HTTP/1.1\r\n",
            "PROXYxTCP4 192.0.2.7 192.0.2.8 1 2\r\n",
            "PROXY  TCP4 192.0.2.7 192.0.2.8 1 2\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.8 1\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.8 1 2 3\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.8 1 65536\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.8 +1 2\r\n",
            "PROXY TCP4 192.0.2.256 192.0.2.8 1 2\r\n",
            "PROXY TCP4 2001:db8::7 2001:db8::8 1 2\r\n",
            "PROXY TCP6 192.0.2.7 192.0.2.8 1 2\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.8 1 2\n\r\n",
            "PROXY UDP4 192.0.2.7 192.0.2.8 1 2\r\n",
            "PROXY\r\n",
            "proxy TCP4 192.0.2.7 192.0.2.8 1 2\r\n",
            &long_line,
        ];
        for line in lines {
            assert_eq!(read(line.as_bytes()), Err(NoHeader), "{line:?}");
        }
        let wrong = [
            version_2(0x11, 0x11, &ADDRESSES),
            version_2(0x22, 0x11, &ADDRESSES),
            version_2(0x21, 0x41, &ADDRESSES),
            version_2(0x21, 0x11, &ADDRESSES[..11]),
            version_2(0x21, 0x21, &ADDRESSES),
            version_2(0x21, 0x31, &ADDRESSES),
            version_2(0x20, 0, &vec![0; LONGEST]),
            b"\r\n\r\n\0\r\nQUIT \x21\x11\0\x0c".to_vec(),
        ];
        for bytes in wrong {
            assert_eq!(read(&bytes), Err(NoHeader), "{bytes:?}");
        }
    }

    #[test]
    fn what_cannot_become_a_header_any_more_is_not_waited_for() {
        for bytes in ["X", "PX", "PROXY TCP4", "\r\n\r\nGET", "\r\r"] {
            let is_begun = bytes == "PROXY TCP4";
            assert_eq!(header(bytes.as_bytes(), LONGEST).is_ok(), is_begun);
        }
        let endless = [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat();
        assert_eq!(header(&endless[..106], LONGEST), Ok(Header::Begun));
        assert_eq!(header(&endless[..107], LONGEST), Err(NoHeader));
        // Its length is said at once.
        let long = version_2(0x21, 0x11, &[0; 1_000]);
        assert_eq!(header(&long[..16], 1_016), Ok(Header::Begun));
        assert_eq!(header(&long[..16], 1_015), Err(NoHeader));
    }

    #[test]
    fn those_in_the_networks_are_trusted_however_their_address_is_written() {
        let networks = ["192.0.2.0/28", "2001:db8::/32"].map(|text| text.parse().unwrap());
        let trusted = TrustedProxies::new(&networks);
        let trusts = |text: &str| trusted.trusts(text.parse().unwrap());
        assert!(trusts("192.0.2.15") && trusts("::ffff:192.0.2.1") && trusts("2001:db8:1::1"));
        assert!(!trusts("192.0.2.16") && !trusts("127.0.0.1") && !trusts("2001:db9::1"));
    }
}
