//! What Kubernetes allows as a name, and durations as Go writes them.
//!
//! Source: kubernetes/apimachinery `pkg/util/validation/validation.go`.

use std::time::Duration;

/// Said when a name is not a DNS label.
pub(crate) const LABEL_RULE: &str = "a name here consists of at most 63 lower-case letters, digits and dashes, and begins and ends with a letter or digit";
/// Said when a name is not a DNS label that begins with a letter.
pub(crate) const LABEL_1035_RULE: &str = "a name here consists of at most 63 lower-case letters, digits and dashes, begins with a letter and does not end with a dash";
/// Said when a name is not a DNS subdomain.
pub(crate) const SUBDOMAIN_RULE: &str = "a name consists of at most 253 lower-case letters, digits, dashes and dots, and begins and ends with a letter or digit";

/// A DNS label by RFC 1123.
pub(crate) fn is_dns_label(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// A DNS label by RFC 1035: one that begins with a letter.
pub(crate) fn is_dns_1035_label(name: &str) -> bool {
    is_dns_label(name) && name.starts_with(|c: char| c.is_ascii_lowercase())
}

/// Labels joined by dots.
pub(crate) fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= 253
        && name
            .split('.')
            .all(|label| is_dns_label(label) || is_long_label(label))
}

/// Kubernetes does not bound the single labels of a subdomain.
fn is_long_label(label: &str) -> bool {
    label.len() > 63
        && label
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// A duration as Go's `time.ParseDuration` reads it: `1h15m`, `1.5s`, `300ms`; a bare `0` too. Not negative.
pub fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(digits)?;
        let unit_end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(unit_end)?;
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let amount: f64 = number.parse().ok()?;
        total = total.checked_add(Duration::try_from_secs_f64(amount * seconds).ok()?)?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        assert_eq!(go_duration("600s"), Some(Duration::from_secs(600)));
        assert_eq!(
            go_duration("1h15m30.5s"),
            Some(Duration::from_millis(4_530_500))
        );
        assert_eq!(go_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(go_duration("0"), Some(Duration::ZERO));
        for wrong in ["", "5", "s", "-5s", "5 s", "1d", "..s", "1e300h"] {
            assert_eq!(go_duration(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn names_are_those_kubernetes_allows() {
        assert!(is_dns_1035_label("hello-00001"));
        assert!(is_dns_label("0ad"));
        assert!(is_dns_subdomain("shop.example.org"));
        for wrong in ["", "-a", "a-", "A", "a_b", "a b", "ä"] {
            assert!(!is_dns_label(wrong), "{wrong:?}");
            assert!(!is_dns_subdomain(wrong), "{wrong:?}");
        }
        assert!(!is_dns_1035_label("0ad"));
        assert!(!is_dns_subdomain("a..b"));
    }
}
