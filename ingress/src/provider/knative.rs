//! What Knative's controllers would make of a Service: Revisions and a KIngress.
//!
//! Source: knative/serving `pkg/reconciler/route/resources/ingress.go`, `pkg/reconciler/route/traffic/traffic.go` and
//! `pkg/reconciler/route/domains/domains.go`; defaults as in `pkg/apis/serving/v1/revision_defaults.go`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parkway_activator::revision::{
    ContainerConcurrency, Protocol, RevisionId, RevisionSpec, Timeouts,
};

use super::kingress::{HttpRule, IngressPath, IngressRule, IngressSpec, IngressSplit, ServicePort};
use super::names::{self, go_duration};
use super::object::{
    CoreService, CoreServicePort, Ingress, Labels, Meta, Probe, ProbeHandler, Service, TemplateSpec,
};
use super::problem::{Origin, Problem};
use super::settings::{Defaults, Settings};
use super::template::HostValues;
use super::{Options, ServiceUrl};
use crate::routing::timeout::NEVER;
use crate::workload::{Readiness, ReadinessCheck, Workload};

/// The label that keeps a Service away from the external entrance.
pub(crate) const VISIBILITY_LABEL: &str = "networking.knative.dev/visibility";
/// Its only value.
pub(crate) const CLUSTER_LOCAL: &str = "cluster-local";
/// Headers that say which Revision a split means.
///
/// Source: knative/serving `pkg/activator/constants.go`.
pub(crate) const REVISION_HEADER: &str = "Knative-Serving-Revision";
/// The namespace of that Revision.
pub(crate) const NAMESPACE_HEADER: &str = "Knative-Serving-Namespace";

/// How long a Revision may take to become ready when it says nothing: `progress-deadline` of config-deployment.
const DEFAULT_PROGRESS_DEADLINE: Duration = Duration::from_secs(600);
const PROGRESS_DEADLINE: [&str; 2] = [
    "serving.knative.dev/progress-deadline",
    "serving.knative.dev/progressDeadline",
];
const HTTP_PROTOCOL: [&str; 2] = [
    "networking.knative.dev/http-protocol",
    "networking.knative.dev/httpOption",
];

/// One share of a Service's traffic, with the Revision that gets it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RoutedTarget {
    /// Name of the Revision.
    pub(crate) revision: Arc<str>,
    /// Its share in percent.
    pub(crate) percent: u8,
    /// The tag it can be reached under.
    pub(crate) tag: Option<Arc<str>>,
}

/// What a Revision promises, with the defaults filled in and its limits checked.
///
/// `spec_path` is where the fields stand in the object, for the problems.
///
/// # Errors
///
/// For each value out of its range.
pub(crate) fn revision_spec(
    spec: &TemplateSpec,
    defaults: &Defaults,
    origin: &Origin,
    spec_path: &str,
) -> Result<RevisionSpec, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut refuse = |field: &str, message: String, remedy: &str| {
        problems.push(
            origin
                .problem(format!("{spec_path}.{field}"), message)
                .remedy(remedy),
        );
    };
    let concurrency = spec
        .container_concurrency
        .unwrap_or(defaults.container_concurrency);
    if concurrency > defaults.max_container_concurrency {
        let message = format!(
            "this must be from 0 to {}",
            defaults.max_container_concurrency
        );
        refuse(
            "containerConcurrency",
            message,
            "0 is unlimited; config-defaults sets the bound with container-concurrency-max-limit",
        );
    }
    if concurrency == 0 && !defaults.allow_unlimited {
        let message =
            "0 is not allowed: config-defaults says allow-container-concurrency-zero: \"false\""
                .to_owned();
        refuse("containerConcurrency", message, "write a number from 1");
    }
    let most = defaults.max_timeout_seconds;
    let total = spec
        .timeout_seconds
        .filter(|seconds| *seconds > 0)
        .unwrap_or(defaults.timeout_seconds);
    if total > most {
        let message = format!("this must be from 0 to {most}");
        refuse(
            "timeoutSeconds",
            message,
            "config-defaults sets the bound with max-revision-timeout-seconds",
        );
    }
    let idle = spec
        .idle_timeout_seconds
        .unwrap_or(defaults.idle_timeout_seconds);
    if idle > most {
        let message = format!("this must be from 0 to {most}");
        refuse(
            "idleTimeoutSeconds",
            message,
            "config-defaults sets the bound with max-revision-timeout-seconds",
        );
    }
    let response_start = spec
        .response_start_timeout_seconds
        .filter(|seconds| *seconds > 0);
    if response_start.is_some_and(|seconds| seconds > total) {
        let message = format!("this must not exceed timeoutSeconds, which is {total}");
        refuse("responseStartTimeoutSeconds", message, "");
    }
    // The default is written into a Revision only when it is strictly below its timeout.
    let default_response_start = defaults
        .response_start_timeout_seconds
        .filter(|seconds| *seconds < total);
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(RevisionSpec {
        concurrency: ContainerConcurrency::from(concurrency),
        protocol: match spec.container.port_name.as_deref() {
            Some("h2c") => Protocol::H2c,
            _ => Protocol::Http1,
        },
        timeouts: Timeouts {
            total: seconds(total),
            response_start: response_start.or(default_response_start).map(seconds),
            idle: Some(idle).filter(|idle| *idle > 0).map(seconds),
        },
        ..RevisionSpec::default()
    })
}

