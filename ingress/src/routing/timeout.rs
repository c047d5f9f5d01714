//! Which of a Revision's timeouts ends a request, and when.
//!
//! Source: knative/serving `pkg/http/handler/timeout.go`: all three count from the arrival of the request, so that time
//! spent parked is included; before the first byte of the response the idle timeout counts from the arrival too.

use std::time::Duration;

use parkway_activator::revision::Timeouts;
use tokio::time::Instant;

/// As good as never, and still safe to add to an instant: thirty years.
pub const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// Timeouts that a route sets in place of its Revisions'. [`NEVER`] switches one off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteTimeouts {
    /// How long a request may be parked at a stretch.
    pub parked: Option<Duration>,
    /// How long connecting to an endpoint may take; the process has its own bound, and the shorter one counts.
    pub connect: Option<Duration>,
    /// From the moment the request is first sent to an endpoint until the response head: time spent parked does not
    /// count.
    pub first_byte: Option<Duration>,
    /// Between two pieces of the response; for an upgraded connection, without a byte either way.
    pub idle: Option<Duration>,
    /// From the arrival until the response has ended.
    pub total: Option<Duration>,
}

impl RouteTimeouts {
    /// What holds before the response begins, besides [`Self::parked`] and [`Self::first_byte`].
    ///
    /// The Revision's response-start and idle timeouts count from the arrival; a route that has its own first-byte timeout
    /// means another thing, and one that has its own idle timeout does not mean the time before the response.
    pub fn before_response(&self, of: Timeouts) -> Timeouts {
        let is_replaced = self.first_byte.is_some();
        Timeouts {
            total: self.total.unwrap_or(of.total),
            response_start: of.response_start.filter(|_| !is_replaced),
            idle: of.idle.filter(|_| !is_replaced && self.idle.is_none()),
        }
    }

    /// What holds while the response streams.
    pub fn while_streaming(&self, of: Timeouts) -> Timeouts {
        Timeouts {
            total: self.total.unwrap_or(of.total),
            response_start: None,
            idle: self.idle.or(of.idle),
        }
    }
}

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
    fn timeouts_of_a_route_take_the_place_of_the_revisions() {
        let of = timeouts(300, 10, 20);
        let route = |first_byte, idle, total| RouteTimeouts {
            first_byte,
            idle,
            total,
            ..RouteTimeouts::default()
        };
        let none = route(None, None, None);
        assert_eq!(none.before_response(of), of);
        assert_eq!(none.while_streaming(of), timeouts(300, 0, 20));
        let all = route(Some(SECOND), Some(SECOND * 2), Some(SECOND * 3));
        assert_eq!(all.before_response(of), timeouts(3, 0, 0));
        assert_eq!(all.while_streaming(of), timeouts(3, 0, 2));
        let idle = route(None, Some(NEVER), None);
        assert_eq!(idle.before_response(of), timeouts(300, 10, 0));
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
