//! What the system namespace says of `system-internal-tls`: whether it is on, whom to trust, and what to show.
//!
//! Source: knative/networking `pkg/config/config.go` (the key), knative/serving `pkg/activator/certificate/cache.go` (the
//! Secret and the ConfigMaps).

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::Secret;

use super::objects;
use super::watch::Change;

/// The Secret with the certificate of whoever is in the path, and of the authority of everybody's.
///
/// Source: `SystemInternalTLS` certificates, knative/networking `pkg/config/config.go`, `ServingRoutingCertName`.
pub const CERTIFICATES: &str = "routing-serving-certs";

/// ConfigMaps with this label hold certificates of authorities, whatever its value.
///
/// Source: `TrustBundleLabelKey`, knative/networking `pkg/apis/networking/register.go`.
pub const TRUST_BUNDLE_LABEL: &str = "networking.knative.dev/trust-bundle";

/// The port by which Pods serve TLS, if their slice does not say another.
///
/// Source: `BackendHTTPSPort`, knative/networking `pkg/apis/networking/ports.go`.
pub(super) const POD_PORT: u16 = 8112;

/// … and their private Service.
pub(super) const SERVICE_PORT: u16 = 443;

/// What `system-internal-tls` is from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InternalTlsChange {
    /// Pods are spoken to by TLS, and in no other way.
    pub is_enabled: bool,
    /// What config-network says that cannot be understood: what was before stays.
    pub problem: Option<String>,
    /// The Secret; none: it is not there.
    pub certificates: Option<Certificates>,
    /// Trust bundles: `configmap: key`, and what is there.
    pub bundles: Vec<(String, String)>,
}

/// What is in the Secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Certificates {
    /// `ca.crt`: the authority of everybody's certificates.
    pub authority: Option<Vec<u8>>,
    /// `tls.crt`: our certificate and those between it and the authority's.
    pub certificate: Option<Vec<u8>>,
    /// `tls.key`: its key.
    pub key: Option<Vec<u8>>,
}

impl Certificates {
    /// What is kept of the Secret.
    pub fn of(secret: Secret) -> Self {
        let mut data = secret.data.unwrap_or_default();
        let mut take = |key: &str| data.remove(key).map(|bytes| bytes.0);
        Self {
            authority: take("ca.crt"),
            certificate: take("tls.crt"),
            key: take("tls.key"),
        }
    }
}

/// Without what is secret.
impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = |value: &Option<Vec<u8>>| value.as_ref().map(Vec::len);
        f.debug_struct("Certificates")
            .field("authority", &bytes(&self.authority))
            .field("certificate", &bytes(&self.certificate))
            .finish_non_exhaustive()
    }
}

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct KnownInternalTls {
    is_enabled: bool,
    problem: Option<String>,
    has_listed: bool,
    certificates: Option<Certificates>,
    bundles: BTreeMap<String, BTreeMap<String, String>>,
    is_marked: bool,
}

impl KnownInternalTls {
    pub(super) fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    /// Whether all that matters has been listed.
    pub(super) fn is_complete(&self) -> bool {
        !self.is_enabled || self.has_listed
    }

    /// config-network is this now. Says whether that switches it on or off.
    pub(super) fn learn_config(&mut self, network: Option<&BTreeMap<String, String>>) -> bool {
        let (is_enabled, problem) = match is_enabled(network) {
            Ok(is_enabled) => (is_enabled, None),
            Err(problem) => (self.is_enabled, Some(problem)),
        };
        let is_switched = is_enabled != self.is_enabled;
        self.is_marked |= is_switched || problem != self.problem;
        self.is_enabled = is_enabled;
        self.problem = problem;
        is_switched
    }

    pub(super) fn learn_certificates(&mut self, change: Change<Certificates>) {
        let certificates = match change {
            Change::All(all) => {
                self.has_listed = true;
                all.into_iter().next()
            }
            Change::Set(certificates) => Some(certificates),
            Change::Gone(_) => None,
        };
        self.is_marked |= certificates != self.certificates;
        self.certificates = certificates;
    }

    /// Keeps a trust bundle apart. Returns what is none.
    pub(super) fn keep_bundle(&mut self, map: objects::ConfigMap) -> Option<objects::ConfigMap> {
        let name = map.metadata.name.clone().unwrap_or_default();
        let labels = map.metadata.labels.as_ref();
        if !labels.is_some_and(|labels| labels.contains_key(TRUST_BUNDLE_LABEL)) {
            self.forget_bundle(&name);
            return Some(map);
        }
        if self.bundles.get(&name) != Some(&map.data) {
            self.is_marked = true;
            self.bundles.insert(name, map.data);
        }
        None
    }

