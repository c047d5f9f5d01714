//! What Parkway depends on: how each is, the last error, and what to do about it.

use maud::{Markup, html};

use super::super::text::{bytes, count_of};
use super::super::view::View;
use super::super::{Admin, Autoscaler};
use super::Part;
use crate::provider::problem::{Problem, Severity};
use crate::telemetry;
use crate::trace::Tracer;

/// How many problems of the configuration are listed.
const PROBLEMS: usize = 20;

/// How many KIngresses that are not Ready are listed.
const WAITING: usize = 20;

/// One thing that can be well or not.
struct Item {
    name: String,
    is_well: bool,
    /// How it is.
    now: String,
    /// What is wrong and what to do, each in a line or several.
    notes: Vec<Note>,
}

struct Note {
    error: String,
    remedy: String,
}

impl Item {
    fn new(name: impl Into<String>, is_well: bool, now: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            is_well,
            now: now.into(),
            notes: Vec::new(),
        }
    }

    fn note(mut self, error: impl Into<String>, remedy: impl Into<String>) -> Self {
        self.notes.push(Note {
            error: error.into(),
            remedy: remedy.into(),
        });
        self
    }
}

/// The head's numbers, what needs attention, and the whole list.
pub(super) fn parts(admin: &Admin, view: &View) -> [Part; 2] {
    let items = items(admin, view);
    [
        Part::new("summary", &summary(admin, view, &items)),
        Part::new("health", &list(&items)),
    ]
}

fn summary(admin: &Admin, view: &View, items: &[Item]) -> Markup {
    let in_flight: u64 = view.revisions.iter().map(|one| one.in_flight).sum();
    let unwell: Vec<_> = items.iter().filter(|item| !item.is_well).collect();
    html! {
        div #summary {
            ul.numbers {
                li { b { (view.revisions.len()) } " " @if view.revisions.len() == 1 { "Revision" } @else { "Revisions" } }
                li { b { (admin.throttler.parked()) } " parked" @if admin.throttler.parked() > 0 { span.of { ", " (bytes(admin.throttler.parked_bytes())) } } }
                li { b { (in_flight) } " in flight" }
                li { b { (admin.places.open()) } @if admin.places.open() == 1 { " connection" } @else { " connections" } }
            }
            @if unwell.is_empty() {
                p.verdict { span.chip.good { "all well" } }
            } @else {
                p.verdict role="alert" {
                    a.chip.bad href="#health" {
                        @for (place, item) in unwell.iter().enumerate() {
                            @if place > 0 { ", " } (item.name)
                        }
                        ": needs a look"
                    }
                }
            }
        }
    }
}

fn list(items: &[Item]) -> Markup {
    html! {
        div #health {
            @for item in items {
                section.item.unwell[!item.is_well] {
                    h3 { (item.name) }
                    p { span class=(if item.is_well { "chip good" } else { "chip bad" }) { (item.now) } }
                    @for note in &item.notes {
                        div.trouble {
                            pre { (note.error) }
                            @if !note.remedy.is_empty() { p.remedy { (note.remedy) } }
                        }
                    }
                }
            }
        }
    }
}

fn items(admin: &Admin, view: &View) -> Vec<Item> {
    let mut items = vec![process(admin), configuration(view)];
    items.push(workloads(view));
    items.extend(autoscaler(&admin.autoscaler));
    items.extend(watches(admin));
    items.extend(leader(admin));
    items.extend(traces(&admin.tracer));
    if telemetry::panics() > 0 {
        let count = count_of(telemetry::panics(), "bug");
        items.push(Item::new("Bugs", false, count).note(
            "a request or task ended where it should not have",
            "The log has each with its backtrace (\"a bug:\"). Please report it.",
        ));
    }
    items
}

fn process(admin: &Admin) -> Item {
    let waits_for = admin.ready.waits_for();
    let workers = count_of(admin.workers, "worker");
    if waits_for.is_empty() {
        return Item::new("Process", true, format!("ready, {workers}"));
    }
    Item::new("Process", false, "not ready").note(
        format!("waits for {}", waits_for.join(", ")),
        "/readyz answers 503 until then, and nobody is sent here.",
    )
}

