//! What a workload sees of a request's head.

use bytes::Bytes;
use http::Request;
use parkway_tests::{Parkway, Site, Upstream, hello_service, revision_with_endpoints};
use serde_json::{Value, json};

const NOT_FROM_OUTSIDE: [(&str, &str); 8] = [
    ("K-Proxy-Request", "forged"),
    ("K-Original-Host", "forged.example.com"),
    ("K-Passthrough-Lb", "true"),
    ("K-Kubelet-Probe", "forged"),
    ("Knative-Direct-Lb", "true"),
    ("Knative-Serving-Revision", "forged"),
    ("Knative-Serving-Namespace", "forged"),
    ("Knative-Serving-Default-Route", "false"),
];

#[tokio::test]
async fn headers_by_which_an_outsider_could_act_do_not_reach_the_workload() {
    let parkway = Parkway::with(hello_service("shop").and(hello_service("forged"))).await;
    let shop = parkway.service("shop");
    let mut request = Request::get("/headers");
    for (name, value) in NOT_FROM_OUTSIDE
        .into_iter()
        .chain([("Knative-Serving-Tag", "next"), ("X-Other", "stays")])
    {
        request = request.header(name, value);
    }
    let request = request.body(Bytes::new()).unwrap();

    for seen in seen_by_both(&shop, request).await {
        assert_eq!(seen["revision"], "shop-00001");
        let headers = seen["headers"].as_object().unwrap();
        for (name, value) in NOT_FROM_OUTSIDE {
            let arrived = headers.get(&name.to_lowercase());
            assert_ne!(arrived, Some(&json!([value])), "{name}: {headers:#?}");
        }
        assert_eq!(headers.get("knative-serving-tag"), None);
        assert_eq!(headers["x-other"], json!(["stays"]));
        assert_eq!(headers["host"], json!(["shop.default.localhost"]));
    }
    parkway.finish().await;
}

#[tokio::test]
async fn a_workload_sees_the_host_that_the_client_asked_for() {
    let parkway = Parkway::with(hello_service("shop")).await;
    let host = "Shop.default.localhost:8080";
    let seen = parkway.at(host).get("/headers").await.expect(200).json();
    assert_eq!(seen["headers"]["host"], json!([host]));
    let over_http2 = parkway
        .service("shop")
        .http2()
        .await
        .get("/headers")
        .await
        .expect(200)
        .json();
    assert_eq!(
        over_http2["headers"]["host"],
        json!(["shop.default.localhost"])
    );
    parkway.finish().await;

    let parkway = Parkway::with(hello_service("shop").h2c()).await;
    let seen = parkway.at(host).get("/headers").await.expect(200).json();
    assert_eq!(seen["authority"], host);
    parkway.finish().await;
}

#[tokio::test]
async fn whom_a_request_comes_from_is_said_by_parkway_and_not_by_the_client() {
    let parkway = Parkway::with(hello_service("shop")).await;
    for seen in seen_by_both(&parkway.service("shop"), forwarded()).await {
        let headers = &seen["headers"];
        assert_eq!(headers["x-forwarded-for"], json!(["127.0.0.1"]));
        assert_eq!(headers["x-forwarded-proto"], json!(["http"]));
        assert_eq!(
            headers["x-forwarded-host"],
            json!(["shop.default.localhost"])
        );
        assert_eq!(
            headers["forwarded"],
            json!(["for=127.0.0.1;host=shop.default.localhost;proto=http"])
        );
    }
    parkway.finish().await;
}

#[tokio::test]
async fn a_trusted_proxy_in_front_may_say_whom_a_request_comes_from() {
    let builder = Parkway::builder().manifest("main", hello_service("shop"));
    let parkway = builder.flag("--trusted-hops", 1).start().await;
    for seen in seen_by_both(&parkway.service("shop"), forwarded()).await {
        let headers = &seen["headers"];
        assert_eq!(
            headers["x-forwarded-for"],
            json!(["192.0.2.2, 127.0.0.1"]),
            "the forged entry is dropped"
        );
        assert_eq!(headers["x-forwarded-proto"], json!(["https"]));
        assert_eq!(headers["x-forwarded-host"], json!(["shop.example.com"]));
    }
    parkway.finish().await;
}

