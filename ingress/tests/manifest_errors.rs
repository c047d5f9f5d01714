//! What people see when they write something wrong: each kind of mistake, and the whole of what is printed.

use std::collections::BTreeMap;
use std::sync::Arc;

use parkway_activator::revision::ContainerConcurrency;
use parkway_ingress::provider::file::FileProvider;
use parkway_ingress::provider::{InvalidKey, Options, Problem, Validate};

/// Complains about one window, as an autoscaler would.
#[derive(Debug)]
struct Autoscaler;

impl Validate for Autoscaler {
    fn autoscaler_config(&self, config: &BTreeMap<String, String>) -> Vec<InvalidKey> {
        window_of_a_second(config, "stable-window")
    }

    fn scaling(
        &self,
        annotations: &BTreeMap<String, String>,
        _: ContainerConcurrency,
        _: &BTreeMap<String, String>,
    ) -> Vec<InvalidKey> {
        window_of_a_second(annotations, "autoscaling.knative.dev/window")
    }
}

fn window_of_a_second(values: &BTreeMap<String, String>, key: &str) -> Vec<InvalidKey> {
    let found = values.get(key).filter(|value| *value == "1s");
    let invalid = |value: &String| InvalidKey {
        key: key.to_owned(),
        value: value.clone(),
        problem: "a window is from 6s to 1h".to_owned(),
    };
    found.map(invalid).into_iter().collect()
}

/// What is printed about a manifest: errors when it is refused, else warnings.
fn printed(manifest: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.yaml");
    std::fs::write(&file, manifest).expect("a file");
    let mut provider = FileProvider::new(vec![file], Options::default(), Arc::new(Autoscaler));
    let problems = match provider.load() {
        Ok(world) => world.warnings,
        Err(problems) => {
            assert!(
                problems.iter().any(Problem::is_error),
                "refused without an error"
            );
            problems
        }
    };
    let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
    text.join("\n")
        .replace(&format!("{}/", folder.path().display()), "")
}

/// A Service with these lines in its container, its template's spec, and its spec.
fn service(container: &str, template: &str, spec: &str) -> String {
    let indent = |text: &str, by: &str| -> String {
        text.lines().map(|line| format!("\n{by}{line}")).collect()
    };
    format!(
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {{name: shop}}\nspec:{}\n  template:\n    spec:{}\n      containers:\n      - name: c{}\n",
        indent(spec, "  "),
        indent(template, "      "),
        indent(container, "        ")
    )
}

fn in_container(lines: &str) -> String {
    printed(&service(&format!("command: [x]\n{lines}"), "", ""))
}

fn in_template(lines: &str) -> String {
    printed(&service("command: [x]", lines, ""))
}

fn in_spec(lines: &str) -> String {
    printed(&service("command: [x]", "", lines))
}

#[test]
fn a_misspelt_field_suggests_the_right_one() {
    assert_eq!(
        in_template("containerConcurency: 10"),
        "a.yaml:7:7: error: unknown field \"containerConcurency\"\n  at spec.template.spec.containerConcurency = 10\n  help: did you mean containerConcurrency?"
    );
}

#[test]
fn an_unknown_field_lists_the_valid_ones_when_they_are_few() {
    assert_eq!(
        in_spec("replicas: 3"),
        "a.yaml:5:3: error: unknown field \"replicas\"\n  at spec.replicas = 3\n  help: valid here: template, traffic"
    );
}

#[test]
fn a_problem_in_a_later_document_says_which() {
    let text = format!(
        "{}---\n{}",
        service("command: [x]", "", ""),
        service("command: [x]", "", "replicas: 3").replace("shop", "other")
    );
    assert_eq!(
        printed(&text),
        "a.yaml:15:3 (document 2): error: unknown field \"replicas\"\n  at spec.replicas = 3\n  help: valid here: template, traffic"
    );
}

