//! A cold start told in words: on the page, and by `parkway why`.

use std::time::Duration;

use parkway_activator::cold_start::{ColdStartState, Outcome, PhaseName};

use super::text::millis;

/// What most of the time went into, in a sentence.
pub(super) fn sentence(start: &ColdStartState) -> String {
    let total = ms(start.total);
    let Some(longest) = start.phases.iter().max_by_key(|phase| phase.duration()) else {
        return "It has only just begun.".to_owned();
    };
    let share = match total {
        0.0 => 100.0,
        total => ms(longest.duration()) / total * 100.0,
    };
    let what = match longest.name {
        PhaseName::Waiting => format!("waiting (seen last: {})", longest.after.as_str()),
        name => told(name).0.to_owned(),
    };
    let of = format!(
        "{} of {} ({share:.0} %)",
        millis(ms(longest.duration())),
        millis(total)
    );
    match start.outcome {
        Outcome::Starting => format!(
            "Under way for {}; longest so far: {what}, {of}.",
            millis(total)
        ),
        Outcome::Ready => format!("Most of it was {what}: {of}."),
        Outcome::Failed(_) | Outcome::Abandoned => {
            format!("It came to nothing; most of it was {what}: {of}.")
        }
    }
}

/// The phases that took longest, the longest first.
pub(super) fn longest(start: &ColdStartState, most: usize) -> String {
    let mut phases: Vec<_> = start.phases.iter().collect();
    phases.sort_by_key(|phase| std::cmp::Reverse(phase.duration()));
    let phases = phases.into_iter().take(most).map(|phase| {
        let (what, _) = told(phase.name);
        format!("{what} {}", millis(ms(phase.duration())))
    });
    phases.collect::<Vec<_>>().join(", ")
}

pub(super) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A phase within a sentence, and what it is made of.
pub(super) fn told(phase: PhaseName) -> (&'static str, &'static str) {
    use PhaseName as P;
    match phase {
        P::Parking => (
            "parking",
            "From the request's arrival until it had its place in the queue.",
        ),
        P::Signal => (
            "telling the autoscaler",
            "Until the autoscaler was told that somebody waits.",
        ),
        P::Decision => (
            "the autoscaler's decision",
            "Until the autoscaler asked for replicas.",
        ),
        P::Spawn => ("starting the process", "Until the process was started."),
        P::PodCreation => (
            "creating the Pod",
            "Until there was a Pod: the autoscaler decided, and the cluster's controllers acted.",
        ),
        P::Scheduling => ("scheduling", "Until the Pod had a node."),
        P::Sandbox => (
            "the Pod's network",
            "Until the Pod had a sandbox with an address.",
        ),
        P::ImagePull => ("pulling the image", "Until the images were on the node."),
        P::ContainerStart => (
            "starting the containers",
            "Until the containers ran; with the pull, where nobody says when that ended.",
        ),
        P::FirstProbe => (
            "reaching the first probe",
            "Until the replica was asked for the first time whether it serves.",
        ),
        P::Readiness => (
            "the workload getting ready",
            "From the first probe until the replica said that it serves: the workload's own start.",
        ),
        P::Release => (
            "letting the request go",
            "Until the first parked request was let go.",
        ),
        P::Connect => (
            "connecting",
            "Until the request had a connection to its endpoint.",
        ),
        P::FirstByte => ("the workload's first answer", "Until the response began."),
        P::Response => ("the response", "Until the response ended."),
        P::Waiting => (
            "waiting for what comes next",
            "Nothing further has been seen since.",
        ),
        P::Gap => ("a gap", "Nobody saw what this time went into."),
    }
}
