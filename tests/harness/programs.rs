//! Programs of others that a bare machine may lack.

use std::process::{Command, Stdio};

/// Whether a program is there; if not, it is said that nothing was tested with it.
#[expect(clippy::print_stderr, reason = "part of the report of a test")]
pub fn has_program(name: &str) -> bool {
    let mut asked = Command::new(name);
    asked.arg("--version").stdin(Stdio::null());
    let is_there = asked.output().is_ok();
    if !is_there {
        eprintln!("{name} is absent on this machine: NOTHING was tested with it");
    }
    is_there
}
