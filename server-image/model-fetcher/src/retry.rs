//! How long failures are borne: pauses that grow while nothing comes, and an end.

use std::time::Duration;

use crate::fault::Fault;

/// The longest pause that a server may ask for: a pod that waits for hours looks like one that hangs.
const LONGEST_ASKED_PAUSE: Duration = Duration::from_secs(600);

/// When a silent server is given up, and how failures are followed by new attempts.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Time without a byte after which a connection is given up.
    pub stall: Duration,
    /// Attempts without progress after which all is given up.
    pub attempts: u32,
    /// The pause after the first failure; it doubles with each further one.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(60),
            attempts: 10,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
        }
    }
}

/// How one attempt failed.
#[derive(Debug)]
pub enum Trouble {
    /// Another attempt cannot help.
    Final(Fault),
    /// It may go better next time.
    Again {
        /// What happened.
        cause: String,
        /// The pause that the server asks for.
        after: Option<Duration>,
    },
}

impl Trouble {
    /// Trouble that the server has no wish about.
    pub fn again(cause: impl Into<String>) -> Self {
        Self::Again { cause: cause.into(), after: None }
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Final(fault)
    }
}

/// The attempts at one thing.
pub struct Attempts<'a> {
    patience: &'a Patience,
    what: &'a str,
    failed: u32,
}

impl<'a> Attempts<'a> {
    /// None has failed yet. `what` is named in the log.
    pub fn new(patience: &'a Patience, what: &'a str) -> Self {
        Self { patience, what, failed: 0 }
    }

    /// Waits after an attempt that failed. If something came before that, neither it nor earlier ones count.
    ///
    /// # Errors
    /// When another attempt cannot help, or too many failed in a row.
    pub async fn failed(&mut self, trouble: Trouble, progressed: bool) -> Result<(), Fault> {
        let (cause, after) = match trouble {
            Trouble::Final(fault) => return Err(fault),
            Trouble::Again { cause, after } => (cause, after),
        };
        self.failed = if progressed { 0 } else { self.failed + 1 };
        if self.failed >= self.patience.attempts {
            return Err(Fault::GaveUp { what: self.what.to_owned(), attempts: self.failed, cause });
        }
        let pause = self.pause(after, fraction());
        tracing::warn!("{}: {cause}; again in {:.1} s", self.what, pause.as_secs_f64());
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Between half of the pause and all of it: many fetchers that failed together do not come back together.
    fn pause(&self, after: Option<Duration>, fraction: f64) -> Duration {
        let doubled = self.patience.first_pause.saturating_mul(1 << self.failed.saturating_sub(1).min(20));
        let own = doubled.min(self.patience.longest_pause).mul_f64(0.5 + fraction / 2.0);
        own.max(after.unwrap_or_default().min(LONGEST_ASKED_PAUSE))
    }
}

/// A random number from 0 to 1.
fn fraction() -> f64 {
    getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_gives_up_after_so_many_failures_in_a_row_and_tells_the_last_cause() {
        let patience = Patience { attempts: 4, ..Patience::default() };
        let mut attempts = Attempts::new(&patience, "a.gguf");
        let began = Instant::now();
        for (cause, progressed) in
            [("one", false), ("two", false), ("three", true), ("four", false), ("five", false), ("six", false)]
        {
            attempts.failed(Trouble::again(cause), progressed).await.unwrap();
        }
        // 1 + 2, after the progress 1, then 1 + 2 + 4, each at least by half.
        let waited = began.elapsed().as_secs_f64();
        assert!((5.5..=11.1).contains(&waited), "{waited}");
        let fault = attempts.failed(Trouble::again("connection refused"), false).await.unwrap_err();
        assert_eq!(fault.exit_code(), 5);
        let told = fault.to_string();
        assert!(told.contains("gave up on a.gguf after 4 attempts") && told.contains("connection refused"), "{told}");
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_vary_by_half() {
        let patience = Patience::default();
        let pauses = |fraction| {
            let pause = |failed| Attempts { patience: &patience, what: "", failed }.pause(None, fraction).as_secs_f64();
            [1, 2, 5, 7, 100].map(pause)
        };
        assert_eq!(pauses(1.0), [1.0, 2.0, 16.0, 60.0, 60.0]);
        assert_eq!(pauses(0.0), [0.5, 1.0, 8.0, 30.0, 30.0]);
    }

    #[test]
    fn a_pause_that_the_server_asks_for_is_kept_up_to_a_bound() {
        let attempts = Attempts { patience: &Patience::default(), what: "", failed: 1 };
        let pause = |seconds| attempts.pause(Some(Duration::from_secs(seconds)), 1.0).as_secs();
        assert_eq!([pause(0), pause(30), pause(86400)], [1, 30, 600]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fault_ends_it_at_once() {
        let patience = Patience::default();
        let fault =
            Attempts::new(&patience, "a").failed(Fault::Space("full".to_owned()).into(), true).await.unwrap_err();
        assert!(matches!(fault, Fault::Space(_)));
    }
}
