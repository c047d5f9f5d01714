//! `spec.template` of a Service, and the Revision: what runs, and how it is probed.
//!
//! Source of fields and rules: knative/serving `pkg/apis/serving/v1/revision_types.go`, `revision_validation.go`,
//! `pkg/apis/serving/fieldmask.go` and `k8s_validation.go`.

use std::sync::Arc;

use super::super::fields::{Field, Fields};
use super::super::names;
use super::super::problem::Severity;
use super::{Labels, Meta, checked};

/// A Revision that stands in a document of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// What is known about every object.
    pub meta: Meta,
    /// What it promises and runs.
    pub spec: Arc<TemplateSpec>,
}

/// `spec.template` of a Service: what its next Revision will be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevisionTemplate {
    /// The name the Revision is to have; none: one is made from the Service's name and a number.
    pub name: Option<Arc<str>>,
    /// Labels of the Revision.
    pub labels: Labels,
    /// Annotations of the Revision.
    pub annotations: Labels,
    /// What it promises and runs.
    pub spec: Arc<TemplateSpec>,
}

/// What a Revision promises and runs, without defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TemplateSpec {
    /// `containerConcurrency`.
    pub container_concurrency: Option<u32>,
    /// `timeoutSeconds`.
    pub timeout_seconds: Option<u32>,
    /// `responseStartTimeoutSeconds`.
    pub response_start_timeout_seconds: Option<u32>,
    /// `idleTimeoutSeconds`.
    pub idle_timeout_seconds: Option<u32>,
    /// The container that serves.
    pub container: Container,
}

/// The container that serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// `image`; a name only, nothing is pulled.
    pub image: Option<Box<str>>,
    /// `command`.
    pub command: Vec<String>,
    /// `args`.
    pub args: Vec<String>,
    /// `env`, in its order.
    pub env: Vec<(String, String)>,
    /// `workingDir`.
    pub working_dir: Option<Box<str>>,
    /// `ports[0].name`: `h2c`, `http1` or nothing.
    pub port_name: Option<Box<str>>,
    /// `readinessProbe`.
    pub readiness: Option<Box<Probe>>,
}

/// A readiness probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What is asked.
    pub handler: ProbeHandler,
    /// `successThreshold`.
    pub success_threshold: Option<u32>,
    /// `timeoutSeconds`.
    pub timeout_seconds: Option<u32>,
    /// `initialDelaySeconds`.
    pub initial_delay_seconds: Option<u32>,
    /// `periodSeconds`.
    pub period_seconds: Option<u32>,
}

/// What a readiness probe asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeHandler {
    /// The port accepts a connection.
    Tcp,
    /// An HTTP GET succeeds.
    Http {
        /// Path and query.
        path: String,
        /// Further headers.
        headers: Vec<(String, String)>,
    },
    /// A command succeeds.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
}

/// Names Knative sets itself, and refuses in `env`.
///
/// Source: knative/serving `pkg/apis/serving/k8s_validation.go`, `reservedEnvVars`.
pub(crate) const RESERVED_ENV: [&str; 4] = ["PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION"];

/// The port a container listens on when it names none.
const DEFAULT_USER_PORT: i64 = 8080;

pub(super) fn read(mut fields: Fields<'_>, meta: Meta) -> Option<Revision> {
    fields.inert(&["status"]);
    let spec = fields.required("spec", "write the containers below it");
    fields.finish();
    Some(Revision {
        meta,
        spec: Arc::new(read_spec(spec?.fields()?)?),
    })
}

pub(super) fn read_template(template: &Field<'_>, service: &str) -> Option<RevisionTemplate> {
    let mut fields = template.fields()?;
    let (mut name, mut labels, mut annotations) = (None, Labels::default(), Labels::default());
    if let Some(mut metadata) = fields.get("metadata").and_then(|field| field.fields()) {
        name = metadata
            .get("name")
            .and_then(|field| read_name(&field, service));
        labels = metadata.string_map("labels").into();
        annotations = metadata.string_map("annotations").into();
        metadata.inert(&["namespace", "creationTimestamp", "generateName"]);
        metadata.finish();
    }
    let spec = fields.required("spec", "write \"spec:\" with the containers below it");
    fields.finish();
    Some(RevisionTemplate {
        name: name.map(Arc::from),
        labels,
        annotations,
        spec: Arc::new(read_spec(spec?.fields()?)?),
    })
}

