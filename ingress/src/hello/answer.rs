//! What `parkway hello` answers, whatever the protocol.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::leave;

/// What `bytes=N` consists of, and how much of it goes out at once.
static FILLING: [u8; 16 * 1024] = [b'x'; 16 * 1024];
/// How long bytes before an exit may take to leave the process.
const FLUSH: Duration = Duration::from_millis(20);

pub(super) type Error = Box<dyn std::error::Error + Send + Sync>;
pub(super) type Body = UnsyncBoxBody<Bytes, Error>;
type Frames = BoxStream<'static, Result<Frame<Bytes>, Error>>;

/// The workload.
pub(super) struct Hello {
    greeting: String,
    revision: String,
    ready_at: Instant,
    counts: Mutex<Counts>,
    upgrades: TaskTracker,
    /// Cancelled when it should finish.
    pub(super) closing: CancellationToken,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Counts {
    requests: u64,
    now: u64,
    highest: u64,
    violations: u64,
}

/// One request that is being served.
struct Counted {
    hello: Arc<Hello>,
    at_once: u64,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.hello.counts.lock().now -= 1;
    }
}

impl Hello {
    pub(super) fn new(greeting: String, revision: String, ready_at: Instant) -> Arc<Self> {
        Arc::new(Self {
            greeting,
            revision,
            ready_at,
            counts: Mutex::default(),
            upgrades: TaskTracker::new(),
            closing: CancellationToken::new(),
        })
    }

    /// Waits for upgraded connections, which end when [`Hello::closing`] is cancelled.
    pub(super) async fn finish_upgrades(&self) {
        self.upgrades.close();
        self.upgrades.wait().await;
    }

