//! HTTP/1 messages that two programs might read differently, each with what Parkway makes of it.

use std::fmt;

use bytes::Bytes;

use crate::recorder::Seen;

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// This status is the only answer, nothing reaches an endpoint, the connection is closed.
    Refused(u16),
    /// The message is read as these requests, and so is what comes behind.
    Reads(Vec<Seen>),
    /// The head passes, the body turns out to be none: 400 or nothing, no endpoint sees a whole request, the connection is
    /// closed.
    Broken,
}

/// A message and its outcome.
#[derive(Clone)]
pub(crate) struct Message {
    pub(crate) what: String,
    pub(crate) wire: Bytes,
    pub(crate) outcome: Outcome,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wire = &self.wire[..self.wire.len().min(400)];
        write!(f, "{}: {:?}", self.what, String::from_utf8_lossy(wire))
    }
}

/// Stands for the host in a message.
pub(crate) const HOST: &str = "HOST";

/// What must never be read as a request. Its length must not change, so its host is one that is always there.
pub(crate) const SMUGGLED: &str =
    "GET /smuggled HTTP/1.1\r\nHost: letter.default.localhost\r\n\r\n";

fn message(what: impl fmt::Display, wire: impl Into<Vec<u8>>, outcome: Outcome) -> Message {
    Message {
        what: what.to_string(),
        wire: Bytes::from(wire.into()),
        outcome,
    }
}

fn reads(method: &str, target: &str, body: impl Into<Bytes>) -> Outcome {
    Outcome::Reads(vec![Seen::new(method, HOST, target, body)])
}

/// A POST with these lines behind its Host, then this.
fn post(lines: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: HOST\r\n{lines}\r\n{body}")
}

/// All messages.
pub(crate) fn all() -> Vec<Message> {
    [
        lengths_and_codings(),
        lengths(),
        codings(),
        chunks(),
        trailers(),
        lines(),
        names_and_values(),
        request_lines(),
        hosts(),
        versions(),
        upgrades(),
        sizes(),
        ordinary(),
    ]
    .concat()
}

/// CL.TE, TE.CL.
fn lengths_and_codings() -> Vec<Message> {
    let body = format!("0\r\n\r\n{SMUGGLED}");
    let length = format!("Content-Length: {}\r\n", body.len());
    let coding = "Transfer-Encoding: chunked\r\n";
    [
        format!("{length}{coding}"),
        format!("{coding}{length}"),
        format!("{coding}X-Between: 1\r\n{length}"),
        format!("Content-Length: 0\r\n{coding}"),
        format!("{coding}Content-Length: x\r\n"),
        "Content-Length: 5\r\nTransfer-Encoding: identity\r\n".to_owned(),
    ]
    .into_iter()
    .map(|lines| {
        message(
            "length beside coding",
            post(&lines, &body),
            Outcome::Refused(400),
        )
    })
    .collect()
}

/// Lengths, alone and several.
fn lengths() -> Vec<Message> {
    let refused = [
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 0\r\n",
        "Content-Length: 0\r\ncontent-length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: 5,0\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: -0\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5.0\r\n",
        "Content-Length: 5;\r\n",
        "Content-Length: \"5\"\r\n",
        "Content-Length:\r\n",
        "Content-Length: \u{b}5\r\n",
        "Content-Length: 5\u{a0}\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length: 18446744073709551621\r\n",
        "Content-Length : 5\r\n",
        "Content-Length\t: 5\r\n",
        "Content-Length\u{b}: 5\r\n",
        "Content-Length\0: 5\r\n",
        "Content Length: 5\r\n",
        "Content-Length\r\n",
        "Content-Length:\r\n 5\r\n",
        "X: 1\r\n Content-Length: 5\r\n",
        " Content-Length: 5\r\n",
        "\u{feff}Content-Length: 5\r\n",
    ];
    let refused = refused.map(|lines| {
        message(
            "doubtful length",
            post(lines, "hello"),
            Outcome::Refused(400),
        )
    });
    let read = [
        "Content-Length: 5\r\n",
        "content-LENGTH:5\r\n",
        "Content-Length: \t5 \t\r\n",
        "Content-Length: 005\r\n",
        "Connection: content-length\r\nContent-Length: 5\r\n",
        // Another name, whatever some make of it.
        "X-Content-Length: 9\r\nContent-Length: 5\r\n",
    ];
    let read = read.map(|lines| {
        message(
            "clear length",
            post(lines, "hello"),
            reads("POST", "/", "hello"),
        )
    });
    let hidden = message(
        "a request in a body",
        post(&format!("Content-Length: {}\r\n", SMUGGLED.len()), SMUGGLED),
        reads("POST", "/", SMUGGLED),
    );
    refused.into_iter().chain(read).chain([hidden]).collect()
}

