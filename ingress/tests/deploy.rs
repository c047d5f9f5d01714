//! The manifests of `deploy/`: that they are what they seem, and fit Knative, the code and each other.

#![expect(clippy::unwrap_used, reason = "a test: what cannot be read fails it")]

#[path = "deploy/grants.rs"]
mod grants;
#[path = "deploy/kustomize.rs"]
mod kustomize;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use grants::granted;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Namespace, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use parkway_ingress::cli::{Cli, Command, Serve};
use parkway_ingress::install::object::{Object, PROVIDER, PROVIDER_LABEL};
use parkway_ingress::install::yaml;
use parkway_ingress::provider::kubernetes::peers::auth::AUDIENCE;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The built files and the overlays they are built from.
const BUILT: [(&str, &str); 3] = [
    ("parkway.yaml", "overlays/both"),
    ("parkway-ingress.yaml", "overlays/ingress"),
    ("parkway-activator.yaml", "overlays/activator"),
];

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn read(path: &Path) -> Vec<Object> {
    let text = fs::read(path).unwrap();
    let read = yaml::read(&path.display().to_string(), &text);
    read.unwrap().into_iter().map(Object::from).collect()
}

fn built(file: &str) -> Vec<Object> {
    read(&deploy().join(file))
}

fn find<'a>(objects: &'a [Object], kind: &str, name: &str) -> &'a Object {
    let found = objects
        .iter()
        .find(|object| object.kind() == kind && object.name() == name);
    found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

fn only<'a>(objects: &'a [Object], kind: &str) -> &'a Object {
    let mut found = objects.iter().filter(|object| object.kind() == kind);
    let object = found.next().unwrap_or_else(|| panic!("there is no {kind}"));
    assert!(found.next().is_none(), "there is more than one {kind}");
    object
}

#[test]
fn the_built_files_are_what_the_overlays_make() {
    for (file, overlay) in BUILT {
        let by_name = |objects: Vec<Object>| -> BTreeMap<_, _> {
            objects
                .into_iter()
                .map(|object| (object.id(), object.0))
                .collect()
        };
        let made = by_name(kustomize::build(&deploy().join(overlay)));
        let stands = by_name(built(file));
        assert!(!stands.is_empty());
        assert_eq!(
            stands.keys().collect::<Vec<_>>(),
            made.keys().collect::<Vec<_>>(),
            "{file}: run deploy/build.sh"
        );
        for (name, object) in &made {
            assert_eq!(&stands[name], object, "{file}, {name}: run deploy/build.sh");
        }
    }
}

#[test]
fn every_manifest_parses_into_its_type_and_back_without_loss() {
    let monitoring = kustomize::build(&deploy().join("components/monitoring"));
    let jaeger = kustomize::build(&deploy().join("overlays/jaeger"));
    let all = BUILT.iter().flat_map(|(file, _)| built(file));
    for object in all.chain(monitoring).chain(jaeger) {
        let back = match object.kind() {
            "ServiceAccount" => through::<ServiceAccount>(&object),
            "ClusterRole" => through::<ClusterRole>(&object),
            "ClusterRoleBinding" => through::<ClusterRoleBinding>(&object),
            "Role" => through::<Role>(&object),
            "RoleBinding" => through::<RoleBinding>(&object),
            "Deployment" => through::<Deployment>(&object),
            "HorizontalPodAutoscaler" => through::<HorizontalPodAutoscaler>(&object),
            "PodDisruptionBudget" => through::<PodDisruptionBudget>(&object),
            "NetworkPolicy" => through::<NetworkPolicy>(&object),
            "Service" => through::<Service>(&object),
            "Namespace" => through::<Namespace>(&object),
            // Not Kubernetes' own.
            "ServiceMonitor" => object.0.clone(),
            other => panic!("a manifest of kind {other}, which nothing checks"),
        };
        assert_eq!(back, object.0, "{}", object.id());
    }
}

