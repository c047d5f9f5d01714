//! A process that the harness started: it is talked to by lines, measured, and ended when dropped.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::machine::{Cpus, pause};
use crate::{cpu, memory};

/// How long a process may take to end by SIGTERM before it is killed.
const FAREWELL: Duration = Duration::from_secs(5);

/// A running process. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    name: String,
    input: Option<ChildStdin>,
    output: Option<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Process {
    /// Starts one of our own commands, which talks by lines, on these CPUs.
    pub(crate) fn own(arguments: &[&str], cpus: &Cpus, on: &[usize]) -> Result<Self> {
        let this = std::env::current_exe().context("the path of this program")?;
        let mut command = Command::new(this);
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = cpus.with(on, || command.spawn())??;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        Ok(Self {
            child,
            name: arguments.first().copied().unwrap_or_default().to_owned(),
            input,
            output: output.map(BufReader::new),
            log: PathBuf::new(),
        })
    }

    /// Starts a program whose output goes to a file in `folder`, on these CPUs.
    pub(crate) fn logging(
        command: &Command,
        folder: &Path,
        cpus: &Cpus,
        on: &[usize],
    ) -> Result<Self> {
        let program = Path::new(command.get_program())
            .file_name()
            .unwrap_or_default();
        let name = program.to_string_lossy().into_owned();
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log)?;
        let mut wrapped = Command::new(std::env::current_exe()?);
        wrapped
            .arg("become")
            .arg(command.get_program())
            .args(command.get_args())
            .envs({ command.get_envs() }.filter_map(|(name, value)| Some((name, value?))))
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let child = cpus
            .with(on, || wrapped.spawn())?
            .with_context(|| format!("{name} cannot be started"))?;
        Ok(Self {
            child,
            name,
            input: None,
            output: None,
            log,
        })
    }

    /// Gives an order and reads the line that answers it.
    pub(crate) fn ask(&mut self, order: &str) -> Result<Value> {
        self.tell(order)?;
        self.hear()
    }

    /// Gives an order whose answer is read later.
    pub(crate) fn tell(&mut self, order: &str) -> Result<()> {
        let input = self
            .input
            .as_mut()
            .context("a process that takes no orders")?;
        writeln!(input, "{order}").with_context(|| format!("{} has ended", self.name))
    }

    /// Reads a line. Our own commands bound the time of whatever they do, and always answer.
    pub(crate) fn hear(&mut self) -> Result<Value> {
        let output = self
            .output
            .as_mut()
            .context("a process that says nothing")?;
        let mut line = String::new();
        output.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("{} said {line:?}", self.name))
    }

    /// Its id and those of its descendants that run the same program; what else it has started is not its cost.
    pub(crate) fn family(&self) -> Vec<u32> {
        let parents = parents();
        let program = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).ok();
        let mut family = vec![self.child.id()];
        let mut next = 0;
        while let Some(parent) = family.get(next).copied() {
            let children = parents
                .iter()
                .filter(|(pid, of)| **of == parent && program(**pid) == program(parent))
                .map(|(pid, _)| *pid);
            family.extend(children);
            next += 1;
        }
        family
    }

    /// CPU time of its family so far.
    pub(crate) fn run_time_ns(&self) -> u64 {
        cpu::run_time_ns(&self.family())
    }

    /// Memory of its family now.
    pub(crate) fn pss_kib(&self) -> u64 {
        memory::pss_kib(&self.family())
    }

    /// An error, with the end of its log, if it is no longer there.
    pub(crate) fn still_runs(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else {
            return Ok(());
        };
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(10).collect();
        let last: Vec<_> = lines.into_iter().rev().collect();
        bail!("{} ended with {status}:\n{}", self.name, last.join("\n"))
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, signal).ok();
        }
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.has_ended() {
            return;
        }
        drop(self.input.take());
        self.signal(Signal::TERM);
        let step = Duration::from_millis(10);
        let mut waited = Duration::ZERO;
        while waited < FAREWELL && !self.has_ended() {
            pause(step);
            waited += step;
        }
        if !self.has_ended() {
            self.signal(Signal::KILL);
            self.child.wait().ok();
        }
    }
}

/// The parent of each process of the machine.
fn parents() -> BTreeMap<u32, u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return BTreeMap::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, parent(&stat)?))
        })
        .collect()
}

/// The fourth field; the second is a name in parentheses, which may hold anything.
fn parent(stat: &str) -> Option<u32> {
    let (_name, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(parent("42 (a) b (c)) S 7 42 42 0"), Some(7));
        assert_eq!(parent("garbage"), None);
    }
}
