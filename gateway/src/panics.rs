//! What becomes of a panic, which is a fault of the gateway: it ends one request and not the process, it is counted,
//! and the log tells where it happened.
//!
//! It does not tell what it said. The messages of the standard library quote what they were about ("byte index 1 is
//! not a char boundary; it is inside 'é' (bytes 0..2) of `...`"), and that may be a prompt, a reply or a key.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use prometheus::IntCounter;

/// From now on each panic of the process is counted and is one error line with file and line, in place of the message
/// on standard error.
pub fn watch(panics: IntCounter) {
    std::panic::set_hook(Box::new(move |panic| {
        panics.inc();
        let at = panic.location().map(ToString::to_string);
        tracing::error!(at, thread = std::thread::current().name(), "panicked");
    }));
}

/// What `work` comes to; `None` if it panicked. What it held has been dropped then, and while the thread was panicking,
/// so that an account knows why it ends.
pub async fn caught<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
        Ok(polled) => polled.map(Some),
        Err(_message) => Poll::Ready(None),
    })
    .await
}
