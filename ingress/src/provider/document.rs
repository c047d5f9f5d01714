//! YAML and JSON text, read into nodes that know their place.
//!
//! JSON is a subset of YAML, so there is one reader. It stands on the event parser below serde-saphyr, because events
//! carry the place of every key and value, and because reading stops at the first bound that is passed: nothing is
//! built that was not asked for. Scalars are resolved by the core schema of YAML 1.2 (`yes` is a string), merge keys
//! (`<<`) and aliases are expanded, duplicate keys and tags of one's own are errors.

mod pieces;
mod reader;
mod scalar;
mod source;

use std::fmt;
use std::sync::Arc;

use saphyr_parser_bw::Marker;

pub(crate) use self::pieces::pieces;
pub(crate) use self::reader::read_source;
pub(crate) use self::source::{Before, Fingerprint};
pub use self::source::{Source, Text};
use super::problem::{Problem, Severity};

/// The longest document, in characters. Twice what an API server stores.
pub const MAX_DOCUMENT_CHARS: usize = 3 << 20;
/// The most nodes of one document, after aliases are expanded.
pub const MAX_DOCUMENT_NODES: usize = 200_000;
/// The most documents of one file.
pub const MAX_DOCUMENTS: u32 = 50_000;
/// The deepest nesting of lists and maps.
pub const MAX_DEPTH: usize = 64;

/// A place in a file, both counted from 1; columns are characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

impl From<&Marker> for Position {
    fn from(marker: &Marker) -> Self {
        let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            line: clamp(marker.line()),
            column: clamp(marker.col().saturating_add(1)),
        }
    }
}

/// One document of a file.
#[derive(Clone, Debug)]
pub struct Document {
    /// The file, as it was named.
    pub file: Arc<str>,
    /// Which document of the file, counted from 1.
    pub number: u32,
    /// What it says.
    pub root: Node,
    /// Where its text is found again.
    pub source: Arc<Source>,
}

/// What was read from a [`Source`].
#[derive(Debug, Default)]
pub struct Reading {
    /// Its documents, but for empty ones.
    pub documents: Vec<Arc<Document>>,
    /// How many there are, empty ones included.
    pub count: u32,
    /// The mistake that ended the reading, if one did.
    pub mistake: Option<Problem>,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it begins.
    pub at: Position,
    /// What it is.
    pub value: Value,
}

/// A value as the core schema of YAML 1.2 understands it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing, `null` or `~`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number, as written.
    Number(String),
    /// A string.
    String(String),
    /// A list.
    List(Vec<Node>),
    /// A map in the order it was written; keys are unique.
    Map(Vec<(Key, Node)>),
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

/// The key of a map entry and where it stands.
#[derive(Clone, Debug)]
pub struct Key {
    /// Where it begins.
    pub at: Position,
    /// The key, as a string: JSON knows no others.
    pub name: String,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Document {
    /// The place of a field and its value; when there is no such field, the place of the nearest that contains it.
    pub fn find(&self, path: &str) -> (Position, Option<&Node>) {
        let mut at = self.root.at;
        let mut node = &self.root;
        for step in steps(path) {
            let next = match (&node.value, step) {
                (Value::Map(entries), Step::Key(name)) => entries
                    .iter()
                    .find(|(key, _)| key.name == name)
                    .map(|(key, value)| (key.at, value)),
                (Value::List(items), Step::Index(index)) => {
                    items.get(index).map(|item| (item.at, item))
                }
                _ => None,
            };
            let Some((found_at, found)) = next else {
                return (at, None);
            };
            at = found_at;
            node = found;
        }
        (at, Some(node))
    }
}

/// One step of a field path.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// The steps of `spec.list[3]["a.key"].name`.
fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut name = String::new();
    let mut rest = path.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '.' | '[' if !name.is_empty() => steps.push(Step::Key(std::mem::take(&mut name))),
            '.' | '[' => {}
            _ => name.push(c),
        }
        if c != '[' {
            continue;
        }
        if rest.next_if_eq(&'"').is_some() {
            let quoted: String = std::iter::from_fn(|| rest.next_if(|c| *c != '"')).collect();
            rest.by_ref().take(2).for_each(drop); // the closing quote and bracket
            steps.push(Step::Key(quoted));
        } else {
            let index: String = std::iter::from_fn(|| rest.next_if(char::is_ascii_digit)).collect();
            rest.next_if_eq(&']');
            steps.push(index.parse().map_or(Step::Key(index), Step::Index));
        }
    }
    if !name.is_empty() {
        steps.push(Step::Key(name));
    }
    steps
}

