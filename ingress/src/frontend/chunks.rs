//! Where a chunked body ends (RFC 9112 section 7.1), and whether everybody would say so.
//!
//! The HTTP/1 engine reads chunks itself, and reads some that others read differently: behind the last chunk it looks for
//! an empty line that ends in CRLF, then takes the fields before it for lines that end in a bare line feed. Somebody who
//! takes line feeds for line ends throughout sees the body end earlier, and a request behind it. So bytes are looked at
//! before the engine gets them, and it gets none that are not chunks to the letter. Data is passed over by its length.

/// What comes next in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunks {
    next: Next,
    /// The size of the chunk, as far as it was read; then what is left of its data.
    size: u64,
    /// Digits of the size, or bytes of the line.
    count: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Size,
    /// White space behind the size, which some put there although nothing follows.
    Space,
    Extension,
    SizeLineFeed,
    Data,
    DataReturn,
    DataLineFeed,
    /// The beginning of a line behind the last chunk.
    Trailer,
    InTrailer,
    TrailerLineFeed,
    LastLineFeed,
}

/// These are no chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the chunks of the body are malformed")]
pub(super) struct Malformed;

/// How far a piece of a chunked body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// All of it belongs to the body, which goes on.
    On(Chunks),
    /// The body ends behind this many bytes.
    End(usize),
    /// From behind this many bytes on these are no chunks.
    Malformed(usize),
}

/// Digits of a chunk's size: as many as 64 bits have.
const DIGITS: u16 = 16;

/// Bytes of the extensions of one chunk. Nobody uses them.
const EXTENSION: u16 = 1024;

impl Chunks {
    /// From the start of a body.
    pub(super) const START: Self = Self {
        next: Next::Size,
        size: 0,
        count: 0,
    };

    /// Looks at the next bytes, of which some may belong to what follows the body.
    pub(super) fn pass(mut self, bytes: &[u8]) -> Passed {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if self.next == Next::Data {
                let here = bytes.len() - at;
                let data = usize::try_from(self.size).map_or(here, |left| left.min(here));
                self.size -= data as u64;
                at += data;
                if self.size == 0 {
                    self.next = Next::DataReturn;
                }
                continue;
            }
            if self.next == Next::LastLineFeed && *byte == b'\n' {
                return Passed::End(at + 1);
            }
            match self.step(*byte) {
                Ok(next) => self.next = next,
                Err(Malformed) => return Passed::Malformed(at),
            }
            at += 1;
        }
        Passed::On(self)
    }

    /// Takes a byte that is no data.
    fn step(&mut self, byte: u8) -> Result<Next, Malformed> {
        Ok(match (self.next, byte) {
            (Next::Size, _) if byte.is_ascii_hexdigit() => self.digit(byte)?,
            (Next::Size, _) if self.count == 0 => return Err(Malformed),
            (Next::Size | Next::Space, b' ' | b'\t') => Next::Space,
            (Next::Size | Next::Space, b';') => {
                self.count = 0;
                Next::Extension
            }
            (Next::Size | Next::Space | Next::Extension, b'\r') => Next::SizeLineFeed,
            (Next::Extension, _) if is_text(byte) && self.count < EXTENSION => {
                self.count += 1;
                Next::Extension
            }
            (Next::SizeLineFeed, b'\n') => {
                self.count = 0;
                if self.size == 0 {
                    Next::Trailer
                } else {
                    Next::Data
                }
            }
            (Next::DataReturn, b'\r') => Next::DataLineFeed,
            (Next::DataLineFeed, b'\n') => Next::Size,
            (Next::Trailer, b'\r') => Next::LastLineFeed,
            // The engine bounds their number and length.
            (Next::Trailer | Next::InTrailer, _) if is_text(byte) => Next::InTrailer,
            (Next::InTrailer, b'\r') => Next::TrailerLineFeed,
            (Next::TrailerLineFeed, b'\n') => Next::Trailer,
            _ => return Err(Malformed),
        })
    }

    fn digit(&mut self, byte: u8) -> Result<Next, Malformed> {
        let digit = char::from(byte).to_digit(16).ok_or(Malformed)?;
        if self.count == DIGITS {
            return Err(Malformed);
        }
        self.count += 1;
        self.size = (self.size << 4) | u64::from(digit);
        Ok(Next::Size)
    }
}

/// What may stand in a line: no control characters but the tab.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How far the body goes, however its bytes are cut.
    fn pass(wire: &[u8]) -> Passed {
        let whole = Chunks::START.pass(wire);
        for cut in 0..=wire.len() {
            let (first, second) = wire.split_at(cut);
            let cut_in_two = match Chunks::START.pass(first) {
                Passed::On(chunks) => match chunks.pass(second) {
                    Passed::On(chunks) => Passed::On(chunks),
                    Passed::End(at) => Passed::End(cut + at),
                    Passed::Malformed(at) => Passed::Malformed(cut + at),
                },
                ended => ended,
            };
            assert_eq!(cut_in_two, whole, "cut at {cut}");
        }
        whole
    }

    #[test]
    fn a_body_ends_where_its_chunks_say() {
        for body in [
            "0\r\n\r\n",
            "000\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "5 \r\nhello\r\n0\t\r\n\r\n",
            "5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n",
            "A\r\n\r\n0\r\n\r\n\n\n\n\r\n0\r\n\r\n",
            "0\r\nx-sum: 1\r\nx-other: 2\r\n\r\n",
            "0000000000000001\r\nx\r\n0\r\n\r\n",
        ] {
            let wire = [body, "GET / HTTP/1.1\r\n\r\n"].concat();
            assert_eq!(pass(wire.as_bytes()), Passed::End(body.len()), "{body:?}");
        }
    }

    #[test]
    fn what_somebody_might_read_differently_is_no_chunk() {
        for (good, bad) in [
            ("", "\r\n"),
            ("", "\n"),
            ("", " 5\r\nhello\r\n"),
            ("", "+5\r\n"),
            ("", "-5\r\n"),
            ("", "g\r\n"),
            ("0", "x5\r\n"),
            ("5", "\nhello"),
            ("5 ", "5\r\n"),
            ("5\r", "hello"),
            ("5;a", "\n"),
            ("5;a", "\0"),
            ("ffffffffffffffff", "f\r\n"),
            ("0000000000000000", "5\r\n"),
            ("5\r\nhello", "\n"),
            ("5\r\nhello", "!\r\n"),
            ("5\r\nhello\r", "0"),
            ("0\r\n", "\n"),
            ("0\r\n\r", "\r"),
            ("0\r\nx: 1", "\n\n"),
            ("0\r\nx: 1\r", "x"),
            ("0\r\nx: 1", "\0"),
        ] {
            let wire = [good, bad].concat();
            let expected = Passed::Malformed(good.len());
            assert_eq!(pass(wire.as_bytes()), expected, "{wire:?}");
        }
        let endless = format!("5;{}\r\n", "a".repeat(2_000));
        assert!(matches!(pass(endless.as_bytes()), Passed::Malformed(_)));
    }

    proptest! {
        #[test]
        fn chunks_of_any_data_are_passed_over(data in proptest::collection::vec(any::<Vec<u8>>(), 0..4)) {
            let mut wire = Vec::new();
            for chunk in data.iter().filter(|chunk| !chunk.is_empty()) {
                wire.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let length = wire.len();
            wire.extend_from_slice(b"more");
            prop_assert_eq!(pass(&wire), Passed::End(length));
        }

        #[test]
        fn any_bytes_are_passed_the_same_way_however_they_are_cut(wire in any::<Vec<u8>>()) {
            pass(&wire);
        }
    }
}
