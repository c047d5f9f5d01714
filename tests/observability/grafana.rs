//! `deploy/grafana`: whatever the dashboard and the alerts ask for is emitted by the binary, and whatever it emits is
//! documented.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use parkway_tests::cluster::{Cluster, PodIs, serving};
use parkway_tests::metrics::Metrics;
use parkway_tests::{
    Parkway, QueueProxy, Upstream, eventually, hello_service, revision_with_endpoints, service,
    settled,
};
use serde_json::Value;

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(deploy(name)).unwrap()
}

/// All expressions of the dashboard, and of the lists one can choose from.
fn of_dashboard() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("grafana/dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let asked = targets.map(|target| target["expr"].as_str().unwrap().to_owned());
    let lists = dashboard["templating"]["list"].as_array().unwrap().iter();
    let lists = lists.filter_map(|list| {
        let definition = list["definition"].as_str()?;
        let (_, inner) = definition.split_once('(')?;
        let (series, label) = inner.trim_end_matches(')').rsplit_once(", ")?;
        Some(format!("sum by ({label}) ({series})"))
    });
    asked.chain(lists).collect()
}

/// The alerts: name, expression, what to do.
fn of_alerts() -> Vec<(String, String, String)> {
    let text = read("grafana/alerts.yaml");
    let alerts = text.split("- alert: ").skip(1);
    let field = |alert: &str, name: &str| {
        let line = alert
            .lines()
            .find_map(|line| line.trim().strip_prefix(name));
        let value = line.unwrap_or_else(|| panic!("{name} in {alert}")).trim();
        value.trim_matches('\'').replace("''", "'")
    };
    alerts
        .map(|alert| {
            let name = alert.lines().next().unwrap().trim().to_owned();
            (name, field(alert, "expr:"), field(alert, "action:"))
        })
        .collect()
}

/// What an expression for Prometheus names: series with the labels they are chosen by, and labels it groups by.
#[derive(Debug, Default)]
struct Named {
    series: BTreeMap<String, BTreeSet<String>>,
    groups: BTreeSet<String>,
}

fn named(expression: &str) -> Named {
    let mut named = Named::default();
    let text = without_texts(expression);
    let mut rest = text.as_str();
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let is_first = |letter: char| letter.is_ascii_alphabetic() || letter == '_';
    while let Some((before, from)) = rest.find(is_first).map(|start| rest.split_at(start)) {
        let is_number = before.ends_with(|letter: char| letter.is_ascii_digit());
        let end = from.find(|letter| !is_part(letter)).unwrap_or(from.len());
        let (word, after_it) = from.split_at(end);
        rest = after_it;
        let after = rest.trim_start();
        match word {
            _ if is_number => {} // the unit of a duration
            "by" | "on" | "without" => {
                let (labels, after) = inside(after, '(', ')');
                named.groups.extend(labels);
                rest = after;
            }
            "and" | "or" | "unless" | "group_left" | "group_right" | "offset" => {}
            _ if after.starts_with('(') || after.starts_with("by ") => {} // a function
            _ => {
                let labels = named.series.entry(word.to_owned()).or_default();
                if after.starts_with('{') {
                    let (chosen, after) = inside(after, '{', '}');
                    labels.extend(chosen);
                    rest = after;
                }
            }
        }
    }
    named
}

/// The names in a list with commas, and what follows it.
fn inside(text: &str, open: char, close: char) -> (Vec<String>, &str) {
    let text = text.strip_prefix(open).unwrap();
    let (list, after) = text.split_once(close).unwrap();
    let name = |part: &str| part.split(['=', '!']).next().unwrap().trim().to_owned();
    (list.split(',').map(name).collect(), after)
}

fn without_texts(expression: &str) -> String {
    let parts = expression.split('"').step_by(2);
    parts.collect::<Vec<_>>().join("\"\"")
}

/// Whether something of this has been emitted with these labels. Prometheus itself adds `instance` and `job`.
fn check(expression: &str, emitted: &[Metrics]) -> Result<(), String> {
    let named = named(expression);
    let mut labels = BTreeSet::from(["instance", "job"]);
    for (name, chosen) in &named.series {
        let samples = emitted.iter().flat_map(|metrics| metrics.of(name, &[]));
        let mut is_emitted = false;
        for sample in samples {
            labels.extend(sample.label_names());
            is_emitted |= chosen.iter().all(|label| sample.labels.contains_key(label));
        }
        if !is_emitted {
            return Err(format!("{name} with {chosen:?} is not emitted"));
        }
    }
    match { named.groups.iter() }.find(|label| !labels.contains(label.as_str())) {
        None => Ok(()),
        Some(label) => Err(format!("nothing there has the label {label}")),
    }
}

