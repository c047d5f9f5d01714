//! The KIngress as plain values, and its hash.
//!
//! Source: knative/networking `pkg/apis/networking/v1alpha1/ingress_types.go`. The order of the fields is the order
//! Go writes them in, because the hash is taken over that text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// `spec` of a KIngress.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressSpec {
    /// Certificates of hosts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tls: Vec<IngressTls>,
    /// What hosts and paths lead to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<IngressRule>,
    /// `Enabled`, `Redirected` or empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub http_option: String,
}

/// The certificate of some hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressTls {
    /// Whose certificate it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// The Secret that holds it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub secret_name: String,
    /// Its namespace, which may be another than that of the KIngress.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub secret_namespace: String,
}

/// Hosts, who may reach them, and their paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressRule {
    /// Exact host names; none means every host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// `ExternalIP` or `ClusterLocal`; empty means `ExternalIP`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub visibility: String,
    /// The paths; a rule without them is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpRule>,
}

/// The paths of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRule {
    /// In their listed order.
    #[serde(
        serialize_with = "null_when_empty",
        deserialize_with = "empty_when_null"
    )]
    pub paths: Vec<IngressPath>,
}

/// One path of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressPath {
    /// Prefix of the request path; empty means every path.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Replaces the Host on the way upstream; empty means unchanged.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rewrite_host: String,
    /// Headers that must all match.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, HeaderMatch>,
    /// Where the traffic goes.
    #[serde(
        serialize_with = "null_when_empty",
        deserialize_with = "empty_when_null"
    )]
    pub splits: Vec<IngressSplit>,
    /// Headers set on the request, despite the name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub append_headers: BTreeMap<String, String>,
}

/// How a header is compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeaderMatch {
    /// The value it must have.
    pub exact: String,
}

/// One target of a path's traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressSplit {
    /// Namespace of the Service; must be that of the KIngress.
    pub service_namespace: String,
    /// Name of the Service.
    pub service_name: String,
    /// Number or name of its port.
    pub service_port: ServicePort,
    /// Its share in percent; a single split may leave it out.
    #[serde(skip_serializing_if = "is_zero")]
    pub percent: i64,
    /// Headers set on the requests of this split, despite the name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub append_headers: BTreeMap<String, String>,
}

/// A port by number or by name: `intstr.IntOrString`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ServicePort {
    /// Its number; 0 when none was given.
    Number(i64),
    /// Its name.
    Name(String),
}

impl Default for ServicePort {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl IngressTls {
    /// Its hosts that rules of such a visibility have too; all of those when it names none.
    ///
    /// Source: `GetIngressTLSForVisibility`, knative/networking `pkg/apis/networking/v1alpha1/ingress_helpers.go`, which
    /// drops an entry as a whole when one of its hosts is not among them; here the others are served.
    pub fn hosts_in(&self, spec: &IngressSpec, is_visible: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        let rules = { spec.rules.iter() }.filter(|rule| is_visible(&rule.visibility));
        let of_rules: BTreeSet<String> = rules
            .flat_map(|rule| &rule.hosts)
            .map(|host| host.to_ascii_lowercase())
            .collect();
        if self.hosts.is_empty() {
            return of_rules.into_iter().map(Into::into).collect();
        }
        let has = |host: &String| match host.strip_prefix("*.") {
            Some(parent) => { of_rules.iter() }
                .any(|of_rule| of_rule.split_once('.').is_some_and(|(_, it)| it == parent)),
            None => of_rules.contains(host),
        };
        let hosts = self.hosts.iter().map(|host| host.to_ascii_lowercase());
        hosts.filter(has).map(Into::into).collect()
    }
}

impl IngressSpec {
    /// Fills in what Knative's webhook fills in: visibility, and the percentage of a single split.
    ///
    /// Source: knative/networking `pkg/apis/networking/v1alpha1/ingress_defaults.go`. The hash is taken over the
    /// object as stored, so a spec that no webhook has seen needs this first.
    pub fn fill_defaults(&mut self) {
        for rule in &mut self.rules {
            if rule.visibility.is_empty() {
                rule.visibility = "ExternalIP".to_owned();
            }
            for path in rule.http.iter_mut().flat_map(|http| &mut http.paths) {
                if let [only] = path.splits.as_mut_slice()
                    && only.percent == 0
                {
                    only.percent = 100;
                }
            }
        }
    }

