//! Objects as text: read from YAML or JSON, written as YAML.

use std::fmt::Write as _;

use serde_json::{Map, Number, Value};

use crate::provider::Problem;
use crate::provider::document::{self, Node};

/// The objects of a file; a `List` counts as what it holds.
///
/// # Errors
///
/// The first mistake, with its place.
pub fn read(file: &str, text: &[u8]) -> Result<Vec<Value>, Box<Problem>> {
    let (documents, mut problems) = document::read(file, text);
    if let Some(problem) = problems.pop() {
        return Err(Box::new(problem));
    }
    let values = documents.iter().map(|document| json(&document.root));
    Ok(values.flat_map(items).collect())
}

fn items(value: Value) -> Vec<Value> {
    match value {
        Value::Null => Vec::new(),
        Value::Object(mut list) if list.get("kind").is_some_and(|kind| kind == "List") => {
            match list.remove("items") {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            }
        }
        other => vec![other],
    }
}

fn json(node: &Node) -> Value {
    match &node.value {
        document::Value::Null => Value::Null,
        document::Value::Bool(value) => Value::Bool(*value),
        document::Value::Int(value) => Value::from(*value),
        document::Value::Number(text) => number(text),
        document::Value::String(text) => Value::String(text.clone()),
        document::Value::List(items) => items.iter().map(json).collect(),
        document::Value::Map(entries) => {
            let entries = entries.iter();
            Value::Object(
                entries
                    .map(|(key, value)| (key.name.clone(), json(value)))
                    .collect(),
            )
        }
    }
}

/// A number that is not whole. JSON has no infinity: such a thing stays a word.
fn number(text: &str) -> Value {
    let parsed = text.parse::<f64>().ok().and_then(Number::from_f64);
    parsed.map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

/// Objects as one stream of YAML.
pub fn write(objects: &[Value]) -> String {
    let mut text = String::new();
    for object in objects {
        if !text.is_empty() {
            text.push_str("---\n");
        }
        write_value(&mut text, object, 0, Place::Line);
    }
    text
}

/// What stands before a value on its line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nothing but the indentation, which is written already or is none.
    Line,
    /// A key and its colon.
    Key,
}

fn write_value(text: &mut String, value: &Value, depth: usize, place: Place) {
    match value {
        Value::Object(entries) if !entries.is_empty() => write_map(text, entries, depth, place),
        Value::Array(items) if !items.is_empty() => {
            if place == Place::Key {
                text.push('\n');
            }
            for (i, item) in items.iter().enumerate() {
                if i > 0 || place == Place::Key {
                    indent(text, depth);
                }
                text.push_str("- ");
                write_value(text, item, depth + 1, Place::Line);
            }
        }
        scalar => {
            if place == Place::Key {
                text.push(' ');
            }
            write_scalar(text, scalar);
            text.push('\n');
        }
    }
}

fn write_map(text: &mut String, entries: &Map<String, Value>, depth: usize, place: Place) {
    if place == Place::Key {
        text.push('\n');
    }
    for (i, (key, value)) in entries.iter().enumerate() {
        if i > 0 || place == Place::Key {
            indent(text, depth);
        }
        write_string(text, key);
        text.push(':');
        // A list may stand below its key without more indentation, as kubectl writes it.
        let deeper = depth + usize::from(!value.is_array());
        write_value(text, value, deeper, Place::Key);
    }
}

fn indent(text: &mut String, depth: usize) {
    text.extend(std::iter::repeat_n("  ", depth));
}

fn write_scalar(text: &mut String, value: &Value) {
    match value {
        Value::String(string) => write_string(text, string),
        other => write!(text, "{other}").unwrap_or_default(), // a String takes everything
    }
}

/// Plain where nobody can take it for anything else, with quotes otherwise; JSON's quotes are YAML's.
fn write_string(text: &mut String, string: &str) {
    // What YAML 1.1 takes for something else: kubectl reads that.
    const WORDS: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let begins = string
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '/');
    let is_plain = begins
        && string
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c))
        && !WORDS.contains(&string.to_ascii_lowercase().as_str());
    if is_plain {
        text.push_str(string);
    } else {
        text.push_str(&Value::from(string).to_string());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_reads_as_it_was() {
        let objects = [
            json!({
                "kind": "A",
                "empty": {}, "none": [], "null": null, "float": 1.5, "big": 9_007_199_254_740_993_i64,
                "words": ["yes", "No", "true", "null", "~", "", "8080", "1e3", "0x1f", "1.20", "a: b", "- a", "a #b"],
                "yes": "a key that is a word",
                "text": "two\nlines\n",
                "lists": [["a", ["b"]], [], [{"name": "x", "value": {"deep": [1, 2]}}, {"name": "y"}]],
                "net/work": {"a.b/c": "d", "unicode": "ü – \u{2028}\u{0}"},
            }),
            json!(["a list"]),
            json!({"kind": "B", "spec": {"list": [{"a": [{"b": 1}], "c": "d"}]}}),
        ];
        let text = write(&objects);
        assert_eq!(
            read("written.yaml", text.as_bytes()).unwrap(),
            objects,
            "{text}"
        );
    }

    #[test]
    fn lists_of_objects_are_their_items() {
        let text = "kind: List\nitems:\n- kind: A\n- kind: B\n---\n---\nkind: C\n";
        let kinds: Vec<_> = read("list.yaml", text.as_bytes())
            .unwrap()
            .iter()
            .map(|object| object["kind"].clone())
            .collect();
        assert_eq!(kinds, ["A", "B", "C"]);
    }
}
