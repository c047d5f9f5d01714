//! CPU time of a process, user and kernel.

use std::fs;

/// The nanoseconds that all threads of these processes have run.
///
/// Source: Linux, Documentation/scheduler/sched-stats.rst: the first number of `/proc/PID/task/TID/schedstat` is the
/// time spent on the CPU. Threads that have ended are not in it; the programs measured here keep theirs.
pub(crate) fn run_time_ns(pids: &[u32]) -> u64 {
    pids.iter().map(|pid| of_process(*pid)).sum()
}

fn of_process(pid: u32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0;
    };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| parse(&text))
        .sum()
}

fn parse(schedstat: &str) -> Option<u64> {
    schedstat.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_is_the_time_on_the_cpu() {
        assert_eq!(parse("123456 789 10\n"), Some(123_456));
        assert_eq!(parse(""), None);
    }

    #[test]
    fn this_process_has_run() {
        assert!(run_time_ns(&[std::process::id()]) > 0);
    }
}