/// What is left of an object after it was one of its type.
fn through<T: DeserializeOwned + Serialize>(object: &Object) -> Value {
    let typed: T = serde_json::from_value(object.0.clone()).unwrap();
    serde_json::to_value(typed).unwrap()
}

#[test]
fn everything_carries_the_labels_of_a_networking_layer() {
    let objects = BUILT.iter().flat_map(|(file, _)| built(file));
    let monitoring = kustomize::build(&deploy().join("components/monitoring"));
    for object in objects.chain(monitoring) {
        let name = object.id();
        assert_eq!(object.label(PROVIDER_LABEL), Some(PROVIDER), "{name}");
        assert_eq!(
            object.label("app.kubernetes.io/name"),
            Some("knative-serving"),
            "{name}"
        );
        assert_eq!(
            object.label("app.kubernetes.io/version"),
            Some(env!("CARGO_PKG_VERSION")),
            "{name}"
        );
        let component = match object.kind() {
            "Deployment" if object.name() == "activator" => "activator",
            _ => "net-parkway",
        };
        assert_eq!(
            object.label("app.kubernetes.io/component"),
            Some(component),
            "{name}"
        );
        // Knative's webhook validates ConfigMaps with such labels as its own.
        assert_ne!(object.kind(), "ConfigMap");
    }
}

/// The names by which Knative's SKS reconciler, its tests and its operator know the activator.
///
/// Source: knative/serving `config/core/deployments/activator.yaml`, `activator-hpa.yaml`.
#[test]
fn in_the_activators_place_it_has_the_activators_names() {
    for file in ["parkway.yaml", "parkway-activator.yaml"] {
        let objects = built(file);
        let deployment = only(&objects, "Deployment");
        assert_eq!(deployment.name(), "activator");
        let labels = json!({"app": "activator", "role": "activator"});
        assert_eq!(
            deployment.0.pointer("/spec/selector/matchLabels"),
            Some(&labels),
            "the stock Deployment's, which cannot be changed"
        );
        let template = &deployment.0["spec"]["template"];
        for (name, value) in labels.as_object().unwrap() {
            assert_eq!(&template["metadata"]["labels"][name], value);
        }
        let containers = template["spec"]["containers"].as_array().unwrap();
        assert_eq!(containers.len(), 1);
        assert_eq!(containers[0]["name"], "activator");
        let ports = ports(deployment);
        assert_eq!(ports["metrics"], 9090);
        assert_eq!(ports["http1"], 8012);
        assert_eq!(ports["h2c"], 8013);
        assert_eq!(template["spec"]["terminationGracePeriodSeconds"], 600);
        assert_eq!(
            only(&objects, "HorizontalPodAutoscaler").name(),
            "activator"
        );
        assert_eq!(
            only(&objects, "PodDisruptionBudget").name(),
            "activator-pdb"
        );
        // Knative's own, which selects the Pods by their label.
        assert!(
            !objects
                .iter()
                .any(|object| object.name() == "activator-service")
        );
    }
}

#[test]
fn beside_the_stock_activator_it_has_none_of_its_names() {
    let objects = built("parkway-ingress.yaml");
    for object in &objects {
        assert!(!object.name().contains("activator"), "{}", object.id());
    }
    let labels = &only(&objects, "Deployment").0["spec"]["template"]["metadata"]["labels"];
    assert_eq!(labels["app"], "parkway");
    assert_eq!(labels.get("role"), None);
}

