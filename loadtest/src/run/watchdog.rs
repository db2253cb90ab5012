//! Ends a run that has stopped being one: a key that is refused from now on, a target that is gone for good.
//!
//! Sees each record; says why the run should end, once it should. A load test is also for faults, so a restart of the
//! gateway in the middle of a run must not end it.

use std::time::Duration;

use crate::record::{Ending, Record};

/// So many refused keys of one tenant, with nothing else between them, are no chance.
const REFUSED_KEYS: u32 = 20;
/// How long nothing but failed connections may come.
const GONE: Duration = Duration::from_secs(20);

/// What was seen.
pub(super) struct Watchdog {
    /// Keys refused in a row, by tenant.
    refused: Vec<u32>,
    /// Since when no connection could be made.
    unreachable_since: Option<Duration>,
}

impl Watchdog {
    pub(super) fn new(tenants: usize) -> Self {
        Self { refused: vec![0; tenants], unreachable_since: None }
    }

    /// Sees a record of a tenant with this name. Some: why the run should end.
    pub(super) fn see(&mut self, record: &Record, tenant: &str) -> Option<String> {
        let refused = self.refused.get_mut(record.tenant)?;
        match &record.ending {
            Ending::Refused(refusal) if matches!(refusal.status, 401 | 403) => *refused += 1,
            _ => *refused = 0,
        }
        if *refused >= REFUSED_KEYS {
            return Some(format!("the key of tenant {tenant} was refused {REFUSED_KEYS} times in a row"));
        }
        if record.ending != Ending::Unreachable {
            self.unreachable_since = None;
            return None;
        }
        let since = *self.unreachable_since.get_or_insert(record.ended);
        let long = record.ended.saturating_sub(since) >= GONE;
        long.then(|| format!("no connection to the target could be made for {} s", GONE.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Refusal, sample};

    fn ended(ending: Ending, seconds: u64) -> Record {
        Record { ending, ended: Duration::from_secs(seconds), ..sample() }
    }

    #[test]
    fn a_key_that_is_refused_again_and_again_ends_the_run() {
        let mut watchdog = Watchdog::new(1);
        let refused = || ended(Ending::Refused(Refusal { status: 401, code: "invalid_api_key".to_owned() }), 1);
        for _ in 1..REFUSED_KEYS {
            assert_eq!(watchdog.see(&refused(), "chat"), None);
        }
        assert!(watchdog.see(&refused(), "chat").unwrap().contains("chat"));
    }

    #[test]
    fn refusals_between_answers_do_not() {
        let mut watchdog = Watchdog::new(1);
        for _ in 0..100 {
            let refused = ended(Ending::Refused(Refusal { status: 403, code: String::new() }), 1);
            assert_eq!(watchdog.see(&refused, "chat"), None);
            assert_eq!(watchdog.see(&ended(Ending::Complete, 1), "chat"), None);
        }
    }

    #[test]
    fn a_restart_of_the_target_does_not_end_the_run_and_its_death_does() {
        let mut watchdog = Watchdog::new(1);
        for second in 0..15 {
            assert_eq!(watchdog.see(&ended(Ending::Unreachable, second), "chat"), None);
        }
        assert_eq!(watchdog.see(&ended(Ending::Complete, 16), "chat"), None);
        for second in 17..37 {
            assert_eq!(watchdog.see(&ended(Ending::Unreachable, second), "chat"), None);
        }
        assert!(watchdog.see(&ended(Ending::Unreachable, 37), "chat").unwrap().contains("20 s"));
    }
}
