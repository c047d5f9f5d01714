//! What can be told about TLS towards Pods.

use prometheus_client::encoding::DescriptorEncoder;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::metrics::{counters, gauges};
use crate::frontend::tls::Certificates;
use crate::proxy::tls::InternalTls;

/// For `/state`.
pub(super) fn state((tls, certificates): &(InternalTls, Certificates), now: Instant) -> Value {
    let state = tls.state();
    let ago = |then: Instant| now.saturating_duration_since(then).as_secs_f64();
    let failing = tls.failing().into_iter().map(|failure| {
        json!({
            "namespace": failure.revision.namespace(),
            "revision": failure.revision.name(),
            "endpoint": failure.endpoint.to_string(),
            "reason": failure.reason.as_str(),
            "message": &*failure.message,
            "times": failure.count,
            "sinceSeconds": ago(failure.since),
            "lastSeconds": ago(failure.last),
        })
    });
    let shown = certificates.current();
    json!({
        "enabled": state.is_enabled,
        "generation": state.generation,
        "authorities": state.authorities,
        "problems": state.problems,
        "shows": shown.certificates().next().map(|it| it.names().to_string()),
        "failing": failing.collect::<Vec<_>>(),
    })
}

/// For `/metrics`.
pub(super) fn metrics(
    (tls, certificates): &(InternalTls, Certificates),
    out: &mut DescriptorEncoder<'_>,
) -> std::fmt::Result {
    let state = tls.state();
    gauges(
        out,
        "parkway_internal_tls_enabled",
        "1 while Pods are spoken to by TLS only",
        [(Vec::new(), f64::from(u8::from(state.is_enabled)))],
    )?;
    #[expect(clippy::cast_precision_loss, reason = "a gauge; exact to 2^53")]
    let authorities = state.authorities as f64;
    gauges(
        out,
        "parkway_internal_tls_authorities",
        "Certificates of authorities by which Pods are trusted",
        [(Vec::new(), authorities)],
    )?;
    let failed = tls.failed().into_iter();
    counters(
        out,
        "parkway_internal_tls_failures",
        "Connections to Pods that could not be made secure, by reason",
        failed.map(|(reason, count)| (vec![("reason", reason.as_str().to_owned())], count)),
    )?;
    let ends = certificates.handshakes().counts();
    counters(
        out,
        "parkway_internal_tls_handshakes",
        "Handshakes at the activator's port for TLS, by how they ended",
        ends.map(|(end, count)| (vec![("end", end.as_str().to_owned())], count)),
    )
}
