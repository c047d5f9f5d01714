//! Files and folders as a provider: read, watched, and read again.
//!
//! A folder stands for its `*.yaml`, `*.yml` and `*.json` files and those of its folders, hidden ones left out. What
//! is read is the whole configuration each time; an edit with a mistake changes nothing, and the caller shows it.
//!
//! Folders are watched, not files: an editor that writes a new file and moves it over the old one, `mv`, and the links
//! of a mounted ConfigMap are changes of the folder. Order of use: [`FileProvider::watch`], [`FileProvider::load`],
//! then for each [`Watch::changed`] again `load`; so no change falls between reading and watching.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parkway_activator::revision::RevisionId;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::document;
use super::object::{self, Object};
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
/// How long nothing may happen before a change counts as complete: editors write in several steps.
pub const QUIET: Duration = Duration::from_millis(50);
/// How long a change may take until it is read anyway.
pub const LONGEST_CHANGE: Duration = Duration::from_millis(500);

const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Configuration from files and folders.
#[derive(Debug)]
pub struct FileProvider {
    paths: Vec<PathBuf>,
    rollout: Rollout,
    /// What was noticed while reading the files of the present world.
    noticed: Vec<Problem>,
}

impl FileProvider {
    /// A provider for these files and folders; nothing is read yet.
    pub fn new(paths: Vec<PathBuf>, options: Options, validate: Arc<dyn Validate>) -> Self {
        Self {
            paths,
            rollout: Rollout::new(options, validate),
            noticed: Vec::new(),
        }
    }

    /// Reads everything.
    ///
    /// Blocks on the file system, at most [`MAX_TOTAL_BYTES`] long.
    ///
    /// # Errors
    ///
    /// All that is wrong, warnings included; the world of the last success stays the present one.
    pub fn load(&mut self) -> Result<World, Vec<Problem>> {
        let mut problems = Vec::new();
        let objects = read_paths(&self.paths, &mut problems);
        if problems.iter().any(Problem::is_error) {
            return Err(problems);
        }
        match self.rollout.apply(objects) {
            Ok(world) => {
                self.noticed = problems;
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
        let world = self.rollout.revision_ready(id)?;
        Some(self.with_noticed(world))
    }

    /// A Revision with `takeover` did not become ready; see [`Rollout::revision_failed`].
    pub fn revision_failed(
        &mut self,
        id: &RevisionId,
        reason: impl Into<Arc<str>>,
    ) -> Option<World> {
        let world = self.rollout.revision_failed(id, reason)?;
        Some(self.with_noticed(world))
    }

    /// Begins to watch.
    ///
    /// # Errors
    ///
    /// When the operating system refuses, for instance because too many folders are watched already.
    pub fn watch(&self) -> notify::Result<Watch> {
        Watch::new(&self.paths)
    }

    fn with_noticed(&self, mut world: World) -> World {
        world.warnings.splice(0..0, self.noticed.iter().cloned());
        world
    }
}

/// Reads the objects of all files.
fn read_paths(paths: &[PathBuf], problems: &mut Vec<Problem>) -> Vec<Object> {
    let mut objects = Vec::new();
    let mut total: u64 = 0;
    for file in files(paths, problems) {
        let name = file.display().to_string();
        let text = match read_file(&file) {
            Ok(text) => text,
            Err(error) => {
                problems.push(about(&file, format!("this file cannot be read: {error}")));
                continue;
            }
        };
        total = total.saturating_add(u64::try_from(text.len()).unwrap_or(u64::MAX));
        if total > MAX_TOTAL_BYTES {
            problems.push(about(
                &file,
                format!("the files are larger than {MAX_TOTAL_BYTES} bytes together"),
            ));
            break;
        }
        let (documents, found) = document::read(&name, &text);
        for document in &documents {
            object::read(document, &mut objects, problems);
        }
        problems.extend(found);
    }
    objects
}

fn about(path: &Path, message: String) -> Problem {
    let mut problem = Origin::elsewhere("", "", "").problem("", message);
    problem.file = path.display().to_string();
    problem
}

/// The text of a file, if it is small enough.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|bytes| bytes <= MAX_FILE_BYTES) {
        Ok(text)
    } else {
        Err(io::Error::other(format!(
            "it is larger than {MAX_FILE_BYTES} bytes"
        )))
    }
}

