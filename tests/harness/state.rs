//! `/state` as tests read it.

use std::fmt;

use serde_json::Value;

/// What a Parkway says about itself at one moment.
#[derive(Clone)]
pub struct State(pub Value);

impl State {
    /// Requests parked, over all Revisions.
    pub fn parked(&self) -> u64 {
        self.0["parked"].as_u64().unwrap()
    }

    /// Requests at endpoints, over all Revisions.
    pub fn in_flight(&self) -> u64 {
        self.revisions().iter().map(RevisionState::in_flight).sum()
    }

    /// Client connections open.
    pub fn connections(&self) -> u64 {
        self.0["connections"].as_u64().unwrap()
    }

    /// All Revisions.
    pub fn revisions(&self) -> Vec<RevisionState> {
        self.0["revisions"]
            .as_array()
            .unwrap()
            .iter()
            .cloned()
            .map(RevisionState)
            .collect()
    }

    /// The Revision of this name, if there is one.
    pub fn find(&self, name: &str) -> Option<RevisionState> {
        self.revisions()
            .into_iter()
            .find(|revision| revision.name() == name)
    }

    /// The Revision of this name.
    pub fn revision(&self, name: &str) -> RevisionState {
        self.find(name)
            .unwrap_or_else(|| panic!("no Revision {name} in {self:?}"))
    }

    /// What is said about the configuration.
    pub fn configuration(&self) -> &Value {
        &self.0["configuration"]
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

/// What a Parkway says about one Revision.
#[derive(Clone)]
pub struct RevisionState(pub Value);

impl RevisionState {
    /// Its name.
    pub fn name(&self) -> &str {
        self.0["name"].as_str().unwrap()
    }

    /// Requests parked.
    pub fn parked(&self) -> u64 {
        self.0["parked"].as_u64().unwrap()
    }

    /// Requests at endpoints.
    pub fn in_flight(&self) -> u64 {
        self.0["inFlight"].as_u64().unwrap()
    }

    /// Ids of its processes, whatever their phase.
    pub fn pids(&self) -> Vec<i32> {
        let pids = self.0["processes"].as_array().unwrap().iter();
        pids.filter_map(|process| i32::try_from(process["pid"].as_i64()?).ok())
            .collect()
    }

    /// How many processes it has, whatever their phase.
    pub fn processes(&self) -> usize {
        self.0["processes"].as_array().unwrap().len()
    }

    /// How many endpoints are ready and not set aside.
    pub fn ready_endpoints(&self) -> usize {
        let endpoints = self.0["endpoints"].as_array().unwrap().iter();
        endpoints
            .filter(|endpoint| endpoint["ready"] == true && endpoint["suspect"] == false)
            .count()
    }

    /// A counter by its name in `/state`.
    pub fn counter(&self, name: &str) -> u64 {
        self.0["counters"][name]
            .as_u64()
            .unwrap_or_else(|| panic!("no counter {name} in {self:?}"))
    }
}

impl fmt::Debug for RevisionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}
