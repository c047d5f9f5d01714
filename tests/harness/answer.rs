//! What came back for a request.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, Version};
use serde_json::Value;

/// A response that has been read as far as it came.
#[derive(Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its version.
    pub version: Version,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its content.
    pub body: Bytes,
    /// Its trailers, if any came.
    pub trailers: Option<HeaderMap>,
    /// Why it is not complete, if it is not.
    pub broken: Option<String>,
}

impl Answer {
    /// Its content as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Its content as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The first field of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The first trailer of this name.
    pub fn trailer(&self, name: &str) -> Option<&str> {
        self.trailers.as_ref()?.get(name)?.to_str().ok()
    }

    /// Itself, when it is complete and has this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.broken, None, "{self:?}");
        self
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?} {}", self.version, self.status)?;
        for (name, value) in &self.headers {
            writeln!(f, "{name}: {}", String::from_utf8_lossy(value.as_bytes()))?;
        }
        let shown = self
            .body
            .get(..self.body.len().min(400))
            .unwrap_or_default();
        writeln!(
            f,
            "\n{} ({} bytes)",
            String::from_utf8_lossy(shown),
            self.body.len()
        )?;
        if let Some(trailers) = &self.trailers {
            writeln!(f, "trailers: {trailers:?}")?;
        }
        if let Some(broken) = &self.broken {
            writeln!(f, "broke off: {broken}")?;
        }
        Ok(())
    }
}
