//! What was recorded in a real cluster, and how it is compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

/// The bytes of one request and of what answered it.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) request: Vec<u8>,
    pub(crate) response: Vec<u8>,
    /// Who got the request.
    pub(crate) to: String,
}

/// All exchanges of a file below `fixtures/`.
pub(crate) fn exchanges(path: &str) -> Vec<Exchange> {
    let recorded: Vec<Value> = serde_json::from_slice(&bytes(path)).unwrap();
    let bytes_of = |exchange: &Value, field: &str| hex(exchange[field].as_str().unwrap());
    recorded
        .iter()
        .map(|exchange| Exchange {
            request: bytes_of(exchange, "request_hex"),
            response: bytes_of(exchange, "response_hex"),
            to: exchange["to"].as_str().unwrap().to_owned(),
        })
        .collect()
}

pub(crate) fn bytes(path: &str) -> Vec<u8> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(path);
    fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks_exact(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// A message by HTTP/1 in a form in which equals mean the same: field names in lower case, fields in the order of their
/// names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) first_line: String,
    pub(crate) fields: BTreeMap<String, Vec<String>>,
    pub(crate) body: String,
}

impl Message {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut lines = head.split("\r\n");
        let first_line = lines.next().unwrap().to_owned();
        let mut fields = BTreeMap::<_, Vec<_>>::new();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            let values = fields.entry(name.to_ascii_lowercase()).or_default();
            values.push(value.to_owned());
        }
        Self {
            first_line,
            fields,
            body: body.to_owned(),
        }
    }

    /// The only value of a field.
    pub(crate) fn field(&self, name: &str) -> &str {
        match self.fields.get(name).map(Vec::as_slice) {
            Some([value]) => value,
            other => panic!("{name} is there as {other:?}"),
        }
    }

    /// The same with another value; the field must be there.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        let before = self.fields.insert(name.to_owned(), vec![value.to_owned()]);
        assert!(before.is_some(), "{name} is not there to be replaced");
        self
    }

    /// The same without a field that must be there.
    #[must_use]
    pub(crate) fn without(mut self, name: &str) -> Self {
        assert!(self.fields.remove(name).is_some(), "{name} is missing");
        self
    }

    /// The same with a field that must not be there.
    #[must_use]
    pub(crate) fn and(mut self, name: &str, value: &str) -> Self {
        let before = self.fields.insert(name.to_owned(), vec![value.to_owned()]);
        assert_eq!(before, None, "{name}");
        self
    }
}
