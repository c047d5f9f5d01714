//! Templates of the request log: as much of Go's `text/template` as one line about a request needs.
//!
//! Values are fields of the request, its response and its Revision, and header fields
//! (`.Request.Header.Get "X-Request-Id"`, `index .Request.Header "X-Request-Id"`). The functions are `js`, `html`,
//! `urlquery` and `printf "%q"`, in front of a value or behind a `|`. All else (conditions, loops, variables, other
//! functions) is refused when the template is read, so that writing a line cannot fail.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderName, HeaderValue, Version, header};

use self::parse::Parser;
use crate::proxy::destination::Destination;

mod escape;
mod parse;

/// How each line looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

/// Why a template is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("request log template, at byte {at}: {what}")]
pub struct InvalidTemplate {
    /// Where, counted from 0.
    pub at: usize,
    /// What is wrong there.
    pub what: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value(Value),
}

/// A value, and what is done to it, the first first.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Value {
    of: Of,
    filters: Vec<Filter>,
}

/// Whose value it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Of {
    Request(RequestField),
    /// The first value of a header field.
    Header(HeaderName),
    /// All its values, as Go shows a list.
    Headers(HeaderName),
    Response(ResponseField),
    Revision(RevisionField),
    /// What is never known here.
    Nothing,
    /// A text in quotes.
    Text(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestField {
    Method,
    /// The target as it came.
    Uri,
    Path,
    Host,
    ContentLength,
    UserAgent,
    RemoteAddr,
    Referer,
    Proto,
    ProtoMajor,
    ProtoMinor,
    /// What was agreed on in the handshake.
    Tls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResponseField {
    Code,
    Size,
    Latency,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RevisionField {
    Name,
    Namespace,
    Service,
    Configuration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    Js,
    Html,
    UrlQuery,
    /// `printf "%q"`.
    Quote,
}

/// A request that has arrived.
pub(in crate::proxy) struct Arrived<'a> {
    pub(in crate::proxy) head: &'a Parts,
    pub(in crate::proxy) remote: SocketAddr,
    /// Its connection's, as Go shows it.
    pub(in crate::proxy) tls: Option<&'a dyn fmt::Display>,
}

/// A request that has ended; without a destination where no rule led anywhere.
pub(in crate::proxy) struct Ended<'a> {
    pub(in crate::proxy) destination: Option<&'a Destination>,
    pub(in crate::proxy) code: u16,
    pub(in crate::proxy) size: u64,
    pub(in crate::proxy) took: Duration,
}

/// What is left of a template when the request is known.
#[derive(Debug)]
pub(in crate::proxy) struct Rest(Vec<Piece>);

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    ///
    /// When it is empty, no template, or asks for more than there is.
    pub fn parse(text: &str) -> Result<Self, InvalidTemplate> {
        if text.is_empty() {
            return Err(InvalidTemplate {
                at: 0,
                what: "it is empty".to_owned(),
            });
        }
        let mut pieces = Parser::new(text).template()?;
        // One line a request, whoever wrote the template.
        if !text.ends_with('\n') {
            pieces.push(Piece::Text("\n".to_owned()));
        }
        Ok(Self(pieces))
    }

    /// Writes what the request's head says.
    pub(in crate::proxy) fn begin(&self, arrived: &Arrived<'_>) -> Rest {
        let mut rest = Vec::new();
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(more) => text.push_str(more),
                Piece::Value(value) => match arrived.value(&value.of) {
                    Some(known) => text.push_str(&filtered(known, &value.filters)),
                    None => {
                        rest.push(Piece::Text(std::mem::take(&mut text)));
                        rest.push(Piece::Value(value.clone()));
                    }
                },
            }
        }
        rest.push(Piece::Text(text));
        Rest(rest)
    }
}

impl Rest {
    /// Writes the rest.
    pub(in crate::proxy) fn end(self, ended: &Ended<'_>) -> String {
        let mut line = String::new();
        for piece in self.0 {
            match piece {
                Piece::Text(text) => line.push_str(&text),
                Piece::Value(value) => {
                    line.push_str(&filtered(ended.value(&value.of), &value.filters));
                }
            }
        }
        line
    }
}

