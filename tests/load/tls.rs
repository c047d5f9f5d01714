//! TLS for the rows that measure it: one certificate for all programs, and clients that accept whatever they are shown.
//!
//! ECDSA P-256, TLS 1.3, AES-256-GCM and X25519, no session resumed.

use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use rcgen::{CertificateParams, KeyPair};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::either::Either;

/// A connection, by TLS or not.
pub(crate) type Stream = Either<TcpStream, Box<tokio_rustls::client::TlsStream<TcpStream>>>;

/// The chain's file in a program's folder.
pub(crate) const CHAIN: &str = "chain.pem";
/// The key's.
pub(crate) const KEY: &str = "key.pem";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Puts the certificate of this run and its key into a folder; both in one file, too, as HAProxy wants them.
pub(crate) fn put_certificate(folder: &Path, host: &str) -> Result<()> {
    static MADE: OnceLock<(String, String)> = OnceLock::new();
    let (chain, key) = match MADE.get() {
        Some(made) => made,
        None => {
            let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
            let certificate = CertificateParams::new(vec![host.to_owned()])?.self_signed(&key)?;
            MADE.get_or_init(|| (certificate.pem(), key.serialize_pem()))
        }
    };
    fs::write(folder.join(CHAIN), chain)?;
    fs::write(folder.join(KEY), key)?;
    fs::write(folder.join("both.pem"), format!("{chain}{key}"))?;
    Ok(())
}

/// For a server with the certificate of this folder.
pub(crate) fn acceptor(folder: &Path) -> Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(folder.join(CHAIN))?;
    let key = PrivateKeyDer::from_pem_file(folder.join(KEY))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain.collect::<Result<_, _>>()?, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// For clients.
pub(crate) fn connector() -> Result<TlsConnector> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Does a client's handshake.
pub(crate) async fn secure(connector: &TlsConnector, tcp: TcpStream, host: &str) -> Result<Stream> {
    let name = ServerName::try_from(host.to_owned())?;
    let stream = connector.connect(name, tcp).await;
    Ok(Either::Right(Box::new(stream.context("the handshake")?)))
}

/// Takes every certificate: what is measured is the proxy.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _between: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
