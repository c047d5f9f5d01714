//! Certificates that clients show: who may have issued them, and what endpoints are told of one.

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use http::HeaderValue;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// The field of a Secret that holds the certificates of who issues those of clients.
///
/// In the Secret of the host's own certificate, where ingress-nginx looks too (kubernetes/ingress-nginx
/// `docs/examples/auth/client-certs/README.md`) and where cert-manager puts the host's own issuer: so it counts for
/// nothing until a route asks for certificates.
pub const CLIENT_CA_FIELD: &str = "ca.crt";

/// Whether the clients of a route show certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientCertificate {
    /// They may; one that is shown has to be good.
    Optional,
    /// They have to.
    Required,
}

impl ClientCertificate {
    /// As a route asks for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Optional => "optional",
            Self::Required => "required",
        }
    }
}

/// Who may issue the certificates that clients show.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCa {
    /// Where it is from, for people.
    pub source: Arc<str>,
    /// The issuers' certificates, each in DER.
    pub roots: Arc<[CertificateDer<'static>]>,
    /// Whether there has to be one.
    pub wanted: ClientCertificate,
}

impl fmt::Debug for ClientCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (source, roots) = (&self.source, self.roots.len());
        write!(f, "ClientCa({source}, {:?}, {roots} roots)", self.wanted)
    }
}

/// Reads the certificates of issuers from PEM.
///
/// # Errors
///
/// When there is none, or one cannot be read, or cannot be that of an issuer.
pub fn parse_issuers(pem: &[u8]) -> Result<Arc<[CertificateDer<'static>]>, InvalidIssuers> {
    let roots: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| InvalidIssuers::Unreadable(error.to_string()))?;
    if roots.is_empty() {
        return Err(InvalidIssuers::None);
    }
    let mut store = RootCertStore::empty();
    for root in &roots {
        let added = store.add(root.clone());
        added.map_err(|error| InvalidIssuers::Unreadable(error.to_string()))?;
    }
    Ok(roots.into())
}

/// Why nobody's certificates can be checked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIssuers {
    /// There is none.
    #[error("there is no certificate in it")]
    None,
    /// It cannot be read.
    #[error("a certificate cannot be read: {0}")]
    Unreadable(String),
}

impl InvalidIssuers {
    /// What to do about it.
    pub const REMEDY: &'static str =
        "give the certificates of those who issue clients' certificates, in PEM";
}

/// What endpoints are told of a certificate that was shown and found good: the value of `X-Forwarded-Client-Cert`.
///
/// The form is Envoy's (envoyproxy/envoy `docs/root/configuration/http/http_conn_man/headers.rst`,
/// x-forwarded-client-cert): `Hash` is the SHA-256 of the certificate, `Subject` its distinguished name as in RFC 2253,
/// `URI` and `DNS` are its alternative names, at most [`MOST_NAMES`] together. A subject or name that is longer than
/// [`LONGEST_NAME`] bytes is left out: the hash says whose it is.
pub fn told_of(certificate: &CertificateDer<'_>) -> HeaderValue {
    let mut told = "Hash=".to_owned();
    for byte in Sha256::digest(certificate) {
        write!(told, "{byte:02x}").unwrap_or_default();
    }
    if let Ok((_, parsed)) = X509Certificate::from_der(certificate) {
        let subject = subject(parsed.subject());
        let subject = if subject.len() <= LONGEST_NAME {
            &*subject
        } else {
            ""
        };
        write!(told, ";Subject=\"{subject}\"").unwrap_or_default();
        let alternatives = parsed.subject_alternative_name().ok().flatten();
        let names = alternatives
            .iter()
            .flat_map(|it| &it.value.general_names)
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(("URI", *uri)),
                GeneralName::DNSName(name) => Some(("DNS", *name)),
                _ => None,
            });
        let short = names.filter(|(_, name)| name.len() <= LONGEST_NAME);
        for (kind, name) in short.take(MOST_NAMES) {
            write!(told, ";{kind}={}", quoted(name)).unwrap_or_default();
        }
    }
    // All of it is visible ASCII by now.
    HeaderValue::try_from(told).unwrap_or(HeaderValue::from_static("Hash="))
}

