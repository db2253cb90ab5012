//! When a replica is asked for its counters.
//!
//! Best when it is quiet: nothing of it is in flight then, and what it counted is exactly what has been settled. Where it
//! never is, and where there is nothing to do, every interval. Never often: while `/metrics` is asked for, llama-server
//! does not look whether the clients of its replies in one piece have left.

use std::time::Duration;

use tokio::time::Instant;

/// The shortest pause between two readings.
const LEAST_PAUSE: Duration = Duration::from_secs(5);

/// What is known of a replica without asking it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Slots that this gateway's requests have.
    pub(super) in_flight: u32,
    /// How many of its requests were given slots, from the start.
    pub(super) started: u64,
    /// Requests of others.
    pub(super) foreign: u32,
    /// How often its process was seen to be another one.
    pub(super) restarts: u32,
}

/// Why it is to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// It has been quiet since the last look, and was not before.
    Quiet,
    /// It is time, quiet or not.
    Time,
}

/// What one replica was like.
#[derive(Debug, Default)]
pub(super) struct Watch {
    asked: Option<Instant>,
    /// Requests that had been started when its counters were read and nothing was under way.
    settled: Option<u64>,
    /// Requests that had been started at the last look, if nothing was in flight then.
    quiet: Option<u64>,
    foreign: u32,
    restarts: u32,
    restarted: bool,
    mute: bool,
}

impl Watch {
    /// Takes a look and says whether it is time to ask.
    pub(super) fn due(&mut self, look: &Look, interval: Duration, now: Instant) -> Option<Due> {
        self.foreign = self.foreign.max(look.foreign);
        // Who settles a request does so a moment after its slot is free: quiet is what is so at two looks.
        let quiet = (look.in_flight == 0).then_some(look.started);
        let is_quiet = quiet.is_some() && quiet == std::mem::replace(&mut self.quiet, quiet);
        let restarted = std::mem::replace(&mut self.restarts, look.restarts) != look.restarts;
        self.restarted |= restarted && self.asked.is_some();
        match self.asked.map(|asked| now.duration_since(asked)) {
            None => Some(Due::Time),
            // The sooner a new process is asked, the less remains uncompared.
            Some(_) if restarted => Some(Due::Time),
            Some(pause) if pause >= interval => Some(Due::Time),
            Some(pause) if pause >= LEAST_PAUSE && is_quiet && self.settled != quiet => Some(Due::Quiet),
            Some(_) => None,
        }
    }

    /// Its counters were read between two looks, and say whether it is busy. Gives whether they are to be remembered.
    pub(super) fn read(&mut self, due: Due, looks: (&Look, &Look), busy: bool, now: Instant) -> bool {
        self.asked = Some(now);
        self.mute = false;
        let (before, after) = looks;
        let idle = !busy && before.in_flight == 0 && before.started == after.started;
        self.settled = idle.then_some(before.started);
        // Of what has just begun, or runs on although its client has left, a later reading tells.
        idle || due == Due::Time
    }

