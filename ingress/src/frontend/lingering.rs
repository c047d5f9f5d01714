//! Closing a connection whose client may still be sending, so that it reads the answer.
//!
//! Bytes that nobody reads make the system reset the connection, and a reset may overtake the answer or take it away again
//! (RFC 9112 section 9.6). So the sending side is ended first, and what still comes is read and thrown away, for a bounded
//! time.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt as _, ReadBuf};

use super::stream::ClientStream;

/// Ends the sending side, and reads until the client has ended its own or `limit` has passed.
pub(super) async fn close(mut stream: ClientStream, limit: Duration) {
    let ending = async {
        if stream.shutdown().await.is_ok() {
            poll_fn(|cx| poll_to_the_end(&mut stream, cx)).await;
        }
    };
    // Whoever has not read the answer by then has had the time to.
    tokio::time::timeout(limit, ending)
        .await
        .unwrap_or_default();
}

/// Ready when nothing more comes.
fn poll_to_the_end(stream: &mut ClientStream, cx: &mut Context<'_>) -> Poll<()> {
    let mut unwanted = [0; UNWANTED];
    loop {
        let mut read = ReadBuf::new(&mut unwanted);
        let is_read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut read));
        if is_read.is_err() || read.filled().is_empty() {
            return Poll::Ready(());
        }
    }
}

const UNWANTED: usize = 16 * 1024;
