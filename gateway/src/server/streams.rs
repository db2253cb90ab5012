//! The tasks of HTTP/2 streams: each ends with its connection, and alone when its client does not read it.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Client, Counts};

tokio::task_local! {
    /// The request that the stream's task answers.
    static CLIENT: Arc<OnceLock<Arc<Client>>>;
}

/// Called by a request's future, inside its stream's task: from now on the client must read.
pub(super) fn watch(client: &Arc<Client>) {
    // Without a task of its own the request is not watched, and nothing else is lost.
    CLIENT.try_with(|slot| slot.get_or_init(|| Arc::clone(client)).stalled()).ok();
}

/// Runs the streams of one connection.
#[derive(Clone)]
pub(super) struct Streams {
    pub(super) tasks: TaskTracker,
    pub(super) counts: Arc<Counts>,
    /// The connection is gone.
    pub(super) gone: CancellationToken,
    pub(super) slow_reader_timeout: Duration,
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        self.tasks.spawn(run(stream, self.clone()));
    }
}

async fn run(stream: impl Future<Output = ()>, streams: Streams) {
    let slot = Arc::new(OnceLock::new());
    let mut stream = pin!(CLIENT.scope(Arc::clone(&slot), stream));
    let mut gone = pin!(streams.gone.cancelled());
    loop {
        tokio::select! {
            biased;
            () = &mut gone => return,
            () = &mut stream => return,
            () = tokio::time::sleep(streams.slow_reader_timeout / 4) => {}
        }
        if slot.get().is_some_and(|client| client.stall_after(streams.slow_reader_timeout)) {
            streams.counts.stalled.fetch_add(1, Ordering::Relaxed);
            return;
        }
    }
}
