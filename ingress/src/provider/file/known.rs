//! What the files said when they were last read, so that only what has changed is read again.
//!
//! A file whose time, size and place are what they were is not opened; a document whose text stands where it stood is
//! not parsed, and its objects are the same values in memory: what follows sees by that that nothing has changed.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::super::document::{self, Before, Source};
use super::super::object::{self, Object};
use super::super::problem::Problem;
use super::{MAX_FILE_BYTES, MAX_TOTAL_BYTES, about, files};

/// How old a file must be when it is read for its time to tell a later change: clocks of file systems have steps.
const CLOCK_STEP: Duration = Duration::from_millis(100);

/// All files, as they were last read.
#[derive(Debug, Default)]
pub(super) struct Files(BTreeMap<PathBuf, Known>);

#[derive(Debug)]
struct Known {
    name: Arc<str>,
    stamp: Option<Stamp>,
    bytes: u64,
    parts: Vec<Part>,
    problems: Vec<Problem>,
}

/// Part of a file: a document, in most.
#[derive(Debug)]
struct Part {
    source: Source,
    documents: u32,
    objects: Box<[Object]>,
    problems: Box<[Problem]>,
    mistake: Option<Box<Problem>>,
}

/// What changes with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// None when another change would not show: the file has changed just now.
    fn of(metadata: &Metadata, now: SystemTime) -> Option<Self> {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let changed = Duration::new(
            u64::try_from(metadata.ctime()).ok()?,
            u32::try_from(metadata.ctime_nsec()).ok()?,
        );
        (changed + CLOCK_STEP < since).then(|| Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl Files {
    /// The objects of all files that these paths stand for.
    pub(super) fn read(&mut self, paths: &[PathBuf], problems: &mut Vec<Problem>) -> Vec<Object> {
        let mut before = std::mem::take(&mut self.0);
        let mut objects = Vec::new();
        let mut total: u64 = 0;
        for (path, metadata) in files(paths, problems) {
            let known = match look(&path, &metadata, before.remove(&path)) {
                Ok(known) => known,
                Err(problem) => {
                    problems.push(*problem);
                    continue;
                }
            };
            total = total.saturating_add(known.bytes);
            if total > MAX_TOTAL_BYTES {
                let message = format!("the files are larger than {MAX_TOTAL_BYTES} bytes together");
                problems.push(about(&path, message));
                break;
            }
            known.show(&mut objects, problems);
            self.0.insert(path, known);
        }
        objects
    }
}

/// What a file says, and what is known of that already.
#[expect(
    clippy::disallowed_methods,
    reason = "the times of files are wall time"
)]
fn look(path: &Path, metadata: &Metadata, before: Option<Known>) -> Result<Known, Box<Problem>> {
    let stamp = Stamp::of(metadata, SystemTime::now());
    let before = match before {
        Some(known) if known.stamp.is_some() && known.stamp == stamp => return Ok(known),
        before => before,
    };
    let text = read_file(path)
        .map_err(|error| Box::new(about(path, format!("this file cannot be read: {error}"))))?;
    let (name, parts) = match before {
        Some(before) => (before.name, before.parts),
        None => (path.display().to_string().into(), Vec::new()),
    };
    Ok(Known::read(name, stamp, &text, parts))
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

impl Known {
    fn read(name: Arc<str>, stamp: Option<Stamp>, text: &[u8], before: Vec<Part>) -> Self {
        let mut known = Self {
            stamp,
            bytes: u64::try_from(text.len()).unwrap_or(u64::MAX),
            parts: Vec::new(),
            problems: Vec::new(),
            name,
        };
        let text = match document::utf8(&known.name, text) {
            Ok(text) => text,
            Err(problem) => {
                known.problems.push(*problem);
                return known;
            }
        };
        let pieces = document::pieces(text);
        known.parts.reserve_exact(pieces.len());
        let mut place = Before::default();
        let mut before = before.into_iter();
        for piece in pieces {
            let part = match before.next() {
                Some(part) if part.stands_at(place, piece) => part,
                _ => Part::read(&known.name, place.source(piece)),
            };
            place.pass(piece, part.documents);
            let is_last = part.mistake.is_some();
            known.parts.push(part);
            if is_last {
                break;
            }
        }
        known
    }

    fn show(&self, objects: &mut Vec<Object>, problems: &mut Vec<Problem>) {
        for part in &self.parts {
            objects.extend_from_slice(&part.objects);
            problems.extend_from_slice(&part.problems);
        }
        let mistakes = self.parts.iter().filter_map(|part| part.mistake.as_deref());
        problems.extend(mistakes.chain(&self.problems).cloned());
    }
}

impl Part {
    fn stands_at(&self, place: Before, piece: &str) -> bool {
        let source = &self.source;
        (source.lines_before, source.documents_before) == (place.lines, place.documents)
            && *source.text == *piece
    }

    fn read(file: &Arc<str>, source: Source) -> Self {
        let reading = document::read_source(file, &source);
        let mut objects = Vec::new();
        let mut problems = Vec::new();
        for document in &reading.documents {
            object::read(document, &mut objects, &mut problems);
        }
        Self {
            source,
            documents: reading.count,
            objects: objects.into(),
            problems: problems.into(),
            mistake: reading.mistake.map(Box::new),
        }
    }
}