#[test]
fn the_gateways_services_lead_to_the_entrances() {
    for file in ["parkway.yaml", "parkway-ingress.yaml"] {
        let objects = built(file);
        let serve = serve(&only(&objects, "Deployment").clone());
        for (name, kind, plain, tls) in [
            (
                &serve.gateway_service,
                "LoadBalancer",
                serve.listen,
                serve.listen_tls,
            ),
            (
                &serve.gateway_local_service,
                "ClusterIP",
                serve.listen_local,
                serve.listen_local_tls,
            ),
        ] {
            let service = find(&objects, "Service", name);
            assert_eq!(service.text("/spec/type"), kind);
            assert_eq!(
                service.list("/spec/ports"),
                [
                    json!({"name": "http2", "port": 80, "targetPort": plain.port()}),
                    json!({"name": "https", "port": 443, "targetPort": tls.port()}),
                ]
            );
        }
    }
    let objects = built("parkway-activator.yaml");
    assert!(objects.iter().all(|object| object.kind() != "Service"));
}

#[test]
fn what_selects_parkways_pods_selects_them_in_every_overlay() {
    for (file, _) in BUILT {
        let objects = built(file);
        let template = &only(&objects, "Deployment").0["spec"]["template"];
        let labels = template["metadata"]["labels"].as_object().unwrap();
        let mut selectors = Vec::new();
        for object in &objects {
            collect_selectors(&object.0, &mut selectors);
        }
        assert!(selectors.len() > 4, "{file}");
        for selector in selectors {
            for (name, value) in selector.as_object().unwrap() {
                assert_eq!(labels.get(name), Some(value), "{file}: {selector}");
            }
        }
    }
}

fn collect_selectors(value: &Value, found: &mut Vec<Value>) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                match key.as_str() {
                    "matchLabels" => found.push(value.clone()),
                    "selector" if value.get("matchLabels").is_none() => found.push(value.clone()),
                    _ => collect_selectors(value, found),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                collect_selectors(item, found);
            }
        }
        _ => {}
    }
}

/// The command line that the Deployment's container comes to, as `parkway` understands it.
fn serve(deployment: &Object) -> Serve {
    let container = &deployment.0["spec"]["template"]["spec"]["containers"][0];
    let args = container["args"].as_array().unwrap();
    let mut line = vec!["parkway".to_owned()];
    line.extend(args.iter().map(|arg| arg.as_str().unwrap().to_owned()));
    let flags = flags_by_variable();
    for variable in container["env"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        let Some(flag) = flags.get(name) else {
            panic!("no flag of `parkway serve` has the variable {name}");
        };
        let value = variable["value"].as_str().unwrap_or(match name {
            "POD_IP" => "10.0.0.1",
            _ => "from-the-pod",
        });
        line.push(format!("--{flag}={value}"));
    }
    match Cli::try_parse_from(line).unwrap().command {
        Command::Serve(serve) => *serve,
        other => panic!("{other:?}"),
    }
}

fn flags_by_variable() -> BTreeMap<String, String> {
    let command = <Cli as clap::CommandFactory>::command();
    let serve = command.find_subcommand("serve").unwrap();
    let named = serve.get_arguments().filter_map(|argument| {
        let variable = argument.get_env()?.to_str()?.to_owned();
        Some((variable, argument.get_long()?.to_owned()))
    });
    named.collect()
}

fn ports(deployment: &Object) -> BTreeMap<String, u64> {
    let ports = deployment.list("/spec/template/spec/containers/0/ports");
    let of = |port: &Value| {
        (
            port["name"].as_str().unwrap().to_owned(),
            port["containerPort"].as_u64().unwrap(),
        )
    };
    ports.iter().map(of).collect()
}

/// The ports that the process listens on for others, by the name they have in the Deployment.
fn listened(serve: &Serve) -> BTreeMap<String, u64> {
    use parkway_ingress::cli::Role;
    let mut ports = vec![("metrics", serve.metrics_listen)];
    if serve.has(Role::Ingress) {
        ports.push(("external", serve.listen));
        ports.push(("external-tls", serve.listen_tls));
        ports.push(("local", serve.listen_local));
        ports.push(("local-tls", serve.listen_local_tls));
        ports.push(("peers", serve.listen_peers));
    }
    if serve.has(Role::Activator) {
        ports.push(("http1", serve.listen_activator));
        ports.push(("h2c", serve.listen_activator_h2c));
        ports.push(("https", serve.listen_activator_tls));
    }
    let ports = ports.into_iter();
    ports
        .map(|(name, address)| (name.to_owned(), u64::from(address.port())))
        .collect()
}