fn configuration(view: &View) -> Item {
    let found = &view.configuration;
    let generation = view.routes.generation();
    let mut item = match found.is_rejected {
        true => Item::new(
            "Configuration",
            false,
            format!("the last edit is not in effect; generation {generation} stays"),
        ),
        false => Item::new(
            "Configuration",
            true,
            format!("generation {generation} in effect"),
        ),
    };
    let problems = found.problems.iter();
    for problem in problems
        .filter(|problem| problem.severity != Severity::Note)
        .take(PROBLEMS)
    {
        item = item.note(without_remedy(problem), problem.remedy.clone());
    }
    for conflict in found.conflicts.iter().take(PROBLEMS) {
        item = item.note(conflict.clone(), "The older rule keeps the host.");
    }
    item
}

fn without_remedy(problem: &Problem) -> String {
    problem.clone().remedy("").to_string()
}

fn workloads(view: &View) -> Item {
    let failing: Vec<_> = view
        .revisions
        .iter()
        .filter(|revision| revision.failure.is_some())
        .collect();
    if failing.is_empty() {
        return Item::new("Starts", true, "no Revision fails to start");
    }
    let mut item = Item::new(
        "Starts",
        false,
        format!("{} cannot start", count_of(failing.len(), "Revision")),
    );
    for revision in failing.into_iter().take(PROBLEMS) {
        let failure = revision.failure.as_deref().unwrap_or_default();
        item = item.note(
            format!("{}: {failure}", revision.id),
            "The next request tries again. Its requests are answered 503 meanwhile.",
        );
    }
    item
}

fn autoscaler(autoscaler: &Autoscaler) -> Vec<Item> {
    let Autoscaler::Remote(sink) = autoscaler else {
        return vec![Item::new("Autoscaler", true, "inside this process")];
    };
    let connections = sink.connections().into_iter().map(|connection| {
        let now = match connection.is_connected {
            true => "connected",
            false => "not connected",
        };
        let item = Item::new(
            format!("Autoscaler {}", connection.address),
            connection.is_connected,
            now,
        );
        match connection.is_connected {
            true => item,
            false => item.note(
                format!(
                    "{}\n{} and {} dropped so far",
                    connection.last_error.as_deref().unwrap_or("not tried yet"),
                    count_of(connection.errors, "failure"),
                    count_of(connection.dropped, "report")
                ),
                "Nothing is scaled from here until it stands. Check that the autoscaler runs, and that its port can be \
                 reached from here (Service, NetworkPolicy).",
            ),
        }
    });
    connections.collect()
}

fn watches(admin: &Admin) -> Vec<Item> {
    let Some(watches) = &admin.watches else {
        return Vec::new();
    };
    let watches = watches.state().into_iter().map(|(kind, watch)| {
        let is_well = watch.is_synced && watch.failing.is_none();
        let now = match (&watch.failing, watch.is_synced) {
            (Some(_), _) => "failing".to_owned(),
            (None, false) => "not seen yet".to_owned(),
            (None, true) => "in step".to_owned(),
        };
        let item = Item::new(format!("Watch of {kind}"), is_well, now);
        match watch.failing {
            Some(failing) => item.note(
                failing,
                "What was seen last stays in effect. If it says forbidden, Parkway's ClusterRole lacks a rule; else the \
                 API server cannot be reached.",
            ),
            None => item,
        }
    });
    watches.collect()
}

fn leader(admin: &Admin) -> Option<Item> {
    let (leadership, board) = admin.leading.as_ref()?;
    let holder = leadership.holder();
    let now = match (leadership.is_leader(), &holder) {
        (true, _) => "this replica writes status".to_owned(),
        (false, Some(holder)) => format!("{holder} writes status"),
        (false, None) => "nobody writes status".to_owned(),
    };
    let mut item = Item::new("Leader", leadership.is_leader() || holder.is_some(), now);
    for waiting in board.waiting(WAITING) {
        item = item.note(
            format!("KIngress {} is not Ready: {}", waiting.key, waiting.why),
            "",
        );
    }
    Some(item)
}

/// Nothing while there are none.
fn traces(tracer: &Tracer) -> Option<Item> {
    if !tracer.is_on() {
        return None;
    }
    let counts = tracer.counts();
    let sent = format!("{} sent", count_of(counts.exported, "span"));
    let Some(failing) = tracer.failing() else {
        return Some(Item::new("Traces", true, sent));
    };
    let lost = count_of(counts.failed + counts.full, "span");
    let item = Item::new("Traces", false, format!("spans are lost; {sent}"));
    Some(item.note(
        format!("{failing}\n{lost} lost so far"),
        "Requests are served all the same. Check that the collector runs, and that OTEL_EXPORTER_OTLP_ENDPOINT or \
         tracing-endpoint of config-observability names it and its protocol.",
    ))
}
