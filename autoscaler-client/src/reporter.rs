//! Tells a [`StatSink`] what [`Stats`] saw: once a second, and at once when an idle Revision gets its first request.
//!
//! Source: knative/serving `pkg/activator/handler/concurrency_reporter.go`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use parkway_activator::stats::Stats;

use crate::sink::StatSink;
use crate::stat::StatMessage;

/// How often each Revision that is not idle is reported.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Reports until it is dropped; does not end by itself.
///
/// All Revisions of one tick go in one list; when there is nothing to say, nothing is sent. First requests that come
/// together go together. `pod_name` tells people who reported. A tick that comes late moves the later ones, because
/// the autoscaler adds up what it gets within one second: two reports close together would count double.
///
/// # Cancel safety
///
/// Nothing is lost but the reports of the period that has begun.
pub async fn run(stats: Stats, sink: Arc<dyn StatSink>, pod_name: String) {
    let pod_name: Arc<str> = pod_name.into();
    let mut ticks = interval_at(Instant::now() + REPORT_INTERVAL, REPORT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let messages: Vec<StatMessage> = tokio::select! {
            biased; // first requests before the report that leaves them out
            revisions = stats.poked() => {
                revisions.into_iter().map(|id| StatMessage::first_request(id, &pod_name)).collect()
            }
            _ = ticks.tick() => {
                let reports = stats.report(Instant::now());
                reports.into_iter().map(|report| StatMessage::of_report(report, &pod_name)).collect()
            }
        };
        if !messages.is_empty() {
            sink.send(messages);
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use parkway_activator::revision::RevisionId;
    use tokio::task::JoinHandle;
    use tokio::time::{advance, sleep, sleep_until};

    use super::*;

    /// Keeps every list with the moment of its arrival.
    #[derive(Default)]
    struct Recorder(Mutex<Vec<(Instant, Vec<StatMessage>)>>);

    impl StatSink for Recorder {
        fn send(&self, messages: Vec<StatMessage>) {
            self.0.lock().push((Instant::now(), messages));
        }

        fn is_connected(&self) -> bool {
            true
        }
    }

    /// A reporter that runs, and what it reports.
    struct Case {
        stats: Stats,
        recorder: Arc<Recorder>,
        started: Instant,
        reporter: JoinHandle<()>,
    }

    impl Case {
        async fn start() -> Self {
            let stats = Stats::new(2);
            let recorder = Arc::new(Recorder::default());
            let reporter = tokio::spawn(run(
                stats.clone(),
                Arc::clone(&recorder) as Arc<dyn StatSink>,
                "pod".into(),
            ));
            tokio::task::yield_now().await; // its ticks count from here
            Self {
                stats,
                recorder,
                started: Instant::now(),
                reporter,
            }
        }

        /// Waits until `ms` after the start; what is due by then has been sent.
        async fn until(&self, ms: u64) {
            sleep_until(self.started + Duration::from_millis(ms)).await;
            sleep(Duration::from_millis(1)).await; // lets the reporter go first
        }

        /// What was sent: milliseconds since the start, Revision, concurrency, requests.
        fn sent(&self) -> Vec<(u128, String, f64, f64)> {
            let lists = self.recorder.0.lock();
            let flat = lists
                .iter()
                .flat_map(|(at, list)| list.iter().map(move |message| (at, message)));
            flat.map(|(at, message)| {
                let (stat, name) = (&message.stat, message.revision.name().to_owned());
                let ms = (*at - self.started).as_millis();
                (
                    ms,
                    name,
                    stat.average_concurrent_requests,
                    stat.request_count,
                )
            })
            .collect()
        }

        fn lists(&self) -> Vec<usize> {
            self.recorder
                .0
                .lock()
                .iter()
                .map(|(_, list)| list.len())
                .collect()
        }
    }

    fn id(name: &str) -> RevisionId {
        RevisionId::new("default", name)
    }

    fn line(ms: u128, name: &str, concurrency: f64, requests: f64) -> (u128, String, f64, f64) {
        (ms, name.to_owned(), concurrency, requests)
    }

    #[tokio::test(start_paused = true)]
    async fn first_report_then_subtraction_then_one_zero_report_then_silence() {
        let case = Case::start().await;
        let shop = case.stats.revision(&id("shop"));
        case.until(299).await;
        let requests = [shop.enter(0, Instant::now()), shop.enter(1, Instant::now())];
        case.until(2_499).await;
        drop(requests);
        case.until(60_000).await;

        assert_eq!(
            case.sent(),
            [
                line(300, "shop", 1.0, 1.0),   // at once
                line(1_000, "shop", 1.0, 1.0), // two since 300 ms, less the one that was announced
                line(2_000, "shop", 2.0, 0.0), // still two
                line(3_000, "shop", 1.0, 0.0), // two for half of the second
                line(4_000, "shop", 0.0, 0.0), // a whole second of nothing
            ]
        );
        case.reporter.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn the_sequence_starts_over_with_the_next_request() {
        let case = Case::start().await;
        let shop = case.stats.revision(&id("shop"));
        drop(shop.enter(0, Instant::now()));
        case.until(10_499).await;
        drop(shop.enter(1, Instant::now()));
        case.until(60_000).await;

        assert_eq!(
            case.sent(),
            [
                line(0, "shop", 1.0, 1.0),
                line(1_000, "shop", 0.0, 0.0),
                line(10_500, "shop", 1.0, 1.0),
                line(11_000, "shop", 0.0, 0.0),
            ]
        );
        case.reporter.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn all_revisions_of_a_tick_go_in_one_list() {
        let case = Case::start().await;
        let requests: Vec<_> = ["a", "b", "c"]
            .iter()
            .map(|name| case.stats.revision(&id(name)).enter(0, Instant::now()))
            .collect();
        case.until(1_000).await;

        assert_eq!(case.lists(), [3, 3]); // first requests, then the tick
        drop(requests);
        case.reporter.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_sent_when_there_is_nothing_to_say() {
        let case = Case::start().await;
        case.stats.revision(&id("shop"));
        case.until(60_000).await;

        assert!(case.lists().is_empty());
        case.reporter.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_of_the_process_is_not_followed_by_a_burst_of_reports() {
        let case = Case::start().await;
        let request = case.stats.revision(&id("shop")).enter(0, Instant::now());
        case.until(1_000).await;
        advance(Duration::from_secs(30)).await;
        sleep(Duration::from_millis(1_500)).await;

        // One for the pause, one a second later.
        assert_eq!(case.lists().len(), 2 + 2);
        drop(request);
        case.reporter.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn every_message_names_who_reports() {
        let case = Case::start().await;
        drop(case.stats.revision(&id("shop")).enter(0, Instant::now()));
        case.until(1_000).await;

        let lists = case.recorder.0.lock().clone();
        assert_eq!(lists.len(), 2);
        assert!(
            lists
                .iter()
                .flat_map(|(_, list)| list)
                .all(|message| &*message.stat.pod_name == "pod")
        );
        case.reporter.abort();
    }

    /// Tells the moment of the first list.
    struct Moment(std::sync::mpsc::SyncSender<Instant>);

    impl StatSink for Moment {
        fn send(&self, _messages: Vec<StatMessage>) {
            let _later_ones_do_not_fit = self.0.try_send(Instant::now());
        }

        fn is_connected(&self) -> bool {
            true
        }
    }

    #[test]
    fn a_first_request_on_another_thread_is_told_long_before_the_tick() {
        let (told, heard) = std::sync::mpsc::sync_channel(1);
        let stats = Stats::new(1);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()
            .unwrap();
        runtime.spawn(run(stats.clone(), Arc::new(Moment(told)), "pod".into()));
        let entered = Instant::now();

        let request = stats.revision(&id("shop")).enter(0, entered);

        let waited = heard.recv_timeout(Duration::from_secs(10)).unwrap() - entered;
        assert!(waited < REPORT_INTERVAL / 2, "{waited:?}");
        drop(request);
    }
}
