//! The binary under test.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The `parkway` of the profile this test was built with; built if need be, once for each test binary.
///
/// Cargo does not build another package's binary for a package's tests, so they ask it to.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(build)
}

/// A command that runs `parkway` with these arguments and none of the caller's settings.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("PARKWAY_") || text.starts_with("OTEL_") {
            command.env_remove(name);
        }
    }
    command.args(arguments);
    command
}

fn build() -> PathBuf {
    // …/target/PROFILE/deps/NAME-HASH, or …/target/PROFILE/NAME-HASH for examples and benches of old.
    let this = env::current_exe().unwrap();
    let folder = this.parent().unwrap();
    let output = if folder.ends_with("deps") {
        folder.parent().unwrap()
    } else {
        folder
    };
    let profile = match output.file_name().unwrap().to_str().unwrap() {
        "debug" => "dev",
        other => other,
    };
    let target = output.parent().unwrap();
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--package",
            "parkway-ingress",
            "--bin",
            "parkway",
            "--profile",
            profile,
        ])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(status.success(), "parkway cannot be built");
    output.join("parkway")
}