#[test]
fn a_problem_in_a_list_names_its_member() {
    let text = "{\"kind\": \"List\", \"apiVersion\": \"v1\", \"items\": [\n {\"apiVersion\": \"v1\", \"kind\": \"Service\",\n  \"metadata\": {\"name\": \"a\"}, \"spec\": {\"prots\": []}}]}\n";
    assert_eq!(
        printed(text),
        "a.yaml:3:39: error: unknown field \"prots\"\n  at items[0].spec.prots = []\n  help: did you mean ports?"
    );
}

#[test]
fn a_number_where_a_string_belongs_asks_for_quotes() {
    assert_eq!(
        in_container("env: [{name: A, value: 8080}]"),
        "a.yaml:10:25: error: this must be a string, not a number\n  at spec.template.spec.containers[0].env[0].value = 8080\n  help: put it in quotes: \"8080\""
    );
}

#[test]
fn a_string_where_a_number_belongs_asks_for_none() {
    assert_eq!(
        in_template("timeoutSeconds: \"60\""),
        "a.yaml:7:7: error: this must be a whole number, not a string\n  at spec.template.spec.timeoutSeconds = \"60\"\n  help: write it without quotes: 60"
    );
}

#[test]
fn a_map_where_a_list_belongs_says_so() {
    assert_eq!(
        in_container("args: {a: 1}"),
        "a.yaml:10:9: error: this must be a list, not a map\n  at spec.template.spec.containers[0].args = {a: 1}\n  help: begin each member with \"- \""
    );
}

#[test]
fn values_out_of_range_name_the_range() {
    assert_eq!(
        in_template("timeoutSeconds: 601"),
        "a.yaml:7:7: error: this must be from 0 to 600\n  at spec.template.spec.timeoutSeconds = 601\n  help: config-defaults sets the bound with max-revision-timeout-seconds"
    );
    assert_eq!(
        in_template("containerConcurrency: 1001"),
        "a.yaml:7:7: error: this must be from 0 to 1000\n  at spec.template.spec.containerConcurrency = 1001\n  help: 0 is unlimited; config-defaults sets the bound with container-concurrency-max-limit"
    );
    assert_eq!(
        in_template("timeoutSeconds: 10\nresponseStartTimeoutSeconds: 11"),
        "a.yaml:8:7: error: this must not exceed timeoutSeconds, which is 10\n  at spec.template.spec.responseStartTimeoutSeconds = 11"
    );
    assert_eq!(
        in_template("containerConcurrency: -1"),
        "a.yaml:7:7: error: this must be at least 0\n  at spec.template.spec.containerConcurrency = -1"
    );
}

#[test]
fn a_missing_kind_is_asked_for() {
    assert_eq!(
        printed("a: 1\n"),
        "a.yaml:1:1: error: apiVersion is missing\n  found {a: 1}\n  help: begin with \"apiVersion: serving.knative.dev/v1\" and \"kind: Service\"\na.yaml:1:1: error: kind is missing\n  found {a: 1}\n  help: begin with \"apiVersion: serving.knative.dev/v1\" and \"kind: Service\""
    );
}

#[test]
fn an_unknown_kind_is_skipped_with_a_warning() {
    assert_eq!(
        printed("apiVersion: serving.knative.dev/v1beta1\nkind: Service\nmetadata: {name: a}\n"),
        "a.yaml:2:1: warning: Service of serving.knative.dev/v1beta1 is not read here, and skipped\n  at kind = \"Service\"\n  help: it is read as apiVersion serving.knative.dev/v1"
    );
    assert_eq!(
        printed("apiVersion: v1\nkind: ConfigMaps\nmetadata: {name: a}\n"),
        "a.yaml:2:1: warning: ConfigMaps of v1 is not read here, and skipped\n  at kind = \"ConfigMaps\"\n  help: did you mean kind ConfigMap?"
    );
}

#[test]
fn an_image_without_endpoints_says_what_to_add() {
    assert_eq!(
        printed(&service("image: example.com/shop", "", "")),
        "a.yaml:9:9: error: an image is not run here, and no EndpointSlice says where it runs\n  at spec.template.spec.containers[0].image = \"example.com/shop\"\n  help: add command: [program, argument] to run it as a local process, or an EndpointSlice with the label kubernetes.io/service-name: shop-00001"
    );
}

