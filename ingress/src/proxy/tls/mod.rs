//! TLS towards Pods: `system-internal-tls` from the side of who connects.
//!
//! An endpoint says itself that it is spoken to by TLS ([`Endpoint::is_secured`]); what it must show is here. Trust is
//! published whole, with a generation: connections made from then on are verified against it, and the pools retire what
//! was made under another ([`super::pool`]). No session is resumed, because a resumed one is not verified anew.
//!
//! Source: knative/serving `pkg/activator/certificate/cache.go` and `pkg/activator/certificate/tls_context.go`: TLS 1.3,
//! one server name for all of the data plane, and a name besides that says whose Pod it is.

mod failures;
mod names;
#[cfg(test)]
mod tests;
mod verify;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::RevisionId;
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
pub use tokio_rustls::client::TlsStream;

use self::failures::Failures;
pub use self::failures::{Failure, Reason};
use self::names::{server_name, user_name};
use self::verify::Verifier;

/// How endpoints are spoken to that are secured. Clones are the same; the holder of [`TrustPublisher`] is the only one
/// who changes it.
#[derive(Clone, Debug)]
pub struct InternalTls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    generation: AtomicU64,
    trust: ArcSwap<Trust>,
    state: ArcSwap<TlsState>,
    failures: Failures,
}

/// Says whom to trust from now on.
#[derive(Debug)]
pub struct TrustPublisher {
    tls: InternalTls,
    published: Authorities,
}

/// Whom to trust.
struct Trust {
    /// None: no certificate can be trusted.
    roots: Option<Arc<RootCertStore>>,
    /// By namespace, made when first needed.
    connectors: Mutex<HashMap<Box<str>, TlsConnector>>,
}

/// What is configured, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsState {
    /// Pods are spoken to by TLS, and in no other way.
    pub is_enabled: bool,
    /// Grows with each change of whom to trust.
    pub generation: u64,
    /// Certificates of authorities that are trusted.
    pub authorities: usize,
    /// What cannot be used of what was given.
    pub problems: Vec<String>,
}

/// Where certificates of authorities come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authorities {
    /// `ca.crt` of the Secret, of which the first certificate counts.
    pub secret: Option<Vec<u8>>,
    /// Values of ConfigMaps with the label of trust bundles, each with its name; all certificates count.
    pub bundles: Vec<(String, String)>,
}

/// What is spoken inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// Nothing is offered: HTTP/1.1, as Knative's activator has it.
    Http1,
    /// HTTP/2, which the other side must agree to.
    Http2,
}

impl Default for InternalTls {
    fn default() -> Self {
        TrustPublisher::new().1
    }
}

impl TrustPublisher {
    /// Nobody is trusted yet.
    pub fn new() -> (Self, InternalTls) {
        let tls = InternalTls(Arc::new(Shared {
            generation: AtomicU64::new(0),
            trust: ArcSwap::from_pointee(Trust::of(None)),
            state: ArcSwap::default(),
            failures: Failures::default(),
        }));
        let publisher = Self {
            tls: tls.clone(),
            published: Authorities::default(),
        };
        (publisher, tls)
    }

    /// From now on these are trusted; if they are others than before, it is a new generation. What cannot be read of them
    /// is left out, and told with the `problems` there are besides ([`InternalTls::state`]).
    pub fn publish(
        &mut self,
        is_enabled: bool,
        authorities: Authorities,
        problems: Vec<String>,
    ) -> TlsState {
        let shared = &self.tls.0;
        let (roots, unread) = authorities.read();
        let mut state = TlsState {
            is_enabled,
            generation: shared.generation.load(Ordering::Acquire),
            authorities: roots.as_ref().map_or(0, RootCertStore::len),
            problems,
        };
        if is_enabled {
            state.problems.extend(unread);
        }
        if authorities != self.published {
            self.published = authorities;
            state.generation += 1;
            shared.trust.store(Arc::new(Trust::of(roots)));
            shared.generation.store(state.generation, Ordering::Release);
        }
        shared.state.store(Arc::new(state.clone()));
        state
    }
}

impl InternalTls {
    /// Grows with each change of trust.
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// What is configured.
    pub fn state(&self) -> TlsState {
        TlsState::clone(&self.0.state.load())
    }

    /// Endpoints to which no secured connection can be made, the latest first.
    pub fn failing(&self) -> Vec<Failure> {
        self.0.failures.all(Instant::now())
    }

    /// How often no secured connection could be made, by reason.
    pub fn failed(&self) -> Vec<(Reason, u64)> {
        self.0.failures.counts()
    }

    /// Makes a connection to an endpoint of `revision` secure, until `deadline`.
    ///
    /// How it goes is noted: [`failing`](Self::failing).
    ///
    /// # Errors
    ///
    /// When the other side does not speak TLS 1.3, or is not who it should be; [`SecureError`] is inside.
    ///
    /// # Cancel safety
    ///
    /// Dropping it closes the connection.
    pub async fn secure<S>(
        &self,
        stream: S,
        endpoint: Endpoint,
        revision: &RevisionId,
        alpn: Alpn,
        deadline: Instant,
    ) -> Result<TlsStream<S>, SecureError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let secured = self.handshake(stream, revision, alpn, deadline).await;
        let failures = &self.0.failures;
        match &secured {
            Ok(_) => failures.succeeded(revision, endpoint),
            Err(error) => failures.failed(revision, endpoint, error, Instant::now()),
        }
        secured
    }

    async fn handshake<S>(
        &self,
        stream: S,
        revision: &RevisionId,
        alpn: Alpn,
        deadline: Instant,
    ) -> Result<TlsStream<S>, SecureError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = self.0.trust.load().connector(revision.namespace())?;
        let offered = match alpn {
            Alpn::Http1 => Vec::new(),
            Alpn::Http2 => vec![H2.to_vec()],
        };
        let connecting = connector.with_alpn(offered).connect(server_name(), stream);
        let stream = match timeout_at(deadline, connecting).await {
            Ok(connected) => connected.map_err(|error| SecureError::of(&error))?,
            Err(_elapsed) => return Err(SecureError::TimedOut),
        };
        let agreed = stream.get_ref().1.alpn_protocol();
        if alpn == Alpn::Http2 && agreed != Some(H2) {
            return Err(SecureError::NoHttp2);
        }
        Ok(stream)
    }
}