#[test]
fn the_deployment_names_the_ports_that_the_process_listens_on() {
    for (file, _) in BUILT {
        let objects = built(file);
        let deployment = only(&objects, "Deployment");
        let serve = serve(deployment);
        assert_eq!(ports(deployment), listened(&serve), "{file}");
        assert!(serve.admin.ip().is_loopback());
    }
}

#[test]
fn the_network_policy_lets_in_what_is_listened_for_and_others_of_parkway_to_the_peers_port() {
    for (file, _) in BUILT {
        let objects = built(file);
        let listened = listened(&serve(only(&objects, "Deployment")));
        let policy = only(&objects, "NetworkPolicy");
        let mut let_in = BTreeMap::new();
        for rule in policy.list("/spec/ingress") {
            for port in rule["ports"].as_array().unwrap() {
                assert_eq!(port["protocol"], "TCP");
                let_in.insert(port["port"].as_u64().unwrap(), rule.get("from").cloned());
            }
        }
        for (name, port) in listened {
            let from = let_in.remove(&port);
            let wanted = match name.as_str() {
                "metrics" => Some(json!([{"namespaceSelector": {}}])),
                "peers" => {
                    Some(json!([{"podSelector": {"matchLabels": {PROVIDER_LABEL: PROVIDER}}}]))
                }
                _ => None,
            };
            assert_eq!(from, Some(wanted), "{file}: {name}");
        }
        assert_eq!(let_in, BTreeMap::new(), "{file}: nobody listens there");
    }
}

#[test]
fn a_drain_ends_before_the_pods_grace_does() {
    for (file, _) in BUILT {
        let objects = built(file);
        let deployment = only(&objects, "Deployment");
        let serve = serve(deployment);
        let grace = deployment.number("/spec/template/spec/terminationGracePeriodSeconds");
        let longest = serve.drain_delay_seconds + serve.drain_seconds;
        assert!(i64::try_from(longest).unwrap() < grace, "{file}");
        assert_eq!(serve.drain_delay_seconds, 45, "{file}: the activator's");
    }
}

#[test]
fn the_pods_give_away_every_privilege() {
    for (file, _) in BUILT {
        let objects = built(file);
        let pod = &only(&objects, "Deployment").0["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsUser"], 65532, "{file}");
        let container = &pod["containers"][0]["securityContext"];
        assert_eq!(
            container,
            &json!({
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "runAsNonRoot": true,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            }),
            "{file}"
        );
        // A Service "parkway" would put PARKWAY_… into the environment.
        assert_eq!(pod["enableServiceLinks"], false, "{file}");
        let probes = ["readinessProbe", "livenessProbe"].map(|probe| {
            let get = &pod["containers"][0][probe]["httpGet"];
            (get["path"].as_str().unwrap(), get["port"].as_str().unwrap())
        });
        assert_eq!(probes, [("/readyz", "metrics"), ("/healthz", "metrics")]);
    }
}

#[test]
fn the_token_that_replicas_show_is_made_for_them_and_where_they_look() {
    for file in ["parkway.yaml", "parkway-ingress.yaml"] {
        let objects = built(file);
        let deployment = only(&objects, "Deployment");
        let mounts = deployment.list("/spec/template/spec/containers/0/volumeMounts");
        let volumes = deployment.list("/spec/template/spec/volumes");
        assert_eq!((mounts.len(), volumes.len()), (1, 1), "{file}");
        assert_eq!(mounts[0]["name"], volumes[0]["name"]);
        let token = &volumes[0]["projected"]["sources"][0]["serviceAccountToken"];
        assert_eq!(token["audience"], AUDIENCE);
        let folder = Path::new(mounts[0]["mountPath"].as_str().unwrap());
        let path = folder.join(token["path"].as_str().unwrap());
        assert_eq!(serve(deployment).peer_token_file, path);
    }
}