/// What to run for a Revision; nothing when it has no command.
///
/// # Errors
///
/// When an annotation about its start cannot be understood.
pub(crate) fn workload(
    id: &RevisionId,
    spec: &TemplateSpec,
    revision: &RevisionSpec,
    annotations: &Labels,
    origin: &Origin,
    annotations_path: &str,
) -> Result<Option<Workload>, Box<Problem>> {
    let progress_deadline = progress_deadline(annotations, origin, annotations_path)?;
    let container = &spec.container;
    if container.command.is_empty() {
        return Ok(None);
    }
    let folder = Path::new(origin.file()).parent().unwrap_or(Path::new(""));
    Ok(Some(Workload {
        revision: id.clone(),
        service: revision.service.to_string(),
        configuration: revision.configuration.to_string(),
        command: container.command.clone(),
        args: container.args.clone(),
        env: container.env.clone(),
        working_dir: container
            .working_dir
            .as_ref()
            .map(|dir| folder.join(&**dir)),
        protocol: revision.protocol,
        readiness: container
            .readiness
            .as_deref()
            .map(readiness)
            .unwrap_or_default(),
        progress_deadline,
        termination_grace: revision.timeouts.total,
    }))
}

fn progress_deadline(
    annotations: &Labels,
    origin: &Origin,
    annotations_path: &str,
) -> Result<Duration, Box<Problem>> {
    let Some((key, text)) = PROGRESS_DEADLINE
        .iter()
        .find_map(|key| Some((*key, annotations.get(key)?)))
    else {
        return Ok(DEFAULT_PROGRESS_DEADLINE);
    };
    match go_duration(text).filter(|deadline| !deadline.is_zero()) {
        Some(deadline) => Ok(deadline),
        None => {
            let path = format!("{annotations_path}[\"{key}\"]");
            let problem = origin.problem(path, "this is not a duration above zero");
            Err(problem.remedy("write one such as 90s or 10m").into())
        }
    }
}

fn readiness(probe: &Probe) -> Readiness {
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    Readiness {
        check: match &probe.handler {
            ProbeHandler::Tcp => ReadinessCheck::Tcp,
            ProbeHandler::Http { path, headers } => ReadinessCheck::Http {
                path: path.clone(),
                headers: headers.clone(),
            },
            ProbeHandler::Exec { command } => ReadinessCheck::Exec {
                command: command.clone(),
            },
        },
        successes: probe.success_threshold.unwrap_or(1).max(1),
        timeout: seconds(probe.timeout_seconds.unwrap_or(1).max(1)),
        initial_delay: seconds(probe.initial_delay_seconds.unwrap_or(0)),
        period: seconds(probe.period_seconds.unwrap_or(0)),
    }
}

