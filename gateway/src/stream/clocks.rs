//! The clocks of a running reply: first token, silence, total; and the keep-alive of a silent stream.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::error::{Reason, Rejection};

/// Until when what must have happened, once a request is with llama-server.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// The first token.
    pub first_token: Instant,
    /// Each further token, counted from the one before.
    pub silence: Duration,
    /// The end.
    pub total: Instant,
}

/// What a clock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The client has been sent nothing for the keep-alive interval.
    KeepAlive,
    /// A deadline has passed.
    Expired(Reason),
}

/// All clocks of one reply in one timer. It is armed for the earliest of them and looks again when it fires, so
/// that a token costs no timer operation.
pub struct Clocks {
    timer: Pin<Box<Sleep>>,
    deadlines: Option<Deadlines>,
    last_output: Option<Instant>,
    keep_alive: Option<Duration>,
    last_sent: Instant,
}

impl Clocks {
    /// Clocks that know no deadline yet; with `keep_alive`, they ask for a sign of life in silences.
    pub fn new(keep_alive: Option<Duration>) -> Self {
        let now = Instant::now();
        let mut clocks =
            Self { timer: Box::pin(sleep_until(now)), deadlines: None, last_output: None, keep_alive, last_sent: now };
        clocks.arm();
        clocks
    }

    /// Asks for a sign of life after so long a silence from now on.
    pub fn keep_alive(&mut self, interval: Duration) {
        self.keep_alive = Some(interval);
        self.arm();
    }

    /// The request is with llama-server: deadlines begin to count.
    pub fn start(&mut self, deadlines: Deadlines) {
        self.deadlines = Some(deadlines);
        self.arm();
    }

    /// llama-server gave output.
    pub fn output(&mut self, now: Instant) {
        let first = self.last_output.is_none();
        self.last_output = Some(now);
        if first {
            // The silence clock may be due before the first-token clock for which the timer is armed.
            self.arm();
        }
    }

    /// Whether the total is over. For a reply that always has more to give, as it has while its client reads slowly:
    /// then nothing is waited for, and the timer is not looked at.
    pub fn total_is_over(&self, now: Instant) -> bool {
        self.deadlines.is_some_and(|deadlines| now >= deadlines.total)
    }

    /// The client was sent something.
    pub fn sent(&mut self, now: Instant) {
        self.last_sent = now;
    }

    /// Ready when a deadline has passed or a keep-alive is due.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Due> {
        loop {
            ready!(self.timer.as_mut().poll(context));
            let now = Instant::now();
            let due = self.due(now);
            if due == Some(Due::KeepAlive) {
                self.last_sent = now;
            }
            self.arm();
            if let Some(due) = due {
                return Poll::Ready(due);
            }
        }
    }

    fn due(&self, now: Instant) -> Option<Due> {
        if let Some((at, reason)) = self.deadline()
            && now >= at
        {
            return Some(Due::Expired(reason));
        }
        self.keep_alive.is_some_and(|interval| now >= self.last_sent + interval).then_some(Due::KeepAlive)
    }

    /// The next deadline and what it means when it passes.
    fn deadline(&self) -> Option<(Instant, Reason)> {
        let deadlines = self.deadlines?;
        let output = match self.last_output {
            None => (deadlines.first_token, Reason::FirstTokenTimeout),
            Some(last) => (last + deadlines.silence, Reason::StreamIdleTimeout),
        };
        let total = (deadlines.total, Reason::TotalTimeout);
        Some(if total.0 < output.0 { total } else { output })
    }

    fn arm(&mut self) {
        let deadline = self.deadline().map(|(at, _)| at);
        let keep_alive = self.keep_alive.map(|interval| self.last_sent + interval);
        // Without any clock the timer sleeps for a day and looks again.
        let next = [deadline, keep_alive].into_iter().flatten().min();
        self.timer.as_mut().reset(next.unwrap_or_else(|| Instant::now() + Duration::from_secs(86_400)));
    }
}

/// What a client is told when a clock runs out.
pub fn expired(reason: Reason) -> Rejection {
    Rejection::new(
        reason,
        match reason {
            Reason::QueueTimeout => "No slot became free in time.",
            Reason::FirstTokenTimeout => "The model gave no first token in time.",
            Reason::StreamIdleTimeout => "The model fell silent.",
            _ => "The request took longer than allowed.",
        },
    )
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn deadlines(first_token: u64, silence: u64, total: u64) -> Deadlines {
        let now = Instant::now();
        Deadlines {
            first_token: now + Duration::from_secs(first_token),
            silence: Duration::from_secs(silence),
            total: now + Duration::from_secs(total),
        }
    }

    async fn next(clocks: &mut Clocks) -> (Due, u64) {
        let start = Instant::now();
        let due = poll_fn(|context| clocks.poll(context)).await;
        (due, start.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_token_has_its_own_clock() {
        let mut clocks = Clocks::new(None);
        clocks.start(deadlines(60, 5, 600));
        assert_eq!(next(&mut clocks).await, (Due::Expired(Reason::FirstTokenTimeout), 60));
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_first_token_silence_is_what_counts() {
        let mut clocks = Clocks::new(None);
        clocks.start(deadlines(60, 5, 600));
        clocks.output(Instant::now());
        assert_eq!(next(&mut clocks).await, (Due::Expired(Reason::StreamIdleTimeout), 5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_waits_can_be_kept_company_more_often() {
        let mut clocks = Clocks::new(Some(Duration::from_secs(10)));
        clocks.keep_alive(Duration::from_secs(4));
        assert_eq!(next(&mut clocks).await, (Due::KeepAlive, 4));
        assert_eq!(next(&mut clocks).await, (Due::KeepAlive, 4));
        clocks.keep_alive(Duration::from_secs(10));
        assert_eq!(next(&mut clocks).await, (Due::KeepAlive, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_do_not_postpone_the_total() {
        let mut clocks = Clocks::new(None);
        clocks.start(deadlines(60, 5, 12));
        for _ in 0..4 {
            tokio::time::advance(Duration::from_secs(2)).await;
            clocks.output(Instant::now());
        }
        assert_eq!(next(&mut clocks).await, (Due::Expired(Reason::TotalTimeout), 4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_is_kept_alive_until_its_deadline() {
        let mut clocks = Clocks::new(Some(Duration::from_secs(10)));
        assert_eq!(next(&mut clocks).await, (Due::KeepAlive, 10));
        clocks.start(deadlines(15, 5, 600));
        assert_eq!(next(&mut clocks).await, (Due::KeepAlive, 10));
        assert_eq!(next(&mut clocks).await, (Due::Expired(Reason::FirstTokenTimeout), 5));
    }
}
