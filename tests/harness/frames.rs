//! HTTP/2 frame by frame, for clients and endpoints that do not keep to it (RFC 9113).

use std::net::SocketAddr;

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::raw::Raw;

/// What a client says first (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (RFC 9113 section 6).
pub mod kind {
    #![allow(missing_docs, reason = "the RFC's names")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub mod flag {
    #![allow(missing_docs, reason = "the RFC's names")]
    pub const NONE: u8 = 0;
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 32;
}

/// Error codes (RFC 9113 section 7).
pub mod code {
    #![allow(missing_docs, reason = "the RFC's names")]
    pub const NO_ERROR: u32 = 0;
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const INTERNAL_ERROR: u32 = 2;
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    pub const STREAM_CLOSED: u32 = 5;
    pub const FRAME_SIZE_ERROR: u32 = 6;
    pub const REFUSED_STREAM: u32 = 7;
    pub const CANCEL: u32 = 8;
    pub const COMPRESSION_ERROR: u32 = 9;
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// One of [`kind`].
    pub kind: u8,
    /// Of [`flag`].
    pub flags: u8,
    /// 0 for the connection.
    pub stream: u32,
    /// What it carries.
    pub payload: Bytes,
}

impl Frame {
    /// The 32 bits at this place of the payload.
    fn number(&self, at: usize) -> u32 {
        let bytes = self.payload.get(at..at + 4).unwrap();
        u32::from_be_bytes(bytes.try_into().unwrap())
    }

    /// The error code of `RST_STREAM`.
    pub fn reset_code(&self) -> Option<u32> {
        (self.kind == kind::RST_STREAM).then(|| self.number(0))
    }

    /// The error code of GOAWAY.
    pub fn goaway_code(&self) -> Option<u32> {
        (self.kind == kind::GOAWAY).then(|| self.number(4))
    }

    /// The status of a response's HEADERS, which begin with it.
    pub fn status(&self) -> Option<u16> {
        if self.kind != kind::HEADERS {
            return None;
        }
        // RFC 7541 appendix A: the statuses that have an index; any other follows the name's index 8.
        const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
        let mut block = &self.payload[..];
        // A new bound of the table may come first.
        while block.first()? & 0xe0 == 0x20 {
            block = &block[1..];
        }
        match block {
            [first @ 0x88..=0x8e, ..] => Some(INDEXED[usize::from(first - 0x88)]),
            [0x08 | 0x48 | 0x18, length, text @ ..] if length & 0x80 == 0 => {
                let text = text.get(..usize::from(*length))?;
                std::str::from_utf8(text).ok()?.parse().ok()
            }
            [0x08 | 0x48 | 0x18, length, text @ ..] => {
                digits_of_huffman(text.get(..usize::from(length & 0x7f))?)
            }
            _ => None,
        }
    }
}

/// Three digits in the code of RFC 7541 appendix B: `0` to `2` have five bits, the others six.
fn digits_of_huffman(bytes: &[u8]) -> Option<u16> {
    let mut bits = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit & 1)));
    let mut number = 0;
    for _ in 0..3 {
        let mut five = 0;
        for _ in 0..5 {
            five = five << 1 | bits.next()?;
        }
        let digit = match five {
            0..=2 => five,
            _ => (five << 1 | bits.next()?) - 0x19 + 3,
        };
        number = number * 10 + digit;
    }
    Some(number)
}

/// The bytes of one frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = Vec::with_capacity(9 + payload.len());
    bytes.extend_from_slice(&length[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.put_u32(stream);
    bytes.extend_from_slice(payload);
    bytes
}

/// A field as HPACK has it, without index and without Huffman code (RFC 7541 section 6.2.2).
pub fn field(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    let mut bytes = vec![0];
    put_text(&mut bytes, name.as_ref());
    put_text(&mut bytes, value.as_ref());
    bytes
}

/// A field that is put into the table, to be named by an index afterwards (RFC 7541 section 6.2.1).
pub fn kept_field(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    let mut bytes = vec![0x40];
    put_text(&mut bytes, name.as_ref());
    put_text(&mut bytes, value.as_ref());
    bytes
}

/// The field that was put into the table last.
pub const LAST_KEPT: u8 = 0x80 | 62;

/// RFC 7541 section 5.
fn put_text(bytes: &mut Vec<u8>, text: &[u8]) {
    let mut length = text.len();
    if length < 127 {
        bytes.push(u8::try_from(length).unwrap());
    } else {
        bytes.push(127);
        length -= 127;
        while length >= 128 {
            bytes.push(u8::try_from(length % 128).unwrap() | 128);
            length /= 128;
        }
        bytes.push(u8::try_from(length).unwrap());
    }
    bytes.extend_from_slice(text);
}

/// The fields of a request, in this order.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields
        .iter()
        .flat_map(|(name, value)| field(name, value))
        .collect()
}

/// The fields of a GET of `path` from `host`.
pub fn get(host: &str, path: &str) -> Vec<u8> {
    request("GET", host, path, &[])
}

/// The fields of a request.
pub fn request(method: &str, host: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [
        (":method", method),
        (":scheme", "http"),
        (":authority", host),
        (":path", path),
    ];
    block(&[&pseudo, more].concat())
}

