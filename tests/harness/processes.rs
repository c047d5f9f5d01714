//! The processes of one test: found by a mark in their environment, which workloads inherit, and ended by their ids.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// The variable that carries the mark.
pub(crate) const MARK: &str = "PARKWAY_TESTS_MARK";

/// Whose environment has this mark, except those that are about to end.
pub(crate) fn marked(mark: &str) -> Vec<i32> {
    let wanted = format!("{MARK}={mark}");
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| has_variable(*pid, wanted.as_bytes()))
        .collect()
}

fn has_variable(pid: i32, wanted: &[u8]) -> bool {
    // Empty for a zombie, and unreadable for someone else's process.
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment
        .split(|byte| *byte == 0)
        .any(|variable| variable == wanted)
}

/// Memory of a process that is in no file, in KiB (Linux `proc_pid_smaps`(5)). How much of the binary counts depends on what
/// has run, on who else runs it, and on whether it has been written to disk since it was built.
///
/// # Panics
///
/// When there is no such process.
pub fn anonymous_kib(pid: i32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a process");
    let share = { rollup.lines() }.find_map(|line| line.strip_prefix("Pss_Anon:"));
    let kib = share.and_then(|share| share.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse().ok()).expect("a share in kB")
}

/// Sends a signal; to one that has ended meanwhile it is not missed.
pub(crate) fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        kill_process(pid, signal).unwrap_or_default();
    }
}

/// Ends all of them at once.
pub(crate) fn kill_marked(mark: &str) {
    for pid in marked(mark) {
        signal(pid, Signal::KILL);
    }
}

/// Ends a process with SIGKILL, as the system does when memory is short.
pub fn kill_nine(pid: i32) {
    signal(pid, Signal::KILL);
}
