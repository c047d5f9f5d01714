//! What the user is told while it goes on, and when it fails.

use std::fmt;
use std::io::Write;
use std::time::Duration;

use tokio::time::Instant;

use super::api::ApiError;

/// How often it is looked whether something has come true.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long nothing is said while nothing changes.
const SAY_AGAIN: Duration = Duration::from_secs(15);

/// Lines with the time at which they were said.
pub struct Progress<'out> {
    out: &'out mut (dyn Write + Send),
    started: Instant,
}

impl fmt::Debug for Progress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").finish_non_exhaustive()
    }
}

/// How far something is that is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It has come true: in these words.
    Done(String),
    /// Not yet: in these words.
    Waiting(String),
}

/// Why it cannot go on.
#[derive(Debug)]
pub struct Failure {
    what: String,
    mend: Vec<String>,
    notes: Vec<String>,
    may_pass: bool,
}

impl Failure {
    /// In these words.
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            mend: Vec::new(),
            notes: Vec::new(),
            may_pass: false,
        }
    }

    /// And what can be done about it.
    #[must_use]
    pub fn mend(mut self, how: impl Into<String>) -> Self {
        self.mend.push(how.into());
        self
    }

    /// And what else is good to know.
    #[must_use]
    pub fn note(mut self, what: impl Into<String>) -> Self {
        self.notes.push(what.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for how in &self.mend {
            write!(f, "\n  to mend it: {how}")?;
        }
        for note in &self.notes {
            write!(f, "\n  {note}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self {
            what: error.to_string(),
            mend: error.mend().into_iter().collect(),
            notes: Vec::new(),
            may_pass: error.may_pass(),
        }
    }
}

impl<'out> Progress<'out> {
    /// Told here.
    pub fn new(out: &'out mut (dyn Write + Send)) -> Self {
        Self {
            out,
            started: Instant::now(),
        }
    }

    /// Says a line.
    pub fn say(&mut self, line: impl fmt::Display) {
        let elapsed = self.started.elapsed().as_secs_f64();
        // Nobody listens any more: what is under way goes on.
        writeln!(self.out, "[{elapsed:6.1} s] {line}").unwrap_or_default();
        self.out.flush().unwrap_or_default();
    }

    /// Looks again and again until it has come true; says when it gets further.
    ///
    /// An API server that does not answer is waited for like everything else.
    ///
    /// # Errors
    ///
    /// When it has not come true in time, or cannot any more.
    pub async fn until(
        &mut self,
        subject: &str,
        timeout: Duration,
        mut look: impl AsyncFnMut() -> Result<State, Failure>,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + timeout;
        let mut said: Option<(String, Instant)> = None;
        loop {
            let waiting = match look().await {
                Ok(State::Done(how)) => {
                    self.say(format_args!("{subject}: {how}"));
                    return Ok(());
                }
                Ok(State::Waiting(how)) => how,
                Err(failure) if failure.may_pass => failure.what,
                Err(failure) => return Err(failure),
            };
            if Instant::now() >= deadline {
                let seconds = timeout.as_secs();
                return Err(Failure::new(format!(
                    "{subject}: not after {seconds} s: {waiting}"
                )));
            }
            let is_news = said
                .as_ref()
                .is_none_or(|(how, when)| *how != waiting || when.elapsed() >= SAY_AGAIN);
            if is_news {
                self.say(format_args!("  {subject}: {waiting}"));
                said = Some((waiting, Instant::now()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