/// A whole request without a body: HEADERS that end the stream.
pub fn whole(stream: u32, block: &[u8]) -> Vec<u8> {
    let flags = flag::END_HEADERS | flag::END_STREAM;
    frame(kind::HEADERS, flags, stream, block)
}

/// The head of a request whose body is to come.
pub fn begun(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS, stream, block)
}

/// DATA.
pub fn data(stream: u32, data: &[u8], ends: bool) -> Vec<u8> {
    let flags = if ends { flag::END_STREAM } else { flag::NONE };
    frame(kind::DATA, flags, stream, data)
}

/// `RST_STREAM`.
pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, flag::NONE, stream, &code.to_be_bytes())
}

/// `WINDOW_UPDATE`.
pub fn window(stream: u32, more: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, flag::NONE, stream, &more.to_be_bytes())
}

/// SETTINGS.
pub fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (name, value) in settings {
        payload.put_u16(*name);
        payload.put_u32(*value);
    }
    frame(kind::SETTINGS, flag::NONE, 0, &payload)
}

/// `SETTINGS_HEADER_TABLE_SIZE`.
pub const HEADER_TABLE_SIZE: u16 = 1;

/// `SETTINGS_INITIAL_WINDOW_SIZE`.
pub const INITIAL_WINDOW: u16 = 4;

/// A peer that speaks frames.
#[derive(Debug)]
pub struct Frames {
    raw: Raw,
}

/// How a connection ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// The last GOAWAY's code.
    pub goaway: Option<u32>,
    /// Streams that were reset, each with its code.
    pub resets: Vec<(u32, u32)>,
    /// Streams that were answered, each with its status.
    pub answers: Vec<(u32, u16)>,
}

impl Frames {
    /// Connects, and says these settings first, besides that it keeps no table of fields.
    pub async fn connect(address: SocketAddr, first: &[(u16, u32)]) -> Self {
        let mut raw = Raw::connect(address).await;
        let first = settings(&[&[(HEADER_TABLE_SIZE, 0)], first].concat());
        raw.send([PREFACE, &first].concat()).await;
        Self { raw }
    }

    /// On the client's side of a connection on which the preface and SETTINGS have been sent.
    pub fn of(raw: Raw) -> Self {
        Self { raw }
    }

    /// On the server's side of a connection that is there.
    pub async fn accept(mut raw: Raw) -> Option<Self> {
        let preface = raw.try_exactly(PREFACE.len()).await.ok()?;
        assert_eq!(preface, PREFACE);
        raw.try_send(settings(&[])).await.ok()?;
        Some(Self { raw })
    }

    /// Sends bytes, of frames or of anything else.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.unwrap();
    }

    /// Sends to someone who may not want it.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.raw.try_send(bytes).await
    }

    /// The next frame; `None` at the end. SETTINGS are agreed to on the way.
    pub async fn next(&mut self) -> Option<Frame> {
        let head = self.raw.try_exactly(9).await.ok()?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let frame = Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes(head[5..9].try_into().unwrap()) & 0x7fff_ffff,
            payload: self.raw.try_exactly(length).await.ok()?,
        };
        if frame.kind == kind::SETTINGS && frame.flags & flag::ACK == 0 {
            let agreed = self::frame(kind::SETTINGS, flag::ACK, 0, &[]);
            drop(self.raw.try_send(agreed).await);
        }
        Some(frame)
    }

    /// The next frame of this kind; the others are passed over.
    pub async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// The status of a stream's response; `None` when it was reset, or the connection ended.
    pub async fn status(&mut self, stream: u32) -> Option<u16> {
        loop {
            let frame = self.next().await?;
            if frame.stream == stream && frame.kind == kind::RST_STREAM {
                return None;
            }
            if frame.stream == stream && frame.kind == kind::HEADERS {
                return frame.status();
            }
        }
    }

    /// Streams and their statuses, as soon as so many have come.
    pub async fn statuses(&mut self, count: usize) -> Vec<(u32, u16)> {
        let mut statuses = Vec::new();
        while statuses.len() < count {
            let frame = self.next().await;
            let frame = frame.unwrap_or_else(|| panic!("the connection ended after {statuses:?}"));
            statuses.extend(frame.status().map(|status| (frame.stream, status)));
        }
        statuses
    }

    /// Reads to the end of the connection.
    pub async fn ended(&mut self) -> Ended {
        let mut ended = Ended::default();
        while let Some(frame) = self.next().await {
            ended.goaway = frame.goaway_code().or(ended.goaway);
            ended
                .resets
                .extend(frame.reset_code().map(|code| (frame.stream, code)));
            ended
                .answers
                .extend(frame.status().map(|status| (frame.stream, status)));
        }
        ended
    }

    /// Says that no more comes, without closing.
    pub async fn half_close(&mut self) {
        self.raw.half_close().await;
    }

    /// The bytes of it.
    pub fn into_raw(self) -> Raw {
        self.raw
    }
}

/// The bytes of many frames.
pub fn many<I: IntoIterator<Item = Vec<u8>>>(frames: I) -> Bytes {
    let mut bytes = BytesMut::new();
    for frame in frames {
        bytes.extend_from_slice(&frame);
    }
    bytes.freeze()
}
