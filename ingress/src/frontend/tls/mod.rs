//! TLS at an entrance: handshakes with the certificates of the moment, and what is known of a connection after its own.
//!
//! A provider's side publishes snapshots of certificates; each is compiled into rustls configurations once, and a
//! connection takes what is current when its handshake begins. Connections that are there keep theirs.

mod handshake;
mod stream;
mod tickets;

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use http::HeaderValue;
use rustls::crypto::CryptoProvider;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};

pub(super) use handshake::{Agreed, Greeted, handshake};
pub use handshake::{HandshakeEnd, Handshakes};
pub(super) use stream::TlsStream;
pub use tickets::{SharedTickets, TICKET_LIFETIME};

use crate::routing::tls::{
    Certificate, CertificateSnapshot, ClientCa, ClientCertificate, Secured, told_of,
};

/// The certificates of an entrance, for the workers; the holder of [`CertificatePublisher`] changes them.
#[derive(Clone, Debug)]
pub struct Certificates(Arc<Published>);

/// Publishes an entrance's certificates to all workers.
#[derive(Debug)]
pub struct CertificatePublisher {
    readers: Certificates,
    settings: TlsSettings,
}

#[derive(Debug)]
struct Published {
    generation: AtomicU64,
    current: ArcSwap<Compiled>,
    handshakes: Handshakes,
}

/// What all handshakes of an entrance have in common.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// Who computes.
    pub provider: Arc<CryptoProvider>,
    /// Who makes session tickets, and reads them. `None`: there are none.
    pub tickets: Option<Arc<dyn ProducesTickets>>,
    /// What may be spoken, the preferred protocol first (RFC 7301).
    pub protocols: Vec<&'static [u8]>,
    /// By which versions.
    pub versions: Vec<&'static SupportedProtocolVersion>,
}

impl TlsSettings {
    /// ring; tickets that only this process reads; HTTP/2 and HTTP/1.1; TLS 1.3 and 1.2.
    pub fn new() -> Self {
        Self {
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            tickets: rustls::crypto::ring::Ticketer::new().ok(),
            protocols: vec![b"h2", b"http/1.1"],
            versions: vec![&TLS13, &TLS12],
        }
    }
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self::new()
    }
}

/// A snapshot, ready for handshakes.
struct Compiled {
    snapshot: CertificateSnapshot,
    /// For clients that need to show nothing.
    open: Option<Arc<ServerConfig>>,
    /// For those that are asked for a certificate, by whose they show.
    closed: HashMap<CaKey, Arc<ServerConfig>>,
}

/// What tells a [`ClientCa`] from others of its snapshot.
type CaKey = (Arc<str>, ClientCertificate);

impl Compiled {
    fn key_of(ca: &ClientCa) -> CaKey {
        (Arc::clone(&ca.source), ca.wanted)
    }

    /// The configuration for those that show certificates of these.
    fn closed(&self, ca: &ClientCa) -> Option<&Arc<ServerConfig>> {
        self.closed.get(&Self::key_of(ca))
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Compiled").field(&self.snapshot).finish()
    }
}

impl CertificatePublisher {
    /// A publisher without certificates yet, and what readers hold. Until there are some, handshakes are refused.
    pub fn new(settings: TlsSettings) -> (Self, Certificates) {
        let readers = Certificates(Arc::new(Published {
            generation: AtomicU64::new(0),
            current: ArcSwap::from_pointee(Compiled {
                snapshot: CertificateSnapshot::default(),
                open: None,
                closed: HashMap::new(),
            }),
            handshakes: Handshakes::default(),
        }));
        let publisher = Self {
            readers: readers.clone(),
            settings,
        };
        (publisher, readers)
    }

