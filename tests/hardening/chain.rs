//! HAProxy and Envoy in front of Parkway and behind it: requests, uploads, WebSockets and HTTP/2 pass.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use bytes::Bytes;
use http::{Method, Request};
use parkway_tests::upstream::Connection;
use parkway_tests::{
    Parkway, Site, Upstream, h2c_revision_with_endpoints, revision_with_endpoints,
};

use crate::programs::{Program, program};

/// How a program speaks to what is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Http1,
    Http2,
}

/// Says how much it got, or switches to another protocol and echoes a line.
async fn endpoint(mut connection: Connection) {
    while let Some(head) = connection.request().await {
        if head.header("upgrade").is_some() {
            // The answer to the key of RFC 6455 section 1.3.
            connection
                .send(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
                )
                .await;
            while let Ok(line) = connection.raw.try_until("\n").await {
                connection.send(line).await;
            }
            return;
        }
        let body = connection.body(&head).await;
        let said = format!("{} {} {}", head.method, head.target, body.len());
        connection.answer(&said).await;
    }
}

/// Sends what there is to send, and sees it arrive.
async fn all_passes(what: &str, site: &Site) {
    let large = Bytes::from(vec![b'x'; 3_000_000]);
    let mut http1 = site.http1().await;
    let http2 = site.http2().await;
    for round in 0..3 {
        let get = || site.request(Method::GET, "/get?a=b", "");
        let post = || site.request(Method::POST, "/post", large.clone());
        let answers = [
            http1.send(get()).await,
            http1.send(post()).await,
            http2.send(get()).await,
            http2.send(post()).await,
        ];
        let texts = answers.map(|answer| answer.expect(200).text());
        let expected = ["GET /get?a=b 0", "POST /post 3000000"];
        assert_eq!(texts, [expected, expected].concat()[..], "{what} {round}");
    }
    // Of no known length.
    let mut exchange = {
        let request = Request::post("/stream").body(()).unwrap();
        http2.begin(request, false).await.unwrap()
    };
    exchange.write("some, ", false).await.unwrap();
    exchange.write("then more", true).await.unwrap();
    let answer = exchange.answer().await.unwrap().expect(200);
    assert_eq!(answer.text(), "POST /stream 15", "{what}");
}

async fn websockets_pass(what: &str, site: &Site) {
    let mut client = site.raw().await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.send(site.head("GET /socket") + upgrade).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{what}: {head}");
    for line in ["one\n", "and another\n"] {
        client.send(line).await;
        assert_eq!(client.until("\n").await, line, "{what}");
    }
}

async fn haproxy(behind: SocketAddr, by: By) -> Option<Program> {
    program("haproxy", |port, directory| {
        let configuration = directory.join("haproxy.cfg");
        let proto = match by {
            By::Http1 => "",
            By::Http2 => "proto h2",
        };
        let text = format!(
            "defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
             \x20 timeout tunnel 60s\nlisten all\n  bind 127.0.0.1:{port}\n  server one {behind} {proto}\n"
        );
        std::fs::write(&configuration, text).unwrap();
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(configuration);
        command
    })
    .await
}

async fn envoy(behind: SocketAddr, by: By) -> Option<Program> {
    program("envoy", |port, directory| {
        let configuration = directory.join("envoy.yaml");
        let kind = "type.googleapis.com/envoy.extensions";
        let protocol = match by {
            By::Http1 => "http_protocol_options",
            By::Http2 => "http2_protocol_options",
        };
        let (to, at) = (behind.ip(), behind.port());
        let text = format!(
            r#"static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {kind}.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: all
          upgrade_configs: [{{upgrade_type: websocket}}]
          route_config:
            virtual_hosts:
            - {{name: all, domains: ["*"], routes: [{{match: {{prefix: "/"}}, route: {{cluster: behind}}}}]}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": {kind}.filters.http.router.v3.Router}}
  clusters:
  - name: behind
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": {kind}.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{{protocol}: {{}}}}
    load_assignment:
      cluster_name: behind
      endpoints:
      - lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {to}, port_value: {at}}}}}}}}}]
"#
        );
        std::fs::write(&configuration, text).unwrap();
        let mut command = Command::new("envoy");
        command
            .args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "error"])
            .arg("-c")
            .arg(configuration)
            .stderr(Stdio::null());
        command
    })
    .await
}

/// Programs that speak to `behind` in these ways, as far as there are some.
async fn programs(behind: SocketAddr) -> Vec<(String, By, Program)> {
    let mut programs = Vec::new();
    for by in [By::Http1, By::Http2] {
        let found = [
            ("haproxy", haproxy(behind, by).await),
            ("envoy", envoy(behind, by).await),
        ];
        for (name, program) in found {
            programs.extend(program.map(|program| (format!("{name} {by:?}"), by, program)));
        }
    }
    programs
}

#[tokio::test]
async fn everything_passes_with_haproxy_and_envoy_in_front() {
    let upstream = Upstream::start(endpoint).await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await;
    for (what, by, program) in programs(parkway.external()).await {
        let site = Site::new(program.address, "shop.default.localhost");
        all_passes(&what, &site).await;
        if by == By::Http1 {
            websockets_pass(&what, &site).await;
        }
    }
    parkway.finish().await;
}

#[tokio::test]
async fn everything_passes_with_haproxy_and_envoy_behind() {
    let upstream = Upstream::start(endpoint).await;
    for (what, by, program) in programs(upstream.address()).await {
        if by == By::Http2 {
            // What is behind them speaks HTTP/1 here.
            continue;
        }
        let manifest = revision_with_endpoints("shop", &[program.address]);
        let h2c = h2c_revision_with_endpoints("fast", &[program.address]);
        let parkway = Parkway::with(manifest.and(h2c)).await;
        for service in ["shop", "fast"] {
            let site = parkway.service(service);
            all_passes(&format!("{what}, {service}"), &site).await;
            websockets_pass(&format!("{what}, {service}"), &site).await;
        }
        parkway.finish().await;
    }
}
