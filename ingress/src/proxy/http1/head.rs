//! Heads of requests as they are written, and of responses as they are read.

use std::fmt::Write as _;
use std::mem::MaybeUninit;

use bytes::Bytes;
use http::request::Parts as RequestParts;
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};

use super::framing::Framing;

/// How the body of a request is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// There is none.
    NoBody,
    /// So many bytes.
    Known(u64),
    /// Chunked.
    Chunked,
}

/// The head of a request as HTTP/1 has it: origin form, and the fields that frame it last (RFC 9112 section 3).
pub(super) fn write(head: &RequestParts, length: Length) -> Vec<u8> {
    let target = head.uri.path_and_query().map_or("/", |it| it.as_str());
    // `http://shop?item=1` has an empty path, which is `/` here (RFC 9112 section 3.2.1).
    let root = if target.starts_with('?') { "/" } else { "" };
    let fields: usize = head
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len())
        .sum();
    let mut wire = Vec::with_capacity(head.method.as_str().len() + target.len() + fields + FRAMING);
    wire.extend_from_slice(head.method.as_str().as_bytes());
    wire.push(b' ');
    wire.extend_from_slice(root.as_bytes());
    wire.extend_from_slice(target.as_bytes());
    wire.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in &head.headers {
        // Said below, once.
        if *name == header::CONTENT_LENGTH || *name == header::TRANSFER_ENCODING {
            continue;
        }
        put(&mut wire, name, value);
    }
    match length {
        // A client that says that its body is empty is passed on.
        Length::NoBody if head.headers.contains_key(header::CONTENT_LENGTH) => {
            wire.extend_from_slice(b"content-length: 0\r\n");
        }
        Length::NoBody => {}
        Length::Known(length) => put_text(&mut wire, format_args!("content-length: {length}\r\n")),
        Length::Chunked => wire.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    wire.extend_from_slice(b"\r\n");
    wire
}

/// Room for what is written besides method, target and fields, and for the first chunk's size.
const FRAMING: usize = 96;

pub(super) fn put(wire: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    wire.extend_from_slice(name.as_str().as_bytes());
    wire.extend_from_slice(b": ");
    wire.extend_from_slice(value.as_bytes());
    wire.extend_from_slice(b"\r\n");
}

pub(super) fn put_text(wire: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    struct Into<'a>(&'a mut Vec<u8>);
    impl std::fmt::Write for Into<'_> {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0.extend_from_slice(text.as_bytes());
            Ok(())
        }
    }
    // Writing to memory does not fail.
    Into(wire).write_fmt(text).unwrap_or_default();
}

/// What a response head may have at most.
#[derive(Clone, Copy, Debug)]
pub struct HeadBounds {
    /// Bytes, with the empty line.
    pub bytes: usize,
    /// Fields; no more than [`MOST_FIELDS`].
    pub fields: usize,
}

/// The most fields that a response head can have, whatever is allowed.
pub const MOST_FIELDS: usize = 128;

/// Why a response head cannot be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::proxy) enum BadHead {
    /// It is no HTTP/1.
    #[error("{0}")]
    Syntax(httparse::Error),
    /// It is longer than allowed.
    #[error("its head has more than {0} bytes")]
    TooLong(usize),
    /// It has more fields than allowed.
    #[error("its head has more than {0} fields")]
    TooManyFields(usize),
    /// A field's name or value cannot be passed on.
    #[error("a header field is invalid")]
    Field,
    /// There are several lengths, or one that is no number.
    #[error("its Content-Length is invalid")]
    Length,
    /// HTTP/1.0 knows no transfer codings.
    #[error("it has a Transfer-Encoding, which HTTP/1.0 does not know")]
    Coding,
}

/// A response head.
#[derive(Debug)]
pub(in crate::proxy) struct Head {
    pub(in crate::proxy) parts: Parts,
    pub(in crate::proxy) framing: Framing,
    /// The connection may be used again after the body.
    pub(in crate::proxy) keeps_connection: bool,
}

impl Head {
    /// Whether the connection speaks another protocol from here on.
    pub(super) fn is_switch(&self) -> bool {
        self.parts.status == StatusCode::SWITCHING_PROTOCOLS
    }
}

