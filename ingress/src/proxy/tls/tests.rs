//! The client's side against servers in memory, with certificates as cert-manager makes them for Knative.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::version::TLS12;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_rustls::TlsAcceptor;

use super::*;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        let names = &mut parameters.distinguished_name;
        names.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = parameters.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(parameters, key),
            pem,
        }
    }

    fn issue(&self, names: &[&str], is_valid: bool) -> ServerConfig {
        self.issue_for(names, is_valid, &[&TLS13])
    }

    fn issue_for(
        &self,
        names: &[&str],
        is_valid: bool,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ServerConfig {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.not_before = date_time_ymd(2020, 1, 1);
        parameters.not_after = match is_valid {
            true => date_time_ymd(2400, 1, 1),
            false => date_time_ymd(2021, 1, 1),
        };
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }
}

fn trusting(secret: &str, bundles: &[&str]) -> (TrustPublisher, InternalTls) {
    let (mut publisher, tls) = TrustPublisher::new();
    publisher.publish(true, authorities(secret, bundles), Vec::new());
    (publisher, tls)
}

fn authorities(secret: &str, bundles: &[&str]) -> Authorities {
    let bundles = bundles.iter().enumerate();
    Authorities {
        secret: (!secret.is_empty()).then(|| secret.as_bytes().to_vec()),
        bundles: bundles
            .map(|(number, pem)| (format!("bundle-{number}: ca.crt"), (*pem).to_owned()))
            .collect(),
    }
}

fn endpoint() -> Endpoint {
    Endpoint::secured(([10, 0, 0, 1], 8112).into())
}

/// Connects to a server with this configuration as to a Pod of `namespace`, and has one byte come back.
async fn connect(
    tls: &InternalTls,
    server: ServerConfig,
    namespace: &str,
    alpn: Alpn,
) -> Result<TlsStream<DuplexStream>, SecureError> {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let serving = async move {
        let accepting = TlsAcceptor::from(Arc::new(server)).accept(theirs);
        let Ok(mut stream) = accepting.await else {
            return;
        };
        let byte = stream.read_u8().await.unwrap_or_default();
        stream.write_u8(byte).await.unwrap_or_default();
        stream.flush().await.unwrap_or_default();
    };
    let id = RevisionId::new(namespace, "cart-00001");
    let deadline = Instant::now() + Duration::from_secs(20);
    let connecting = async {
        let mut stream = tls.secure(ours, endpoint(), &id, alpn, deadline).await?;
        stream.write_u8(7).await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 7);
        Ok(stream)
    };
    let (connected, ()) = tokio::join!(connecting, serving);
    connected
}

const DATA_PLANE: &str = names::DATA_PLANE;

#[tokio::test]
async fn a_pod_of_the_namespace_is_trusted_with_both_names_and_offered_no_protocol_for_http1() {
    let authority = Authority::new("routing");
    let (_publisher, tls) = trusting(&authority.pem, &[]);
    let server = authority.issue(&["kn-user-shop", DATA_PLANE], true);
    let stream = connect(&tls, server, "shop", Alpn::Http1).await.unwrap();
    let (_, session) = stream.get_ref();
    assert_eq!(session.alpn_protocol(), None);
    assert_eq!(
        session.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_3)
    );

    let server = authority.issue(&["kn-user-shop", DATA_PLANE], true);
    let stream = connect(&tls, server, "SHOP", Alpn::Http2).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(H2));
    assert!(tls.failing().is_empty());
}

#[tokio::test]
async fn names_of_others_are_refused_and_said() {
    let authority = Authority::new("routing");
    let (_publisher, tls) = trusting(&authority.pem, &[]);
    let wrong: [&[&str]; 5] = [
        &["kn-user-other", DATA_PLANE],
        // As the activator and the ingress have it: no Pod.
        &["kn-routing", DATA_PLANE],
        &[DATA_PLANE],
        // Older than the name that all have: not known here.
        &["kn-user-shop"],
        &["kn-user-shop", "*.knative.dev.example"],
    ];
    for names in wrong {
        let server = authority.issue(names, true);
        let error = connect(&tls, server, "shop", Alpn::Http1)
            .await
            .unwrap_err();
        assert_eq!(error.reason(), Reason::WrongName, "{names:?}: {error}");
    }
    let failing = tls.failing();
    assert_eq!((failing.len(), failing[0].count), (1, 5));
    let server = authority.issue(&["kn-user-other", DATA_PLANE], true);
    let error = connect(&tls, server, "shop", Alpn::Http1)
        .await
        .unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("kn-user-other") && message.contains("\"kn-user-shop\""),
        "{message}"
    );
}

