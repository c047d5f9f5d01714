//! `/state`, as far as it is shown.

use std::cmp::Reverse;

use anyhow::Context as _;
use serde::Deserialize;

/// What a Parkway does at a moment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct State {
    pub(super) ready: bool,
    pub(super) waits_for: Vec<String>,
    pub(super) workers: u64,
    pub(super) connections: u64,
    pub(super) parked: u64,
    pub(super) parked_bytes: u64,
    pub(super) configuration: Configuration,
    pub(super) autoscaler: Autoscaler,
    pub(super) revisions: Vec<Revision>,
    pub(super) cold_starts: Vec<ColdStart>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Configuration {
    pub(super) generation: u64,
    pub(super) rejected: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Autoscaler {
    pub(super) kind: String,
    pub(super) connections: Vec<Connection>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Connection {
    pub(super) connected: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Revision {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) container_concurrency: u64,
    pub(super) parked: u64,
    pub(super) in_flight: u64,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) starting_seconds: Option<f64>,
    pub(super) usual_start_seconds: Option<f64>,
    pub(super) failure: Option<String>,
    pub(super) counters: Counters,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Endpoint {
    pub(super) address: String,
    pub(super) in_flight: u64,
    pub(super) ready: bool,
    pub(super) suspect: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Counters {
    pub(super) cold_starts: u64,
    pub(super) queue_full: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ColdStart {
    pub(super) number: u64,
    pub(super) namespace: String,
    pub(super) revision: String,
    pub(super) outcome: String,
    pub(super) total_ms: f64,
    pub(super) waited: u64,
    pub(super) phases: Vec<Phase>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Phase {
    pub(super) name: String,
    pub(super) ms: f64,
}

impl State {
    pub(super) fn parse(body: &[u8]) -> anyhow::Result<Self> {
        let mut state: Self = serde_json::from_slice(body)
            .context("the state cannot be read; is it a Parkway of another version?")?;
        // Where something happens comes first.
        state.revisions.sort_by(|one, other| {
            let busy = |it: &Revision| (it.parked, it.in_flight, it.starting_seconds.is_some());
            let names = (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name));
            Reverse(busy(one)).cmp(&Reverse(busy(other))).then(names)
        });
        Ok(state)
    }

    pub(super) fn revisions(&self, filter: Option<&str>) -> impl Iterator<Item = &Revision> {
        let filter = filter.unwrap_or_default().to_ascii_lowercase();
        { self.revisions.iter() }.filter(move |one| one.id().to_ascii_lowercase().contains(&filter))
    }

    pub(super) fn cold_starts(&self, filter: Option<&str>) -> impl Iterator<Item = &ColdStart> {
        let filter = filter.unwrap_or_default().to_ascii_lowercase();
        { self.cold_starts.iter() }
            .filter(move |one| one.id().to_ascii_lowercase().contains(&filter))
    }

    /// The line about the whole.
    pub(super) fn summary(&self) -> String {
        let ready = match self.ready {
            true => "ready".to_owned(),
            false => format!("waiting for {}", self.waits_for.join(", ")),
        };
        let configuration = match self.configuration.rejected {
            true => "last configuration REJECTED".to_owned(),
            false => format!("generation {}", self.configuration.generation),
        };
        let links = &self.autoscaler.connections;
        let autoscaler = match links.iter().filter(|link| link.connected).count() {
            _ if links.is_empty() => self.autoscaler.kind.clone(),
            0 => "UNREACHABLE".to_owned(),
            connected => format!("{connected}/{} connected", links.len()),
        };
        format!(
            "{ready} · {} workers · {} connections · {} parked ({}) · autoscaler {autoscaler} · {configuration}",
            self.workers,
            self.connections,
            self.parked,
            super::text::bytes(self.parked_bytes),
        )
    }
}

impl Revision {
    pub(super) fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    pub(super) fn ready(&self) -> usize {
        let ready = |endpoint: &&Endpoint| endpoint.ready && !endpoint.suspect;
        self.endpoints.iter().filter(ready).count()
    }

    /// How it stands, in a word.
    pub(super) fn stands(&self) -> &'static str {
        match (self.ready(), self.starting_seconds, &self.failure) {
            (0, _, Some(_)) => "failing",
            (0, Some(_), None) => "starting",
            (0, None, None) => "at zero",
            _ if self.parked > 0 => "busy",
            _ => "ready",
        }
    }

    /// Requests in flight, and the slots there are.
    pub(super) fn load(&self) -> String {
        match self.container_concurrency {
            0 => self.in_flight.to_string(),
            limit => format!("{}/{}", self.in_flight, limit * self.ready() as u64),
        }
    }
}

impl ColdStart {
    pub(super) fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.revision)
    }

    /// The phases that took longest.
    pub(super) fn longest(&self, most: usize) -> String {
        let mut phases: Vec<_> = self.phases.iter().collect();
        phases.sort_by(|one, other| other.ms.total_cmp(&one.ms));
        let phases = phases.into_iter().take(most);
        let phases =
            phases.map(|phase| format!("{} {}", phase.name, super::text::millis(phase.ms)));
        phases.collect::<Vec<_>>().join(", ")
    }
}
