//! A pass: one token for each slot that generates, and a batch of prompt tokens for those that do not yet.

use super::work::{End, Event, TroubleKind, Work};
use super::{Model, Moment};

/// What is being computed.
pub(super) struct Pass {
    pub(super) ends: Moment,
    /// The slots in it, each with the prompt tokens computed for it; none for a slot that generates.
    parts: Vec<(usize, usize)>,
}

impl Pass {
    pub(super) fn has(&self, slot: usize) -> bool {
        self.parts.iter().any(|(part, _)| *part == slot)
    }
}

impl Model {
    /// Begins a pass if none is under way and there is something to compute.
    pub(super) fn begin_pass(&mut self, at: Moment) {
        if self.pass.is_some() || self.stalled_until.is_some_and(|until| at < until) {
            return;
        }
        let working = |work: &&Work| !work.is_stuck();
        let works = || {
            let slots = self.slots.iter().enumerate();
            slots.filter_map(|(index, slot)| Some((index, slot.work.as_ref().filter(working)?)))
        };
        let mut parts: Vec<_> =
            works().filter(|(_, work)| work.to_compute() == 0).map(|(index, _)| (index, 0)).collect();
        let mut room = self.profile.batch.saturating_sub(parts.len());
        let batch = room;
        for (index, work) in works().filter(|(_, work)| work.to_compute() > 0 && !work.follows) {
            let tokens = work.to_compute().min(room);
            if tokens == 0 {
                break;
            }
            room -= tokens;
            parts.push((index, tokens));
            // Its other choices have what it has, for nothing.
            let others = works().filter(|(_, other)| other.request == work.request && other.follows);
            parts.extend(others.map(|(other, work)| (other, tokens.min(work.to_compute()))));
        }
        let gives = |(index, tokens): &&(usize, usize)| {
            self.slots[*index].work.as_ref().is_some_and(|work| *tokens == work.to_compute())
        };
        let giving = parts.iter().filter(gives).count();
        if parts.is_empty() {
            return;
        }
        let ends = at + self.profile.prefill(batch - room) + self.profile.step(giving);
        self.counters.note_pass(parts.len());
        self.pass = Some(Pass { ends, parts });
    }

    /// Gives what the pass has computed.
    pub(super) fn end_pass(&mut self, at: Moment) {
        let Some(pass) = self.pass.take() else { return };
        for (slot, prompt_tokens) in pass.parts {
            let Some(work) = &mut self.slots[slot].work else { continue };
            work.last = at;
            work.processed += prompt_tokens;
            if !work.follows {
                self.counters.prompt += prompt_tokens as u64;
            }
            if prompt_tokens > 0 && work.streamed {
                self.outputs.push(work.output(Event::Progress(work.processed), at));
            }
            if work.to_compute() == 0 {
                self.give_token(slot, at);
            }
            self.end_if_unwanted(slot, at);
        }
    }

    fn give_token(&mut self, slot: usize, at: Moment) {
        let context = self.profile.context;
        let Some(work) = &mut self.slots[slot].work else { return };
        // Who wants only the prompt computed (a vector) gets no token.
        let wanted = work.sequence.limit != Some(0);
        if wanted {
            work.note_token(at);
        }
        let end = end_of(work, context);
        let broken = work
            .sequence
            .trouble
            .is_some_and(|trouble| trouble.kind == TroubleKind::Break && work.generated >= trouble.after);
        if work.streamed && wanted {
            work.written = at;
            self.outputs.push(work.output(Event::Token, at));
            self.quiet_since = at;
        }
        let last = match end {
            _ if broken => Event::Broken,
            Some(end) => Event::Ended(end),
            None => return,
        };
        self.outputs.push(work.output(last, at));
        self.quiet_since = at;
        self.free(slot, at);
    }
}

/// Whether its last token was the last one, and why.
fn end_of(work: &Work, context: usize) -> Option<End> {
    let reaches = |bound: Option<u64>| bound.is_some_and(|bound| work.generated >= bound);
    if reaches(work.sequence.ends_at) {
        Some(End::Complete)
    } else if reaches(work.sequence.limit) || work.sequence.prompt.len() as u64 + work.generated >= context as u64 {
        Some(End::Limit)
    } else {
        None
    }
}
