//! A receiver of OTLP traces: what it was sent, as Jaeger would read it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1 as wire;
use parking_lot::Mutex;
use prost::Message as _;

use crate::http2::next_data;
use crate::upstream::{Connection, Upstream};
use crate::wait::eventually;

/// Takes traces. Dropping it closes its port.
#[derive(Debug)]
pub struct Collector {
    upstream: Upstream,
    taken: Taken,
}

type Taken = Arc<Mutex<Vec<Span>>>;

/// A span as it came.
#[derive(Clone, PartialEq)]
pub struct Span {
    /// The trace's number, as hexadecimal digits.
    pub trace: String,
    /// Its own number.
    pub id: String,
    /// The span it belongs to; empty: it begins the trace.
    pub parent: String,
    /// What it is called.
    pub name: String,
    /// `internal`, `server` or `client`.
    pub kind: &'static str,
    /// Its beginning, in nanoseconds since 1970.
    pub from: u64,
    /// Its end.
    pub to: u64,
    /// What it says.
    pub attributes: BTreeMap<String, String>,
    /// What happened meanwhile, and when.
    pub events: Vec<(String, u64)>,
    /// Other spans it points to: trace and span.
    pub links: Vec<(String, String)>,
    /// Whether it failed.
    pub is_error: bool,
    /// W3C's `tracestate`.
    pub state: String,
    /// Who sent it: the attributes of its resource.
    pub resource: BTreeMap<String, String>,
}

impl Span {
    /// How long it lasted, in milliseconds.
    pub fn ms(&self) -> f64 {
        ms(self.to.checked_sub(self.from).unwrap())
    }

    /// What it says of this.
    pub fn says(&self, key: &str) -> Option<&str> {
        self.attributes.get(key).map(String::as_str)
    }
}

/// Nanoseconds as milliseconds.
fn ms(nanos: u64) -> f64 {
    std::time::Duration::from_nanos(nanos).as_secs_f64() * 1e3
}

impl Collector {
    /// OTLP over HTTP.
    pub async fn http() -> Self {
        let taken = Taken::default();
        let upstream = Upstream::start(over_http(&taken)).await;
        Self { upstream, taken }
    }

    /// OTLP over HTTP at an address where one was before.
    pub async fn http_at(address: SocketAddr) -> Self {
        let taken = Taken::default();
        let upstream = Upstream::start_at(address, over_http(&taken)).await;
        Self { upstream, taken }
    }

    /// OTLP over gRPC.
    pub async fn grpc() -> Self {
        let taken = Taken::default();
        let to = Arc::clone(&taken);
        let script = move |request, respond| over_grpc(Arc::clone(&to), request, respond);
        let upstream = Upstream::http2(script).await;
        Self { upstream, taken }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.upstream.address()
    }

    /// Where it listens, as an URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// What has come.
    pub fn spans(&self) -> Vec<Span> {
        self.taken.lock().clone()
    }

    /// What has come, as soon as `is_so` of it.
    pub async fn spans_when(&self, what: &str, is_so: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        eventually(what, async || {
            let spans = self.spans();
            is_so(&spans).then_some(spans)
        })
        .await
    }
}

fn over_http(taken: &Taken) -> impl Fn(Connection) -> BoxedScript + Send + 'static {
    let taken = Arc::clone(taken);
    move |mut connection: Connection| {
        let taken = Arc::clone(&taken);
        Box::pin(async move {
            while let Some((head, body)) = connection.whole_request().await {
                assert_eq!(
                    (head.method.as_str(), head.target.as_str()),
                    ("POST", "/v1/traces")
                );
                assert_eq!(head.header("content-type"), Some("application/x-protobuf"));
                take(&taken, body);
                connection.answer("").await;
            }
        })
    }
}

type BoxedScript = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

async fn over_grpc(taken: Taken, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let (head, mut stream) = request.into_parts();
    assert_eq!(
        head.uri.path(),
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    );
    let mut body = Vec::new();
    while let Some(Ok(data)) = next_data(&mut stream).await {
        body.extend_from_slice(&data);
    }
    let mut body = Bytes::from(body);
    assert_eq!(body.get_u8(), 0, "compressed, which nobody asked for");
    let length = usize::try_from(body.get_u32()).unwrap();
    assert_eq!(body.len(), length);
    take(&taken, body);
    let answer = Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let Ok(mut stream) = respond.send_response(answer, false) else {
        return; // it has gone
    };
    // An empty message, and that all went well.
    drop(stream.send_data(Bytes::from_static(&[0; 5]), false));
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    drop(stream.send_trailers(trailers));
}

fn take(taken: &Taken, body: Bytes) {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let mut spans = Vec::new();
    for of_resource in request.resource_spans {
        let resource = said(of_resource.resource.unwrap().attributes);
        for of_scope in of_resource.scope_spans {
            assert_eq!(of_scope.scope.unwrap().name, "parkway");
            spans.extend({ of_scope.spans }.into_iter().map(|it| span(it, &resource)));
        }
    }
    taken.lock().extend(spans);
}

fn span(span: wire::Span, resource: &BTreeMap<String, String>) -> Span {
    use wire::span::SpanKind as Kind;
    let kind = match span.kind() {
        Kind::Internal => "internal",
        Kind::Server => "server",
        Kind::Client => "client",
        other => panic!("{other:?}"),
    };
    let code = span.status.as_ref().map(wire::Status::code);
    Span {
        trace: hex(&span.trace_id, 16),
        id: hex(&span.span_id, 8),
        parent: match span.parent_span_id.as_slice() {
            [] => String::new(),
            parent => hex(parent, 8),
        },
        name: span.name,
        kind,
        from: span.start_time_unix_nano,
        to: span.end_time_unix_nano,
        attributes: said(span.attributes),
        events: { span.events }
            .into_iter()
            .map(|event| (event.name, event.time_unix_nano))
            .collect(),
        links: { span.links }
            .into_iter()
            .map(|link| (hex(&link.trace_id, 16), hex(&link.span_id, 8)))
            .collect(),
        is_error: code == Some(wire::status::StatusCode::Error),
        state: span.trace_state,
        resource: resource.clone(),
    }
}

/// Exactly so many bytes, not all zero, as the protocol wants it.
fn hex(bytes: &[u8], length: usize) -> String {
    assert_eq!(bytes.len(), length);
    assert!(bytes.iter().any(|byte| *byte != 0));
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn said(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let count = attributes.len();
    let said: BTreeMap<_, _> = attributes
        .into_iter()
        .map(|attribute| (attribute.key, text(attribute.value)))
        .collect();
    assert_eq!(said.len(), count, "each attribute once: {said:?}");
    said
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(is_so)) => is_so.to_string(),
        other => format!("{other:?}"),
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} of {} < {:?} [{:.3} ms] {:?} links {:?}",
            self.kind,
            self.name,
            self.trace,
            self.parent,
            self.ms(),
            self.attributes,
            self.links
        )
    }
}
