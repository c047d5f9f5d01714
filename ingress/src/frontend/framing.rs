//! Where heads end, and what the HTTP/1 engine does not tell about them.
//!
//! The engine drops a `Content-Length` beside a `Transfer-Encoding`, and one that repeats another, and takes a bare line
//! feed for the end of a line. Someone in front of us may have read the same bytes differently, so a head is looked at
//! while it is given to the engine; [`validate`](crate::routing::validate) refuses what leaves room for doubt.
//!
//! Bytes are passed over as fast as memory is searched for line feeds; of a line only what it begins and ends with is
//! looked at.

use crate::routing::validate::Doubt;

/// How much of the end of a line and the empty line behind it has been seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum EmptyLine {
    #[default]
    Nothing,
    LineFeed,
    CarriageReturn,
}

impl EmptyLine {
    /// How many of `bytes` go up to the end of the next empty line; all when there is none. The engine takes a bare line
    /// feed for the end of a line, so it counts here, too.
    ///
    /// `each` is shown these bytes line by line, or in more pieces where reads are cut.
    pub(super) fn find(mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) -> (usize, Self) {
        let mut begin = 0;
        for line_feed in memchr::memchr_iter(b'\n', bytes) {
            let line = bytes.get(begin..=line_feed).unwrap_or_default();
            begin = line_feed + 1;
            each(line);
            if self.is_ended_by(line) {
                return (begin, Self::Nothing);
            }
            self = Self::LineFeed;
        }
        let rest = bytes.get(begin..).unwrap_or_default();
        if !rest.is_empty() {
            each(rest);
        }
        (bytes.len(), self.behind(rest))
    }

    /// Whether the empty line is complete with the end of this line.
    fn is_ended_by(self, line: &[u8]) -> bool {
        match self {
            Self::Nothing => false,
            Self::LineFeed => matches!(line, b"\n" | b"\r\n"),
            Self::CarriageReturn => line == b"\n",
        }
    }

    /// After the beginning of a line.
    fn behind(self, bytes: &[u8]) -> Self {
        match (self, bytes) {
            (_, b"") => self,
            (Self::LineFeed, b"\r") => Self::CarriageReturn,
            _ => Self::Nothing,
        }
    }
}

/// Looks at the lines of one head, wherever reads are cut.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lines {
    lengths: u8,
    codings: u8,
    /// Lines that have ended.
    count: usize,
    has_bare_line_feed: bool,
    /// The byte before the next one.
    last: u8,
    /// What the line that has begun may still turn out to be, and how many bytes say so.
    begun: Option<(Name, usize)>,
    /// Whether bytes of a line have been seen whose end has not.
    is_in_line: bool,
}

/// A field that frames the message; no two begin with the same letter.
#[derive(Clone, Copy, Debug)]
enum Name {
    Length,
    Coding,
}

impl Name {
    /// The only one that a line may be which begins with this byte.
    fn beginning_with(byte: u8) -> Option<Self> {
        match byte {
            b'c' | b'C' => Some(Self::Length),
            b't' | b'T' => Some(Self::Coding),
            _ => None,
        }
    }

    fn text(self) -> &'static [u8] {
        match self {
            Self::Length => b"content-length:",
            Self::Coding => b"transfer-encoding:",
        }
    }
}

impl Lines {
    /// Takes the next bytes of the head in: a line, or a piece of one.
    pub(super) fn see(&mut self, piece: &[u8]) {
        let Some((last, before)) = piece.split_last() else {
            return;
        };
        if !self.is_in_line {
            self.begun = piece
                .first()
                .and_then(|first| Some((Name::beginning_with(*first)?, 0)));
        }
        if let Some((name, seen)) = self.begun {
            self.compare(name, seen, piece);
        }
        self.is_in_line = *last != b'\n';
        if !self.is_in_line {
            self.count += 1;
            self.has_bare_line_feed |= *before.last().unwrap_or(&self.last) != b'\r';
        }
        self.last = *last;
    }

    /// Compares more of the line that has begun like `name`.
    fn compare(&mut self, name: Name, seen: usize, piece: &[u8]) {
        let wanted = name.text().get(seen..).unwrap_or_default();
        let common = wanted.len().min(piece.len());
        let (expected, left) = wanted.split_at(common);
        let is_same = piece
            .get(..common)
            .is_some_and(|given| given.eq_ignore_ascii_case(expected));
        self.begun = (is_same && !left.is_empty()).then_some((name, seen + common));
        if is_same && left.is_empty() {
            let count = match name {
                Name::Length => &mut self.lengths,
                Name::Coding => &mut self.codings,
            };
            *count = count.saturating_add(1);
        }
    }

