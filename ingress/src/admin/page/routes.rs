//! Hosts, their paths, and which share goes where; and what one request would meet.

use maud::{Markup, html};

use super::super::text::count_of;
use super::super::view::{ListedHost, View};
use super::{Asked, Part};
use crate::explain::Answer;
use crate::routing::rules::{Backend, Target, Visibility};
use crate::routing::table::Match;

/// How many hosts are shown; the others are found with the filter.
const ROWS: usize = 50;

/// How many paths of one host are shown.
const PATHS: usize = 10;

/// The hosts that are shown, and a line about those that are not.
pub(super) fn parts(view: &View, asked: &Asked) -> (Vec<Part>, Part) {
    let found = || view.hosts.iter().filter(|host| asked.has(&host.host));
    let parts: Vec<_> = found()
        .take(ROWS)
        .map(|host| {
            let id = format!("host:{}", host.host);
            let html = row(&id, host, view).into_string();
            Part { id, html }
        })
        .collect();
    let note = note(parts.len(), found().count(), view.hosts.len());
    (parts, Part::new("routes-note", &note))
}

fn note(shown: usize, found: usize, known: usize) -> Markup {
    html! {
        p #routes-note .note {
            @if shown < found {
                (shown) " of " (found) " hosts shown. The filter finds the others."
            } @else if found < known {
                (found) " of " (count_of(known, "host")) "."
            } @else {
                (count_of(known, "host")) "."
            }
        }
    }
}

fn row(id: &str, host: &ListedHost, view: &View) -> Markup {
    let entrance = if host.is_external {
        Visibility::ExternalIp
    } else {
        Visibility::ClusterLocal
    };
    let paths: Vec<_> = view.routes.paths(entrance, &host.host).collect();
    html! {
        tbody id=(id) {
            @for (place, path) in paths.iter().take(PATHS).enumerate() {
                tr {
                    @if place == 0 {
                        th scope="rowgroup" rowspan=(paths.len().min(PATHS)) data-label="Host" {
                            span.name { (host.host) }
                            @if !host.is_external { " " span.chip.rest { "cluster-local" } }
                        }
                    }
                    td data-label="Path" { (described(path)) }
                    td data-label="Goes to" { (shares(path)) }
                }
            }
        }
    }
}

fn described(path: &Match<'_>) -> Markup {
    html! {
        code { @if path.path.prefix.is_empty() { "/" } @else { (path.path.prefix) } }
        @for (name, value) in &path.path.headers {
            br; code.condition { (name.as_str()) ": " (String::from_utf8_lossy(value.as_bytes())) }
        }
        @if let Some(host) = &path.path.rewrite_host { br; span.note { "as " (host) } }
    }
}

fn shares(path: &Match<'_>) -> Markup {
    html! {
        ul.shares {
            @for (percent, backend) in path.path.splits.iter() {
                li {
                    svg.share viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true" {
                        rect.rest width="100" height="8" {}
                        rect.parkway width=(percent) height="8" {}
                    }
                    " " span.percent { (percent) " %" } " " (target(backend))
                }
            }
        }
    }
}

fn target(backend: &Backend) -> Markup {
    html! {
        @match &backend.target {
            Target::Revision { id, .. } => span.name { (id.to_string()) },
            Target::Service { id, .. } => { span.name { (id.to_string()) } " " span.note { "Service" } },
            Target::External { host, port, .. } => { span.name { (host) ":" (port) } " " span.note { "elsewhere" } },
            Target::Missing { reason } => { span.chip.bad { "missing" } " " (&**reason) },
        }
    }
}

/// Where one can ask what a request would meet, and what was answered.
pub(super) fn form(asked: &Asked, answer: Option<&Result<Answer, String>>) -> Markup {
    html! {
        form #try method="get" action="/#try" {
            @if !asked.q.is_empty() { input type="hidden" name="q" value=(asked.q); }
            label.method { "Method"
                input name="method" value=(asked.method()) size="7" maxlength="20" autocomplete="off" spellcheck="false";
            }
            label.url { "URL"
                input name="url" value=(asked.url) placeholder="hello.default.localhost/path" maxlength="4000" required
                    inputmode="url" autocomplete="off" autocapitalize="off" spellcheck="false";
            }
            label.header { "Header"
                input name="header" value=(asked.header) placeholder="Name: value" maxlength="2000" autocomplete="off" spellcheck="false";
            }
            label.check {
                input type="checkbox" name="local" value="1" checked[asked.local.is_some()];
                " cluster-local"
            }
            button { "Try" }
        }
        div #answer role="status" {
            @match answer {
                None => p.note { "Says which rule and Revision a request would meet, and whether it would wait. Nothing is sent." },
                Some(Ok(answer)) => {
                    p {
                        @if answer.is_served { span.chip.good { "served" } } @else { span.chip.bad { "not served" } }
                    }
                    pre { (answer.text) }
                },
                Some(Err(mistake)) => p.mistake { (mistake) },
            }
        }
    }
}
