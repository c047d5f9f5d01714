//! The kinds of objects that the double serves.

/// A kind of object: its names, and by which rules the API server changes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Group; empty for the core group.
    pub group: String,
    /// Version; the double serves one for each kind.
    pub version: String,
    /// The kind's name in objects: `Ingress`.
    pub kind: String,
    /// The kind's name in paths: `ingresses`.
    pub plural: String,
    /// Its objects are in namespaces.
    pub is_namespaced: bool,
    /// `status` is written apart, through the subresource of that name.
    pub has_status: bool,
    /// `metadata.generation` counts the changes of what is neither `metadata` nor `status`.
    pub has_generation: bool,
    /// An update may leave `resourceVersion` out and then replaces whatever is there (`AllowUnconditionalUpdate` of
    /// the kind's strategy in Kubernetes).
    pub may_update_blindly: bool,
    /// It comes from a CustomResourceDefinition: items of its lists repeat `apiVersion` and `kind`, and a list always
    /// has a `continue`, as the recordings show.
    pub is_custom: bool,
}

impl Kind {
    /// A kind from a CustomResourceDefinition: namespaced, with `status` and `generation`.
    ///
    /// Source: `customresource/strategy.go` of kubernetes/apiextensions-apiserver `pkg/registry`: the generation moves
    /// with anything but metadata and status; unconditional updates are not allowed.
    pub fn custom(api_version: &str, kind: &str, plural: &str) -> Self {
        Self {
            has_status: true,
            has_generation: true,
            may_update_blindly: false,
            is_custom: true,
            ..Self::built_in(api_version, kind, plural)
        }
    }

    /// A kind that Kubernetes brings along: namespaced, without `status` and `generation`.
    pub fn built_in(api_version: &str, kind: &str, plural: &str) -> Self {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Self {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
            is_namespaced: true,
            has_status: false,
            has_generation: false,
            may_update_blindly: true,
            is_custom: false,
        }
    }

    /// With a `status` subresource.
    #[must_use]
    pub fn with_status(self) -> Self {
        Self {
            has_status: true,
            ..self
        }
    }

    /// With a `metadata.generation`.
    #[must_use]
    pub fn with_generation(self) -> Self {
        Self {
            has_generation: true,
            ..self
        }
    }

    /// Not in namespaces.
    #[must_use]
    pub fn cluster_scoped(self) -> Self {
        Self {
            is_namespaced: false,
            ..self
        }
    }

    /// Every update has to name the version it replaces.
    #[must_use]
    pub fn never_blindly(self) -> Self {
        Self {
            may_update_blindly: false,
            ..self
        }
    }

    /// `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// How messages name it: `ingresses.networking.internal.knative.dev`, or `pods`.
    pub fn resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }
}

/// What every double serves from the start: what Parkway watches, writes and installs.
pub(super) fn standard() -> Vec<Kind> {
    let built_in = Kind::built_in;
    let custom = Kind::custom;
    vec![
        built_in("v1", "Namespace", "namespaces")
            .cluster_scoped()
            .with_status(),
        built_in("v1", "Service", "services").with_status(),
        built_in("v1", "Endpoints", "endpoints"),
        built_in("v1", "Secret", "secrets"),
        built_in("v1", "ConfigMap", "configmaps"),
        built_in("v1", "ServiceAccount", "serviceaccounts"),
        built_in("v1", "Pod", "pods").with_status(),
        built_in("v1", "Event", "events"),
        built_in("discovery.k8s.io/v1", "EndpointSlice", "endpointslices").with_generation(),
        built_in("coordination.k8s.io/v1", "Lease", "leases").never_blindly(),
        built_in("apps/v1", "Deployment", "deployments")
            .with_status()
            .with_generation(),
        built_in(
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
        )
        .with_status(),
        built_in("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
            .with_status()
            .with_generation(),
        built_in("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies").with_generation(),
        // Answered, never kept.
        built_in("authentication.k8s.io/v1", "TokenReview", "tokenreviews").cluster_scoped(),
        built_in("batch/v1", "Job", "jobs")
            .with_status()
            .with_generation(),
        built_in("rbac.authorization.k8s.io/v1", "Role", "roles"),
        built_in(
            "rbac.authorization.k8s.io/v1",
            "RoleBinding",
            "rolebindings",
        ),
        built_in(
            "rbac.authorization.k8s.io/v1",
            "ClusterRole",
            "clusterroles",
        )
        .cluster_scoped(),
        built_in(
            "rbac.authorization.k8s.io/v1",
            "ClusterRoleBinding",
            "clusterrolebindings",
        )
        .cluster_scoped(),
        built_in(
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
        )
        .cluster_scoped()
        .with_status()
        .with_generation()
        .never_blindly(),
        built_in(
            "admissionregistration.k8s.io/v1",
            "MutatingWebhookConfiguration",
            "mutatingwebhookconfigurations",
        )
        .cluster_scoped()
        .with_generation(),
        built_in(
            "admissionregistration.k8s.io/v1",
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
        )
        .cluster_scoped()
        .with_generation(),
        custom(
            "networking.internal.knative.dev/v1alpha1",
            "Ingress",
            "ingresses",
        ),
        custom(
            "networking.internal.knative.dev/v1alpha1",
            "ServerlessService",
            "serverlessservices",
        ),
        custom(
            "networking.internal.knative.dev/v1alpha1",
            "Certificate",
            "certificates",
        ),
        custom(
            "networking.internal.knative.dev/v1alpha1",
            "ClusterDomainClaim",
            "clusterdomainclaims",
        )
        .cluster_scoped(),
        custom(
            "autoscaling.internal.knative.dev/v1alpha1",
            "PodAutoscaler",
            "podautoscalers",
        ),
        custom(
            "autoscaling.internal.knative.dev/v1alpha1",
            "Metric",
            "metrics",
        ),
        custom("caching.internal.knative.dev/v1alpha1", "Image", "images"),
        custom("serving.knative.dev/v1", "Service", "services"),
        custom("serving.knative.dev/v1", "Route", "routes"),
        custom("serving.knative.dev/v1", "Configuration", "configurations"),
        custom("serving.knative.dev/v1", "Revision", "revisions"),
        custom(
            "serving.knative.dev/v1beta1",
            "DomainMapping",
            "domainmappings",
        ),
        custom(
            "monitoring.coreos.com/v1",
            "ServiceMonitor",
            "servicemonitors",
        ),
    ]
}
