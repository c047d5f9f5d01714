//! From the KIngress to rules: which split means a Revision, which an ordinary Service, and where its endpoints are.
//!
//! Knows no YAML and no Kubernetes client, so that files and clusters are translated by the same code. Source of the
//! semantics: knative/networking `pkg/apis/networking/v1alpha1/ingress_types.go` and `ingress_validation.go`; the
//! checks of the webhook are repeated, because a file passes none.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::{Protocol, RevisionId, RevisionSpec};

use super::annotations;
use super::kingress::{IngressPath, IngressRule, IngressSplit, ServicePort};
use super::knative::{NAMESPACE_HEADER, REVISION_HEADER, service_spec};
use super::object::{CoreService, CoreServicePort, EndpointSlice, Ingress, Meta, TargetPort};
use super::problem::Problem;
use super::slices::{SERVICE_NAME_LABEL, endpoints};
use crate::routing::names::{SERVING_NAMESPACE, SERVING_REVISION};
use crate::routing::policy::RoutePolicy;
use crate::routing::rules::{
    Backend, IngressName, IngressRules, PathRule, Rule, Target, Visibility,
};
use crate::routing::split::Splits;

/// `appProtocol` of a port that speaks HTTP/2 by prior knowledge.
const H2C_APP_PROTOCOL: &str = "kubernetes.io/h2c";

/// Endpoints of ordinary Services, by the identity their rules use.
pub type ServiceEndpoints = BTreeMap<RevisionId, (Arc<RevisionSpec>, Vec<Endpoint>)>;

/// Which KIngress has a host, by visibility and host.
type HostOwners<'a> = HashMap<(Visibility, String), &'a Meta>;

/// What splits may refer to.
pub trait Catalogue {
    /// What a Revision promises, if there is such a Revision.
    ///
    /// The id comes back as the catalogue holds it, so that all rules share its text.
    fn revision(&self, id: &RevisionId) -> Option<(&RevisionId, &Arc<RevisionSpec>)>;

    /// An ordinary Service.
    fn service(&self, namespace: &str, name: &str) -> Option<&CoreService>;

    /// The ready endpoints of one of its ports, in the order of their addresses.
    fn endpoints(&self, service: &CoreService, port: &CoreServicePort) -> Vec<Endpoint>;
}

/// A [`Catalogue`] of objects that are all at hand.
#[derive(Clone, Debug, Default)]
pub struct Lookup<'a> {
    services: BTreeMap<(&'a str, &'a str), &'a CoreService>,
    slices: BTreeMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>,
    revisions: BTreeMap<RevisionId, Arc<RevisionSpec>>,
}

/// The rules of every KIngress, in their order, and what they refer to.
#[derive(Clone, Debug, Default)]
pub struct Translation {
    /// The rules, oldest KIngress first.
    pub ingresses: Vec<Arc<IngressRules>>,
    /// For each of the rules, the number its KIngress had, from 0 in the order in which they were given.
    pub numbers: Vec<usize>,
    /// Endpoints of the ordinary Services they name.
    pub services: ServiceEndpoints,
    /// Errors name each KIngress that was left out; warnings tell what is missing or cannot act.
    pub problems: Vec<Problem>,
}

impl<'a> Lookup<'a> {
    /// Services, endpoints and Revisions, to be found by name.
    pub fn new(
        services: impl IntoIterator<Item = &'a CoreService>,
        slices: impl IntoIterator<Item = &'a EndpointSlice>,
        revisions: BTreeMap<RevisionId, Arc<RevisionSpec>>,
    ) -> Self {
        let mut lookup = Self {
            revisions,
            ..Self::default()
        };
        for service in services {
            lookup.services.entry(service.meta.key()).or_insert(service);
        }
        for slice in slices {
            if let Some(name) = slice.meta.labels.get(SERVICE_NAME_LABEL) {
                lookup
                    .slices
                    .entry((&slice.meta.namespace, name))
                    .or_default()
                    .push(slice);
            }
        }
        lookup
    }
}