/// TE.TE.
fn codings() -> Vec<Message> {
    let body = format!("0\r\n\r\n{SMUGGLED}");
    let refused = [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: identity, chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked,\r\n",
        "Transfer-Encoding: ,chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunkedx\r\n",
        "Transfer-Encoding: chunked;q=1\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: \u{b}chunked\r\n",
        "Transfer-Encoding: chunked\u{c}\r\n",
        "Transfer-Encoding: chun\0ked\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding\t: chunked\r\n",
        "Transfer-Encoding\u{1}: chunked\r\n",
        " Transfer-Encoding: chunked\r\n",
        "X: 1\nTransfer-Encoding: chunked\r\n",
        "X: 1\rTransfer-Encoding: chunked\r\n",
        "\rTransfer-Encoding: chunked\r\n",
    ];
    let refused =
        refused.map(|lines| message("doubtful coding", post(lines, &body), Outcome::Refused(400)));
    let read = [
        "Transfer-Encoding: chunked\r\n",
        "TRANSFER-ENCODING: CHUNKED\r\n",
        "transfer-encoding:\tchunked \r\n",
        "Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n",
    ];
    let read = read.map(|lines| {
        message(
            "clear coding",
            post(lines, "5\r\nhello\r\n0\r\n\r\n"),
            reads("POST", "/", "hello"),
        )
    });
    refused.into_iter().chain(read).collect()
}

fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", body)
}

fn chunks() -> Vec<Message> {
    let extended = |length| format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(length));
    // Twice as much as may be, and far more.
    let (long, very_long) = (extended(2_048), extended(20_000));
    let broken = [
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "\t5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5h\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "5,5\r\nhello\r\n0\r\n\r\n",
        "\"5\"\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        ";a=b\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "00000000000000005\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\rhello\r\n0\r\n\r\n",
        "5;a\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;a=\"\n\"\r\nhello\r\n0\r\n\r\n",
        "5;a\0\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello world\r\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
        "5\r\nhello\r\n0\r\n\rx",
        &long,
        &very_long,
    ];
    let broken = broken.map(|body| message("malformed chunks", chunked(body), Outcome::Broken));
    let read = [
        "5\r\nhello\r\n0\r\n\r\n",
        "05\r\nhello\r\n000\r\n\r\n",
        "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0 \r\n\r\n",
        "5;a\r\nhello\r\n0;b=c\r\n\r\n",
        "5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n",
        "5;a=\"\t\"\r\nhello\r\n0\r\n\r\n",
        &extended(1_000),
    ];
    let read = read.map(|body| message("clear chunks", chunked(body), reads("POST", "/", "hello")));
    let hidden = format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len());
    let hidden = message(
        "a request in a chunk",
        chunked(&hidden),
        reads("POST", "/", SMUGGLED),
    );
    broken.into_iter().chain(read).chain([hidden]).collect()
}

fn trailers() -> Vec<Message> {
    let hidden_behind_line_feeds = format!("5\r\nhello\r\n0\r\nX: 1\n\n{SMUGGLED}\r\n");
    let broken = [
        hidden_behind_line_feeds.as_str(),
        "5\r\nhello\r\n0\r\nX: 1\n\r\n",
        "5\r\nhello\r\n0\r\nX: 1\r\r\n",
        "5\r\nhello\r\n0\r\nX: 1\rY: 1\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: \0\r\n\r\n",
        "5\r\nhello\r\n0\r\nX : 1\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: 1\r\n folded\r\n\r\n",
        "5\r\nhello\r\n0\r\nno field\r\n\r\n",
    ];
    let broken = broken.map(|body| message("malformed trailers", chunked(body), Outcome::Broken));
    let read = [
        "X: 1\r\n",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Host: elsewhere\r\n",
        "Connection: close\r\n",
    ];
    let read = read.map(|trailer| {
        message(
            "trailers",
            chunked(&format!("5\r\nhello\r\n0\r\n{trailer}\r\n")),
            reads("POST", "/", "hello"),
        )
    });
    broken.into_iter().chain(read).collect()
}