/// The files that paths stand for, each once, in the order of the paths and by name within folders.
fn files(paths: &[PathBuf], problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let mut walk = Walk::default();
    for path in paths {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => walk.folder(path, 0),
            Ok(_) => walk.file(path),
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
    files: Vec<PathBuf>,
    /// Where the files really are, to take each once.
    seen: BTreeSet<PathBuf>,
    folders: Vec<PathBuf>,
    problems: Vec<Problem>,
}

impl Walk {
    fn file(&mut self, path: &Path) {
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if !self.seen.insert(real) {
            return;
        }
        if self.files.len() < MAX_FILES {
            self.files.push(path.to_owned());
        } else if self.files.len() == MAX_FILES && self.problems.is_empty() {
            self.problems.push(about(
                path,
                format!("there are more than {MAX_FILES} files"),
            ));
        }
    }

    fn folder(&mut self, path: &Path, depth: usize) {
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if depth > MAX_FOLDER_DEPTH || !self.seen.insert(real) {
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
        let mut names: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        names.sort_unstable();
        for name in names.iter().filter(|name| !is_hidden(name)) {
            match fs::metadata(name) {
                Ok(metadata) if metadata.is_dir() => self.folder(name, depth + 1),
                Ok(metadata) if metadata.is_file() && has_known_extension(name) => self.file(name),
                _ => {} // something else, or gone meanwhile
            }
        }
    }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn has_known_extension(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
}

/// Notices changes of the files.
#[derive(Debug)]
pub struct Watch {
    roots: Vec<PathBuf>,
    watcher: RecommendedWatcher,
    folders: BTreeSet<PathBuf>,
    /// Holds one message: that something has changed says all, and a second would say the same.
    events: mpsc::Receiver<()>,
    /// When the change began that is not yet reported.
    since: Option<Instant>,
}

impl Watch {
    fn new(paths: &[PathBuf]) -> notify::Result<Self> {
        let roots: Vec<PathBuf> = paths
            .iter()
            .map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()))
            .collect();
        let (sender, events) = mpsc::channel(1);
        let watched = roots.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // An error of the watcher may have cost us events: look again.
            if event.map_or(true, |event| is_change(&event, &watched)) {
                let _full = sender.try_send(()); // then a change is already reported
            }
        })?;
        let mut watch = Self {
            roots,
            watcher,
            folders: BTreeSet::new(),
            events,
            since: None,
        };
        watch.follow()?;
        Ok(watch)
    }

    /// Waits for a change that has come to rest for [`QUIET`], or has gone on for [`LONGEST_CHANGE`].
    ///
    /// # Cancel safety
    ///
    /// A change that was noticed before the future is dropped is reported by the next call.
    pub async fn changed(&mut self) {
        let since = match self.since {
            Some(since) => since,
            None => {
                if self.events.recv().await.is_none() {
                    std::future::pending::<()>().await; // the watcher is gone: it never is, we own it
                }
                *self.since.insert(Instant::now())
            }
        };
        let latest = since + LONGEST_CHANGE;
        loop {
            let quiet_at = (Instant::now() + QUIET).min(latest);
            if timeout_at(quiet_at, self.events.recv()).await.is_err() {
                break;
            }
        }
        self.since = None;
        if let Err(error) = self.follow() {
            tracing::warn!(%error, "some folders are not watched: changes in them are not noticed");
        }
    }

    /// Watches the folders there are now.
    fn follow(&mut self) -> notify::Result<()> {
        let folders = folders(&self.roots);
        for gone in self.folders.difference(&folders) {
            drop(self.watcher.unwatch(gone)); // it is gone, and may be unknown already
        }
        let mut outcome = Ok(());
        self.folders.retain(|folder| folders.contains(folder));
        for folder in folders {
            // A folder that was replaced by another of its name has lost its watch: ask for all of them anew.
            match self.watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.folders.insert(folder)),
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }
}

/// The folders whose entries matter: those named, those within them, and the ones that hold what was named.
fn folders(roots: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut walk = Walk::default();
    let mut folders = BTreeSet::new();
    for root in roots {
        if root.is_dir() {
            walk.folder(root, 0);
        }
        let real = fs::canonicalize(root).ok();
        for path in real.iter().chain([root]) {
            folders.extend(
                path.parent()
                    .filter(|parent| parent.is_dir())
                    .map(Path::to_owned),
            );
        }
    }
    folders.extend(walk.folders);
    folders
}

/// Whether an event is about what was named; reading is not a change.
fn is_change(event: &Event, roots: &[PathBuf]) -> bool {
    let is_reading = matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write));
    if is_reading {
        return false;
    }
    // The links of a mounted ConfigMap change through `..data` beside them.
    let is_link = |path: &Path| {
        path.file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b".."))
    };
    let real: Vec<PathBuf> = roots
        .iter()
        .filter_map(|root| fs::canonicalize(root).ok())
        .collect();
    let is_ours = |path: &PathBuf| {
        is_link(path) || roots.iter().chain(&real).any(|root| path.starts_with(root))
    };
    event.need_rescan() || event.paths.is_empty() || event.paths.iter().any(is_ours)
}

#[cfg(test)]
mod tests;
