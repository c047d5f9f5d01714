//! What is wrong with a configuration, said so that a person can mend it without searching.
//!
//! A problem names file, document, line, column, field and value, says what is wrong and, where it can, what to write
//! instead. The same value goes to the terminal ([`Display`](fmt::Display)), the log and the state dump
//! ([`Serialize`]).

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::document::{Document, Position, Source};

/// The longest value a problem repeats, in characters; longer ones are cut.
pub const MAX_SHOWN_VALUE_CHARS: usize = 80;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration is refused; the last good one stays.
    Error,
    /// The configuration is used, but part of it does not do what it says.
    Warning,
    /// Worth knowing; nothing is lost.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

/// One thing wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The file, as it was named; the object's kind and name when there is no file.
    pub file: String,
    /// Which document of the file, counted from 1; 0 when unknown.
    pub document: u32,
    /// Line in the file, counted from 1; 0 when unknown.
    pub line: u32,
    /// Column in characters, counted from 1; 0 when unknown.
    pub column: u32,
    /// Path of the field within the document, such as `spec.traffic[1].percent`; empty when it is about the whole.
    pub field: String,
    /// The value found there, shortened; empty when there is none.
    pub value: String,
    /// What is wrong: lower case, without a full stop.
    pub message: String,
    /// What to do about it; empty when there is nothing to say.
    pub remedy: String,
}

impl Problem {
    /// With this to do about it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// With this value, shortened; for values that are not written in the document as such.
    #[must_use]
    pub fn value(mut self, value: impl fmt::Display) -> Self {
        self.value = shortened(&value.to_string());
        self
    }

    /// As bad as this.
    #[must_use]
    pub fn severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    /// As a warning.
    #[must_use]
    pub fn warning(self) -> Self {
        self.severity(Severity::Warning)
    }

    /// As a note.
    #[must_use]
    pub fn note(self) -> Self {
        self.severity(Severity::Note)
    }

    /// Whether the configuration is refused because of it.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    /// One to three lines: where and what; the field and its value; the remedy.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if self.document > 1 {
            write!(f, " (document {})", self.document)?;
        }
        write!(f, ": {}: {}", self.severity, self.message)?;
        match (self.field.is_empty(), self.value.is_empty()) {
            (false, false) => write!(f, "\n  at {} = {}", self.field, self.value)?,
            (false, true) => write!(f, "\n  at {}", self.field)?,
            (true, false) => write!(f, "\n  found {}", self.value)?,
            (true, true) => {}
        }
        if !self.remedy.is_empty() {
            write!(f, "\n  help: {}", self.remedy)?;
        }
        Ok(())
    }
}

/// Where an object was written, able to find the line of each of its fields.
///
/// What follows the parser knows no YAML: it names fields, and the origin finds their lines, by reading the text again.
/// An object that came from an API server has an origin without text, and its problems have no lines. Cheap to clone.
#[derive(Clone)]
pub struct Origin(Arc<Place>);

enum Place {
    /// Kind and name.
    Elsewhere(Box<str>),
    Written(Written),
}

struct Written {
    source: Arc<Source>,
    /// Which document of the source, counted from 1.
    document: u32,
    /// Where in the source.
    at: Position,
    /// Path of the object within its document: empty, or `items[3]` for a member of a List.
    prefix: Box<str>,
}

impl Origin {
    /// An object that was not read from a file.
    pub fn elsewhere(kind: &str, namespace: &str, name: &str) -> Self {
        let name = format!("{kind} {namespace}/{name}");
        Self(Arc::new(Place::Elsewhere(name.into())))
    }

    /// A whole document.
    pub fn of_document(document: &Document) -> Self {
        Self::of_part(document, String::new(), document.root.at)
    }

    /// A part of a document, at this path.
    pub(crate) fn of_part(document: &Document, prefix: String, mut at: Position) -> Self {
        let before = document.source.place();
        at.line = at.line.saturating_sub(before.lines);
        Self(Arc::new(Place::Written(Written {
            source: Arc::clone(&document.source),
            document: document.number.saturating_sub(before.documents),
            at,
            prefix: prefix.into(),
        })))
    }

    /// The file, as it was named; the object's kind and name when there is no file.
    pub fn file(&self) -> &str {
        match &*self.0 {
            Place::Elsewhere(name) => name,
            Place::Written(written) => written.source.file(),
        }
    }

    /// Whether it stands in a file; else it came from an API server.
    pub(crate) fn is_written(&self) -> bool {
        matches!(&*self.0, Place::Written(_))
    }

    /// The line the object begins in, counted from 1; 0 when unknown.
    pub fn line(&self) -> u32 {
        self.at().line
    }

    fn at(&self) -> Position {
        match &*self.0 {
            Place::Elsewhere(_) => Position::default(),
            Place::Written(written) => written.at(),
        }
    }

