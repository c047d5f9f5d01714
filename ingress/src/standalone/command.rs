//! From a [`Workload`] to something the system can start: arguments, environment, program file.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::expand::expand;
use super::failure::StartError;
use crate::workload::Workload;

/// The search path when neither the manifest nor Parkway's own environment has one: that of POSIX systems.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The environment of one process, on top of Parkway's own.
#[derive(Clone, Debug)]
pub(super) struct Environment {
    variables: Vec<(String, String)>,
    path: OsString,
}

impl Environment {
    /// The manifest's variables, then those the runtime contract promises, as in a cluster: a manifest cannot change
    /// `PORT`, and its values can refer to what stands above them but not to `PORT`.
    ///
    /// Sources: knative/specs `specs/serving/runtime-contract.md`; the order: knative/serving
    /// `pkg/reconciler/revision/resources/deploy.go`; references: kubernetes/kubernetes
    /// `pkg/kubelet/kubelet_pods.go`, `makeEnvironmentVariables`.
    pub(super) fn new(workload: &Workload, port: u16, binary_dir: Option<&Path>) -> Self {
        let mut variables: Vec<(String, String)> = Vec::with_capacity(workload.env.len() + 4);
        for (name, value) in &workload.env {
            let value = expand(value, |name| value_of(&variables, name));
            variables.push((name.clone(), value));
        }
        let contract = [
            ("K_REVISION", workload.revision.name().to_owned()),
            ("K_CONFIGURATION", workload.configuration.clone()),
            ("K_SERVICE", workload.service.clone()),
            ("PORT", port.to_string()),
        ];
        variables.extend(contract.map(|(name, value)| (name.to_owned(), value)));
        let path = search_path(value_of(&variables, "PATH"), binary_dir);
        Self { variables, path }
    }

    /// A command ready to be started, in a process group of its own, without input, its output thrown away.
    pub(super) fn command<'a>(
        &self,
        words: impl Iterator<Item = &'a String>,
        working_dir: Option<&Path>,
    ) -> Result<Command, StartError> {
        let mut words = words.map(|word| expand(word, |name| value_of(&self.variables, name)));
        let name = words
            .next()
            .filter(|name| !name.is_empty())
            .ok_or(StartError::NoCommand)?;
        let directory =
            working_dir.map_or_else(|| env::current_dir().unwrap_or_default(), Path::to_owned);
        if !directory.is_dir() {
            return Err(StartError::WorkingDir(directory));
        }
        let program = self.find(&name, &directory)?;
        let mut command = Command::new(program);
        command.arg0(&name).args(words).current_dir(directory);
        command
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env("PATH", &self.path);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        Ok(command)
    }

    /// Looks the program up as the child's own shell would. Doing it here names what was searched when there is none,
    /// and an absolute path lets the standard library use `posix_spawn`, which does not copy Parkway's page tables.
    fn find(&self, name: &str, directory: &Path) -> Result<PathBuf, StartError> {
        if name.contains('/') {
            return executable(directory.join(name)).map_err(|(path, source)| {
                match source.kind() {
                    io::ErrorKind::NotFound => StartError::NotFound {
                        command: name.to_owned(),
                        searched: directory.display().to_string(),
                    },
                    _ => StartError::NotExecutable { path, source },
                }
            });
        }
        let mut refused = None;
        for folder in env::split_paths(&self.path) {
            match executable(directory.join(folder).join(name)) {
                Ok(program) => return Ok(program),
                Err((_, source)) if source.kind() == io::ErrorKind::NotFound => {}
                Err(why) => refused = Some(why),
            }
        }
        Err(match refused {
            Some((path, source)) => StartError::NotExecutable { path, source },
            None => StartError::NotFound {
                command: name.to_owned(),
                searched: format!("PATH ({})", self.path.display()),
            },
        })
    }
}

/// The last one wins, as for the process itself.
fn value_of<'a>(variables: &'a [(String, String)], name: &str) -> Option<&'a str> {
    variables
        .iter()
        .rev()
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.as_str())
}

fn search_path(of_manifest: Option<&str>, binary_dir: Option<&Path>) -> OsString {
    let path = match of_manifest {
        Some(path) => OsString::from(path),
        None => env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()),
    };
    let folders = binary_dir
        .map(Path::to_owned)
        .into_iter()
        .chain(env::split_paths(&path));
    // A folder whose name has a colon cannot be said in PATH.
    env::join_paths(folders).unwrap_or(path)
}

fn executable(path: PathBuf) -> Result<PathBuf, (PathBuf, io::Error)> {
    let is_executable = path
        .metadata()
        .map(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
    match is_executable {
        Ok(true) => Ok(path),
        Ok(false) => Err((path, io::ErrorKind::PermissionDenied.into())),
        // A file where a folder was meant: nothing of that name is there.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err((path, io::ErrorKind::NotFound.into()))
        }
        Err(error) => Err((path, error)),
    }
}
