//! The API server, as what installs sees it: objects of any kind, read and written.

use std::collections::HashMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource;
use kube::Client;
use parking_lot::Mutex;
use serde_json::Value;

use super::object::{Name, Object};

/// The name under which Parkway's fields are known to the API server.
pub const FIELD_MANAGER: &str = "parkway";

/// The API server of a cluster.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    /// What was learned of the kinds of each group and version.
    kinds: std::sync::Arc<Mutex<HashMap<String, Vec<APIResource>>>>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").finish_non_exhaustive()
    }
}

/// Why something could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The API server said no.
    #[error("cannot {verb} {object}: {message}")]
    Refused {
        /// What was wanted.
        verb: &'static str,
        /// Of which object.
        object: String,
        /// The status of the answer.
        code: u16,
        /// The API server's words.
        message: String,
    },
    /// There is no such kind of object.
    #[error("the cluster knows no {kind} of {api_version}")]
    NoSuchKind {
        /// Its group and version.
        api_version: String,
        /// The kind.
        kind: String,
    },
    /// There was no answer, or none that could be understood.
    #[error("cannot {verb} {object}: {message}")]
    Failed {
        /// What was wanted.
        verb: &'static str,
        /// Of which object.
        object: String,
        /// What went wrong.
        message: String,
    },
}

impl ApiError {
    /// Whether waiting may help: there was no answer, or one of a server in trouble.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Refused { code, .. } => *code == 429 || *code >= 500,
            Self::NoSuchKind { .. } => false,
            Self::Failed { .. } => true,
        }
    }

    /// Whether somebody else was quicker.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { code: 409, .. })
    }

    /// Whether what it needs is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }

    /// What can be done about it, as far as that can be told.
    pub fn mend(&self) -> Option<String> {
        match self {
            Self::Refused { code: 401, .. } => {
                Some("the cluster does not know the user of this kubeconfig: log in again, or choose another with --kubeconfig or --context".into())
            }
            Self::Refused { code: 403, message, .. } if message.contains("denied the request") => None,
            Self::Refused { code: 403, .. } => Some(
                "run it as a user with the ClusterRole cluster-admin; --dry-run prints what an administrator can apply"
                    .into(),
            ),
            Self::Refused { message, .. } if message.contains("failed calling webhook") => Some(
                "a webhook does not answer: look at its Pods, for Knative's `kubectl -n knative-serving get pods -l app=webhook`"
                    .into(),
            ),
            Self::NoSuchKind { api_version, .. } if api_version.contains("knative.dev") => {
                Some(INSTALL_KNATIVE.into())
            }
            Self::Failed { .. } => Some(
                "look whether the API server can be reached: `kubectl version` with the same --kubeconfig and --context"
                    .into(),
            ),
            _ => None,
        }
    }
}

/// What to do where Knative is missing.
pub(super) const INSTALL_KNATIVE: &str = "install Knative Serving first: `parkway install --knative FILE` does it from a release file, `parkway install --knative-version 1.20.0` prints how to get one";

/// Whether a change is made or only tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Made.
    Change,
    /// The API server says what would come of it, and forgets it.
    Try,
}

