//! Notices that files have changed, and when a change is complete.
//!
//! What the watcher tells is looked at on its own thread, event by event, and most of it is nobody's business: a log that
//! grows beside the manifests costs a comparison of names for each of its lines, and no look at the file system.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RemoveKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::{MAX_FILES, Walk, has_known_extension};

/// How long nothing may happen before a change counts as complete while a file is being written, or is gone: editors
/// write in several steps.
pub const QUIET: Duration = Duration::from_millis(50);
/// The same once every file that was touched has been closed, or moved to where it belongs.
pub const QUIET_AT_REST: Duration = Duration::from_millis(4);
/// How long a change may take until it is read anyway.
pub const LONGEST_CHANGE: Duration = Duration::from_millis(500);

/// Notices changes of the files.
#[derive(Debug)]
pub struct Watch {
    roots: Vec<PathBuf>,
    watcher: RecommendedWatcher,
    folders: BTreeSet<PathBuf>,
    /// Holds one message: that something has changed says all, and a second would say the same.
    events: mpsc::Receiver<()>,
    noticed: Arc<Mutex<Noticed>>,
    /// When the change began that is not yet reported.
    since: Option<Instant>,
}

impl Watch {
    pub(in super::super) fn new(paths: &[PathBuf]) -> notify::Result<Self> {
        let roots: Vec<PathBuf> = paths
            .iter()
            .map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()))
            .collect();
        let (sender, events) = mpsc::channel(1);
        let noticed: Arc<Mutex<Noticed>> = Arc::default();
        let notices = Arc::clone(&noticed);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if notice(event, &notices) {
                let _full = sender.try_send(()); // then a change is already reported
            }
        })?;
        let mut watch = Self {
            roots,
            watcher,
            folders: BTreeSet::new(),
            events,
            noticed,
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
            let is_at_rest = self.noticed.lock().unfinished.is_empty();
            let quiet = if is_at_rest { QUIET_AT_REST } else { QUIET };
            let quiet_at = (Instant::now() + quiet).min(latest);
            if timeout_at(quiet_at, self.events.recv()).await.is_err() {
                break;
            }
        }
        self.since = None;
        let may_lead_elsewhere = self.noticed.lock().report();
        if may_lead_elsewhere && let Err(error) = self.follow() {
            tracing::warn!(%error, "some folders are not watched: changes in them are not noticed");
        }
    }

    /// Whether a change was noticed and is not yet reported.
    #[cfg(test)]
    pub(super) fn has_noticed(&self) -> bool {
        self.since.is_some()
    }

    /// Watches the folders there are now.
    fn follow(&mut self) -> notify::Result<()> {
        // Before looking: what changes meanwhile is told once we watch, and asked of what is known then.
        self.noticed.lock().roots = with_real(&self.roots);
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

/// The paths as they were named, and those they lead to.
fn with_real(roots: &[PathBuf]) -> Vec<PathBuf> {
    let real = roots.iter().filter_map(|root| fs::canonicalize(root).ok());
    let mut all: Vec<PathBuf> = roots.iter().cloned().chain(real).collect();
    all.sort_unstable();
    all.dedup();
    all
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

/// What the watcher has told since the last change was reported.
#[derive(Debug, Default)]
pub(super) struct Noticed {
    /// What was named, and what that leads to.
    roots: Vec<PathBuf>,
    /// Files that were touched, and not closed.
    pub(super) unfinished: HashSet<PathBuf>,
    /// Other folders may matter now.
    may_lead_elsewhere: bool,
}

/// Takes in an event; says whether it is a change.
fn notice(event: notify::Result<Event>, noticed: &Mutex<Noticed>) -> bool {
    let Ok(event) = event else {
        noticed.lock().may_lead_elsewhere = true;
        return true; // it may have cost us events: look again
    };
    if !noticed.lock().concerns_us(&event) {
        return false;
    }
    let may_lead_elsewhere = may_lead_elsewhere(&event);
    let mut noticed = noticed.lock();
    noticed.may_lead_elsewhere |= may_lead_elsewhere;
    noticed.note(&event);
    true
}

impl Noticed {
    #[cfg(test)]
    pub(super) fn of(roots: &[&str]) -> Self {
        Self {
            roots: roots.iter().map(PathBuf::from).collect(),
            ..Self::default()
        }
    }

    /// Whether an event is about what was named; reading is not a change.
    pub(super) fn concerns_us(&self, event: &Event) -> bool {
        let is_reading = matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write));
        let is_ours = |path: &PathBuf| {
            let is_within = self.roots.iter().any(|root| path.starts_with(root));
            // The links of a mounted ConfigMap change through `..data` beside them.
            is_link(path) || (is_within && (!is_of_content(event) || self.is_manifest(path)))
        };
        let is_of_everything = event.need_rescan() || event.paths.is_empty();
        !is_reading && (is_of_everything || event.paths.iter().any(is_ours))
    }

    fn is_manifest(&self, path: &Path) -> bool {
        has_known_extension(path) || self.roots.iter().any(|root| root == path)
    }

    /// Notes which files are being written or have gone, and which of them are complete. A file that was moved within
    /// what is watched has not gone: it is told of once more, with both its names.
    pub(super) fn note(&mut self, event: &Event) {
        let is_of_permissions = matches!(event.kind, EventKind::Modify(ModifyKind::Metadata(_)));
        let is_complete = matches!(
            event.kind,
            EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both))
        );
        for path in &event.paths {
            if is_complete {
                self.unfinished.remove(path);
            } else if !is_of_permissions
                && self.unfinished.len() < MAX_FILES
                && self.is_manifest(path)
            {
                self.unfinished.insert(path.clone());
            }
        }
    }

    /// The change is reported; what follows is another. Says whether other folders may matter now.
    fn report(&mut self) -> bool {
        self.unfinished.clear();
        std::mem::take(&mut self.may_lead_elsewhere)
    }
}

fn is_link(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b".."))
}

/// Whether it is about what a file says, or how it may be used: it was there before, and is still.
fn is_of_content(event: &Event) -> bool {
    matches!(
        event.kind,
        EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_))
            | EventKind::Access(AccessKind::Close(AccessMode::Write))
    )
}

/// Whether folders may have come or gone, or links to them: all but what happens to plain files.
fn may_lead_elsewhere(event: &Event) -> bool {
    let is_plain_file =
        |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
    let leads_nowhere = match event.kind {
        EventKind::Create(CreateKind::File)
        | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
            event.paths.iter().all(is_plain_file)
        }
        // The same file as where it is now, or another's affair; what is told of by both its names was told of by each.
        EventKind::Remove(RemoveKind::File)
        | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
            event.paths.iter().all(|path| has_known_extension(path))
        }
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => true,
        _ => is_of_content(event),
    };
    !leads_nowhere || event.need_rescan() || event.paths.is_empty()
}
