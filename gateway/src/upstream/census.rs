//! What one inspection of a replica's slots tells, and what follows from several of them.
//!
//! Pure: takes llama-server's replies, the gateway's own counts and the time; gives findings.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

/// The slots of a replica at one moment.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Census {
    /// How many there are; 0 if it is not told.
    slots: u32,
    /// How many of them are busy.
    busy: u32,
    /// Requests that wait in llama-server's own queue.
    pub(super) deferred: u32,
    /// What is busy, by slot; or all of it as one, under number 0.
    works: BTreeMap<u64, Work>,
    /// Whether each task is told apart.
    by_task: bool,
    /// A number that only grows for as long as the process lives.
    age: f64,
}

/// What a busy slot does.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Work {
    task: i64,
    /// Two counts, one of which grows whenever something is done.
    progress: (f64, f64),
}

#[derive(Deserialize)]
struct SlotReply {
    id: u64,
    is_processing: bool,
    /// Missing until the slot has had a task. They are numbered from 0.
    id_task: Option<i64>,
    #[serde(default)]
    n_prompt_tokens_processed: f64,
    #[serde(default)]
    next_token: Vec<NextToken>,
}

#[derive(Deserialize)]
struct NextToken {
    #[serde(default)]
    n_decoded: f64,
}

impl Census {
    /// Reads a reply to `/slots`.
    pub(super) fn of_slots(reply: &[u8]) -> Option<Self> {
        let slots: Vec<SlotReply> = serde_json::from_slice(reply).ok()?;
        let busy = slots.iter().filter(|slot| slot.is_processing).map(|slot| {
            let decoded = slot.next_token.iter().map(|next| next.n_decoded).sum();
            (slot.id, Work { task: slot.id_task.unwrap_or(-1), progress: (slot.n_prompt_tokens_processed, decoded) })
        });
        let works: BTreeMap<_, _> = busy.collect();
        Some(Self {
            slots: u32::try_from(slots.len()).ok()?,
            busy: u32::try_from(works.len()).ok()?,
            deferred: 0,
            by_task: true,
            age: slots.iter().filter_map(|slot| slot.id_task).max().map_or(0.0, |task| task as f64 + 1.0),
            works,
        })
    }

    /// Reads a reply to `/metrics`.
    pub(super) fn of_metrics(reply: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(reply).ok()?;
        let value = |name: &str| {
            let of = |line: &str| line.strip_prefix("llamacpp:")?.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
            text.lines().find_map(of)
        };
        let (busy, prompt): (f64, f64) = (value("requests_processing")?, value("prompt_tokens_total")?);
        let decodes: f64 = value("n_decode_total")?;
        let work = Work { task: 0, progress: (prompt, decodes) };
        Some(Self {
            slots: 0,
            busy: busy as u32,
            deferred: value("requests_deferred")? as u32,
            works: (busy > 0.0).then_some((0, work)).into_iter().collect(),
            by_task: false,
            age: prompt + decodes,
        })
    }

    /// Whether every slot is busy, as far as that is known.
    pub(super) fn is_full(&self) -> bool {
        self.slots > 0 && self.busy >= self.slots
    }
}

/// What follows from the inspections so far.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Findings {
    /// Requests that are not this gateway's.
    pub(super) foreign: u32,
    /// What is busy without progress, for the operator; none if nothing is.
    pub(super) stuck: Option<String>,
    /// The process is another one than at the inspection before.
    pub(super) restarted: bool,
}

/// Remembers what it needs of earlier inspections.
pub(super) struct Watcher {
    wedged_after: Duration,
    /// What each busy slot did, and since when nothing has changed.
    still: BTreeMap<u64, (Work, Instant)>,
    /// Since when there is no answer.
    silent: Option<Instant>,
    /// Requests too many at the last inspection, which may have been a race.
    excess: u32,
    foreign: u32,
    /// Requests of this gateway that it has given up, and llama-server perhaps not yet: at most so many of those tasks.
    orphans: u32,
    orphan_tasks: BTreeSet<i64>,
    age: Option<(bool, f64)>,
}

impl Watcher {
    pub(super) fn new(wedged_after: Duration) -> Self {
        let (still, orphan_tasks) = (BTreeMap::new(), BTreeSet::new());
        Self { wedged_after, still, silent: None, excess: 0, foreign: 0, orphans: 0, orphan_tasks, age: None }
    }

    /// Begins anew.
    pub(super) fn forget(&mut self) {
        *self = Self::new(self.wedged_after);
    }

    /// Takes an inspection. At most `ours` of the slots were taken by this gateway, which has given up `left` requests
    /// since the last inspection.
    pub(super) fn note(&mut self, census: &Census, ours: u32, left: u64, now: Instant) -> Findings {
        self.silent = None;
        let restarted = self.has_restarted(census);
        let known = ours.saturating_add(self.orphans(census, ours, left));
        let excess = census.busy.saturating_add(census.deferred).saturating_sub(known);
        self.foreign = excess.min(std::mem::replace(&mut self.excess, excess));
        let still = census.works.iter().map(|(&slot, &work)| match self.still.get(&slot) {
            Some(&(before, since)) if before == work => (slot, (work, since)),
            _ => (slot, (work, now)),
        });
        self.still = still.collect();
        Findings { foreign: self.foreign, stuck: self.stuck(now), restarted }
    }