impl Catalogue for Lookup<'_> {
    fn revision(&self, id: &RevisionId) -> Option<(&RevisionId, &Arc<RevisionSpec>)> {
        self.revisions.get_key_value(id)
    }

    fn service(&self, namespace: &str, name: &str) -> Option<&CoreService> {
        self.services.get(&(namespace, name)).copied()
    }

    fn endpoints(&self, service: &CoreService, port: &CoreServicePort) -> Vec<Endpoint> {
        let slices = self.slices.get(&service.meta.key());
        let slices = slices.map_or(&[][..], Vec::as_slice);
        endpoints(slices, |slice| port_in_slice(port, slice))
    }
}

/// One KIngress, translated.
#[derive(Clone, Debug)]
pub struct Translated {
    /// Its rules. With an error among the problems they are not complete.
    pub rules: IngressRules,
    /// Endpoints of the ordinary Services they name.
    pub services: ServiceEndpoints,
    /// Errors refuse the KIngress; warnings tell what is missing or cannot act.
    pub problems: Vec<Problem>,
}

/// Translates one KIngress; whether its hosts are free is not asked.
pub fn translate_one(ingress: &Ingress, catalogue: &dyn Catalogue) -> Translated {
    let mut translator = Translator {
        ingress,
        catalogue,
        services: BTreeMap::new(),
        problems: Vec::new(),
    };
    let rules = translator.rules();
    Translated {
        rules,
        services: translator.services,
        problems: translator.problems,
    }
}

/// Translates every KIngress, oldest first.
///
/// A KIngress with an error is left out; the others are not affected.
pub fn translate(ingresses: Vec<&Ingress>, lookup: &Lookup<'_>) -> Translation {
    translate_all(ingresses.into_iter().enumerate().collect(), lookup)
}

/// Translates every KIngress, each with a number to know its rules by, oldest first.
pub(crate) fn translate_all(
    mut ingresses: Vec<(usize, &Ingress)>,
    lookup: &Lookup<'_>,
) -> Translation {
    ingresses.sort_by_cached_key(|(_, ingress)| age(&ingress.meta));
    let mut translation = Translation::default();
    let mut owners = HostOwners::new();
    for (number, ingress) in ingresses {
        let mut translated = translate_one(ingress, lookup);
        let is_refused = translated.problems.iter().any(Problem::is_error);
        translation.problems.append(&mut translated.problems);
        if is_refused {
            continue;
        }
        translation.services.append(&mut translated.services);
        let taken = taken_hosts(&ingress.meta, &translated.rules, &mut owners);
        translation.problems.extend(taken);
        translation.ingresses.push(Arc::new(translated.rules));
        translation.numbers.push(number);
    }
    translation
}

/// What puts objects in order, oldest first; those of one second by name; those without a time after them, in the order
/// they were written in.
pub(crate) fn age(meta: &Meta) -> impl Ord {
    let created = meta.created.as_ref();
    let age = created.map(|created| (created.clone(), meta.namespace.clone(), meta.name.clone()));
    (age.is_none(), age)
}

/// One host, two objects: a slip that would otherwise show as requests that arrive elsewhere.
fn taken_hosts<'a>(
    meta: &'a Meta,
    rules: &IngressRules,
    owners: &mut HostOwners<'a>,
) -> Vec<Problem> {
    let mut taken = Vec::new();
    for (index, rule) in rules.rules.iter().enumerate() {
        for (host_index, host) in rule.hosts.iter().enumerate() {
            let owner = *owners
                .entry((rule.visibility, host.to_ascii_lowercase()))
                .or_insert(meta);
            if owner.key() != meta.key() {
                let message = format!(
                    "the host {host} belongs to {}/{}: of several objects the oldest has it",
                    owner.namespace, owner.name
                );
                let field = format!("spec.rules[{index}].hosts[{host_index}]");
                taken.push(meta.origin.problem(field, message).warning());
            }
        }
    }
    taken
}

struct Translator<'a> {
    ingress: &'a Ingress,
    catalogue: &'a dyn Catalogue,
    services: ServiceEndpoints,
    problems: Vec<Problem>,
}

