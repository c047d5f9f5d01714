//! The ConfigMaps: which keys act, what they mean, and what holds without them.
//!
//! Source of keys, defaults and rules: knative/networking `pkg/config/config.go`, knative/serving
//! `pkg/apis/config/defaults.go`, `pkg/reconciler/route/config/domain.go` and `pkg/autoscaler/config/config.go`. A key
//! that exists but cannot act here is accepted; one that nobody knows is a warning; `_example` is a comment.

use std::collections::BTreeMap;

use parkway_autoscaler_client::embedded;

use super::document::{self, Value};
use super::names;
use super::object::{ConfigMap, Labels};
use super::problem::{Problem, did_you_mean};
use super::template::HostTemplate;

/// Keys of `config-network` that act.
pub const CONFIG_NETWORK_ACTING_KEYS: [&str; 4] = [
    "default-external-scheme",
    "domain-template",
    "http-protocol",
    "tag-template",
];

/// Keys of `config-network` that choose among components of a cluster, or concern TLS within it.
const CONFIG_NETWORK_INERT_KEYS: [&str; 24] = [
    "auto-tls",
    "autoTLS",
    "autocreate-cluster-domain-claims",
    "autocreateClusterDomainClaims",
    "certificate-class",
    "certificate.class",
    "cluster-local-domain-tls",
    "defaultExternalScheme",
    "domainTemplate",
    "enable-mesh-pod-addressability",
    "external-domain-tls",
    "httpProtocol",
    "ingress-class",
    "ingress.class",
    "internal-encryption",
    "mesh-compatibility-mode",
    "namespace-wildcard-cert-selector",
    "rollout-duration",
    "rolloutDuration",
    "system-internal-tls",
    "system-internal-tls-allow-serve-mode",
    "tagTemplate",
    "dataplane-trust",
    "controlplane-trust",
];

/// Keys of `config-defaults` that act.
pub const CONFIG_DEFAULTS_ACTING_KEYS: [&str; 7] = [
    "allow-container-concurrency-zero",
    "container-concurrency",
    "container-concurrency-max-limit",
    "max-revision-timeout-seconds",
    "revision-idle-timeout-seconds",
    "revision-response-start-timeout-seconds",
    "revision-timeout-seconds",
];

/// Keys of `config-defaults` about resources and names of containers.
const CONFIG_DEFAULTS_INERT_KEYS: [&str; 10] = [
    "container-name-template",
    "enable-service-links",
    "init-container-name-template",
    "pod-runtime-class-name",
    "revision-cpu-limit",
    "revision-cpu-request",
    "revision-ephemeral-storage-limit",
    "revision-ephemeral-storage-request",
    "revision-memory-limit",
    "revision-memory-request",
];

/// Older spellings of the acting keys of `config-network`.
const CONFIG_NETWORK_LEGACY: [(&str, &str); 4] = [
    ("defaultExternalScheme", "default-external-scheme"),
    ("domainTemplate", "domain-template"),
    ("httpProtocol", "http-protocol"),
    ("tagTemplate", "tag-template"),
];

/// The key under which every ConfigMap of Knative carries its documentation.
const EXAMPLE_KEY: &str = "_example";

/// What holds for all Services.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `config-defaults`.
    pub defaults: Defaults,
    /// `config-network`: how host names are built.
    pub domain_template: HostTemplate,
    /// `config-network`: how the name of a tag is built.
    pub tag_template: HostTemplate,
    /// `config-network`: `http-protocol` is `Redirected`.
    pub is_redirected: bool,
    /// `config-network`: scheme of the URLs that are shown.
    pub scheme: String,
    /// `config-domain`: domains and the labels of Services they are for; at least one is for all.
    pub domains: Vec<Domain>,
    /// The acting keys of `config-autoscaler`, with the defaults of the provider's options.
    pub autoscaler: BTreeMap<String, String>,
}

/// `config-defaults`: what a Revision gets that says nothing, and what it may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// `revision-timeout-seconds`. Default 300.
    pub timeout_seconds: u32,
    /// `max-revision-timeout-seconds`. Default 600.
    pub max_timeout_seconds: u32,
    /// `revision-response-start-timeout-seconds`. Default: as long as the timeout, that is, off.
    pub response_start_timeout_seconds: Option<u32>,
    /// `revision-idle-timeout-seconds`. Default 0: off.
    pub idle_timeout_seconds: u32,
    /// `container-concurrency`. Default 0: unlimited.
    pub container_concurrency: u32,
    /// `container-concurrency-max-limit`. Default 1000.
    pub max_container_concurrency: u32,
    /// `allow-container-concurrency-zero`. Default true.
    pub allow_unlimited: bool,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            timeout_seconds: 300,
            max_timeout_seconds: 600,
            response_start_timeout_seconds: None,
            idle_timeout_seconds: 0,
            container_concurrency: 0,
            max_container_concurrency: 1000,
            allow_unlimited: true,
        }
    }
}