    /// Which document of the file, counted from 1; 0 when unknown.
    fn document(&self) -> u32 {
        match &*self.0 {
            Place::Elsewhere(_) => 0,
            Place::Written(written) => {
                let before = written.source.place().documents;
                written.document.saturating_add(before)
            }
        }
    }

    fn prefix(&self) -> &str {
        match &*self.0 {
            Place::Elsewhere(_) => "",
            Place::Written(written) => &written.prefix,
        }
    }

    /// An error about a field of the object; the field's line and value come from the document.
    pub fn problem(&self, field: impl Into<String>, message: impl Into<String>) -> Problem {
        let document = match &*self.0 {
            Place::Elsewhere(_) => None,
            Place::Written(written) => written.source.document(written.document),
        };
        self.problem_in(document.as_ref(), field, message)
    }

    /// Like [`problem`](Self::problem), given the document the object was read from, if there is one.
    pub(crate) fn problem_in(
        &self,
        document: Option<&Document>,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> Problem {
        let field = self.full_path(&field.into());
        let found = document.map(|document| document.find(&field));
        let (at, value) = match found {
            Some((at, value)) => (
                at,
                value.map_or_else(String::new, |node| shortened(&node.to_string())),
            ),
            None => (self.at(), String::new()),
        };
        Problem {
            severity: Severity::Error,
            file: self.file().to_owned(),
            document: self.document(),
            line: at.line,
            column: at.column,
            field,
            value,
            message: message.into(),
            remedy: String::new(),
        }
    }

    fn full_path(&self, field: &str) -> String {
        let prefix = self.prefix();
        match (prefix.is_empty(), field.is_empty()) {
            (true, _) => field.to_owned(),
            (false, true) => prefix.to_owned(),
            (false, false) => format!("{prefix}.{field}"),
        }
    }
}

impl Written {
    /// Where in the file.
    fn at(&self) -> Position {
        let before = self.source.place().lines;
        Position {
            line: self.at.line.saturating_add(before),
            ..self.at
        }
    }
}

impl PartialEq for Origin {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.file() == other.file()
                && self.document() == other.document()
                && self.prefix() == other.prefix())
    }
}

impl Eq for Origin {}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.file())?;
        if self.line() > 0 {
            write!(f, ":{}", self.line())?;
        }
        if self.document() > 1 {
            write!(f, " (document {})", self.document())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The value in one line of at most [`MAX_SHOWN_VALUE_CHARS`] characters.
pub(crate) fn shortened(value: &str) -> String {
    let mut line: String = value
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_SHOWN_VALUE_CHARS + 1)
        .collect();
    if line.chars().count() > MAX_SHOWN_VALUE_CHARS {
        line.pop();
        line.push('…');
    }
    line
}

/// The member of `known` that was probably meant by `written`.
///
/// Case, dashes and underscores aside it must be equal, or at most a third of its letters may differ.
pub fn did_you_mean<'a>(
    written: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let plain = |word: &str| -> Vec<char> {
        word.chars()
            .filter(|c| !matches!(c, '-' | '_'))
            .flat_map(char::to_lowercase)
            .take(MAX_COMPARED_CHARS)
            .collect()
    };
    let meant = plain(written);
    known
        .into_iter()
        .map(|candidate| (edit_distance(&meant, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().div_ceil(3).min(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Names are compared up to this length: a long key costs no more than this squared.
const MAX_COMPARED_CHARS: usize = 64;

/// How many insertions, deletions, replacements and swaps of neighbours lead from one word to the other.
fn edit_distance(from: &[char], to: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let mut best = (last[j] + usize::from(a != b))
                .min(last[j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                best = best.min(before_last[j - 1] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_finds_the_one_that_was_meant() {
        let known = [
            "containers",
            "containerConcurrency",
            "timeoutSeconds",
            "cpu",
        ];
        assert_eq!(did_you_mean("container", known), Some("containers"));
        assert_eq!(
            did_you_mean("container_concurrency", known),
            Some("containerConcurrency")
        );
        assert_eq!(
            did_you_mean("timeoutSecnods", known),
            Some("timeoutSeconds")
        );
        assert_eq!(did_you_mean("replicas", known), None);
        assert_eq!(did_you_mean("gpu", known), Some("cpu"));
        assert_eq!(did_you_mean("", known), None);
    }

    #[test]
    fn a_problem_reads_as_place_field_and_remedy() {
        let problem = Problem {
            severity: Severity::Error,
            file: "shop.yaml".into(),
            document: 2,
            line: 12,
            column: 7,
            field: "spec.traffic[0].percent".into(),
            value: "120".into(),
            message: "a share is from 0 to 100".into(),
            remedy: "write 100".into(),
        };
        assert_eq!(
            problem.to_string(),
            "shop.yaml:12:7 (document 2): error: a share is from 0 to 100\n  at spec.traffic[0].percent = 120\n  help: write 100"
        );
    }
}