#[test]
fn the_rights_are_those_that_are_named_here() {
    let watches = |is_cluster: bool, group: &str, resource: &str| {
        ["get", "list", "watch"].map(|verb| {
            let [group, resource, verb] = [group, resource, verb].map(str::to_owned);
            (is_cluster, group, resource, verb)
        })
    };
    let both: BTreeSet<_> = [
        watches(true, "serving.knative.dev", "revisions"),
        watches(true, "", "services"),
        watches(true, "discovery.k8s.io", "endpointslices"),
        watches(true, "", "pods"),
        watches(true, "", "events"),
        watches(false, "", "configmaps"),
        watches(false, "", "secrets"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let ingress: BTreeSet<_> = watches(true, "networking.internal.knative.dev", "ingresses")
        .into_iter()
        .chain(watches(true, "", "secrets"))
        .chain(
            [
                (
                    true,
                    "networking.internal.knative.dev",
                    "ingresses/status",
                    "update",
                ),
                (true, "authentication.k8s.io", "tokenreviews", "create"),
                (false, "coordination.k8s.io", "leases", "get"),
                (false, "coordination.k8s.io", "leases", "create"),
                (false, "coordination.k8s.io", "leases", "update"),
            ]
            .map(|(is_cluster, group, resource, verb)| {
                let [group, resource, verb] = [group, resource, verb].map(str::to_owned);
                (is_cluster, group, resource, verb)
            }),
        )
        .chain(both.clone())
        .collect();
    for (file, _) in BUILT {
        let named: &[&str] = match file {
            "parkway-activator.yaml" => &["routing-serving-certs"],
            // Which ones KIngresses name is not known before.
            _ => &["routing-serving-certs", "*"],
        };
        assert_eq!(secrets(&built(file)), named, "{file}: whose Secrets");
    }
    assert_eq!(granted(&built("parkway-activator.yaml")), both);
    assert_eq!(granted(&built("parkway-ingress.yaml")), ingress);
    assert_eq!(granted(&built("parkway.yaml")), ingress);
}

/// The names of the Secrets that may be read; `*` where a rule names none.
fn secrets(objects: &[Object]) -> Vec<String> {
    let rules = objects.iter().flat_map(|object| object.list("/rules"));
    let about_secrets = |rule: &&Value| {
        rule["resources"]
            .as_array()
            .unwrap()
            .contains(&json!("secrets"))
    };
    let names =
        rules
            .filter(about_secrets)
            .flat_map(|rule| match rule["resourceNames"].as_array() {
                Some(names) => names
                    .iter()
                    .map(|name| name.as_str().unwrap().to_owned())
                    .collect(),
                None => vec!["*".to_owned()],
            });
    names.collect()
}

#[test]
fn every_role_is_bound_to_the_account_of_the_pods() {
    for (file, _) in BUILT {
        let objects = built(file);
        let account = only(&objects, "ServiceAccount");
        let deployment = only(&objects, "Deployment");
        assert_eq!(
            deployment.text("/spec/template/spec/serviceAccountName"),
            account.name()
        );
        for role in objects
            .iter()
            .filter(|object| object.kind().ends_with("Role"))
        {
            let binding = find(&objects, &format!("{}Binding", role.kind()), role.name());
            assert_eq!(binding.text("/roleRef/kind"), role.kind());
            assert_eq!(binding.text("/roleRef/name"), role.name());
            assert_eq!(
                binding.list("/subjects"),
                [
                    json!({"kind": "ServiceAccount", "name": "parkway", "namespace": account.namespace()})
                ]
            );
        }
    }
}
