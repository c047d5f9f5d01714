//! Knative Serving from a release's files, in the order in which it comes up.

use std::path::{Path, PathBuf};

use super::api::{ApiError, Cluster, Mode};
use super::converge::{config_network, is_put_whole};
use super::former::Former;
use super::manifests::order;
use super::object::{Name, Object};
use super::progress::{Failure, Progress, State};
use super::workload::{Patience, rollout};
use super::yaml;
use crate::cli::Target;

/// The name under which the release's fields are known to the API server: not Parkway's own, which takes fields back
/// that are not in its manifests.
const FIELD_MANAGER: &str = "parkway-knative";
/// What a release file may take: 1.23's is 0.7 MiB.
const MAX_BYTES: u64 = 16 << 20;

/// The objects of these files, in the order in which they are to be applied.
///
/// # Errors
///
/// When a file cannot be read.
pub fn read(files: &[PathBuf]) -> Result<Vec<Object>, Failure> {
    let mut objects = Vec::new();
    for file in files {
        let text = read_file(file)?;
        let read = yaml::read(&file.display().to_string(), &text);
        let read = read.map_err(|problem| Failure::new(problem.to_string()))?;
        objects.extend(read.into_iter().map(Object));
    }
    objects.sort_by_key(|object| order(object.kind()));
    Ok(objects)
}

fn read_file(file: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |what: String| {
        Failure::new(format!("--knative {}: {what}", file.display()))
            .mend("`parkway install --knative-version 1.20.0` prints how to get a release's files")
    };
    let size = std::fs::metadata(file).map_err(|error| failed(error.to_string()))?;
    if size.len() > MAX_BYTES {
        return Err(failed("too large for a release of Knative".to_owned()));
    }
    std::fs::read(file).map_err(|error| failed(error.to_string()))
}

/// Applies a release and waits until Knative answers.
///
/// What Parkway has taken the place of stays Parkway's: the release's own is kept for the day of `uninstall`.
///
/// # Errors
///
/// When the API server refuses, or Knative does not come up in time.
pub async fn install(
    cluster: &Cluster,
    target: &Target,
    objects: &[Object],
    progress: &mut Progress<'_>,
) -> Result<(), Failure> {
    let namespace = target.namespace();
    let (definitions, others): (Vec<_>, Vec<_>) = objects
        .iter()
        .partition(|object| order(object.kind()) <= order("CustomResourceDefinition"));
    for definition in &definitions {
        cluster
            .apply(definition, FIELD_MANAGER, Mode::Change)
            .await?;
    }
    progress.say(format_args!(
        "Knative: {} definitions applied",
        definitions.len()
    ));
    let names: Vec<_> = definitions
        .iter()
        .map(|definition| definition.id())
        .collect();
    let look = async || established(cluster, &names).await;
    progress
        .until("definitions of Knative's kinds", target.timeout(), look)
        .await?;
    cluster.forget_kinds();

    let mut former = Former::read(cluster, namespace).await?;
    let mut deployments = Vec::new();
    for object in &others {
        let name = object.id();
        let is_ours = is_put_whole(object.kind())
            && cluster.get(&name).await?.is_some_and(|live| live.is_ours());
        if is_ours {
            former.keep_object(object);
            continue;
        }
        // Parkway takes the activator's place: it need not come up first.
        if name.kind == "Deployment" && name.name != "activator" {
            deployments.push(name);
        }
        cluster.apply(object, FIELD_MANAGER, Mode::Change).await?;
    }
    former.write(cluster).await?;
    progress.say(format_args!("Knative: {} objects applied", others.len()));
    if target.no_wait {
        return Ok(());
    }
    for name in &deployments {
        let subject = name.to_string();
        let look = async || rollout(cluster, name, Patience::Waits).await;
        progress.until(&subject, target.timeout(), look).await?;
    }
    let look = async || webhooks_answer(cluster, namespace).await;
    progress
        .until("Knative's webhooks", target.timeout(), look)
        .await
}

async fn established(cluster: &Cluster, names: &[Name]) -> Result<State, Failure> {
    let mut waiting = Vec::new();
    let definitions = names
        .iter()
        .filter(|name| name.kind == "CustomResourceDefinition");
    for name in definitions {
        let definition = cluster.get(name).await?;
        let is_established = definition.is_some_and(|definition| {
            let mut conditions = definition.list("/status/conditions").iter();
            conditions.any(|one| one["type"] == "Established" && one["status"] == "True")
        });
        if !is_established {
            waiting.push(name.name.as_str());
        }
    }
    Ok(match waiting.first() {
        None => State::Done("established".to_owned()),
        Some(first) => State::Waiting(format!("{} to go, {first} among them", waiting.len())),
    })
}

/// A write that changes nothing passes them all.
async fn webhooks_answer(cluster: &Cluster, namespace: &str) -> Result<State, Failure> {
    let Some(config) = config_network(cluster, namespace).await? else {
        return Err(Failure::new(format!(
            "ConfigMap {namespace}/config-network is not in the release"
        )));
    };
    let patch = serde_json::json!({"data": {}});
    match cluster.merge(&config.id(), &patch, Mode::Try).await {
        Ok(_) => Ok(State::Done("they answer".to_owned())),
        Err(ApiError::Refused { message, .. }) if message.contains("webhook") => {
            Ok(State::Waiting(message))
        }
        Err(error) => Err(error.into()),
    }
}

/// The commands that fetch a release and install it.
///
/// # Errors
///
/// When it is not a version.
pub fn commands(version: &str) -> Result<String, Failure> {
    let bare = version
        .trim_start_matches("knative-")
        .trim_start_matches('v');
    let parts: Vec<&str> = bare.split('.').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let full = match parts.as_slice() {
        [_, _] if parts.iter().all(is_number) => format!("{bare}.0"),
        [_, _, _] if parts.iter().all(is_number) => bare.to_owned(),
        _ => {
            return Err(Failure::new(format!(
                "--knative-version {version}: not a version such as 1.20.0"
            )));
        }
    };
    let release = format!("https://github.com/knative/serving/releases/download/knative-v{full}");
    Ok(format!(
        "curl -fLO {release}/serving-crds.yaml\n\
         curl -fLO {release}/serving-core.yaml\n\
         parkway install --knative serving-crds.yaml --knative serving-core.yaml\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_becomes_the_commands_that_fetch_its_release() {
        let commands = |version| commands(version).map_err(|failure| failure.to_string());
        let wanted = commands("1.20.0").unwrap();
        assert!(wanted.contains("/knative-v1.20.0/serving-crds.yaml\n"));
        assert!(wanted.ends_with("--knative serving-crds.yaml --knative serving-core.yaml\n"));
        for same in ["1.20", "v1.20.0", "knative-v1.20.0"] {
            assert_eq!(commands(same).as_ref(), Ok(&wanted));
        }
        for wrong in ["", "latest", "1", "1.20.0; rm -rf /", "1..0"] {
            assert!(commands(wrong).is_err(), "{wrong}");
        }
    }
}
