//! What the files said when they were last read, so that only what has changed is read again.
//!
//! A file whose time, size and place are what they were is not opened; a document that says what it said is not parsed,
//! wherever it stands now, and its objects are the same values in memory: what follows sees by that that nothing has
//! changed.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::super::document::{self, Before, Fingerprint, Source, Text};
use super::super::object::{self, Object};
use super::super::problem::Problem;
use super::{MAX_FILE_BYTES, MAX_TOTAL_BYTES, about, files};

/// How old a file must be when it is read for its time to tell a later change: clocks of file systems have steps.
const CLOCK_STEP: Duration = Duration::from_millis(100);

/// All files, as they were last read, by their paths.
#[derive(Debug, Default)]
pub(super) struct Files(HashMap<OsString, Known>);

#[derive(Debug)]
struct Known {
    text: Arc<Text>,
    stamp: Option<Stamp>,
    bytes: u64,
    parts: Vec<Part>,
    problems: Vec<Problem>,
}

/// Part of a file: a document, in most.
#[derive(Debug)]
struct Part {
    source: Arc<Source>,
    documents: u32,
    objects: Box<[Object]>,
    /// What was found wrong, if anything was. It names lines.
    problems: Option<Box<Found>>,
}

#[derive(Debug)]
struct Found {
    problems: Vec<Problem>,
    mistake: Option<Problem>,
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
            let known = before.remove(path.as_os_str());
            let known = match look(&path, &metadata, known) {
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
            self.0.insert(path.into_os_string(), known);
        }
        objects
    }

    /// Forgets the texts: what is asked of them now is read again.
    pub(super) fn let_go_of_texts(&self) {
        for known in self.0.values() {
            known.text.let_go();
        }
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
    let bytes = read_text(path)
        .map_err(|error| Box::new(about(path, format!("this file cannot be read: {error}"))))?;
    let (text, parts) = match before {
        Some(before) => (before.text, before.parts),
        None => (Text::of_file(path), Vec::new()),
    };
    Ok(Known::read(text, stamp, bytes, parts))
}

/// The text of a file, if it is small enough.
pub(in super::super) fn read_text(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let expected = metadata.len().min(MAX_FILE_BYTES) + 1; // one more, to see that it ends there
    let mut text = Vec::with_capacity(usize::try_from(expected).unwrap_or_default());
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
    fn read(text: Arc<Text>, stamp: Option<Stamp>, bytes: Vec<u8>, before: Vec<Part>) -> Self {
        let mut known = Self {
            stamp,
            bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            parts: Vec::new(),
            problems: Vec::new(),
            text,
        };
        let said = match document::into_utf8(known.text.name(), bytes) {
            Ok(said) => Arc::new(said),
            Err(problem) => {
                known.problems.push(*problem);
                return known;
            }
        };
        known.text.hold(Arc::clone(&said));
        let pieces = document::pieces(&said);
        known.parts.reserve_exact(pieces.len());
        let mut before = Earlier::new(before);
        let mut place = Before::default();
        for piece in pieces {
            let part = before.take(piece, place);
            let part = part.unwrap_or_else(|| Part::read(&known.text, place, piece));
            place.pass(piece, part.documents);
            let is_last = part.found().is_some_and(|found| found.mistake.is_some());
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
            let found = part.found().map(|found| &*found.problems);
            problems.extend_from_slice(found.unwrap_or_default());
        }
        let mistakes = self
            .parts
            .iter()
            .filter_map(|part| part.found()?.mistake.as_ref());
        problems.extend(mistakes.chain(&self.problems).cloned());
    }
}

/// The parts a file had, each for one that says the same.
struct Earlier {
    parts: Vec<Option<Part>>,
    /// The place of the one that is expected.
    next: usize,
    /// Places by what stood there, once something else stood where it was expected.
    places: Option<HashMap<Fingerprint, Vec<usize>>>,
}

impl Earlier {
    fn new(parts: Vec<Part>) -> Self {
        Self {
            parts: parts.into_iter().map(Some).collect(),
            next: 0,
            places: None,
        }
    }

    /// The part that says this, and can stand here.
    fn take(&mut self, piece: &str, place: Before) -> Option<Part> {
        let fingerprint = Fingerprint::of(piece);
        let is_it = |part: &Option<Part>| {
            let part = part.as_ref();
            part.is_some_and(|part| part.source.fingerprint() == fingerprint)
        };
        let at = match self.parts.get(self.next) {
            Some(expected) if is_it(expected) => self.next,
            _ => self.elsewhere(fingerprint)?,
        };
        self.next = at + 1;
        let part = self.parts.get_mut(at)?.take()?;
        // What was found wrong with it names lines.
        if part.problems.is_some() && part.source.place() != place {
            return None;
        }
        part.source.stands(place);
        Some(part)
    }

    fn elsewhere(&mut self, fingerprint: Fingerprint) -> Option<usize> {
        let parts = &self.parts;
        let places = self.places.get_or_insert_with(|| {
            let mut places: HashMap<Fingerprint, Vec<usize>> = HashMap::new();
            for (place, part) in parts.iter().enumerate().rev() {
                if let Some(part) = part {
                    places
                        .entry(part.source.fingerprint())
                        .or_default()
                        .push(place);
                }
            }
            places
        });
        let of_it = places.get_mut(&fingerprint)?;
        std::iter::from_fn(|| of_it.pop()).find(|place| parts[*place].is_some())
    }
}

impl Part {
    fn found(&self) -> Option<&Found> {
        self.problems.as_deref()
    }

    fn read(text: &Arc<Text>, place: Before, piece: &str) -> Self {
        let source = Source::new(text, place, piece);
        let reading = document::read_source(&source, piece);
        let mut objects = Vec::new();
        let mut problems = Vec::new();
        for document in &reading.documents {
            object::read(document, &mut objects, &mut problems);
        }
        let is_good = problems.is_empty() && reading.mistake.is_none();
        let found = Found {
            problems,
            mistake: reading.mistake,
        };
        Self {
            source,
            documents: reading.count,
            objects: objects.into(),
            problems: (!is_good).then(|| Box::new(found)),
        }
    }
}
