//! Manifests that read aloud: `hello_service("shop").concurrency(1).window(6)`.

use std::fmt::{self, Display};
use std::net::SocketAddr;

/// A Service in the namespace `default` that runs `parkway hello`.
pub fn hello_service(name: &str) -> Service {
    service(name, &["parkway", "hello"])
}

/// A Service in the namespace `default` that runs this command.
pub fn service(name: &str, command: &[&str]) -> Service {
    Service {
        kind: Kind::Service,
        name: name.to_owned(),
        revision: None,
        labels: Vec::new(),
        annotations: Vec::new(),
        asked: Vec::new(),
        template: Vec::new(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        env: Vec::new(),
        port_name: None,
        readiness_path: None,
        traffic: Vec::new(),
    }
}

/// A Service of one Revision, `NAME-00001`, whose endpoints are someone else's.
pub fn revision_with_endpoints(name: &str, endpoints: &[SocketAddr]) -> Manifests {
    with_endpoints(service(name, &[]), endpoints)
}

/// The same with endpoints that speak HTTP/2 by prior knowledge.
pub fn h2c_revision_with_endpoints(name: &str, endpoints: &[SocketAddr]) -> Manifests {
    with_endpoints(service(name, &[]).h2c(), endpoints)
}

/// A Service of one Revision, `NAME-00001`, without a command; its endpoints are these.
pub fn with_endpoints(service: Service, endpoints: &[SocketAddr]) -> Manifests {
    let revision = format!("{}-00001", service.name);
    service
        .command(&[])
        .revision(&revision)
        .and(endpoint_slice(&revision, endpoints))
}

/// The EndpointSlices of a Revision: one for each endpoint, because all endpoints of a slice share a port.
pub fn endpoint_slice(revision: &str, endpoints: &[SocketAddr]) -> Manifests {
    let one = |(index, endpoint): (usize, &SocketAddr)| {
        let (address, port) = (endpoint.ip(), endpoint.port());
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {revision}-{index}\n  \
             namespace: default\n  labels:\n    kubernetes.io/service-name: {revision}-private\n\
             addressType: IPv4\nports:\n  - port: {port}\nendpoints:\n  - addresses: [{address}]\n"
        )
    };
    if endpoints.is_empty() {
        return Manifests(vec![format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {revision}-none\n  \
             namespace: default\n  labels:\n    kubernetes.io/service-name: {revision}-private\n\
             addressType: IPv4\nports: []\nendpoints: []\n"
        )]);
    }
    Manifests(endpoints.iter().enumerate().map(one).collect())
}

/// Several documents of one file.
#[derive(Clone, Debug, Default)]
pub struct Manifests(Vec<String>);

impl Manifests {
    /// These, and one more.
    #[must_use]
    pub fn and(mut self, other: impl Display) -> Self {
        self.0.push(other.to_string());
        self
    }
}

impl Display for Manifests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("---\n"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Service,
    Revision,
}

/// A Knative Service or a Revision, in the namespace `default`.
#[derive(Clone, Debug)]
pub struct Service {
    kind: Kind,
    name: String,
    revision: Option<String>,
    labels: Vec<(String, String)>,
    annotations: Vec<(String, String)>,
    /// Annotations of the Service itself.
    asked: Vec<(String, String)>,
    /// Lines of the Revision's spec.
    template: Vec<String>,
    command: Vec<String>,
    env: Vec<(String, String)>,
    port_name: Option<String>,
    readiness_path: Option<String>,
    /// Documents of `spec.traffic`, each on one line.
    traffic: Vec<String>,
}

impl Service {
    /// The name of its Revision.
    #[must_use]
    pub fn revision(mut self, name: &str) -> Self {
        self.revision = Some(name.to_owned());
        self
    }

    /// `containerConcurrency`: how many requests a process gets at once.
    #[must_use]
    pub fn concurrency(self, limit: u32) -> Self {
        self.template(format!("containerConcurrency: {limit}"))
    }

    /// `timeoutSeconds`: how long a request may take.
    #[must_use]
    pub fn timeout(self, seconds: u32) -> Self {
        self.template(format!("timeoutSeconds: {seconds}"))
    }

    /// `responseStartTimeoutSeconds`: how long a response may take to begin.
    #[must_use]
    pub fn response_start(self, seconds: u32) -> Self {
        self.template(format!("responseStartTimeoutSeconds: {seconds}"))
    }

    /// `idleTimeoutSeconds`: how long a request may go without a byte.
    #[must_use]
    pub fn idle(self, seconds: u32) -> Self {
        self.template(format!("idleTimeoutSeconds: {seconds}"))
    }

    fn template(mut self, line: String) -> Self {
        self.template.push(line);
        self
    }

    /// The stable window in seconds, which is also how long it must be idle to go to zero; at least 6.
    #[must_use]
    pub fn window(self, seconds: u32) -> Self {
        self.scaling("window", format!("{seconds}s"))
    }

    /// No more processes than this.
    #[must_use]
    pub fn max_scale(self, processes: u32) -> Self {
        self.scaling("max-scale", processes)
    }

    /// No fewer processes than this.
    #[must_use]
    pub fn min_scale(self, processes: u32) -> Self {
        self.scaling("min-scale", processes)
    }

    /// An annotation `autoscaling.knative.dev/KEY`.
    #[must_use]
    pub fn scaling(self, key: &str, value: impl Display) -> Self {
        self.annotation(&format!("autoscaling.knative.dev/{key}"), value)
    }

    /// How long a process may take to become ready, in seconds.
    #[must_use]
    pub fn progress_deadline(self, seconds: u32) -> Self {
        self.annotation(
            "serving.knative.dev/progress-deadline",
            format!("{seconds}s"),
        )
    }

