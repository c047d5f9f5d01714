//! Clients and servers that others have written: Python's grpcio and websockets, at both ends.

use std::env;
use std::net::SocketAddr;
use std::process::Command;

use parkway_tests::manifest::Service;
use parkway_tests::{Gate, Parkway, Site, service};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/protocols/python");

/// `PARKWAY_TEST_PYTHON` may name one that has the packages.
fn python() -> String {
    env::var("PARKWAY_TEST_PYTHON").unwrap_or_else(|_unset| "python3".to_owned())
}

/// Whether a package is there; says so if it is not.
#[expect(clippy::print_stderr, reason = "part of the report of a test")]
fn has(package: &str) -> bool {
    let (python, import) = (python(), format!("import {package}"));
    let asked = Command::new(&python).args(["-c", &import]).output();
    let is_there = asked.is_ok_and(|output| output.status.success());
    assert!(
        is_there || env::var_os("REQUIRE_PYTHON").is_none(),
        "{python} has no {package}, and REQUIRE_PYTHON is set"
    );
    if !is_there {
        eprintln!(
            "ABSENT: {python} with {package}; this test proves nothing (pip install grpcio websockets)"
        );
    }
    is_there
}

fn python_service(script: &str) -> Service {
    service("shop", &[&python(), &format!("{FOLDER}/{script}")])
}

/// Runs a client to its end and reads what it says.
async fn run(script: &str, address: SocketAddr, arguments: &[&str]) -> Value {
    let mut command = Command::new(python());
    command
        .arg(format!("{FOLDER}/{script}"))
        .arg(address.to_string())
        .args(arguments);
    // It has timeouts of its own.
    let output = spawn_blocking(move || command.output()).await.unwrap();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn call(site: &Site, calls: &[&str]) -> Value {
    let arguments = [&[site.host()], calls].concat();
    run("grpc_client.py", site.address(), &arguments).await
}

#[tokio::test]
async fn calls_of_all_kinds_go_through_a_cold_start_at_both_entrances() {
    if !has("grpc") {
        return;
    }
    for is_outside in [true, false] {
        let gate = Gate::closed();
        let parkway = Parkway::with(gate.holds(python_service("grpc_server.py").h2c())).await;
        let site = match is_outside {
            true => parkway.service("shop"),
            false => parkway.at_local("shop.default.svc.cluster.local"),
        };
        let kinds = ["unary", "server_stream", "client_stream", "bidi", "fail"];
        let (said, ()) = tokio::join!(call(&site, &kinds), async {
            parkway.parked(5).await;
            gate.open();
        });
        let expected = json!({
            "unary": ["one got order", "one"],
            "server_stream": ["one says 0", "one says 1", "one says 2"],
            "client_stream": "one got a,b,c",
            "bidi": ["one got 0", "one got 1", "one got 2"],
            "fail": {"code": "FAILED_PRECONDITION", "details": "not today: 100 %"},
        });
        assert_eq!(said, expected);
        // And warm.
        assert_eq!(call(&site, &kinds).await, expected);
        parkway.finish().await;
    }
}

#[tokio::test]
async fn what_goes_wrong_here_is_a_status_with_a_message_to_grpcio() {
    if !has("grpc") {
        return;
    }
    let gate = Gate::closed();
    let shop = python_service("grpc_server.py").h2c();
    let shop = shop.asks("timeout-parked", "1s");
    let parkway = Parkway::with(gate.holds(shop)).await;
    let nowhere = call(&parkway.service("nowhere"), &["unary"]).await;
    assert_eq!(nowhere["unary"]["code"], "UNIMPLEMENTED");
    assert_ne!(nowhere["unary"]["details"], "");

    let said = call(&parkway.service("shop"), &["unary", "hurried"]).await;
    let parked = json!({
        "code": "UNAVAILABLE",
        "details": "the route's timeout has passed: timeout-parked",
    });
    assert_eq!(said["unary"], parked);
    assert_eq!(said["hurried"]["code"], "DEADLINE_EXCEEDED");
    parkway.finish().await;
}

#[tokio::test]
async fn pythons_websockets_talk_through_a_cold_start_and_hear_the_servers_goodbye() {
    if !has("websockets") {
        return;
    }
    let gate = Gate::closed();
    let parkway = Parkway::with(gate.holds(python_service("websocket_server.py"))).await;
    let site = parkway.service("shop");
    let arguments = [site.host()];
    let talk = run("websocket_client.py", site.address(), &arguments);
    let (said, ()) = tokio::join!(talk, async {
        parkway.parked(1).await;
        gate.open();
    });
    let expected = json!({
        "text": "hello",
        "large": true,
        "fragments": "in three frames",
        "pong": true,
        "close": [4321, "until then"],
    });
    assert_eq!(said, expected);
    parkway.finish().await;
}
