//! The simulated server without its HTTP: slots, the queue before them, and the passes that compute tokens. Pure: takes
//! requests, leavings and the time; gives events, each at the moment at which it is due.
//!
//! One pass after the other, as llama-server's main loop (`update_slots`): a pass gives one token to every slot that
//! generates, and computes up to a batch of prompt tokens of the others. So a long prompt makes everybody wait, and what
//! nobody wants any more is ended only between passes. What is known of llama-server's manners is imitated: the queue is
//! unbounded and first come, first served; a client that has left is noticed by a write, or by a thread that has seen no
//! result of anybody for a second (docs/simulator.md).

mod cache;
mod counters;
mod look;
mod pass;
mod place;
#[cfg(test)]
mod tests;
mod work;

use std::collections::VecDeque;
use std::time::Duration;

pub use counters::Counters;
pub use look::SlotLook;
pub use work::{End, Event, Output, Request, Sequence, Timings, Trouble, TroubleKind};

use super::profile::Profile;
use cache::HostCache;
use pass::Pass;
use work::{Launch, Slot};

/// What has passed since the server's start.
pub type Moment = Duration;

/// How many leavings are remembered.
const MOST_CANCELS: usize = 10_000;

/// A request whose client left before its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cancel {
    /// When its client left.
    pub left: Moment,
    /// When its slot was free, or its place in the queue.
    pub freed: Moment,
}

/// The server.
pub struct Model {
    profile: Profile,
    slots: Vec<Slot>,
    waiting: VecDeque<Launch>,
    host_cache: HostCache,
    pass: Option<Pass>,
    /// Up to when everything is handled.
    now: Moment,
    /// When a result was last given to anybody: threads that wait look for their clients only a poll later.
    quiet_since: Moment,
    /// Until when nothing goes on, if it was made to stall.
    stalled_until: Option<Moment>,
    next_request: u64,
    next_task: u64,
    counters: Counters,
    cancels: VecDeque<Cancel>,
    outputs: Vec<Output>,
}

impl Model {
    /// A server at its start.
    pub fn new(profile: Profile) -> Self {
        Self {
            slots: (0..profile.slots).map(|_| Slot::default()).collect(),
            host_cache: HostCache::new(profile.host_cache),
            profile,
            waiting: VecDeque::new(),
            pass: None,
            now: Moment::ZERO,
            quiet_since: Moment::ZERO,
            stalled_until: None,
            next_request: 0,
            next_task: 0,
            counters: Counters::default(),
            cancels: VecDeque::new(),
            outputs: Vec::new(),
        }
    }

    /// Its numbers.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Lets a request in; gives its number. It gets its slots at once if they are free, else it waits, without a bound.
    pub fn submit(&mut self, request: Request, now: Moment) -> u64 {
        self.advance(now);
        let id = self.next_request;
        self.next_request += 1;
        for launch in Launch::of(id, request, &mut self.next_task) {
            self.waiting.push_back(launch);
        }
        self.launch(now);
        self.begin_pass(now);
        id
    }

    /// The client of a request has closed its connection.
    pub fn leave(&mut self, request: u64, now: Moment) {
        self.advance(now);
        for launch in self.waiting.iter_mut().filter(|launch| launch.request == request) {
            launch.left.get_or_insert(now);
        }
        for slot in 0..self.slots.len() {
            let Some(work) = self.slots[slot].work.as_mut().filter(|work| work.request == request) else { continue };
            work.left.get_or_insert(now);
            // Who writes notices at once.
            work.noticed |= work.streamed;
            self.end_if_unwanted(slot, now);
        }
        self.launch(now);
        self.begin_pass(now);
    }

    /// Somebody asked for `/metrics` or `/slots`: the answer is a result too, for which all threads wake up.
    pub fn poke(&mut self, now: Moment) {
        self.advance(now);
        self.quiet_since = now;
    }

    /// Nothing goes on from now on for so long.
    pub fn stall(&mut self, length: Duration, now: Moment) {
        self.advance(now);
        let until = now + length;
        self.stalled_until = Some(self.stalled_until.map_or(until, |other| other.max(until)));
        if let Some(pass) = &mut self.pass {
            pass.ends += length;
        }
    }

    /// Until when it stalls.
    pub fn stalled_until(&self) -> Option<Moment> {
        self.stalled_until
    }

    /// When the next thing is due, if nothing new comes.
    pub fn next(&self) -> Option<Moment> {
        let pass = self.pass.as_ref().map(|pass| pass.ends);
        let stall = self.stalled_until;
        let look = self.next_look().filter(|_| stall.is_none());
        [pass, stall, look].into_iter().flatten().min()
    }

    /// Does all that is due until `now`, each thing at its own moment.
    pub fn advance(&mut self, now: Moment) {
        while let Some(due) = self.next().filter(|due| *due <= now) {
            self.now = due;
            if self.stalled_until.is_some_and(|until| until <= due) {
                self.stalled_until = None;
                self.quiet_since = due;
            } else if self.pass.as_ref().is_some_and(|pass| pass.ends <= due) {
                self.end_pass(due);
            } else {
                self.look_for_clients(due);
            }
            self.launch(due);
            self.begin_pass(due);
        }
        self.now = self.now.max(now);
    }

    /// The events since the last call, in order.
    pub fn outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// What has been counted.
    pub fn counters(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// Slots that work.
    pub fn busy(&self) -> usize {
        self.slots.iter().filter(|slot| slot.work.is_some()).count()
    }

    /// Requests that wait for a slot.
    pub fn deferred(&self) -> usize {
        self.waiting.len()
    }

    /// The requests whose clients left, the oldest first; at most the last 10,000.
    pub fn cancels(&self) -> impl Iterator<Item = &Cancel> {
        self.cancels.iter()
    }

    /// When threads that have seen no result look for their clients.
    fn next_look(&self) -> Option<Moment> {
        let anybody = self.busy() + self.deferred() > 0;
        anybody.then(|| self.quiet_since + self.profile.poll)
    }

    /// No result has come for a while: threads look whether their clients are there, and write pings.
    fn look_for_clients(&mut self, at: Moment) {
        self.quiet_since = at;
        let mut gone = Vec::new();
        self.waiting.retain(|launch| {
            gone.extend(launch.left);
            launch.left.is_none()
        });
        for left in gone {
            self.note_cancel(left, at);
        }
        for slot in 0..self.slots.len() {
            let ping = self.profile.ping;
            let Some(work) = &mut self.slots[slot].work else { continue };
            work.noticed |= work.left.is_some();
            if work.streamed && !work.is_wedged() && at >= work.written + work.ping.unwrap_or(ping) {
                work.written = at;
                self.outputs.push(work.output(Event::Ping, at));
            }
            self.end_if_unwanted(slot, at);
        }
    }

    fn note_cancel(&mut self, left: Moment, freed: Moment) {
        if self.cancels.len() == MOST_CANCELS {
            self.cancels.pop_front();
        }
        self.cancels.push_back(Cancel { left, freed });
    }
}
