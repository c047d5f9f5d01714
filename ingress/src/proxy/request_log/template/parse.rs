//! Reads templates.
//!
//! ```text
//! template = { text | "{{" ["- "] pipeline [" -"] "}}" | "{{/*" comment "*/}}" }
//! pipeline = command { "|" function }
//! command  = [ function ] value
//! value    = field | ".Request.Header.Get" string | "index" ".Request.Header" string ["0"] | string | "(" pipeline ")"
//! function = "js" | "html" | "urlquery" | "printf" ( "\"%q\"" | "\"%s\"" | "\"%v\"" )
//! ```

use http::HeaderName;

use super::{
    Filter, InvalidTemplate, Of, Piece, RequestField, ResponseField, RevisionField, Value,
};

/// How deep parentheses may be nested.
const DEPTH: usize = 16;

/// Reads one template, from its start to its end.
pub(super) struct Parser<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
}

/// What a function does; `None` leaves the value as it is.
type Function = Option<Filter>;

impl<'t> Parser<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self {
            text,
            at: 0,
            depth: 0,
        }
    }

    pub(super) fn template(mut self) -> Result<Vec<Piece>, InvalidTemplate> {
        let mut pieces = Vec::new();
        let mut trims = false;
        loop {
            let rest = self.rest();
            let length = rest.find("{{").unwrap_or(rest.len());
            let (text, action) = rest.split_at(length);
            self.at += length;
            let text = if trims { text.trim_start() } else { text };
            let trims_before = action.get(2..).is_some_and(begins_with_trim);
            let text = if trims_before { text.trim_end() } else { text };
            if !text.is_empty() {
                pieces.push(Piece::Text(text.to_owned()));
            }
            if action.is_empty() {
                return Ok(pieces);
            }
            self.at += if trims_before { 3 } else { 2 };
            trims = self.action(&mut pieces)?;
        }
    }

    /// Reads from behind `{{` up to and including `}}`. Says whether the text behind it is trimmed.
    fn action(&mut self, pieces: &mut Vec<Piece>) -> Result<bool, InvalidTemplate> {
        self.space();
        if self.takes("/*") {
            match self.rest().find("*/") {
                Some(length) => self.at += length + 2,
                None => return self.fail("a comment has no end"),
            }
        } else {
            pieces.push(Piece::Value(self.pipeline()?));
        }
        if self.space() && self.takes("-}}") {
            return Ok(true);
        }
        if self.takes("}}") {
            return Ok(false);
        }
        self.fail("\"}}\" is expected here")
    }

    fn pipeline(&mut self) -> Result<Value, InvalidTemplate> {
        let mut value = self.command()?;
        loop {
            let before = self.at;
            self.space();
            if !self.takes("|") {
                // The space may belong to a trim.
                self.at = before;
                return Ok(value);
            }
            self.space();
            match self.function()? {
                Some(function) => value.filters.extend(function),
                None => return self.fail("a function is expected here"),
            }
        }
    }

    fn command(&mut self) -> Result<Value, InvalidTemplate> {
        self.space();
        let Some(function) = self.function()? else {
            return self.value();
        };
        self.space();
        let mut value = self.value()?;
        value.filters.extend(function);
        Ok(value)
    }

    /// A function, if there is one.
    fn function(&mut self) -> Result<Option<Function>, InvalidTemplate> {
        let before = self.at;
        Ok(Some(match self.word() {
            "js" => Some(Filter::Js),
            "html" => Some(Filter::Html),
            "urlquery" => Some(Filter::UrlQuery),
            "printf" => {
                self.space();
                let at = self.at;
                match self.string()?.as_deref() {
                    Some("%q") => Some(Filter::Quote),
                    Some("%s" | "%v") => None,
                    _ => {
                        self.at = at;
                        return self.fail("printf knows \"%q\", \"%s\" and \"%v\" here");
                    }
                }
            }
            _ => {
                self.at = before;
                return Ok(None);
            }
        }))
    }

    fn value(&mut self) -> Result<Value, InvalidTemplate> {
        if self.takes("(") {
            self.depth += 1;
            if self.depth > DEPTH {
                return self.fail("there are too many parentheses");
            }
            let value = self.pipeline()?;
            self.space();
            if !self.takes(")") {
                return self.fail("\")\" is expected here");
            }
            self.depth -= 1;
            return Ok(value);
        }
        let of = match self.string()? {
            Some(text) => Of::Text(text),
            None => self.operand()?,
        };
        Ok(Value {
            of,
            filters: Vec::new(),
        })
    }

    fn operand(&mut self) -> Result<Of, InvalidTemplate> {
        let at = self.at;
        match self.word() {
            ".Request.Header.Get" => Ok(Of::Header(self.header_name()?)),
            "index" => self.index(),
            "" => self.fail("a value is expected here"),
            name => match field(name) {
                Some(field) => Ok(field),
                None => {
                    self.at = at;
                    self.fail(&format!("{name} is not known here"))
                }
            },
        }
    }

    fn index(&mut self) -> Result<Of, InvalidTemplate> {
        self.space();
        let at = self.at;
        if self.word() != ".Request.Header" {
            self.at = at;
            return self.fail("index knows .Request.Header only");
        }
        let name = self.header_name()?;
        let before = self.at;
        self.space();
        if self.word() == "0" {
            return Ok(Of::Header(name));
        }
        self.at = before;
        Ok(Of::Headers(name))
    }

    fn header_name(&mut self) -> Result<HeaderName, InvalidTemplate> {
        self.space();
        let at = self.at;
        let name = self.string()?.unwrap_or_default();
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => Ok(name),
            Err(_) => {
                self.at = at;
                self.fail("the name of a header field in quotes is expected here")
            }
        }
    }

    /// A text in quotes or backquotes, if there is one.
    fn string(&mut self) -> Result<Option<String>, InvalidTemplate> {
        if self.takes("`") {
            let Some((text, _)) = self.rest().split_once('`') else {
                return self.fail("a text in quotes has no end");
            };
            self.at += text.len() + 1;
            return Ok(Some(text.to_owned()));
        }
        if !self.takes("\"") {
            return Ok(None);
        }
        let mut text = String::new();
        let mut characters = self.rest().char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.at += at + 1;
                    return Ok(Some(text));
                }
                '\n' => break,
                '\\' => match characters.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, escaped @ ('"' | '\\'))) => text.push(escaped),
                    _ => return self.fail("an escape in a text in quotes is not known here"),
                },
                _ => text.push(character),
            }
        }
        self.fail("a text in quotes has no end")
    }

    /// A name or a number; empty when there is none.
    fn word(&mut self) -> &'t str {
        let rest = self.rest();
        let is_end =
            |character: char| !character.is_ascii_alphanumeric() && !".$_".contains(character);
        let (word, _) = rest.split_at(rest.find(is_end).unwrap_or(rest.len()));
        self.at += word.len();
        word
    }

    /// Skips spaces. Says whether there were some.
    fn space(&mut self) -> bool {
        let rest = self.rest();
        let spaces = rest.len() - rest.trim_start_matches(SPACES).len();
        self.at += spaces;
        spaces > 0
    }

    fn takes(&mut self, token: &str) -> bool {
        let is_there = self.rest().starts_with(token);
        if is_there {
            self.at += token.len();
        }
        is_there
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn fail<T>(&self, what: &str) -> Result<T, InvalidTemplate> {
        Err(InvalidTemplate {
            at: self.at,
            what: what.to_owned(),
        })
    }
}

