//! What ConfigMaps of the system namespace say that concerns us.

use std::collections::BTreeMap;

use parkway_activator::backends::MeshMode;

use crate::proxy::request_log::{InvalidTemplate, Template};
use crate::trace::{InvalidSettings, Settings};

/// All ConfigMaps of the system namespace, by name.
pub(super) type ConfigMaps = BTreeMap<String, BTreeMap<String, String>>;

/// What config-network says about meshes: how Pods can be reached, and whether they are addressed through the mesh.
///
/// Source: knative/networking `pkg/config/config.go`. What cannot be understood counts as the default.
pub(super) fn mesh(config: &ConfigMaps) -> (MeshMode, bool) {
    let value = |key: &str| {
        let value = config.get("config-network")?.get(key)?;
        Some(value.to_ascii_lowercase())
    };
    let mode = match value("mesh-compatibility-mode").as_deref() {
        Some("enabled") => MeshMode::Enabled,
        Some("disabled") => MeshMode::Disabled,
        _ => MeshMode::Auto,
    };
    let passthrough = value("enable-mesh-pod-addressability");
    (mode, passthrough.as_deref() == Some("true"))
}

/// How requests are written down, as config-observability has it; nothing: they are not.
///
/// Source: knative/serving `pkg/observability/config.go` and its default template.
///
/// # Errors
///
/// When the template cannot be read.
pub(super) fn request_log(config: &ConfigMaps) -> Result<Option<Template>, InvalidTemplate> {
    let value = |key: &str| config.get("config-observability")?.get(key);
    let is_enabled = value("logging.enable-request-log");
    if !is_enabled.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    let written = value("logging.request-log-template").map_or(DEFAULT_TEMPLATE, String::as_str);
    if written.is_empty() {
        return Ok(None);
    }
    Template::parse(written).map(Some)
}

/// Where traces go and which are kept: as config-observability has it, and where it says nothing, as `otherwise`.
///
/// Source: knative/pkg `observability/tracing/config.go`.
///
/// # Errors
///
/// When a value cannot be used.
pub(super) fn traces(
    config: &ConfigMaps,
    otherwise: Settings,
) -> Result<Settings, InvalidSettings> {
    let value = |key: &str| Some(config.get("config-observability")?.get(key)?.as_str());
    otherwise.with_config(value)
}

/// `DefaultRequestLogTemplate` of knative/serving `pkg/observability/config.go`.
const DEFAULT_TEMPLATE: &str = r#"{"httpRequest": {"requestMethod": "{{.Request.Method}}", "requestUrl": "{{js .Request.RequestURI}}", "requestSize": "{{.Request.ContentLength}}", "status": {{.Response.Code}}, "responseSize": "{{.Response.Size}}", "userAgent": "{{js .Request.UserAgent}}", "remoteIp": "{{js .Request.RemoteAddr}}", "serverIp": "{{.Revision.PodIP}}", "referer": "{{js .Request.Referer}}", "latency": "{{.Response.Latency}}s", "protocol": "{{.Request.Proto}}"}, "traceId": "{{.TraceID}}"}"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn config(map: &str, values: &[(&str, &str)]) -> ConfigMaps {
        let values = values
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        [(map.to_owned(), values.collect())].into()
    }

    #[test]
    fn meshes_are_found_out_unless_config_network_says_something() {
        let of = |values: &[(&str, &str)]| mesh(&config("config-network", values));
        assert_eq!(mesh(&ConfigMaps::new()), (MeshMode::Auto, false));
        assert_eq!(
            of(&[("mesh-compatibility-mode", "Enabled")]).0,
            MeshMode::Enabled
        );
        assert_eq!(
            of(&[("mesh-compatibility-mode", "disabled")]).0,
            MeshMode::Disabled
        );
        assert!(of(&[("enable-mesh-pod-addressability", "TRUE")]).1);
    }

    #[test]
    fn requests_are_written_down_where_config_observability_says_so() {
        let of = |values: &[(&str, &str)]| request_log(&config("config-observability", values));
        let enabled = ("logging.enable-request-log", "true");
        assert!(of(&[]).unwrap().is_none());
        assert!(
            of(&[("logging.request-log-template", "{{.TraceID}}")])
                .unwrap()
                .is_none()
        );
        assert!(of(&[enabled]).unwrap().is_some(), "by the default template");
        assert!(
            of(&[enabled, ("logging.request-log-template", "")])
                .unwrap()
                .is_none()
        );
        assert!(of(&[enabled, ("logging.request-log-template", "{{.Nobody}}")]).is_err());
    }
}
