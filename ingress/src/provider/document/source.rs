//! Where the text of documents is found again: nodes take ten times the memory of their text, and the text of a file is
//! in the file. So neither is kept, and when something is wrong with a document it is read again.

use std::fmt;
use std::hash::BuildHasher as _;
use std::hash::RandomState;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;

use super::super::file::read_text;
use super::reader::read_source;
use super::{Document, into_utf8};

/// The text of a file, or text that is in no file.
pub struct Text {
    name: Arc<str>,
    file: Option<PathBuf>,
    /// None until it is read again.
    held: Mutex<Option<Arc<String>>>,
}

impl Text {
    /// Text that is nowhere else.
    pub(crate) fn of(name: &str, text: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            file: None,
            held: Mutex::new(Some(Arc::new(text.to_owned()))),
        })
    }

    /// The text of this file, which is not read yet.
    pub(crate) fn of_file(path: &Path) -> Arc<Self> {
        Arc::new(Self {
            name: path.display().to_string().into(),
            file: Some(path.to_owned()),
            held: Mutex::default(),
        })
    }

    /// The file, as it was named.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The file says this now.
    pub(crate) fn hold(&self, text: Arc<String>) {
        *self.held.lock() = Some(text);
    }

    /// Forgets what can be read again.
    pub(crate) fn let_go(&self) {
        if self.file.is_some() {
            drop(self.held.lock().take());
        }
    }

    /// What it says, read again if need be and then held. None when that is not possible any more.
    fn get(&self) -> Option<Arc<String>> {
        let held = self.held.lock().clone();
        if held.is_some() {
            return held;
        }
        let bytes = read_text(self.file.as_deref()?).ok()?;
        let text = Arc::new(into_utf8(&self.name, bytes).ok()?);
        self.hold(Arc::clone(&text));
        Some(text)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Text").field(&self.name).finish()
    }
}

/// Part of a text: one document, or several where they cannot be told apart before they are read.
#[derive(Debug)]
pub struct Source {
    text: Arc<Text>,
    fingerprint: Fingerprint,
    start: AtomicU32,
    lines_before: AtomicU32,
    documents_before: AtomicU32,
}

/// Tells texts apart: two different ones have the same with a probability of 2⁻⁶⁴.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint {
    hash: u64,
    bytes: u32,
}

impl Fingerprint {
    pub(crate) fn of(text: &str) -> Self {
        Self {
            hash: KEY.hash_one(text),
            bytes: u32::try_from(text.len()).unwrap_or(u32::MAX),
        }
    }
}

/// The same for the whole process, so that nobody who writes texts knows it.
static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Where a source stands in its text: what is before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Before {
    pub(crate) bytes: u32,
    pub(crate) lines: u32,
    pub(crate) documents: u32,
}

impl Before {
    /// Goes on to the next piece.
    pub(crate) fn pass(&mut self, piece: &str, documents: u32) {
        let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let lines = memchr::memchr_iter(b'\n', piece.as_bytes()).count();
        self.bytes = self.bytes.saturating_add(clamp(piece.len()));
        self.lines = self.lines.saturating_add(clamp(lines));
        self.documents = self.documents.saturating_add(documents);
    }
}

impl Source {
    /// The piece of a text that stands here.
    pub(crate) fn new(text: &Arc<Text>, place: Before, piece: &str) -> Arc<Self> {
        Arc::new(Self {
            text: Arc::clone(text),
            fingerprint: Fingerprint::of(piece),
            start: place.bytes.into(),
            lines_before: place.lines.into(),
            documents_before: place.documents.into(),
        })
    }

    /// The file, as it was named.
    pub(crate) fn file(&self) -> &Arc<str> {
        self.text.name()
    }

    /// Where it stands.
    pub(crate) fn place(&self) -> Before {
        Before {
            bytes: self.start.load(Ordering::Relaxed),
            lines: self.lines_before.load(Ordering::Relaxed),
            documents: self.documents_before.load(Ordering::Relaxed),
        }
    }

    /// It stands here now: what is before it has changed. Problems that were told keep their lines.
    pub(crate) fn stands(&self, place: Before) {
        self.start.store(place.bytes, Ordering::Relaxed);
        self.lines_before.store(place.lines, Ordering::Relaxed);
        self.documents_before
            .store(place.documents, Ordering::Relaxed);
    }

    /// Of what it says.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The document that is this one of its own, counted from 1, read again. None when the text is not there any more.
    pub(crate) fn document(self: &Arc<Self>, number: u32) -> Option<Document> {
        let text = self.text.get()?;
        let start = usize::try_from(self.place().bytes).ok()?;
        let end = start.checked_add(usize::try_from(self.fingerprint.bytes).ok()?)?;
        let piece = text.get(start..end)?;
        if Fingerprint::of(piece) != self.fingerprint {
            return None;
        }
        let number = number.saturating_add(self.place().documents);
        let mut documents = read_source(self, piece).documents.into_iter();
        let document = documents.find(|document| document.number == number)?;
        Some(Arc::unwrap_or_clone(document))
    }
}