impl Cluster {
    /// The cluster behind this client.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            kinds: std::sync::Arc::default(),
        }
    }

    /// The version of the API server.
    ///
    /// # Errors
    ///
    /// When it cannot be reached.
    pub async fn version(&self) -> Result<String, ApiError> {
        let version = self.client.apiserver_version().await;
        let version = version.map_err(|error| failure("read", "the version".into(), error))?;
        Ok(version.git_version)
    }

    /// Reads an object, if it is there.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or there is no such kind.
    pub async fn get(&self, name: &Name) -> Result<Option<Object>, ApiError> {
        let path = self.path(name).await?;
        match self.send("read", name, "GET", path, "", None).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All objects of a kind, in one namespace or all, for which these selectors hold (`labelSelector` and the like).
    ///
    /// # Errors
    ///
    /// When they cannot be read, or there is no such kind.
    pub async fn list(
        &self,
        api_version: &str,
        kind: &str,
        namespace: Option<&str>,
        selectors: &[(&str, &str)],
    ) -> Result<Vec<Object>, ApiError> {
        let mut path = self.collection(api_version, kind, namespace).await?;
        path.push_str(PAGE);
        for (selector, value) in selectors {
            path.push_str(&format!("&{selector}={}", percent_encoded(value)));
        }
        let name = Name {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: String::new(),
        };
        let mut objects = Vec::new();
        let mut page = path.clone();
        loop {
            let list = self.send("list", &name, "GET", page, "", None).await?;
            let next = percent_encoded(list.text("/metadata/continue"));
            for item in list.list("/items") {
                let mut item = item.clone();
                // Items of the kinds that Kubernetes brings along do not repeat what they are.
                item["apiVersion"] = api_version.into();
                item["kind"] = kind.into();
                objects.push(Object(item));
            }
            if next.is_empty() {
                return Ok(objects);
            }
            page = format!("{path}&continue={next}");
        }
    }

    /// Server-side apply: makes the object have these fields, and takes back those that it had from us before.
    ///
    /// # Errors
    ///
    /// When the API server refuses.
    pub async fn apply(
        &self,
        object: &Object,
        manager: &str,
        mode: Mode,
    ) -> Result<Object, ApiError> {
        let name = object.id();
        let path = self.path(&name).await?;
        let path = format!("{path}?fieldManager={manager}&force=true{}", dry(mode));
        let body = Some(&object.0);
        let kind = "application/apply-patch+yaml"; // which JSON is
        self.send("apply", &name, "PATCH", path, kind, body).await
    }

    /// Writes a new object.
    ///
    /// # Errors
    ///
    /// When the API server refuses.
    pub async fn create(&self, object: &Object, mode: Mode) -> Result<Object, ApiError> {
        let name = object.id();
        let namespace = name.namespace.as_deref();
        let path = self
            .collection(&name.api_version, &name.kind, namespace)
            .await?;
        let path = format!("{path}?fieldManager={FIELD_MANAGER}{}", dry(mode));
        self.send("create", &name, "POST", path, JSON, Some(&object.0))
            .await
    }

    /// Writes a whole object in the place of one that has this `resourceVersion`.
    ///
    /// # Errors
    ///
    /// When the API server refuses; a conflict if somebody else was quicker.
    pub async fn replace(&self, object: &Object, mode: Mode) -> Result<Object, ApiError> {
        let name = object.id();
        let path = self.path(&name).await?;
        let path = format!("{path}?fieldManager={FIELD_MANAGER}{}", dry(mode));
        self.send("replace", &name, "PUT", path, JSON, Some(&object.0))
            .await
    }

    /// Changes the fields of an object that the patch names; null removes one (RFC 7396).
    ///
    /// # Errors
    ///
    /// When the API server refuses, or there is no such object.
    pub async fn merge(&self, name: &Name, patch: &Value, mode: Mode) -> Result<Object, ApiError> {
        let path = self.path(name).await?;
        let path = format!("{path}?fieldManager={FIELD_MANAGER}{}", dry(mode));
        let kind = "application/merge-patch+json";
        self.send("change", name, "PATCH", path, kind, Some(patch))
            .await
    }

    /// Deletes an object, and then what it owns; whether there was one.
    ///
    /// # Errors
    ///
    /// When the API server refuses.
    pub async fn delete(&self, name: &Name, mode: Mode) -> Result<bool, ApiError> {
        let path = self.path(name).await?;
        let path = format!("{path}?propagationPolicy=Background{}", dry(mode));
        match self.send("delete", name, "DELETE", path, "", None).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Forgets which kinds there are: more have been defined.
    pub fn forget_kinds(&self) {
        self.kinds.lock().clear();
    }

    /// Whether there is such a kind.
    ///
    /// # Errors
    ///
    /// When that cannot be told.
    pub async fn knows(&self, api_version: &str, kind: &str) -> Result<bool, ApiError> {
        match self.resource(api_version, kind).await {
            Ok(_) => Ok(true),
            Err(ApiError::NoSuchKind { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn path(&self, name: &Name) -> Result<String, ApiError> {
        let namespace = name.namespace.as_deref();
        let collection = self
            .collection(&name.api_version, &name.kind, namespace)
            .await?;
        Ok(format!("{collection}/{}", name.name))
    }

    /// The path of a kind's objects.
    async fn collection(
        &self,
        api_version: &str,
        kind: &str,
        namespace: Option<&str>,
    ) -> Result<String, ApiError> {
        let resource = self.resource(api_version, kind).await?;
        let root = match api_version.contains('/') {
            true => "apis",
            false => "api",
        };
        let plural = &resource.name;
        Ok(match namespace {
            Some(namespace) if resource.namespaced => {
                format!("/{root}/{api_version}/namespaces/{namespace}/{plural}")
            }
            _ => format!("/{root}/{api_version}/{plural}"),
        })
    }

    async fn resource(&self, api_version: &str, kind: &str) -> Result<APIResource, ApiError> {
        let is_kind =
            |resource: &&APIResource| resource.kind == kind && !resource.name.contains('/');
        let no_such_kind = || ApiError::NoSuchKind {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
        };
        if let Some(known) = self.kinds.lock().get(api_version) {
            return known.iter().find(is_kind).cloned().ok_or_else(no_such_kind);
        }
        let listed = match api_version.contains('/') {
            true => self.client.list_api_group_resources(api_version).await,
            false => self.client.list_core_api_resources(api_version).await,
        };
        let resources = match listed {
            Ok(listed) => listed.resources,
            Err(kube::Error::Api(status)) if status.code == 404 => return Err(no_such_kind()),
            Err(error) => {
                let what = format!("the kinds of {api_version}");
                return Err(failure("read", what, error));
            }
        };
        let found = resources.iter().find(is_kind).cloned();
        self.kinds.lock().insert(api_version.to_owned(), resources);
        found.ok_or_else(no_such_kind)
    }

    async fn send(
        &self,
        verb: &'static str,
        name: &Name,
        method: &str,
        path: String,
        content_type: &str,
        body: Option<&Value>,
    ) -> Result<Object, ApiError> {
        let mut request = http::Request::builder().method(method).uri(path);
        if !content_type.is_empty() {
            request = request.header(http::header::CONTENT_TYPE, content_type);
        }
        let what = || match name.name.as_str() {
            "" => format!("objects of kind {}", name.kind),
            _ => name.to_string(),
        };
        let bytes = body.map(Value::to_string).unwrap_or_default().into_bytes();
        let request = request.body(bytes).map_err(|error| ApiError::Failed {
            verb,
            object: what(),
            message: error.to_string(),
        })?;
        let answer = self.client.request::<Value>(request).await;
        answer
            .map(Object)
            .map_err(|error| failure(verb, what(), error))
    }
}

/// How many objects are asked for at once.
const PAGE: &str = "?limit=500";
const JSON: &str = "application/json";

fn dry(mode: Mode) -> &'static str {
    match mode {
        Mode::Change => "",
        Mode::Try => "&dryRun=All",
    }
}

fn failure(verb: &'static str, object: String, error: kube::Error) -> ApiError {
    match error {
        kube::Error::Api(status) => ApiError::Refused {
            verb,
            object,
            code: status.code,
            message: status.message,
        },
        other => ApiError::Failed {
            verb,
            object,
            message: with_sources(&other),
        },
    }
}

/// An error and what it came from: the last says most.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let said = error.to_string();
        if !message.contains(&said) {
            message.push_str(": ");
            message.push_str(&said);
        }
        source = error.source();
    }
    message
}

/// As a value of a query: RFC 3986, section 2.1.
fn percent_encoded(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => write!(encoded, "%{byte:02X}").unwrap_or_default(), // a String takes everything
        }
    }
    encoded
}