const SPACES: [char; 4] = [' ', '\t', '\r', '\n'];

/// Whether it is `-` with a space behind it: without one it would be the sign of a number.
fn begins_with_trim(action: &str) -> bool {
    let rest = action.strip_prefix('-');
    rest.is_some_and(|rest| rest.starts_with(SPACES))
}

fn field(name: &str) -> Option<Of> {
    Some(match name {
        ".Request.Method" => Of::Request(RequestField::Method),
        ".Request.RequestURI" | ".Request.URL" | ".Request.URL.String" => {
            Of::Request(RequestField::Uri)
        }
        ".Request.URL.Path" => Of::Request(RequestField::Path),
        ".Request.Host" => Of::Request(RequestField::Host),
        ".Request.ContentLength" => Of::Request(RequestField::ContentLength),
        ".Request.UserAgent" => Of::Request(RequestField::UserAgent),
        ".Request.RemoteAddr" => Of::Request(RequestField::RemoteAddr),
        ".Request.Referer" => Of::Request(RequestField::Referer),
        ".Request.Proto" => Of::Request(RequestField::Proto),
        ".Request.ProtoMajor" => Of::Request(RequestField::ProtoMajor),
        ".Request.ProtoMinor" => Of::Request(RequestField::ProtoMinor),
        ".Request.TLS" => Of::Request(RequestField::Tls),
        ".Response.Code" => Of::Response(ResponseField::Code),
        ".Response.Size" => Of::Response(ResponseField::Size),
        ".Response.Latency" => Of::Response(ResponseField::Latency),
        ".Revision.Name" => Of::Revision(RevisionField::Name),
        ".Revision.Namespace" => Of::Revision(RevisionField::Namespace),
        ".Revision.Service" => Of::Revision(RevisionField::Service),
        ".Revision.Configuration" => Of::Revision(RevisionField::Configuration),
        // Knative's activator leaves them empty, too (knative/serving `cmd/activator/request_log.go`).
        ".Revision.PodName" | ".Revision.PodIP" | ".TraceID" => Of::Nothing,
        _ => return None,
    })
}