    /// Answers one request.
    pub(super) async fn answer<B>(self: Arc<Self>, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Error>,
    {
        match request.uri().path() {
            "/stats" => json(&self.stats()),
            "/healthz" if Instant::now() < self.ready_at => {
                text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
            }
            "/healthz" => text(StatusCode::OK, "ok\n"),
            _ => self.answer_counted(request).await,
        }
    }

    async fn answer_counted<B>(self: Arc<Self>, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Error>,
    {
        let counted = self.count();
        let switches = match Switches::parse(request.uri().query().unwrap_or_default()) {
            Ok(switches) => switches,
            Err(complaint) => return text(StatusCode::BAD_REQUEST, complaint),
        };
        if switches
            .max_concurrency
            .is_some_and(|most| counted.at_once > most)
        {
            self.counts.lock().violations += 1;
            return text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("{} requests at once\n", counted.at_once),
            );
        }
        // A sleep of nothing still ends with a tick of the timer, a millisecond later.
        if switches.sleep_ms > 0 {
            sleep(Duration::from_millis(switches.sleep_ms)).await;
        }
        if wants_echo_upgrade(request.headers()) {
            return self.upgrade(request, counted);
        }
        let is_head = request.method() == Method::HEAD;
        let version = request.version();
        let asks_for_trailers = asks_for_trailers(request.headers());
        let mut content = self.content(request, &switches);
        if switches.trailers {
            content.add_trailers(version, asks_for_trailers);
        }
        content.into_response(&switches, is_head, counted)
    }

    fn count(self: &Arc<Self>) -> Counted {
        let mut counts = self.counts.lock();
        counts.requests += 1;
        counts.now += 1;
        counts.highest = counts.highest.max(counts.now);
        Counted {
            at_once: counts.now,
            hello: Arc::clone(self),
        }
    }

    fn stats(&self) -> serde_json::Value {
        let counts = *self.counts.lock();
        serde_json::json!({
            "revision": self.revision,
            "pid": std::process::id(),
            "requests": counts.requests,
            "now": counts.now,
            "highest": counts.highest,
            "violations": counts.violations,
        })
    }

    fn content<B>(&self, request: Request<B>, switches: &Switches) -> Content
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Error>,
    {
        let has_content = matches!(
            *request.method(),
            Method::POST | Method::PUT | Method::PATCH
        );
        match request.uri().path() {
            "/headers" => Content::of("application/json", pretty(&self.describe(&request))),
            "/events" => Content::streamed(
                "text/event-stream",
                events(switches.count, switches.interval_ms),
            ),
            "/exit" => {
                let Some(after) = switches.after_bytes else {
                    leave(switches.code)
                };
                let code = switches.code;
                let end = stream::once(async move {
                    sleep(FLUSH).await;
                    leave(code)
                });
                Content::streamed(
                    "application/octet-stream",
                    filling(after).chain(end).boxed(),
                )
            }
            _ if switches.bytes.is_some() => {
                let length = switches.bytes.unwrap_or_default();
                Content {
                    length: Some(length),
                    ..Content::streamed("application/octet-stream", filling(length))
                }
            }
            _ if has_content => echo(request),
            _ => Content::of("text/plain; charset=utf-8", self.greeting.clone()),
        }
    }

    fn describe<B>(&self, request: &Request<B>) -> serde_json::Value {
        let mut headers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (name, value) in request.headers() {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            headers.entry(name.as_str()).or_default().push(value);
        }
        serde_json::json!({
            "method": request.method().as_str(),
            "path": request.uri().path_and_query().map_or("/", |path| path.as_str()),
            "authority": request.uri().authority().map(|authority| authority.as_str()),
            "version": format!("{:?}", request.version()),
            "revision": self.revision,
            "pid": std::process::id(),
            "headers": headers,
        })
    }

    /// 101, and from then on every byte goes back.
    fn upgrade<B: Send + 'static>(&self, request: Request<B>, counted: Counted) -> Response<Body> {
        let upgraded = hyper::upgrade::on(request);
        let closing = self.closing.clone();
        self.upgrades.spawn(async move {
            let _counted = counted;
            let Ok(upgraded) = upgraded.await else { return };
            let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
            tokio::select! {
                _ended = tokio::io::copy(&mut reader, &mut writer) => {}
                () = closing.cancelled() => {}
            }
            drop(tokio::io::AsyncWriteExt::shutdown(&mut writer).await);
        });
        let mut response = Response::new(empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        response
            .headers_mut()
            .insert(header::UPGRADE, HeaderValue::from_static("echo"));
        response
    }
}

/// An answer without its status.
struct Content {
    headers: HeaderMap,
    length: Option<u64>,
    frames: Frames,
}

impl Content {
    fn of(content_type: &'static str, text: impl Into<Bytes>) -> Self {
        let text: Bytes = text.into();
        let length = Some(text.len() as u64);
        Self {
            length,
            ..Self::streamed(
                content_type,
                stream::once(ready(Ok(Frame::data(text)))).boxed(),
            )
        }
    }

