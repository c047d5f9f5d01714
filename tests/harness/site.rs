//! A host at an entrance: where ordinary clients send requests.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request};

use crate::answer::Answer;
use crate::http1::Http1;
use crate::http2::Http2;
use crate::raw::Raw;

/// A host, and the entrance at which it is asked for.
#[derive(Clone, Debug)]
pub struct Site {
    address: SocketAddr,
    host: String,
}

impl Site {
    /// `host` asked for at `address`.
    pub fn new(address: SocketAddr, host: impl Into<String>) -> Self {
        Self {
            address,
            host: host.into(),
        }
    }

    /// The host.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The entrance.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// GET over a connection of its own.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path, Bytes::new()))
            .await
    }

    /// POST over a connection of its own.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(self.request(Method::POST, path, body)).await
    }

    /// Any request over an HTTP/1.1 connection of its own; `Host` is this site's unless it has one.
    pub async fn send(&self, request: Request<Bytes>) -> Answer {
        self.http1().await.send(request).await
    }

    /// As [`send`](Self::send), but a request may go without an answer.
    ///
    /// # Errors
    ///
    /// When the connection cannot be made, or ends before a response head.
    pub async fn try_send(&self, request: Request<Bytes>) -> Result<Answer, String> {
        Http1::try_connect(self.address, &self.host)
            .await?
            .try_send(request)
            .await
    }

    /// As [`get`](Self::get), but a request may go without an answer.
    ///
    /// # Errors
    ///
    /// When the connection cannot be made, or ends before a response head.
    pub async fn try_get(&self, path: &str) -> Result<Answer, String> {
        self.try_send(self.request(Method::GET, path, Bytes::new()))
            .await
    }

    /// A request for this site.
    pub fn request(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Request<Bytes> {
        Request::builder()
            .method(method)
            .uri(path)
            .body(body.into())
            .unwrap()
    }

    /// An HTTP/1.1 connection that stays.
    pub async fn http1(&self) -> Http1 {
        Http1::connect(self.address, &self.host).await
    }

    /// An HTTP/2 connection by prior knowledge.
    pub async fn http2(&self) -> Http2 {
        Http2::connect(self.address, &self.host).await
    }

    /// A connection on which every byte is the test's own.
    pub async fn raw(&self) -> Raw {
        Raw::connect(self.address).await
    }

    /// The head of an HTTP/1.1 request to this site, without the empty line: further fields may follow.
    pub fn head(&self, request_line: &str) -> String {
        format!("{request_line} HTTP/1.1\r\nHost: {}\r\n", self.host)
    }
}