#[test]
fn a_container_with_nothing_to_run_says_so() {
    assert_eq!(
        printed(&service("args: [x]", "", "")),
        "a.yaml:8:9: error: there is nothing to run: neither a command nor an image\n  at spec.template.spec.containers[0] = {name: \"c\", args: [\"x\"]}\n  help: add command: [program, argument], which is run as a local process"
    );
}

#[test]
fn what_only_a_cluster_can_do_is_refused_for_a_process() {
    assert_eq!(
        in_container("env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]"),
        "a.yaml:10:25: error: valueFrom takes the value from a cluster\n  at spec.template.spec.containers[0].env[0].valueFrom = {secretKeyRef: {name: \"s\", key: \"k\"}}\n  help: write the value itself: value: \"…\""
    );
    assert_eq!(
        in_template("volumes: [{name: v, emptyDir: {}}]"),
        "a.yaml:7:7: error: volumes are not mounted here\n  at spec.template.spec.volumes = [{name: \"v\", emptyDir: {}}]\n  help: a local process sees your files: use paths and workingDir"
    );
    assert_eq!(
        printed(&format!(
            "{}      - command: [y]\n",
            service("command: [x]", "", "")
        )),
        "a.yaml:7:7: error: only one container is run here, the one with a port\n  at spec.template.spec.containers = [{name: \"c\", command: [\"x\"]}, {command: [\"y\"]}]\n  help: start the others on their own, or leave them out"
    );
}

#[test]
fn what_only_a_cluster_can_do_is_a_warning_for_someone_elses_endpoints() {
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, labels: {kubernetes.io/service-name: shop-00001}}\naddressType: IPv4\nports: [{port: 80}]\nendpoints: []\n";
    let text = service("image: x\nenvFrom: [{configMapRef: {name: m}}]", "", "") + slice;
    assert_eq!(
        printed(&text),
        "a.yaml:10:9: warning: envFrom takes values from a cluster\n  at spec.template.spec.containers[0].envFrom = [{configMapRef: {name: \"m\"}}]\n  help: write the values below env"
    );
}

#[test]
fn names_knative_sets_are_refused() {
    assert_eq!(
        in_container("env: [{name: PORT, value: \"80\"}]"),
        "a.yaml:10:16: error: PORT is set by Parkway itself\n  at spec.template.spec.containers[0].env[0].name = \"PORT\"\n  help: remove it; the command reads the port to listen on from PORT"
    );
}

#[test]
fn a_probe_of_another_port_is_refused() {
    assert_eq!(
        in_container("readinessProbe: {httpGet: {path: /, port: 9999}}"),
        "a.yaml:10:45: error: only the port that serves requests is probed\n  at spec.template.spec.containers[0].readinessProbe.httpGet.port = 9999\n  help: leave the port out, or write 0"
    );
}

#[test]
fn a_port_name_that_means_nothing_is_refused() {
    assert_eq!(
        in_container("ports: [{name: grpc, containerPort: 8080}]"),
        "a.yaml:10:18: error: this must be one of h2c, http1\n  at spec.template.spec.containers[0].ports[0].name = \"grpc\""
    );
}

#[test]
fn shares_must_add_up() {
    assert_eq!(
        in_spec("traffic: [{latestRevision: true, percent: 90}]"),
        "a.yaml:5:3: error: the shares add up to 90, not to 100\n  at spec.traffic = [{latestRevision: true, percent: 90}]\n  help: change the percent fields; one that is left out counts as 0"
    );
    assert_eq!(
        in_spec("traffic: [{latestRevision: true, percent: 101}]"),
        "a.yaml:5:36: error: this must be from 0 to 100\n  at spec.traffic[0].percent = 101"
    );
}

