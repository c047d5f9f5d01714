//! Reading settings from maps of strings, the way Go's `strconv` and `time` do, and collecting what is wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use super::config::InvalidKey;

/// The longest duration that Go can hold: 2⁶³ − 1 ns, 292 years.
const LONGEST: Duration = Duration::from_nanos(i64::MAX.unsigned_abs());

/// Reads keys of a map; whatever cannot be read is noted.
pub(super) struct Reader<'a> {
    data: &'a BTreeMap<String, String>,
    /// What stands before each name in the map.
    prefix: &'static str,
    problems: Vec<InvalidKey>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(data: &'a BTreeMap<String, String>, prefix: &'static str) -> Self {
        Self {
            data,
            prefix,
            problems: Vec::new(),
        }
    }

    /// The value under the first of `names` that is there; `rule` says what is valid.
    pub(super) fn read<T>(
        &mut self,
        names: &[&str],
        rule: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let (key, value) = self.find(names)?;
        let parsed = parse(value);
        if parsed.is_none() {
            self.refuse(&key, value, rule);
        }
        parsed
    }

    /// Like [`read`](Self::read), into a field that keeps its value when the key is absent or invalid.
    pub(super) fn set<T>(
        &mut self,
        field: &mut T,
        name: &str,
        rule: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) {
        if let Some(value) = self.read(&[name], rule, parse) {
            *field = value;
        }
    }

    pub(super) fn has(&self, names: &[&str]) -> bool {
        self.find(names).is_some()
    }

    /// Notes a problem with the value under the first of `names` that is there.
    pub(super) fn object(&mut self, names: &[&str], problem: &str) {
        match self.find(names) {
            Some((key, value)) => self.refuse(&key, value, problem),
            None => self.refuse(&format!("{}{}", self.prefix, names[0]), "", problem),
        }
    }

    /// Notes every key with our prefix whose name is not known.
    pub(super) fn refuse_unknown(&mut self, is_known: impl Fn(&str) -> bool, problem: &str) {
        for (key, value) in self.data {
            let unknown = key
                .strip_prefix(self.prefix)
                .is_some_and(|name| !is_known(name));
            if unknown {
                self.refuse(key, value, problem);
            }
        }
    }

    pub(super) fn finish<T>(self, value: T) -> Result<T, Vec<InvalidKey>> {
        if self.problems.is_empty() {
            Ok(value)
        } else {
            Err(self.problems)
        }
    }

    fn find(&self, names: &[&str]) -> Option<(String, &'a str)> {
        names.iter().find_map(|name| {
            let key = format!("{}{name}", self.prefix);
            let value = self.data.get(&key)?;
            Some((key, value.as_str()))
        })
    }

    fn refuse(&mut self, key: &str, value: &str, problem: &str) {
        self.problems.push(InvalidKey {
            key: key.to_owned(),
            value: value.to_owned(),
            problem: problem.to_owned(),
        });
    }
}

pub(super) fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// A count of replicas: 0 to 2³¹ − 1, as the API has it.
pub(super) fn count(text: &str) -> Option<u32> {
    text.parse::<i32>()
        .ok()
        .and_then(|count| u32::try_from(count).ok())
}

pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A duration in Go's notation, such as `90s`, `1m30s` or `1.5h`; not negative.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (number, after) = split_where(rest, |c| !c.is_ascii_digit() && c != '.')?;
        let (unit, after) = split_where(after, |c| c.is_ascii_digit() || c == '.')?;
        let seconds = number.parse::<f64>().ok()? * seconds_of(unit)?;
        total = total.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?;
        rest = after;
    }
    Some(total).filter(|total| *total <= LONGEST)
}

pub(super) fn whole_seconds(text: &str) -> Option<Duration> {
    duration(text).filter(|duration| duration.subsec_nanos() == 0)
}

/// The part before the first character that `ends` it, and what follows.
fn split_where(text: &str, ends: impl Fn(char) -> bool) -> Option<(&str, &str)> {
    text.split_at_checked(text.find(ends).unwrap_or(text.len()))
}

fn seconds_of(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1e-9,
        "us" | "µs" | "μs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_in_go() {
        let cases = [
            ("0", 0.0),
            ("6s", 6.0),
            ("1m30s", 90.0),
            ("1h", 3600.0),
            ("1.5h", 5400.0),
            ("0.1m", 6.0),
            (".5s", 0.5),
            ("5.s", 5.0),
            ("+90s", 90.0),
            ("250ms", 0.25),
            ("10µs", 1e-5),
            ("10us", 1e-5),
            ("20ns", 2e-8),
        ];
        for (text, seconds) in cases {
            assert_eq!(
                duration(text),
                Some(Duration::from_secs_f64(seconds)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_go_would_not_read_as_a_duration_is_none() {
        for text in [
            "",
            "+",
            "6",
            "s",
            "6 s",
            "-6s",
            "6x",
            "1e3s",
            ".s",
            "infs",
            "6s7",
            "1..5s",
            "99999999999999h",
            "ß",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn counts_go_from_zero_to_the_largest_of_the_api() {
        assert_eq!(count("0"), Some(0));
        assert_eq!(count("2147483647"), Some(2_147_483_647));
        for text in ["-1", "2147483648", "1.0", "", "one"] {
            assert_eq!(count(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_are_finite() {
        assert_eq!(number("70.5"), Some(70.5));
        for text in ["NaN", "inf", "", "7,5"] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
