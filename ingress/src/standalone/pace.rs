//! How often to ask again for something that announces itself in no other way.

use std::time::Duration;

/// The shortest time between two attempts, and the first one.
const SHORTEST: Duration = Duration::from_millis(1);
/// The longest: what a slow start may lose at most.
const LONGEST: Duration = Duration::from_millis(50);

/// How long to wait before asking again when the first attempt was `elapsed` ago.
///
/// An eighth of the time already waited, so a start is noticed at most 12 % late however long it takes, between
/// 1 ms and 50 ms (a start of 10 ms costs 8 attempts, one of 400 ms some 40, and then 20 a second).
pub(super) fn pace(elapsed: Duration) -> Duration {
    (elapsed / 8).clamp(SHORTEST, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_slow_down_from_one_to_fifty_milliseconds() {
        let paces =
            [0, 8, 80, 400, 60_000].map(|elapsed| pace(Duration::from_millis(elapsed)).as_millis());
        assert_eq!(paces, [1, 1, 10, 50, 50]);
    }
}
