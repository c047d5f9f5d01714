//! What is written down about each running process, so that the next Parkway can end what a killed one left.
//!
//! A number of a process is used again, so a record also holds when the process started and in which boot of the
//! machine: only the process all three fit is ended. It names the Parkway that wrote it, too: what another
//! running Parkway owns is left alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::pace::pace;

/// How long SIGKILL may take to show before a leftover counts as stuck.
const KILL_PATIENCE: Duration = Duration::from_secs(2);
/// Records are files in the state directory that end so.
const EXTENSION: &str = "process.json";

/// One process, told apart from all others that had or will have its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pid: i32,
    /// When it started, in clock ticks since the boot: field 22 of `/proc/PID/stat`, see `proc_pid_stat(5)`.
    start: u64,
    /// Which boot: `/proc/sys/kernel/random/boot_id`.
    boot: String,
}

impl Identity {
    /// Identifies a running process; None when it is gone (a zombie is) or the system has no `/proc`.
    pub(super) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let start = start_time(&stat)?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .ok()?
            .trim()
            .to_owned();
        Some(Self { pid, start, boot })
    }

    fn is_running(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }
}

/// Field 22 of a `stat` line, unless the process has ended. The name in field 2 may contain spaces and parentheses.
fn start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split_ascii_whitespace();
    let state = fields.next()?; // field 3
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    process: Identity,
    owner: Identity,
    revision: String,
}

/// The written record of one process; dropping it removes the file.
#[derive(Debug)]
pub(super) struct Record(Option<PathBuf>);

impl Record {
    /// Writes down that `pid` runs for `revision`.
    ///
    /// The write is atomic, and not synced to disk: a crash of the machine ends the process, too. It is a few dozen
    /// microseconds of file I/O, done before the process is given anything, so that there is no moment in which it
    /// serves unrecorded.
    pub(super) fn write(state_dir: &Path, pid: i32, revision: &str) -> io::Result<Self> {
        let unidentified = || io::Error::new(io::ErrorKind::NotFound, "no start time in /proc");
        let process = Identity::of(pid).ok_or_else(unidentified)?;
        let owner =
            Identity::of(rustix::process::getpid().as_raw_pid()).ok_or_else(unidentified)?;
        let file = state_dir.join(format!("{pid}-{}.{EXTENSION}", process.start));
        let entry = Entry {
            process,
            owner,
            revision: revision.to_owned(),
        };
        let unfinished = file.with_extension("unfinished");
        fs::write(&unfinished, serde_json::to_vec(&entry)?)?;
        fs::rename(&unfinished, &file)?;
        Ok(Self(Some(file)))
    }

    /// Leaves the file where it is.
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(file) = &self.0
            && let Err(error) = fs::remove_file(file)
        {
            debug!(file = %file.display(), %error, "record of an ended process could not be removed");
        }
    }
}

/// A process that a killed Parkway had left, and that has been ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Its number, which is also its process group's.
    pub pid: i32,
    /// Its Revision, as `namespace/name`.
    pub revision: String,
    /// Whether SIGTERM did not suffice within the grace.
    pub was_killed: bool,
}

/// Ends what a killed Parkway left running, and returns what that was.
///
/// A process is ended only if its number, its start time and the boot are those recorded, and the Parkway that
/// recorded it runs no more. Its process group gets SIGTERM and, after `grace`, SIGKILL; all groups at the same time,
/// so this takes `grace` plus two seconds at most. Where there is no `/proc` nothing can be told apart, and nothing is
/// ended.
///
/// # Errors
///
/// When the directory cannot be read. One that does not exist holds nothing.
pub(super) async fn end_leftovers(state_dir: &Path, grace: Duration) -> io::Result<Vec<Leftover>> {
    let files = match fs::read_dir(state_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        files => files?,
    };
    let mut ending = Vec::new();
    for file in files {
        let file = file?.path();
        if let Some(entry) = leftover(&file) {
            ending.push(end(entry, Record(Some(file)), grace));
        }
    }
    Ok(futures::future::join_all(ending).await)
}

/// Reads a record and removes it when it is of no use any more.
fn leftover(file: &Path) -> Option<Entry> {
    let name = file.file_name()?.to_str()?;
    if !name.ends_with(EXTENSION) {
        return None;
    }
    let entry = fs::read(file).and_then(|text| Ok(serde_json::from_slice::<Entry>(&text)?));
    match entry {
        Ok(entry) if entry.owner.is_running() => return None,
        Ok(entry) if entry.process.is_running() => return Some(entry),
        Ok(_) => {}
        Err(error) => warn!(file = %file.display(), %error, "record of a process cannot be read"),
    }
    drop(Record(Some(file.to_owned())));
    None
}

async fn end(entry: Entry, record: Record, grace: Duration) -> Leftover {
    let Entry {
        process, revision, ..
    } = entry;
    signal_group(process.pid, Signal::TERM);
    let was_killed = !is_gone_within(&process, grace).await;
    // Also when it went in time: members of its group may have stayed.
    signal_group(process.pid, Signal::KILL);
    if was_killed && !is_gone_within(&process, KILL_PATIENCE).await {
        warn!(pid = process.pid, %revision, "process of an earlier run does not end");
        record.keep(); // for the next start
    }
    Leftover {
        pid: process.pid,
        revision,
        was_killed,
    }
}

/// It is not our child, so there is no event to wait for.
async fn is_gone_within(process: &Identity, limit: Duration) -> bool {
    let started = Instant::now();
    loop {
        if !process.is_running() {
            return true;
        }
        let elapsed = started.elapsed();
        if elapsed >= limit {
            return false;
        }
        sleep(pace(elapsed).min(limit - elapsed)).await;
    }
}

/// Signals all processes of a group; one that is gone already is as good.
pub(super) fn signal_group(leader: i32, signal: Signal) {
    let Some(group) = group_led_by(leader) else {
        return;
    };
    if let Err(error) = kill_process_group(group, signal)
        && error != rustix::io::Errno::SRCH
    {
        warn!(pid = leader, ?signal, %error, "process group cannot be signalled");
    }
}

/// None for numbers that mean something else to `kill(2)`: all processes, or our own group.
fn group_led_by(leader: i32) -> Option<Pid> {
    if leader > 1 {
        Pid::from_raw(leader)
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
