//! What the HTTP/1 engine does not tell about a head.
//!
//! It drops a `Content-Length` beside a `Transfer-Encoding`, and one that repeats another, and takes a bare line feed for
//! the end of a line. Someone in front of us may have read the same bytes differently, so a head is looked at while it
//! is given to the engine; [`validate`](crate::routing::validate) refuses what leaves room for doubt.

use crate::routing::validate::Doubt;

const LENGTH: &[u8] = b"content-length:";
const CODING: &[u8] = b"transfer-encoding:";

/// Looks at the lines of one head, wherever reads are cut.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lines {
    lengths: u8,
    codings: u8,
    has_bare_line_feed: bool,
    /// The byte before the next one.
    last: u8,
    /// Bytes of the current line seen so far; no more than a name has.
    column: u8,
    /// The current line may still begin with one of the names.
    may_be_length: bool,
    may_be_coding: bool,
}

impl Lines {
    /// Takes the next bytes of the head in.
    pub(super) fn see(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.begin_of_line(piece);
            let before_last = piece.len().checked_sub(2).and_then(|at| piece.get(at));
            if piece.ends_with(b"\n") {
                self.has_bare_line_feed |= *before_last.unwrap_or(&self.last) != b'\r';
                self.column = 0;
            }
            self.last = piece.last().copied().unwrap_or(self.last);
        }
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

    fn begin_of_line(&mut self, piece: &[u8]) {
        if self.column == 0 {
            (self.may_be_length, self.may_be_coding) = (true, true);
        }
        for byte in piece {
            if !self.may_be_length && !self.may_be_coding {
                break;
            }
            let at = usize::from(self.column);
            self.may_be_length &= LENGTH
                .get(at)
                .is_some_and(|it| byte.eq_ignore_ascii_case(it));
            self.may_be_coding &= CODING
                .get(at)
                .is_some_and(|it| byte.eq_ignore_ascii_case(it));
            self.column += 1;
            if self.may_be_length && at + 1 == LENGTH.len() {
                self.lengths = self.lengths.saturating_add(1);
                self.may_be_length = false;
            }
            if self.may_be_coding && at + 1 == CODING.len() {
                self.codings = self.codings.saturating_add(1);
                self.may_be_coding = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubt(head: &str) -> Option<Doubt> {
        let mut whole = Lines::default();
        whole.see(head.as_bytes());
        for cut in 0..=head.len() {
            let (first, second) = head.as_bytes().split_at(cut);
            let mut cut_in_two = Lines::default();
            cut_in_two.see(first);
            cut_in_two.see(second);
            assert_eq!(cut_in_two.doubt(), whole.doubt(), "cut at {cut}");
        }
        whole.doubt()
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