/// Line ends, folds, NUL.
fn lines() -> Vec<Message> {
    [
        "GET / HTTP/1.1\nHost: HOST\n\n",
        "GET / HTTP/1.1\r\nHost: HOST\n\r\n",
        "GET / HTTP/1.1\nHost: HOST\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: HOST\r\n\n",
        "GET / HTTP/1.1\r\nHost: HOST\rX: 1\r\n\r\n",
        "GET / HTTP/1.1\rHost: HOST\r\n\r\n",
        "GET / HTTP/1.1\r\r\nHost: HOST\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: HOST\r\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: HOST\r\nX: 1\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: HOST\r\nX: 1\r\n\tfolded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: HOST\r\nX: 1\r\n \r\n\r\n",
        "GET / HTTP/1.1\r\n Host: HOST\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: HOST\r\nX: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: HOST\r\nX: a\u{1}b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: HOST\r\nX: a\u{7f}b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: HOST\r\nX\0: a\r\n\r\n",
    ]
    .into_iter()
    .map(|wire| message("doubtful line", wire, Outcome::Refused(400)))
    .chain([message(
        "empty lines before a request",
        "\r\n\r\nGET / HTTP/1.1\r\nHost: HOST\r\n\r\n",
        reads("GET", "/", ""),
    )])
    .collect()
}

fn names_and_values() -> Vec<Message> {
    let refused = [
        "X Y: 1", "X\tY: 1", "X : 1", ": 1", "no field", "X(: 1", "X/: 1", "X\": 1", "X@: 1",
        "X[: 1", "Ã: 1", "X;: 1", "X,: 1", "{X}: 1", "X=: 1", "X\\: 1", "<: 1",
    ];
    let refused = refused.map(|line| {
        message(
            "no field",
            format!("GET / HTTP/1.1\r\nHost: HOST\r\n{line}\r\n\r\n"),
            Outcome::Refused(400),
        )
    });
    let read = [
        "X:1",
        "X:",
        "X: :",
        "X_Y: 1",
        "X.Y: 1",
        "!#$%&'*+-.^_`|~: 1",
        "X: \u{e9}",
        "X: a\tb",
    ];
    let read = read.map(|line| {
        message(
            "unusual field",
            format!("GET / HTTP/1.1\r\nHost: HOST\r\n{line}\r\n\r\n"),
            reads("GET", "/", ""),
        )
    });
    refused.into_iter().chain(read).collect()
}

fn request_lines() -> Vec<Message> {
    let refused = [
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET / HTTP/1.1 HTTP/1.1",
        "GET /",
        "GET",
        "/ HTTP/1.1",
        "GET / HTTP/1.1\0",
        "GET /\0 HTTP/1.1",
        "GET /\u{1} HTTP/1.1",
        "GET /\u{7f} HTTP/1.1",
        "GET\0 / HTTP/1.1",
        "GE\u{e9}T / HTTP/1.1",
        "G(T / HTTP/1.1",
        "GET: / HTTP/1.1",
        "GET shop HTTP/1.1",
        "GET HOST:80 HTTP/1.1",
        "GET ?x HTTP/1.1",
        "GET ../x HTTP/1.1",
        "GET ftp://HOST/ HTTP/1.1",
        "GET http:///x HTTP/1.1",
        "GET http://user@HOST/ HTTP/1.1",
        "GET * HTTP/1.1",
    ];
    let refused = refused.map(|line| {
        message(
            "doubtful request line",
            format!("{line}\r\nHost: HOST\r\n\r\n"),
            Outcome::Refused(400),
        )
    });
    let read = [
        ("PURGE / HTTP/1.1", "PURGE", "/"),
        ("get / HTTP/1.1", "get", "/"),
        ("OPTIONS * HTTP/1.1", "OPTIONS", "*"),
        ("GET //a/../b/./c HTTP/1.1", "GET", "//a/../b/./c"),
        ("GET /%00%0d%0a%2f HTTP/1.1", "GET", "/%00%0d%0a%2f"),
        ("GET /a;b=c?d=/e?f HTTP/1.1", "GET", "/a;b=c?d=/e?f"),
        ("GET http://HOST/a?b HTTP/1.1", "GET", "/a?b"),
        ("GET http://HOST HTTP/1.1", "GET", "/"),
        ("GET http://HOST?a HTTP/1.1", "GET", "/?a"),
        ("GET HTTP://HOST/ HTTP/1.1", "GET", "/"),
        ("GET https://HOST/a HTTP/1.1", "GET", "/a"),
        ("GET //elsewhere/a HTTP/1.1", "GET", "//elsewhere/a"),
        (
            "GET /http://elsewhere/ HTTP/1.1",
            "GET",
            "/http://elsewhere/",
        ),
    ];
    let read = read.map(|(line, method, target)| {
        message(
            "unusual request line",
            format!("{line}\r\nHost: HOST\r\n\r\n"),
            reads(method, target, ""),
        )
    });
    refused
        .into_iter()
        .chain(read)
        .chain([message(
            "CONNECT",
            "CONNECT HOST:80 HTTP/1.1\r\nHost: HOST:80\r\n\r\n",
            Outcome::Refused(405),
        )])
        .collect()
}