#[tokio::test]
async fn another_authoritys_and_an_expired_certificate_are_refused_and_told_apart() {
    let (authority, other) = (Authority::new("routing"), Authority::new("routing"));
    let (_publisher, tls) = trusting(&authority.pem, &[]);
    let names = ["kn-user-shop", DATA_PLANE];
    let error = connect(&tls, other.issue(&names, true), "shop", Alpn::Http1);
    assert_eq!(error.await.unwrap_err().reason(), Reason::Untrusted);
    let error = connect(&tls, authority.issue(&names, false), "shop", Alpn::Http1);
    assert_eq!(error.await.unwrap_err().reason(), Reason::Expired);
    let counted = tls.failed().into_iter().filter(|(_, count)| *count > 0);
    assert_eq!(
        counted.collect::<Vec<_>>(),
        [(Reason::Expired, 1), (Reason::Untrusted, 1)]
    );
}

#[tokio::test]
async fn trust_bundles_count_besides_the_secret_of_which_only_the_first_certificate_does() {
    let names = ["kn-user-shop", DATA_PLANE];
    let [first, second, third, fourth] = ["first", "second", "third", "fourth"].map(Authority::new);
    let secret = format!("{}{}", first.pem, second.pem);
    let bundle = format!("{}{}", third.pem, fourth.pem);
    let (mut publisher, tls) = trusting(&secret, &[&bundle]);
    assert_eq!(tls.state().authorities, 3);
    for trusted in [&first, &third, &fourth] {
        let server = trusted.issue(&names, true);
        connect(&tls, server, "shop", Alpn::Http1).await.unwrap();
    }
    let server = second.issue(&names, true);
    let error = connect(&tls, server, "shop", Alpn::Http1)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Reason::Untrusted);

    // Rotated: acts for the next connection.
    let before = tls.generation();
    publisher.publish(true, authorities(&second.pem, &[]), Vec::new());
    assert_eq!(tls.generation(), before + 1);
    let server = second.issue(&names, true);
    connect(&tls, server, "shop", Alpn::Http1).await.unwrap();
    let server = first.issue(&names, true);
    assert!(connect(&tls, server, "shop", Alpn::Http1).await.is_err());

    publisher.publish(true, authorities(&second.pem, &[]), vec!["said".to_owned()]);
    assert_eq!(tls.generation(), before + 1, "the same as before");
    assert_eq!(tls.state().problems, ["said"]);
}

#[tokio::test]
async fn without_an_authority_nobody_is_trusted_and_what_cannot_be_read_is_said() {
    let authority = Authority::new("routing");
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let (_publisher, tls) = trusting("nothing", &[broken]);
    let problems = tls.state().problems;
    assert!(
        problems[0].starts_with("ca.crt: no certificate"),
        "{problems:?}"
    );
    assert!(
        problems[1].starts_with("bundle-0: ca.crt: certificate 1:"),
        "{problems:?}"
    );
    assert!(
        problems[2].contains("no certificate authority"),
        "{problems:?}"
    );
    let server = authority.issue(&["kn-user-shop", DATA_PLANE], true);
    let error = connect(&tls, server, "shop", Alpn::Http1)
        .await
        .unwrap_err();
    assert_eq!(error, SecureError::NoAuthority);
}

#[tokio::test]
async fn neither_an_older_version_nor_a_server_without_http2_nor_one_in_the_clear_will_do() {
    let authority = Authority::new("routing");
    let (_publisher, tls) = trusting(&authority.pem, &[]);
    let names = ["kn-user-shop", DATA_PLANE];
    let old = authority.issue_for(&names, true, &[&TLS12]);
    let error = connect(&tls, old, "shop", Alpn::Http1).await.unwrap_err();
    assert_eq!(error.reason(), Reason::Broken, "{error}");

    let mut http1 = authority.issue(&names, true);
    http1.alpn_protocols = Vec::new();
    let error = connect(&tls, http1, "shop", Alpn::Http2).await.unwrap_err();
    assert_eq!(error, SecureError::NoHttp2);

    let (ours, mut theirs) = tokio::io::duplex(4 * 1024);
    // As Go answers who speaks TLS to it.
    theirs
        .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        .await
        .unwrap();
    let id = RevisionId::new("shop", "cart-00001");
    let deadline = Instant::now() + Duration::from_secs(20);
    let secured = tls.secure(ours, endpoint(), &id, Alpn::Http1, deadline);
    assert_eq!(secured.await.unwrap_err().reason(), Reason::Protocol);
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_stalls_ends_at_the_deadline() {
    let authority = Authority::new("routing");
    let (_publisher, tls) = trusting(&authority.pem, &[]);
    let (ours, _theirs) = tokio::io::duplex(4 * 1024);
    let id = RevisionId::new("shop", "cart-00001");
    let began = Instant::now();
    let deadline = began + Duration::from_secs(5);
    let secured = tls.secure(ours, endpoint(), &id, Alpn::Http1, deadline);
    assert_eq!(secured.await.unwrap_err(), SecureError::TimedOut);
    assert_eq!(began.elapsed(), Duration::from_secs(5));
}
