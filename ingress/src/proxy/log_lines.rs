//! Lines for standard output, from whoever writes down requests: bounded, and never waited for.
//!
//! Workers hand whole lines to a thread that writes them. When as many wait as may, further ones are lost, and counted.

use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Lines that may wait to be written.
const LINES: usize = 4_096;

/// Which log a line is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// Parkway's own, of all requests.
    Access,
    /// Knative's, of requests to Revisions.
    Request,
}

impl Log {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Access, Self::Request];

    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Request => "request",
        }
    }
}

/// Takes lines. Clones are the same; by default nobody writes, and all are lost.
#[derive(Clone, Debug, Default)]
pub struct LogLines {
    lines: Option<SyncSender<String>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    taken: AtomicU64,
    written: AtomicU64,
    lost: [AtomicU64; Log::ALL.len()],
}

/// Writes lines.
#[derive(Debug)]
pub struct LogLinesWriter {
    lines: Receiver<String>,
    counts: Arc<Counts>,
}

impl LogLines {
    /// Where lines go, and who writes them.
    pub fn new() -> (Self, LogLinesWriter) {
        let (lines, written) = sync_channel(LINES);
        let counts = Arc::<Counts>::default();
        let writer = LogLinesWriter {
            lines: written,
            counts: Arc::clone(&counts),
        };
        let lines = Some(lines);
        (Self { lines, counts }, writer)
    }

    /// Hands a line over, its end included.
    pub fn write(&self, log: Log, line: String) {
        self.counts.taken.fetch_add(1, Ordering::Relaxed);
        let lines = self.lines.as_ref();
        if lines.is_none_or(|lines| lines.try_send(line).is_err()) {
            self.counts.taken.fetch_sub(1, Ordering::Relaxed);
            self.counts.lost[log as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many lines of a log were lost because they could not be written fast enough.
    pub fn lost(&self, log: Log) -> u64 {
        self.counts.lost[log as usize].load(Ordering::Relaxed)
    }

    /// Whether all that was taken is written.
    pub fn is_written(&self) -> bool {
        let Counts { taken, written, .. } = &*self.counts;
        written.load(Ordering::Acquire) >= taken.load(Ordering::Relaxed)
    }
}

impl LogLinesWriter {
    /// Writes lines to `out` until nobody is left who has any. Blocks: for a thread of its own.
    ///
    /// # Errors
    ///
    /// When `out` takes no more.
    pub fn run(self, out: impl Write) -> std::io::Result<()> {
        let mut out = BufWriter::new(out);
        while let Ok(line) = self.lines.recv() {
            let mut count = 1;
            out.write_all(line.as_bytes())?;
            // What has come meanwhile goes out together.
            while let Ok(line) = self.lines.try_recv() {
                count += 1;
                out.write_all(line.as_bytes())?;
            }
            out.flush()?;
            self.counts.written.fetch_add(count, Ordering::Release);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_nobody_writes_fast_enough_are_lost_and_counted_and_nobody_waits() {
        let (lines, writer) = LogLines::new();
        for _ in 0..LINES {
            lines.write(Log::Access, "taken\n".to_owned());
        }
        lines.write(Log::Access, "lost\n".to_owned());
        lines.write(Log::Request, "lost\n".to_owned());
        lines.write(Log::Request, "lost\n".to_owned());

        assert_eq!((lines.lost(Log::Access), lines.lost(Log::Request)), (1, 2));
        assert!(!lines.is_written());
        let counts = Arc::clone(&lines.counts);
        drop(lines);
        let mut out = Vec::new();
        writer.run(&mut out).unwrap();
        assert_eq!(out, "taken\n".repeat(LINES).into_bytes());
        assert_eq!(counts.written.load(Ordering::Relaxed), 4_096);
    }
}