    pub(super) fn forget_bundle(&mut self, name: &str) {
        self.is_marked |= self.bundles.remove(name).is_some();
    }

    /// Forgets all bundles but these.
    pub(super) fn retain_bundles(&mut self, is_there: impl Fn(&str) -> bool) {
        let before = self.bundles.len();
        self.bundles.retain(|name, _| is_there(name));
        self.is_marked |= self.bundles.len() != before;
    }

    /// What has changed since the last call, if anything.
    pub(super) fn change(&mut self) -> Option<InternalTlsChange> {
        std::mem::take(&mut self.is_marked).then(|| InternalTlsChange {
            is_enabled: self.is_enabled,
            problem: self.problem.clone(),
            certificates: self.certificates.clone(),
            bundles: self.bundles.iter().flat_map(named).collect(),
        })
    }
}

fn named<'m>(
    (map, data): (&'m String, &'m BTreeMap<String, String>),
) -> impl Iterator<Item = (String, String)> + 'm {
    data.iter()
        .map(move |(key, value)| (format!("{map}: {key}"), value.clone()))
}

/// Whether config-network switches it on, by its key or the one it had before.
///
/// # Errors
///
/// When the value is none of those there are.
fn is_enabled(network: Option<&BTreeMap<String, String>>) -> Result<bool, String> {
    let value = |key: &str| Some(network?.get(key)?.to_ascii_lowercase());
    match value("system-internal-tls").as_deref() {
        Some("enabled") => Ok(true),
        Some("disabled") => Ok(false),
        None => Ok(value("internal-encryption").as_deref() == Some("true")),
        Some(other) => Err(format!(
            "config-network: system-internal-tls: {other:?} is neither Enabled nor Disabled"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(values: &[(&str, &str)]) -> BTreeMap<String, String> {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        values.iter().map(own).collect()
    }

    fn bundle(name: &str, is_labelled: bool, pem: &str) -> objects::ConfigMap {
        let labels = match is_labelled {
            true => serde_json::json!({TRUST_BUNDLE_LABEL: "true"}),
            false => serde_json::json!({}),
        };
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": name, "namespace": "knative-serving", "labels": labels},
            "data": {"ca.crt": pem},
        }))
        .unwrap()
    }

    #[test]
    fn config_network_switches_it_by_either_key_in_any_case() {
        let is = |values: &[(&str, &str)]| is_enabled(Some(&network(values)));
        assert_eq!(is_enabled(None), Ok(false));
        assert_eq!(is(&[]), Ok(false));
        assert_eq!(is(&[("system-internal-tls", "Enabled")]), Ok(true));
        assert_eq!(is(&[("system-internal-tls", "ENABLED")]), Ok(true));
        assert_eq!(is(&[("internal-encryption", "True")]), Ok(true));
        let both = [
            ("internal-encryption", "true"),
            ("system-internal-tls", "disabled"),
        ];
        assert_eq!(is(&both), Ok(false));
        assert!(
            is(&[("system-internal-tls", "yes")])
                .unwrap_err()
                .contains("\"yes\"")
        );
    }

    #[test]
    fn a_value_that_is_none_leaves_what_was_and_is_told() {
        let mut known = KnownInternalTls::default();
        assert!(known.learn_config(Some(&network(&[("system-internal-tls", "Enabled")]))));
        assert!(known.change().unwrap().is_enabled);
        assert!(!known.learn_config(Some(&network(&[("system-internal-tls", "of course")]))));
        let change = known.change().unwrap();
        assert!(change.is_enabled);
        assert!(change.problem.unwrap().contains("of course"));
        assert_eq!(known.change(), None, "told once");
    }

    #[test]
    fn a_config_map_is_a_trust_bundle_as_long_as_it_has_the_label() {
        let mut known = KnownInternalTls::default();
        assert!(known.keep_bundle(bundle("a", false, "x")).is_some());
        assert_eq!(known.change(), None);
        assert!(known.keep_bundle(bundle("a", true, "x")).is_none());
        let told = |known: &mut KnownInternalTls| known.change().map(|change| change.bundles);
        assert_eq!(
            told(&mut known),
            Some(vec![("a: ca.crt".to_owned(), "x".to_owned())])
        );
        assert!(known.keep_bundle(bundle("a", true, "x")).is_none());
        assert_eq!(told(&mut known), None, "the same");
        assert!(known.keep_bundle(bundle("a", false, "x")).is_some());
        assert_eq!(told(&mut known), Some(Vec::new()));
    }
}
