//! Every version at every entrance, to endpoints of either.

use std::process::Command;

use parkway_tests::{Parkway, has_program, hello_service};

#[tokio::test]
async fn both_entrances_speak_every_version_to_endpoints_of_either() {
    for (service, seen) in [
        (hello_service("shop"), "HTTP/1.1"),
        (hello_service("shop").h2c(), "HTTP/2.0"),
    ] {
        let parkway = Parkway::with(service).await;
        for site in [
            parkway.service("shop"),
            parkway.at_local("shop.default.svc.cluster.local"),
        ] {
            let host = site.host();
            let mut raw = site.raw().await;
            raw.send(format!("GET /headers HTTP/1.0\r\nHost: {host}\r\n\r\n"))
                .await;
            let by_http10 = raw.answer().await;
            let by_http11 = site.get("/headers").await;
            let by_http2 = site.http2().await.get("/headers").await;
            for answer in [by_http10, by_http11, by_http2] {
                assert_eq!(answer.expect(200).json()["version"], seen);
            }
        }
        parkway.finish().await;
    }
}

#[tokio::test]
async fn connect_is_refused_by_every_version() {
    let parkway = Parkway::with(hello_service("shop")).await;
    let site = parkway.service("shop");
    for version in ["HTTP/1.0", "HTTP/1.1"] {
        let mut raw = site.raw().await;
        let host = site.host();
        raw.send(format!(
            "CONNECT {host}:443 {version}\r\nHost: {host}:443\r\n\r\n"
        ))
        .await;
        let head = raw.head().await;
        assert!(head.contains(" 405 "), "{head}");
    }
    assert_eq!(parkway.state().await.parked(), 0);
    parkway.finish().await;
}

#[tokio::test]
async fn nghttp_gets_through_a_cold_start_what_it_sends_with_trailers_and_in_small_windows() {
    if !has_program("nghttp") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let body = folder.path().join("body");
    std::fs::write(&body, vec![b'x'; 100_000]).unwrap();
    for service in [hello_service("shop"), hello_service("shop").h2c()] {
        let parkway = Parkway::with(service).await;
        let site = parkway.service("shop");
        let said = Command::new("nghttp")
            .args(["-nv", "-m", "5", "-w", "10", "-W", "12"])
            .args(["--trailer", "checksum: 42"])
            .arg("-H")
            .arg(format!(":authority: {}", site.host()))
            .arg("-d")
            .arg(&body)
            .arg(format!("http://{}/echo", site.address()))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&said.stdout);
        assert!(said.status.success(), "{text}");
        assert_eq!(text.matches(":status: 200").count(), 5, "{text}");
        parkway.finish().await;
    }
}
