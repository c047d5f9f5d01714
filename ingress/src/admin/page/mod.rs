//! The page for people: one document with nothing from elsewhere.
//!
//! It is put together here, for a browser without scripts in whole and for one with scripts part by part
//! ([`events`](super::events)): the same elements both times, so whatever can be seen live can be seen without. The
//! markup is made by a library that escapes all that comes in, because names come from manifests and hosts from clients.

mod health;
mod lane;
mod revisions;
mod routes;
mod starts;

use axum::extract::{Query, State};
use axum::http::{Uri, header};
use axum::response::{Html, IntoResponse, Response};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use parkway_activator::cold_start::REMEMBERED;
use parkway_activator::revision::RevisionId;
use serde::Deserialize;

use super::view::View;
use super::{Admin, Looking, explain};
use crate::explain::{Answer, Question};

/// How often a browser without scripts loads the page again, in seconds.
const RELOAD_SECONDS: u8 = 5;

/// What one who looks wants to see.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    /// Part of a name.
    q: String,
    /// How many starts; all that are remembered if that is less.
    starts: Option<usize>,
    /// Of a request that is tried.
    method: String,
    url: String,
    header: String,
    local: Option<String>,
}

impl Asked {
    fn filter(&self) -> &str {
        self.q.trim()
    }

    /// Whether the filter lets this pass.
    fn has(&self, name: &str) -> bool {
        let filter = self.filter();
        filter.is_empty()
            || name
                .to_ascii_lowercase()
                .contains(&filter.to_ascii_lowercase())
    }

    fn wants(&self, id: &RevisionId) -> bool {
        self.filter().is_empty() || self.has(&id.to_string())
    }

    fn method(&self) -> &str {
        match self.method.trim() {
            "" => "GET",
            method => method,
        }
    }

    fn link_to_all_starts(&self) -> String {
        let filter: String = self
            .filter()
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' => {
                    char::from(byte).to_string()
                }
                byte => format!("%{byte:02X}"),
            })
            .collect();
        format!("/?starts={REMEMBERED}&q={filter}#starts")
    }

    /// The request to try, if one is asked about.
    fn question(&self) -> Option<Result<Question, String>> {
        let url = self.url.trim();
        if url.is_empty() {
            return None;
        }
        let with_scheme = match url.contains("://") {
            true => url.to_owned(),
            false => format!("http://{url}"),
        };
        Some(
            with_scheme
                .parse::<Uri>()
                .map_err(|error| format!("{url}: {error}"))
                .and_then(|uri| {
                    let host = uri.host().ok_or_else(|| format!("{url}: no host"))?;
                    let authority = uri.authority().map_or(host, |authority| authority.as_str());
                    let headers = match self.header.trim() {
                        "" => Vec::new(),
                        header => vec![header.to_owned()],
                    };
                    Ok(Question {
                        method: self.method().to_owned(),
                        host: authority.to_owned(),
                        path: uri.path().to_owned(),
                        headers,
                        next: false,
                        local: self.local.is_some(),
                    })
                }),
        )
    }
}

/// An element that changes by itself. Its `id` is unique on the page.
pub(super) struct Part {
    pub(super) id: String,
    pub(super) html: String,
}

impl Part {
    fn new(id: &str, markup: &Markup) -> Self {
        Self {
            id: id.to_owned(),
            html: markup.0.clone(),
        }
    }

    fn markup(&self) -> PreEscaped<&str> {
        PreEscaped(&self.html)
    }
}