impl fmt::Display for Node {
    /// In one line, in the flow style, roughly as it was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Int(value) => write!(f, "{value}"),
            Value::Number(text) => f.write_str(text),
            Value::String(text) => write!(f, "{text:?}"),
            Value::List(items) => {
                f.write_str("[")?;
                for (i, item) in items.iter().enumerate().take(MAX_SHOWN_ITEMS) {
                    write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str(if items.len() > MAX_SHOWN_ITEMS {
                    ", …]"
                } else {
                    "]"
                })
            }
            Value::Map(entries) => {
                f.write_str("{")?;
                for (i, (key, value)) in entries.iter().enumerate().take(MAX_SHOWN_ITEMS) {
                    write!(f, "{}{}: {value}", if i == 0 { "" } else { ", " }, key.name)?;
                }
                f.write_str(if entries.len() > MAX_SHOWN_ITEMS {
                    ", …}"
                } else {
                    "}"
                })
            }
        }
    }
}

/// How many members of a list or map a message shows.
const MAX_SHOWN_ITEMS: usize = 4;

/// Reads all documents of a file.
///
/// Empty documents are left out, but counted. After the first mistake in the syntax reading stops, and the documents
/// before it are returned beside the problem.
pub fn read(file: &str, text: &[u8]) -> (Vec<Arc<Document>>, Vec<Problem>) {
    let said = match utf8(&file.into(), text) {
        Ok(said) => said,
        Err(problem) => return (Vec::new(), vec![*problem]),
    };
    let text = Text::of(file, said);
    let mut documents = Vec::new();
    let mut place = Before::default();
    for piece in pieces(said) {
        let reading = read_source(&Source::new(&text, place, piece), piece);
        documents.extend(reading.documents);
        if let Some(mistake) = reading.mistake {
            return (documents, vec![mistake]);
        }
        place.pass(piece, reading.count);
    }
    (documents, Vec::new())
}

/// The text of a file, without the mark of its encoding.
///
/// # Errors
///
/// When it is not UTF-8.
pub(crate) fn utf8<'text>(file: &Arc<str>, text: &'text [u8]) -> Result<&'text str, Box<Problem>> {
    match std::str::from_utf8(text) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').unwrap_or(text)),
        Err(error) => Err(Box::new(not_utf8(file, text, error.valid_up_to()))),
    }
}

/// The same of text that is kept: it is not copied.
///
/// # Errors
///
/// When it is not UTF-8.
pub(crate) fn into_utf8(file: &Arc<str>, text: Vec<u8>) -> Result<String, Box<Problem>> {
    let mut text = String::from_utf8(text).map_err(|error| {
        let valid_up_to = error.utf8_error().valid_up_to();
        Box::new(not_utf8(file, error.as_bytes(), valid_up_to))
    })?;
    if let Some(unmarked) = text.strip_prefix('\u{feff}') {
        text = unmarked.to_owned();
    }
    Ok(text)
}

/// Reads one document from text that is part of another, such as the value of a ConfigMap key.
///
/// # Errors
///
/// The first mistake in the syntax, with the line counted from the beginning of `text`.
pub fn read_one(name: &str, text: &str) -> Result<Option<Arc<Document>>, Box<Problem>> {
    let (mut documents, mut problems) = read(name, text.as_bytes());
    match problems.pop() {
        Some(problem) => Err(Box::new(problem)),
        None => Ok(documents.pop()),
    }
}

fn not_utf8(file: &Arc<str>, text: &[u8], valid_up_to: usize) -> Problem {
    let before = String::from_utf8_lossy(text.get(..valid_up_to).unwrap_or_default());
    let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let last_line = before.rsplit('\n').next().unwrap_or_default();
    Problem {
        severity: Severity::Error,
        file: file.to_string(),
        document: 0,
        line: clamp(before.matches('\n').count() + 1),
        column: clamp(last_line.chars().count() + 1),
        field: String::new(),
        value: String::new(),
        message: "the file is not UTF-8 text".into(),
        remedy: "save it as UTF-8".into(),
    }
}

#[cfg(test)]
mod tests;
