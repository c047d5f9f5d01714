//! A Secret with a certificate. What it holds is never repeated in a problem.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::fields::Fields;
use super::Meta;
use crate::routing::tls::{CERTIFICATE_FIELD, CLIENT_CA_FIELD, KEY_FIELD};

/// The type of a Secret with a certificate (core/v1 `SecretTypeTLS`).
const TLS: &str = "kubernetes.io/tls";

/// A Secret of the type `kubernetes.io/tls`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// What is known about every object.
    pub meta: Meta,
    /// `tls.crt`: the chain, in PEM.
    pub certificate: Entry,
    /// `tls.key`: the private key, in PEM.
    pub key: Entry,
    /// `ca.crt`: who issues clients' certificates, in PEM.
    pub client_ca: Option<Entry>,
}

/// One value of a Secret.
#[derive(Clone, Default, PartialEq, Eq)]
#[expect(missing_debug_implementations, reason = "it may be a private key")]
pub struct Entry {
    /// The value.
    pub bytes: Box<[u8]>,
    /// Where it stands in the object.
    pub field: Box<str>,
}

/// Without what is secret.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("meta", &self.meta)
            .finish_non_exhaustive()
    }
}

pub(super) fn read(mut fields: Fields<'_>, meta: Meta) -> Option<Secret> {
    let kind = fields.string("type").unwrap_or_default();
    if kind != TLS {
        let problem = meta.origin.problem(
            "type",
            "a Secret of this type is not read here, and skipped",
        );
        fields.report(problem.warning().remedy(format!("{TLS} is")));
        return None;
    }
    let encoded = fields.string_map("data");
    let plain = fields.string_map("stringData");
    let find = |name: &str| -> Option<Option<Entry>> {
        let field = |map: &str| format!("{map}[\"{name}\"]").into_boxed_str();
        // As the API server merges them (core/v1 `Secret.StringData`).
        if let Some(text) = plain.get(name) {
            return Some(Some(Entry {
                bytes: text.as_bytes().into(),
                field: field("stringData"),
            }));
        }
        let Some(text) = encoded.get(name) else {
            return Some(None);
        };
        let text: String = text.split_ascii_whitespace().collect();
        let field = field("data");
        let Ok(bytes) = STANDARD.decode(text) else {
            let problem = meta.origin.problem(&*field, "this is not base64").value("");
            fields.report(problem.remedy("encode it, or write it as it is below stringData"));
            return None;
        };
        Some(Some(Entry {
            bytes: bytes.into(),
            field,
        }))
    };
    let (certificate, key) = (find(CERTIFICATE_FIELD)?, find(KEY_FIELD)?);
    let client_ca = find(CLIENT_CA_FIELD)?;
    for (name, value) in [(CERTIFICATE_FIELD, &certificate), (KEY_FIELD, &key)] {
        if value.is_none() {
            let problem = meta.origin.problem("data", format!("{name} is missing"));
            fields.report(problem.value("").remedy(
                "`kubectl create secret tls NAME --cert=FILE --key=FILE --dry-run=client -o yaml` writes such a Secret",
            ));
        }
    }
    Some(Secret {
        certificate: certificate?,
        key: key?,
        client_ca,
        meta,
    })
}