impl Arrived<'_> {
    /// The value, if it is the request's.
    fn value(&self, of: &Of) -> Option<String> {
        Some(match of {
            Of::Request(field) => self.field(*field),
            Of::Header(name) => self.header(name),
            Of::Headers(name) => {
                let values = self.head.headers.get_all(name).iter().map(text);
                format!("[{}]", values.collect::<Vec<_>>().join(" "))
            }
            Of::Nothing => String::new(),
            Of::Text(text) => text.clone(),
            Of::Response(_) | Of::Revision(_) => return None,
        })
    }

    fn field(&self, field: RequestField) -> String {
        let uri = &self.head.uri;
        match field {
            RequestField::Method => self.head.method.to_string(),
            RequestField::Uri => match uri.path_and_query() {
                Some(path) => path.to_string(),
                None => uri.to_string(),
            },
            RequestField::Path => uri.path().to_owned(),
            RequestField::Host => match uri.authority() {
                Some(authority) => authority.to_string(),
                None => self.header(&header::HOST),
            },
            RequestField::ContentLength => match self.head.headers.get(header::CONTENT_LENGTH) {
                Some(length) => text(length),
                None if self.head.headers.contains_key(header::TRANSFER_ENCODING) => {
                    "-1".to_owned()
                }
                None => "0".to_owned(),
            },
            RequestField::UserAgent => self.header(&header::USER_AGENT),
            RequestField::RemoteAddr => self.remote.to_string(),
            RequestField::Referer => self.header(&header::REFERER),
            RequestField::Proto => match self.head.version {
                Version::HTTP_2 => "HTTP/2.0".to_owned(),
                version => format!("{version:?}"),
            },
            RequestField::ProtoMajor => match self.head.version {
                Version::HTTP_2 => "2".to_owned(),
                _ => "1".to_owned(),
            },
            RequestField::ProtoMinor => match self.head.version {
                Version::HTTP_11 => "1".to_owned(),
                _ => "0".to_owned(),
            },
            RequestField::Tls => match self.tls {
                Some(tls) => tls.to_string(),
                None => "<nil>".to_owned(),
            },
        }
    }

    fn header(&self, name: &HeaderName) -> String {
        self.head.headers.get(name).map(text).unwrap_or_default()
    }
}

impl Ended<'_> {
    fn value(&self, of: &Of) -> String {
        let to = |text: fn(&Destination) -> String| self.destination.map(text).unwrap_or_default();
        match of {
            Of::Response(ResponseField::Code) => self.code.to_string(),
            Of::Response(ResponseField::Size) => self.size.to_string(),
            Of::Response(ResponseField::Latency) => float(self.took.as_secs_f64()),
            Of::Revision(RevisionField::Name) => to(|to| to.id.name().to_owned()),
            Of::Revision(RevisionField::Namespace) => to(|to| to.id.namespace().to_owned()),
            Of::Revision(RevisionField::Service) => to(|to| to.spec.service.to_string()),
            Of::Revision(RevisionField::Configuration) => {
                to(|to| to.spec.configuration.to_string())
            }
            // Written when the request arrived.
            Of::Request(_) | Of::Header(_) | Of::Headers(_) | Of::Nothing | Of::Text(_) => {
                String::new()
            }
        }
    }
}

fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// A positive number as Go prints a `float64`: the shortest text that means it, with an exponent below 0.0001.
pub(super) fn float(number: f64) -> String {
    if number == 0.0 || number >= 1e-4 {
        return number.to_string();
    }
    let text = format!("{number:e}");
    match text.split_once("e-") {
        Some((digits, exponent)) => format!("{digits}e-{exponent:0>2}"),
        None => text,
    }
}

fn filtered(value: String, filters: &[Filter]) -> String {
    filters.iter().fold(value, |value, filter| match filter {
        Filter::Js => escape::js(&value),
        Filter::Html => escape::html(&value),
        Filter::UrlQuery => escape::url_query(&value),
        Filter::Quote => escape::quote(&value),
    })
}
