//! Bodies cut at every byte.

use super::*;

/// What a body of these bytes is: its data, its trailers, what is left, or why it is none.
type Read = Result<(Vec<u8>, Option<HeaderMap>, Bytes), Malformed>;

/// Reads a body that comes in two reads. `None` when it has not ended.
fn read(framing: Framing, wire: &[u8], cut: usize) -> Option<Read> {
    let (first, second) = wire.split_at(cut);
    let (mut framing, mut data, mut unread) = (framing, Vec::new(), Bytes::copy_from_slice(first));
    let mut coming = Some(second);
    loop {
        match framing.next(&mut unread) {
            Ok(Piece::Data(piece)) => data.extend_from_slice(&piece),
            Ok(Piece::Trailers(trailers)) => return Some(Ok((data, Some(trailers), unread))),
            Ok(Piece::End) => return Some(Ok((data, None, unread))),
            Ok(Piece::More) => unread = [&unread, coming.take()?].concat().into(),
            Err(malformed) => return Some(Err(malformed)),
        }
    }
}

/// As [`read`], the same wherever the bytes are cut.
fn read_anyhow(framing: Framing, wire: &str) -> Option<Read> {
    let whole = read(framing, wire.as_bytes(), wire.len());
    for cut in 0..wire.len() {
        let in_two = read(framing, wire.as_bytes(), cut);
        // Where the message ends nobody knows who has not read on.
        let of = |read: &Option<Read>| {
            read.clone()
                .map(|read| read.map(|(data, trailers, _)| (data, trailers)))
        };
        assert_eq!(of(&in_two), of(&whole), "cut at {cut}: {wire:?}");
    }
    whole
}

#[test]
fn a_body_of_known_length_ends_there() {
    let (data, trailers, rest) = read_anyhow(Framing::Length(4), "bodynext")
        .unwrap()
        .unwrap();
    assert_eq!(
        (&*data, trailers, &*rest),
        (&b"body"[..], None, &b"next"[..])
    );
    assert_eq!(read_anyhow(Framing::Length(9), "bodynext"), None);
}

#[test]
fn chunks_are_put_together_and_nothing_behind_them_is_taken() {
    let wire = "4\r\npark\r\nA;name=\"value\"\r\nway, again\r\n0\r\n\r\nnext";
    let (data, trailers, rest) = read_anyhow(Framing::CHUNKED, wire).unwrap().unwrap();
    assert_eq!(
        (&*data, trailers, &*rest),
        (&b"parkway, again"[..], None, &b"next"[..])
    );
}

#[test]
fn trailers_end_a_chunked_body() {
    let wire = "1\r\na\r\n0\r\nx-sum: 1\r\nx-sum: 2\r\n\r\nnext";
    let (data, trailers, rest) = read_anyhow(Framing::CHUNKED, wire).unwrap().unwrap();
    let sums: Vec<_> = trailers
        .as_ref()
        .unwrap()
        .get_all("x-sum")
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    assert_eq!(
        (&*data, sums, &*rest),
        (&b"a"[..], vec![&b"1"[..], b"2"], &b"next"[..])
    );
}

#[test]
fn what_is_no_chunk_is_refused() {
    for wire in [
        "x\r\n",
        "-1\r\na\r\n",
        " 1\r\na\r\n",
        ";ext\r\n",
        "1;\n\r\n",
        "\r\n",
        "1 2\r\na\r\n",
        "ffffffffffffffffff\r\n",
    ] {
        let refused = read_anyhow(Framing::CHUNKED, wire);
        assert_eq!(refused, Some(Err(Malformed::ChunkSize)), "{wire:?}");
    }
    for wire in ["1\r\nab\r\n", "1\r\na\n0\r\n\r\n", "1\r\na0\r\n\r\n"] {
        let refused = read_anyhow(Framing::CHUNKED, wire);
        assert_eq!(refused, Some(Err(Malformed::ChunkEnd)), "{wire:?}");
    }
    let refused = read_anyhow(Framing::CHUNKED, "0\r\nno colon\r\n\r\n");
    assert_eq!(refused, Some(Err(Malformed::Trailers)));
}

#[test]
fn framing_without_end_is_refused() {
    let extension = format!("1;{}", "e".repeat(SIZE_LINE));
    assert_eq!(
        read(Framing::CHUNKED, extension.as_bytes(), extension.len()),
        Some(Err(Malformed::ChunkSize))
    );
    let trailer = format!("0\r\nx: {}", "e".repeat(TRAILER_BYTES));
    assert_eq!(
        read(Framing::CHUNKED, trailer.as_bytes(), trailer.len()),
        Some(Err(Malformed::Trailers))
    );
    let many = format!("0\r\n{}\r\n", "x: 1\r\n".repeat(TRAILER_FIELDS + 1));
    assert_eq!(
        read(Framing::CHUNKED, many.as_bytes(), many.len()),
        Some(Err(Malformed::Trailers))
    );
}

#[test]
fn a_body_without_framing_goes_on_until_the_connection_ends() {
    let mut framing = Framing::UntilClose;
    let mut unread = Bytes::from_static(b"all of it");
    assert_eq!(
        framing.next(&mut unread),
        Ok(Piece::Data(Bytes::from_static(b"all of it")))
    );
    assert_eq!(framing.next(&mut unread), Ok(Piece::More));
    assert!(!framing.is_done());
}
