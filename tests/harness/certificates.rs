//! Certificates of Knative's data plane, and what holds them.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use serde_json::{Value, json};

use crate::tls::{Authority, Identity};

/// The name that all of Knative's data plane has.
pub const DATA_PLANE: &str = "data-plane.knative.dev";

/// The certificate of Pods of a namespace, as Serving asks for it.
///
/// Source: knative/networking `pkg/certificates/constants.go`.
pub fn of_pods(authority: &Authority, namespace: &str) -> Identity {
    authority.issue(&[&format!("kn-user-{namespace}"), DATA_PLANE])
}

/// The certificate of activators, likewise.
pub fn of_routing(authority: &Authority) -> Identity {
    authority.issue(&["kn-routing", DATA_PLANE])
}

/// A server that shows this as queue-proxy does: by TLS 1.3, with HTTP/2 and HTTP/1.1.
pub fn server(identity: &Identity) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = CertificateDer::pem_slice_iter(identity.chain.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// The Secret that holds a certificate, with that of its authority.
pub fn secret(namespace: &str, name: &str, identity: &Identity, authority: &Authority) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"namespace": namespace, "name": name},
        "type": "kubernetes.io/tls",
        "data": {
            "ca.crt": base64(authority.root().as_bytes()),
            "tls.crt": base64(identity.chain.as_bytes()),
            "tls.key": base64(identity.key.as_bytes()),
        },
    })
}

/// RFC 4648 section 4.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for piece in bytes.chunks(3) {
        let byte = |at: usize| u32::from(piece.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let index = usize::try_from(bits >> (18 - 6 * place) & 63).unwrap();
            text.push(match place <= piece.len() {
                true => char::from(ALPHABET[index]),
                false => '=',
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_what_the_rfc_says() {
        for (text, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }
}
