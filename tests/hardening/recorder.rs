//! An endpoint that writes down what it was asked, and takes nothing that could be read in two ways.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use parkway_tests::Upstream;
use parkway_tests::upstream::Connection;

/// A request as an endpoint reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) host: String,
    pub(crate) target: String,
    pub(crate) body: Bytes,
}

impl Seen {
    pub(crate) fn new(method: &str, host: &str, target: &str, body: impl Into<Bytes>) -> Self {
        Self {
            method: method.to_owned(),
            host: host.to_owned(),
            target: target.to_owned(),
            body: body.into(),
        }
    }
}

/// What came, in the order in which it was complete.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record(Arc<Mutex<Written>>);

#[derive(Debug, Default)]
struct Written {
    complete: Vec<Seen>,
    begun: usize,
    doubtful: Vec<String>,
}

impl Record {
    /// A head has come.
    pub(crate) fn begin(&self) {
        self.0.lock().begun += 1;
    }

    /// A whole request has come.
    pub(crate) fn complete(&self, seen: Seen) {
        self.0.lock().complete.push(seen);
    }

    /// A head has come that somebody else might read differently.
    fn doubt(&self, head: &str) {
        self.0.lock().doubtful.push(head.to_owned());
    }

    /// All that was written since the last time: whole requests, and how many had begun.
    ///
    /// # Panics
    ///
    /// When something doubtful came.
    pub(crate) fn take(&self) -> (Vec<Seen>, usize) {
        let written = std::mem::take(&mut *self.0.lock());
        assert_eq!(written.doubtful, [""; 0], "doubtful heads");
        (written.complete, written.begun)
    }
}

/// An endpoint that answers 200 to everything.
pub(crate) async fn recording() -> (Upstream, Record) {
    let record = Record::default();
    let upstream = Upstream::start({
        let record = record.clone();
        move |connection| serve(connection, record.clone())
    });
    (upstream.await, record)
}

async fn serve(mut connection: Connection, record: Record) {
    while let Ok(head) = connection.raw.try_until("\r\n\r\n").await {
        record.begin();
        let Some(framed) = Framed::read(&head) else {
            return record.doubt(&head);
        };
        let body = match framed.length {
            Length::Known(length) => connection.raw.try_exactly(length).await.ok(),
            Length::Chunked => {
                let (body, ended) = connection.raw.chunks().await;
                ended.ok().map(|_trailers| body)
            }
        };
        let Some(body) = body else {
            return;
        };
        let is_head = framed.method == "HEAD";
        record.complete(Seen::new(framed.method, framed.host, framed.target, body));
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n";
        connection
            .send(if is_head {
                answer.to_owned()
            } else {
                [answer, "ok"].concat()
            })
            .await;
    }
}

struct Framed<'a> {
    method: &'a str,
    host: &'a str,
    target: &'a str,
    length: Length,
}

enum Length {
    Known(usize),
    Chunked,
}

impl<'a> Framed<'a> {
    /// Reads a head to the letter; `None` where there is any doubt.
    fn read(head: &'a str) -> Option<Self> {
        let mut lines = head.strip_suffix("\r\n\r\n")?.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        let is_clear = words.next().is_none() && matches!(version, "HTTP/1.1" | "HTTP/1.0");
        let (mut hosts, mut lengths, mut codings) = (vec![], vec![], vec![]);
        for line in lines {
            let (name, value) = line.split_once(": ").or_else(|| line.split_once(':'))?;
            let is_token =
                |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            if name.is_empty() || !name.bytes().all(is_token) || value.contains(['\r', '\n', '\0'])
            {
                return None;
            }
            match name.to_ascii_lowercase().as_str() {
                "host" => hosts.push(value),
                "content-length" => lengths.push(value),
                "transfer-encoding" => codings.push(value),
                _ => {}
            }
        }
        let length = match (&lengths[..], &codings[..]) {
            ([], []) => Length::Known(0),
            ([length], []) => Length::Known(length.parse().ok()?),
            ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Length::Chunked,
            _ => return None,
        };
        let [host] = hosts[..] else {
            return None;
        };
        is_clear.then_some(Self {
            method,
            host,
            target,
            length,
        })
    }
}