/// Source: knative/networking `pkg/apis/networking/v1alpha1/ingress_types.go`, `HTTPOptionRedirected`.
const REDIRECTED: &str = "Redirected";

impl Translator<'_> {
    fn rules(&mut self) -> IngressRules {
        let meta = &self.ingress.meta;
        let spec = &self.ingress.spec;
        if spec.rules.is_empty() {
            self.refuse("spec.rules", "a KIngress needs a rule", "");
        }
        match spec.http_option.as_str() {
            "" | "Enabled" | REDIRECTED => {}
            _ => self.refuse("spec.httpOption", "this must be Enabled or Redirected", ""),
        }
        for (index, tls) in spec.tls.iter().enumerate() {
            if tls.secret_name.is_empty() || tls.secret_namespace.is_empty() {
                let message = "a tls entry needs a secretName and a secretNamespace";
                self.refuse(&format!("spec.tls[{index}]"), message, "");
            }
        }
        let mut rules: Vec<Rule> = Vec::with_capacity(spec.rules.len());
        for (index, rule) in spec.rules.iter().enumerate() {
            let rule = self.rule(rule, &format!("spec.rules[{index}]"), rules.last());
            rules.push(rule);
        }
        IngressRules {
            name: IngressName {
                namespace: Arc::clone(&meta.namespace),
                name: Arc::clone(&meta.name),
            },
            hash: spec.hash(&meta.namespace, &meta.name).into(),
            rules,
            policy: self.policy(),
        }
    }

    /// What the annotations and `httpOption` ask for. In a cluster nobody is there to mend a mistake at once, and a route is not taken down
    /// for it: what cannot be read is left out.
    fn policy(&mut self) -> Option<Arc<RoutePolicy>> {
        let meta = &self.ingress.meta;
        let (policy, mut problems) = annotations::policy(&meta.annotations, &meta.origin);
        if !meta.origin.is_written() {
            problems = problems.into_iter().map(Problem::warning).collect();
        }
        self.problems.append(&mut problems);
        if self.ingress.spec.http_option != REDIRECTED {
            return policy.map(Arc::new);
        }
        let mut policy = policy.unwrap_or_default();
        policy.redirects = true;
        Some(Arc::new(policy))
    }

    /// A rule; paths that are those of the rule `before` it are the same values.
    fn rule(&mut self, rule: &IngressRule, at: &str, before: Option<&Rule>) -> Rule {
        let written = rule.http.as_ref().map_or(&[][..], |http| &http.paths);
        let mut paths = Vec::with_capacity(written.len());
        for (index, path) in written.iter().enumerate() {
            if let Some(path) = self.path(path, &format!("{at}.http.paths[{index}]")) {
                let like = before.and_then(|before| before.paths.get(paths.len()));
                let like = like.filter(|like| ***like == path);
                paths.push(like.map_or_else(|| Arc::new(path), Arc::clone));
            }
        }
        match &rule.http {
            None => self.refuse(at, "a rule needs http with its paths", ""),
            Some(http) if http.paths.is_empty() => {
                self.refuse(&format!("{at}.http.paths"), "a rule needs a path", "");
            }
            Some(_) => {}
        }
        for (index, host) in rule.hosts.iter().enumerate() {
            if host.is_empty() || host.contains(['/', ' ', '*']) {
                let remedy = "write it without scheme and path; wildcards are not understood";
                self.refuse(
                    &format!("{at}.hosts[{index}]"),
                    "this is not a host name",
                    remedy,
                );
            }
        }
        Rule {
            hosts: rule.hosts.iter().map(|host| host.as_str().into()).collect(),
            visibility: match rule.visibility.as_str() {
                "ClusterLocal" => Visibility::ClusterLocal,
                _ => Visibility::ExternalIp,
            },
            paths,
        }
    }

    /// A path; nothing when it has an error.
    fn path(&mut self, path: &IngressPath, at: &str) -> Option<PathRule> {
        if !path.path.is_empty() && !path.path.starts_with('/') {
            self.warn(
                &format!("{at}.path"),
                "no request path begins with this: they all begin with \"/\"",
            );
        }
        if HeaderValue::try_from(&path.rewrite_host).is_err() {
            self.refuse(&format!("{at}.rewriteHost"), "this is not a host name", "");
        }
        let matches = path
            .headers
            .iter()
            .map(|(name, value)| (name, &value.exact));
        let headers = self.headers(matches, &format!("{at}.headers"));
        let set_headers = self.headers(&path.append_headers, &format!("{at}.appendHeaders"));
        let mut shares = Vec::with_capacity(path.splits.len());
        for (index, split) in path.splits.iter().enumerate() {
            let at = format!("{at}.splits[{index}]");
            shares.push((self.percent(split, &at)?, self.backend(split, &at)?));
        }
        let total: u32 = shares.iter().map(|(percent, _)| u32::from(*percent)).sum();
        if !shares.is_empty() && total != 100 {
            let message = format!("the shares add up to {total}, not to 100");
            self.refuse(
                &format!("{at}.splits"),
                &message,
                "change the percent fields",
            );
            return None;
        }
        match Splits::try_new(shares) {
            Ok(splits) => Some(PathRule {
                prefix: path.path.clone(),
                headers,
                rewrite_host: Some(path.rewrite_host.clone()).filter(|host| !host.is_empty()),
                set_headers,
                splits,
            }),
            Err(error) => {
                self.refuse(&format!("{at}.splits"), &error.to_string(), "");
                None
            }
        }
    }

    fn percent(&mut self, split: &IngressSplit, at: &str) -> Option<u8> {
        match u8::try_from(split.percent) {
            Ok(percent) if percent <= 100 => Some(percent),
            _ => {
                self.refuse(&format!("{at}.percent"), "a share is from 0 to 100", "");
                None
            }
        }
    }

    fn headers<'h>(
        &mut self,
        headers: impl IntoIterator<Item = (&'h String, &'h String), IntoIter: ExactSizeIterator>,
        at: &str,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let headers = headers.into_iter();
        let mut parsed = Vec::with_capacity(headers.len());
        for (name, value) in headers {
            match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                (Ok(name), Ok(value)) => parsed.push((name, value)),
                _ => self.refuse(&format!("{at}[\"{name}\"]"), "this is not a header", ""),
            }
        }
        parsed
    }

    fn backend(&mut self, split: &IngressSplit, at: &str) -> Option<Backend> {
        let namespace = &self.ingress.meta.namespace;
        if split.service_name.is_empty() {
            self.refuse(
                &format!("{at}.serviceName"),
                "a split needs a serviceName",
                "",
            );
            return None;
        }
        let has_port = match &split.service_port {
            ServicePort::Number(number) => *number > 0,
            ServicePort::Name(name) => !name.is_empty(),
        };
        if !has_port {
            let message = "a split needs a servicePort: a number or a name";
            self.refuse(&format!("{at}.servicePort"), message, "");
            return None;
        }
        if *split.service_namespace != **namespace {
            let remedy = format!("write {namespace}");
            let message = "the Service must be in the namespace of the KIngress";
            self.refuse(&format!("{at}.serviceNamespace"), message, &remedy);
            return None;
        }
        let mut set_headers = self.headers(&split.append_headers, &format!("{at}.appendHeaders"));
        let target = self.target(split);
        if let Target::Revision { .. } = &target {
            // They tell an activator which Revision is meant, and are not set where that is known.
            set_headers.retain(|(name, _)| ![SERVING_NAMESPACE, SERVING_REVISION].contains(name));
            set_headers.shrink_to_fit();
        }
        if let Target::Missing { reason } = &target {
            self.warn(
                &format!("{at}.serviceName"),
                &format!("{reason}: requests are answered with 503"),
            );
        }
        Some(Backend {
            target,
            set_headers,
        })
    }

    fn target(&mut self, split: &IngressSplit) -> Target {
        let named = revision_of_headers(split);
        if let Some(id) = &named
            && self.catalogue.revision(id).is_none()
        {
            return missing(format!("there is no Revision {id}"));
        }
        let id = named.unwrap_or_else(|| {
            RevisionId::new(
                split.service_namespace.as_str(),
                split.service_name.as_str(),
            )
        });
        match self.catalogue.revision(&id) {
            Some((id, spec)) => Target::Revision {
                id: id.clone(),
                spec: Arc::clone(spec),
            },
            None => self.service_target(split),
        }
    }

    fn service_target(&mut self, split: &IngressSplit) -> Target {
        let key = (
            split.service_namespace.as_str(),
            split.service_name.as_str(),
        );
        let Some(service) = self.catalogue.service(key.0, key.1) else {
            return missing(format!(
                "there is no Service or Revision {}/{}",
                key.0, key.1
            ));
        };
        let port = service.ports.iter().find(|port| match &split.service_port {
            ServicePort::Number(number) => i64::from(port.port) == *number,
            ServicePort::Name(name) => port.name == *name,
        });
        let spec = service_spec(port.map_or(Protocol::Http1, protocol_of));
        if let Some(host) = &service.external_name {
            let number = match &split.service_port {
                ServicePort::Number(number) => {
                    u16::try_from(*number).ok().filter(|number| *number > 0)
                }
                ServicePort::Name(_) => port.map(|port| port.port),
            };
            return match number {
                Some(port) => Target::External {
                    id: RevisionId::of_service(key.0, key.1, port),
                    host: host.clone(),
                    port,
                    spec,
                },
                None => missing(no_such_port(service, &split.service_port)),
            };
        }
        let Some(port) = port else {
            return missing(no_such_port(service, &split.service_port));
        };
        let id = RevisionId::of_service(key.0, key.1, port.port);
        let endpoints = self.catalogue.endpoints(service, port);
        self.services.insert(id.clone(), (spec.clone(), endpoints));
        Target::Service { id, spec }
    }

    fn refuse(&mut self, field: &str, message: &str, remedy: &str) {
        let problem = self.ingress.meta.origin.problem(field, message);
        self.problems.push(problem.remedy(remedy));
    }

    fn warn(&mut self, field: &str, message: &str) {
        self.problems
            .push(self.ingress.meta.origin.problem(field, message).warning());
    }
}