#[test]
fn a_revision_that_does_not_exist_names_those_that_do() {
    assert_eq!(
        in_spec("traffic: [{revisionName: shop-v1, percent: 100}]"),
        "a.yaml:5:14: error: there is no Revision shop-v1\n  at spec.traffic[0].revisionName = \"shop-v1\"\n  help: known are shop-00001; add a Revision of that name as a document, or name the template by spec.template.metadata.name"
    );
}

#[test]
fn a_traffic_target_is_the_latest_or_a_named_one() {
    assert_eq!(
        in_spec("traffic: [{revisionName: shop-00001, latestRevision: true, percent: 100}]"),
        "a.yaml:5:13: error: latestRevision: true and a revisionName exclude each other\n  at spec.traffic[0] = {revisionName: \"shop-00001\", latestRevision: true, percent: 100}\n  help: keep one of them"
    );
    assert_eq!(
        in_spec("traffic: [{latestRevision: false, percent: 100}]"),
        "a.yaml:5:13: error: latestRevision: false needs a revisionName\n  at spec.traffic[0] = {latestRevision: false, percent: 100}\n  help: add one, or write latestRevision: true"
    );
}

#[test]
fn tags_are_unique_and_part_of_a_host() {
    assert_eq!(
        in_spec("traffic: [{percent: 100, tag: a}, {percent: 0, tag: a}]"),
        "a.yaml:5:37: error: the tag a is used twice\n  at spec.traffic[1] = {percent: 0, tag: \"a\"}\n  help: a tag is part of a host name: give each its own"
    );
    assert_eq!(
        in_spec("traffic: [{percent: 100, tag: A_b}]"),
        "a.yaml:5:28: error: a name here consists of at most 63 lower-case letters, digits and dashes, begins with a letter and does not end with a dash\n  at spec.traffic[0].tag = \"A_b\"\n  help: a tag is part of a host name"
    );
}

#[test]
fn a_revisions_name_begins_with_the_services() {
    let text = service("command: [x]", "", "")
        .replace("  template:\n", "  template:\n    metadata: {name: v1}\n");
    assert_eq!(
        printed(&text),
        "a.yaml:6:16: error: a Revision's name must begin with \"shop-\"\n  at spec.template.metadata.name = \"v1\"\n  help: write shop-v1, or leave the name out"
    );
}

#[test]
fn scaling_annotations_belong_to_the_template() {
    let text = service("command: [x]", "", "").replace(
        "{name: shop}",
        "{name: shop, annotations: {autoscaling.knative.dev/min-scale: \"1\"}}",
    );
    assert_eq!(
        printed(&text),
        "a.yaml:3:38: error: autoscaling.knative.dev/min-scale does nothing on the Service itself\n  at metadata.annotations[\"autoscaling.knative.dev/min-scale\"] = \"1\"\n  help: move it to spec.template.metadata.annotations"
    );
}

fn with_annotation(annotation: &str) -> String {
    let metadata =
        format!("  template:\n    metadata:\n      annotations:\n        {annotation}\n");
    printed(&service("command: [x]", "", "").replace("  template:\n", &metadata))
}

#[test]
fn what_the_autoscaler_refuses_has_file_and_line() {
    assert_eq!(
        with_annotation("autoscaling.knative.dev/window: 1s"),
        "a.yaml:8:9: error: a window is from 6s to 1h\n  at spec.template.metadata.annotations[\"autoscaling.knative.dev/window\"] = 1s"
    );
    let config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config-autoscaler}\ndata:\n  stable-window: 1s\n";
    assert_eq!(
        printed(config),
        "a.yaml:5:3: error: a window is from 6s to 1h\n  at data[\"stable-window\"] = 1s"
    );
}

#[test]
fn a_misspelt_scaling_annotation_is_a_warning() {
    assert_eq!(
        with_annotation("autoscaling.knative.dev/minscale: \"1\""),
        "a.yaml:8:9: warning: there is no annotation autoscaling.knative.dev/minscale\n  at spec.template.metadata.annotations[\"autoscaling.knative.dev/minscale\"] = \"1\"\n  help: did you mean autoscaling.knative.dev/min-scale?"
    );
}

