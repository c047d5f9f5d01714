//! Backends that behave like the test images of Knative's suites, in this process.
//!
//! Source: knative/networking `test/test_images`. As there, all of them stand behind the handler of network probes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parkway_tests::Site;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::{grpc, websocket};

/// What a backend does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Image {
    /// Answers with JSON: the request as it arrived.
    Runtime,
    /// The same behind queue-proxy, as in a Revision's Pod: it answers the activator's probes, and gives the container
    /// its `Host` back. Source: knative/serving `pkg/queue/handler.go`, `pkg/queue/health/probe.go`.
    RuntimeBehindQueueProxy,
    /// 503 to the first request, 200 to all others.
    Retry,
    /// Waits `initialTimeout` ms before the head and `timeout` ms before the body, both from the query.
    Timeout,
    /// Echoes each message of a gRPC stream with a suffix.
    GrpcPing { suffix: String },
    /// Echoes each WebSocket message with a suffix.
    WebSocket { suffix: String },
    /// Asks the gateway for `target`.
    HttpProxy { gateway: SocketAddr, target: String },
}

/// A backend that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    container: Arc<Container>,
    serving: JoinHandle<()>,
}

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

impl Backend {
    /// Starts one. `name` is what it calls itself in its answers.
    pub(crate) async fn start(name: &str, image: Image) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, running) = Default::default();
        let container = Arc::new(Container {
            name: name.to_owned(),
            image,
            requests,
            running,
        });
        let serving = tokio::spawn(accept(listener, Arc::clone(&container)));
        Self {
            address,
            container,
            serving,
        }
    }

    /// Whether it has a request to answer.
    pub(crate) fn is_busy(&self) -> bool {
        self.container.running.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn accept(listener: TcpListener, container: Arc<Container>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                connections.spawn(serve(stream, Arc::clone(&container)));
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

/// Serves HTTP/1 or HTTP/2 by prior knowledge, as Go's h2c handler does.
async fn serve(stream: TcpStream, container: Arc<Container>) {
    stream.set_nodelay(true).unwrap();
    let mut first = [0; 3];
    while matches!(stream.peek(&mut first).await, Ok(1 | 2)) {
        sleep(Duration::from_millis(1)).await;
    }
    if &first == b"PRI" {
        serve_http2(stream, container).await;
    } else {
        serve_http1(stream, container).await;
    }
}

async fn serve_http1(stream: TcpStream, container: Arc<Container>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let container = Arc::clone(&container);
        async move { Ok::<_, Infallible>(container.answer_http1(request).await) }
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // A client may leave as it likes.
    drop(connection.with_upgrades().await);
}

async fn serve_http2(stream: TcpStream, container: Arc<Container>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    let mut streams = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        let container = Arc::clone(&container);
        streams.spawn(async move { container.answer_http2(request, respond).await });
    }
}

/// One image at work.
#[derive(Debug)]
struct Container {
    name: String,
    image: Image,
    requests: AtomicUsize,
    running: AtomicUsize,
}

impl Container {
    async fn answer_http1(&self, request: Request<Incoming>) -> Response<Body> {
        if let Image::WebSocket { suffix } = &self.image
            && probe_answer(request.headers()).is_none()
        {
            return websocket::echo(request, suffix);
        }
        let (head, body) = request.into_parts();
        match body.collect().await {
            Ok(body) => {
                self.answer(&Request::from_parts(head, body.to_bytes()))
                    .await
            }
            Err(error) => text(StatusCode::BAD_REQUEST, error.to_string()),
        }
    }

    async fn answer_http2(
        &self,
        request: Request<h2::RecvStream>,
        respond: h2::server::SendResponse<Bytes>,
    ) {
        if let Image::GrpcPing { suffix } = &self.image
            && grpc::is_call(request.headers())
        {
            grpc::echo(request.into_body(), respond, suffix).await;
            return;
        }
        let (head, mut body) = request.into_parts();
        let mut whole = Vec::new();
        while let Some(Ok(data)) = body.data().await {
            body.flow_control().release_capacity(data.len()).unwrap();
            whole.extend_from_slice(&data);
        }
        let answer = self.answer(&Request::from_parts(head, whole.into())).await;
        send_http2(answer, respond).await;
    }

    async fn answer(&self, request: &Request<Bytes>) -> Response<Body> {
        if let Some(answer) = probe_answer(request.headers()) {
            return answer;
        }
        self.running.fetch_add(1, Ordering::Relaxed);
        let answer = self.answer_ordinary(request).await;
        self.running.fetch_sub(1, Ordering::Relaxed);
        answer
    }

    async fn answer_ordinary(&self, request: &Request<Bytes>) -> Response<Body> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        match &self.image {
            Image::Runtime => text(StatusCode::OK, self.describe(request).to_string()),
            Image::RuntimeBehindQueueProxy => self.behind_queue_proxy(request),
            Image::Retry if number == 0 => text(StatusCode::SERVICE_UNAVAILABLE, String::new()),
            Image::Retry => text(StatusCode::OK, format!("Retry {number}")),
            Image::Timeout => sleepy(request).await,
            Image::HttpProxy { gateway, target } => pass_on(request, *gateway, target).await,
            // As the images: what is no call gets an empty answer, what is no upgrade a 400.
            Image::GrpcPing { .. } => text(StatusCode::OK, String::new()),
            Image::WebSocket { .. } => text(StatusCode::BAD_REQUEST, String::new()),
        }
    }

    fn behind_queue_proxy(&self, request: &Request<Bytes>) -> Response<Body> {
        let headers = request.headers();
        if headers
            .get("k-network-probe")
            .is_some_and(|to| to == "queue")
        {
            return text(StatusCode::OK, "queue".to_owned());
        }
        let mut described = self.describe(request);
        let at_container = &mut described["request"];
        let original = at_container["headers"]
            .as_object_mut()
            .unwrap()
            .remove("k-original-host");
        if let Some(original) = original {
            at_container["host"] = original;
        }
        text(StatusCode::OK, described.to_string())
    }

    fn describe(&self, request: &Request<Bytes>) -> Value {
        let names = request.headers().keys();
        let headers = names
            .map(|name| {
                (
                    name.to_string(),
                    joined(request.headers(), name.as_str()).into(),
                )
            })
            .collect();
        let host = request
            .uri()
            .host()
            .map(str::to_owned)
            .unwrap_or_else(|| joined(request.headers(), HOST.as_str()));
        json!({
            "host": { "name": self.name },
            "request": {
                "method": request.method().as_str(),
                "host": host,
                "path": request.uri().path(),
                "protoMajor": if request.version() == Version::HTTP_2 { 2 } else { 1 },
                "headers": Value::Object(headers),
            },
        })
    }
}