fn missing(reason: String) -> Target {
    Target::Missing {
        reason: reason.into(),
    }
}

fn no_such_port(service: &CoreService, port: &ServicePort) -> String {
    let ports: Vec<String> = service
        .ports
        .iter()
        .map(|port| format!("{} {}", port.port, port.name))
        .collect();
    let known = ports.join(", ");
    format!(
        "the Service {}/{} has no port {port}, only {}",
        service.meta.namespace,
        service.meta.name,
        known.trim_end()
    )
}

/// The Revision named by the headers that Serving sets on its splits.
fn revision_of_headers(split: &IngressSplit) -> Option<RevisionId> {
    let header = |wanted: &str| {
        let found = split
            .append_headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.as_str())
    };
    let revision = header(REVISION_HEADER)?;
    Some(RevisionId::new(
        header(NAMESPACE_HEADER).unwrap_or(&split.service_namespace),
        revision,
    ))
}

/// What a port speaks: by `appProtocol`, or by the names Knative gives it.
fn protocol_of(port: &CoreServicePort) -> Protocol {
    let is_h2c = port.app_protocol.as_deref() == Some(H2C_APP_PROTOCOL)
        || matches!(port.name.as_str(), "http2" | "h2c");
    if is_h2c {
        Protocol::H2c
    } else {
        Protocol::Http1
    }
}

/// The number a Service's port has in a slice: slices carry the names of the Service's ports.
fn port_in_slice(port: &CoreServicePort, slice: &EndpointSlice) -> Option<u16> {
    let by_name = slice.ports.iter().find(|known| *known.name == *port.name);
    let by_target = || match &port.target {
        Some(TargetPort::Number(number)) => slice.ports.iter().find(|known| known.port == *number),
        Some(TargetPort::Name(name)) => slice.ports.iter().find(|known| *known.name == **name),
        None => slice.ports.iter().find(|known| known.port == port.port),
    };
    by_name.or_else(by_target).map(|known| known.port)
}