/// A domain and the Services it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Labels a Service must have; none: it is for all.
    pub selector: BTreeMap<String, String>,
}

impl Settings {
    /// What holds without any ConfigMap.
    pub fn new(domain: &str, autoscaler: BTreeMap<String, String>) -> Self {
        Self {
            defaults: Defaults::default(),
            domain_template: HostTemplate::default_domain(),
            tag_template: HostTemplate::default_tag(),
            is_redirected: false,
            scheme: "http".to_owned(),
            domains: vec![Domain {
                name: domain.to_owned(),
                selector: BTreeMap::new(),
            }],
            autoscaler,
        }
    }

    /// Takes over what a ConfigMap says. Errors leave the setting as it was.
    pub fn read(&mut self, config: &ConfigMap, problems: &mut Vec<Problem>) {
        let mut reader = Reader { config, problems };
        match &*config.meta.name {
            "config-autoscaler" => reader.autoscaler(self),
            "config-network" => reader.network(self),
            "config-defaults" => reader.defaults(&mut self.defaults),
            "config-domain" => reader.domain(&mut self.domains),
            name => {
                let message = format!("the ConfigMap {name} does not act here");
                problems.push(config.meta.origin.problem("metadata.name", message).note());
            }
        }
    }

    /// The domain of a Service with these labels: the one whose selector asks most; of several, the first by name.
    ///
    /// Source: knative/serving `pkg/reconciler/route/config/domain.go`, `LookupDomainForLabels`.
    pub fn domain_for(&self, labels: &Labels) -> &str {
        let matches = |domain: &&Domain| {
            domain
                .selector
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
        };
        let most_specific = self
            .domains
            .iter()
            .filter(matches)
            .min_by_key(|domain| (std::cmp::Reverse(domain.selector.len()), &domain.name));
        most_specific.map_or("", |domain| &domain.name)
    }
}

