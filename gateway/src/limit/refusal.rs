//! Why a limit refuses a request, and how that reads.

use std::time::Duration;

use super::Whose;
use super::tell::duration;
use crate::error::{Reason, Rejection};

/// When to come back to a limit on concurrent requests. Nobody knows when one of the caller's own requests will be
/// over: soon enough that a short one is not waited for in vain, seldom enough that the question costs nothing.
const RETRY_AFTER_CONCURRENT: Duration = Duration::from_secs(1);

/// The kinds of limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    Requests,
    Tokens,
    Concurrent,
    Day,
    Month,
}

impl Limit {
    /// All of them, in the order of their numbers.
    pub(super) const ALL: [Self; 5] = [Self::Requests, Self::Tokens, Self::Concurrent, Self::Day, Self::Month];

    /// The name in metrics: that of the key in a policy.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Requests => "requests_per_minute",
            Self::Tokens => "tokens_per_minute",
            Self::Concurrent => "concurrent_requests",
            Self::Day => "tokens_per_day",
            Self::Month => "tokens_per_month",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Requests => "requests a minute",
            Self::Tokens => "tokens a minute",
            Self::Concurrent => "requests at once",
            Self::Day => "tokens a day",
            Self::Month => "tokens a month",
        }
    }
}

/// What is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Requests { wait: Duration },
    Concurrent,
    Tokens { needed: u64, left: u64, wait: Duration },
    Quota { prompt: u64, left: u64 },
}

/// One limit's no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) limit: Limit,
    pub(super) whose: Whose,
    /// The limit.
    pub(super) most: u64,
    pub(super) why: Why,
}

impl Refusal {
    /// The time until the request would be let in, if nothing else happens. Quotas: not by waiting.
    pub(super) fn wait(&self) -> Option<Duration> {
        match self.why {
            Why::Requests { wait } | Why::Tokens { wait, .. } => Some(wait),
            Why::Concurrent => Some(RETRY_AFTER_CONCURRENT),
            Why::Quota { .. } => None,
        }
    }

    fn reason(&self) -> Reason {
        match self.why {
            Why::Requests { .. } => Reason::RequestRate,
            Why::Concurrent => Reason::Concurrency,
            Why::Tokens { .. } => Reason::TokenRate,
            Why::Quota { .. } => Reason::QuotaExceeded,
        }
    }

    fn message(&self) -> String {
        let (most, unit) = (self.most, self.limit.unit());
        let whose = match self.whose {
            Whose::Tenant => "tenant",
            Whose::Key => "API key",
        };
        match self.why {
            Why::Requests { wait } => {
                let wait = duration(wait);
                format!("The {whose}'s limit of {most} {unit} is reached. Try again in {wait}.")
            }
            Why::Concurrent => {
                format!("The {whose}'s limit of {most} {unit} is reached. Try again when one of them is over.")
            }
            Why::Tokens { needed, left, wait } => {
                let wait = duration(wait);
                format!(
                    "The {whose}'s limit of {most} {unit} is reached: this request needs about {needed}, and {left} \
                     are left. Try again in {wait}."
                )
            }
            Why::Quota { prompt, .. } if prompt > most => {
                format!("The prompt has {prompt} tokens, more than the {whose}'s whole quota of {most} {unit}.")
            }
            Why::Quota { prompt, left } => {
                format!("The {whose}'s quota of {most} {unit} (UTC) leaves {left} tokens, and the prompt has {prompt}.")
            }
        }
    }
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        let retry_after = refusal.wait();
        Self { retry_after, ..Self::new(refusal.reason(), refusal.message()) }
    }
}

/// Of several refusals the one that holds longest: after its wait the request is let in.
pub(super) fn longest(refusals: impl Iterator<Item = Refusal>) -> Option<Refusal> {
    refusals.max_by_key(|refusal| refusal.wait().unwrap_or(Duration::MAX))
}
