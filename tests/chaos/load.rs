//! Clients that ask without pause, and what became of their requests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Method, Request};
use parkway_tests::{Answer, Site};
use tokio::task::JoinHandle;

/// Makes the request of a number; each number is asked once.
type Make = Arc<dyn Fn(usize) -> Request<Bytes> + Send + Sync>;

/// Clients at work. Dropping it leaves them to the test's runtime, which ends them.
pub(crate) struct Load {
    ends: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Tally>>,
}

/// What became of requests.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// How many whole answers had which status.
    pub(crate) statuses: BTreeMap<u16, usize>,
    /// Which request got which status.
    pub(crate) by_number: BTreeMap<usize, u16>,
    /// Answers that had begun and broke off, which nobody can help.
    pub(crate) begun: Vec<String>,
    /// Requests without an answer, or with one that blames us or the endpoint.
    pub(crate) failures: Vec<String>,
}

impl Load {
    /// GETs of this path.
    pub(crate) fn get(site: &Site, path: &str, clients: usize) -> Self {
        let path = path.to_owned();
        Self::start(site, clients, move |_number| {
            Request::get(path.as_str()).body(Bytes::new()).unwrap()
        })
    }

    /// GETs of this path, and PUTs of short texts that must come back as they went.
    pub(crate) fn echo(site: &Site, path: &str, clients: usize) -> Self {
        let path = path.to_owned();
        Self::start(site, clients, move |number| match number % 2 {
            0 => Request::get(path.as_str()).body(Bytes::new()).unwrap(),
            _ => Request::put(path.as_str())
                .body(Bytes::from(format!("text {number} ").repeat(100)))
                .unwrap(),
        })
    }

    /// GETs of this path, from clients that are spread over several entrances to the same site; who loses a connection
    /// connects to the next one.
    pub(crate) fn get_anywhere(sites: &[Site], path: &str, clients: usize) -> Self {
        let path = path.to_owned();
        Self::start_at(sites, clients, move |_number| {
            Request::get(path.as_str()).body(Bytes::new()).unwrap()
        })
    }

    /// Half of the clients speak HTTP/1.1, half HTTP/2; each keeps its connection as long as it can.
    pub(crate) fn start(
        site: &Site,
        clients: usize,
        make: impl Fn(usize) -> Request<Bytes> + Send + Sync + 'static,
    ) -> Self {
        Self::start_at(std::slice::from_ref(site), clients, make)
    }

    fn start_at(
        sites: &[Site],
        clients: usize,
        make: impl Fn(usize) -> Request<Bytes> + Send + Sync + 'static,
    ) -> Self {
        let (ends, answered, numbers) = (Arc::default(), Arc::default(), Arc::default());
        let make: Make = Arc::new(make);
        let sites: Arc<[Site]> = sites.into();
        let client = |index: usize| {
            let client = Client {
                sites: Arc::clone(&sites),
                // Two neighbours, who speak differently, have the same.
                at: index / 2 % sites.len(),
                make: Arc::clone(&make),
                ends: Arc::clone(&ends),
                answered: Arc::clone(&answered),
                numbers: Arc::clone(&numbers),
                tally: Tally::default(),
            };
            if index.is_multiple_of(2) {
                tokio::spawn(client.http1())
            } else {
                tokio::spawn(client.http2())
            }
        };
        let clients = (0..clients).map(client).collect();
        Self {
            ends,
            answered,
            clients,
        }
    }

    /// How many requests were answered so far, in whatever way.
    pub(crate) fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until so many more were answered.
    pub(crate) async fn more(&self, count: usize) {
        let wanted = self.answered() + count;
        parkway_tests::eventually(format!("{count} more answers"), async || {
            (self.answered() >= wanted).then_some(())
        })
        .await;
    }

    /// Lets every client finish its request.
    pub(crate) async fn stop(self) -> Tally {
        self.ends.store(true, Ordering::Relaxed);
        let mut whole = Tally::default();
        for client in self.clients {
            whole.add(client.await.unwrap());
        }
        whole
    }
}