    /// An annotation of the Revision.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: impl Display) -> Self {
        self.annotations.push((key.to_owned(), value.to_string()));
        self
    }

    /// An annotation `parkway.dev/NAME` of the Service itself: what its route asks for.
    #[must_use]
    pub fn asks(mut self, name: &str, value: impl Display) -> Self {
        self.asked
            .push((format!("parkway.dev/{name}"), value.to_string()));
        self
    }

    /// How long a process of `parkway hello` waits before it listens.
    #[must_use]
    pub fn start_delay_ms(self, delay_ms: u32) -> Self {
        self.env("START_DELAY_MS", delay_ms)
    }

    /// Never listens, as far as a test is concerned: requests stay parked.
    #[must_use]
    pub fn never_listening(self) -> Self {
        self.start_delay_ms(3_600_000)
    }

    /// Runs this command instead.
    #[must_use]
    pub fn command(mut self, command: &[&str]) -> Self {
        self.command = command.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    pub(crate) fn command_line(&self) -> String {
        self.command.join(" ")
    }

    /// A variable of the process's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Display) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    /// Speaks HTTP/2 by prior knowledge: a port named `h2c`.
    #[must_use]
    pub fn h2c(mut self) -> Self {
        self.port_name = Some("h2c".to_owned());
        self
    }

    /// A process is ready when this path answers.
    #[must_use]
    pub fn readiness(mut self, path: &str) -> Self {
        self.readiness_path = Some(path.to_owned());
        self
    }

    /// A share of the traffic for a Revision by name.
    #[must_use]
    pub fn traffic(mut self, revision: &str, percent: u32) -> Self {
        self.traffic
            .push(format!("{{revisionName: {revision}, percent: {percent}}}"));
        self
    }

    /// A tag for a Revision, which gets a host of its own, and no share.
    #[must_use]
    pub fn tag(mut self, revision: &str, tag: &str) -> Self {
        self.traffic.push(format!(
            "{{revisionName: {revision}, percent: 0, tag: {tag}}}"
        ));
        self
    }

    /// Only for the cluster-local entrance.
    #[must_use]
    pub fn cluster_local(mut self) -> Self {
        self.labels.push((
            "networking.knative.dev/visibility".to_owned(),
            "cluster-local".to_owned(),
        ));
        self
    }

    /// The same as a Revision of the Service `of`, without a Service of its own: an older version that is still there.
    #[must_use]
    pub fn as_revision_of(mut self, of: &str) -> Self {
        self.kind = Kind::Revision;
        self.labels = vec![
            ("serving.knative.dev/service".to_owned(), of.to_owned()),
            (
                "serving.knative.dev/configuration".to_owned(),
                of.to_owned(),
            ),
        ];
        self
    }

    /// This, and one more in the same file.
    #[must_use]
    pub fn and(self, other: impl Display) -> Manifests {
        Manifests(vec![self.to_string()]).and(other)
    }

    fn revision_spec(&self) -> String {
        let mut spec = String::new();
        for line in &self.template {
            spec += &format!("{line}\n");
        }
        spec += "containers:\n  - image: example\n";
        if !self.command.is_empty() {
            spec += &format!("    command: {:?}\n", self.command);
        }
        if !self.env.is_empty() {
            spec += "    env:\n";
        }
        for (name, value) in &self.env {
            spec += &format!("      - {{name: {name}, value: {value:?}}}\n");
        }
        if let Some(name) = &self.port_name {
            spec += &format!("    ports:\n      - {{name: {name}, containerPort: 8080}}\n");
        }
        if let Some(path) = &self.readiness_path {
            spec += &format!("    readinessProbe:\n      httpGet:\n        path: {path:?}\n");
        }
        spec
    }
}

impl Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let map = |name: &str, pairs: &[(String, String)]| {
            let mut text = String::new();
            for (key, value) in pairs {
                text += &format!("  {key}: {value:?}\n");
            }
            if text.is_empty() {
                text
            } else {
                format!("{name}:\n{text}")
            }
        };
        let (labels, annotations) = (
            map("labels", &self.labels),
            map("annotations", &self.annotations),
        );
        if self.kind == Kind::Revision {
            let meta = indented(
                2,
                &format!(
                    "name: {}\nnamespace: default\n{labels}{annotations}",
                    self.name
                ),
            );
            let spec = indented(2, &self.revision_spec());
            return write!(
                f,
                "apiVersion: serving.knative.dev/v1\nkind: Revision\nmetadata:\n{meta}spec:\n{spec}"
            );
        }
        let meta = indented(
            2,
            &format!(
                "name: {}\nnamespace: default\n{labels}{}",
                self.name,
                map("annotations", &self.asked)
            ),
        );
        write!(
            f,
            "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata:\n{meta}spec:\n  template:\n"
        )?;
        let name = self
            .revision
            .as_ref()
            .map(|name| format!("name: {name}\n"))
            .unwrap_or_default();
        if !name.is_empty() || !annotations.is_empty() {
            write!(
                f,
                "    metadata:\n{}",
                indented(6, &format!("{name}{annotations}"))
            )?;
        }
        write!(f, "    spec:\n{}", indented(6, &self.revision_spec()))?;
        if !self.traffic.is_empty() {
            writeln!(f, "  traffic:")?;
        }
        for share in &self.traffic {
            writeln!(f, "    - {share}")?;
        }
        Ok(())
    }
}

fn indented(by: usize, text: &str) -> String {
    text.lines()
        .map(|line| format!("{:by$}{line}\n", ""))
        .collect()
}