/// Takes the head of a response to `method` out of `unread`. `None`: it is not complete.
pub(in crate::proxy) fn parse(
    unread: &mut Bytes,
    method: &Method,
    bounds: HeadBounds,
) -> Result<Option<Head>, BadHead> {
    if unread.is_empty() {
        return Ok(None);
    }
    let mut room = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let fields = room.get_mut(..bounds.fields).unwrap_or_default();
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut response, unread, fields)
        .map_err(|error| match error {
            httparse::Error::TooManyHeaders => BadHead::TooManyFields(bounds.fields),
            error => BadHead::Syntax(error),
        })?;
    let length = match parsed {
        httparse::Status::Complete(length) if length <= bounds.bytes => length,
        httparse::Status::Partial if unread.len() <= bounds.bytes => return Ok(None),
        httparse::Status::Complete(_) | httparse::Status::Partial => {
            return Err(BadHead::TooLong(bounds.bytes));
        }
    };
    let status = StatusCode::from_u16(response.code.unwrap_or_default());
    let status = status.map_err(|_invalid| BadHead::Syntax(httparse::Error::Status))?;
    let version = match response.version {
        Some(0) => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    // The values point into the head's own bytes, which are split off here: one allocation for all of them.
    let start = unread.as_ptr() as usize;
    let head = unread.clone();
    let mut headers = HeaderMap::with_capacity(response.headers.len().max(ROOM));
    let mut framing = Lines::default();
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_bad| BadHead::Field)?;
        let at = field.value.as_ptr() as usize - start;
        let value = HeaderValue::from_maybe_shared(head.slice(at..at + field.value.len()))
            .map_err(|_bad| BadHead::Field)?;
        framing.see(&name, &value)?;
        headers.append(name, value);
    }
    drop(head);
    let body = framing.body(method, status, version)?;
    if framing.is_coded {
        // What is said beside the coding does not count (RFC 9112 section 6.3) and must not be passed on.
        headers.remove(header::CONTENT_LENGTH);
    } else if framing.lengths > 1
        && let Some(length) = framing.length
    {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    let keeps_connection = framing.keeps_connection(version, body);
    drop(unread.split_to(length));
    let (mut parts, ()) = http::Response::new(()).into_parts();
    // Whoever passes it on speaks HTTP/1.1 (RFC 9112 section 2.3), or another version of its own.
    (parts.status, parts.version, parts.headers) = (status, Version::HTTP_11, headers);
    Ok(Some(Head {
        parts,
        framing: body,
        keeps_connection,
    }))
}

/// Room for fields. The client's engine keeps a response's table for the next request on its connection, and one that
/// has room for a usual request and what we add to it does not grow then.
const ROOM: usize = 24;

/// What the fields of a response say of its framing.
#[derive(Debug, Default)]
struct Lines {
    length: Option<u64>,
    lengths: usize,
    is_coded: bool,
    /// The last coding, which is the one that frames.
    is_chunked: bool,
    closes: bool,
    keeps: bool,
}

impl Lines {
    fn see(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), BadHead> {
        if *name == header::CONTENT_LENGTH {
            // One value may be a list of equals (RFC 9110 section 8.6).
            for length in value.as_bytes().split(|byte| *byte == b',') {
                let length = number(length.trim_ascii()).ok_or(BadHead::Length)?;
                if self.length.is_some_and(|other| other != length) {
                    return Err(BadHead::Length);
                }
                self.length = Some(length);
                self.lengths += 1;
            }
        } else if *name == header::TRANSFER_ENCODING {
            self.is_coded = true;
            let last = value.as_bytes().rsplit(|byte| *byte == b',').next();
            self.is_chunked =
                last.is_some_and(|it| it.trim_ascii().eq_ignore_ascii_case(b"chunked"));
        } else if *name == header::CONNECTION {
            for option in value.as_bytes().split(|byte| *byte == b',') {
                let option = option.trim_ascii();
                self.closes |= option.eq_ignore_ascii_case(b"close");
                self.keeps |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        Ok(())
    }

    /// How the body ends: RFC 9112 section 6.3, in its order.
    fn body(
        &self,
        method: &Method,
        status: StatusCode,
        version: Version,
    ) -> Result<Framing, BadHead> {
        let has_none = method == Method::HEAD
            || status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        Ok(match self.length {
            _ if self.is_coded && version == Version::HTTP_10 => return Err(BadHead::Coding),
            _ if has_none => Framing::EMPTY,
            _ if self.is_chunked => Framing::CHUNKED,
            _ if self.is_coded => Framing::UntilClose,
            Some(length) => Framing::Length(length),
            None => Framing::UntilClose,
        })
    }

    fn keeps_connection(&self, version: Version, body: Framing) -> bool {
        let is_kept = match version {
            Version::HTTP_10 => self.keeps,
            _ => true,
        };
        // A length beside a coding: somebody may have read another end of the body.
        let is_doubtful = self.is_coded && self.length.is_some();
        is_kept && !self.closes && !is_doubtful && body != Framing::UntilClose
    }
}

/// Digits and nothing else, as `Content-Length` has them.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
