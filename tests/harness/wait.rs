//! Waiting for something to become true, without guessing how long it takes.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// Far more than anything here takes; whoever waits this long waits for ever.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long to wait before asking again.
const PAUSE: Duration = Duration::from_millis(10);

/// Asks until there is an answer.
///
/// `what` completes the sentence "waited in vain for …".
pub async fn eventually<T>(what: impl Display, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let due = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < due, "waited in vain for {what}");
        sleep(PAUSE).await;
    }
}

/// Asks until the answer is yes; what `ask` returns otherwise is told when it never is.
pub async fn settled<E: Display>(what: impl Display, mut ask: impl AsyncFnMut() -> Result<(), E>) {
    let due = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(()) => return,
            Err(still) if Instant::now() >= due => panic!("waited in vain for {what}: {still}"),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Awaits something that cannot take long; `what` completes the sentence "waited in vain for …".
pub async fn patiently<F: Future>(what: impl Display, future: F) -> F::Output {
    match timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_elapsed) => panic!("waited in vain for {what}"),
    }
}
