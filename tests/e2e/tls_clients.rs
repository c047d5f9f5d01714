//! Clients of others at the entrance by TLS: curl, OpenSSL, h2load.

use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use parkway_tests::tls::{Authority, Identity};
use parkway_tests::{Builder, Parkway, has_program, hello_service};
use tempfile::TempDir;

const SHOP: &str = "shop.default.localhost";
const OTHER: &str = "other.default.localhost";

/// What a program writes to standard output; it has to be there.
fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"));
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// What OpenSSL's client says of a handshake.
fn s_client(at: SocketAddr, arguments: &[&str]) -> String {
    let at = at.to_string();
    let (_, said) = run(
        "openssl",
        &[&["s_client", "-connect", &at], arguments].concat(),
    );
    said
}

struct Shop {
    parkway: Parkway,
    folder: TempDir,
}

impl Shop {
    /// With these certificates in files, in this order.
    async fn with(identities: &[Identity], authority: &Authority) -> Self {
        let folder = TempDir::new().unwrap();
        let put = |name: String, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        put("ca.pem".to_owned(), authority.root());
        let builder = Parkway::builder()
            .flag("--listen-tls", "127.0.0.1:0")
            .manifest("main", hello_service("shop").and(hello_service("other")));
        let numbered = (0..).zip(identities);
        let add = |builder: Builder, (number, identity): (u32, &Identity)| {
            builder
                .flag("--tls-cert", put(format!("{number}.crt"), &identity.chain))
                .flag("--tls-key", put(format!("{number}.key"), &identity.key))
        };
        Self {
            parkway: numbered.fold(builder, add).start().await,
            folder,
        }
    }

    fn at(&self) -> SocketAddr {
        self.parkway.listens("external_tls")
    }

    /// What curl says of a request to a host: `PROTOCOL STATUS`, or why there is none.
    fn curl(&self, host: &str, arguments: &[&str]) -> String {
        let port = self.at().port();
        let resolve = format!("{host}:{port}:127.0.0.1");
        let ca = self.folder.path().join("ca.pem");
        let url = format!("https://{host}:{port}/");
        let always = [
            "--silent",
            "--show-error",
            "--noproxy",
            "*",
            "--resolve",
            &resolve,
            "--cacert",
            ca.to_str().unwrap(),
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_version} %{http_code}",
            &url,
        ];
        run("curl", &[&always, arguments].concat()).1
    }
}

/// A certificate with an RSA key, which the tests' own authority cannot make.
fn rsa(host: &str) -> Identity {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (chain, key) = (path("chain"), path("key"));
    let names = format!("subjectAltName=DNS:{host}");
    let (done, said) = run(
        "openssl",
        &[
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=rsa",
            "-addext", &names, "-keyout", &key, "-out", &chain,
        ],
    );
    assert!(done, "{said}");
    Identity {
        chain: fs::read_to_string(chain).unwrap(),
        key: fs::read_to_string(key).unwrap(),
    }
}

#[tokio::test]
async fn curl_speaks_each_version_of_http_and_of_tls() {
    if !has_program("curl") {
        return;
    }
    let authority = Authority::new("all");
    let shop = Shop::with(&[authority.issue(&["*.default.localhost"])], &authority).await;
    for (arguments, expected) in [
        (&["--http2"][..], "2 200"),
        (&["--http1.1"], "1.1 200"),
        (&["--no-alpn", "--http1.1"], "1.1 200"),
        (&["--http2", "--tls-max", "1.2"], "2 200"),
        (&["--http1.1", "--tls-max", "1.2"], "1.1 200"),
        (&["--http2", "--tlsv1.3"], "2 200"),
    ] {
        for host in [SHOP, OTHER] {
            assert_eq!(shop.curl(host, arguments), expected, "{arguments:?}");
        }
    }
    let old = shop.curl(SHOP, &["--tlsv1.1", "--tls-max", "1.1"]);
    assert!(old.contains("curl: (35)"), "{old}");
    shop.parkway.finish().await;
}

