//! Time for tests of servers and clients who talk over real connections: it moves on when all that can be done now has
//! been done. What is measured then does not depend on how busy the machine is.

use std::pin::pin;
use std::time::Duration;

use tokio::task::yield_now;

/// The step of tokio's timers.
const STEP: Duration = Duration::from_millis(1);
/// How often others are let go on before time does. Each time, all tasks that are ready run and connections are looked
/// at once; from a request to the first byte of its reply it takes a few.
const TURNS: u32 = 30;

/// Does something in stepped time. To be called in a runtime of one thread.
pub(crate) async fn in_steps<T>(something: impl Future<Output = T>) -> T {
    tokio::time::pause();
    // A clock that stands still jumps to the next timer when nothing is ready, though bytes may be on their way: but not
    // while something blocks.
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let blocking = tokio::task::spawn_blocking(move || ended.recv().ok());
    let mut something = pin!(something);
    let result = loop {
        tokio::select! {
            biased;
            result = &mut something => break result,
            () = step() => {}
        }
    };
    drop(end);
    blocking.await.unwrap();
    tokio::time::resume();
    result
}

async fn step() {
    for _ in 0..TURNS {
        yield_now().await;
    }
    tokio::time::advance(STEP).await;
}