    /// There was no answer. Nothing is to be remembered.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        self.asked = Some(now);
        false
    }

    /// It does not tell its counters. Gives whether that is new.
    pub(super) fn is_mute(&mut self, now: Instant) -> bool {
        self.asked = Some(now);
        !std::mem::replace(&mut self.mute, true)
    }

    /// Requests of others at most, since this was asked last.
    pub(super) fn take_foreign(&mut self) -> u32 {
        std::mem::take(&mut self.foreign)
    }

    /// Whether it was seen to be another process, since this was asked last.
    pub(super) fn take_restarted(&mut self) -> bool {
        std::mem::take(&mut self.restarted)
    }

    /// What was taken could not be remembered: the next sample is to tell it.
    pub(super) fn put_back(&mut self, foreign: u32, restarted: bool) {
        self.foreign = self.foreign.max(foreign);
        self.restarted |= restarted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(60);

    struct World {
        watch: Watch,
        now: Instant,
    }

    impl World {
        /// One whose counters were read just now, when it was quiet.
        fn new() -> Self {
            let mut world = Self { watch: Watch::default(), now: Instant::now() };
            assert_eq!(world.due(0, 0), Some(Due::Time), "the first look");
            assert!(world.read(Due::Time, 0, 0, false));
            world
        }

        fn look(in_flight: u32, started: u64) -> Look {
            Look { in_flight, started, ..Look::default() }
        }

        /// A look one second later.
        fn due(&mut self, in_flight: u32, started: u64) -> Option<Due> {
            self.now += Duration::from_secs(1);
            self.watch.due(&Self::look(in_flight, started), INTERVAL, self.now)
        }

        fn read(&mut self, due: Due, in_flight: u32, started: u64, busy: bool) -> bool {
            let look = Self::look(in_flight, started);
            self.watch.read(due, (&look, &look), busy, self.now)
        }
    }

    #[test]
    fn counters_are_read_once_it_is_quiet_after_requests_and_not_too_soon() {
        let mut world = World::new();
        assert_eq!([world.due(1, 1), world.due(0, 1), world.due(0, 1), world.due(0, 1)], [None; 4], "too soon");
        assert_eq!(world.due(0, 1), Some(Due::Quiet));
        assert!(world.read(Due::Quiet, 0, 1, false));
        assert_eq!((0..50).find_map(|_| world.due(0, 1)), None, "nothing new");
    }

    #[test]
    fn quiet_is_what_is_so_at_two_looks() {
        let mut world = World::new();
        for started in 1..20 {
            assert_eq!(world.due(0, started), None, "another one came and went");
        }
        assert_eq!(world.due(0, 19), Some(Due::Quiet));
    }

    #[test]
    fn without_a_pause_or_without_requests_they_are_read_every_interval() {
        for in_flight in [0, 3] {
            let mut world = World::new();
            let asked: Vec<_> = (0..180)
                .filter(|_| {
                    world.due(in_flight, 0).is_some_and(|due| {
                        assert_eq!(due, Due::Time);
                        world.read(due, in_flight, 0, in_flight > 0)
                    })
                })
                .collect();
            assert_eq!(asked, [59, 119, 179]);
        }
    }

    #[test]
    fn what_runs_on_after_its_client_has_left_is_waited_for() {
        let mut world = World::new();
        while world.due(0, 1).is_none() {}
        assert!(!world.read(Due::Quiet, 0, 1, true), "an orphan");
        assert_eq!((0..5).map(|_| world.due(0, 1)).collect::<Vec<_>>(), [None, None, None, None, Some(Due::Quiet)]);
        assert!(world.read(Due::Quiet, 0, 1, false));
    }

    #[test]
    fn what_began_while_they_were_read_makes_them_useless_unless_it_is_time() {
        let mut world = World::new();
        let looks = (World::look(0, 1), World::look(0, 2));
        assert!(!world.watch.read(Due::Quiet, (&looks.0, &looks.1), false, world.now));
        assert!(world.watch.read(Due::Time, (&looks.0, &looks.1), false, world.now));
    }

    #[test]
    fn another_process_is_asked_at_once() {
        let mut world = World::new();
        let restarted = Look { restarts: 1, ..World::look(0, 0) };
        assert_eq!(world.watch.due(&restarted, INTERVAL, world.now), Some(Due::Time));
        assert!(world.watch.take_restarted());
        assert_eq!(world.watch.due(&restarted, INTERVAL, world.now), None);
        assert!(!world.watch.take_restarted());
    }

    #[test]
    fn what_could_not_be_remembered_is_told_with_the_next_sample() {
        let mut world = World::new();
        world.watch.due(&Look { restarts: 1, foreign: 2, ..Look::default() }, INTERVAL, world.now);
        let taken = (world.watch.take_foreign(), world.watch.take_restarted());
        world.watch.put_back(taken.0, taken.1);
        assert_eq!((world.watch.take_foreign(), world.watch.take_restarted()), (2, true));
        assert_eq!((world.watch.take_foreign(), world.watch.take_restarted()), (0, false));
    }

    #[test]
    fn the_most_foreign_requests_since_the_last_time_are_told_once() {
        let mut world = World::new();
        for foreign in [0, 2, 1] {
            world.watch.due(&Look { foreign, ..Look::default() }, INTERVAL, world.now);
        }
        assert_eq!([world.watch.take_foreign(), world.watch.take_foreign()], [2, 0]);
    }
}
