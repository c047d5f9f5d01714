//! Where a message's body ends (RFC 9112 section 6), as bytes come in.

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Why a body cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The line before a chunk is no size, or too long.
    #[error("a chunk has no valid size")]
    ChunkSize,
    /// A chunk is longer than its size says.
    #[error("a chunk does not end where its size says")]
    ChunkEnd,
    /// The fields behind the last chunk are invalid, too many or too long.
    #[error("the trailer fields are invalid")]
    Trailers,
}

/// Reads a body out of the bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Framing {
    /// This many bytes are left; none at all is a body that has ended.
    Length(u64),
    /// Chunked.
    Chunked(Chunk),
    /// Everything until the connection is closed.
    UntilClose,
}

/// What comes next in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Chunk {
    /// A size.
    Size,
    /// This many bytes of data, and the line end behind them.
    Data(u64),
    /// The line end behind a chunk.
    End,
    /// Trailer fields.
    Trailers,
}

/// What a body goes on with.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Piece {
    /// Data.
    Data(Bytes),
    /// Trailer fields; the body has ended.
    Trailers(HeaderMap),
    /// The body has ended.
    End,
    /// More must be read first.
    More,
}

/// Bytes of a chunk's size and its extensions.
const SIZE_LINE: usize = 4 * 1024;

/// Bytes and fields behind the last chunk.
const TRAILER_BYTES: usize = 16 * 1024;
const TRAILER_FIELDS: usize = 64;

impl Framing {
    /// No body.
    pub(super) const EMPTY: Self = Self::Length(0);

    /// Chunked, from its start.
    pub(super) const CHUNKED: Self = Self::Chunked(Chunk::Size);

    /// Whether the body has ended.
    pub(super) fn is_done(self) -> bool {
        self == Self::EMPTY
    }

    /// How many bytes come next that are data for certain.
    pub(super) fn data_ahead(self) -> Option<u64> {
        match self {
            Self::Length(left) | Self::Chunked(Chunk::Data(left)) => Some(left),
            Self::Chunked(_) => None,
            Self::UntilClose => Some(u64::MAX),
        }
    }

    /// Takes the next piece out of `unread`.
    ///
    /// # Errors
    ///
    /// When the bytes are no body; nothing more can be read from the connection then.
    pub(in crate::proxy) fn next(&mut self, unread: &mut Bytes) -> Result<Piece, Malformed> {
        loop {
            match self {
                Self::Length(0) => return Ok(Piece::End),
                Self::Length(left) => {
                    let data = take(unread, *left);
                    *left -= data.len() as u64;
                    return Ok(data.into());
                }
                Self::UntilClose => return Ok(std::mem::take(unread).into()),
                Self::Chunked(chunk) => {
                    if let Some(piece) = chunk.next(unread)? {
                        if matches!(piece, Piece::End | Piece::Trailers(_)) {
                            *self = Self::EMPTY;
                        }
                        return Ok(piece);
                    }
                }
            }
        }
    }
}

impl From<Bytes> for Piece {
    fn from(data: Bytes) -> Self {
        if data.is_empty() {
            Self::More
        } else {
            Self::Data(data)
        }
    }
}

fn take(unread: &mut Bytes, at_most: u64) -> Bytes {
    let whole = unread.len();
    unread.split_to(usize::try_from(at_most).map_or(whole, |most| most.min(whole)))
}

impl Chunk {
    /// The next piece; `None` when only framing was read.
    fn next(&mut self, unread: &mut Bytes) -> Result<Option<Piece>, Malformed> {
        match self {
            // `httparse` takes an empty line for the last chunk, and a bare line feed for part of an extension.
            Self::Size
                if unread.first().is_some_and(|it| !it.is_ascii_hexdigit())
                    || memchr::memchr(b'\n', unread).is_some_and(|end| {
                        unread.get(..end).is_none_or(|line| !line.ends_with(b"\r"))
                    }) =>
            {
                Err(Malformed::ChunkSize)
            }
            Self::Size => match httparse::parse_chunk_size(unread) {
                Ok(httparse::Status::Complete((line, size))) => {
                    unread.advance(line);
                    *self = if size == 0 {
                        Self::Trailers
                    } else {
                        Self::Data(size)
                    };
                    Ok(None)
                }
                Ok(httparse::Status::Partial) if unread.len() < SIZE_LINE => Ok(Some(Piece::More)),
                Ok(httparse::Status::Partial) | Err(_) => Err(Malformed::ChunkSize),
            },
            Self::Data(left) => {
                let data = take(unread, *left);
                *left -= data.len() as u64;
                if *left == 0 {
                    *self = Self::End;
                }
                Ok(Some(data.into()))
            }
            Self::End => match unread.get(..2) {
                Some(b"\r\n") => {
                    unread.advance(2);
                    *self = Self::Size;
                    Ok(None)
                }
                None if matches!(&**unread, b"" | b"\r") => Ok(Some(Piece::More)),
                Some(_) | None => Err(Malformed::ChunkEnd),
            },
            Self::Trailers => trailers(unread).map(Some),
        }
    }
}

/// Takes the fields behind the last chunk, up to the empty line.
fn trailers(unread: &mut Bytes) -> Result<Piece, Malformed> {
    // By far the most bodies have none.
    if unread.starts_with(b"\r\n") {
        unread.advance(2);
        return Ok(Piece::End);
    }
    let mut fields = [httparse::EMPTY_HEADER; TRAILER_FIELDS];
    let (length, fields) = match httparse::parse_headers(unread, &mut fields) {
        Ok(httparse::Status::Complete(complete)) => complete,
        Ok(httparse::Status::Partial) if unread.len() < TRAILER_BYTES => return Ok(Piece::More),
        Ok(httparse::Status::Partial) | Err(_) => return Err(Malformed::Trailers),
    };
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_bytes(field.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(Malformed::Trailers);
        };
        trailers.append(name, value);
    }
    unread.advance(length);
    Ok(Piece::Trailers(trailers))
}

#[cfg(test)]
mod tests;