fn hosts() -> Vec<Message> {
    let refused = [
        ("/", ""),
        ("/", "Host: HOST\r\nHost: HOST\r\n"),
        ("/", "Host: HOST\r\nHost: elsewhere\r\n"),
        ("/", "Host:\r\n"),
        ("/", "Host: HOST, elsewhere\r\n"),
        ("/", "Host: HOST elsewhere\r\n"),
        ("/", "Host: HOST/path\r\n"),
        ("/", "Host: HOST#x\r\n"),
        ("/", "Host: HOST?x\r\n"),
        ("/", "Host: user@HOST\r\n"),
        ("/", "Host: HOST:port\r\n"),
        ("/", "Host: HOST:80:80\r\n"),
        ("/", "Host: HOST:99999\r\n"),
        ("/", "Host: HOST\\elsewhere\r\n"),
        ("/", "Host: HOST%2eelsewhere\r\n"),
        ("/", "Host: \"HOST\"\r\n"),
        ("/", "Host: HOST\u{e9}\r\n"),
        ("/", "Host: HOST\0elsewhere\r\n"),
        ("/", "Host : HOST\r\n"),
        ("http://HOST/", ""),
        ("http://HOST/", "Host: elsewhere\r\n"),
        ("http://elsewhere/", "Host: HOST\r\n"),
        ("http://HOST:80/", "Host: HOST:81\r\n"),
        ("http://HOST/", "Host: HOST\r\nHost: HOST\r\n"),
    ];
    let refused = refused.map(|(target, lines)| {
        message(
            "doubtful host",
            format!("GET {target} HTTP/1.1\r\n{lines}\r\n"),
            Outcome::Refused(400),
        )
    });
    let read = [
        ("/", "Host: HOST:8080\r\n", "HOST:8080"),
        ("/", "Host: HOST.\r\n", "HOST."),
        ("/", "host:HOST\r\n", HOST),
        ("/", "Connection: host\r\nHost: HOST\r\n", HOST),
        // What the target says counts (RFC 9112 section 3.2.2).
        ("http://HOST:80/", "Host: HOST\r\n", "HOST:80"),
        ("http://HOST/", "Host: HOST:80\r\n", HOST),
    ];
    let read = read.map(|(target, lines, host)| {
        message(
            "unusual host",
            format!("GET {target} HTTP/1.1\r\n{lines}\r\n"),
            Outcome::Reads(vec![Seen::new("GET", host, "/", "")]),
        )
    });
    refused.into_iter().chain(read).collect()
}

fn versions() -> Vec<Message> {
    let body = format!("0\r\n\r\n{SMUGGLED}");
    let refused = [
        format!(
            "POST / HTTP/1.0\r\nHost: HOST\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        ),
        format!(
            "POST / HTTP/1.0\r\nHost: HOST\r\nConnection: keep-alive\r\nContent-Length: {}\r\n\
             Transfer-Encoding: chunked\r\n\r\n{body}",
            body.len()
        ),
        "GET / HTTP/1.2\r\nHost: HOST\r\n\r\n".to_owned(),
        "GET / HTTP/2.0\r\nHost: HOST\r\n\r\n".to_owned(),
        "GET / HTTP/0.9\r\nHost: HOST\r\n\r\n".to_owned(),
        "GET / HTTP/1.10\r\nHost: HOST\r\n\r\n".to_owned(),
        "GET / HTTP/1,1\r\nHost: HOST\r\n\r\n".to_owned(),
        "GET / http/1.1\r\nHost: HOST\r\n\r\n".to_owned(),
        "GET / HTTP /1.1\r\nHost: HOST\r\n\r\n".to_owned(),
        "GET / HTTPS/1.1\r\nHost: HOST\r\n\r\n".to_owned(),
        "GET / \r\nHost: HOST\r\n\r\n".to_owned(),
    ];
    refused
        .into_iter()
        .map(|wire| message("doubtful version", wire, Outcome::Refused(400)))
        .chain([message(
            "HTTP/1.0 with a length",
            "POST / HTTP/1.0\r\nHost: HOST\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello",
            reads("POST", "/", "hello"),
        )])
        .collect()
}

fn upgrades() -> Vec<Message> {
    let with_body = ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"].map(|framing| {
        message(
            "an upgrade with a body",
            post(
                &format!("Connection: upgrade\r\nUpgrade: websocket\r\n{framing}"),
                "hello",
            ),
            Outcome::Refused(400),
        )
    });
    let ignored = [
        "Upgrade: websocket\r\n",
        "Connection: upgrade\r\n",
        "Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "Connection: upgrade\r\nUpgrade: h2c\r\n",
        "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
    ]
    .map(|lines| {
        message(
            "no upgrade",
            format!("GET / HTTP/1.1\r\nHost: HOST\r\n{lines}\r\n"),
            reads("GET", "/", ""),
        )
    });
    with_body.into_iter().chain(ignored).collect()
}