    /// Makes these the certificates of new connections.
    ///
    /// # Errors
    ///
    /// When the settings fit no protocol version, or the issuers of a client certificate cannot be used; the
    /// certificates stay as they were.
    pub fn publish(&self, snapshot: CertificateSnapshot) -> Result<(), rustls::Error> {
        let open = Some(self.config(&snapshot, None)?);
        let mut closed = HashMap::new();
        for ca in snapshot.client_cas() {
            if let Entry::Vacant(vacant) = closed.entry(Compiled::key_of(ca)) {
                vacant.insert(self.config(&snapshot, Some(ca))?);
            }
        }
        let published = &self.readers.0;
        published.current.store(Arc::new(Compiled {
            snapshot,
            open,
            closed,
        }));
        published.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    fn config(
        &self,
        snapshot: &CertificateSnapshot,
        client_ca: Option<&Arc<ClientCa>>,
    ) -> Result<Arc<ServerConfig>, rustls::Error> {
        let settings = &self.settings;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&settings.provider))
            .with_protocol_versions(&settings.versions)?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                for root in ca.roots.iter() {
                    roots.add(root.clone())?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(
                    Arc::new(roots),
                    Arc::clone(&settings.provider),
                );
                let verifier = match ca.wanted {
                    ClientCertificate::Required => verifier,
                    ClientCertificate::Optional => verifier.allow_unauthenticated(),
                };
                let verifier = verifier
                    .build()
                    .map_err(|error| rustls::Error::General(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(Resolver {
            snapshot: snapshot.clone(),
            client_ca: client_ca.cloned(),
        }));
        config.alpn_protocols = settings.protocols.iter().map(|&name| name.into()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // A ticket says nothing about whom its client was checked against: one that was asked for a certificate is asked
        // again.
        if client_ca.is_none()
            && let Some(tickets) = &settings.tickets
        {
            config.ticketer = Arc::clone(tickets);
            config.send_tls13_tickets = TICKETS;
        } else {
            config.send_tls13_tickets = 0;
        }
        Ok(Arc::new(config))
    }
}

/// How many tickets a client gets after a handshake by TLS 1.3, for as many connections that begin at once.
const TICKETS: usize = 2;

impl Certificates {
    /// The certificates of this moment.
    pub fn current(&self) -> CertificateSnapshot {
        self.0.current.load().snapshot.clone()
    }

    /// How handshakes have ended.
    pub fn handshakes(&self) -> &Handshakes {
        &self.0.handshakes
    }

    pub(super) fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    fn load(&self) -> Arc<Compiled> {
        self.0.current.load_full()
    }
}

/// Chooses a certificate in a handshake.
#[derive(Debug)]
struct Resolver {
    snapshot: CertificateSnapshot,
    client_ca: Option<Arc<ClientCa>>,
}

thread_local! {
    /// What the handshake that this thread computes at this moment has chosen: rustls does not tell afterwards.
    static CHOSEN: RefCell<Option<Secured>> = const { RefCell::new(None) };
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let certificate = self
            .snapshot
            .choose(name.as_deref(), hello.signature_schemes())?;
        let key = Arc::clone(Certificate::key(certificate));
        CHOSEN.set(Some(Secured {
            name: name.map(Into::into),
            certificate: Arc::clone(certificate),
            client_ca: self.client_ca.clone(),
        }));
        Some(key)
    }
}

/// A connection's TLS, as its requests see it.
#[derive(Debug)]
pub(super) struct Security {
    certificates: Certificates,
    secured: Secured,
    /// What endpoints are told of the certificate its client has shown.
    shown: Option<HeaderValue>,
    agreed: AgreedOn,
    /// The last host that was found to be right, and by which generation of certificates.
    right: RefCell<(u64, Box<str>)>,
}

impl Security {
    fn new(certificates: Certificates, secured: Secured, stream: &TlsStream) -> Self {
        let shown = stream.shown();
        Self {
            certificates,
            secured,
            shown: shown.map(told_of),
            agreed: stream.agreed(),
            right: RefCell::default(),
        }
    }

    /// Whether a request for this host may come by this connection: [`Secured::is_for`]. Nearly all requests of a
    /// connection are for one host.
    pub(super) fn is_for(&self, host: &str) -> bool {
        let generation = self.certificates.generation();
        let mut right = self.right.borrow_mut();
        if right.0 == generation && *right.1 == *host {
            return true;
        }
        let is_right = self.secured.is_for(host, &self.certificates.current());
        if is_right {
            *right = (generation, host.into());
        }
        is_right
    }

    /// What endpoints are told of the certificate that was shown, if this host wants those of the same issuers.
    pub(super) fn shown_to(&self, host: &str) -> Option<&HeaderValue> {
        let shown = self.shown.as_ref()?;
        let now = self.certificates.current();
        let wanted = now.client_ca(host)?;
        (self.secured.client_ca.as_ref() == Some(wanted)).then_some(shown)
    }
}

/// What a handshake has agreed on.
#[derive(Clone, Copy, Debug)]
struct AgreedOn {
    /// The version and the cipher suite, as they are sent.
    version: u16,
    cipher: u16,
    is_resumed: bool,
    is_http2: bool,
}

/// As Go shows the beginning of a `tls.ConnectionState`, up to the name: that is what Knative's request log has as
/// `.Request.TLS` (golang/go `src/crypto/tls/common.go`).
impl fmt::Display for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AgreedOn {
            version,
            cipher,
            is_resumed,
            is_http2,
        } = self.agreed;
        let protocol = if is_http2 { "h2" } else { "" };
        let name = self.secured.name.as_deref().unwrap_or_default();
        write!(
            f,
            "{{{version} true {is_resumed} {cipher} {protocol} true {name}}}"
        )
    }
}
