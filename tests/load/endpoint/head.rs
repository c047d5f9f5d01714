//! Heads of HTTP/1.1 messages: as much of RFC 9112 as the harness's own endpoint and generator send each other.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use memchr::memmem;

/// What matters of a request's or an answer's head.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Its bytes, to the end of the empty line.
    pub(crate) length: usize,
    /// The target of a request; empty for an answer.
    pub(crate) path: Bytes,
    /// The status of an answer; 0 for a request.
    pub(crate) status: u16,
    /// `Content-Length`; 0 without.
    pub(crate) body_bytes: usize,
    /// Whether `Upgrade` is there.
    pub(crate) is_upgrade: bool,
    /// Whether the connection ends after this exchange.
    pub(crate) is_last: bool,
}

impl Head {
    /// A request's head, or `None` while its end is missing.
    pub(crate) fn of_request(bytes: &[u8]) -> Result<Option<Self>> {
        let Some((first, mut head)) = Self::fields(bytes)? else {
            return Ok(None);
        };
        let path = first.split(|byte| *byte == b' ').nth(1);
        head.path = Bytes::copy_from_slice(path.context("no path")?);
        Ok(Some(head))
    }

    /// An answer's head, or `None` while its end is missing.
    pub(crate) fn of_answer(bytes: &[u8]) -> Result<Option<Self>> {
        let Some((first, mut head)) = Self::fields(bytes)? else {
            return Ok(None);
        };
        let status = first.strip_prefix(b"HTTP/1.1 ").context("no status line")?;
        let status = status.get(..3).context("no status")?;
        head.status = std::str::from_utf8(status)?.parse()?;
        Ok(Some(head))
    }

    /// The first line, and a head with what the other lines say.
    fn fields(bytes: &[u8]) -> Result<Option<(&[u8], Self)>> {
        let Some(end) = memmem::find(bytes, b"\r\n\r\n") else {
            return Ok(None);
        };
        let mut head = Self {
            length: end + 4,
            path: Bytes::new(),
            status: 0,
            body_bytes: 0,
            is_upgrade: false,
            is_last: false,
        };
        let mut lines = bytes[..end].split(|byte| *byte == b'\n');
        let first = lines.next().unwrap_or_default();
        for line in lines {
            // The names we look for differ in their first letter from most others.
            match line.first() {
                Some(b'c' | b'C') => {
                    if let Some(value) = value(line, b"content-length:") {
                        head.body_bytes = std::str::from_utf8(value)?.trim().parse()?;
                    } else if let Some(value) = value(line, b"connection:") {
                        head.is_last = value.trim_ascii().eq_ignore_ascii_case(b"close");
                    }
                }
                Some(b't' | b'T') => {
                    ensure!(
                        value(line, b"transfer-encoding:").is_none(),
                        "a chunked body, which nobody asked for"
                    );
                }
                Some(b'u' | b'U') => head.is_upgrade |= value(line, b"upgrade:").is_some(),
                _ => {}
            }
        }
        Ok(Some((first, head)))
    }
}

fn value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_when_its_head_is_whole() {
        let request = b"POST /bytes/5 HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\nhello";
        assert_eq!(Head::of_request(&request[..40]).unwrap(), None);
        let head = Head::of_request(request).unwrap().unwrap();
        assert_eq!(head.path.as_ref(), b"/bytes/5");
        assert_eq!(head.body_bytes, 12);
        assert_eq!(&request[head.length..], b"hello");
        assert!(!head.is_upgrade && !head.is_last);
    }

    #[test]
    fn an_answer_has_its_status() {
        let answer = b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(Head::of_answer(answer).unwrap().unwrap().status, 503);
        assert!(Head::of_answer(b"HTTP/1.1 x\r\n\r\n").is_err());
    }

    #[test]
    fn a_chunked_body_is_an_error_and_no_empty_one() {
        assert!(Head::of_answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn the_last_request_of_a_connection_says_so() {
        let request = b"GET / HTTP/1.1\r\nconnection: Close\r\n\r\n";
        assert!(Head::of_request(request).unwrap().unwrap().is_last);
    }

    #[test]
    fn an_upgrade_is_seen() {
        let request = b"GET / HTTP/1.1\r\nUPGRADE: websocket\r\n\r\n";
        assert!(Head::of_request(request).unwrap().unwrap().is_upgrade);
    }
}
