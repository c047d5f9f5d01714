//! The machine below: clocks, CPUs, limits.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`, which all processes of a machine share.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or_default();
    seconds * 1_000_000_000 + nanoseconds
}

/// Blocks the thread: the harness waits for others most of the time.
#[expect(
    clippy::disallowed_methods,
    reason = "the harness has nothing else to do on its thread"
)]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// As many open files as the system allows this process and those it starts.
pub(crate) fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        eprintln!("the limit of open files stays as it is: {error}");
    }
}

/// Which processes run on which CPUs.
#[derive(Clone, Debug)]
pub(crate) struct Cpus {
    all: Vec<usize>,
}

impl Cpus {
    /// The CPUs that this process may use.
    pub(crate) fn detect() -> Result<Self> {
        let allowed = sched_getaffinity(None).context("sched_getaffinity")?;
        let all = (0..CpuSet::MAX_CPU)
            .filter(|cpu| allowed.is_set(*cpu))
            .collect();
        Ok(Self { all })
    }

    /// These and no others.
    pub(crate) fn only(all: Vec<usize>) -> Self {
        Self { all }
    }

    /// Whether proxies and load have CPUs of their own.
    pub(crate) fn are_enough(&self) -> bool {
        self.all.len() > 1
    }

    /// Where the proxies run.
    pub(crate) fn proxy(&self) -> Vec<usize> {
        self.all.iter().take(1).copied().collect()
    }

    /// Where the generator and the endpoint run.
    pub(crate) fn load(&self) -> Vec<usize> {
        self.all
            .get(1)
            .or(self.all.first())
            .copied()
            .into_iter()
            .collect()
    }

    /// The first so many, for proxies with several workers.
    pub(crate) fn first(&self, count: usize) -> Vec<usize> {
        self.all.iter().take(count).copied().collect()
    }

    /// Runs `start` on these CPUs; a process that it starts stays there.
    pub(crate) fn with<T>(&self, cpus: &[usize], start: impl FnOnce() -> T) -> Result<T> {
        pin(cpus)?;
        let started = start();
        pin(&self.all)?;
        Ok(started)
    }
}

/// Keeps the calling thread, and what it starts, on these CPUs.
pub(crate) fn pin(cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu);
    }
    sched_setaffinity(None, &set).context("sched_setaffinity")
}

/// What was measured on: CPU, kernel, date.
pub(crate) fn description(cpus: &Cpus) -> String {
    let model = fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(": ")?.1.to_owned())
        })
        .unwrap_or_else(|| "unknown CPU".to_owned());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let date = first_line(Command::new("date").arg("+%F")).unwrap_or_default();
    format!(
        "{date}; {} × {model}; Linux {}",
        cpus.all.len(),
        kernel.trim()
    )
}

/// The first line that a command prints, wherever it prints it.
pub(crate) fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .map(str::to_owned)
}

/// Random numbers that need not be good ones: xorshift64.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Seeded by the clock.
    pub(crate) fn new() -> Self {
        Self(now_ns() | 1)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let limit = u64::try_from(limit).unwrap_or(u64::MAX).max(1);
        usize::try_from((self.0 >> 16) % limit).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_stay_below_their_limit_and_differ() {
        let mut random = Random::new();
        let numbers: Vec<_> = (0..100).map(|_| random.below(64)).collect();
        assert!(numbers.iter().all(|number| *number < 64));
        assert!(numbers.iter().any(|number| *number != numbers[0]));
    }
}
