//! Which of a Revision's timeouts ends a request, and when.
//!
//! Source: knative/serving `pkg/http/handler/timeout.go`: all three count from the arrival of the request, so that time
//! spent parked is included; before the first byte of the response the idle timeout counts from the arrival too.

use std::time::Duration;

use parkway_activator::revision::Timeouts;
use tokio::time::Instant;

/// What has happened to a request so far.
///
/// For an upgraded connection the caller reports relayed bytes as writes, so that a lively WebSocket is not idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Milestones {
    /// When its head had been read.
    pub arrival: Instant,
    /// When the response head went out.
    pub response_start: Option<Instant>,
    /// When the response was last written to.
    pub last_write: Option<Instant>,
}

impl Milestones {
    /// A request that has just arrived.
    pub fn new(arrival: Instant) -> Self {
        Self {
            arrival,
            response_start: None,
            last_write: None,
        }
    }
}

/// One of the timeouts; the one named first is reported when two fire in the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timeout {
    /// `timeoutSeconds`: the response has not ended.
    Total,
    /// `responseStartTimeoutSeconds`: the response has not begun.
    ResponseStart,
    /// `idleTimeoutSeconds`: nothing was written for that long.
    Idle,
}

/// The timeout that fires next if nothing else happens, and when.
///
/// None when all are further away than the clock can count: [`Duration::MAX`] means no timeout.
pub fn next(timeouts: &Timeouts, so_far: &Milestones) -> Option<(Instant, Timeout)> {
    let total = so_far.arrival.checked_add(timeouts.total);
    let total = total.map(|at| (at, Timeout::Total));
    if timeouts.response_start.is_none() && timeouts.idle.is_none() {
        return total; // as it is unless somebody has set them
    }
    let began = so_far.response_start.or(so_far.last_write);
    let response_start = timeouts.response_start.filter(|_| began.is_none());
    let last_write = so_far
        .last_write
        .or(so_far.response_start)
        .unwrap_or(so_far.arrival);
    let others = [
        (so_far.arrival, response_start, Timeout::ResponseStart),
        (last_write, timeouts.idle, Timeout::Idle),
    ];
    let others = others
        .into_iter()
        .filter_map(|(from, after, timeout)| Some((from.checked_add(after?)?, timeout)));
    total.into_iter().chain(others).min()
}

/// The timeout that has fired at `now`, if any.
pub fn fired(timeouts: &Timeouts, so_far: &Milestones, now: Instant) -> Option<Timeout> {
    next(timeouts, so_far)
        .filter(|(at, _)| *at <= now)
        .map(|(_, timeout)| timeout)
}

/// Reads a `grpc-timeout`: up to eight digits and a unit.
///
/// Source: grpc/grpc `doc/PROTOCOL-HTTP2.md`, `Timeout`. Anything else is none: the call then has no deadline of its own.
pub fn parse_grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits
        .iter()
        .fold(0_u64, |amount, digit| amount * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(amount * 3600)),
        b'M' => Some(Duration::from_secs(amount * 60)),
        b'S' => Some(Duration::from_secs(amount)),
        b'm' => Some(Duration::from_millis(amount)),
        b'u' => Some(Duration::from_micros(amount)),
        b'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn timeouts(total: u64, response_start: u64, idle: u64) -> Timeouts {
        let optional = |seconds| (seconds > 0).then(|| Duration::from_secs(seconds));
        Timeouts {
            total: Duration::from_secs(total),
            response_start: optional(response_start),
            idle: optional(idle),
        }
    }

    #[test]
    fn total_fires_whether_or_not_the_response_began() {
        let arrival = Instant::now();
        let parked = Milestones::new(arrival);
        let streaming = Milestones {
            response_start: Some(arrival),
            last_write: Some(arrival + SECOND * 9),
            arrival,
        };
        for so_far in [parked, streaming] {
            assert_eq!(
                next(&timeouts(10, 0, 0), &so_far),
                Some((arrival + SECOND * 10, Timeout::Total))
            );
        }
    }

    #[test]
    fn response_start_fires_only_while_nothing_was_written() {
        let arrival = Instant::now();
        let mut so_far = Milestones::new(arrival);
        assert_eq!(
            next(&timeouts(10, 3, 0), &so_far),
            Some((arrival + SECOND * 3, Timeout::ResponseStart))
        );
        so_far.response_start = Some(arrival + SECOND * 2);
        assert_eq!(
            next(&timeouts(10, 3, 0), &so_far),
            Some((arrival + SECOND * 10, Timeout::Total))
        );
    }

    #[test]
    fn idle_counts_from_the_arrival_until_the_first_write_and_then_from_the_last() {
        let arrival = Instant::now();
        let mut so_far = Milestones::new(arrival);
        assert_eq!(
            next(&timeouts(60, 0, 5), &so_far),
            Some((arrival + SECOND * 5, Timeout::Idle))
        );
        so_far.response_start = Some(arrival + SECOND * 4);
        assert_eq!(
            next(&timeouts(60, 0, 5), &so_far),
            Some((arrival + SECOND * 9, Timeout::Idle))
        );
        so_far.last_write = Some(arrival + SECOND * 8);
        assert_eq!(
            next(&timeouts(60, 0, 5), &so_far),
            Some((arrival + SECOND * 13, Timeout::Idle))
        );
    }

    #[test]
    fn nothing_has_fired_before_its_moment() {
        let arrival = Instant::now();
        let so_far = Milestones::new(arrival);
        let nearly = arrival + SECOND * 3 - Duration::from_nanos(1);
        assert_eq!(fired(&timeouts(3, 3, 3), &so_far, nearly), None);
        assert_eq!(
            fired(&timeouts(3, 3, 3), &so_far, arrival + SECOND * 3),
            Some(Timeout::Total)
        );
    }

    #[test]
    fn greatest_duration_means_no_timeout() {
        let unlimited = Timeouts {
            total: Duration::MAX,
            response_start: None,
            idle: None,
        };
        assert_eq!(next(&unlimited, &Milestones::new(Instant::now())), None);
    }

    #[test]
    fn grpc_timeouts_are_read_in_every_unit_and_nothing_else_is() {
        assert_eq!(parse_grpc_timeout(b"2H"), Some(SECOND * 7200));
        assert_eq!(parse_grpc_timeout(b"1M"), Some(SECOND * 60));
        assert_eq!(parse_grpc_timeout(b"99999999S"), Some(SECOND * 99_999_999));
        assert_eq!(
            parse_grpc_timeout(b"250m"),
            Some(Duration::from_millis(250))
        );
        assert_eq!(parse_grpc_timeout(b"7u"), Some(Duration::from_micros(7)));
        assert_eq!(parse_grpc_timeout(b"0n"), Some(Duration::ZERO));
        for wrong in [
            "",
            "S",
            "1",
            "1s",
            "-1S",
            "1.5S",
            " 1S",
            "123456789S",
            "1S ",
        ] {
            assert_eq!(parse_grpc_timeout(wrong.as_bytes()), None, "{wrong:?}");
        }
    }
}