    /// llama-server does not tell what its slots do, although it answers what needs no slots: the loop that works for
    /// them has not come round, so nothing moves.
    pub(super) fn silence(&mut self, now: Instant) -> Findings {
        self.silent.get_or_insert(now);
        Findings { foreign: self.foreign, stuck: self.stuck(now), restarted: false }
    }

    fn stuck(&self, now: Instant) -> Option<String> {
        let over = |since: Instant| now.duration_since(since) >= self.wedged_after;
        let time = humantime::format_duration(self.wedged_after);
        match self.still.iter().find(|(_, (_, since))| over(*since)) {
            Some((slot, _)) => Some(format!("slot {slot} has been busy without progress for {time}")),
            None if self.silent.is_some_and(over) => Some(format!("it has not told what its slots do for {time}")),
            None => None,
        }
    }

    /// How many of the busy slots still work for a request that this gateway has given up: llama-server notices that
    /// between two batches, minutes later where a batch of the prompt takes minutes.
    fn orphans(&mut self, census: &Census, ours: u32, left: u64) -> u32 {
        let tasks: BTreeSet<_> = census.works.values().map(|work| work.task).collect();
        if left > 0 {
            self.orphan_tasks.extend(&tasks);
        }
        self.orphan_tasks.retain(|task| tasks.contains(task));
        let mut orphans = u64::from(self.orphans).saturating_add(left);
        orphans = orphans.min(u64::from(census.busy.saturating_sub(ours)));
        if census.by_task {
            orphans = orphans.min(self.orphan_tasks.len() as u64);
        }
        self.orphans = u32::try_from(orphans).unwrap_or(u32::MAX);
        self.orphans
    }

