//! Who may ask: holders of a token of our own ServiceAccount, made for this purpose.
//!
//! The asker sends the token that Kubernetes projects into its Pod, with the audience [`AUDIENCE`]. The one who is asked
//! has it reviewed by the API server, and its own token too: that tells whose ServiceAccount is ours. A verdict is
//! remembered for a while under the token's hash, so that a long poll costs no review each time.
//!
//! Source: kubernetes/api `authentication/v1/types.go` (TokenReview). Needs `create` on `tokenreviews`.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex as AsyncMutex, Semaphore};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

/// The audience of the tokens that replicas show each other.
pub const AUDIENCE: &str = "parkway-peers";
/// How long a token counts as ours after it was reviewed.
pub const OURS_FOR: Duration = Duration::from_secs(300);
/// How long a token counts as somebody else's after it was reviewed.
pub const STRANGE_FOR: Duration = Duration::from_secs(10);
/// How many verdicts are remembered; beyond that the one that ends first is forgotten.
pub const MAX_VERDICTS: usize = 256;
/// How long a review may take.
pub const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);
/// How many askers may wait for reviews, which are made one by one; more are told to come back.
pub const MAX_WAITING: usize = 16;
/// Tokens longer than this are not looked at; Kubernetes' own have one or two thousand bytes.
const MAX_TOKEN: usize = 16 * 1024;

/// Whether and how askers prove who they are.
pub enum PeerAuth {
    /// They need not: for tests, and where nobody else can reach the port.
    Open,
    /// By a token that the API server reviews.
    Tokens(Box<TokenReviews>),
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A replica.
    Ours,
    /// Somebody with a valid token of another account.
    Stranger,
    /// Somebody without a valid token.
    Nobody,
    /// It cannot be known now.
    Unknown,
}

/// A token that is in a file and replaced there from time to time.
#[derive(Clone, Debug)]
pub struct TokenFile(PathBuf);

impl TokenFile {
    /// The file, which need not be there yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What is in it now: the kubelet replaces it well before it expires. It is small and in memory.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is empty.
    pub fn read(&self) -> io::Result<String> {
        let text = std::fs::read_to_string(&self.0)?;
        let token = text.trim();
        if token.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the token file is empty",
            ));
        }
        Ok(token.to_owned())
    }
}

/// Has tokens reviewed, and remembers what was said.
pub struct TokenReviews {
    api: Api<TokenReview>,
    own: TokenFile,
    verdicts: Mutex<HashMap<[u8; 32], (Instant, Reviewed)>>,
    waiting: Semaphore,
    reviewing: AsyncMutex<()>,
}

/// What the API server said of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reviewed {
    /// It is this user's, for our audience.
    Of(Arc<str>),
    Invalid,
}

impl PeerAuth {
    /// Verifies tokens through `client`; `own` is the file of our own.
    pub fn tokens(client: Client, own: TokenFile) -> Self {
        Self::Tokens(Box::new(TokenReviews {
            api: Api::all(client),
            own,
            verdicts: Mutex::default(),
            waiting: Semaphore::new(MAX_WAITING),
            reviewing: AsyncMutex::new(()),
        }))
    }

    /// Who shows this token.
    pub async fn check(&self, token: Option<&str>) -> Verdict {
        match self {
            Self::Open => Verdict::Ours,
            Self::Tokens(reviews) => reviews.check(token).await,
        }
    }
}

impl fmt::Debug for PeerAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "Open",
            Self::Tokens(_) => "Tokens",
        })
    }
}

impl fmt::Debug for TokenReviews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenReviews")
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}

impl TokenReviews {
    async fn check(&self, token: Option<&str>) -> Verdict {
        let Some(token) = token.filter(|token| token.len() <= MAX_TOKEN) else {
            return Verdict::Nobody;
        };
        let own = match self.own.read() {
            Ok(own) => own,
            Err(error) => {
                warn!(file = %self.own.path().display(), %error, "cannot read our own token");
                return Verdict::Unknown;
            }
        };
        let Some(asker) = self.reviewed(token).await else {
            return Verdict::Unknown;
        };
        let Reviewed::Of(asker) = asker else {
            return Verdict::Nobody;
        };
        match self.reviewed(&own).await {
            Some(Reviewed::Of(ours)) if ours == asker => Verdict::Ours,
            Some(Reviewed::Of(_)) => Verdict::Stranger,
            Some(Reviewed::Invalid) => {
                warn!(file = %self.own.path().display(), audience = AUDIENCE, "our own token is not valid");
                Verdict::Unknown
            }
            None => Verdict::Unknown,
        }
    }

    /// Whose a token is, as remembered or reviewed now; none when that cannot be known now.
    async fn reviewed(&self, token: &str) -> Option<Reviewed> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        if let Some(known) = self.remembered(&hash) {
            return Some(known);
        }
        let _waiting = self.waiting.try_acquire().ok()?;
        let _turn = self.reviewing.lock().await;
        // Whoever was before us may have asked about the same token.
        if let Some(known) = self.remembered(&hash) {
            return Some(known);
        }
        let reviewed = self.review(token).await?;
        self.remember(hash, reviewed.clone());
        Some(reviewed)
    }

    fn remembered(&self, hash: &[u8; 32]) -> Option<Reviewed> {
        let verdicts = self.verdicts.lock();
        let (until, reviewed) = verdicts.get(hash)?;
        (Instant::now() < *until).then(|| reviewed.clone())
    }

    fn remember(&self, hash: [u8; 32], reviewed: Reviewed) {
        let now = Instant::now();
        let kept = match reviewed {
            Reviewed::Of(_) => OURS_FOR,
            Reviewed::Invalid => STRANGE_FOR,
        };
        let mut verdicts = self.verdicts.lock();
        if verdicts.len() >= MAX_VERDICTS {
            verdicts.retain(|_, (until, _)| now < *until);
        }
        if verdicts.len() >= MAX_VERDICTS {
            let first = verdicts.iter().min_by_key(|(_, (until, _))| *until);
            let first = first.map(|(hash, _)| *hash);
            first.and_then(|first| verdicts.remove(&first));
        }
        verdicts.insert(hash, (now + kept, reviewed));
    }

    #[cfg(test)]
    pub(super) fn remembers(&self) -> usize {
        self.verdicts.lock().len()
    }

    async fn review(&self, token: &str) -> Option<Reviewed> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![AUDIENCE.to_owned()]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let params = PostParams::default();
        let asked = timeout(REVIEW_TIMEOUT, self.api.create(&params, &review)).await;
        let status = match asked {
            Ok(Ok(answered)) => answered.status.unwrap_or_default(),
            Ok(Err(error)) => {
                warn!(%error, "cannot have a replica's token reviewed");
                return None;
            }
            Err(_elapsed) => {
                warn!(within = ?REVIEW_TIMEOUT, "a replica's token was not reviewed");
                return None;
            }
        };
        // An API server that knows nothing of audiences says so by leaving ours out.
        let is_for_us = status
            .audiences
            .iter()
            .flatten()
            .any(|audience| audience == AUDIENCE);
        let user = status.user.and_then(|user| user.username);
        match user {
            Some(user) if status.authenticated == Some(true) && is_for_us => {
                Some(Reviewed::Of(user.into()))
            }
            _ => {
                info!(
                    error = status.error.as_deref().unwrap_or_default(),
                    "a token is not valid here"
                );
                Some(Reviewed::Invalid)
            }
        }
    }
}