/// A Revision's name given by its author: it begins with the Service's.
fn read_name(field: &Field<'_>, service: &str) -> Option<String> {
    let name = checked(field, names::is_dns_1035_label, names::LABEL_1035_RULE)?;
    let rest = name
        .strip_prefix(service)
        .and_then(|rest| rest.strip_prefix('-'));
    if rest.is_some_and(|rest| !rest.is_empty()) {
        return Some(name);
    }
    let problem = field.problem(format!("a Revision's name must begin with \"{service}-\""));
    field.report(problem.remedy(format!("write {service}-{name}, or leave the name out")));
    None
}

fn read_spec(mut spec: Fields<'_>) -> Option<TemplateSpec> {
    let mut read_u32 = |name| spec.get(name).and_then(|field| field.u32(0..=u32::MAX));
    let container_concurrency = read_u32("containerConcurrency");
    let timeout_seconds = read_u32("timeoutSeconds");
    let response_start_timeout_seconds = read_u32("responseStartTimeoutSeconds");
    let idle_timeout_seconds = read_u32("idleTimeoutSeconds");
    let containers = spec.required(
        "containers",
        "write one container with a command or an image",
    );
    let containers = containers.map(|field| (field.items(), field)).unzip();
    spec.inert(&INERT_POD_FIELDS);
    let container = match containers {
        (Some(items), Some(field)) => read_containers(&field, &items, &mut spec),
        _ => None,
    };
    spec.finish();
    Some(TemplateSpec {
        container_concurrency,
        timeout_seconds,
        response_start_timeout_seconds,
        idle_timeout_seconds,
        container: container?,
    })
}

/// Fields of a Pod that concern the cluster it runs in.
const INERT_POD_FIELDS: [&str; 22] = [
    "affinity",
    "automountServiceAccountToken",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "hostAliases",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "imagePullSecrets",
    "nodeSelector",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "resourceClaims",
    "restartPolicy",
    "runtimeClassName",
    "schedulerName",
    "securityContext",
    "serviceAccountName",
    "tolerations",
    "topologySpreadConstraints",
];