struct Client {
    sites: Arc<[Site]>,
    /// Which of them it uses.
    at: usize,
    make: Make,
    ends: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    numbers: Arc<AtomicUsize>,
    tally: Tally,
}

impl Client {
    async fn http1(mut self) -> Tally {
        let mut connection = self.site().http1().await;
        while let Some((number, request)) = self.next() {
            let echo = echo_of(&request);
            let answer = connection.try_send(request).await;
            if answer.is_err() || connection.is_closed() {
                self.at = (self.at + 1) % self.sites.len();
                connection = self.site().http1().await;
            }
            self.note(number, echo, answer);
        }
        self.tally
    }

    async fn http2(mut self) -> Tally {
        let mut connection = self.site().http2().await;
        while let Some((number, request)) = self.next() {
            let echo = echo_of(&request);
            let answer = connection.try_send(request).await;
            if answer.is_err() {
                self.at = (self.at + 1) % self.sites.len();
                connection = self.site().http2().await;
            }
            self.note(number, echo, answer);
        }
        self.tally
    }

    fn site(&self) -> &Site {
        &self.sites[self.at]
    }

    fn next(&self) -> Option<(usize, Request<Bytes>)> {
        if self.ends.load(Ordering::Relaxed) {
            return None;
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        Some((number, (self.make)(number)))
    }

    fn note(&mut self, number: usize, echo: Option<Bytes>, answer: Result<Answer, String>) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        let is_other =
            |answer: &Answer| answer.status == 200 && echo.is_some_and(|echo| echo != answer.body);
        match answer {
            Ok(answer) if answer.broken.is_none() && is_other(&answer) => {
                self.tally
                    .failures
                    .push(format!("this is not what was sent: {answer:?}"));
            }
            answer => self.tally.note(number, answer),
        }
    }
}

/// What a workload makes of a PUT.
fn echo_of(request: &Request<Bytes>) -> Option<Bytes> {
    (request.method() == Method::PUT).then(|| request.body().clone())
}

impl Tally {
    fn note(&mut self, number: usize, answer: Result<Answer, String>) {
        match answer {
            Ok(answer) if answer.broken.is_none() => {
                let status = answer.status.as_u16();
                *self.statuses.entry(status).or_insert(0) += 1;
                self.by_number.insert(number, status);
                if status >= 500 {
                    self.failures.push(format!("{answer:?}"));
                }
            }
            Ok(answer) => self.begun.push(format!("{answer:?}")),
            Err(error) => self.failures.push(error),
        }
    }

    fn add(&mut self, other: Self) {
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_insert(0) += count;
        }
        self.by_number.extend(other.by_number);
        self.begun.extend(other.begun);
        self.failures.extend(other.failures);
    }

    /// How many requests were answered with 200.
    pub(crate) fn succeeded(&self) -> usize {
        self.statuses.get(&200).copied().unwrap_or(0)
    }

    /// Proves that every request, and no fewer than this, was answered with 200.
    #[track_caller]
    pub(crate) fn assert_all_succeeded(&self, at_least: usize) {
        self.assert_succeeded_unless_begun(at_least, 0);
    }

    /// The same, but for so many answers that had begun.
    #[track_caller]
    pub(crate) fn assert_succeeded_unless_begun(&self, at_least: usize, begun: usize) {
        let all = || self.failures.iter().chain(&self.begun);
        let first = || all().next().map_or("", String::as_str);
        let statuses = &self.statuses;
        assert_eq!(
            self.failures.len(),
            0,
            "{statuses:?}, the first: {}",
            first()
        );
        assert!(
            self.begun.len() <= begun,
            "{statuses:?} and {}, the first: {}",
            self.begun.len(),
            first()
        );
        assert!(statuses.keys().all(|status| *status == 200), "{statuses:?}");
        assert!(
            self.succeeded() >= at_least,
            "{} requests are no load",
            self.succeeded()
        );
    }
}
