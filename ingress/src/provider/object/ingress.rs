//! The KIngress as written: its fields, checked for spelling and type. Its rules are checked where it is translated.

use std::collections::BTreeMap;

use super::super::document::Value;
use super::super::fields::{Field, Fields};
use super::super::kingress::{
    HeaderMatch, HttpRule, IngressPath, IngressRule, IngressSpec, IngressSplit, IngressTls,
    ServicePort,
};
use super::Meta;

/// A KIngress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// What is known about every object.
    pub meta: Meta,
    /// Its spec, as the hash needs it: with the webhook's defaults.
    pub spec: IngressSpec,
}

pub(super) fn read(mut fields: Fields<'_>, meta: Meta) -> Option<Ingress> {
    fields.inert(&["status"]);
    let spec = fields.required("spec", "write the rules below it");
    fields.finish();
    let mut spec_fields = spec?.fields()?;
    let mut spec = IngressSpec {
        tls: each(&mut spec_fields, "tls", read_tls),
        rules: each(&mut spec_fields, "rules", read_rule),
        http_option: spec_fields.string("httpOption").unwrap_or_default(),
    };
    spec_fields.finish();
    spec.fill_defaults();
    Some(Ingress { meta, spec })
}

fn each<T>(fields: &mut Fields<'_>, name: &'static str, read: fn(Fields<'_>) -> T) -> Vec<T> {
    let items = fields.items(name);
    items.iter().filter_map(Field::fields).map(read).collect()
}

fn read_tls(mut fields: Fields<'_>) -> IngressTls {
    let tls = IngressTls {
        hosts: fields.strings("hosts"),
        secret_name: fields.string("secretName").unwrap_or_default(),
        secret_namespace: fields.string("secretNamespace").unwrap_or_default(),
    };
    fields.finish();
    tls
}

fn read_rule(mut fields: Fields<'_>) -> IngressRule {
    let rule = IngressRule {
        hosts: fields.strings("hosts"),
        visibility: fields
            .get("visibility")
            .and_then(|field| field.word(&["ExternalIP", "ClusterLocal", ""]))
            .unwrap_or_default(),
        http: fields
            .get("http")
            .and_then(|field| read_http(field.fields()?)),
    };
    fields.finish();
    rule
}

fn read_http(mut fields: Fields<'_>) -> Option<HttpRule> {
    let paths = each(&mut fields, "paths", read_path);
    fields.finish();
    Some(HttpRule { paths })
}

fn read_path(mut fields: Fields<'_>) -> IngressPath {
    let path = IngressPath {
        path: fields.string("path").unwrap_or_default(),
        rewrite_host: fields.string("rewriteHost").unwrap_or_default(),
        headers: fields
            .get("headers")
            .map(|field| read_headers(&field))
            .unwrap_or_default(),
        splits: each(&mut fields, "splits", read_split),
        append_headers: fields.string_map("appendHeaders"),
    };
    fields.finish();
    path
}

fn read_headers(field: &Field<'_>) -> BTreeMap<String, HeaderMatch> {
    let read = |field: Field<'_>| {
        let mut fields = field.fields()?;
        let exact = fields
            .required("exact", "write the value the header must have")
            .and_then(|field| field.string());
        fields.finish();
        Some(HeaderMatch { exact: exact? })
    };
    field
        .entries()
        .into_iter()
        .filter_map(|(key, field)| Some((key.name.clone(), read(field)?)))
        .collect()
}

fn read_split(mut fields: Fields<'_>) -> IngressSplit {
    let split = IngressSplit {
        service_namespace: fields.string("serviceNamespace").unwrap_or_default(),
        service_name: fields.string("serviceName").unwrap_or_default(),
        service_port: fields
            .get("servicePort")
            .and_then(|field| read_port(&field))
            .unwrap_or_default(),
        percent: fields
            .get("percent")
            .and_then(|field| field.integer(0..=100))
            .unwrap_or_default(),
        append_headers: fields.string_map("appendHeaders"),
    };
    fields.finish();
    split
}

fn read_port(field: &Field<'_>) -> Option<ServicePort> {
    match &field.node().value {
        Value::String(name) => Some(ServicePort::Name(name.clone())),
        _ => field.integer(1..=65535).map(ServicePort::Number),
    }
}
