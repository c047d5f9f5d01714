//! Row `update`: the recorded changes of one KIngress, one after the other, under a tight loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Request;
use parkway_tests::{Site, eventually};
use tokio::task::JoinHandle;

use crate::images::Image;
use crate::recording;
use crate::source::Source;
use crate::suite::{Cluster, Suite, from_both_sources};

async fn updates_take_effect_at_once_and_no_request_fails(source: Source) {
    let updates = recording::updates();
    assert_eq!(
        updates.len(),
        21,
        "the first, ten with another header, ten with another backend"
    );
    let mut suite = Suite::of(source, Cluster::default()).await;
    let mut before: Option<String> = None;
    let mut loops = Vec::new();

    for update in updates {
        let rule = &update["spec"]["rules"][0];
        let split = &rule["http"]["paths"][0]["splits"][0];
        let service = split["serviceName"].as_str().unwrap().to_owned();
        let site = suite.outside(rule["hosts"][0].as_str().unwrap());
        let marker = split["appendHeaders"]["Who-Are-You"].clone();
        suite.cluster.serve(&service, Image::Runtime).await;
        suite.cluster.put(update);
        suite.apply().await;

        let first = site.get("/").await.expect(200).json();
        assert_eq!(first["request"]["headers"]["who-are-you"], marker);
        assert_eq!(first["host"]["name"], service);

        if let Some(gone) = before
            .replace(service.clone())
            .filter(|before| *before != service)
        {
            let backend = suite.cluster.remove(&gone);
            suite.apply().await;
            eventually("the last request of a backend to end", async || {
                (!backend.is_busy()).then_some(())
            })
            .await;
        }
        if loops.is_empty() {
            loops = vec![Loop::start(site.clone()), Loop::start(site)];
        }
    }

    for tight_loop in loops {
        let requests = tight_loop.stop().await;
        assert!(requests > 20, "{requests} requests are no load");
    }
    suite.finish().await;
}

/// Sends one request after the other; each must be answered with 200.
struct Loop {
    ends: Arc<AtomicBool>,
    running: JoinHandle<usize>,
}

impl Loop {
    fn start(site: Site) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&ends);
        let running = tokio::spawn(async move {
            let mut client = site.http1().await;
            let mut requests = 0;
            while !is_over.load(Ordering::Relaxed) {
                client
                    .send(Request::get("/").body(Default::default()).unwrap())
                    .await
                    .expect(200);
                requests += 1;
            }
            requests
        });
        Self { ends, running }
    }

    async fn stop(self) -> usize {
        self.ends.store(true, Ordering::Relaxed);
        self.running.await.unwrap()
    }
}

from_both_sources!(updates_take_effect_at_once_and_no_request_fails,);
