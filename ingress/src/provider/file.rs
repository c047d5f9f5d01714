//! Files and folders as a provider: read, watched, and read again.
//!
//! A folder stands for its `*.yaml`, `*.yml` and `*.json` files and those of its folders, hidden ones left out. What
//! is read is the whole configuration each time; an edit with a mistake changes nothing, and the caller shows it.
//!
//! Folders are watched, not files: an editor that writes a new file and moves it over the old one, `mv`, and the links
//! of a mounted ConfigMap are changes of the folder. Order of use: [`FileProvider::watch`], [`FileProvider::load`],
//! then for each [`Watch::changed`] again `load`; so no change falls between reading and watching.

mod known;

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, FileType, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use parkway_activator::revision::RevisionId;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use self::known::Files;
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
/// How long nothing may happen before a change counts as complete while a file is being written, or is gone: editors
/// write in several steps.
pub const QUIET: Duration = Duration::from_millis(50);
/// The same once every file that was touched has been closed, or moved to where it belongs.
pub const QUIET_AT_REST: Duration = Duration::from_millis(4);
/// How long a change may take until it is read anyway.
pub const LONGEST_CHANGE: Duration = Duration::from_millis(500);

const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Configuration from files and folders.
#[derive(Debug)]
pub struct FileProvider {
    paths: Vec<PathBuf>,
    files: Files,
    rollout: Rollout,
    /// What was noticed while reading the files of the present world.
    noticed: Vec<Problem>,
}

impl FileProvider {
    /// A provider for these files and folders; nothing is read yet.
    pub fn new(paths: Vec<PathBuf>, options: Options, validate: Arc<dyn Validate>) -> Self {
        Self {
            paths,
            files: Files::default(),
            rollout: Rollout::new(options, validate),
            noticed: Vec::new(),
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
        let mut entries: Vec<(PathBuf, Option<FileType>)> = entries
            .flatten()
            .map(|entry| (entry.path(), entry.file_type().ok()))
            .filter(|(name, _)| !is_hidden(name))
            .collect();
        entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        for (name, kind) in &entries {
            let is_file = kind.is_some_and(|kind| kind.is_file());
            if is_file && !(self.wants_files && has_known_extension(name)) {
                continue;
            }
            match fs::metadata(name) {
                Ok(metadata) if metadata.is_dir() => self.folder(name, depth + 1),
                Ok(metadata) if metadata.is_file() && has_known_extension(name) => {
                    self.file(name, metadata);
                }
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
    /// Files that were touched since the last change was reported, and not closed.
    unfinished: Arc<Mutex<HashSet<PathBuf>>>,
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
        let unfinished: Arc<Mutex<HashSet<PathBuf>>> = Arc::default();
        let touched = Arc::clone(&unfinished);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // An error of the watcher may have cost us events: look again.
            let is_change = match event {
                Ok(event) => {
                    is_change(&event, &watched) && {
                        note(&event, &mut touched.lock());
                        true
                    }
                }
                Err(_) => true,
            };
            if is_change {
                let _full = sender.try_send(()); // then a change is already reported
            }
        })?;
        let mut watch = Self {
            roots,
            watcher,
            folders: BTreeSet::new(),
            events,
            unfinished,
            since: None,
        };
        watch.follow()?;
        Ok(watch)
    }

    /// Waits for a change that has come to rest for [`QUIET_AT_REST`] or [`QUIET`], or has gone on for
    /// [`LONGEST_CHANGE`].
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
            let is_at_rest = self.unfinished.lock().is_empty();
            let quiet = if is_at_rest { QUIET_AT_REST } else { QUIET };
            let quiet_at = (Instant::now() + quiet).min(latest);
            if timeout_at(quiet_at, self.events.recv()).await.is_err() {
                break;
            }
        }
        self.since = None;
        self.unfinished.lock().clear();
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

/// Notes which files are being written or have gone, and which of them are complete. A file that was moved within what is
/// watched has not gone: it is told of once more, with both its names.
fn note(event: &Event, unfinished: &mut HashSet<PathBuf>) {
    let is_complete = matches!(
        event.kind,
        EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both))
    );
    for path in &event.paths {
        if is_complete {
            unfinished.remove(path);
        } else if unfinished.len() < MAX_FILES {
            unfinished.insert(path.clone());
        }
    }
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