/// The KIngress of a Service, the URLs it answers at, and the Services other KIngress objects may name it by.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) ingress: Ingress,
    pub(crate) urls: Vec<Arc<ServiceUrl>>,
    /// `<service>` and `<tag>-<service>`: names for the way back through the ingress, which a DomainMapping takes.
    pub(crate) placeholders: Vec<CoreService>,
}

/// What the Route reconciler makes of a Service whose traffic goes to `targets`.
///
/// # Errors
///
/// When a template makes something that is no host name.
pub(crate) fn route(
    service: &Service,
    targets: &[RoutedTarget],
    settings: &Settings,
    options: &Options,
    protocol_of: &dyn Fn(&str) -> Protocol,
) -> Result<Route, Box<Problem>> {
    let domain = settings.domain_for(&service.meta.labels);
    let local_domain = format!("svc.{}", options.cluster_domain);
    let is_local = service
        .meta
        .labels
        .get(VISIBILITY_LABEL)
        .is_some_and(|value| value == CLUSTER_LOCAL)
        || domain == local_domain;
    let builder = RouteBuilder {
        service,
        settings,
        protocol_of,
        local_domain,
        domain: (!is_local).then_some(domain),
    };
    let mut tags: Vec<&Arc<str>> = targets
        .iter()
        .filter_map(|target| target.tag.as_ref())
        .collect();
    tags.sort_unstable();
    let mut route = builder.empty(1 + tags.len());
    builder.add(&mut route, None, &consolidated(targets))?;
    for tag in tags {
        let tagged = targets
            .iter()
            .find(|target| target.tag.as_ref() == Some(tag));
        let whole = tagged.map(|target| (Arc::clone(&target.revision), 100));
        builder.add(&mut route, Some(tag), whole.as_slice())?;
    }
    Ok(route)
}

/// The shares of the default host: those of one Revision added up, those of nothing left out.
///
/// Source: knative/serving `pkg/reconciler/route/traffic/traffic.go`, `consolidate`.
fn consolidated(targets: &[RoutedTarget]) -> Vec<(Arc<str>, u8)> {
    let mut shares: Vec<(Arc<str>, u8)> = Vec::with_capacity(targets.len());
    for target in targets.iter().filter(|target| target.percent > 0) {
        match shares
            .iter_mut()
            .find(|(revision, _)| *revision == target.revision)
        {
            Some((_, percent)) => *percent = percent.saturating_add(target.percent),
            None => shares.push((target.revision.clone(), target.percent)),
        }
    }
    shares
}

struct RouteBuilder<'a> {
    service: &'a Service,
    settings: &'a Settings,
    protocol_of: &'a dyn Fn(&str) -> Protocol,
    /// `svc.cluster.local`.
    local_domain: String,
    /// The external domain; none for a cluster-local Service.
    domain: Option<&'a str>,
}

