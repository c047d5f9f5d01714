//! YAML and JSON text, read into nodes that know their place.
//!
//! JSON is a subset of YAML, so there is one reader. It stands on the event parser below serde-saphyr, because events
//! carry the place of every key and value, and because reading stops at the first bound that is passed: nothing is
//! built that was not asked for. Scalars are resolved by the core schema of YAML 1.2 (`yes` is a string), merge keys
//! (`<<`) and aliases are expanded, duplicate keys and tags of one's own are errors.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use saphyr_parser_bw::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use super::problem::{Problem, Severity, shortened};

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
    /// The text it was read from.
    pub source: Source,
}

/// Part of a file's text: one document, or several where they cannot be told apart before they are read.
///
/// Nodes take ten times the memory of their text, so it is the text that is kept, and read again when something is
/// wrong with it.
#[derive(Clone, Debug)]
pub struct Source {
    /// The text.
    pub text: Arc<str>,
    /// How many lines of the file stand before it.
    pub lines_before: u32,
    /// How many documents of the file begin before it.
    pub documents_before: u32,
}

impl Source {
    /// The document of this number, read again.
    pub(crate) fn document(&self, file: &Arc<str>, number: u32) -> Option<Document> {
        let reading = read_source(file, self);
        let mut documents = reading.documents.into_iter();
        let document = documents.find(|document| document.number == number)?;
        Some(Arc::unwrap_or_clone(document))
    }
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
    let file: Arc<str> = file.into();
    let text = match utf8(&file, text) {
        Ok(text) => text,
        Err(problem) => return (Vec::new(), vec![*problem]),
    };
    let mut documents = Vec::new();
    let mut before = Before::default();
    for piece in pieces(text) {
        let source = before.source(piece);
        let reading = read_source(&file, &source);
        documents.extend(reading.documents);
        if let Some(mistake) = reading.mistake {
            return (documents, vec![mistake]);
        }
        before.pass(piece, reading.count);
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

/// What of a file stands before a piece of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Before {
    pub(crate) lines: u32,
    pub(crate) documents: u32,
}

impl Before {
    /// The piece that stands here.
    pub(crate) fn source(self, piece: &str) -> Source {
        Source {
            text: piece.into(),
            lines_before: self.lines,
            documents_before: self.documents,
        }
    }

    /// Goes on to the next piece.
    pub(crate) fn pass(&mut self, piece: &str, documents: u32) {
        let lines = memchr::memchr_iter(b'\n', piece.as_bytes()).count();
        let lines = u32::try_from(lines).unwrap_or(u32::MAX);
        self.lines = self.lines.saturating_add(lines);
        self.documents = self.documents.saturating_add(documents);
    }
}

/// Cuts a file into documents, so that those which did not change need not be read again.
///
/// A line that begins with `---` begins a document wherever it stands (YAML 1.2, section 9.1.2 and `c-forbidden`), even
/// within quotes and block scalars, where it ends what was open. A file that uses more of YAML's stream (directives, `...`, line
/// ends of old), or keeps the ends of texts (`|+`), stays whole.
pub(crate) fn pieces(text: &str) -> Vec<&str> {
    let is_plain_stream = !["%", "..."].iter().any(|mark| text.starts_with(mark))
        && ![
            "\n%", "\n...", "\r---", "\0", "|+", ">+", "\u{2028}", "\u{2029}", "\u{85}",
        ]
        .iter()
        .any(|mark| text.contains(mark));
    if !is_plain_stream {
        return vec![text];
    }
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut from = 0;
    while let Some(at) = rest.get(from..).and_then(|text| text.find("\n---")) {
        let at = from + at + 1;
        let is_marker = matches!(
            rest.as_bytes().get(at + 3),
            None | Some(b' ' | b'\t' | b'\r' | b'\n')
        );
        match rest.split_at_checked(at) {
            Some((piece, next)) if is_marker => {
                pieces.push(piece);
                rest = next;
                from = 0;
            }
            _ => from = at,
        }
    }
    pieces.push(rest);
    // The parser reads an empty block scalar at the end of its input otherwise than before a `---`.
    let ends_in_block = |piece: &&str| {
        let last = piece.trim_end().rsplit('\n').next();
        last.is_some_and(|line| line.contains(['|', '>']))
    };
    if pieces.iter().any(ends_in_block) {
        return vec![text];
    }
    pieces
}

/// Reads the documents of a source.
pub(crate) fn read_source(file: &Arc<str>, source: &Source) -> Reading {
    let mut reader = Reader {
        file: Arc::clone(file),
        source,
        events: Parser::new_from_str(&source.text),
        number: source.documents_before,
        start: 0,
        nodes: 0,
        anchors: HashMap::new(),
    };
    let mut reading = Reading::default();
    loop {
        match reader.document() {
            Ok(Some(document)) if matches!(document.root.value, Value::Null) => {}
            Ok(Some(document)) => reading.documents.push(Arc::new(document)),
            Ok(None) => break,
            Err(problem) => {
                reading.mistake = Some(*problem);
                break;
            }
        }
    }
    reading.count = reader.number - source.documents_before;
    reading
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

type Failed = Box<Problem>;

struct Reader<'text> {
    file: Arc<str>,
    source: &'text Source,
    events: Parser<'text, StrInput<'text>>,
    /// Number of the document being read.
    number: u32,
    /// Where it began, in characters from the beginning of the source.
    start: usize,
    /// Its nodes so far, expanded ones included.
    nodes: usize,
    /// Its anchors: what they stand for, and how many nodes that is.
    anchors: HashMap<usize, (Node, usize)>,
}

impl<'text> Reader<'text> {
    /// The next document; none at the end of the file.
    fn document(&mut self) -> Result<Option<Document>, Failed> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(None),
                Event::DocumentStart(_) => {
                    self.number += 1;
                    if self.number > MAX_DOCUMENTS {
                        return Err(self.bound(
                            span,
                            format!("more than {MAX_DOCUMENTS} documents in one file"),
                        ));
                    }
                    self.start = span.start.index();
                    self.nodes = 0;
                    self.anchors.clear();
                    let (event, span) = self.next()?;
                    let root = self.node(event, span, 0)?;
                    return Ok(Some(Document {
                        file: self.file.clone(),
                        number: self.number,
                        root,
                        source: self.source.clone(),
                    }));
                }
                _ => {}
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'text>, Span), Failed> {
        let (event, span) = match self.events.next_event() {
            Some(Ok(found)) => found,
            Some(Err(error)) => return Err(self.syntax(&error)),
            None => return Ok((Event::StreamEnd, Span::empty(Marker::new(0, 0, 0)))),
        };
        if self.number > 0 && span.end.index().saturating_sub(self.start) > MAX_DOCUMENT_CHARS {
            let message = format!("the document is longer than {MAX_DOCUMENT_CHARS} characters");
            return Err(self.bound(span, message));
        }
        Ok((event, span))
    }

