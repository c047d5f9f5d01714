//! Files and folders as a provider: read, watched, and read again.
//!
//! A folder stands for its `*.yaml`, `*.yml` and `*.json` files and those of its folders, hidden ones left out. What
//! is read is the whole configuration each time; an edit with a mistake changes nothing, and the caller shows it.
//!
//! Folders are watched, not files: an editor that writes a new file and moves it over the old one, `mv`, and the links
//! of a mounted ConfigMap are changes of the folder. Order of use: [`FileProvider::watch`], [`FileProvider::load`],
//! then for each [`Watch::changed`] again `load`; so no change falls between reading and watching.

mod known;
mod watch;

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, FileType, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parkway_activator::revision::RevisionId;

use self::known::Files;
pub(super) use self::known::read_text;
pub use self::watch::{LONGEST_CHANGE, QUIET, QUIET_AT_REST, Watch};
use super::certificates::Certificates;
use super::problem::{Origin, Problem};
use super::rollout::Rollout;
use super::world::{Options, Validate, World};

/// The most files.
pub const MAX_FILES: usize = 1_000;
/// The largest file.
pub const MAX_FILE_BYTES: u64 = 16 << 20;
/// The most of all files together.
pub const MAX_TOTAL_BYTES: u64 = 64 << 20;
/// The deepest folder, counted from the one that was named: links may lead in circles.
pub const MAX_FOLDER_DEPTH: usize = 16;
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Configuration from files and folders.
#[derive(Debug)]
pub struct FileProvider {
    paths: Vec<PathBuf>,
    files: Files,
    rollout: Rollout,
    /// What was noticed while reading the files of the present world.
    noticed: Vec<Problem>,
    /// Those among the files of the present world.
    certificates: Certificates,
}

impl FileProvider {
    /// A provider for these files and folders; nothing is read yet.
    pub fn new(paths: Vec<PathBuf>, options: Options, validate: Arc<dyn Validate>) -> Self {
        Self {
            paths,
            files: Files::default(),
            rollout: Rollout::new(options, validate),
            noticed: Vec::new(),
            certificates: Certificates::default(),
        }
    }

    /// Reads everything that may have changed.
    ///
    /// Blocks on the file system, at most [`MAX_TOTAL_BYTES`] long.
    ///
    /// # Errors
    ///
    /// All that is wrong, warnings included; the world of the last success stays the present one.
    pub fn load(&mut self) -> Result<World, Vec<Problem>> {
        let mut problems = Vec::new();
        let objects = self.files.read(&self.paths, &mut problems);
        let certificates = self.certificates.next(&objects, now(), &mut problems);
        if problems.iter().any(Problem::is_error) {
            self.files.let_go_of_texts();
            return Err(problems);
        }
        let outcome = self.rollout.apply(objects);
        self.files.let_go_of_texts();
        match outcome {
            Ok(world) => {
                self.noticed = problems;
                self.certificates = certificates;
                Ok(self.with_noticed(world))
            }
            Err(found) => {
                problems.extend(found);
                Err(problems)
            }
        }
    }

    /// A Revision with `takeover` has become ready; see [`Rollout::revision_ready`].
    pub fn revision_ready(&mut self, id: &RevisionId) -> Option<World> {
        let world = self.rollout.revision_ready(id);
        self.files.let_go_of_texts();
        Some(self.with_noticed(world?))
    }

    /// A Revision with `takeover` did not become ready; see [`Rollout::revision_failed`].
    pub fn revision_failed(
        &mut self,
        id: &RevisionId,
        reason: impl Into<Arc<str>>,
    ) -> Option<World> {
        let world = self.rollout.revision_failed(id, reason);
        self.files.let_go_of_texts();
        Some(self.with_noticed(world?))
    }

    /// Begins to watch.
    ///
    /// # Errors
    ///
    /// When the operating system refuses, for instance because too many folders are watched already.
    pub fn watch(&self) -> notify::Result<Watch> {
        Watch::new(&self.paths)
    }

    fn with_noticed(&mut self, mut world: World) -> World {
        world.warnings.splice(0..0, self.noticed.iter().cloned());
        world.certificates = self.certificates.of(&world.ingresses, &mut world.warnings);
        world
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "certificates are valid by the wall clock"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

fn about(path: &Path, message: String) -> Problem {
    let mut problem = Origin::elsewhere("", "", "").problem("", message);
    problem.file = path.display().to_string();
    problem
}

/// The files that paths stand for, each once, in the order of the paths and by name within folders.
fn files(paths: &[PathBuf], problems: &mut Vec<Problem>) -> Vec<(PathBuf, Metadata)> {
    let mut walk = Walk {
        wants_files: true,
        ..Walk::default()
    };
    for path in paths {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => walk.folder(path, 0),
            Ok(metadata) => walk.file(path, metadata),
            Err(error) => walk.problems.push(about(
                path,
                format!("there is no such file or folder: {error}"),
            )),
        }
    }
    if walk.files.is_empty() && walk.problems.is_empty() {
        let names: Vec<String> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let problem = about(
            Path::new(&names.join(", ")),
            "there is no file to read here".to_owned(),
        );
        walk.problems.push(
            problem
                .warning()
                .remedy("add files that end in .yaml, .yml or .json"),
        );
    }
    problems.append(&mut walk.problems);
    walk.files
}

#[derive(Debug, Default)]
struct Walk {
    /// Otherwise only folders.
    wants_files: bool,
    files: Vec<(PathBuf, Metadata)>,
    /// Device and number of the files and folders, to take each once.
    seen: HashSet<(u64, u64)>,
    folders: Vec<PathBuf>,
    problems: Vec<Problem>,
}

impl Walk {
    fn file(&mut self, path: &Path, metadata: Metadata) {
        if !self.seen.insert((metadata.dev(), metadata.ino())) {
            return;
        }
        if self.files.len() < MAX_FILES {
            self.files.push((path.to_owned(), metadata));
        } else if self.files.len() == MAX_FILES && self.problems.is_empty() {
            self.problems.push(about(
                path,
                format!("there are more than {MAX_FILES} files"),
            ));
        }
    }

    fn folder(&mut self, path: &Path, depth: usize) {
        let is_new = |metadata: Metadata| self.seen.insert((metadata.dev(), metadata.ino()));
        if depth > MAX_FOLDER_DEPTH || !fs::metadata(path).is_ok_and(is_new) {
            return;
        }
        self.folders.push(path.to_owned());
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => {
                self.problems
                    .push(about(path, format!("this folder cannot be read: {error}")));
                return;
            }
        };
        let mut entries: Vec<(OsString, Option<FileType>)> = entries
            .flatten()
            .map(|entry| (entry.file_name(), entry.file_type().ok()))
            .filter(|(name, _)| !is_hidden(name))
            .collect();
        entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        for (name, kind) in &entries {
            let is_file = kind.is_some_and(|kind| kind.is_file());
            let has_known_extension = has_known_extension(Path::new(name));
            if is_file && !(self.wants_files && has_known_extension) {
                continue;
            }
            let name = path.join(name);
            match fs::metadata(&name) {
                Ok(metadata) if metadata.is_dir() => self.folder(&name, depth + 1),
                Ok(metadata) if metadata.is_file() && has_known_extension => {
                    self.file(&name, metadata);
                }
                _ => {} // something else, or gone meanwhile
            }
        }
    }
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

fn has_known_extension(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
}

#[cfg(test)]
mod tests;
