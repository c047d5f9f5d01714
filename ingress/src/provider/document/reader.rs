//! Events into nodes: aliases and merge keys expanded, duplicate keys refused, every bound looked at on the way.

use std::collections::HashMap;
use std::sync::Arc;

use saphyr_parser_bw::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use super::super::problem::{Problem, Severity, shortened};
use super::scalar::resolve;
use super::{
    Before, Document, Key, MAX_DEPTH, MAX_DOCUMENT_CHARS, MAX_DOCUMENT_NODES, MAX_DOCUMENTS, Node,
    Position, Reading, Source, Value,
};

/// Reads the documents of a source.
pub(crate) fn read_source(source: &Arc<Source>, text: &str) -> Reading {
    let place = source.place();
    let mut reader = Reader {
        source,
        place,
        text,
        events: Parser::new_from_str(text),
        number: place.documents,
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
    reading.count = reader.number - place.documents;
    reading
}

type Failed = Box<Problem>;

struct Reader<'text> {
    source: &'text Arc<Source>,
    place: Before,
    text: &'text str,
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
                        file: Arc::clone(self.source.file()),
                        number: self.number,
                        root,
                        source: Arc::clone(self.source),
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
        let line = self.text.lines().nth(line).unwrap_or_default();
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
        at.line = at.line.saturating_add(self.place.lines);
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
            file: self.source.file().to_string(),
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
