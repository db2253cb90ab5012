//! What was used before the gateway was started, from the ledger.

use std::sync::Arc;

use jiff::Timestamp;

use super::quota::{Periods, beginnings, endings};
use super::{HISTORY, Limits, Owners, lock};
use crate::auth::Caller;
use crate::ledger::query::Filter;
use crate::ledger::usage::{Reader, UsageError};
use crate::policy::Terms;

impl Limits {
    /// Takes over what the ledger has of this day and month, for the quotas, and of the last hour, for the token
    /// buckets: a debt survives a restart. `who` finds the caller and the terms of a tenant and a key id. Blocks on the
    /// disk; to be called once, before the first request.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn restore(
        &self,
        ledger: &Reader,
        who: impl Fn(&str, &str) -> Option<(Arc<Caller>, Terms)>,
    ) -> Result<(), UsageError> {
        let now = self.0.clock.now();
        let periods = Periods::of(now);
        let no_such_day = |_| UsageError::Span(now.to_string());
        let ((day, month), (day_end, month_end)) =
            (beginnings(now).map_err(no_such_day)?, endings(now).map_err(no_such_day)?);
        let owners = |tenant: &str, key: &str| -> Owners {
            who(tenant, key).map_or([None, None], |(caller, terms)| self.owners(&caller, &terms))
        };
        for used in ledger.tokens(month, month_end)? {
            for state in lock(&owners(&used.tenant, &used.key_id)).iter_mut().flatten() {
                state.restore((0, used.tokens), periods);
            }
        }
        for used in ledger.tokens(day, day_end)? {
            for state in lock(&owners(&used.tenant, &used.key_id)).iter_mut().flatten() {
                state.restore((used.tokens, 0), periods);
            }
        }
        let since = now.checked_sub(HISTORY).unwrap_or(Timestamp::MIN);
        // Of a clock that was ahead by more than that nothing counts: it would do so after each start.
        let until = now.checked_add(HISTORY).unwrap_or(Timestamp::MAX);
        ledger.requests((since, until), &Filter::default(), |row| {
            // What arrived later than now, by a clock that was set back since, counts as of now.
            let age = row.arrived.and_then(|arrived| now.duration_since(arrived).try_into().ok()).unwrap_or_default();
            let at = HISTORY.saturating_sub(age);
            for state in lock(&owners(&row.tenant, &row.key_id)).iter_mut().flatten() {
                state.replay(row.prompt_tokens + row.completion_tokens, at);
            }
            Ok(())
        })
    }
}