/// RFC 9113 section 3.2.
const H2: &[u8] = b"h2";

impl Trust {
    fn of(roots: Option<RootCertStore>) -> Self {
        Self {
            roots: roots.map(Arc::new),
            connectors: Mutex::default(),
        }
    }

    /// What connects to Pods of a namespace.
    fn connector(&self, namespace: &str) -> Result<TlsConnector, SecureError> {
        let Some(roots) = &self.roots else {
            return Err(SecureError::NoAuthority);
        };
        let mut connectors = self.connectors.lock();
        if let Some(known) = connectors.get(namespace) {
            return Ok(known.clone());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Verifier::new(Arc::clone(roots), user_name(namespace), &provider);
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| SecureError::NotTls(error.to_string()))?
            .dangerous() // what it is warned of is the verifier of our own
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = config.with_no_client_auth();
        config.resumption = Resumption::disabled();
        let connector = TlsConnector::from(Arc::new(config));
        connectors.insert(namespace.into(), connector.clone());
        Ok(connector)
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("roots", &self.roots)
            .finish_non_exhaustive()
    }
}

impl Authorities {
    /// The certificates, and what cannot be used. No store: there is no certificate at all.
    fn read(&self) -> (Option<RootCertStore>, Vec<String>) {
        let mut roots = RootCertStore::empty();
        let mut problems = Vec::new();
        let mut add = |from: &str, pem: &[u8], most: usize| {
            let mut found = 0;
            for certificate in CertificateDer::pem_slice_iter(pem).take(most) {
                found += 1;
                let added = certificate
                    .map_err(|error| error.to_string())
                    .and_then(|der| roots.add(der).map_err(|error| error.to_string()));
                if let Err(error) = added {
                    problems.push(format!("{from}: certificate {found}: {error}"));
                }
            }
            if found == 0 {
                problems.push(format!("{from}: no certificate in it"));
            }
        };
        if let Some(secret) = &self.secret {
            add("ca.crt", secret, 1);
        }
        for (name, pem) in &self.bundles {
            add(name, pem.as_bytes(), usize::MAX);
        }
        let roots = (!roots.is_empty()).then_some(roots);
        if roots.is_none() {
            problems.push("there is no certificate authority: no Pod can be trusted".to_owned());
        }
        (roots, problems)
    }
}

/// Why no secured connection could be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecureError {
    /// Neither the Secret nor a trust bundle has a certificate of an authority.
    #[error("there is no certificate authority to trust")]
    NoAuthority,
    /// The certificate is out of its time.
    #[error("its certificate is not valid at this time: {0}")]
    Expired(String),
    /// The certificate is somebody else's.
    #[error("its certificate is for somebody else: {0}")]
    WrongName(String),
    /// The certificate's issuer is not trusted, or the certificate cannot be used.
    #[error("its certificate is not trusted: {0}")]
    Untrusted(String),
    /// It does not speak TLS 1.3.
    #[error("it does not speak TLS 1.3: {0}")]
    NotTls(String),
    /// It does not speak HTTP/2 by TLS.
    #[error("it did not agree to HTTP/2")]
    NoHttp2,
    /// The connection ended before it was secure.
    #[error("the connection broke off before it was secure: {0}")]
    Broken(String),
    /// The handshake took too long.
    #[error("the TLS handshake took too long")]
    TimedOut,
}

impl SecureError {
    fn of(error: &io::Error) -> Self {
        let inner = error.get_ref();
        match inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(error) => Self::of_rustls(error),
            None => Self::Broken(error.to_string()),
        }
    }

    fn of_rustls(error: &rustls::Error) -> Self {
        use rustls::CertificateError as Certificate;
        use rustls::Error;
        match error {
            Error::InvalidCertificate(why) => match why {
                Certificate::Expired
                | Certificate::ExpiredContext { .. }
                | Certificate::NotValidYet
                | Certificate::NotValidYetContext { .. } => Self::Expired(why.to_string()),
                Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                    Self::WrongName(why.to_string())
                }
                Certificate::Other(other) => match other.0.downcast_ref::<names::NotOf>() {
                    Some(not_of) => Self::WrongName(not_of.to_string()),
                    None => Self::Untrusted(why.to_string()),
                },
                _ => Self::Untrusted(why.to_string()),
            },
            Error::AlertReceived(_) => Self::Broken(error.to_string()),
            _ => Self::NotTls(error.to_string()),
        }
    }

    /// In one word.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NoAuthority => Reason::NoAuthority,
            Self::Expired(_) => Reason::Expired,
            Self::WrongName(_) => Reason::WrongName,
            Self::Untrusted(_) => Reason::Untrusted,
            Self::NotTls(_) | Self::NoHttp2 => Reason::Protocol,
            Self::Broken(_) => Reason::Broken,
            Self::TimedOut => Reason::TimedOut,
        }
    }
}

impl From<SecureError> for io::Error {
    fn from(error: SecureError) -> Self {
        let kind = match error {
            SecureError::TimedOut => io::ErrorKind::TimedOut,
            SecureError::Broken(_) => io::ErrorKind::ConnectionAborted,
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}
