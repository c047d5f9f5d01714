//! Who may see the page, and what a browser may do with it.

use std::fs;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use parkway_tests::http1::Http1;
use parkway_tests::{Answer, Parkway, eventually, hello_service, patiently};

/// All that the admin entrance has for those who may see it.
const GUARDED: [&str; 9] = [
    "/",
    "/events",
    "/page.css",
    "/page.js",
    "/page.svg",
    "/state",
    "/metrics",
    "/explain",
    "/why",
];

async fn ask(parkway: &Parkway, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::get(path).body(Bytes::new()).unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(
            HeaderName::try_from(*name).unwrap(),
            HeaderValue::try_from(*value).unwrap(),
        );
    }
    let admin = parkway.admin();
    let mut client = Http1::connect(admin, &admin.to_string()).await;
    client.send(request).await
}

#[tokio::test]
async fn a_host_that_a_stranger_may_own_is_refused_and_health_is_for_everybody() {
    let parkway = Parkway::builder()
        .manifest("main", hello_service("shop"))
        .flag("--admin-host", "parkway.internal")
        .start()
        .await;
    let rebound = [("host", "evil.example:9090")];
    for path in GUARDED {
        let answer = ask(&parkway, path, &rebound).await;
        assert_eq!(answer.status, 403, "{path}");
        assert!(!answer.text().contains("shop"), "{path}");
    }
    ask(&parkway, "/healthz", &rebound).await.expect(200);
    ask(&parkway, "/readyz", &rebound).await.expect(200);
    for host in ["localhost:1", "parkway.internal", "[::1]:9090"] {
        ask(&parkway, "/state", &[("host", host)]).await.expect(200);
    }
    parkway.finish().await;
}

#[tokio::test]
async fn other_sites_get_nothing_and_may_link_to_the_page() {
    let parkway = Parkway::with(hello_service("shop")).await;
    let from = |mode, dest| {
        [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", mode),
            ("sec-fetch-dest", dest),
        ]
    };
    for path in GUARDED {
        let answer = ask(&parkway, path, &from("no-cors", "empty")).await;
        assert_eq!(answer.status, 403, "{path}");
    }
    let link = from("navigate", "document");
    ask(&parkway, "/", &link).await.expect(200);
    parkway.finish().await;
}

#[tokio::test]
async fn with_a_token_nothing_is_told_to_those_who_have_it_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    fs::write(&path, "s3cret\n").unwrap();
    let parkway = Parkway::builder()
        .manifest("main", hello_service("shop"))
        .flag("--admin-token-file", path.display())
        .start()
        .await;
    for path in GUARDED {
        for credentials in ["", "Bearer wrong", "Basic eDp3cm9uZw=="] {
            let answer = ask(&parkway, path, &[("authorization", credentials)]).await;
            assert_eq!(answer.status, 401, "{path}");
            assert!(!answer.text().contains("shop"), "{path}");
            assert!(answer.header("www-authenticate").is_some());
        }
    }
    // x:s3cret
    for credentials in ["Bearer s3cret", "Basic eDpzM2NyZXQ="] {
        let with = [("authorization", credentials)];
        let page = ask(&parkway, "/", &with).await.expect(200);
        assert!(page.text().contains("shop-00001"));
        assert!(!page.text().contains("s3cret"));
        let state = ask(&parkway, "/state", &with).await.expect(200);
        assert!(!state.text().contains("s3cret"));
    }
    parkway.stop().await;
}

#[tokio::test]
async fn an_empty_token_is_a_mistake_and_not_an_open_door() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    fs::write(&path, " \n").unwrap();
    let ended = Parkway::builder()
        .manifest("main", hello_service("shop"))
        .flag("--admin-token-file", path.display())
        .run_to_end();
    assert!(!ended.status.success());
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("it holds no token"), "{said}");
}

#[tokio::test]
async fn nothing_on_the_page_comes_from_elsewhere_or_stands_inline() {
    let parkway = Parkway::with(hello_service("shop")).await;
    for path in ["/", "/page.css", "/page.js", "/page.svg", "/state"] {
        let answer = ask(&parkway, path, &[]).await.expect(200);
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let text = answer.text().replace("http://www.w3.org/2000/svg", "");
        let elsewhere = text.contains("http://") || text.contains("https://");
        assert!(!elsewhere, "{path}");
    }
    parkway.finish().await;
}

#[tokio::test]
async fn nothing_can_be_changed_here() {
    let parkway = Parkway::with(hello_service("shop")).await;
    let admin = parkway.admin();
    for path in GUARDED {
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let request = Request::builder().method(method).uri(path);
            let mut client = Http1::connect(admin, &admin.to_string()).await;
            let answer = client.send(request.body(Bytes::new()).unwrap()).await;
            assert_eq!(answer.status, 405, "{method} {path}");
        }
    }
    parkway.finish().await;
}

#[tokio::test]
async fn as_many_pages_may_look_as_there_are_seats_and_one_that_leaves_makes_room() {
    const SEATS: usize = 32;
    let parkway = Parkway::with(hello_service("shop")).await;
    let admin = parkway.admin();
    let listen = async || {
        let mut client = Http1::connect(admin, &admin.to_string()).await;
        let request = Request::get("/events").body(Bytes::new()).unwrap();
        let answer = client.begin(request).await.unwrap();
        (client, answer)
    };
    let mut looking = Vec::new();
    for _ in 0..SEATS {
        let (client, answer) = listen().await;
        assert_eq!(answer.status(), 200);
        looking.push((client, answer));
    }
    assert_eq!(listen().await.1.status(), 503);

    drop(looking.pop());

    eventually("a seat", async || {
        (listen().await.1.status() == 200).then_some(())
    })
    .await;
    drop(looking);
    parkway.stop().await;
}

#[tokio::test]
async fn those_who_look_are_told_everything_first_and_then_what_changes() {
    use http_body_util::BodyExt as _;
    let parkway = Parkway::with(hello_service("shop")).await;
    let admin = parkway.admin();
    let mut client = Http1::connect(admin, &admin.to_string()).await;
    let request = Request::get("/events?q=shop").body(Bytes::new()).unwrap();
    let mut answer = client.begin(request).await.unwrap();
    let mut text = String::new();
    let mut until = async |what: &str| {
        patiently(what, async {
            loop {
                if let Some((event, rest)) = text.split_once("\n\n") {
                    let (event, rest) = (event.to_owned(), rest.to_owned());
                    text = rest;
                    if let Some(data) = event.strip_prefix("data: ") {
                        return serde_json::from_str::<serde_json::Value>(data).unwrap();
                    }
                    continue;
                }
                let frame = answer.frame().await.unwrap().unwrap();
                text.push_str(&String::from_utf8_lossy(frame.data_ref().unwrap()));
            }
        })
        .await
    };

    let first = until("everything").await;
    assert_eq!(
        first["lists"]["revisions"][0],
        "revision:default/shop-00001"
    );
    assert!(first["parts"]["health"].is_string());
    assert!(first["parts"]["host:shop.default.localhost"].is_string());

    parkway.service("shop").get("/").await.expect(200);
    loop {
        let next = until("a start").await;
        assert!(
            next["parts"]["host:shop.default.localhost"].is_null(),
            "it has not changed: {next:#}"
        );
        if next["parts"]["start:1"].is_string() {
            break;
        }
    }
    drop(client);
    parkway.finish().await;
}