#[test]
fn a_progress_deadline_is_a_duration() {
    assert_eq!(
        with_annotation("serving.knative.dev/progress-deadline: soon"),
        "a.yaml:8:9: error: this is not a duration above zero\n  at spec.template.metadata.annotations[\"serving.knative.dev/progress-deadline\"] = \"soon\"\n  help: write one such as 90s or 10m"
    );
}

#[test]
fn an_object_stands_once() {
    let text = format!(
        "{}---\n{}",
        service("command: [x]", "", ""),
        service("command: [y]", "", "")
    );
    assert_eq!(
        printed(&text),
        "a.yaml:13:12 (document 2): error: the Service (serving.knative.dev) default/shop stands here a second time\n  at metadata.name = \"shop\"\n  help: it is already in a.yaml:1: keep one of them, or rename it"
    );
}

#[test]
fn a_name_that_cannot_be_a_host_is_refused() {
    assert_eq!(
        printed(&service("command: [x]", "", "").replace("{name: shop}", "{name: my.shop}")),
        "a.yaml:3:12: error: a name here consists of at most 63 lower-case letters, digits and dashes, begins with a letter and does not end with a dash\n  at metadata.name = \"my.shop\""
    );
}

#[test]
fn wrong_settings_are_refused_where_they_stand() {
    let config = |name: &str, line: &str| {
        printed(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata:\n  {line}\n"
        ))
    };
    assert_eq!(
        config("config-network", "domain-template: \"{{.Annotations}}.x\""),
        "a.yaml:5:3: error: {{.Annotations}} is not understood; only {{.Name}}, {{.Namespace}}, {{.Domain}} are\n  at data[\"domain-template\"] = {{.Annotations}}.x"
    );
    assert_eq!(
        config("config-network", "http-protocol: Maybe"),
        "a.yaml:5:3: error: this must be Enabled or Redirected\n  at data[\"http-protocol\"] = Maybe"
    );
    assert_eq!(
        config("config-defaults", "revision-timeout-seconds: \"700\""),
        "a.yaml:5:3: error: this must not exceed max-revision-timeout-seconds, which is 600\n  at data[\"revision-timeout-seconds\"] = 700"
    );
    assert_eq!(
        config("config-defaults", "container-concurrency: many"),
        "a.yaml:5:3: error: this must be a whole number, at least 0\n  at data[\"container-concurrency\"] = \"many\""
    );
    assert_eq!(
        config("config-domain", "example.com: \"selector: [a]\""),
        "a.yaml:5:3: error: the value may only have a selector, not \"selector\"\n  at data[\"example.com\"] = \"selector: [a]\"\n  help: leave the value empty, or write \"selector:\" with labels below it"
    );
    assert_eq!(
        config("config-autoscaler", "stable-window: 60"),
        "a.yaml:5:3: error: this must be a string, not a number\n  at data[\"stable-window\"] = 60\n  help: put it in quotes: \"60\""
    );
}

fn ingress(paths: &str) -> String {
    printed(&format!(
        "apiVersion: networking.internal.knative.dev/v1alpha1\nkind: Ingress\nmetadata: {{name: i}}\nspec:\n  rules:\n  - hosts: [a.example.com]\n    http:\n      paths: {paths}\n"
    ))
}