struct Reader<'a> {
    config: &'a ConfigMap,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        self.config
            .meta
            .origin
            .problem(format!("data[\"{key}\"]"), message)
    }

    fn warn_of_unknown_keys(&mut self, acting: &[&str], inert: &[&str]) {
        for key in self.config.data.keys() {
            let is_known = acting.contains(&key.as_str())
                || inert.contains(&key.as_str())
                || key == EXAMPLE_KEY;
            if is_known {
                continue;
            }
            let problem =
                self.problem(key, format!("{} has no key {key:?}", self.config.meta.name));
            let all = acting.iter().chain(inert).copied();
            self.problems.push(match did_you_mean(key, all) {
                Some(meant) => problem.warning().remedy(format!("did you mean {meant}?")),
                None => problem.warning().remedy("remove it, or check the spelling"),
            });
        }
    }

    fn autoscaler(&mut self, settings: &mut Settings) {
        self.warn_of_unknown_keys(embedded::ACTING_KEYS, embedded::config::IDLE_KEYS);
        for key in embedded::ACTING_KEYS {
            if let Some(value) = self.config.data.get(*key) {
                settings.autoscaler.insert((*key).to_owned(), value.clone());
            }
        }
    }

    fn network(&mut self, settings: &mut Settings) {
        self.warn_of_unknown_keys(&CONFIG_NETWORK_ACTING_KEYS, &CONFIG_NETWORK_INERT_KEYS);
        let mut values = self.config.data.clone();
        for (legacy, key) in CONFIG_NETWORK_LEGACY {
            if let Some(value) = values.remove(legacy) {
                values.entry(key.to_owned()).or_insert(value);
            }
        }
        for (key, value) in &values {
            if let Err(message) = apply_network(settings, key, value) {
                let problem = self.problem(key, message);
                self.problems.push(problem.value(value));
            }
        }
    }

    fn defaults(&mut self, defaults: &mut Defaults) {
        self.warn_of_unknown_keys(&CONFIG_DEFAULTS_ACTING_KEYS, &CONFIG_DEFAULTS_INERT_KEYS);
        let mut read = *defaults;
        self.number("revision-timeout-seconds", 1, &mut read.timeout_seconds);
        self.number(
            "max-revision-timeout-seconds",
            1,
            &mut read.max_timeout_seconds,
        );
        self.number(
            "revision-idle-timeout-seconds",
            0,
            &mut read.idle_timeout_seconds,
        );
        self.number("container-concurrency", 0, &mut read.container_concurrency);
        self.number(
            "container-concurrency-max-limit",
            1,
            &mut read.max_container_concurrency,
        );
        let mut response_start = 0;
        self.number(
            "revision-response-start-timeout-seconds",
            0,
            &mut response_start,
        );
        read.response_start_timeout_seconds = Some(response_start).filter(|seconds| *seconds > 0);
        if let Some(value) = self.config.data.get("allow-container-concurrency-zero") {
            match value.to_ascii_lowercase().as_str() {
                "true" => read.allow_unlimited = true,
                "false" => read.allow_unlimited = false,
                _ => {
                    let problem = self.problem(
                        "allow-container-concurrency-zero",
                        "this must be \"true\" or \"false\"",
                    );
                    self.problems.push(problem);
                }
            }
        }
        let agree = [
            (
                "revision-timeout-seconds",
                read.timeout_seconds,
                "max-revision-timeout-seconds",
                read.max_timeout_seconds,
            ),
            (
                "revision-response-start-timeout-seconds",
                response_start,
                "revision-timeout-seconds",
                read.timeout_seconds,
            ),
            (
                "container-concurrency",
                read.container_concurrency,
                "container-concurrency-max-limit",
                read.max_container_concurrency,
            ),
        ];
        for (key, value, bound, most) in agree {
            if value > most {
                let problem = self.problem(
                    key,
                    format!("this must not exceed {bound}, which is {most}"),
                );
                self.problems.push(problem.value(value));
            }
        }
        *defaults = read;
    }

    fn number(&mut self, key: &str, least: u32, number: &mut u32) {
        let Some(text) = self.config.data.get(key) else {
            return;
        };
        match text.trim().parse() {
            Ok(read) if read >= least => *number = read,
            _ => {
                let problem = self.problem(
                    key,
                    format!("this must be a whole number, at least {least}"),
                );
                self.problems.push(problem);
            }
        }
    }

    fn domain(&mut self, domains: &mut Vec<Domain>) {
        let mut read = Vec::new();
        for (key, value) in self
            .config
            .data
            .iter()
            .filter(|(key, _)| *key != EXAMPLE_KEY)
        {
            if !names::is_dns_subdomain(key) {
                let problem = self.problem(key, "this is not a domain name");
                self.problems.push(problem);
                continue;
            }
            match read_selector(value) {
                Ok(selector) => read.push(Domain {
                    name: key.clone(),
                    selector,
                }),
                Err(message) => {
                    let problem = self.problem(key, message);
                    self.problems.push(problem.remedy(
                        "leave the value empty, or write \"selector:\" with labels below it",
                    ));
                }
            }
        }
        if read.iter().any(|domain| domain.selector.is_empty()) {
            domains.retain(|domain| !domain.selector.is_empty());
        }
        domains.extend(read);
    }
}

/// `selector:` and the labels below it, as YAML within the value.
fn read_selector(text: &str) -> Result<BTreeMap<String, String>, String> {
    let document = document::read_one("selector", text).map_err(|problem| problem.message)?;
    let Some(document) = document else {
        return Ok(BTreeMap::new());
    };
    let Value::Map(entries) = &document.root.value else {
        return Err("the value must be empty or have a selector".to_owned());
    };
    let mut labels = BTreeMap::new();
    for (key, value) in entries {
        match (key.name.as_str(), &value.value) {
            ("selector", Value::Null) => {}
            ("selector", Value::Map(selector)) => {
                for (label, value) in selector {
                    let Value::String(value) = &value.value else {
                        return Err(format!(
                            "the value of the label {} must be a string",
                            label.name
                        ));
                    };
                    labels.insert(label.name.clone(), value.clone());
                }
            }
            (name, _) => return Err(format!("the value may only have a selector, not {name:?}")),
        }
    }
    Ok(labels)
}

/// Takes over one key of `config-network`.
fn apply_network(settings: &mut Settings, key: &str, value: &str) -> Result<(), String> {
    match key {
        "domain-template" => settings.domain_template = HostTemplate::parse_domain(value)?,
        "tag-template" => settings.tag_template = HostTemplate::parse_tag(value)?,
        "http-protocol" => match value.to_ascii_lowercase().as_str() {
            "enabled" => settings.is_redirected = false,
            "redirected" => settings.is_redirected = true,
            _ => return Err("this must be Enabled or Redirected".to_owned()),
        },
        "default-external-scheme" => match value {
            "http" | "https" => value.clone_into(&mut settings.scheme),
            _ => return Err("this must be http or https".to_owned()),
        },
        _ => {}
    }
    Ok(())
}
