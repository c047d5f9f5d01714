//! Reading a map of the document field by field, and complaining about the fields nobody asked for.
//!
//! A reader asks a [`Fields`] for each field it understands; what is left at the end is unknown, and that is an error:
//! a misspelt `containerConcurency` would otherwise be a limit that silently does not exist. Fields that Kubernetes
//! knows and that mean nothing here are asked for too, by [`Fields::inert`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::document::{Document, Key, Node, Value};
use super::problem::{Origin, Problem, Severity, did_you_mean};

/// The list of valid fields is shown up to this many.
const MAX_LISTED_FIELDS: usize = 12;

/// Where problems are collected while an object is read.
#[derive(Debug)]
pub(crate) struct Reading {
    origin: Origin,
    document: Arc<Document>,
    problems: RefCell<Vec<Problem>>,
}

impl Reading {
    /// An object that stands in this document.
    pub(crate) fn new(origin: Origin, document: &Arc<Document>) -> Self {
        Self {
            origin,
            document: Arc::clone(document),
            problems: RefCell::default(),
        }
    }

    pub(crate) fn origin(&self) -> Origin {
        self.origin.clone()
    }

    pub(crate) fn document(document: &Arc<Document>) -> Self {
        Self::new(Origin::of_document(document), document)
    }

    /// An error about a field of the object.
    pub(crate) fn problem(&self, field: impl Into<String>, message: impl Into<String>) -> Problem {
        self.origin.problem_in(Some(&self.document), field, message)
    }

    pub(crate) fn report(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }
}

/// A value that is being read: the node and its field path within the object.
#[derive(Debug)]
pub(crate) struct Field<'a> {
    reading: &'a Reading,
    path: String,
    node: &'a Node,
}

impl<'a> Field<'a> {
    pub(crate) fn root(reading: &'a Reading, node: &'a Node) -> Self {
        Self {
            reading,
            path: String::new(),
            node,
        }
    }

    pub(crate) fn node(&self) -> &'a Node {
        self.node
    }

    /// An error about this value.
    pub(crate) fn problem(&self, message: impl Into<String>) -> Problem {
        self.reading.problem(self.path.clone(), message)
    }

    pub(crate) fn report(&self, problem: Problem) {
        self.reading.report(problem);
    }

    fn wrong_type(&self, expected: &str, remedy: impl Into<String>) {
        let found = match self.node.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Int(_) | Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        };
        let problem = self.problem(format!("this must be {expected}, not {found}"));
        self.report(problem.remedy(remedy));
    }

    pub(crate) fn string(&self) -> Option<String> {
        match &self.node.value {
            Value::String(text) => return Some(text.clone()),
            Value::Int(_) | Value::Number(_) | Value::Bool(_) => {
                self.wrong_type("a string", format!("put it in quotes: \"{}\"", self.node));
            }
            Value::Null | Value::List(_) | Value::Map(_) => self.wrong_type("a string", ""),
        }
        None
    }

    pub(crate) fn boolean(&self) -> Option<bool> {
        if let Value::Bool(value) = self.node.value {
            return Some(value);
        }
        self.wrong_type("true or false", "");
        None
    }

    pub(crate) fn integer(&self, range: RangeInclusive<i64>) -> Option<i64> {
        match &self.node.value {
            Value::Int(number) if range.contains(number) => Some(*number),
            Value::Int(_) => {
                let (from, to) = (range.start(), range.end());
                self.report(if *to >= i64::from(u32::MAX) {
                    self.problem(format!("this must be at least {from}"))
                } else {
                    self.problem(format!("this must be from {from} to {to}"))
                });
                None
            }
            Value::String(text) if text.parse::<i64>().is_ok() => {
                self.wrong_type("a whole number", format!("write it without quotes: {text}"));
                None
            }
            _ => {
                self.wrong_type("a whole number", "");
                None
            }
        }
    }

    /// A whole number that fits 32 bits.
    pub(crate) fn u32(&self, range: RangeInclusive<u32>) -> Option<u32> {
        let number = self.integer(i64::from(*range.start())..=i64::from(*range.end()))?;
        u32::try_from(number).ok()
    }

    /// One of these words.
    pub(crate) fn word(&self, words: &[&str]) -> Option<String> {
        let word = self.string()?;
        if words.contains(&word.as_str()) {
            return Some(word);
        }
        let problem = self.problem(format!(
            "this must be one of {}",
            listed(words.iter().copied().filter(|word| !word.is_empty()))
        ));
        self.report(match did_you_mean(&word, words.iter().copied()) {
            Some(meant) => problem.remedy(format!("did you mean {meant}?")),
            None => problem,
        });
        None
    }

    pub(crate) fn items(&self) -> Vec<Self> {
        let Value::List(items) = &self.node.value else {
            self.wrong_type("a list", "begin each member with \"- \"");
            return Vec::new();
        };
        let field = |(index, node)| Field {
            reading: self.reading,
            path: format!("{}[{index}]", self.path),
            node,
        };
        items.iter().enumerate().map(field).collect()
    }

    pub(crate) fn strings(&self) -> Vec<String> {
        self.items().iter().filter_map(Field::string).collect()
    }

    /// A map from string to string, such as labels.
    pub(crate) fn string_map(&self) -> BTreeMap<String, String> {
        self.entries()
            .into_iter()
            .filter_map(|(key, field)| Some((key.name.clone(), field.string()?)))
            .collect()
    }

    /// The entries of a map with keys of the user's own.
    pub(crate) fn entries(&self) -> Vec<(&'a Key, Self)> {
        let Value::Map(entries) = &self.node.value else {
            self.wrong_type("a map", "write \"name: value\"");
            return Vec::new();
        };
        let field = |(key, node): &'a (Key, Node)| {
            let field = Field {
                reading: self.reading,
                path: format!("{}[\"{}\"]", self.path, key.name),
                node,
            };
            (key, field)
        };
        entries.iter().map(field).collect()
    }

    /// The fields of a map with keys of the API's; none when it is something else.
    pub(crate) fn fields(&self) -> Option<Fields<'a>> {
        let Value::Map(entries) = &self.node.value else {
            self.wrong_type("a map", "write \"name: value\"");
            return None;
        };
        Some(Fields {
            reading: self.reading,
            path: self.path.clone(),
            entries,
            known: Vec::new(),
        })
    }
}