    fn node(&mut self, event: Event<'text>, span: Span, depth: usize) -> Result<Node, Failed> {
        if depth > MAX_DEPTH {
            return Err(self.bound(
                span,
                format!("lists and maps are nested more than {MAX_DEPTH} deep"),
            ));
        }
        self.count(1, span)?;
        let nodes_before = self.nodes - 1;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                (self.scalar(&text, style, tag.as_deref(), span)?, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.known_tag(tag.as_deref(), span)?;
                (self.list(depth)?, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                self.known_tag(tag.as_deref(), span)?;
                (self.map(depth)?, anchor)
            }
            Event::Alias(anchor) => return self.alias(anchor, span),
            _ => return Err(self.problem(span, "a value is missing here")),
        };
        let node = Node {
            at: self.position(&span.start),
            value,
        };
        if anchor > 0 {
            self.anchors
                .insert(anchor, (node.clone(), self.nodes - nodes_before));
        }
        Ok(node)
    }

    fn count(&mut self, nodes: usize, span: Span) -> Result<(), Failed> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_DOCUMENT_NODES {
            let message =
                format!("the document has more than {MAX_DOCUMENT_NODES} values, aliases expanded");
            return Err(self.bound(span, message));
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<Node, Failed> {
        let Some((_, size)) = self.anchors.get(&anchor) else {
            return Err(self.problem(span, "the alias stands inside what it names"));
        };
        self.count(*size, span)?; // before the copy is made
        match self.anchors.get(&anchor) {
            Some((node, _)) => Ok(node.clone()),
            None => Err(self.problem(span, "the alias names nothing")),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, Failed> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, Failed> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut lines: HashMap<String, u32> = HashMap::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let key = self.key(event, span)?;
            let (event, value_span) = self.next()?;
            let value = self.node(event, value_span, depth + 1)?;
            if key.name == "<<" {
                merged.push((value, span));
                continue;
            }
            if let Some(line) = lines.insert(key.name.clone(), key.at.line) {
                let message = format!("the key {:?} stands here twice", key.name);
                let problem = self.problem(span, message);
                return Err(Box::new(
                    problem.remedy(format!("it is already in line {line}: keep one of them")),
                ));
            }
            entries.push((key, value));
        }
        for (value, span) in merged {
            self.merge(&mut entries, value, span)?;
        }
        Ok(Value::Map(entries))
    }

    fn key(&mut self, event: Event<'text>, span: Span) -> Result<Key, Failed> {
        match event {
            Event::Scalar(text, ..) => Ok(Key {
                at: self.position(&span.start),
                name: text.into_owned(),
            }),
            Event::Alias(anchor) => match self.anchors.get(&anchor).map(|(node, _)| &node.value) {
                Some(Value::String(name)) => Ok(Key {
                    at: self.position(&span.start),
                    name: name.clone(),
                }),
                _ => Err(self.problem(span, "a key must be a string")),
            },
            _ => Err(self.problem(span, "a key must be a string")),
        }
    }

    /// Adds the entries of `<<: *alias` that are not there yet.
    fn merge(
        &mut self,
        entries: &mut Vec<(Key, Node)>,
        value: Node,
        span: Span,
    ) -> Result<(), Failed> {
        match value.value {
            Value::Map(more) => {
                for (key, value) in more {
                    if entries.iter().all(|(known, _)| known.name != key.name) {
                        entries.push((key, value));
                    }
                }
                Ok(())
            }
            Value::List(maps) if maps.iter().all(|map| matches!(map.value, Value::Map(_))) => maps
                .into_iter()
                .try_for_each(|map| self.merge(entries, map, span)),
            _ => Err(self.problem(
                span,
                "only a map, or a list of maps, can be merged with \"<<\"",
            )),
        }
    }

    fn scalar(
        &self,
        text: &str,
        style: ScalarStyle,
        tag: Option<&Tag>,
        span: Span,
    ) -> Result<Value, Failed> {
        self.known_tag(tag, span)?;
        let is_string = style != ScalarStyle::Plain || tag.is_some_and(|tag| tag.suffix == "str");
        Ok(if is_string {
            Value::String(text.to_owned())
        } else {
            resolve(text)
        })
    }

    fn known_tag(&self, tag: Option<&Tag>, span: Span) -> Result<(), Failed> {
        let Some(tag) = tag else { return Ok(()) };
        let plain = ["str", "int", "float", "bool", "null", "map", "seq"];
        if tag.is_yaml_core_schema() && plain.contains(&tag.suffix.as_str()) {
            return Ok(());
        }
        let problem = self.problem(span, format!("the tag {tag} means nothing here"));
        Err(Box::new(problem.remedy("remove the tag")))
    }

    fn syntax(&self, error: &ScanError) -> Failed {
        let at = self.position(error.marker());
        let line = error.marker().line().saturating_sub(1);
        let line = self.source.text.lines().nth(line).unwrap_or_default();
        let indentation = line.chars().take_while(|c| c.is_whitespace());
        let remedy = if indentation.clone().any(|c| c == '\t') {
            "the line is indented with a tab: use spaces"
        } else {
            ""
        };
        let mut problem = self.at(at, format!("this is not YAML: {}", error.info()));
        problem.value = shortened(line.trim());
        Box::new(problem.remedy(remedy))
    }

    /// A place in the file.
    fn position(&self, marker: &Marker) -> Position {
        let mut at = Position::from(marker);
        at.line = at.line.saturating_add(self.source.lines_before);
        at
    }

    fn bound(&self, span: Span, message: String) -> Failed {
        Box::new(self.problem(span, message).remedy("split it into several"))
    }

    fn problem(&self, span: Span, message: impl Into<String>) -> Failed {
        Box::new(self.at(self.position(&span.start), message))
    }

    fn at(&self, at: Position, message: impl Into<String>) -> Problem {
        Problem {
            severity: Severity::Error,
            file: self.file.to_string(),
            document: self.number.max(1),
            line: at.line,
            column: at.column,
            field: String::new(),
            value: String::new(),
            message: message.into(),
            remedy: String::new(),
        }
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

/// A plain scalar by the core schema of YAML 1.2, section 10.3.2.
///
/// Digits after a leading zero stay a string: YAML 1.1 read them as octal, and a wrong guess is worse than a question.
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        let has_leading_zero = digits.len() > 1 && digits.starts_with('0');
        return match text.parse() {
            Ok(number) if !has_leading_zero => Value::Int(number),
            Err(_) if !has_leading_zero => Value::Number(text.to_owned()),
            _ => Value::String(text.to_owned()),
        };
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(Ok(number)) = text
            .strip_prefix(prefix)
            .map(|rest| i64::from_str_radix(rest, radix))
        {
            return Value::Int(number);
        }
    }
    if is_float(digits) {
        return Value::Number(text.to_owned());
    }
    Value::String(text.to_owned())
}

fn is_float(unsigned: &str) -> bool {
    let looks_like_one = unsigned
        .bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'-' | b'+'))
        && unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    matches!(
        unsigned,
        ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN"
    ) || (looks_like_one && unsigned.parse::<f64>().is_ok())
}

#[cfg(test)]
mod tests;
