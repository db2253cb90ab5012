//! What is the same in all events of one reply, and the numbers that they tell.

use super::super::fault::Fault;
use super::super::model::{End, Timings};
use super::super::words::mixed;
use super::json::{Ordered, ordered, timings};
use super::plan::Plan;

/// One reply, of whatever surface.
pub(crate) struct About {
    /// 32 letters and digits, which follow the prefixes of ids.
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) created: i64,
    /// The model's alias.
    pub(crate) model: String,
    /// The build that is claimed.
    pub(crate) build: String,
    /// What each choice says.
    pub(crate) plans: Vec<Plan>,
    /// What was asked to be shown.
    pub(crate) show: Show,
    /// What goes wrong.
    pub(crate) fault: Option<Fault>,
}

/// What a request asked to be shown beside its reply.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Show {
    /// Usage at the end of a chat stream.
    pub(crate) usage: bool,
    /// Timings in each event.
    pub(crate) timings: bool,
    /// How far the prompt is.
    pub(crate) progress: bool,
}

/// Tokens as they are told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Told {
    /// Of the prompt.
    pub(crate) prompt: u64,
    /// Of these, from the cache.
    pub(crate) cached: u64,
    /// Generated.
    pub(crate) completion: u64,
    /// Both together.
    pub(crate) total: u64,
}

/// A finished sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finished {
    /// Why.
    pub(crate) end: End,
    /// What it took.
    pub(crate) timings: Timings,
}

impl About {
    /// What usage says, which is the truth unless it is to lie.
    pub(crate) fn told(&self, timings: &Timings) -> Told {
        let (prompt, cached) = ((timings.cached + timings.computed) as u64, timings.cached as u64);
        let completion = match self.fault {
            Some(Fault::UsageTooFew) => timings.predicted / 2,
            Some(Fault::UsageTooMany) => timings.predicted * 2,
            _ => timings.predicted,
        };
        let wrong = if self.fault == Some(Fault::UsageSum) { 7 } else { 0 };
        Told { prompt, cached, completion, total: prompt + completion + wrong }
    }

    /// `usage` of chat and text completions.
    pub(crate) fn usage(&self, timings: &Timings) -> Ordered {
        let Told { prompt, cached, completion, total } = self.told(timings);
        ordered! {"completion_tokens": completion, "prompt_tokens": prompt, "total_tokens": total,
        "prompt_tokens_details": ordered! {"cached_tokens": cached}}
    }

    /// Timings, if each event is to have them.
    pub(crate) fn timings_per_token(&self, of: &Timings) -> Option<Ordered> {
        self.show.timings.then(|| timings(of))
    }

    /// `prompt_progress` after so many tokens.
    pub(crate) fn progress(&self, of: &Timings, processed: usize, total: usize) -> Ordered {
        let time_ms = of.prompt.as_millis() as u64;
        ordered! {"total": total, "cache": of.cached, "processed": processed, "time_ms": time_ms}
    }

    /// Another id that belongs to this reply.
    pub(crate) fn further_id(&self, number: usize) -> String {
        let seed = self.id.bytes().fold(number as u64 + 1, |seed, byte| mixed(seed ^ u64::from(byte)));
        random_id(seed)
    }

    /// The finish reason of chat and text completions.
    pub(crate) fn finish_reason(&self, choice: usize, end: End) -> &'static str {
        let is_call = self.plans.get(choice).is_some_and(|plan| plan.call(0).is_some());
        match end {
            End::Limit => "length",
            End::Complete if is_call => "tool_calls",
            End::Complete => "stop",
        }
    }
}

/// Letters and digits that look random, the same for the same seed.
pub(crate) fn random_id(seed: u64) -> String {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let letter = |at: u64| char::from(ALPHABET[(mixed(seed.wrapping_add(at << 32)) % 62) as usize]);
    (0..32).map(letter).collect()
}

/// An event without a name.
pub(crate) fn data_event(data: &Ordered) -> String {
    format!("data: {}\n\n", data.text())
}

/// An event with the name that its data says.
pub(crate) fn named_event(name: &'static str, data: Ordered) -> String {
    format!("event: {name}\ndata: {}\n\n", ordered! {"type": name}.followed_by(data).text())
}
