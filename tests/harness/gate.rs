//! Workloads that start when the test says so, so that no test depends on how fast anything is.

use std::fs;

use tempfile::TempDir;

use crate::manifest::Service;

/// Holds processes back until it is opened: they run, but do not listen.
#[derive(Debug)]
pub struct Gate {
    directory: TempDir,
}

impl Gate {
    /// A closed one.
    pub fn closed() -> Self {
        Self {
            directory: tempfile::Builder::new()
                .prefix("parkway-gate-")
                .tempdir()
                .unwrap(),
        }
    }

    /// Makes a Service's processes wait for it before they begin.
    #[must_use]
    pub fn holds(&self, service: Service) -> Service {
        let path = self.path();
        let (path, command) = (path.to_str().unwrap(), service.command_line());
        service.env("GATE", path).command(&[
            "sh",
            "-c",
            &format!("until [ -e \"$GATE\" ]; do sleep 0.02; done; exec {command}"),
        ])
    }

    /// Lets the processes begin.
    pub fn open(&self) {
        fs::write(self.path(), "").unwrap();
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("open")
    }
}
