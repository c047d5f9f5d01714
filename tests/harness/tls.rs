//! Certificates for tests, and clients that speak TLS.
//!
//! What any client of these tests can do it can do over TLS: [`TlsClient::tunnel`] gives a plain local address, and each
//! connection to it becomes one by TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SignatureAlgorithm,
};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::wait::patiently;

/// One who issues certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: String,
}

/// A chain and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The chain.
    pub chain: String,
    /// The private key.
    pub key: String,
}

impl Authority {
    /// A new one.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            root,
        }
    }

    /// Its own certificate in PEM.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Its own certificate, as it is sent.
    pub fn root_der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.root.as_bytes()).unwrap()
    }

    /// A certificate for these names, with an ECDSA P-256 key.
    pub fn issue(&self, names: &[&str]) -> Identity {
        self.issue_with(&rcgen::PKCS_ECDSA_P256_SHA256, names)
    }

    /// A certificate for these names, with a key of this kind.
    pub fn issue_with(&self, kind: &'static SignatureAlgorithm, names: &[&str]) -> Identity {
        self.sign(kind, &params(names))
    }

    /// A certificate for these names that is valid no longer.
    pub fn issue_expired(&self, names: &[&str]) -> Identity {
        let mut params = params(names);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        self.sign(&rcgen::PKCS_ECDSA_P256_SHA256, &params)
    }

    fn sign(&self, kind: &'static SignatureAlgorithm, params: &CertificateParams) -> Identity {
        let key = KeyPair::generate_for(kind).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            chain: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    CertificateParams::new(names).unwrap()
}

impl Identity {
    /// The first certificate, as it is sent.
    pub fn first(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.chain.as_bytes()).unwrap()
    }

    /// A Secret that holds it.
    pub fn secret(&self, namespace: &str, name: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"namespace": namespace, "name": name},
            "data": {
                "tls.crt": ByteString(self.chain.clone().into_bytes()),
                "tls.key": ByteString(self.key.clone().into_bytes()),
            },
        })
    }
}

/// A client that speaks TLS.
#[derive(Clone, Debug)]
pub struct TlsClient {
    roots: Arc<RootCertStore>,
    versions: Vec<&'static SupportedProtocolVersion>,
    protocols: Vec<Vec<u8>>,
    identity: Option<Identity>,
    resumption: Resumption,
    /// Made once: a session is resumed only by the configuration that began it.
    made: Arc<OnceLock<Arc<ClientConfig>>>,
}

impl TlsClient {
    /// One that trusts this authority, speaks TLS 1.3 or 1.2, and names no protocol.
    pub fn trusting(authority: &Authority) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.root_der()).unwrap();
        Self {
            roots: Arc::new(roots),
            versions: rustls::ALL_VERSIONS.to_vec(),
            protocols: Vec::new(),
            identity: None,
            resumption: Resumption::disabled(),
            made: Arc::default(),
        }
    }

    /// With only this version.
    #[must_use]
    pub fn version(mut self, version: &'static SupportedProtocolVersion) -> Self {
        self.versions = vec![version];
        self.made = Arc::default();
        self
    }

    /// With these protocols.
    #[must_use]
    pub fn protocols(mut self, names: &[&str]) -> Self {
        self.protocols = names.iter().map(|name| name.as_bytes().to_vec()).collect();
        self.made = Arc::default();
        self
    }

    /// With a certificate of its own.
    #[must_use]
    pub fn showing(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self.made = Arc::default();
        self
    }

    /// With sessions that are resumed.
    #[must_use]
    pub fn resuming(mut self) -> Self {
        self.resumption = Resumption::in_memory_sessions(16);
        self.made = Arc::default();
        self
    }

    fn connector(&self) -> TlsConnector {
        TlsConnector::from(Arc::clone(self.made.get_or_init(|| self.config())))
    }

    fn config(&self) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&self.versions)
            .unwrap()
            .with_root_certificates(Arc::clone(&self.roots));
        let mut config = match &self.identity {
            None => config.with_no_client_auth(),
            Some(Identity { chain, key }) => {
                let chain = CertificateDer::pem_slice_iter(chain.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                config
                    .with_client_auth_cert(chain.map(Result::unwrap).collect(), key)
                    .unwrap()
            }
        };
        config.alpn_protocols.clone_from(&self.protocols);
        config.resumption = self.resumption.clone();
        Arc::new(config)
    }

    /// Connects, and does the handshake for this name.
    ///
    /// # Errors
    ///
    /// When either does not work, for example because the certificate is not for that name.
    pub async fn connect(&self, to: SocketAddr, name: &str) -> io::Result<TlsStream<TcpStream>> {
        self.connect_behind(b"", to, name).await
    }

    /// The same with these bytes before the handshake.
    ///
    /// # Errors
    ///
    /// Likewise.
    pub async fn connect_behind(
        &self,
        before: &[u8],
        to: SocketAddr,
        name: &str,
    ) -> io::Result<TlsStream<TcpStream>> {
        let mut tcp = patiently("a connection", TcpStream::connect(to)).await?;
        tcp.set_nodelay(true)?;
        tcp.write_all(before).await?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        patiently("a handshake", self.connector().connect(name, tcp)).await
    }

    /// A local address from which each connection is brought on by TLS, for this name. It ends with the test's runtime.
    pub async fn tunnel(&self, to: SocketAddr, name: &str) -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, name) = (self.clone(), name.to_owned());
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (client, name) = (client.clone(), name.clone());
                tokio::spawn(async move {
                    near.set_nodelay(true).unwrap();
                    // Whoever connected sees a connection that ends; tests look at what came before that.
                    if let Ok(mut far) = client.connect(to, &name).await {
                        let copied = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                        drop(copied);
                    }
                });
            }
        });
        address
    }
}