impl RouteBuilder<'_> {
    fn empty(&self, names: usize) -> Route {
        let meta = &self.service.meta;
        let chosen = HTTP_PROTOCOL
            .iter()
            .find_map(|key| meta.annotations.get(key));
        let is_redirected = chosen.map_or(self.settings.is_redirected, |value| {
            value.eq_ignore_ascii_case("redirected")
        });
        Route {
            ingress: Ingress {
                meta: meta.clone(),
                spec: IngressSpec {
                    http_option: if is_redirected {
                        "Redirected"
                    } else {
                        "Enabled"
                    }
                    .to_owned(),
                    ..IngressSpec::default()
                },
            },
            urls: Vec::with_capacity(names),
            placeholders: Vec::with_capacity(names),
        }
    }

    /// Adds the rules, URLs and placeholder of the default host, or of a tag.
    fn add(
        &self,
        route: &mut Route,
        tag: Option<&Arc<str>>,
        shares: &[(Arc<str>, u8)],
    ) -> Result<(), Box<Problem>> {
        let namespace = &self.service.meta.namespace;
        let service = &self.service.meta.name;
        let name = match tag {
            None => service.to_string(),
            Some(tag) => {
                let values = HostValues {
                    name: service,
                    tag,
                    ..HostValues::default()
                };
                self.settings.tag_template.fill(values)
            }
        };
        let local_host = self.checked(format!("{name}.{namespace}.{}", self.local_domain), tag)?;
        let local_hosts = vec![
            format!("{name}.{namespace}"),
            format!("{name}.{namespace}.svc"),
            local_host.clone(),
        ];
        let path = IngressPath {
            splits: shares
                .iter()
                .map(|(revision, percent)| self.split(revision, *percent))
                .collect(),
            ..IngressPath::default()
        };
        let rule = |hosts: Vec<String>, visibility: &str| IngressRule {
            hosts,
            visibility: visibility.to_owned(),
            http: Some(HttpRule {
                paths: vec![path.clone()],
            }),
        };
        route
            .ingress
            .spec
            .rules
            .push(rule(local_hosts, "ClusterLocal"));
        let mut host = local_host.clone();
        if let Some(domain) = self.domain {
            let values = HostValues {
                name: &name,
                namespace,
                domain,
                tag: tag.map_or("", |tag| tag),
            };
            host = self.checked(self.settings.domain_template.fill(values), tag)?;
            route
                .ingress
                .spec
                .rules
                .push(rule(vec![host.clone()], "ExternalIP"));
        }
        let scheme = if self.domain.is_some() {
            self.settings.scheme.as_str()
        } else {
            "http"
        };
        route.urls.push(Arc::new(ServiceUrl {
            namespace: Arc::clone(namespace),
            service: Arc::clone(service),
            url: format!("{scheme}://{host}").into(),
            tag: tag.map(Arc::clone),
            is_cluster_local: self.domain.is_none(),
            shares: shares.into(),
        }));
        route.placeholders.push(self.placeholder(&name, local_host));
        Ok(())
    }

    fn split(&self, revision: &str, percent: u8) -> IngressSplit {
        let namespace = &self.service.meta.namespace;
        let port = match (self.protocol_of)(revision) {
            Protocol::Http1 => 80,
            Protocol::H2c => 81,
        };
        IngressSplit {
            service_namespace: namespace.to_string(),
            service_name: revision.to_owned(),
            service_port: ServicePort::Number(port),
            percent: percent.into(),
            append_headers: BTreeMap::from([
                (NAMESPACE_HEADER.to_owned(), namespace.to_string()),
                (REVISION_HEADER.to_owned(), revision.to_owned()),
            ]),
        }
    }

    fn placeholder(&self, name: &str, host: String) -> CoreService {
        let meta = &self.service.meta;
        CoreService {
            meta: Meta::new(Arc::clone(&meta.namespace), name, meta.origin.clone()),
            external_name: Some(host),
            ports: vec![CoreServicePort {
                name: "http2".to_owned(),
                port: 80,
                ..CoreServicePort::default()
            }],
        }
    }

    /// A host name made from templates, if it is one.
    fn checked(&self, host: String, tag: Option<&Arc<str>>) -> Result<String, Box<Problem>> {
        if names::is_dns_subdomain(&host) && host.split('.').all(names::is_dns_label) {
            return Ok(host);
        }
        let field = if tag.is_some() {
            "spec.traffic"
        } else {
            "metadata.name"
        };
        let problem = self
            .service
            .meta
            .origin
            .problem(field, format!("{host:?} would not be a host name"));
        let remedy =
            "shorten the name or the tag: each part of a host name has at most 63 characters";
        Err(problem.remedy(remedy).into())
    }
}

/// The spec of an ordinary Service's endpoints: unlimited, with no deadline of its own.
pub(crate) fn service_spec(protocol: Protocol) -> Arc<RevisionSpec> {
    Arc::new(RevisionSpec {
        protocol,
        timeouts: Timeouts {
            total: NEVER,
            response_start: None,
            idle: None,
        },
        ..RevisionSpec::default()
    })
}
