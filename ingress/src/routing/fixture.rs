//! Rules that read aloud, and recorded KIngress objects, for tests.
//!
//! The full translation of KIngress objects is the providers'; this one knows just what the recordings need.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use parkway_activator::revision::RevisionId;
use serde_json::Value;

use super::rules::{Backend, IngressName, IngressRules, PathRule, Rule, Target, Visibility};
use super::split::Splits;

pub(super) type Headers = Vec<(HeaderName, HeaderValue)>;

pub(super) fn ingress(name: &str, rules: Vec<Rule>) -> IngressRules {
    IngressRules {
        name: ingress_name(name),
        hash: format!("hash-of-{name}").into(),
        rules,
        policy: None,
    }
}

pub(super) fn ingress_name(name: &str) -> IngressName {
    IngressName {
        namespace: "shop".into(),
        name: name.into(),
    }
}

pub(super) fn external(hosts: &[&str], paths: Vec<PathRule>) -> Rule {
    Rule {
        hosts: hosts.iter().map(|host| Arc::from(*host)).collect(),
        visibility: Visibility::ExternalIp,
        paths: paths.into_iter().map(Arc::new).collect(),
    }
}

pub(super) fn local(hosts: &[&str], paths: Vec<PathRule>) -> Rule {
    Rule {
        visibility: Visibility::ClusterLocal,
        ..external(hosts, paths)
    }
}

pub(super) fn path(prefix: &str, target: Target) -> PathRule {
    PathRule {
        prefix: prefix.to_owned(),
        headers: Vec::new(),
        rewrite_host: None,
        set_headers: Vec::new(),
        splits: Splits::all_to(backend(target)),
    }
}

pub(super) fn backend(target: Target) -> Backend {
    Backend {
        target,
        set_headers: Vec::new(),
    }
}

pub(super) fn revision(name: &str) -> Target {
    Target::Revision {
        id: RevisionId::new("shop", name),
        spec: Arc::default(),
    }
}

pub(super) fn service(name: &str) -> Target {
    Target::Service {
        id: RevisionId::of_service("shop", name, 80),
        spec: Arc::default(),
    }
}

pub(super) fn ourselves() -> Target {
    Target::External {
        id: RevisionId::of_service("shop", "placeholder", 80),
        host: "parkway-internal.parkway.svc.cluster.local".to_owned(),
        port: 80,
        spec: Arc::default(),
    }
}

/// The path of a DomainMapping: rewrites the host and leads back to us.
pub(super) fn mapping(domain: &str, rewrite_host: &str) -> PathRule {
    PathRule {
        rewrite_host: Some(rewrite_host.to_owned()),
        splits: Splits::all_to(Backend {
            target: ourselves(),
            set_headers: headers(&[("k-original-host", domain)]),
        }),
        ..path("", ourselves())
    }
}

pub(super) fn headers(fields: &[(&str, &str)]) -> Headers {
    let field = |(name, value): &(&str, &str)| (name.parse().unwrap(), value.parse().unwrap());
    fields.iter().map(field).collect()
}

/// Reads a recorded KIngress.
///
/// A split that sets `Knative-Serving-Revision` is for a Revision; one of a path that rewrites the host leads back to us.
pub(super) fn recorded(file: &str) -> IngressRules {
    let path = format!(
        "{}/tests/fixtures/kingress/{file}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let object: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let (metadata, spec) = (&object["metadata"], &object["spec"]);
    IngressRules {
        name: IngressName {
            namespace: text(&metadata["namespace"]).into(),
            name: text(&metadata["name"]).into(),
        },
        hash: format!("hash-of-{file}").into(),
        rules: list(&spec["rules"]).map(rule).collect(),
        policy: None,
    }
}

fn rule(rule: &Value) -> Rule {
    Rule {
        hosts: list(&rule["hosts"]).map(text).map(Arc::from).collect(),
        visibility: match rule["visibility"].as_str() {
            Some("ClusterLocal") => Visibility::ClusterLocal,
            _ => Visibility::ExternalIp,
        },
        paths: list(&rule["http"]["paths"])
            .map(path_rule)
            .map(Arc::new)
            .collect(),
    }
}

fn path_rule(path: &Value) -> PathRule {
    let rewrite_host = path["rewriteHost"].as_str().map(str::to_owned);
    let leads_back = rewrite_host.is_some();
    let split = |split: &Value| {
        let percent = u8::try_from(split["percent"].as_u64().unwrap_or(0)).unwrap();
        let target = if leads_back {
            ourselves()
        } else {
            target(split)
        };
        let set_headers = pairs(&split["appendHeaders"], Value::as_str);
        (
            percent,
            Backend {
                target,
                set_headers,
            },
        )
    };
    PathRule {
        prefix: path["path"].as_str().unwrap_or_default().to_owned(),
        headers: pairs(&path["headers"], |wanted| wanted["exact"].as_str()),
        rewrite_host,
        set_headers: pairs(&path["appendHeaders"], Value::as_str),
        splits: Splits::try_new(list(&path["splits"]).map(split).collect()).unwrap(),
    }
}

fn target(split: &Value) -> Target {
    let namespace = text(&split["serviceNamespace"]);
    match split["appendHeaders"]["Knative-Serving-Revision"].as_str() {
        Some(revision) => Target::Revision {
            id: RevisionId::new(namespace, revision),
            spec: Arc::default(),
        },
        None => Target::Service {
            id: RevisionId::of_service(
                &namespace,
                &text(&split["serviceName"]),
                &split["servicePort"],
            ),
            spec: Arc::default(),
        },
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn pairs(value: &Value, read: impl Fn(&Value) -> Option<&str>) -> Headers {
    let fields = value.as_object().into_iter().flatten();
    fields
        .map(|(name, value)| (name.parse().unwrap(), read(value).unwrap().parse().unwrap()))
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
