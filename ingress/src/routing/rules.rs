//! What a provider hands to routing: the rules of one KIngress in our own vocabulary.
//!
//! Providers parse and resolve (which split means a Revision, which an ordinary Service); routing only compiles and
//! looks up. Source of the semantics: knative/networking `pkg/apis/networking/v1alpha1/ingress_types.go`.

use std::fmt;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use parkway_activator::revision::{RevisionId, RevisionSpec};

use super::policy::RoutePolicy;
use super::split::Splits;

/// Who may reach a rule. Decided by the entrance a request came in at, never by a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Visibility {
    /// Served at both entrances.
    #[default]
    ExternalIp,
    /// Served at the cluster-local entrance only.
    ClusterLocal,
}

/// The name of the KIngress a rule came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IngressName {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for IngressName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One KIngress, translated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressRules {
    /// Which object this is.
    pub name: IngressName,
    /// The hash that a request with `K-Network-Hash: override` carries to the backend.
    ///
    /// Source: knative/networking `pkg/ingress/ingress.go`, `InsertProbe`.
    pub hash: Arc<str>,
    /// The rules in their listed order.
    pub rules: Vec<Rule>,
    /// What it asks for beyond that; mostly nothing.
    pub policy: Option<Arc<RoutePolicy>>,
}

/// One rule: hosts, who may reach them, and what their paths lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Exact hosts as written in the object; routing normalises them. Empty: all hosts.
    pub hosts: Vec<Arc<str>>,
    /// Who may reach them.
    pub visibility: Visibility,
    /// The paths in their listed order. Rules often have the same ones.
    pub paths: Vec<Arc<PathRule>>,
}

/// One path of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathRule {
    /// Prefix of the request path; empty: every path.
    pub prefix: String,
    /// Headers that must all be present with exactly this value.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Replaces the Host of the request on its way to the endpoint.
    pub rewrite_host: Option<String>,
    /// Headers set on the request, overwriting what the client sent (`appendHeaders` means set).
    pub set_headers: Vec<(HeaderName, HeaderValue)>,
    /// Where the traffic goes.
    pub splits: Splits<Backend>,
}

/// One target of a path's traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// What the requests go to.
    pub target: Target,
    /// Headers set on the requests of this split, after those of the path.
    pub set_headers: Vec<(HeaderName, HeaderValue)>,
}

/// What a split names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A Revision: requests may be parked, and are counted for the autoscaler.
    Revision {
        /// Its identity.
        id: RevisionId,
        /// What it promises.
        spec: Arc<RevisionSpec>,
    },
    /// The endpoints of one port of an ordinary Service: never parked, never counted.
    Service {
        /// Its identity, made by [`RevisionId::of_service`].
        id: RevisionId,
        /// Its protocol; unlimited, and without timeouts of its own.
        spec: Arc<RevisionSpec>,
    },
    /// A Service of type ExternalName: a name to resolve, or one of our own hosts, which makes a second pass.
    External {
        /// Its identity, made by [`RevisionId::of_service`].
        id: RevisionId,
        /// The host name it stands for.
        host: String,
        /// The port to connect to.
        port: u16,
        /// Its protocol; unlimited, and without timeouts of its own.
        spec: Arc<RevisionSpec>,
    },
    /// The object refers to something that is not there; the reason is for people. Answered with 503.
    Missing {
        /// What is missing.
        reason: Arc<str>,
    },
}