fn joined(headers: &HeaderMap, name: &str) -> String {
    let values: Vec<_> = headers
        .get_all(name)
        .iter()
        .map(|value| value.to_str().unwrap())
        .collect();
    values.join(",")
}

/// What the handler of network probes answers: knative/networking `pkg/http/probe/handler.go`.
fn probe_answer(headers: &HeaderMap) -> Option<Response<Body>> {
    headers
        .get("k-network-probe")
        .filter(|probe| *probe == "probe")?;
    let Some(hash) = headers.get("k-network-hash") else {
        return Some(text(
            StatusCode::BAD_REQUEST,
            "a probe request must contain a non-empty hash".to_owned(),
        ));
    };
    let mut answer = text(StatusCode::OK, String::new());
    answer.headers_mut().insert("k-network-hash", hash.clone());
    Some(answer)
}

fn text(status: StatusCode, text: String) -> Response<Body> {
    let mut answer = Response::new(Full::new(Bytes::from(text)).boxed_unsync());
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    answer
}

async fn sleepy(request: &Request<Bytes>) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default();
    let of = |name: &str| {
        let value = query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        value.map_or(0, |value| value.parse().unwrap())
    };
    let (before_head, before_body) = (of("initialTimeout"), of("timeout"));
    sleep(Duration::from_millis(before_head)).await;
    let body = stream::once(async move {
        sleep(Duration::from_millis(before_body)).await;
        Ok(Frame::data(Bytes::from(format!(
            "Slept for {before_body} milliseconds"
        ))))
    });
    Response::new(StreamBody::new(body).boxed_unsync())
}

/// Asks the gateway for the same path of another host.
async fn pass_on(request: &Request<Bytes>, gateway: SocketAddr, target: &str) -> Response<Body> {
    let path = request.uri().path_and_query().unwrap().as_str();
    let answer = Site::new(gateway, target).get(path).await;
    let mut onward = text(answer.status, answer.text());
    onward.headers_mut().extend(answer.headers);
    onward
}

async fn send_http2(answer: Response<Body>, mut respond: h2::server::SendResponse<Bytes>) {
    let (head, mut body) = answer.into_parts();
    // Whoever asked may have left.
    let Ok(mut stream) = respond.send_response(Response::from_parts(head, ()), false) else {
        return;
    };
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            drop(stream.send_data(data, false));
        }
    }
    drop(stream.send_data(Bytes::new(), true));
}
