//! Which slot a sequence gets, and how a slot becomes free.

use super::cache::{SIMILARITY, common};
use super::work::{Event, Launch, Work};
use super::{End, Model, Moment};

impl Model {
    /// Gives free slots to those who wait, in order. Who needs more slots than are free goes to the back, as in
    /// llama-server, where a request for several choices can starve.
    pub(super) fn launch(&mut self, at: Moment) {
        if self.stalled_until.is_some_and(|until| at < until) {
            return;
        }
        for _ in 0..self.waiting.len() {
            let free = self.slots.len() - self.busy();
            let Some(launch) = (free > 0).then(|| self.waiting.pop_front()).flatten() else { return };
            if launch.works.len() > free {
                self.waiting.push_back(launch);
            } else {
                self.start(launch, at);
            }
        }
    }

    fn start(&mut self, launch: Launch, at: Moment) {
        let Launch { works, left, .. } = launch;
        let mut leader = None;
        for mut work in works {
            (work.began, work.last, work.written, work.left) = (at, at, at, left);
            // The head of a stream is written now, and the write fails if nobody is there.
            work.noticed = work.streamed && left.is_some();
            let cached = self.place(work, leader, at);
            // Only choices start together, and they have one prompt.
            leader = leader.or(cached);
        }
    }

    /// Gives the prompt tokens that it has from the cache; one that follows has as many as the first of its request.
    fn place(&mut self, mut work: Work, leader: Option<usize>, at: Moment) -> Option<usize> {
        let prompt_tokens = work.sequence.prompt.len();
        if prompt_tokens >= self.profile.context {
            self.outputs.push(work.output(Event::TooLong(prompt_tokens), at));
            return None;
        }
        let slot = self.choose(&work)?;
        self.fill_from_cache(slot, &mut work);
        match leader {
            Some(cached) => (work.cached, work.processed) = (cached, cached),
            None => self.counters.cached += work.cached as u64,
        }
        let cached = work.cached;
        self.outputs.push(work.output(Event::Started, at));
        self.quiet_since = at;
        if prompt_tokens == 0 {
            self.outputs.push(work.output(Event::Ended(End::Limit), at));
            return None;
        }
        if work.streamed {
            self.outputs.push(work.output(Event::Progress(work.processed), at));
        }
        self.slots[slot].work = Some(work);
        Some(cached)
    }

    /// The free slot that holds most of the prompt, if that is a good part of it, else the one used longest ago.
    fn choose(&self, work: &Work) -> Option<usize> {
        let prompt = &work.sequence.prompt;
        let free = || self.slots.iter().enumerate().filter(|(_, slot)| slot.work.is_none());
        let held = free().map(|(index, slot)| (common(&slot.held, prompt), index));
        let best = held.max_by_key(|(held, index)| (*held, std::cmp::Reverse(*index)))?;
        if best.0 as f64 > prompt.len() as f64 * SIMILARITY {
            return Some(best.1);
        }
        free().min_by_key(|(_, slot)| slot.used).map(|(index, _)| index)
    }

    /// Keeps what the slot holds of the prompt, or a longer prefix that was saved.
    fn fill_from_cache(&mut self, index: usize, work: &mut Work) {
        let prompt = &work.sequence.prompt;
        let slot = &mut self.slots[index];
        let mut held = common(&slot.held, prompt);
        // Half of it would be lost (llama-server's own bound).
        if held * 2 < slot.held.len() {
            self.host_cache.save(std::mem::take(&mut slot.held));
            if let Some(saved) = self.host_cache.take(prompt, held) {
                held = common(&saved, prompt);
                slot.held = saved;
            } else {
                slot.held = prompt[..held].to_vec();
            }
        }
        // One token is always computed: the reply begins with what follows it.
        work.cached = if work.sequence.cached { held.min(prompt.len().saturating_sub(1)) } else { 0 };
        work.processed = work.cached;
        slot.held.truncate(work.cached);
    }

    /// Frees the slot of a request that nobody wants, unless a pass is still computing for it.
    pub(super) fn end_if_unwanted(&mut self, slot: usize, at: Moment) {
        let in_pass = self.pass.as_ref().is_some_and(|pass| pass.has(slot));
        let Some(work) = self.slots[slot].work.as_ref().filter(|work| work.noticed && !work.is_wedged()) else {
            return;
        };
        if !in_pass {
            let left = work.left.unwrap_or(at);
            self.free(slot, at);
            self.note_cancel(left, at);
        }
    }

    /// Takes the work out of a slot, which keeps its tokens.
    pub(super) fn free(&mut self, slot: usize, at: Moment) {
        let slot = &mut self.slots[slot];
        let Some(work) = slot.work.take() else { return };
        let prompt = &work.sequence.prompt;
        slot.held = prompt[..work.processed].to_vec();
        // The last token was given and not yet computed.
        slot.held.extend((0..work.generated.saturating_sub(1)).map(|at| work.sequence.reply.token(at)));
        slot.used = at;
        slot.had = Some((work.task, prompt.len() + work.generated as usize));
        self.counters.note_end(&work.timings(), prompt.len() as u64 + work.generated);
    }
}