/// The fields of a map, to be asked for by name.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    reading: &'a Reading,
    path: String,
    entries: &'a [(Key, Node)],
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    pub(crate) fn path_of(&self, name: &str) -> String {
        let is_plain = name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        match (is_plain, self.path.is_empty()) {
            (true, true) => name.to_owned(),
            (true, false) => format!("{}.{name}", self.path),
            (false, _) => format!("{}[\"{name}\"]", self.path),
        }
    }

    /// The field of this name; absent and `null` are the same.
    pub(crate) fn get(&mut self, name: &'static str) -> Option<Field<'a>> {
        self.known.push(name);
        let (_, node) = self.entries.iter().find(|(key, _)| key.name == name)?;
        (node.value != Value::Null).then(|| Field {
            reading: self.reading,
            path: self.path_of(name),
            node,
        })
    }

    /// The field of this name; an error when it is absent.
    pub(crate) fn required(&mut self, name: &'static str, remedy: &str) -> Option<Field<'a>> {
        let field = self.get(name);
        if field.is_none() {
            let problem = self.problem(format!("{} is missing", self.path_of(name)));
            self.reading.report(problem.remedy(remedy));
        }
        field
    }

    pub(crate) fn string(&mut self, name: &'static str) -> Option<String> {
        self.get(name)?.string()
    }

    pub(crate) fn string_map(&mut self, name: &'static str) -> BTreeMap<String, String> {
        self.get(name)
            .map(|field| field.string_map())
            .unwrap_or_default()
    }

    pub(crate) fn strings(&mut self, name: &'static str) -> Vec<String> {
        self.get(name)
            .map(|field| field.strings())
            .unwrap_or_default()
    }

    pub(crate) fn items(&mut self, name: &'static str) -> Vec<Field<'a>> {
        self.get(name)
            .map(|field| field.items())
            .unwrap_or_default()
    }

    /// Known to the API, without meaning here.
    pub(crate) fn inert(&mut self, names: &[&'static str]) {
        self.known.extend_from_slice(names);
    }

    /// Known to the API and meant to change what happens, but nothing here can act on it.
    pub(crate) fn cannot_act(
        &mut self,
        name: &'static str,
        severity: Severity,
        message: &str,
        remedy: &str,
    ) {
        let Some(field) = self.get(name) else { return };
        let is_empty = match &field.node.value {
            Value::List(items) => items.is_empty(),
            Value::Map(entries) => entries.is_empty(),
            _ => false,
        };
        if !is_empty {
            let problem = field.problem(message);
            field.report(problem.severity(severity).remedy(remedy));
        }
    }

    /// An error about the map.
    pub(crate) fn problem(&self, message: impl Into<String>) -> Problem {
        self.reading.problem(self.path.clone(), message)
    }

    pub(crate) fn report(&self, problem: Problem) {
        self.reading.report(problem);
    }

    /// Reports the fields nobody has asked for.
    pub(crate) fn finish(self) {
        for (key, _) in self.entries {
            if self.known.contains(&key.name.as_str()) {
                continue;
            }
            let path = self.path_of(&key.name);
            let problem = self
                .reading
                .problem(path, format!("unknown field {:?}", key.name));
            self.reading
                .report(problem.remedy(self.instead_of(&key.name)));
        }
    }

    fn instead_of(&self, written: &str) -> String {
        let known = self.known.iter().copied();
        if let Some(meant) = did_you_mean(written, known.clone()) {
            return format!("did you mean {meant}?");
        }
        if self.known.len() <= MAX_LISTED_FIELDS {
            return format!("valid here: {}", listed(known));
        }
        "remove it, or check the spelling".to_owned()
    }
}

fn listed<'w>(words: impl Iterator<Item = &'w str>) -> String {
    words.collect::<Vec<_>>().join(", ")
}