/// How many alternative names endpoints are told.
pub const MOST_NAMES: usize = 8;

/// How long a subject or an alternative name may be for endpoints to be told, in bytes.
pub const LONGEST_NAME: usize = 512;

/// A name as a value, quoted if it contains what separates values.
fn quoted(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b",;=\"\\".contains(&byte);
    if !name.is_empty() && name.bytes().all(is_plain) {
        return name.to_owned();
    }
    let mut quoted = "\"".to_owned();
    escape(&mut quoted, name, b"\"\\");
    quoted.push('"');
    quoted
}

/// The distinguished name in the form of RFC 4514 section 2, its last part first.
fn subject(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter().collect();
    let mut text = String::new();
    for (at, part) in parts.iter().rev().enumerate() {
        if at > 0 {
            text.push(',');
        }
        for (at, attribute) in part.iter().enumerate() {
            if at > 0 {
                text.push('+');
            }
            write_attribute(&mut text, attribute);
        }
    }
    text
}

fn write_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    let kind = attribute.attr_type();
    match oid2abbrev(kind, oid_registry()) {
        Ok(known) => text.push_str(known),
        Err(_unknown) => text.push_str(&kind.to_id_string()),
    }
    text.push('=');
    let Ok(value) = attribute.as_str() else {
        text.push('#');
        for byte in attribute.as_slice() {
            write!(text, "{byte:02x}").unwrap_or_default();
        }
        return;
    };
    if value.starts_with([' ', '#']) {
        text.push('\\');
    }
    escape(text, value, b"\"\\+,;<>");
}

/// Escapes these by a backslash, and what is not visible ASCII or a blank by its bytes (RFC 4514 section 2.4).
fn escape(text: &mut String, value: &str, special: &[u8]) {
    for byte in value.bytes() {
        match byte {
            _ if special.contains(&byte) => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b' '..=b'~' => text.push(char::from(byte)),
            _ => write!(text, "\\{byte:02X}").unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    fn told(change: impl FnOnce(&mut CertificateParams)) -> String {
        let value = told_of(&certificate(change));
        let text = value.to_str().unwrap();
        let (hash, rest) = text.split_once(';').unwrap();
        assert_eq!(hash.len(), "Hash=".len() + 64, "{text}");
        rest.to_owned()
    }

    #[test]
    fn endpoints_are_told_hash_subject_and_names() {
        let told = told(|params| {
            let name = &mut params.distinguished_name;
            name.push(DnType::CountryName, "DE");
            name.push(DnType::OrganizationName, "Shop");
            name.push(DnType::CommonName, "till 7");
            params.subject_alt_names = vec![
                SanType::URI("spiffe://shop/till".try_into().unwrap()),
                SanType::DnsName("till.shop.example.com".try_into().unwrap()),
            ];
        });
        assert_eq!(
            told,
            r#"Subject="CN=till 7,O=Shop,C=DE";URI=spiffe://shop/till;DNS=till.shop.example.com"#
        );
    }

    #[test]
    fn what_a_certificate_says_cannot_pass_for_another_value() {
        let told = told(|params| {
            let evil = "x\",;Hash=00;Subject=\"CN=root\\ é\r\n";
            params.distinguished_name.push(DnType::CommonName, evil);
            params.subject_alt_names = vec![SanType::URI("a,b=\"c\"".try_into().unwrap())];
        });
        assert_eq!(
            told,
            "Subject=\"CN=x\\\"\\,\\;Hash=00\\;Subject=\\\"CN=root\\\\ \\C3\\A9\\0D\\0A\";URI=\"a,b=\\\"c\\\"\""
        );
    }

    #[test]
    fn what_is_too_long_is_left_out() {
        let told = told(|params| {
            let long = "x".repeat(LONGEST_NAME);
            params.distinguished_name.push(DnType::CommonName, long);
        });
        assert_eq!(told, "Subject=\"\"");
    }

    #[test]
    fn issuers_are_read_or_refused() {
        assert_eq!(parse_issuers(b""), Err(InvalidIssuers::None));
        let bad = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let refused = parse_issuers(bad).unwrap_err();
        assert!(matches!(refused, InvalidIssuers::Unreadable(_)));
    }
}