    /// How many lines have ended.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// What is doubtful about the head, which is complete.
    pub(super) fn doubt(&self) -> Option<Doubt> {
        if self.has_bare_line_feed {
            return Some(Doubt::BareLineFeed);
        }
        match (self.lengths, self.codings) {
            (0 | 1, 0) | (0, _) => None,
            (_, 0) => Some(Doubt::SeveralLengths),
            (_, _) => Some(Doubt::LengthAndCoding),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Shows all lines of `bytes` to `lines`.
    fn see(lines: &mut Lines, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (given, _) = EmptyLine::default().find(bytes, |piece| lines.see(piece));
            bytes = &bytes[given..];
        }
    }

    fn doubt(head: &str) -> Option<Doubt> {
        let mut whole = Lines::default();
        see(&mut whole, head.as_bytes());
        for cut in 0..=head.len() {
            let (first, second) = head.as_bytes().split_at(cut);
            let mut cut_in_two = Lines::default();
            see(&mut cut_in_two, first);
            see(&mut cut_in_two, second);
            assert_eq!(cut_in_two.doubt(), whole.doubt(), "cut at {cut}");
        }
        let mut by_bytes = Lines::default();
        head.bytes().for_each(|byte| see(&mut by_bytes, &[byte]));
        assert_eq!(by_bytes.doubt(), whole.doubt(), "byte by byte");
        whole.doubt()
    }

    /// What a head is, said byte by byte.
    fn doubt_of_bytes(head: &[u8]) -> Option<Doubt> {
        let lines: Vec<_> = head.split_inclusive(|byte| *byte == b'\n').collect();
        let count = |name: &str| {
            let begins = |line: &&&[u8]| {
                let line = line.to_ascii_lowercase();
                line.starts_with(name.as_bytes())
            };
            lines.iter().filter(begins).count()
        };
        let is_bare = |line: &&[u8]| line.ends_with(b"\n") && !line.ends_with(b"\r\n");
        match (count("content-length:"), count("transfer-encoding:")) {
            _ if lines.iter().any(is_bare) => Some(Doubt::BareLineFeed),
            (lengths, codings) if lengths > 0 && codings > 0 => Some(Doubt::LengthAndCoding),
            (lengths, _) if lengths > 1 => Some(Doubt::SeveralLengths),
            _ => None,
        }
    }

    /// Where the first empty line ends, said byte by byte.
    fn empty_line_of_bytes(bytes: &[u8]) -> usize {
        let is_end = |end: &usize| {
            let before = &bytes[..*end];
            before.ends_with(b"\n\n") || before.ends_with(b"\n\r\n")
        };
        (1..=bytes.len()).find(is_end).unwrap_or(bytes.len())
    }

    fn wire() -> impl Strategy<Value = Vec<u8>> {
        let token = prop_oneof![
            Just("\r\n"),
            Just("\n"),
            Just("\r"),
            Just("Content-Length:"),
            Just("content-length"),
            Just("TRANSFER-encoding: chunked"),
            Just("c"),
            Just("t"),
            Just(":"),
            Just("GET / HTTP/1.1"),
        ];
        proptest::collection::vec(token, 0..12).prop_map(|tokens| tokens.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn empty_line_and_doubt_are_those_of_the_bytes_wherever_reads_are_cut(
            wire in wire(),
            cuts in proptest::collection::vec(1..8_usize, 1..40),
        ) {
            let end = empty_line_of_bytes(&wire);
            let mut lines = Lines::default();
            let (mut seen, mut given) = (EmptyLine::default(), 0);
            let mut cuts = cuts.into_iter();
            while given < end {
                let next = wire.len().min(given + cuts.next().unwrap_or(wire.len()));
                let (found, state) = seen.find(&wire[given..next], |piece| lines.see(piece));
                seen = state;
                given += found;
            }
            prop_assert_eq!(given, end);
            prop_assert_eq!(lines.doubt(), doubt_of_bytes(&wire[..end]));
        }
    }

    #[test]
    fn an_ordinary_head_leaves_no_doubt_wherever_reads_are_cut() {
        assert_eq!(doubt("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), None);
        assert_eq!(
            doubt("POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 5\r\n\r\n"),
            None
        );
        let similar = "Content-Lengths: 5\r\nX-Content-Length: 5\r\nContent-Length: 5\r\nTransfer-Encodin: x\r\n\r\n";
        assert_eq!(doubt(similar), None);
        assert_eq!(
            doubt("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"),
            None
        );
    }

    #[test]
    fn repeated_lengths_are_noticed() {
        let twice = "POST / HTTP/1.1\r\nContent-Length: 5\r\nHost: a\r\ncontent-LENGTH:5\r\n\r\n";
        assert_eq!(doubt(twice), Some(Doubt::SeveralLengths));
    }

    #[test]
    fn a_length_beside_a_coding_is_noticed_whichever_comes_first() {
        let (length, coding) = ("Content-Length: 5\r\n", "TRANSFER-encoding: chunked\r\n");
        for lines in [[length, coding], [coding, length]] {
            let head = format!("POST / HTTP/1.1\r\n{}\r\n", lines.concat());
            assert_eq!(doubt(&head), Some(Doubt::LengthAndCoding));
        }
    }

    #[test]
    fn a_bare_line_feed_is_noticed() {
        for head in [
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "\nGET / HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(doubt(head), Some(Doubt::BareLineFeed));
        }
    }
}