#[test]
fn a_kingress_is_checked_as_the_webhook_would() {
    assert_eq!(
        ingress("[]"),
        "a.yaml:8:7: error: a rule needs a path\n  at spec.rules[0].http.paths = []"
    );
    assert_eq!(
        ingress("[{splits: [{serviceName: a, servicePort: 80}]}]"),
        "a.yaml:8:25: error: the Service must be in the namespace of the KIngress\n  at spec.rules[0].http.paths[0].splits[0].serviceNamespace\n  help: write default"
    );
    assert_eq!(
        ingress(
            "[{splits: [{serviceNamespace: default, serviceName: a, servicePort: 80, percent: 50}]}]"
        ),
        "a.yaml:8:16: error: the shares add up to 50, not to 100\n  at spec.rules[0].http.paths[0].splits = [{serviceNamespace: \"default\", serviceName: \"a\", servicePort: 80, percent: 50}]\n  help: change the percent fields"
    );
    assert_eq!(
        ingress("[{splits: [{serviceNamespace: default, serviceName: a}]}]"),
        "a.yaml:8:25: error: a split needs a servicePort: a number or a name\n  at spec.rules[0].http.paths[0].splits[0].servicePort"
    );
    assert_eq!(
        ingress("[{appendHeaders: {\"a b\": c}, splits: [{serviceNamespace: default, serviceName: a, servicePort: 80}]}]")
            .lines()
            .take(2)
            .collect::<Vec<_>>(),
        [
            "a.yaml:8:32: error: this is not a header",
            "  at spec.rules[0].http.paths[0].appendHeaders[\"a b\"] = \"c\""
        ]
    );
}

#[test]
fn an_endpoint_that_is_no_address_is_refused() {
    assert_eq!(
        printed(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: e}\naddressType: IPv4\nendpoints: [{addresses: [\"localhost:80\"]}]\n"
        ),
        "a.yaml:5:26: error: this is not an IP address\n  at endpoints[0].addresses[0] = \"localhost:80\"\n  help: write one such as 127.0.0.1; the port stands below ports"
    );
}

#[test]
fn problems_are_data_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.yaml");
    std::fs::write(&file, service("command: [x]", "", "replicas: 3")).expect("a file");
    let mut provider = FileProvider::new(vec![file], Options::default(), Arc::new(Autoscaler));
    let problems = provider.load().expect_err("refused");
    let json = serde_json::to_value(&problems[0]).expect("JSON");
    assert_eq!(json["severity"], "error");
    assert_eq!(
        (&json["document"], &json["line"], &json["column"]),
        (&1.into(), &5.into(), &3.into())
    );
    assert_eq!(
        (&json["field"], &json["value"]),
        (&"spec.replicas".into(), &"3".into())
    );
}

/// A Service whose route asks for this.
fn asking(annotation: &str) -> String {
    let shop = service("command: [x]", "", "");
    let metadata = format!("metadata: {{name: shop, annotations: {{{annotation}}}}}");
    printed(&shop.replace("metadata: {name: shop}", &metadata))
}

#[test]
fn annotation_of_ours_that_nobody_knows() {
    assert_eq!(
        asking("parkway.dev/retry-no: \"503\""),
        "a.yaml:3:38: error: there is no annotation parkway.dev/retry-no\n  at metadata.annotations[\"parkway.dev/retry-no\"] = \"503\"\n  help: did you mean parkway.dev/retry-on?"
    );
}

#[test]
fn annotation_of_ours_with_a_value_that_cannot_be_meant() {
    let at = "at metadata.annotations[\"parkway.dev/timeout-idle\"]";
    assert_eq!(
        asking("parkway.dev/timeout-idle: 5"),
        format!(
            "a.yaml:3:38: error: this must be a string, not a number\n  {at} = 5\n  help: put it in quotes: \"5\""
        )
    );
    assert_eq!(
        asking("parkway.dev/timeout-idle: \"5\""),
        format!(
            "a.yaml:3:38: error: this is not a duration\n  {at} = \"5\"\n  help: write one such as 250ms, 30s or 5m; off is no timeout"
        )
    );
}

#[test]
fn annotation_of_ours_on_a_template() {
    let shop = service("command: [x]", "", "");
    let template = "template:\n    metadata: {annotations: {parkway.dev/retry-on: \"503\"}}";
    assert_eq!(
        printed(&shop.replacen("template:", template, 1)),
        "a.yaml:6:30: error: parkway.dev/retry-on does nothing on a Revision\n  at spec.template.metadata.annotations[\"parkway.dev/retry-on\"] = \"503\"\n  help: move it to metadata.annotations of the Service"
    );
}