#[tokio::test]
async fn openssl_agrees_on_versions_protocols_and_certificates() {
    if !has_program("openssl") {
        return;
    }
    let authority = Authority::new("all");
    let wild = authority.issue(&["*.default.localhost"]);
    let shop = Shop::with(&[wild, authority.issue(&[OTHER])], &authority).await;
    let said =
        |arguments: &[&str]| s_client(shop.at(), &[&["-servername", SHOP], arguments].concat());
    for (arguments, expected) in [
        (&["-tls1_2"][..], &["New, TLSv1.2"][..]),
        (&["-tls1_3"], &["New, TLSv1.3"]),
        (&["-alpn", "h2,http/1.1"], &["ALPN protocol: h2"]),
        (&["-alpn", "http/1.1"], &["ALPN protocol: http/1.1"]),
        (&["-tls1_2", "-alpn", "h2"], &["ALPN protocol: h2"]),
        (&[], &["No ALPN negotiated"]),
        (&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], &["alert"]),
        (&["-alpn", "h3"], &["no application protocol"]),
    ] {
        let said = said(arguments);
        for part in expected {
            assert!(said.contains(part), "{arguments:?}: {part}: {said}");
        }
    }
    // The name, a wildcard, and the first for whoever says another name or none.
    let names = |arguments: &[&str]| {
        let said = s_client(shop.at(), &[arguments, &["-showcerts"]].concat());
        let begin = said.find("-----BEGIN CERTIFICATE-----").unwrap();
        let end = said.find("-----END CERTIFICATE-----").unwrap();
        let pem = shop.folder.path().join("shown.pem");
        let text = said.get(begin..end).unwrap().to_owned() + "-----END CERTIFICATE-----\n";
        fs::write(&pem, text).unwrap();
        let pem = pem.to_str().unwrap();
        let show = ["x509", "-in", pem, "-noout", "-ext", "subjectAltName"];
        run("openssl", &show).1
    };
    for (arguments, expected) in [
        (&["-servername", OTHER][..], OTHER),
        (&["-servername", SHOP], "*.default.localhost"),
        (
            &["-servername", "unknown.example.com"],
            "*.default.localhost",
        ),
        (&["-noservername"], "*.default.localhost"),
    ] {
        let names = names(arguments);
        assert!(
            names.contains(&format!("DNS:{expected}")),
            "{arguments:?}: {names}"
        );
    }
    shop.parkway.finish().await;
}

#[tokio::test]
async fn each_client_gets_the_key_that_it_can_check() {
    if !has_program("openssl") {
        return;
    }
    let authority = Authority::new("all");
    let shop = Shop::with(&[rsa(SHOP), authority.issue(&[SHOP])], &authority).await;
    for (arguments, expected) in [
        (&[][..], "Peer signature type: ECDSA"),
        (&["-tls1_2"], "Peer signature type: ECDSA"),
        (
            &["-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256"],
            "Peer signature type: RSA-PSS",
        ),
        (
            &["-tls1_2", "-sigalgs", "RSA+SHA256"],
            "Peer signature type: RSA",
        ),
    ] {
        for name in [&["-servername", SHOP][..], &["-noservername"]] {
            let said = s_client(shop.at(), &[name, arguments].concat());
            assert!(said.contains(expected), "{arguments:?}: {said}");
        }
    }
    shop.parkway.finish().await;
}

#[tokio::test]
async fn h2load_gets_an_answer_to_everything_by_http2_and_http1() {
    if !has_program("h2load") {
        return;
    }
    let authority = Authority::new("all");
    let shop = Shop::with(&[authority.issue(&[SHOP])], &authority).await;
    let at = shop.at();
    let (to, url) = (at.to_string(), format!("https://{SHOP}:{}/", at.port()));
    for protocol in [&[][..], &["--h1"]] {
        let (done, said) = run(
            "h2load",
            &[
                &[
                    "-n",
                    "1000",
                    "-c",
                    "10",
                    "-m",
                    "10",
                    "--connect-to",
                    &to,
                    &url,
                ],
                protocol,
            ]
            .concat(),
        );
        assert!(
            done && said.contains("1000 succeeded, 0 failed, 0 errored")
                && said.contains("1000 2xx"),
            "{said}"
        );
    }
    shop.parkway.finish().await;
}
