//! Memory of a process: its proportional set size.

use std::fs;

/// The PSS of these processes in KiB: resident pages, those shared with others counted in parts.
///
/// Source: Linux, Documentation/filesystems/proc.rst, `smaps_rollup`.
pub(crate) fn pss_kib(pids: &[u32]) -> u64 {
    pids.iter()
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok())
        .filter_map(|text| parse(&text))
        .sum()
}

fn parse(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find(|line| line.starts_with("Pss:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_named_pss_is_taken_and_no_other() {
        let rollup = "55d0-7fff ---p 00000000 00:00 0 [rollup]\nRss:    2000 kB\nPss:    1234 kB\nPss_Dirty: 99 kB\n";
        assert_eq!(parse(rollup), Some(1234));
        assert_eq!(parse("Rss: 1 kB\n"), None);
    }
}
