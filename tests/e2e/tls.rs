//! `parkway run` by TLS: certificates from files and from Secrets among the manifests.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use http::{Method, Request};
use parkway_tests::manifest::Manifests;
use parkway_tests::tls::{Authority, Identity, TlsClient};
use parkway_tests::{
    Parkway, Raw, Site, Upstream, command, eventually, has_program, hello_service, with_endpoints,
};
use parkway_tests::{certificates, service};
use tempfile::TempDir;

const SHOP: &str = "shop.default.localhost";

/// Certificates in files.
struct Files(TempDir);

impl Files {
    fn with(identity: &Identity) -> Self {
        let files = Self(TempDir::new().unwrap());
        files.put(identity);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn chain(&self) -> PathBuf {
        self.path("tls.crt")
    }

    fn key(&self) -> PathBuf {
        self.path("tls.key")
    }

    /// Each file in one step, the key last.
    fn put(&self, identity: &Identity) {
        for (path, text) in [(self.chain(), &identity.chain), (self.key(), &identity.key)] {
            let draft = self.path("draft");
            fs::write(&draft, text).unwrap();
            fs::rename(draft, path).unwrap();
        }
    }
}

fn by_tls(builder: parkway_tests::Builder, files: &Files) -> parkway_tests::Builder {
    builder
        .flag("--listen-tls", "127.0.0.1:0")
        .flag("--tls-cert", files.chain().display())
        .flag("--tls-key", files.key().display())
}

/// A Secret as a manifest.
fn secret(name: &str, identity: &Identity, client_ca: Option<&Authority>) -> String {
    let base64 = |text: &str| certificates::base64(text.as_bytes());
    let ca = client_ca.map(|ca| format!("  ca.crt: {}\n", base64(ca.root())));
    format!(
        "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata:\n  name: {name}\n\
         data:\n  tls.crt: {}\n  tls.key: {}\n{}",
        base64(&identity.chain),
        base64(&identity.key),
        ca.unwrap_or_default()
    )
}

async fn secure(parkway: &Parkway, client: &TlsClient, host: &str) -> Site {
    let at = parkway.listens("external_tls");
    Site::new(client.tunnel(at, host).await, host)
}

/// The certificate that a client is shown which says this name.
async fn shown(parkway: &Parkway, client: &TlsClient, host: &str) -> Option<Vec<u8>> {
    let stream = client.connect(parkway.listens("external_tls"), host).await;
    let stream = stream.ok()?;
    let shown = stream.get_ref().1.peer_certificates()?.first()?.to_vec();
    Some(shown)
}

async fn until_shown(parkway: &Parkway, client: &TlsClient, host: &str, identity: &Identity) {
    eventually("the new certificate", async || {
        let now = shown(parkway, client, host).await;
        (now.as_deref() == Some(identity.first().as_ref())).then_some(())
    })
    .await;
}

#[tokio::test]
async fn hosts_are_served_by_tls_with_the_certificate_of_the_files() {
    let authority = Authority::new("all");
    let files = Files::with(&authority.issue(&["*.default.localhost"]));
    let parkway = by_tls(Parkway::builder(), &files)
        .manifest("main", hello_service("shop"))
        .start()
        .await;
    let client = TlsClient::trusting(&authority);

    let site = secure(&parkway, &client.clone().protocols(&["h2"]), SHOP).await;
    let h2 = site.http2().await;
    h2.get("/").await.expect(200);
    let site = secure(&parkway, &client, SHOP).await;
    site.get("/").await.expect(200);
    parkway.service("shop").get("/").await.expect(200);
    let done = [("entrance", "external"), ("end", "done")];
    let done = parkway.metric("parkway_tls_handshakes_total", &done).await;
    assert!(done >= Some(2.0), "{done:?}");
    drop(h2);
    parkway.finish().await;
}

#[tokio::test]
async fn files_are_exchanged_and_no_connection_is_dropped() {
    let authority = Authority::new("all");
    let first = authority.issue(&[SHOP]);
    let files = Files::with(&first);
    let parkway = by_tls(Parkway::builder(), &files)
        .manifest("main", hello_service("shop"))
        .start()
        .await;
    let client = TlsClient::trusting(&authority);
    let at = parkway.listens("external_tls");
    let mut lasting = Raw::connect(client.tunnel(at, SHOP).await).await;
    let get = format!("GET / HTTP/1.1\r\nhost: {SHOP}\r\n\r\n");
    lasting.send(&get).await;
    lasting.answer().await.expect(200);

    let second = authority.issue(&[SHOP]);
    files.put(&second);
    until_shown(&parkway, &client, SHOP, &second).await;

    fs::write(files.key(), &first.key).unwrap();
    parkway
        .says("the certificates before this change stay in effect")
        .await;
    let now = shown(&parkway, &client, SHOP).await;
    assert_eq!(now.as_deref(), Some(second.first().as_ref()));
    let third = authority.issue(&[SHOP]);
    files.put(&third);
    until_shown(&parkway, &client, SHOP, &third).await;
    lasting.send(&get).await;
    lasting.answer().await.expect(200);
    drop(lasting);
    parkway.finish().await;
}

#[tokio::test]
async fn secrets_among_the_manifests_are_served_for_the_names_in_them_and_exchanged() {
    let authority = Authority::new("all");
    let other = "other.default.localhost";
    let of_files = authority.issue(&["*.default.localhost"]);
    let files = Files::with(&of_files);
    let first = authority.issue(&[SHOP]);
    let parkway = by_tls(Parkway::builder(), &files)
        .manifest("main", hello_service("shop").and(hello_service("other")))
        .manifest("secret", secret("shop", &first, None))
        .start()
        .await;
    let client = TlsClient::trusting(&authority);
    for (host, identity) in [(SHOP, &first), (other, &of_files)] {
        let now = shown(&parkway, &client, host).await;
        assert_eq!(now.as_deref(), Some(identity.first().as_ref()), "{host}");
        secure(&parkway, &client, host)
            .await
            .get("/")
            .await
            .expect(200);
    }

    let second = authority.issue(&[SHOP]);
    parkway.edit("secret", secret("shop", &second, None));
    until_shown(&parkway, &client, SHOP, &second).await;

    let mismatch = Identity {
        chain: second.chain.clone(),
        key: first.key.clone(),
    };
    parkway.edit("secret", secret("shop", &mismatch, None));
    parkway
        .says("the configuration before this change stays in effect")
        .await;
    let now = shown(&parkway, &client, SHOP).await;
    assert_eq!(now.as_deref(), Some(second.first().as_ref()));
    parkway.remove("secret");
    until_shown(&parkway, &client, SHOP, &of_files).await;
    parkway.finish().await;
}

#[tokio::test]
async fn a_kingress_names_the_secret_for_its_hosts() {
    let authority = Authority::new("all");
    let host = "shop.example.com";
    let upstream = Upstream::answering("it").await;
    let wild = authority.issue(&["*.example.com"]);
    let service = with_endpoints(service("shop", &[]), &[upstream.address()]);
    let ingress = format!(
        "apiVersion: networking.internal.knative.dev/v1alpha1\nkind: Ingress\nmetadata: {{name: custom}}\n\
         spec:\n  tls:\n    - {{hosts: [{host}], secretName: wild, secretNamespace: default}}\n    - {{hosts: [{host}], secretName: absent, secretNamespace: default}}\n  \
         rules:\n    - hosts: [{host}]\n      visibility: ExternalIP\n      http:\n        paths:\n          \
         - splits: [{{serviceNamespace: default, serviceName: shop-00001, servicePort: 80, percent: 100}}]\n"
    );
    let files = Files::with(&authority.issue(&[host]));
    let parkway = by_tls(Parkway::builder(), &files)
        .manifest(
            "main",
            service.and(ingress).and(secret("wild", &wild, None)),
        )
        .start()
        .await;
    let client = TlsClient::trusting(&authority);
    let now = shown(&parkway, &client, host).await;
    assert_eq!(now.as_deref(), Some(wild.first().as_ref()));
    secure(&parkway, &client, host)
        .await
        .get("/")
        .await
        .expect(200);
    let problems = parkway.state().await.configuration()["problems"].to_string();
    assert!(
        problems.contains("there is no Secret default/absent") && problems.contains("spec.tls[1]"),
        "{problems}"
    );
    parkway.finish().await;
}

#[tokio::test]
async fn plain_requests_are_sent_to_the_port_that_serves_tls() {
    let authority = Authority::new("all");
    let files = Files::with(&authority.issue(&[SHOP]));
    let redirected = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config-network, namespace: knative-serving}\n\
                      data: {http-protocol: Redirected}\n";
    let parkway = by_tls(Parkway::builder(), &files)
        .manifest("main", hello_service("shop").and(redirected))
        .start()
        .await;
    let moved = parkway.service("shop").get("/a?b=c").await.expect(301);
    let port = parkway.listens("external_tls").port();
    let location = format!("https://{SHOP}:{port}/a?b=c");
    assert_eq!(moved.header("location"), Some(location.as_str()));
    let client = TlsClient::trusting(&authority);
    let site = secure(&parkway, &client, SHOP).await;
    site.get("/").await.expect(200);
    parkway.finish().await;
}