/// All that changes, and which parts stand in which list, in order.
pub(super) struct Parts {
    pub(super) parts: Vec<Part>,
    pub(super) lists: Vec<(&'static str, Vec<String>)>,
}

/// All parts at one moment.
pub(super) fn parts(admin: &Admin, view: &View, asked: &Asked) -> Parts {
    let sections = Sections::of(admin, view, asked);
    let ids = |parts: &[Part]| parts.iter().map(|part| part.id.clone()).collect();
    let lists = vec![
        ("revisions", ids(&sections.revisions.0)),
        ("starts", ids(&sections.starts.0)),
        ("routes", ids(&sections.routes.0)),
    ];
    let mut parts = Vec::from(sections.health);
    for (items, note) in [sections.revisions, sections.starts, sections.routes] {
        parts.extend(items);
        parts.push(note);
    }
    Parts { parts, lists }
}

struct Sections {
    health: [Part; 2],
    revisions: (Vec<Part>, Part),
    starts: (Vec<Part>, Part),
    routes: (Vec<Part>, Part),
}

impl Sections {
    fn of(admin: &Admin, view: &View, asked: &Asked) -> Self {
        Self {
            health: health::parts(admin, view),
            revisions: revisions::parts(view, asked),
            starts: starts::parts(view, asked),
            routes: routes::parts(view, asked),
        }
    }
}

/// `/`.
pub(super) async fn answer(State(looking): State<Looking>, Query(asked): Query<Asked>) -> Response {
    let tried = match asked.question() {
        None => None,
        Some(Err(mistake)) => Some(Err(mistake)),
        Some(Ok(question)) => Some(explain::explained(&looking.admin, question).await),
    };
    let (view, _) = looking.views.look(&looking.admin);
    let sections = Sections::of(&looking.admin, &view, &asked);
    Html(document(&sections, &asked, tried.as_ref()).into_string()).into_response()
}

fn document(sections: &Sections, asked: &Asked, tried: Option<&Result<Answer, String>>) -> Markup {
    let [summary, health] = &sections.health;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Parkway" }
                link rel="icon" type="image/svg+xml" href="/page.svg";
                link rel="stylesheet" href="/page.css";
                script src="/page.js" defer {}
                // While an answer is read it should stay.
                @if tried.is_none() {
                    noscript { meta http-equiv="refresh" content=(RELOAD_SECONDS); }
                }
            }
            body {
                a.skip href="#main" { "To the Revisions" }
                header {
                    h1 { img src="/page.svg" alt="" width="28" height="28"; "Parkway" }
                    (summary.markup())
                    p #link role="status" { noscript { "loaded anew every " (RELOAD_SECONDS) " s" } }
                }
                main #main {
                    form #filter role="search" method="get" action="/" {
                        label { span.unseen { "Filter by name or host" }
                            input #q type="search" name="q" value=(asked.q) maxlength="200"
                                placeholder="Filter by name or host" autocomplete="off" autocapitalize="off" spellcheck="false";
                        }
                        noscript { button { "Filter" } }
                        kbd aria-hidden="true" { "/" }
                    }
                    section aria-labelledby="revisions-title" {
                        h2 #revisions-title { "Revisions" }
                        (sections.revisions.1.markup())
                        div.scroll {
                            table #revisions .wide {
                                thead { tr {
                                    th scope="col" { "Revision" }
                                    th scope="col" { "State" }
                                    th.picture scope="col" { "Requests: waiting " span aria-hidden="true" { "│" } " at endpoints" }
                                    th.number scope="col" { "Parked" }
                                    th.number scope="col" { "In flight" }
                                    th.number scope="col" { "Ready" }
                                    th.number scope="col" { "Cold starts · mean" }
                                    th.spark scope="col" { "Last minute" }
                                } }
                                (items(&sections.revisions.0))
                            }
                        }
                    }
                    section aria-labelledby="starts-title" {
                        h2 #starts-title { "Cold starts" }
                        (sections.starts.1.markup())
                        (legend())
                        div #starts { (items(&sections.starts.0)) }
                    }
                    section aria-labelledby="routes-title" {
                        h2 #routes-title { "Routes" }
                        (routes::form(asked, tried))
                        (sections.routes.1.markup())
                        div.scroll {
                            table #routes .wide {
                                thead { tr {
                                    th scope="col" { "Host" }
                                    th scope="col" { "Path" }
                                    th scope="col" { "Goes to" }
                                } }
                                (items(&sections.routes.0))
                            }
                        }
                    }
                    section aria-labelledby="health-title" {
                        h2 #health-title { "Health" }
                        (health.markup())
                    }
                }
                footer {
                    "Parkway " (env!("CARGO_PKG_VERSION")) " · "
                    a href="/state" { "state" } " · " a href="/metrics" { "metrics" }
                }
            }
        }
    }
}

fn items(parts: &[Part]) -> Markup {
    html! { @for part in parts { (part.markup()) } }
}

fn legend() -> Markup {
    html! {
        ul.legend {
            @for (class, whose) in [
                ("parkway", "Parkway"),
                ("platform", "the platform"),
                ("workload", "the workload"),
                ("waiting", "still waiting"),
                ("gap", "a gap: nobody saw"),
            ] {
                li { svg viewBox="0 0 12 12" aria-hidden="true" { rect class=(class) width="12" height="12" rx="2" {} } " " (whose) }
            }
        }
    }
}

/// `/page.css`.
pub(super) async fn style() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/css; charset=utf-8")],
        include_str!("page.css"),
    )
}

/// `/page.js`.
pub(super) async fn script() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/javascript; charset=utf-8")],
        include_str!("page.js"),
    )
}

/// `/page.svg`.
pub(super) async fn icon() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "image/svg+xml")],
        include_str!("page.svg"),
    )
}