/// What a Parkway on a laptop emits to which everything has happened.
async fn on_a_laptop() -> Metrics {
    let upstream = Upstream::answering("hello").await;
    let broken = service("broken", &["no-such-command-anywhere"]);
    let half_gone = revision_with_endpoints("half", &[QueueProxy::nowhere(), upstream.address()]);
    let manifests = format!("{}---\n{broken}---\n{half_gone}", hello_service("shop"));
    let parkway = Parkway::builder()
        .manifest("main", manifests)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
        .start()
        .await;
    parkway.service("shop").post("/", "hello").await.expect(200);
    parkway.service("broken").get("/").await.expect(503);
    eventually("a request that is sent again", async || {
        parkway.service("half").get("/").await.expect(200);
        parkway.metric("parkway_retries_total", &[]).await
    })
    .await;
    settled("both starts to be counted", async || {
        let metrics = parkway.scraped().await;
        match metrics.sum("parkway_cold_starts_ended_total", &[]) {
            Some(2.0..) => Ok(()),
            _ => Err(parkway.state().await.0["coldStarts"].to_string()),
        }
    })
    .await;
    let metrics = parkway.scraped().await;
    parkway.finish().await;
    metrics
}

/// What one in a cluster emits.
async fn in_a_cluster() -> Metrics {
    let (cluster, shop) = (Cluster::start(), serving("shop"));
    cluster.put(&shop);
    let pod = QueueProxy::start("shop-1", 1).await;
    cluster.pods(&shop, &[(pod.address(), PodIs::Ready)]);
    let parkway = cluster.parkway().await;
    let site = parkway.at(shop.host());
    eventually("an answer", async || {
        (site.get("/").await.status == 200).then_some(())
    })
    .await;
    let metrics = parkway.scraped().await;
    parkway.finish().await;
    metrics
}

#[tokio::test]
async fn dashboard_and_alerts_ask_only_for_what_is_emitted_and_what_is_emitted_is_documented() {
    let emitted = [on_a_laptop().await, in_a_cluster().await];
    let mut wrong = Vec::new();
    let asked = of_dashboard();
    let alerts = of_alerts();
    assert!(asked.len() > 30 && alerts.len() > 10, "the files are read");
    let all = asked
        .iter()
        .chain(alerts.iter().map(|(_, expression, _)| expression));
    for expression in all {
        if let Err(error) = check(expression, &emitted) {
            wrong.push(format!("{error}: {expression}"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());

    let documented = read("docs/observability.md");
    let kinds = emitted.iter().flat_map(|metrics| &metrics.kinds);
    let missing: BTreeSet<_> = kinds
        .map(|(name, kind)| match kind.as_str() {
            "counter" => format!("{name}_total"),
            _ => name.clone(),
        })
        .filter(|name| {
            !["`", "{"]
                .iter()
                .any(|end| documented.contains(&format!("`{name}{end}")))
        })
        .collect();
    assert_eq!(missing, BTreeSet::new(), "not in observability.md");
}

#[test]
fn every_alert_says_what_to_do() {
    for (name, _, action) in of_alerts() {
        assert!(
            action.ends_with('.') && action.split(' ').count() >= 8,
            "{name}: {action}"
        );
    }
}

#[test]
fn what_an_expression_names_is_found() {
    let named = named(
        "sum by (le, kn_revision_name) (rate(a_bucket{x=~\"$y\",z!=\"parkway\"}[5m])) > on (instance) group_left 0.8 * b",
    );
    let series: Vec<_> = named.series.iter().collect();
    assert_eq!(series.len(), 2, "{named:?}");
    assert_eq!(
        named.series["a_bucket"],
        ["x", "z"].map(str::to_owned).into()
    );
    assert!(named.series["b"].is_empty());
    let groups = ["instance", "kn_revision_name", "le"].map(str::to_owned);
    assert_eq!(named.groups, groups.into());
}

/// By Prometheus' own tool (Debian: in the package `prometheus`).
#[test]
fn prometheus_takes_the_alerts() {
    let asked = Command::new("promtool")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !asked.is_ok_and(|status| status.success()) {
        assert!(
            env::var_os("REQUIRE_PROMTOOL").is_none(),
            "promtool is absent, and REQUIRE_PROMTOOL is set"
        );
        eprintln!("ABSENT: promtool; this test proves nothing (apt-get install prometheus)");
        return;
    }
    let checked = Command::new("promtool")
        .args(["check", "rules"])
        .arg(deploy("grafana/alerts.yaml"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.success(), "{said}");
    let tested = Command::new("promtool")
        .args(["test", "rules"])
        .arg(deploy("grafana/alerts-test.yaml"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&tested.stdout).into_owned();
    assert!(
        tested.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&tested.stderr)
    );
}