fn sizes() -> Vec<Message> {
    let x = |count: usize| "x".repeat(count);
    let fields = |count: usize| "X: 1\r\n".repeat(count);
    vec![
        message(
            "a long target",
            format!("GET /{} HTTP/1.1\r\nHost: HOST\r\n\r\n", x(20_000)),
            Outcome::Refused(414),
        ),
        message(
            "a very long target",
            format!("GET /{} HTTP/1.1\r\nHost: HOST\r\n\r\n", x(70_000)),
            Outcome::Refused(414),
        ),
        message(
            "a long value",
            format!("GET / HTTP/1.1\r\nHost: HOST\r\nX: {}\r\n\r\n", x(70_000)),
            Outcome::Refused(431),
        ),
        message(
            "a very long value",
            format!("GET / HTTP/1.1\r\nHost: HOST\r\nX: {}\r\n\r\n", x(200_000)),
            Outcome::Refused(431),
        ),
        message(
            "a long name",
            format!("GET / HTTP/1.1\r\nHost: HOST\r\n{}: 1\r\n\r\n", x(70_000)),
            Outcome::Refused(431),
        ),
        message(
            "many fields",
            format!("GET / HTTP/1.1\r\nHost: HOST\r\n{}\r\n", fields(129)),
            Outcome::Refused(431),
        ),
        message(
            "very many fields",
            format!("GET / HTTP/1.1\r\nHost: HOST\r\n{}\r\n", fields(5_000)),
            Outcome::Refused(431),
        ),
        message(
            "a long method",
            format!("{} / HTTP/1.1\r\nHost: HOST\r\n\r\n", x(65)),
            Outcome::Refused(400),
        ),
        message(
            "a very long method",
            format!("{} / HTTP/1.1\r\nHost: HOST\r\n\r\n", x(200_000)),
            Outcome::Refused(431),
        ),
        message(
            "a line without an end",
            format!("GET / HTTP/1.1\r\nHost: HOST\r\nX: {}", x(500_000)),
            Outcome::Refused(431),
        ),
        message(
            "as many fields as may be",
            format!("GET / HTTP/1.1\r\nHost: HOST\r\n{}\r\n", fields(127)),
            reads("GET", "/", ""),
        ),
    ]
}

fn ordinary() -> Vec<Message> {
    vec![
        message(
            "pipelined requests",
            "GET /1 HTTP/1.1\r\nHost: HOST\r\n\r\nPOST /2 HTTP/1.1\r\nHost: HOST\r\nContent-Length: 5\r\n\r\nhello\
             POST /3 HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            Outcome::Reads(vec![
                Seen::new("GET", HOST, "/1", ""),
                Seen::new("POST", HOST, "/2", "hello"),
                Seen::new("POST", HOST, "/3", "hello"),
            ]),
        ),
        message(
            "a GET with a body",
            "GET / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 5\r\n\r\nhello",
            reads("GET", "/", "hello"),
        ),
        message(
            "a GET with chunks",
            "GET / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            reads("GET", "/", "hello"),
        ),
        message(
            "a HEAD with a body",
            "HEAD / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 5\r\n\r\nhello",
            reads("HEAD", "/", "hello"),
        ),
        message(
            "an expectation that is met",
            post("Expect: 100-continue\r\nContent-Length: 5\r\n", "hello"),
            reads("POST", "/", "hello"),
        ),
    ]
}
