use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use super::*;

/// A moment at which what rcgen makes is valid.
const NOW: Duration = Duration::from_secs(1_780_000_000);

fn key(name: &str) -> Key {
    Key::new("shop", name)
}

fn kept(name: &str, host: &str) -> KeptSecret {
    let pair = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
    let chain = params.self_signed(&pair).unwrap().pem();
    secret(name, &chain, &pair.serialize_pem())
}

fn secret(name: &str, chain: &str, private: &str) -> KeptSecret {
    let bytes = |text: &str| k8s_openapi::ByteString(text.as_bytes().to_vec());
    let object: objects::Secret = serde_json::from_value(json!({
        "metadata": {"namespace": "shop", "name": name},
        "data": {"tls.crt": bytes(chain), "tls.key": bytes(private)},
    }))
    .unwrap();
    let provider = rustls::crypto::ring::default_provider();
    KeptSecret::of(&object, SystemTime::UNIX_EPOCH + NOW, &provider)
}

fn spec(rules: &Value, tls: &Value) -> IngressSpec {
    serde_json::from_value(json!({"rules": rules, "tls": tls})).unwrap()
}

/// A KIngress with one host outside and one Secret.
fn one(host: &str, name: &str) -> IngressSpec {
    let rules = json!([{"hosts": [host], "visibility": "ExternalIP"}]);
    let tls = json!([{"hosts": [host], "secretName": name, "secretNamespace": "shop"}]);
    spec(&rules, &tls)
}

/// The namespace is listed with these Secrets.
fn listed(secrets: &mut Secrets, all: Vec<KeptSecret>) {
    secrets.rescope();
    secrets.learn(&"shop".into(), Change::All(all));
}

fn source<'s>(snapshot: &'s CertificateSnapshot, name: &str) -> Option<&'s str> {
    let schemes = [rustls::SignatureScheme::ECDSA_NISTP256_SHA256];
    let certificate = snapshot.choose(Some(name), &schemes)?;
    Some(certificate.source())
}

#[test]
fn only_namespaces_that_are_named_are_watched_and_beyond_a_bound_all() {
    let mut secrets = Secrets::default();
    assert_eq!(secrets.rescope(), None);
    assert!(secrets.is_complete(), "nothing is named");
    let named = |namespace: &str| {
        let tls = json!([{"secretName": "a", "secretNamespace": namespace}]);
        spec(&json!([]), &tls)
    };
    secrets.name(&key("one"), &named("first"));
    assert!(!secrets.is_complete(), "what is named is not watched yet");
    assert_eq!(secrets.rescope(), Some(BTreeSet::from(["first".into()])));
    assert!(!secrets.is_complete());
    secrets.learn(&"first".into(), Change::All(Vec::new()));
    assert!(secrets.is_complete());
    for n in 0..NAMESPACES_WATCHED {
        secrets.name(&key(&n.to_string()), &named(&format!("another-{n}")));
    }
    assert_eq!(secrets.rescope(), Some(BTreeSet::from(["".into()])));
    secrets.forget(&key("0"));
    let scopes = secrets.rescope().unwrap();
    assert_eq!(scopes.len(), NAMESPACES_WATCHED);
    for n in 0..NAMESPACES_WATCHED {
        secrets.forget(&key(&n.to_string()));
    }
    secrets.forget(&key("one"));
    assert_eq!(secrets.rescope(), Some(BTreeSet::new()));
}

#[test]
fn a_host_is_served_where_its_rules_are_visible() {
    let mut secrets = Secrets::default();
    let rules = json!([
        {"hosts": ["a.example.com"], "visibility": "ExternalIP"},
        {"hosts": ["a.shop.svc"], "visibility": "ClusterLocal"},
    ]);
    let hosts = ["A.example.com", "a.shop.svc", "elsewhere.example.com"];
    let tls = json!([{"hosts": hosts, "secretName": "a", "secretNamespace": "shop"}]);
    let spec = spec(&rules, &tls);
    secrets.name(&key("a"), &spec);
    listed(&mut secrets, vec![kept("a", "a.example.com")]);
    assert!(secrets.look(&key("a"), 1, &spec, None).is_none());
    let now = secrets.changes().unwrap();
    let found = ["a.example.com", "a.shop.svc", "elsewhere.example.com"].map(|host| {
        let at = |snapshot| source(snapshot, host).is_some();
        (at(&now.external), at(&now.local))
    });
    assert_eq!(found, [(true, true), (false, true), (false, false)]);
    assert!(secrets.look(&key("a"), 1, &spec, None).is_none());
    assert!(secrets.changes().is_none(), "nothing is different");
}

#[test]
fn a_host_belongs_to_the_oldest_kingress_that_has_a_certificate_for_it() {
    let mut secrets = Secrets::default();
    let host = "a.example.com";
    for name in ["old", "new"] {
        secrets.name(&key(name), &one(host, name));
    }
    listed(&mut secrets, vec![kept("old", host), kept("new", host)]);
    for (name, created) in [("new", 2), ("old", 1)] {
        let trouble = secrets.look(&key(name), created, &one(host, name), None);
        assert!(trouble.is_none());
    }
    let now = secrets.changes().unwrap();
    assert_eq!(source(&now.external, host), Some("Secret shop/old"));
    assert_eq!(now.external.certificates().count(), 1);
    secrets.forget(&key("old"));
    let now = secrets.changes().unwrap();
    assert_eq!(source(&now.external, host), Some("Secret shop/new"));
}

#[test]
fn what_was_served_stays_while_a_secret_is_bad_or_gone_or_another_is_not_there() {
    let mut secrets = Secrets::default();
    let host = "a.example.com";
    let spec = one(host, "a");
    secrets.name(&key("a"), &spec);
    listed(&mut secrets, vec![kept("a", host)]);
    assert!(secrets.look(&key("a"), 1, &spec, None).is_none());
    assert!(secrets.changes().is_some());
    for change in [
        Change::Set(secret("a", "nothing", "at all")),
        Change::Gone(key("a")),
    ] {
        let concerned = secrets.learn(&"shop".into(), change);
        assert_eq!(concerned, BTreeSet::from([key("a")]));
        let trouble = secrets.look(&key("a"), 1, &spec, None).unwrap();
        assert!(trouble.is_covered, "{trouble:?}");
        assert!(secrets.changes().is_none(), "the same is served");
    }
    let other = one(host, "b");
    secrets.name(&key("a"), &other);
    let trouble = secrets.look(&key("a"), 1, &other, None).unwrap();
    assert!(!trouble.is_covered, "{trouble:?}");
    assert!(secrets.changes().is_none(), "the same is served");
    let Outcome::Waiting { reason, message } = &trouble.outcome else {
        panic!("{trouble:?}");
    };
    assert_eq!(*reason, "SecretMissing");
    assert!(message.contains("Secret shop/b"), "{message}");
}
