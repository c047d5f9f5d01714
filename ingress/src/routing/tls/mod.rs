//! Which certificate a client is served, and for which hosts its connection may ask then.
//!
//! A snapshot is made of what KIngresses and the settings say, for one entrance, and is immutable. The name a client
//! says in the handshake (SNI, RFC 6066 section 3) finds the certificates bound to it: by the exact name, else by a
//! wildcard one label deep, else the default. Of several, the first wins whose key the client can check, those that
//! are cheap to sign with before the others.

mod certificate;
mod client;
mod ticket_keys;

use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;

pub use certificate::{CERTIFICATE_FIELD, Certificate, CertificateError, KEY_FIELD, Names};
pub use client::{
    CLIENT_CA_FIELD, ClientCa, ClientCertificate, InvalidIssuers, LONGEST_NAME, MOST_NAMES,
    parse_issuers, told_of,
};
pub use ticket_keys::{InvalidTicketKeys, MOST_TICKET_KEYS, NAME_BYTES, TicketKeys};

/// A certificate and the hosts it is served for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Exact hosts, or `*.` and a domain. Empty: those that the certificate names.
    pub hosts: Vec<Arc<str>>,
    /// The certificate.
    pub certificate: Arc<Certificate>,
    /// Whose certificates clients show for these hosts, if any.
    pub client_ca: Option<Arc<ClientCa>>,
}

/// What one name is served with: certificates in order of preference, and who may ask.
#[derive(Clone, Debug, Default)]
struct Served {
    certificates: Vec<Arc<Certificate>>,
    client_ca: Option<Arc<ClientCa>>,
}

/// The certificates of one entrance; immutable, cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct CertificateSnapshot {
    tables: Arc<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    /// By whole name, in lower case.
    exact: HashMap<Box<str>, Served>,
    /// By what comes after `*.`.
    wildcard: HashMap<Box<str>, Served>,
    default: Vec<Arc<Certificate>>,
}

impl CertificateSnapshot {
    /// Compiles what was found; of several that name the same host and are alike, the first goes first. `default` is
    /// for names that nobody binds, and for clients that say none.
    pub fn build(bindings: &[Binding], default: Vec<Arc<Certificate>>) -> Self {
        let mut tables = Tables {
            default,
            ..Tables::default()
        };
        for binding in bindings {
            let own: Vec<Arc<str>> = binding.certificate.names().dns().map(Arc::from).collect();
            let hosts = if binding.hosts.is_empty() {
                &own
            } else {
                &binding.hosts
            };
            for host in hosts {
                let host = host.to_ascii_lowercase();
                let host = host.strip_suffix('.').unwrap_or(&host);
                let served = match host.strip_prefix("*.") {
                    Some(parent) => tables.wildcard.entry(parent.into()).or_default(),
                    None => tables.exact.entry(host.into()).or_default(),
                };
                if !served.certificates.contains(&binding.certificate) {
                    served.certificates.push(Arc::clone(&binding.certificate));
                }
                if served.client_ca.is_none() {
                    served.client_ca.clone_from(&binding.client_ca);
                }
            }
        }
        let all = tables
            .exact
            .values_mut()
            .chain(tables.wildcard.values_mut());
        for served in all {
            served
                .certificates
                .sort_by_key(|certificate| certificate.cost());
        }
        tables.default.sort_by_key(|certificate| certificate.cost());
        Self {
            tables: Arc::new(tables),
        }
    }

    /// The certificate for a client that says this name, in lower case, and can check these signatures.
    ///
    /// If it can check none of what the name is served with, the first is taken all the same: the handshake then fails
    /// with a reason that says so.
    pub fn choose(
        &self,
        name: Option<&str>,
        schemes: &[SignatureScheme],
    ) -> Option<&Arc<Certificate>> {
        let bound = name.and_then(|name| self.bound(name));
        let certificates = bound.map_or(&self.tables.default, |served| &served.certificates);
        certificates
            .iter()
            .find(|certificate| certificate.suits(schemes))
            .or_else(|| certificates.first())
    }

    /// Whether some certificate is bound to this host, by its name or a wildcard.
    pub fn binds(&self, host: &str) -> bool {
        self.bound(host).is_some()
    }

    /// The certificates that are bound to this host, in lower case, by its name or a wildcard.
    pub fn bound_certificates(&self, host: &str) -> &[Arc<Certificate>] {
        self.bound(host).map_or(&[], |served| &*served.certificates)
    }

    /// Whose certificates clients show to reach this host.
    pub fn client_ca(&self, host: &str) -> Option<&Arc<ClientCa>> {
        self.bound(host)?.client_ca.as_ref()
    }

    /// The issuers of clients' certificates.
    pub fn client_cas(&self) -> impl Iterator<Item = &Arc<ClientCa>> {
        self.served().filter_map(|served| served.client_ca.as_ref())
    }

    /// All certificates, each as often as it is bound.
    pub fn certificates(&self) -> impl Iterator<Item = &Arc<Certificate>> {
        self.served()
            .flat_map(|served| &served.certificates)
            .chain(&self.tables.default)
    }

    fn served(&self) -> impl Iterator<Item = &Served> {
        let tables = &self.tables;
        tables.exact.values().chain(tables.wildcard.values())
    }

    fn bound(&self, host: &str) -> Option<&Served> {
        let host = host.strip_suffix('.').unwrap_or(host);
        self.tables.exact.get(host).or_else(|| {
            let (_, parent) = host.split_once('.')?;
            self.tables.wildcard.get(parent)
        })
    }
}

/// What a connection was given in its handshake, and thereby which hosts it may ask for.
#[derive(Clone, Debug)]
pub struct Secured {
    /// The name the client said.
    pub name: Option<Box<str>>,
    /// What it was shown.
    pub certificate: Arc<Certificate>,
    /// Whose certificate it was asked for, and has shown if it had to.
    pub client_ca: Option<Arc<ClientCa>>,
}

impl Secured {
    /// Whether a request for this host, in lower case and without a port, may come by this connection.
    ///
    /// It may for the name that the handshake was about, for whatever the certificate covers, as HTTP/2 lets clients
    /// use one connection for several hosts (RFC 9113 section 9.1.1), and for hosts to which no certificate is bound
    /// if it was shown the default one. It may not for a host whose clients show certificates for which this one was
    /// not asked. All else is 421 (RFC 9110 section 15.5.20).
    pub fn is_for(&self, host: &str, now: &CertificateSnapshot) -> bool {
        let wanted = now.client_ca(host);
        if wanted.is_some_and(|wanted| self.client_ca.as_ref() != Some(wanted)) {
            return false;
        }
        if self.name.as_deref() == Some(host) || self.certificate.names().cover(host) {
            return true;
        }
        !now.binds(host) && now.tables.default.contains(&self.certificate)
    }
}
