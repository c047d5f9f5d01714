//! Clients that send a body too slowly: what they hold meanwhile, an endpoint's slot above all, is taken back.
//!
//! Only the time in which somebody waits for the client counts: not that in which the request is parked, or the endpoint
//! takes nothing. A client begins with some patience, and has it all again by sending enough: so what is bounded is silence
//! as well as the average. (Apache's `mod_reqtimeout` bounds bodies like this, by `MinRate`.)
//!
//! Once the endpoint has answered there is no such bound: from then on both may send what they have when they have it.

use std::num::NonZeroU32;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::sweep::Alarm;

/// How long a request's body may still be waited for.
#[derive(Debug)]
pub struct Pace {
    alarm: Alarm,
    /// Bytes that are worth a second.
    rate: NonZeroU32,
    /// The most there is of it.
    patience: Duration,
    left: Duration,
    /// Since when somebody waits.
    since: Option<Instant>,
}

impl Pace {
    /// All of `patience`, of which a second comes back with each `rate` bytes.
    pub fn new(alarm: Alarm, rate: NonZeroU32, patience: Duration) -> Self {
        Self {
            alarm,
            rate,
            patience,
            left: patience,
            since: None,
        }
    }

    /// The client has sent so many bytes.
    pub fn took(&mut self, bytes: usize) {
        // Nobody had to wait, so there is all the patience that there was.
        let Some(since) = self.since.take() else {
            return self.earn(bytes);
        };
        self.alarm.clear();
        self.left = self.left.saturating_sub(since.elapsed());
        self.earn(bytes);
    }

    fn earn(&mut self, bytes: usize) {
        if self.left == self.patience {
            return;
        }
        let micros = (bytes as u64).saturating_mul(1_000_000) / u64::from(self.rate.get());
        let earned = self.left.saturating_add(Duration::from_micros(micros));
        self.left = earned.min(self.patience);
    }

    /// Somebody waits for the client. Ready when there is no patience left.
    pub fn poll_over(&mut self, cx: &Context<'_>) -> Poll<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        self.alarm.poll_due(cx, since + self.left)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::advance;

    use super::super::sweep::Sweep;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// How long it takes until the client is given up that sends so many bytes every second.
    async fn given_up_after(bytes: usize) -> Option<Duration> {
        let begun = Instant::now();
        let sweep = Sweep::new(begun);
        let mut pace = Pace::new(sweep.alarm(), NonZeroU32::new(100).unwrap(), PATIENCE);
        let clients = async {
            while begun.elapsed() < Duration::from_secs(3_600) {
                let waiting = poll_fn(|cx| pace.poll_over(cx));
                if tokio::time::timeout(Duration::from_secs(1), waiting)
                    .await
                    .is_ok()
                {
                    return Some(begun.elapsed());
                }
                pace.took(bytes);
            }
            None
        };
        tokio::select! {
            given_up = clients => given_up,
            () = sweep.run() => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_nothing_has_its_patience_and_one_that_is_slow_a_little_more() {
        assert_eq!(given_up_after(0).await, Some(PATIENCE));
        let slow = given_up_after(50).await.unwrap();
        assert!(
            (Duration::from_secs(18)..Duration::from_secs(21)).contains(&slow),
            "{slow:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_keeps_the_rate_is_never_given_up() {
        assert_eq!(given_up_after(100).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn much_at_once_buys_no_more_than_all_the_patience() {
        let sweep = Sweep::new(Instant::now());
        let mut pace = Pace::new(sweep.alarm(), NonZeroU32::new(1).unwrap(), PATIENCE);
        pace.took(1_000_000);
        let begun = Instant::now();
        let waiting = poll_fn(|cx| pace.poll_over(cx));
        tokio::select! {
            () = waiting => {}
            () = sweep.run() => {}
        }
        assert_eq!(begun.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nobody_waits_does_not_count() {
        let sweep = Sweep::new(Instant::now());
        let mut pace = Pace::new(sweep.alarm(), NonZeroU32::new(100).unwrap(), PATIENCE);
        advance(PATIENCE * 5).await;
        pace.took(1);
        advance(PATIENCE * 5).await;
        let begun = Instant::now();
        let waiting = poll_fn(|cx| pace.poll_over(cx));
        tokio::select! {
            () = waiting => {}
            () = sweep.run() => {}
        }
        assert_eq!(begun.elapsed(), PATIENCE);
    }
}
