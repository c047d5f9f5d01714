//! Numbers and times as people read them.

use std::fmt;
use std::time::Duration;

use maud::{Markup, html};

/// Milliseconds, with as many digits as mean something.
pub(super) fn millis(ms: f64) -> String {
    match ms {
        ..0.095 => format!("{ms:.2} ms"),
        ..9.95 => format!("{ms:.1} ms"),
        ..999.5 => format!("{ms:.0} ms"),
        ..9_995.0 => format!("{:.2} s", ms / 1e3),
        ..99_950.0 => format!("{:.1} s", ms / 1e3),
        _ => format!("{:.0} s", ms / 1e3),
    }
}

/// Seconds, likewise.
pub(super) fn seconds(seconds: f64) -> String {
    millis(seconds * 1e3)
}

pub(super) fn bytes(bytes: usize) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
    let bytes = bytes as f64;
    match bytes {
        ..1_024.0 => format!("{bytes:.0} B"),
        ..1_048_576.0 => format!("{:.1} KiB", bytes / 1_024.0),
        _ => format!("{:.1} MiB", bytes / 1_048_576.0),
    }
}

/// `1 Revision`, `2 Revisions`.
pub(super) fn count_of(count: impl TryInto<u64>, noun: &str) -> String {
    match count.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {noun}"),
        count => format!("{count} {noun}s"),
    }
}

/// A moment in UTC; the page's script says how long ago it is.
pub(super) fn moment(since_1970: Duration) -> Markup {
    let utc = Utc(since_1970);
    html! {
        time datetime=(format_args!("{utc}")) { (format_args!("{utc}").to_string().replace('T', " ")) }
    }
}

/// RFC 3339, to the millisecond.
struct Utc(Duration);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.0.as_secs() / 86_400, self.0.as_secs() % 86_400);
        let (year, month, day) = date(days);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            second / 3_600,
            second / 60 % 60,
            second % 60,
            self.0.subsec_millis()
        )
    }
}

/// The date so many days after 1 January 1970, by counting in eras of 400 years that begin with a March
/// (<https://howardhinnant.github.io/date_algorithms.html>, `civil_from_days`).
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_digits_that_mean_something() {
        let shown = [0.05, 1.26, 61.2, 612.4, 1_234.0, 61_234.0, 612_345.0].map(millis);
        assert_eq!(
            shown,
            [
                "0.05 ms", "1.3 ms", "61 ms", "612 ms", "1.23 s", "61.2 s", "612 s"
            ]
        );
    }

    #[test]
    fn moments_are_said_in_utc() {
        let shown = |seconds: u64| Utc(Duration::from_millis(seconds * 1_000 + 7)).to_string();
        assert_eq!(shown(0), "1970-01-01T00:00:00.007Z");
        assert_eq!(shown(951_782_400), "2000-02-29T00:00:00.007Z");
        assert_eq!(shown(951_868_799), "2000-02-29T23:59:59.007Z");
        assert_eq!(shown(1_790_000_000), "2026-09-21T14:13:20.007Z");
    }
}