    /// Whether what only grows has become less. (A task that waited in llama-server's own queue may have a lower number
    /// than one that did not, which is taken for a restart: no harm is done, some cached prompts are forgotten.)
    fn has_restarted(&mut self, census: &Census) -> bool {
        let before = self.age.replace((census.by_task, census.age));
        before.is_some_and(|(by_task, age)| by_task == census.by_task && census.age < age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Slots as llama-server b10434 tells of them: task, prompt tokens that were processed, tokens decoded.
    fn slots(all: &[Option<(u64, u64, u64)>]) -> Census {
        let slot = |(id, work): (usize, &Option<(u64, u64, u64)>)| match work {
            None => format!(r#"{{"id":{id},"n_ctx":2048,"speculative":false,"is_processing":false}}"#),
            Some((task, prompt, decoded)) => format!(
                r#"{{"id":{id},"n_ctx":2048,"speculative":false,"is_processing":true,"id_task":{task},"n_prompt_tokens":9,"n_prompt_tokens_processed":{prompt},"n_prompt_tokens_cache":0,"params":{{"seed":1}},"next_token":[{{"has_next_token":true,"has_new_line":false,"n_remain":3,"n_decoded":{decoded}}}]}}"#
            ),
        };
        let all: Vec<_> = all.iter().enumerate().map(slot).collect();
        Census::of_slots(format!("[{}]", all.join(",")).as_bytes()).unwrap()
    }

    fn metrics(processing: u32, deferred: u32, prompt: u32, decodes: u32) -> Census {
        let text = format!(
            "# HELP llamacpp:prompt_tokens_total Number of prompt tokens\nllamacpp:prompt_tokens_total {prompt}\n\
             llamacpp:prompt_tokens_seconds 0\nllamacpp:n_decode_total {decodes}\n\
             llamacpp:requests_processing {processing}\nllamacpp:requests_deferred {deferred}\n"
        );
        Census::of_metrics(text.as_bytes()).unwrap()
    }

    struct World {
        watcher: Watcher,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            Self { watcher: Watcher::new(10 * SECOND), now: Instant::now() }
        }

        /// An inspection 5 s after the last one.
        fn note(&mut self, census: &Census, ours: u32, left: u64) -> Findings {
            self.now += 5 * SECOND;
            self.watcher.note(census, ours, left, self.now)
        }

        fn foreign(&mut self, census: &Census, ours: u32, left: u64) -> u32 {
            self.note(census, ours, left).foreign
        }

        fn stuck(&mut self, census: &Census) -> bool {
            self.note(census, 9, 0).stuck.is_some()
        }
    }

    #[test]
    fn a_busy_slot_too_many_is_foreign_at_the_second_inspection() {
        let mut world = World::new();
        assert_eq!(world.foreign(&slots(&[Some((1, 1, 1)), None]), 1, 0), 0);
        assert_eq!(world.foreign(&slots(&[Some((1, 1, 2)), Some((2, 1, 1))]), 1, 0), 0, "a race, perhaps");
        assert_eq!(world.foreign(&slots(&[Some((1, 1, 3)), Some((2, 1, 2))]), 1, 0), 1);
        assert_eq!(world.foreign(&slots(&[Some((3, 1, 3)), Some((2, 1, 2))]), 2, 0), 0);
    }

    #[test]
    fn what_waits_in_llama_servers_own_queue_is_foreign() {
        let mut world = World::new();
        let mut full = slots(&[Some((1, 1, 1)), Some((2, 1, 1))]);
        assert!(full.is_full());
        full.deferred = metrics(2, 3, 1, 1).deferred;
        assert_eq!([world.foreign(&full, 2, 0), world.foreign(&full, 2, 0)], [0, 3]);
        let mut world = World::new();
        let seen = metrics(1, 1, 5, 5);
        assert_eq!([world.foreign(&seen, 1, 0), world.foreign(&seen, 1, 0)], [0, 1]);
    }

    #[test]
    fn a_request_whose_client_left_is_not_foreign_while_llama_server_has_not_noticed() {
        let mut world = World::new();
        for left in [1, 0, 0, 0] {
            assert_eq!(world.foreign(&slots(&[Some((1, 1, 0)), Some((2, 1, 1))]), 1, left), 0);
        }
        // The abandoned task is over, and there is one that cannot be it.
        assert_eq!(world.foreign(&slots(&[Some((3, 1, 0)), Some((2, 1, 1))]), 1, 0), 0);
        assert_eq!(world.foreign(&slots(&[Some((3, 1, 0)), Some((4, 1, 1))]), 1, 0), 0);
        assert_eq!(world.foreign(&slots(&[Some((3, 1, 0)), Some((4, 1, 1))]), 1, 0), 1);
    }

    #[test]
    fn a_slot_that_does_not_move_for_long_is_stuck_until_it_moves_or_is_free() {
        let mut world = World::new();
        let still = slots(&[Some((7, 9, 20)), None]);
        assert_eq!([world.stuck(&still), world.stuck(&still), world.stuck(&still)], [false, false, true]);
        assert!(!world.stuck(&slots(&[Some((7, 9, 21)), None])), "it moves");
        assert_eq!([world.stuck(&still), world.stuck(&still), world.stuck(&still)], [false, false, true]);
        assert!(!world.stuck(&slots(&[None, None])), "it is free");
        assert_eq!([world.stuck(&still), world.stuck(&still)], [false, false]);
        assert!(!world.stuck(&slots(&[Some((8, 9, 20)), None])), "it is another request");
    }

    #[test]
    fn reading_a_prompt_and_decoding_are_both_progress() {
        let mut world = World::new();
        for step in 0..9 {
            assert!(!world.stuck(&slots(&[Some((7, step, 0)), Some((8, 0, step))])));
        }
        for step in 0..9 {
            assert!(!world.stuck(&metrics(1, 0, step, 3)) && !world.stuck(&metrics(1, 0, step, 4 + step)));
        }
    }

    #[test]
    fn metrics_alone_tell_that_nothing_moves() {
        let mut world = World::new();
        let still = metrics(2, 0, 100, 50);
        assert_eq!([world.stuck(&still), world.stuck(&still), world.stuck(&still)], [false, false, true]);
        assert!(!world.stuck(&metrics(0, 0, 100, 50)));
    }

    #[test]
    fn a_loop_that_does_not_answer_for_long_is_stuck_until_it_does() {
        let mut world = World::new();
        let start = world.now;
        assert_eq!(world.watcher.silence(start).stuck, None);
        assert_eq!(world.watcher.silence(start + 9 * SECOND).stuck, None);
        assert!(world.watcher.silence(start + 10 * SECOND).stuck.is_some());
        assert!(!world.stuck(&slots(&[None])));
        assert_eq!(world.watcher.silence(start + 11 * SECOND).stuck, None);
    }

    #[test]
    fn counts_that_go_back_are_a_restart() {
        let mut world = World::new();
        let mut restarted = |census: &Census| world.note(census, 9, 0).restarted;
        assert!(!restarted(&slots(&[Some((5, 1, 1)), None])));
        assert!(!restarted(&slots(&[Some((6, 1, 1)), None])));
        assert!(restarted(&slots(&[None, None])), "no slot has had a task");
        assert!(!restarted(&slots(&[Some((0, 1, 1)), None])));
        assert!(restarted(&slots(&[None, None])));
        assert!(!restarted(&metrics(0, 0, 50, 50)), "another measure");
        assert!(restarted(&metrics(0, 0, 3, 3)));
    }

    #[test]
    fn what_is_neither_slots_nor_metrics_tells_nothing() {
        assert_eq!(Census::of_slots(b"{}"), None);
        assert_eq!(Census::of_slots(b"<html>"), None);
        assert_eq!(Census::of_metrics(b"up 1\n"), None);
    }
}
