//! The binary under test.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Names another binary to test, in place of the one that is built.
const OTHER: &str = "PARKWAY_BIN";

/// The `parkway` of the profile this test was built with; built if need be, once for each test binary. The environment
/// variable `PARKWAY_BIN` names another one.
///
/// Cargo does not build another package's binary for a package's tests, so they ask it to.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| env::var_os(OTHER).map_or_else(build, PathBuf::from))
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
    let mut cargo = Command::new(env!("CARGO"));
    // What Cargo tells this test of its package would make it build again what looks at that: `ring`, and all above it.
    for (name, _) in env::vars_os() {
        let is_of_package = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        if is_of_package
            .iter()
            .any(|prefix| name.to_string_lossy().starts_with(prefix))
        {
            cargo.env_remove(name);
        }
    }
    let status = cargo
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