#[tokio::test]
async fn without_a_certificate_one_is_made_that_names_the_hosts() {
    let parkway = Parkway::builder()
        .flag("--listen-tls", "127.0.0.1:0")
        .manifest("main", hello_service("shop"))
        .start()
        .await;
    parkway.says("a certificate made just now").await;
    let at = parkway.listens("external_tls");
    if has_program("curl") {
        let got = curl(at.port(), &["--insecure"]);
        assert_eq!(got.as_deref(), Ok("Hello from shop-00001!\n"));
        let refused = curl(at.port(), &[]).unwrap_err();
        assert!(refused.contains("60"), "{refused}");
    }
    let nobody = TlsClient::trusting(&Authority::new("another"));
    nobody.connect(at, SHOP).await.unwrap_err();
    let state = parkway.state().await;
    let made = &state.0["tls"][0]["certificates"][0];
    assert_eq!(made["source"], "made at start");
    let names = made.to_string();
    assert!(names.contains("*.default.localhost"), "{names}");
    parkway.finish().await;
}

/// What curl gets from the shop, or its status.
fn curl(port: u16, arguments: &[&str]) -> Result<String, String> {
    let output = std::process::Command::new("curl")
        .args(["--silent", "--show-error", "--noproxy", "*"])
        .args(["--resolve", &format!("{SHOP}:{port}:127.0.0.1")])
        .args(arguments)
        .arg(format!("https://{SHOP}:{port}/"))
        .output()
        .unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(format!(
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

#[test]
fn mistakes_in_certificates_name_file_flag_and_remedy_before_anything_starts() {
    let authority = Authority::new("all");
    let good = authority.issue(&[SHOP]);
    let mismatch = Identity {
        chain: good.chain.clone(),
        key: authority.issue(&[SHOP]).key,
    };
    let not_pem = Identity {
        chain: "a certificate".to_owned(),
        key: good.key.clone(),
    };
    let expired = authority.issue_expired(&[SHOP]);
    for (identity, name, flag, message, remedy) in [
        (
            &mismatch,
            "tls.key",
            "--tls-key",
            "the key belongs to another certificate",
            "give the key for which the certificate was issued",
        ),
        (
            &not_pem,
            "tls.crt",
            "--tls-cert",
            "there is no certificate in it",
            "give the chain in PEM",
        ),
        (&expired, "tls.crt", "--tls-cert", "expired", "renew it"),
    ] {
        let files = Files::with(identity);
        let output = by_tls(Parkway::builder(), &files)
            .manifest("main", hello_service("shop"))
            .run_to_end();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        let path = files.path(name).display().to_string();
        for part in [path.as_str(), flag, message, remedy, "nothing was started"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        let said = checked(&files.0, None, Some(&files));
        assert!(said.contains(message) && said.contains(flag), "{said}");
    }
    let files = Files::with(&good);
    fs::remove_file(files.key()).unwrap();
    let said = checked(&files.0, None, Some(&files));
    assert!(said.contains("this file cannot be read"), "{said}");
}

#[test]
fn check_finds_secrets_that_cannot_be_served_and_does_not_repeat_their_keys() {
    let authority = Authority::new("all");
    let good = authority.issue(&[SHOP]);
    let mismatch = Identity {
        chain: good.chain.clone(),
        key: authority.issue(&[SHOP]).key,
    };
    let folder = TempDir::new().unwrap();
    let shop = hello_service("shop");
    let check = |manifests: Manifests| checked(&folder, Some(&manifests), None);

    let said = check(shop.clone().and(secret("shop", &good, None)));
    assert!(!said.contains("mistake"), "{said}");

    let said = check(shop.clone().and(secret("shop", &mismatch, None)));
    assert!(
        said.contains("the key belongs to another certificate")
            && said.contains("data[\"tls.key\"]"),
        "{said}"
    );
    let start: String = certificates::base64(mismatch.key.as_bytes())
        .chars()
        .take(20)
        .collect();
    assert!(!said.contains(&start), "{said}");
    let broken = secret("shop", &good, None).replace("tls.key: ", "tls.key: '*' #");
    let said = check(shop.clone().and(broken));
    assert!(said.contains("this is not base64"), "{said}");
    let opaque = secret("shop", &good, None).replace("kubernetes.io/tls", "Opaque");
    let said = check(shop.and(opaque));
    assert!(said.contains("is not read here, and skipped"), "{said}");
}

/// What `parkway check` says.
fn checked(folder: &TempDir, manifests: Option<&dyn Display>, files: Option<&Files>) -> String {
    let path = folder.path().join("main.yaml");
    let text = manifests.map_or_else(|| hello_service("shop").to_string(), ToString::to_string);
    fs::write(&path, text).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let mut arguments = vec!["check".to_owned(), text(&path)];
    if let Some(files) = files {
        arguments.extend(["--tls-cert".to_owned(), text(&files.chain())]);
        arguments.extend(["--tls-key".to_owned(), text(&files.key())]);
    }
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let output = command(&arguments).output().unwrap();
    let all = [output.stdout, output.stderr].concat();
    String::from_utf8(all).unwrap()
}

#[tokio::test]
async fn a_route_for_clients_with_certificates_serves_nobody_else_and_says_who_it_was() {
    let (authority, clients) = (Authority::new("all"), Authority::new("clients"));
    let upstream = Upstream::answering("it").await;
    let parkway = asking("required", &authority, Some(&clients), &upstream).await;
    let nobody = TlsClient::trusting(&authority);
    let stranger = nobody
        .clone()
        .showing(Authority::new("strangers").issue(&["till-7"]));
    let known = nobody.clone().showing(clients.issue(&["till-7"]));

    for client in [&nobody, &stranger] {
        let at = parkway.listens("external_tls");
        let mut raw = Raw::connect(client.tunnel(at, SHOP).await).await;
        let sent = raw
            .try_send(format!("GET / HTTP/1.1\r\nhost: {SHOP}\r\n\r\n"))
            .await;
        let head = raw.try_until("\r\n\r\n").await.unwrap_or_default();
        assert_eq!(head, "", "{sent:?}");
    }
    for protocols in [&["h2"][..], &["http/1.1"]] {
        let site = secure(&parkway, &known.clone().protocols(protocols), SHOP).await;
        let request = lying(&site);
        let answer = match protocols {
            ["h2"] => site.http2().await.send(request).await,
            _ => site.send(request).await,
        };
        let told = answer.expect(200).json()["headers"]["x-forwarded-client-cert"].clone();
        let told = told[0].as_str().unwrap().to_owned();
        assert!(
            told.starts_with("Hash=") && told.ends_with(";DNS=till-7"),
            "{told}"
        );
    }
    // Plainly nobody can show one.
    let plain = parkway
        .service("shop")
        .send(lying(&parkway.service("shop")))
        .await;
    plain.expect(403);
    let ends = [("end", "client_certificate")];
    let refused = parkway.metric("parkway_tls_handshakes_total", &ends).await;
    assert_eq!(refused, Some(2.0));
    parkway.finish().await;
}

#[tokio::test]
async fn a_route_that_asks_for_certificates_serves_those_without_but_no_stranger() {
    let (authority, clients) = (Authority::new("all"), Authority::new("clients"));
    let upstream = Upstream::answering("it").await;
    let parkway = asking("optional", &authority, Some(&clients), &upstream).await;
    let nobody = TlsClient::trusting(&authority);
    let stranger = nobody
        .clone()
        .showing(Authority::new("strangers").issue(&["till-7"]));
    let known = nobody.clone().showing(clients.issue(&["till-7"]));
    for (client, is_told) in [(nobody, false), (known, true)] {
        let site = secure(&parkway, &client, SHOP).await;
        let answer = site.send(lying(&site)).await.expect(200).json();
        let told = &answer["headers"]["x-forwarded-client-cert"];
        assert_eq!(told.is_array(), is_told, "{told}");
        assert!(!told.to_string().contains("liar"), "{told}");
    }
    let site = secure(&parkway, &stranger, SHOP).await;
    site.try_get("/").await.unwrap_err();
    let plain = parkway.service("shop");
    let answer = plain.send(lying(&plain)).await.expect(200).json();
    assert!(answer["headers"]["x-forwarded-client-cert"].is_null());
    parkway.finish().await;
}

#[tokio::test]
async fn a_route_for_clients_with_certificates_is_closed_while_nothing_says_who_issues_them() {
    let authority = Authority::new("all");
    let upstream = Upstream::answering("it").await;
    let parkway = asking("required", &authority, None, &upstream).await;
    let site = secure(&parkway, &TlsClient::trusting(&authority), SHOP).await;
    site.get("/").await.expect(403);
    parkway.service("shop").get("/").await.expect(403);
    let problems = parkway.state().await.configuration()["problems"].to_string();
    assert!(
        problems.contains("nothing says who issues") && problems.contains("ca.crt"),
        "{problems}"
    );
    parkway.finish().await;
}

async fn asking(
    mode: &str,
    authority: &Authority,
    clients: Option<&Authority>,
    upstream: &Upstream,
) -> Parkway {
    let shop = service("shop", &[]).asks("client-certificate", mode);
    let shop = with_endpoints(shop, &[upstream.address()]);
    let secret = secret("shop", &authority.issue(&[SHOP]), clients);
    Parkway::builder()
        .flag("--listen-tls", "127.0.0.1:0")
        .manifest("main", shop.and(secret))
        .start()
        .await
}

/// A request that says who its client is.
fn lying(site: &Site) -> Request<bytes::Bytes> {
    let mut request = site.request(Method::GET, "/", "");
    let liar = "Hash=00;Subject=\"CN=liar\"".parse().unwrap();
    request
        .headers_mut()
        .insert("x-forwarded-client-cert", liar);
    request
}
