//! `/events`: what changes on the page, as server-sent events, while someone looks.
//!
//! Each event carries the parts of the page that are not what they were, and in which order parts stand; nothing is
//! sent while nothing changes, and nothing computed while nobody listens. A listener that does not read is sent
//! nothing further until it does.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use serde_json::{Map, Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};

use super::page::{self, Asked};
use super::{Admin, Looking};

/// How many may listen at once; one more is answered 503, and its page tells to reload.
pub(super) const LISTENERS: usize = 32;

/// How long a connection may be silent before a comment shows that it lives.
const ALIVE: Duration = Duration::from_secs(10);

/// Answers with events until the client leaves.
pub(super) async fn answer(State(looking): State<Looking>, Query(asked): Query<Asked>) -> Response {
    let Ok(seat) = Arc::clone(&looking.seats).try_acquire_owned() else {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            [(header::RETRY_AFTER, "30")],
            format!("{LISTENERS} pages are looking already\n"),
        )
            .into_response();
    };
    Sse::new(events(looking, asked, seat))
        .keep_alive(KeepAlive::new().interval(ALIVE))
        .into_response()
}

fn events(
    looking: Looking,
    asked: Asked,
    seat: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let listener = Listener {
        looking,
        asked,
        known: Known::default(),
        next: Instant::now(),
        _seat: seat,
    };
    futures::stream::unfold(listener, async |mut listener| {
        let event = listener.next().await;
        Some((Ok(event), listener))
    })
}

struct Listener {
    looking: Looking,
    asked: Asked,
    known: Known,
    next: Instant,
    _seat: OwnedSemaphorePermit,
}

impl Listener {
    /// Waits for something that is not known yet.
    async fn next(&mut self) -> Event {
        loop {
            sleep_until(self.next).await;
            let (view, until) = self.looking.views.look(&self.looking.admin);
            self.next = until;
            let parts = page::parts(&self.looking.admin, &view, &self.asked);
            drop(view);
            if let Some(news) = self.known.news(parts) {
                return Event::default().data(news.to_string());
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // This one's seat is still taken.
        if self.looking.seats.available_permits() + 1 == LISTENERS {
            self.looking.views.forget();
        }
    }
}

/// What a listener has.
#[derive(Default)]
struct Known {
    hasher: RandomState,
    parts: HashMap<String, u64>,
    lists: HashMap<&'static str, Vec<String>>,
}

impl Known {
    fn news(&mut self, parts: page::Parts) -> Option<Value> {
        let mut changed = Map::new();
        let mut now = HashMap::with_capacity(parts.parts.len());
        for part in parts.parts {
            let hash = self.hasher.hash_one(&part.html);
            if self.parts.get(&part.id) != Some(&hash) {
                changed.insert(part.id.clone(), part.html.into());
            }
            now.insert(part.id, hash);
        }
        self.parts = now;
        let mut lists = Map::new();
        for (list, ids) in parts.lists {
            if self.lists.get(list) != Some(&ids) {
                lists.insert(list.to_owned(), ids.as_slice().into());
                self.lists.insert(list, ids);
            }
        }
        let is_news = !changed.is_empty() || !lists.is_empty();
        is_news.then(|| json!({ "parts": changed, "lists": lists }))
    }
}

impl Looking {
    pub(super) fn new(admin: Admin) -> Self {
        Self {
            admin,
            views: Arc::default(),
            seats: Arc::new(tokio::sync::Semaphore::new(LISTENERS)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::page::{Part, Parts};
    use super::*;

    fn parts(items: &[(&str, &str)]) -> Parts {
        Parts {
            lists: vec![(
                "revisions",
                items.iter().map(|(id, _)| (*id).to_owned()).collect(),
            )],
            parts: items
                .iter()
                .map(|(id, html)| Part {
                    id: (*id).to_owned(),
                    html: (*html).to_owned(),
                })
                .collect(),
        }
    }

    #[test]
    fn only_what_has_changed_is_told() {
        let mut known = Known::default();
        let first = known.news(parts(&[("a", "1"), ("b", "1")])).unwrap();
        assert_eq!(first["parts"], json!({ "a": "1", "b": "1" }));
        assert_eq!(first["lists"], json!({ "revisions": ["a", "b"] }));

        assert_eq!(known.news(parts(&[("a", "1"), ("b", "1")])), None);

        let changed = known.news(parts(&[("a", "1"), ("b", "2")])).unwrap();
        assert_eq!(changed, json!({ "parts": { "b": "2" }, "lists": {} }));

        let moved = known.news(parts(&[("b", "2"), ("a", "1")])).unwrap();
        assert_eq!(moved["lists"], json!({ "revisions": ["b", "a"] }));
        assert_eq!(moved["parts"], json!({}));
    }

    #[test]
    fn what_went_away_and_comes_back_is_told_again() {
        let mut known = Known::default();
        drop(known.news(parts(&[("a", "1")])));
        drop(known.news(parts(&[])));
        let back = known.news(parts(&[("a", "1")])).unwrap();
        assert_eq!(back["parts"], json!({ "a": "1" }));
    }
}
