//! Heads from bytes and to bytes.

use super::*;

const BOUNDS: HeadBounds = HeadBounds {
    bytes: 400,
    fields: 8,
};

fn head_of(method: &Method, wire: &str) -> Result<Head, BadHead> {
    let mut unread = Bytes::copy_from_slice(wire.as_bytes());
    parse(&mut unread, method, BOUNDS).map(|head| head.expect("the head is complete"))
}

fn framing_of(fields: &str) -> Result<(Framing, bool), BadHead> {
    let head = head_of(&Method::GET, &format!("HTTP/1.1 200 OK\r\n{fields}\r\n"))?;
    Ok((head.framing, head.keeps_connection))
}

#[test]
fn a_head_is_read_when_it_is_complete_and_nothing_behind_it_is_taken() {
    let wire = b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nX-Twice: 1\r\nx-twice: caf\xe9\r\n\r\nbody";
    let end = wire.len() - 4;
    for cut in 1..end {
        let mut unread = Bytes::copy_from_slice(wire.get(..cut).unwrap());
        assert!(parse(&mut unread, &Method::GET, BOUNDS).unwrap().is_none());
        assert_eq!(unread.len(), cut);
    }
    let mut unread = Bytes::copy_from_slice(wire);
    let head = parse(&mut unread, &Method::GET, BOUNDS).unwrap().unwrap();

    assert_eq!(&*unread, b"body");
    assert_eq!(head.parts.status, StatusCode::NOT_FOUND);
    assert_eq!(head.framing, Framing::Length(4));
    let twice: Vec<_> = head.parts.headers.get_all("x-twice").iter().collect();
    assert_eq!(twice, [&b"1"[..], b"caf\xe9"]);
}

#[test]
fn a_body_is_framed_by_its_last_coding_else_its_length_else_the_connection() {
    let cases = [
        ("content-length: 7\r\n", Framing::Length(7), true),
        (
            "content-length: 7\r\nconnection: x, Close\r\n",
            Framing::Length(7),
            false,
        ),
        (
            "content-length: 7, 7\r\ncontent-length: 7\r\n",
            Framing::Length(7),
            true,
        ),
        ("transfer-encoding: Chunked\r\n", Framing::CHUNKED, true),
        (
            "transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n",
            Framing::CHUNKED,
            true,
        ),
        (
            "transfer-encoding: gzip, chunked\r\n",
            Framing::CHUNKED,
            true,
        ),
        ("transfer-encoding: gzip\r\n", Framing::UntilClose, false),
        (
            "transfer-encoding: chunked, gzip\r\n",
            Framing::UntilClose,
            false,
        ),
        (
            "content-length: 7\r\ntransfer-encoding: chunked\r\n",
            Framing::CHUNKED,
            false,
        ),
        ("", Framing::UntilClose, false),
    ];
    for (fields, framing, keeps) in cases {
        assert_eq!(framing_of(fields), Ok((framing, keeps)), "{fields:?}");
    }
}

#[test]
fn a_length_that_does_not_count_is_not_passed_on() {
    let wire = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\ntransfer-encoding: chunked\r\n\r\n";
    let head = head_of(&Method::GET, wire).unwrap();
    assert!(!head.parts.headers.contains_key(header::CONTENT_LENGTH));
    let wire = "HTTP/1.1 200 OK\r\ncontent-length: 7, 7\r\n\r\n";
    let head = head_of(&Method::GET, wire).unwrap();
    assert_eq!(head.parts.headers[header::CONTENT_LENGTH], "7");
}

#[test]
fn answers_without_content_end_with_their_head() {
    for status in ["100 Continue", "204 No Content", "304 Not Modified"] {
        let wire = format!("HTTP/1.1 {status}\r\ncontent-length: 7\r\n\r\n");
        assert_eq!(
            head_of(&Method::GET, &wire).unwrap().framing,
            Framing::EMPTY
        );
    }
    let wire = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n";
    let head = head_of(&Method::HEAD, wire).unwrap();
    assert_eq!(head.framing, Framing::EMPTY);
    assert_eq!(head.parts.headers[header::CONTENT_LENGTH], "7");
}

#[test]
fn http_1_0_closes_unless_it_says_otherwise() {
    let of = |fields: &str| {
        head_of(
            &Method::GET,
            &format!("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n{fields}\r\n"),
        )
        .map(|head| head.keeps_connection)
    };
    assert_eq!(of(""), Ok(false));
    assert_eq!(of("connection: keep-alive\r\n"), Ok(true));
    assert_eq!(of("transfer-encoding: chunked\r\n"), Err(BadHead::Coding));
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    for length in ["7, 8", "+7", "-1", "0x7", "7 7", "", "18446744073709551616"] {
        let refused = framing_of(&format!("content-length: {length}\r\n"));
        assert_eq!(refused, Err(BadHead::Length), "{length:?}");
    }
    let refused = framing_of("content-length: 7\r\ncontent-length: 8\r\n");
    assert_eq!(refused, Err(BadHead::Length));
    for fields in [
        "no colon\r\n",
        "name : value\r\n",
        "a: b\r\n folded\r\n",
        "a: b\0c\r\n",
    ] {
        assert!(
            matches!(framing_of(fields), Err(BadHead::Syntax(_))),
            "{fields:?}"
        );
    }
}

#[test]
fn heads_are_bounded() {
    let fields = "x: 1\r\n".repeat(BOUNDS.fields + 1);
    assert_eq!(
        framing_of(&fields),
        Err(BadHead::TooManyFields(BOUNDS.fields))
    );
    let field = format!("x: {}\r\n", "1".repeat(BOUNDS.bytes));
    assert_eq!(framing_of(&field), Err(BadHead::TooLong(BOUNDS.bytes)));
    let mut endless = Bytes::from(format!(
        "HTTP/1.1 200 OK\r\nx: {}",
        "1".repeat(BOUNDS.bytes)
    ));
    let refused = parse(&mut endless, &Method::GET, BOUNDS);
    assert_eq!(refused.unwrap_err(), BadHead::TooLong(BOUNDS.bytes));
}

#[test]
fn an_empty_path_is_written_as_the_root() {
    for (target, written) in [
        ("http://shop.example", "GET / HTTP/1.1\r\n\r\n"),
        (
            "http://shop.example?item=1",
            "GET /?item=1 HTTP/1.1\r\n\r\n",
        ),
    ] {
        let (head, ()) = http::Request::get(target).body(()).unwrap().into_parts();
        assert_eq!(write(&head, Length::NoBody), written.as_bytes());
    }
}

#[test]
fn a_request_says_how_it_is_framed_exactly_once() {
    let request = http::Request::post("http://shop.example/cart?item=1")
        .header("host", "shop.example")
        .header("content-length", "3")
        .header("transfer-encoding", "gzip, chunked")
        .header("x-latin", HeaderValue::from_bytes(b"caf\xe9").unwrap());
    let (head, ()) = request.body(()).unwrap().into_parts();
    let start = b"POST /cart?item=1 HTTP/1.1\r\nhost: shop.example\r\nx-latin: caf\xe9\r\n";
    for (length, framing) in [
        (Length::NoBody, "content-length: 0\r\n\r\n"),
        (Length::Known(3), "content-length: 3\r\n\r\n"),
        (Length::Chunked, "transfer-encoding: chunked\r\n\r\n"),
    ] {
        let expected = [start, framing.as_bytes()].concat();
        assert_eq!(write(&head, length), expected, "{length:?}");
    }
}
