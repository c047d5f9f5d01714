//! The names in a Pod's certificate.

use std::error::Error;
use std::fmt;

use rustls::pki_types::{DnsName, ServerName};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The name that is asked for, and that every certificate of the data plane has.
///
/// Source: `LegacyFakeDnsName`, knative/networking `pkg/certificates/constants.go`.
pub(super) const DATA_PLANE: &str = "data-plane.knative.dev";

/// [`DATA_PLANE`] as TLS has it.
pub(super) fn server_name() -> ServerName<'static> {
    let name = DnsName::try_from_str(DATA_PLANE).expect("a DNS name");
    ServerName::DnsName(name)
}

/// The name that Pods of a namespace have besides.
///
/// Source: `DataPlaneUserSAN`, knative/networking `pkg/certificates/constants.go`.
pub(super) fn user_name(namespace: &str) -> String {
    format!("kn-user-{}", namespace.to_ascii_lowercase())
}

/// A certificate of the data plane, but not of a Pod of this namespace.
#[derive(Debug)]
pub(super) struct NotOf {
    wanted: String,
    presented: Vec<String>,
}

impl fmt::Display for NotOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "it has the names {:?}, not {:?}",
            self.presented, self.wanted
        )
    }
}

impl Error for NotOf {}

/// How many names are repeated in an error.
const NAMES_SHOWN: usize = 8;

/// Checks that a certificate has exactly this DNS name.
///
/// Byte for byte, as Knative's activator compares it (`verifySAN`, knative/serving
/// `pkg/activator/certificate/tls_context.go`): with a long namespace it is no valid DNS name, for a label may have 63
/// bytes (RFC 1035 section 2.3.4).
///
/// # Errors
///
/// When it has not; with the names that it has.
pub(super) fn has_name(certificate: &[u8], wanted: &str) -> Result<(), NotOf> {
    let presented = dns_names(certificate);
    if presented.iter().any(|name| name == wanted) {
        return Ok(());
    }
    Err(NotOf {
        wanted: wanted.to_owned(),
        presented: presented.into_iter().take(NAMES_SHOWN).collect(),
    })
}

/// The DNS names among the subject alternative names (RFC 5280 section 4.2.1.6).
fn dns_names(certificate: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = alternatives.value.general_names.iter();
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: &[&str]) -> Vec<u8> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(names).unwrap();
        parameters.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_has_its_names_and_no_others_byte_for_byte() {
        let der = certificate(&["data-plane.knative.dev", "kn-user-shop", "10.0.0.1"]);
        has_name(&der, "kn-user-shop").unwrap();
        has_name(&der, DATA_PLANE).unwrap();
        for other in [
            "kn-user-sho",
            "kn-user-shopp",
            "KN-USER-SHOP",
            "kn-user-",
            "",
            "10.0.0.1",
        ] {
            let error = has_name(&der, other).unwrap_err().to_string();
            assert!(error.contains("\"kn-user-shop\""), "{error}");
        }
        let wild = certificate(&["*.knative.dev", "*"]);
        assert!(has_name(&wild, "kn-user-shop").is_err());
    }

    #[test]
    fn a_namespace_too_long_for_a_dns_label_has_a_name_all_the_same() {
        let name = user_name(&"n".repeat(63));
        assert!(ServerName::try_from(name.as_str()).is_err(), "71 bytes");
        has_name(&certificate(&[&name]), &name).unwrap();
    }

    #[test]
    fn a_certificate_without_names_and_bytes_that_are_none_have_no_name() {
        assert!(has_name(&certificate(&[]), "kn-user-shop").is_err());
        let der = certificate(&["kn-user-shop"]);
        for end in 0..der.len() {
            // Cut off or not, it ends.
            drop(has_name(der.get(..end).unwrap(), "kn-user-shop"));
        }
        for at in 0..der.len() {
            let mut wrong = der.clone();
            wrong[at] ^= 0xff;
            drop(has_name(&wrong, "kn-user-shop"));
        }
    }
}