/// The container that serves, out of one or several, and what only a Pod could do beside it.
fn read_containers(
    field: &Field<'_>,
    items: &[Field<'_>],
    spec: &mut Fields<'_>,
) -> Option<Container> {
    if items.is_empty() {
        field.report(
            field
                .problem("there must be a container")
                .remedy("write one with a command or an image"),
        );
        return None;
    }
    let serving = items
        .iter()
        .position(|item| has_field(item, "ports"))
        .unwrap_or(0);
    // What is not run here (an image whose endpoints are someone else's) may ask for what cannot be had here.
    let severity = if items.iter().any(|item| has_field(item, "command")) {
        Severity::Error
    } else {
        Severity::Warning
    };
    if items.len() > 1 {
        let problem = field.problem("only one container is run here, the one with a port");
        let remedy = "start the others on their own, or leave them out";
        field.report(problem.severity(severity).remedy(remedy));
    }
    let volumes = "volumes are not mounted here";
    spec.cannot_act(
        "volumes",
        severity,
        volumes,
        "a local process sees your files: use paths and workingDir",
    );
    let init = "initContainers are not run here";
    spec.cannot_act(
        "initContainers",
        severity,
        init,
        "run them beforehand, or in the command",
    );
    read_container(items.get(serving)?.fields()?, severity)
}

fn has_field(item: &Field<'_>, name: &str) -> bool {
    use super::super::document::Value;
    match &item.node().value {
        Value::Map(entries) => entries
            .iter()
            .any(|(key, value)| key.name == name && !matches!(&value.value, Value::Null)),
        _ => false,
    }
}

fn read_container(mut fields: Fields<'_>, severity: Severity) -> Option<Container> {
    let image = fields.string("image");
    let command = fields.strings("command");
    let args = fields.strings("args");
    let env = fields
        .items("env")
        .iter()
        .filter_map(|item| read_env(item, severity))
        .collect();
    let working_dir = fields.string("workingDir");
    let port = fields.get("ports").and_then(|field| read_ports(&field));
    let readiness = fields
        .get("readinessProbe")
        .and_then(|field| read_probe(field.fields()?, port.as_ref()));
    let remedy = "write the values below env";
    fields.cannot_act(
        "envFrom",
        severity,
        "envFrom takes values from a cluster",
        remedy,
    );
    let remedy = "a local process sees your files: use paths and workingDir";
    fields.cannot_act(
        "volumeMounts",
        severity,
        "volumes are not mounted here",
        remedy,
    );
    fields.cannot_act(
        "volumeDevices",
        severity,
        "volumes are not mounted here",
        remedy,
    );
    fields.inert(&INERT_CONTAINER_FIELDS);
    if image.is_none() && command.is_empty() {
        let problem = fields.problem("there is nothing to run: neither a command nor an image");
        fields.report(
            problem.remedy("add command: [program, argument], which is run as a local process"),
        );
    }
    fields.finish();
    Some(Container {
        image: image.map(String::into_boxed_str),
        command,
        args,
        env,
        working_dir: working_dir.map(String::into_boxed_str),
        port_name: port.and_then(|port| port.name).map(String::into_boxed_str),
        readiness: readiness.map(Box::new),
    })
}

/// Fields of a container that concern the cluster it runs in, and probes that restart it: a process that ends is
/// started anew, one that hangs is not noticed.
const INERT_CONTAINER_FIELDS: [&str; 14] = [
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "name",
    "resizePolicy",
    "resources",
    "restartPolicy",
    "securityContext",
    "startupProbe",
    "stdin",
    "stdinOnce",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
];

fn read_env(item: &Field<'_>, severity: Severity) -> Option<(String, String)> {
    let mut fields = item.fields()?;
    let name = fields.required("name", "every variable has a name");
    let value = fields.string("value").unwrap_or_default();
    let remedy = "write the value itself: value: \"…\"";
    fields.cannot_act(
        "valueFrom",
        severity,
        "valueFrom takes the value from a cluster",
        remedy,
    );
    fields.finish();
    let name_field = name?;
    let name = name_field.string()?;
    if RESERVED_ENV.contains(&name.as_str()) {
        let problem = name_field.problem(format!("{name} is set by Parkway itself"));
        name_field
            .report(problem.remedy("remove it; the command reads the port to listen on from PORT"));
        return None;
    }
    if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
        name_field.report(
            name_field.problem("this cannot be the name or value of an environment variable"),
        );
        return None;
    }
    Some((name, value))
}

/// The one port a container may have.
struct Port {
    name: Option<String>,
    number: Option<i64>,
}

fn read_ports(ports: &Field<'_>) -> Option<Port> {
    let items = ports.items();
    if let Some(second) = items.get(1) {
        let problem = second.problem("a Revision listens on one port only");
        second.report(problem.remedy("keep the one that serves requests"));
    }
    let mut fields = items.first()?.fields()?;
    let number = fields
        .get("containerPort")
        .and_then(|field| field.integer(0..=65535));
    let name = fields
        .get("name")
        .and_then(|field| field.word(&["h2c", "http1", ""]));
    if let Some(protocol) = fields.get("protocol") {
        protocol.word(&["TCP", ""]);
    }
    fields.inert(&["hostPort", "hostIP"]);
    fields.finish();
    Some(Port {
        name: name.filter(|name| !name.is_empty()),
        number: number.filter(|number| *number > 0),
    })
}

