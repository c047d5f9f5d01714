//! One certificate with its key, checked once where it is made.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, SignatureAlgorithm, SignatureScheme};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The field of a Secret that holds the chain, the server's own certificate first (core/v1 `TLSCertKey`).
pub const CERTIFICATE_FIELD: &str = "tls.crt";

/// The field of a Secret that holds the private key (core/v1 `TLSPrivateKeyKey`).
pub const KEY_FIELD: &str = "tls.key";

/// A certificate chain and its private key, which belong together.
pub struct Certificate {
    source: Arc<str>,
    names: Names,
    not_before: SystemTime,
    not_after: SystemTime,
    key: Arc<CertifiedKey>,
}

impl Certificate {
    /// Reads a chain and a key, both in PEM. `source` says for people where they are from.
    ///
    /// # Errors
    ///
    /// When either cannot be read, they do not belong together, or the certificate is not valid at `now`.
    pub fn parse(
        source: Arc<str>,
        chain: &[u8],
        key: &[u8],
        now: SystemTime,
        provider: &CryptoProvider,
    ) -> Result<Self, CertificateError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|error| CertificateError::BadChain(error.to_string()))?;
        let first = chain.first().ok_or(CertificateError::NoChain)?;
        let (names, not_before, not_after) = {
            let (_, parsed) = X509Certificate::from_der(first)
                .map_err(|error| CertificateError::BadChain(error.to_string()))?;
            let validity = parsed.validity();
            (
                Names::of(&parsed),
                time_of(validity.not_before.timestamp()),
                time_of(validity.not_after.timestamp()),
            )
        };
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| CertificateError::BadKey(error.to_string()))?;
        let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                CertificateError::KeyDoesNotMatch
            }
            error => CertificateError::BadKey(error.to_string()),
        })?;
        if not_after <= now {
            return Err(CertificateError::Expired(age(not_after, now)));
        }
        Ok(Self {
            source,
            names,
            not_before,
            not_after,
            key: Arc::new(key),
        })
    }

    /// Where it is from, for people.
    pub fn source(&self) -> &Arc<str> {
        &self.source
    }

    /// The names it is for.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// From when it is valid.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Until when it is valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// What a handshake needs.
    pub fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// Whether a client that understands these schemes can check its signatures.
    pub fn suits(&self, schemes: &[SignatureScheme]) -> bool {
        self.key.key.choose_scheme(schemes).is_some()
    }

    /// What kind of key it has; the cheapest to sign with first.
    pub(super) fn cost(&self) -> u8 {
        match self.key.key.algorithm() {
            SignatureAlgorithm::ECDSA => 0,
            SignatureAlgorithm::ED25519 => 1,
            SignatureAlgorithm::ED448 => 2,
            _ => 3,
        }
    }
}

/// Without the key.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("source", &self.source)
            .field("names", &self.names)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Two are the same if they serve the same chain from the same place; the key belongs to the chain.
impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source && self.key.cert == other.key.cert
    }
}

impl Eq for Certificate {}

/// The names a certificate is for: its subject alternative names. A common name counts for nothing (RFC 9525 section
/// 2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// In lower case; a name that begins with `*.` stands for one label there.
    dns: Vec<Box<str>>,
    addresses: Vec<IpAddr>,
}

impl Names {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        let mut names = Self::default();
        let Ok(Some(alternatives)) = certificate.subject_alternative_name() else {
            return names;
        };
        for name in &alternatives.value.general_names {
            match name {
                GeneralName::DNSName(name) => {
                    let name = name.strip_suffix('.').unwrap_or(name);
                    names.dns.push(name.to_ascii_lowercase().into());
                }
                GeneralName::IPAddress(bytes) => names.addresses.extend(address_of(bytes)),
                _ => {}
            }
        }
        names
    }

    /// The DNS names, as they are written in the certificate but in lower case.
    pub fn dns(&self) -> impl Iterator<Item = &str> {
        self.dns.iter().map(AsRef::as_ref)
    }

    /// Whether a host, in lower case and without a port, is among them.
    ///
    /// A wildcard stands for exactly one label, the first (RFC 9525 section 6.3).
    pub fn cover(&self, host: &str) -> bool {
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        if let Ok(address) = bare.unwrap_or(host).parse::<IpAddr>() {
            return self.addresses.contains(&address);
        }
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.dns.iter().any(|name| match name.strip_prefix("*.") {
            Some(of) => parent == Some(of),
            None => **name == *host,
        })
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses = self.addresses.iter().map(ToString::to_string);
        let all: Vec<_> = self.dns().map(str::to_owned).chain(addresses).collect();
        f.write_str(&all.join(", "))
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(Into::into)
}

/// What lies before 1970 is long past, whenever it was.
fn time_of(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

fn age(then: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(then).unwrap_or_default()
}

/// Why a certificate cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// There is none.
    #[error("there is no certificate in it")]
    NoChain,
    /// It cannot be read.
    #[error("the certificate cannot be read: {0}")]
    BadChain(String),
    /// The key cannot be read or used.
    #[error("the key cannot be used: {0}")]
    BadKey(String),
    /// The key is that of another certificate.
    #[error("the key belongs to another certificate")]
    KeyDoesNotMatch,
    /// It is valid no longer, since so long.
    #[error("the certificate expired {} ago", Roughly(*.0))]
    Expired(Duration),
}

impl CertificateError {
    /// The field of the Secret that is wrong.
    pub fn field(&self) -> &'static str {
        match self {
            Self::NoChain | Self::BadChain(_) | Self::Expired(_) => CERTIFICATE_FIELD,
            Self::BadKey(_) | Self::KeyDoesNotMatch => KEY_FIELD,
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoChain | Self::BadChain(_) => {
                "give the chain in PEM, the server's own certificate first"
            }
            Self::BadKey(_) => {
                "give an ECDSA, Ed25519 or RSA key in PEM (PKCS#8, SEC1 or PKCS#1), without a passphrase"
            }
            Self::KeyDoesNotMatch => "give the key for which the certificate was issued",
            Self::Expired(_) => "renew it",
        }
    }
}

/// A time span for people, in its largest unit.
struct Roughly(Duration);

impl fmt::Display for Roughly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (count, unit) = match seconds {
            0..120 => (seconds, "s"),
            120..7_200 => (seconds / 60, "min"),
            7_200..172_800 => (seconds / 3_600, "h"),
            _ => (seconds / 86_400, "days"),
        };
        write!(f, "{count} {unit}")
    }
}