#[tokio::test]
async fn the_cluster_local_entrance_believes_its_peers() {
    let parkway = Parkway::with(hello_service("shop").cluster_local()).await;
    parkway
        .at("shop.default.svc.cluster.local")
        .get("/headers")
        .await
        .expect(404);
    let shop = parkway.at_local("shop.default.svc.cluster.local");
    let mut request = forwarded();
    request
        .headers_mut()
        .insert("k-original-host", "mapped.example.com".parse().unwrap());
    for seen in seen_by_both(&shop, request).await {
        let headers = &seen["headers"];
        assert_eq!(
            headers["host"],
            json!(["mapped.example.com"]),
            "the first pass of a DomainMapping has put it there"
        );
        assert_eq!(
            headers["x-forwarded-for"],
            json!(["192.0.2.1, 192.0.2.2, 127.0.0.1"])
        );
        assert_eq!(headers["x-forwarded-proto"], json!(["https"]));
    }
    parkway.finish().await;
}

#[tokio::test]
async fn headers_for_the_next_hop_only_stay_there() {
    let parkway = Parkway::with(hello_service("shop")).await;
    let shop = parkway.service("shop");
    let mut raw = shop.raw().await;
    let fields = "Connection: keep-alive, x-mine, host\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers, deflate\r\n\
                  Proxy-Connection: keep-alive\r\nProxy-Authorization: x\r\nUpgrade: h2c\r\nX-Other: 1\r\n\r\n";
    raw.send(shop.head("GET /headers") + fields).await;
    let seen = raw.answer().await.expect(200).json();
    let headers = seen["headers"].as_object().unwrap();
    for name in [
        "connection",
        "x-mine",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "upgrade",
    ] {
        assert_eq!(headers.get(name), None, "{headers:#?}");
    }
    assert_eq!(headers["te"], json!(["trailers"]));
    assert_eq!(headers["x-other"], json!(["1"]));
    assert_eq!(headers["host"], json!(["shop.default.localhost"]));
    parkway.finish().await;
}

#[tokio::test]
async fn a_path_reaches_the_workload_as_it_was_written() {
    let upstream = Upstream::answering("shop").await;
    let parkway = Parkway::with(revision_with_endpoints("shop", &[upstream.address()])).await;
    let shop = parkway.service("shop");
    let http2 = shop.http2().await;
    for path in [
        "//a/../b/./c%2Fd?x=%20&y=%zz",
        "/a;v=1?",
        "/%E2%82%AC",
        "/?a?b=/c",
    ] {
        assert_eq!(shop.get(path).await.expect(200).json()["path"], path);
        assert_eq!(http2.get(path).await.expect(200).json()["path"], path);
    }
    let mut raw = shop.raw().await;
    raw.send(shop.head("OPTIONS *") + "\r\n").await;
    assert_eq!(raw.answer().await.expect(200).json()["path"], "*");
    parkway.finish().await;
}

fn forwarded() -> Request<Bytes> {
    Request::get("/headers")
        .header("x-forwarded-for", "192.0.2.1, 192.0.2.2")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-host", "shop.example.com")
        .header("forwarded", "for=192.0.2.1")
        .body(Bytes::new())
        .unwrap()
}

/// What the workload says it saw, when asked over HTTP/1.1 and over HTTP/2.
async fn seen_by_both(site: &Site, request: Request<Bytes>) -> [Value; 2] {
    let http2 = site.http2().await;
    [
        site.send(request.clone()).await.expect(200).json(),
        http2.send(request).await.expect(200).json(),
    ]
}
