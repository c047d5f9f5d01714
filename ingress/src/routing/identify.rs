//! Which Revision a request at the activator ports is for: there the request says so itself.
//!
//! Source: knative/serving `pkg/activator/handler/context_handler.go`.

use http::{HeaderMap, HeaderName, HeaderValue};
use parkway_activator::revision::RevisionId;

use super::go::quoted;
use super::names::{SERVING_NAMESPACE, SERVING_REVISION};

/// Reads the Revision from `Knative-Serving-Namespace` and `-Revision`, else from a host
/// `name.namespace.svc.<cluster domain>`, with or without a port.
///
/// `host` is as the client wrote it: case counts, and a trailing dot is not understood. None is answered with 404.
pub fn identify(
    headers: &HeaderMap,
    host: Option<&str>,
    cluster_domain: &str,
) -> Option<RevisionId> {
    from_headers(headers).or_else(|| from_host(host?, cluster_domain))
}

/// The words for a Revision that is not there: those of a lister's error behind the activator's prefix (knative/serving
/// `pkg/activator/handler/context_handler.go`, `sendError`; kubernetes/apimachinery `pkg/api/errors/errors.go`,
/// `NewNotFound`).
pub fn not_found(name: &[u8]) -> String {
    let name = quoted(name);
    format!("Error getting active endpoint: revision.serving.knative.dev {name} not found")
}

/// The name to speak of when [`identify`] finds none: what the header says, though it says no namespace; else nothing.
pub fn half_a_name(headers: &HeaderMap) -> &[u8] {
    headers
        .get(SERVING_REVISION)
        .map_or(b"", HeaderValue::as_bytes)
}

fn from_headers(headers: &HeaderMap) -> Option<RevisionId> {
    let text = |name: HeaderName| {
        headers
            .get(name)?
            .to_str()
            .ok()
            .filter(|text| !text.is_empty())
    };
    Some(RevisionId::new(
        text(SERVING_NAMESPACE)?,
        text(SERVING_REVISION)?,
    ))
}

fn from_host(host: &str, cluster_domain: &str) -> Option<RevisionId> {
    let mut labels = host.splitn(4, '.');
    let (name, namespace) = (labels.next()?, labels.next()?);
    let is_service = labels.next()? == "svc";
    let rest = labels.next()?.strip_prefix(cluster_domain)?;
    let is_below_domain = rest.is_empty() || rest.starts_with(':');
    let is_named = !name.is_empty() && !namespace.is_empty();
    (is_service && is_below_domain && is_named).then(|| RevisionId::new(namespace, name))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn by_host(host: &str) -> Option<RevisionId> {
        identify(&HeaderMap::new(), Some(host), "cluster.local")
    }

    fn headers(namespace: &'static str, revision: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(SERVING_NAMESPACE, HeaderValue::from_static(namespace));
        headers.insert(SERVING_REVISION, HeaderValue::from_static(revision));
        headers
    }

    #[test]
    fn headers_name_the_revision_before_the_host() {
        let id = identify(
            &headers("shop", "cart-00001"),
            Some("other.ns.svc.cluster.local"),
            "cluster.local",
        );
        assert_eq!(id, Some(RevisionId::new("shop", "cart-00001")));
    }

    #[test]
    fn half_a_name_in_headers_is_none() {
        let host = Some("cart-00001.shop.svc.cluster.local");
        for headers in [headers("", "other"), headers("other", "")] {
            let id = identify(&headers, host, "cluster.local");
            assert_eq!(id, Some(RevisionId::new("shop", "cart-00001")));
        }
    }

    #[test]
    fn host_of_a_public_service_names_the_revision() {
        let expected = Some(RevisionId::new("shop", "cart-00001"));
        assert_eq!(by_host("cart-00001.shop.svc.cluster.local"), expected);
        assert_eq!(by_host("cart-00001.shop.svc.cluster.local:80"), expected);
        assert_eq!(
            identify(
                &HeaderMap::new(),
                Some("a.b.svc.corp.example"),
                "corp.example"
            ),
            Some(RevisionId::new("b", "a"))
        );
    }

    #[test]
    fn case_counts() {
        assert_eq!(
            by_host("Cart.shop.svc.cluster.local"),
            Some(RevisionId::new("shop", "Cart"))
        );
        assert_eq!(by_host("cart.shop.SVC.cluster.local"), None);
        assert_eq!(by_host("cart.shop.svc.Cluster.Local"), None);
    }

    #[test]
    fn what_is_not_there_is_spoken_of_as_a_lister_does() {
        let not_found_in = |headers: &HeaderMap| not_found(half_a_name(headers));
        assert_eq!(
            not_found_in(&headers("", "cart\"1")),
            r#"Error getting active endpoint: revision.serving.knative.dev "cart\"1" not found"#
        );
        assert_eq!(
            not_found_in(&HeaderMap::new()),
            r#"Error getting active endpoint: revision.serving.knative.dev "" not found"#
        );
    }

    #[test]
    fn other_hosts_name_nothing() {
        for host in [
            "",
            "cart",
            "cart.shop",
            "cart.shop.svc",
            "cart.shop.svc.cluster.local.",
            "cart.shop.svc.cluster.locale",
            "a.b.c.svc.cluster.local",
            "..svc.cluster.local",
            "cart.shop.pod.cluster.local",
        ] {
            assert_eq!(by_host(host), None, "{host}");
        }
        assert_eq!(identify(&HeaderMap::new(), None, "cluster.local"), None);
    }
}
