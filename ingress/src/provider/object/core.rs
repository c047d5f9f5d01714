//! Objects of Kubernetes itself: Service, EndpointSlice, ConfigMap.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::super::document::Value;
use super::super::fields::{Field, Fields};
use super::Meta;

/// A Service of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreService {
    /// What is known about every object.
    pub meta: Meta,
    /// `externalName`, when the type is `ExternalName`.
    pub external_name: Option<String>,
    /// Its ports.
    pub ports: Vec<CoreServicePort>,
}

/// A port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreServicePort {
    /// Its name; empty when it has none.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// Where it leads to on the endpoints.
    pub target: Option<TargetPort>,
    /// `appProtocol`.
    pub app_protocol: Option<String>,
}

/// A port of the endpoints by number or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// Its number.
    Number(u16),
    /// Its name.
    Name(String),
}

/// Some endpoints of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// What is known about every object.
    pub meta: Meta,
    /// The endpoints, ready ones and others.
    pub endpoints: Box<[SliceEndpoint]>,
    /// The ports all of them have.
    pub ports: Box<[SlicePort]>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its address: the first, as several are the same endpoint.
    pub address: IpAddr,
    /// Whether it gets requests: `conditions.ready` is true or absent.
    pub is_ready: bool,
}

/// A port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// Its name; empty when it has none.
    pub name: Box<str>,
    /// Its number.
    pub port: u16,
}

/// A ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigMap {
    /// What is known about every object.
    pub meta: Meta,
    /// Its values.
    pub data: BTreeMap<String, String>,
}

pub(super) fn read_service(mut fields: Fields<'_>, meta: Meta) -> Option<CoreService> {
    fields.inert(&["status"]);
    let spec = fields.required("spec", "write the ports below it");
    fields.finish();
    let mut spec = spec?.fields()?;
    let kind = spec
        .get("type")
        .and_then(|field| field.word(&SERVICE_TYPES));
    let external_name = spec.string("externalName");
    let ports = spec
        .items("ports")
        .iter()
        .filter_map(read_service_port)
        .collect();
    spec.inert(&INERT_SERVICE_FIELDS);
    let is_external = kind.as_deref() == Some("ExternalName");
    if is_external && external_name.as_ref().is_none_or(String::is_empty) {
        let problem = spec.problem("a Service of type ExternalName needs an externalName");
        spec.report(problem.remedy("add externalName: host.example.com"));
    }
    spec.finish();
    Some(CoreService {
        meta,
        external_name: external_name.filter(|_| is_external),
        ports,
    })
}

const SERVICE_TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "NodePort", "LoadBalancer"];

/// Fields of a Service that concern the network of its cluster: endpoints are reached directly, headless or not.
const INERT_SERVICE_FIELDS: [&str; 18] = [
    "allocateLoadBalancerNodePorts",
    "clusterIP",
    "clusterIPs",
    "externalIPs",
    "externalTrafficPolicy",
    "healthCheckNodePort",
    "internalTrafficPolicy",
    "ipFamilies",
    "ipFamilyPolicy",
    "loadBalancerClass",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
    "publishNotReadyAddresses",
    "selector",
    "sessionAffinity",
    "sessionAffinityConfig",
    "topologyKeys",
    "trafficDistribution",
];

fn read_service_port(item: &Field<'_>) -> Option<CoreServicePort> {
    let mut fields = item.fields()?;
    let name = fields.string("name").unwrap_or_default();
    let port = fields
        .required("port", "write the number of the port")
        .and_then(|field| number(&field));
    let target = fields
        .get("targetPort")
        .and_then(|field| match &field.node().value {
            Value::String(name) => Some(TargetPort::Name(name.clone())),
            _ => number(&field).map(TargetPort::Number),
        });
    let app_protocol = fields.string("appProtocol");
    fields.inert(&["nodePort", "protocol"]);
    fields.finish();
    Some(CoreServicePort {
        name,
        port: port?,
        target,
        app_protocol,
    })
}

pub(super) fn read_slice(mut fields: Fields<'_>, meta: Meta) -> Option<EndpointSlice> {
    let address_type = fields.required("addressType", "write IPv4 or IPv6");
    let has_addresses = address_type
        .and_then(|field| {
            field
                .word(&["IPv4", "IPv6", "FQDN"])
                .map(|word| (word, field))
        })
        .is_some_and(|(word, field)| {
            if word == "FQDN" {
                let problem = field.problem("endpoints by name are not resolved, and skipped");
                field.report(
                    problem
                        .warning()
                        .remedy("write IPv4 or IPv6 and the addresses"),
                );
            }
            word != "FQDN"
        });
    let endpoints = fields.items("endpoints");
    let endpoints = endpoints
        .iter()
        .filter(|_| has_addresses)
        .filter_map(read_endpoint)
        .collect();
    let ports = fields
        .items("ports")
        .iter()
        .filter_map(read_slice_port)
        .collect();
    fields.finish();
    Some(EndpointSlice {
        meta,
        endpoints,
        ports,
    })
}

fn read_endpoint(item: &Field<'_>) -> Option<SliceEndpoint> {
    let mut fields = item.fields()?;
    let addresses = fields.required("addresses", "write [127.0.0.1]");
    let mut is_ready = true;
    if let Some(mut conditions) = fields.get("conditions").and_then(|field| field.fields()) {
        is_ready = conditions
            .get("ready")
            .and_then(|field| field.boolean())
            .unwrap_or(true);
        conditions.inert(&["serving", "terminating"]);
        conditions.finish();
    }
    fields.inert(&[
        "targetRef",
        "nodeName",
        "zone",
        "hostname",
        "hints",
        "deprecatedTopology",
    ]);
    fields.finish();
    let items = addresses?.items();
    let first = items.first()?;
    let address = first.string()?.parse();
    let Ok(address) = address else {
        first.report(
            first
                .problem("this is not an IP address")
                .remedy("write one such as 127.0.0.1; the port stands below ports"),
        );
        return None;
    };
    Some(SliceEndpoint { address, is_ready })
}

fn read_slice_port(item: &Field<'_>) -> Option<SlicePort> {
    let mut fields = item.fields()?;
    let name = fields.string("name").unwrap_or_default();
    let port = fields.get("port").and_then(|field| number(&field));
    fields.inert(&["protocol", "appProtocol"]);
    fields.finish();
    Some(SlicePort {
        name: name.into(),
        port: port?,
    })
}

fn number(field: &Field<'_>) -> Option<u16> {
    u16::try_from(field.integer(1..=65535)?).ok()
}

pub(super) fn read_config_map(mut fields: Fields<'_>, meta: Meta) -> Option<ConfigMap> {
    let data = fields.string_map("data");
    fields.inert(&["binaryData", "immutable"]);
    fields.finish();
    Some(ConfigMap { meta, data })
}
