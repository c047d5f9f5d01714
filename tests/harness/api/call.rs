//! What a request asks for: verb, kind, namespace, name and options, read from its line.

use axum::http::{Method, Uri};
use serde_json::Value;

use super::kind::Kind;
use super::store::text;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) verb: &'static str,
    pub(super) kind: Kind,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) subresource: Option<String>,
    pub(super) options: Options,
}

/// The query of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options(Vec<(String, String)>);

impl Options {
    pub(super) fn of(uri: &Uri) -> Self {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
        Self(pairs.map(|pairs| pairs.0).unwrap_or_default())
    }

    /// The value of a parameter; an empty one counts as absent.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "1"))
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }
}

impl Call {
    /// Reads a request's line; none when no such resource is served.
    ///
    /// Source of the paths and verbs: kubernetes/apiserver `pkg/endpoints/request/requestinfo.go`.
    pub(super) fn read(method: &Method, uri: &Uri, kinds: &[Kind]) -> Option<Self> {
        let mut parts = uri.path().trim_matches('/').split('/');
        let (group, version) = match parts.next()? {
            "api" => ("", parts.next()?),
            "apis" => (parts.next()?, parts.next()?),
            _ => return None,
        };
        let rest: Vec<&str> = parts.collect();
        let find = |plural: &str, is_namespaced: bool| {
            kinds
                .iter()
                .find(|kind| {
                    kind.group == group
                        && kind.version == version
                        && kind.plural == plural
                        && kind.is_namespaced == is_namespaced
                })
                .cloned()
        };
        let (kind, namespace, rest) = match rest.as_slice() {
            ["namespaces", namespace, plural, rest @ ..] if find(plural, true).is_some() => {
                (find(plural, true)?, Some((*namespace).to_owned()), rest)
            }
            [plural] => (
                find(plural, true).or_else(|| find(plural, false))?,
                None,
                &[][..],
            ),
            [plural, rest @ ..] => (find(plural, false)?, None, rest),
            [] => return None,
        };
        let (name, subresource) = match rest {
            [] => (None, None),
            [name] => (Some(decoded(name)), None),
            [name, subresource] => (Some(decoded(name)), Some((*subresource).to_owned())),
            _ => return None,
        };
        let options = Options::of(uri);
        let verb = match (method.as_str(), &name) {
            ("GET", None) if options.is_set("watch") => "watch",
            ("GET", None) => "list",
            ("GET", Some(_)) => "get",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", Some(_)) => "delete",
            ("DELETE", None) => "deletecollection",
            _ => "unknown",
        };
        Some(Self {
            verb,
            kind,
            namespace,
            name,
            subresource,
            options,
        })
    }

    pub(super) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }
}

/// A path segment with its escapes resolved; object names need none, but a client may escape anyway.
fn decoded(segment: &str) -> String {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        let escaped = (byte == b'%').then(|| {
            let mut after = rest.clone();
            let high = char::from(after.next()?).to_digit(16)?;
            let low = char::from(after.next()?).to_digit(16)?;
            rest = after;
            u8::try_from(high * 16 + low).ok()
        });
        bytes.push(escaped.flatten().unwrap_or(byte));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Which objects a list or watch is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selector {
    labels: Vec<Requirement>,
    /// JSON pointer, whether it has to be equal, and to what.
    fields: Vec<(String, bool, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

impl Selector {
    /// Reads `labelSelector` and `fieldSelector`.
    ///
    /// Source: kubernetes/apimachinery `pkg/labels/selector.go`. Of fields, `metadata.name` and `metadata.namespace`,
    /// and of the built-in kinds `type`, `spec.nodeName`, `status.phase`
    /// and those of an Event's `involvedObject`.
    pub(super) fn read(options: &Options) -> Result<Self, String> {
        let mut selector = Self::default();
        for term in terms(options.get("labelSelector").unwrap_or_default()) {
            selector.labels.push(requirement(term)?);
        }
        for term in terms(options.get("fieldSelector").unwrap_or_default()) {
            let (field, is_equal, value) = if let Some((field, value)) = term.split_once("!=") {
                (field, false, value)
            } else if let Some((field, value)) = term.split_once("==") {
                (field, true, value)
            } else if let Some((field, value)) = term.split_once('=') {
                (field, true, value)
            } else {
                return Err(format!("invalid selector: {term:?}; can't understand it"));
            };
            const KNOWN: [&str; 8] = [
                "metadata.name",
                "metadata.namespace",
                "type",
                "spec.nodeName",
                "status.phase",
                "involvedObject.kind",
                "involvedObject.name",
                "involvedObject.uid",
            ];
            if !KNOWN.contains(&field) {
                return Err(format!("field label not supported: {field}"));
            }
            let pointer = format!("/{}", field.replace('.', "/"));
            selector.fields.push((pointer, is_equal, value.to_owned()));
        }
        Ok(selector)
    }

    pub(super) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let label = |name: &str| {
            let labels = object.pointer("/metadata/labels")?;
            labels.get(name)?.as_str()
        };
        let labels = self.labels.iter().all(|requirement| match requirement {
            Requirement::In(name, values) => {
                label(name).is_some_and(|label| values.iter().any(|value| value == label))
            }
            Requirement::NotIn(name, values) => {
                label(name).is_none_or(|label| values.iter().all(|value| value != label))
            }
            Requirement::Exists(name) => label(name).is_some(),
            Requirement::Missing(name) => label(name).is_none(),
        });
        let fields = self
            .fields
            .iter()
            .all(|(pointer, is_equal, value)| (text(object, pointer) == value) == *is_equal);
        labels && fields
    }
}

/// The terms between commas, where commas in brackets do not part.
fn terms(selector: &str) -> Vec<&str> {
    let mut depth = 0;
    let parts = selector.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    });
    parts
        .map(str::trim)
        .filter(|term| !term.is_empty())
        .collect()
}

fn requirement(term: &str) -> Result<Requirement, String> {
    let one = |value: &str| vec![value.trim().to_owned()];
    if let Some((name, value)) = term.split_once("!=") {
        return Ok(Requirement::NotIn(name.trim().to_owned(), one(value)));
    }
    if let Some((name, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return Ok(Requirement::In(name.trim().to_owned(), one(value)));
    }
    if let Some(name) = term.strip_prefix('!') {
        return Ok(Requirement::Missing(name.trim().to_owned()));
    }
    let Some((head, values)) = term.split_once('(') else {
        return Ok(Requirement::Exists(term.to_owned()));
    };
    let values = values.trim_end_matches(')').split(',');
    let values = values.map(|value| value.trim().to_owned()).collect();
    let mut words = head.split_whitespace();
    match (words.next(), words.next()) {
        (Some(name), Some("in")) => Ok(Requirement::In(name.to_owned(), values)),
        (Some(name), Some("notin")) => Ok(Requirement::NotIn(name.to_owned(), values)),
        _ => Err(format!("unable to parse requirement: {term}")),
    }
}