    fn streamed(content_type: &'static str, frames: Frames) -> Self {
        let content_type = (header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self {
            headers: HeaderMap::from_iter([content_type]),
            length: None,
            frames,
        }
    }

    /// HTTP/1.1 has a place for trailers in chunked content only, and sends them to those who ask: RFC 9110 section 6.5.1.
    fn add_trailers(&mut self, version: Version, are_asked_for: bool) {
        if version < Version::HTTP_2 && !are_asked_for {
            return;
        }
        let name = HeaderName::from_static("x-trailer");
        self.length = None;
        self.headers
            .insert(header::TRAILER, HeaderValue::from(name.clone()));
        let trailers = HeaderMap::from_iter([(name, HeaderValue::from_static("bye"))]);
        let frames = std::mem::replace(&mut self.frames, stream::empty().boxed());
        self.frames = frames
            .chain(stream::once(ready(Ok(Frame::trailers(trailers)))))
            .boxed();
    }

    fn into_response(self, switches: &Switches, is_head: bool, counted: Counted) -> Response<Body> {
        let status = switches.status;
        let has_no_content = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let mut response = Response::new(empty());
        *response.status_mut() = status;
        *response.headers_mut() = self.headers;
        if has_no_content {
            return response;
        }
        if let Some(length) = self.length {
            response
                .headers_mut()
                .insert(header::CONTENT_LENGTH, length.into());
        }
        if !is_head {
            let delay = Duration::from_millis(switches.body_sleep_ms);
            let frames = if delay.is_zero() {
                self.frames
            } else {
                wait(delay).chain(self.frames).boxed()
            };
            let frames = frames.map(move |frame| {
                let _until_the_body_ends = &counted;
                frame
            });
            *response.body_mut() = StreamBody::new(frames).boxed_unsync();
        }
        response
    }
}

/// The body as it comes.
fn echo<B>(request: Request<B>) -> Content
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Error>,
{
    let (head, body) = request.into_parts();
    let length = body.size_hint().exact();
    let data = body
        .map_err(Into::into)
        .into_data_stream()
        .map(|data| data.map(Frame::data));
    let mut content = Content {
        length,
        ..Content::streamed("application/octet-stream", data.boxed())
    };
    if let Some(content_type) = head.headers.get(header::CONTENT_TYPE) {
        content
            .headers
            .insert(header::CONTENT_TYPE, content_type.clone());
    }
    content
}

fn filling(bytes: u64) -> Frames {
    stream::unfold(bytes, |left| async move {
        let chunk = FILLING
            .get(..usize::try_from(left).unwrap_or(usize::MAX))
            .unwrap_or(&FILLING);
        let rest = left - chunk.len() as u64;
        (left > 0).then(|| (Ok(Frame::data(Bytes::from_static(chunk))), rest))
    })
    .boxed()
}

fn events(count: u64, interval_ms: u64) -> Frames {
    stream::iter(1..=count)
        .then(move |number| async move {
            if number > 1 {
                sleep(Duration::from_millis(interval_ms)).await;
            }
            Ok(Frame::data(Bytes::from(format!("data: {number}\n\n"))))
        })
        .boxed()
}

fn wait(duration: Duration) -> Frames {
    stream::once(sleep(duration))
        .filter_map(|()| ready(None))
        .boxed()
}

fn wants_echo_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get(header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"echo"))
}

fn asks_for_trailers(headers: &HeaderMap) -> bool {
    let values = headers
        .get_all(header::TE)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let Content {
        headers,
        length,
        frames,
    } = Content::of("text/plain; charset=utf-8", text);
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, length.unwrap_or_default().into());
    response
}

fn json(value: &serde_json::Value) -> Response<Body> {
    let mut response = text(StatusCode::OK, pretty(value));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// What the query asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Switches {
    sleep_ms: u64,
    body_sleep_ms: u64,
    status: StatusCode,
    bytes: Option<u64>,
    after_bytes: Option<u64>,
    code: i32,
    count: u64,
    interval_ms: u64,
    trailers: bool,
    max_concurrency: Option<u64>,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            sleep_ms: 0,
            body_sleep_ms: 0,
            status: StatusCode::OK,
            bytes: None,
            after_bytes: None,
            code: 1,
            count: 10,
            interval_ms: 100,
            trailers: false,
            max_concurrency: None,
        }
    }
}

impl Switches {
    /// Names it does not know are someone else's; a value that does not fit is refused, lest a test proves nothing.
    fn parse(query: &str) -> Result<Self, String> {
        let mut switches = Self::default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            switches
                .set(name, value)
                .ok_or_else(|| format!("{name}={value} does not fit\n"))?;
        }
        Ok(switches)
    }

    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "sleep_ms" => self.sleep_ms = value.parse().ok()?,
            "body_sleep_ms" => self.body_sleep_ms = value.parse().ok()?,
            "status" => {
                let status: StatusCode = value.parse().ok()?;
                self.status = Some(status).filter(|it| !it.is_informational())?;
            }
            "bytes" => self.bytes = Some(value.parse().ok()?),
            "after_bytes" => self.after_bytes = Some(value.parse().ok()?),
            "code" => self.code = value.parse().ok()?,
            "count" => self.count = value.parse().ok()?,
            "interval_ms" => self.interval_ms = value.parse().ok()?,
            "trailers" => self.trailers = value != "0",
            "max_concurrency" => self.max_concurrency = Some(value.parse().ok()?),
            _ => {}
        }
        Some(())
    }
}
