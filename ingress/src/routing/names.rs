//! The header names of Knative's data plane.
//!
//! Source: knative/networking `pkg/http/header/header.go`, knative/serving `pkg/activator/activator.go`.

use http::HeaderName;

/// Marks a probe; its value says of whom.
pub const NETWORK_PROBE: HeaderName = HeaderName::from_static("k-network-probe");
/// `override` on the way in; the hash of the KIngress on the way out.
pub const NETWORK_HASH: HeaderName = HeaderName::from_static("k-network-hash");
/// Marks a kubelet's probe that a mesh rewrote.
pub const KUBELET_PROBE: HeaderName = HeaderName::from_static("k-kubelet-probe");
/// `activator`: queue-proxy counts the request as already reported.
pub const PROXY_REQUEST: HeaderName = HeaderName::from_static("k-proxy-request");
/// The Host the client meant; queue-proxy restores it.
pub const ORIGINAL_HOST: HeaderName = HeaderName::from_static("k-original-host");
/// Asks a mesh to pass the request to the addressed Pod.
pub const PASSTHROUGH_LB: HeaderName = HeaderName::from_static("k-passthrough-lb");
/// The autoscaler's spelling of the same.
pub const DIRECT_LB: HeaderName = HeaderName::from_static("knative-direct-lb");
/// Namespace of the Revision a request is for.
pub const SERVING_NAMESPACE: HeaderName = HeaderName::from_static("knative-serving-namespace");
/// Name of the Revision a request is for.
pub const SERVING_REVISION: HeaderName = HeaderName::from_static("knative-serving-revision");
/// The traffic tag of a request.
pub const SERVING_TAG: HeaderName = HeaderName::from_static("knative-serving-tag");
/// `true` when no tag was asked for.
pub const SERVING_DEFAULT_ROUTE: HeaderName =
    HeaderName::from_static("knative-serving-default-route");

/// Who the request passed and when; de-facto standard.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The scheme the client used.
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The Host the client used.
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Which certificate the client has shown; Envoy's, and who follows it.
pub const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// The value of [`NETWORK_HASH`] that asks for the real hash.
pub const HASH_OVERRIDE: &str = "override";
/// The value of [`PROXY_REQUEST`] and the name of the component everywhere.
pub const ACTIVATOR: &str = "activator";