    /// The hash that tells which configuration an ingress serves: lower-case hex of sha256 over the spec as Go's
    /// encoding/json writes it, followed by namespace and name without separators.
    ///
    /// Source: knative/networking `pkg/ingress/ingress.go`, `InsertProbe` and `computeHash`.
    pub fn hash(&self, namespace: &str, name: &str) -> String {
        let digest = Sha256::new()
            .chain_update(self.to_go_json())
            .chain_update(namespace)
            .chain_update(name)
            .finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The spec as Go's `json.Marshal` writes it.
    ///
    /// It differs from other writers in the characters it escapes: all that could mean something in HTML or end a line
    /// of JavaScript. They only occur within strings, so they can be replaced in the text.
    fn to_go_json(&self) -> String {
        let json = serde_json::to_string(self).unwrap_or_default(); // no maps with other keys than strings, no I/O
        let mut escaped = String::with_capacity(json.len());
        for c in json.chars() {
            match c {
                '<' => escaped.push_str("\\u003c"),
                '>' => escaped.push_str("\\u003e"),
                '&' => escaped.push_str("\\u0026"),
                '\u{2028}' => escaped.push_str("\\u2028"),
                '\u{2029}' => escaped.push_str("\\u2029"),
                c => escaped.push(c),
            }
        }
        escaped
    }
}

/// Go writes a slice that was never filled as `null`.
fn null_when_empty<T: Serialize, S: serde::Serializer>(
    items: &[T],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if items.is_empty() {
        serializer.serialize_none()
    } else {
        items.serialize(serializer)
    }
}

fn empty_when_null<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(spec: &str, namespace: &str, name: &str) -> String {
        let spec: IngressSpec = serde_json::from_str(spec).unwrap();
        spec.hash(namespace, name)
    }

    // The first two are those of knative/networking `pkg/ingress/ingress_test.go`, `TestInsertProbe`.

    #[test]
    fn hash_of_a_minimal_spec_is_knatives() {
        let spec = r#"{"rules":[{"hosts":["example.com"],"http":{"paths":[{"splits":[{"serviceNamespace":"","serviceName":"blah","servicePort":0}]}]}}]}"#;
        assert_eq!(
            hash(spec, "", ""),
            "a25000a350642c8abef53078b329bd043e18758f6063c1172d53b04e14fcf5c1"
        );
    }

    #[test]
    fn hash_of_a_split_with_headers_is_knatives() {
        let spec = r#"{"rules":[{"hosts":["example.com"],"http":{"paths":[{"splits":[{"serviceNamespace":"","serviceName":"blah","servicePort":0,"appendHeaders":{"Foo":"bar"}}]}]}}]}"#;
        assert_eq!(
            hash(spec, "", ""),
            "6b652c7abed871354affd4a9cb699d33816f24541fac942149b91ad872fe63ca"
        );
    }

    #[test]
    fn hash_covers_every_field_in_gos_order_and_escapes() {
        let spec = r#"{"tls":[{"hosts":["a.example.com"],"secretName":"sec","secretNamespace":"ns1"}],"rules":[{"hosts":["a.example.com"],"visibility":"ExternalIP","http":{"paths":[{"path":"/x","rewriteHost":"b.c.svc.cluster.local","headers":{"Knative-Serving-Tag":{"exact":"t<1>&2"}},"splits":[{"serviceNamespace":"ns1","serviceName":"rev-1","servicePort":80,"percent":30,"appendHeaders":{"b":"2","A":"1"}},{"serviceNamespace":"ns1","serviceName":"rev-2","servicePort":"http","percent":70}],"appendHeaders":{"K":"v"}}]}}],"httpOption":"Redirected"}"#;
        assert_eq!(
            hash(spec, "ns1", "route-1"),
            "c9391460cd2c6342c711b7e07a37956c03d36299ea1f006e6e509eda1329c99b"
        );
    }

    #[test]
    fn empty_lists_of_paths_and_splits_are_written_as_null() {
        let spec = IngressSpec {
            rules: vec![IngressRule {
                http: Some(HttpRule {
                    paths: vec![IngressPath::default()],
                }),
                ..IngressRule::default()
            }],
            ..IngressSpec::default()
        };
        assert_eq!(
            spec.to_go_json(),
            r#"{"rules":[{"http":{"paths":[{"splits":null}]}}]}"#
        );
        let again: IngressSpec = serde_json::from_str(&spec.to_go_json()).unwrap();
        assert_eq!(again, spec);
    }

    #[test]
    fn defaults_are_those_of_the_webhook() {
        let mut spec: IngressSpec = serde_json::from_str(
            r#"{"rules":[{"http":{"paths":[{"splits":[{"serviceName":"a"}]}]}}]}"#,
        )
        .unwrap();
        spec.fill_defaults();
        assert_eq!(spec.rules[0].visibility, "ExternalIP");
        assert_eq!(
            spec.rules[0].http.as_ref().unwrap().paths[0].splits[0].percent,
            100
        );
    }
}