fn read_probe(mut fields: Fields<'_>, port: Option<&Port>) -> Option<Probe> {
    let mut read_u32 = |name| fields.get(name).and_then(|field| field.u32(0..=u32::MAX));
    let success_threshold = read_u32("successThreshold");
    let timeout_seconds = read_u32("timeoutSeconds");
    let initial_delay_seconds = read_u32("initialDelaySeconds");
    let period_seconds = read_u32("periodSeconds");
    let handlers = [
        fields
            .get("tcpSocket")
            .and_then(|field| read_tcp(&field, port)),
        fields
            .get("httpGet")
            .and_then(|field| read_http(&field, port)),
        fields.get("exec").and_then(|field| read_exec(&field)),
        fields.get("grpc").and_then(|field| read_grpc(&field)),
    ];
    let mut handlers = handlers.into_iter().flatten();
    let handler = handlers.next();
    if handlers.next().is_some() {
        fields.report(
            fields
                .problem("a probe asks one thing only")
                .remedy("keep one of tcpSocket, httpGet and exec"),
        );
    }
    fields.inert(&["failureThreshold", "terminationGracePeriodSeconds"]);
    fields.finish();
    Some(Probe {
        handler: handler.unwrap_or(ProbeHandler::Tcp),
        success_threshold,
        timeout_seconds,
        initial_delay_seconds,
        period_seconds,
    })
}

fn read_tcp(field: &Field<'_>, port: Option<&Port>) -> Option<ProbeHandler> {
    let mut fields = field.fields()?;
    read_probe_target(&mut fields, port);
    fields.finish();
    Some(ProbeHandler::Tcp)
}

fn read_http(field: &Field<'_>, port: Option<&Port>) -> Option<ProbeHandler> {
    let mut fields = field.fields()?;
    read_probe_target(&mut fields, port);
    let path = fields.string("path").filter(|path| !path.is_empty());
    let headers = fields
        .items("httpHeaders")
        .iter()
        .filter_map(read_header)
        .collect();
    if let Some(scheme) = fields.get("scheme")
        && scheme
            .word(&["HTTP", "HTTPS", ""])
            .is_some_and(|word| word == "HTTPS")
    {
        scheme.report(
            scheme
                .problem("a local process is probed without TLS")
                .remedy("write HTTP"),
        );
    }
    fields.finish();
    let path = path.unwrap_or_else(|| "/".to_owned());
    Some(ProbeHandler::Http {
        path: if path.starts_with('/') {
            path
        } else {
            format!("/{path}")
        },
        headers,
    })
}

fn read_header(item: &Field<'_>) -> Option<(String, String)> {
    let mut fields = item.fields()?;
    let name = fields.required("name", "every header has a name");
    let value = fields.string("value").unwrap_or_default();
    fields.finish();
    let name = name?;
    let text = name.string()?;
    let is_header =
        http::HeaderName::try_from(&text).is_ok() && http::HeaderValue::try_from(&value).is_ok();
    if !is_header {
        name.report(name.problem("this is not a header"));
        return None;
    }
    Some((text, value))
}

fn read_exec(field: &Field<'_>) -> Option<ProbeHandler> {
    let mut fields = field.fields()?;
    let command = fields.strings("command");
    fields.finish();
    if command.is_empty() {
        field.report(
            field
                .problem("there is no command to run")
                .remedy("add command: [program, argument]"),
        );
        return None;
    }
    Some(ProbeHandler::Exec { command })
}

fn read_grpc(field: &Field<'_>) -> Option<ProbeHandler> {
    let mut fields = field.fields()?;
    fields.inert(&["port", "service"]);
    fields.finish();
    let problem = field.problem(
        "gRPC health is not asked here: the process counts as ready when its port accepts",
    );
    field.report(problem.warning());
    Some(ProbeHandler::Tcp)
}

/// Port and host of a probe: only the port that serves can be probed, on the process itself.
fn read_probe_target(fields: &mut Fields<'_>, port: Option<&Port>) {
    use super::super::document::Value;
    if let Some(host) = fields.get("host")
        && host.string().is_some_and(|host| !host.is_empty())
    {
        host.report(
            host.problem("only the process itself is probed")
                .remedy("remove the host"),
        );
    }
    let Some(field) = fields.get("port") else {
        return;
    };
    let serving = port
        .and_then(|port| port.number)
        .unwrap_or(DEFAULT_USER_PORT);
    let is_serving_port = match &field.node().value {
        Value::Int(number) => *number == 0 || *number == serving,
        Value::String(name) => port.is_some_and(|port| port.name.as_ref() == Some(name)),
        _ => false,
    };
    if !is_serving_port {
        let problem = field.problem("only the port that serves requests is probed");
        field.report(problem.remedy("leave the port out, or write 0"));
    }
}
