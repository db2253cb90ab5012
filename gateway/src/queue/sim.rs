//! Simulated llama-servers, tenants and time around the scheduler, and what must hold at every step.
//!
//! Takes [`Source`]s of requests and an [`Engine`], gives a record of every request. Time passes only between events,
//! so that a seed gives the same run each time. `bound` holds the scheduler to its bound in hundreds of random runs,
//! `scenarios` shows what it is good for.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::scheduler::{Decision, Scheduler, Served, TicketId};
use super::{Class, Refusal, ReplicaId, Settings, Speed, Work};
use crate::config::Order;
use gaps::Gaps;
use sources::{Arrivals, Engine, Random, Source, ticket};

mod bound;
mod gaps;
mod scenarios;
mod sources;

/// Later than everything, in seconds.
const NEVER: f64 = 1e7;
/// A cached prompt token costs this much, and an output token `OUTPUT`, of one that is computed.
const CACHED: f64 = 0.1;
const OUTPUT: f64 = 2.0;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Complete,
    Refused(Refusal),
    Expired,
    LeftQueue,
    LeftRunning,
}

/// A request, and what became of it.
struct Job {
    source: usize,
    /// In truth.
    work: Work,
    expected: Work,
    conversation: u64,
    tries: u32,
    arrived: f64,
    deadline: f64,
    ticket: Option<TicketId>,
    /// The wait that was predicted at entry.
    predicted: Option<f64>,
    started: Option<f64>,
    first_token: Option<f64>,
    ended: f64,
    cached: u64,
    run: Option<Run>,
    outcome: Option<Outcome>,
}

/// Of a request that runs.
struct Run {
    replica: usize,
    served: Arc<Served>,
    /// Prompt tokens that are still to be computed.
    prompt_left: f64,
    /// Output tokens that are there.
    output: f64,
}

impl Job {
    fn waits(&self) -> bool {
        self.outcome.is_none() && self.run.is_none()
    }

    /// What a token of the prompt that is computed stands for: itself, and its share of those that were cached.
    fn prompt_token_cost(&self) -> f64 {
        let computed = (self.work.prompt - self.cached) as f64;
        1.0 + CACHED * self.cached as f64 / computed
    }
}

/// A replica with, of each slot, what it last worked on and when it was free again; `None` while it works.
struct Replica {
    ready: bool,
    total: usize,
    idle: Vec<(Option<(usize, u64)>, f64)>,
}

/// What happens next.
#[derive(Clone, Copy)]
enum Event {
    /// A request of a source, and how often it was tried before.
    Arrive(usize, u32),
    /// The client of a job leaves, if the job is not over.
    Leave(usize),
    /// A replica gets ready or not ready.
    Ready(usize, bool),
    /// The deadline of a job passes, if it still waits.
    Expire(usize),
}

struct Sim {
    scheduler: Scheduler,
    engine: Engine,
    sources: Vec<Source>,
    random: Random,
    begin: Instant,
    now: f64,
    /// By time in nanoseconds, then by order of planning.
    events: BinaryHeap<Reverse<(u64, usize)>>,
    planned: Vec<Event>,
    jobs: Vec<Job>,
    by_ticket: BTreeMap<TicketId, usize>,
    waiting: BTreeSet<usize>,
    running: BTreeSet<usize>,
    replicas: Vec<Replica>,
    gaps: Gaps,
    /// Whether the scheduler's own books are checked at every step, too.
    thorough: bool,
    /// Whether the scheduler is told how fast requests were served.
    learns: bool,
    /// How often a start fails because the replica refuses the connection.
    refused_connections: f64,
    /// Seconds of slots that went into requests that were completed.
    useful: f64,
    /// By source, the cost of what was counted of its requests that are over.
    settled: Vec<f64>,
}

/// Classes by weight, none of them strict.
fn settings(order: Order, classes: &[u32]) -> Settings {
    let class = |(i, &weight)| Class { name: format!("c{i}").into(), weight, strict: false };
    Settings { order, classes: classes.iter().enumerate().map(class).collect(), locality_slack: 0, locality_passes: 0 }
}

impl Sim {
    fn new(settings: Settings, engine: Engine, replicas: &[usize], sources: Vec<Source>, seed: u64) -> Self {
        let mut scheduler = Scheduler::new(settings);
        for (id, &slots) in replicas.iter().enumerate() {
            scheduler.set_replica(ReplicaId(id), slots as u32, true);
        }
        let replica = |&total: &usize| Replica { ready: true, total, idle: vec![(None, 0.0); total] };
        let gaps = Gaps::new(&sources, replicas.iter().sum());
        let mut sim = Self {
            scheduler,
            engine,
            random: Random(seed),
            begin: Instant::now(),
            now: 0.0,
            events: BinaryHeap::new(),
            planned: Vec::new(),
            jobs: Vec::new(),
            by_ticket: BTreeMap::new(),
            waiting: BTreeSet::new(),
            running: BTreeSet::new(),
            replicas: replicas.iter().map(replica).collect(),
            gaps,
            thorough: false,
            learns: false,
            refused_connections: 0.0,
            useful: 0.0,
            settled: vec![0.0; sources.len()],
            sources,
        };
        for source in 0..sim.sources.len() {
            let count = match sim.sources[source].arrivals {
                Arrivals::Outstanding(count) => count,
                Arrivals::Every(_) | Arrivals::Random(_) | Arrivals::Bursts(..) => 1,
            };
            let start = sim.sources[source].active.start;
            (0..count).for_each(|_| sim.plan(start, Event::Arrive(source, 0)));
        }
        sim
    }

    fn plan(&mut self, time: f64, event: Event) {
        if time < NEVER {
            self.events.push(Reverse(((time.max(self.now) * 1e9) as u64, self.planned.len())));
            self.planned.push(event);
        }
    }

    fn instant(&self, time: f64) -> Instant {
        self.begin + Duration::from_secs_f64(time)
    }

    fn run(&mut self, until: f64) {
        loop {
            let event = self.events.peek().map_or(NEVER, |Reverse((nanos, _))| (*nanos as f64 / 1e9).max(self.now));
            let change = self.now + self.next_change();
            if event.min(change) > until {
                return self.advance(until);
            }
            self.advance(event.min(change));
            if change <= event {
                self.end_what_is_complete();
            } else if let Some(Reverse((_, index))) = self.events.pop() {
                self.happen(self.planned[index]);
            }
        }
    }

    /// Seconds until a prompt is processed or an answer is complete.
    fn next_change(&self) -> f64 {
        let seconds = |&job: &usize| {
            let job = &self.jobs[job];
            let run = job.run.as_ref().expect("it runs");
            if run.prompt_left > 0.0 {
                run.prompt_left / self.engine.prompt_per_second
            } else {
                (job.work.output as f64 - run.output).max(0.0) * self.engine.token(self.busy(run.replica))
            }
        };
        self.running.iter().map(seconds).fold(NEVER, f64::min)
    }

    fn busy(&self, replica: usize) -> usize {
        self.replicas[replica].total - self.replicas[replica].idle.len()
    }

    /// Lets time pass: nothing but work happens.
    fn advance(&mut self, to: f64) {
        let seconds = to - self.now;
        self.now = to;
        let tokens: Vec<_> = (0..self.replicas.len()).map(|id| self.engine.token(self.busy(id))).collect();
        for &id in &self.running {
            let job = &mut self.jobs[id];
            let prompt_token_cost = job.prompt_token_cost();
            let run = job.run.as_mut().expect("it runs");
            if run.prompt_left > 0.0 {
                let done = (seconds * self.engine.prompt_per_second).min(run.prompt_left);
                run.prompt_left -= done;
                self.gaps.serve(job.source, done * prompt_token_cost);
                if run.prompt_left < 1e-6 {
                    run.prompt_left = 0.0;
                    job.first_token = Some(self.now);
                }
            } else {
                let done = seconds / tokens[run.replica];
                run.output += done;
                self.gaps.serve(job.source, done * OUTPUT);
            }
            // llama-server tells of the prompt with the first token only.
            if run.prompt_left == 0.0 {
                run.served.record(job.work.prompt, job.cached, (run.output + 1e-6) as u64);
            }
        }
        self.gaps.time_has_passed();
    }

    fn end_what_is_complete(&mut self) {
        let complete = |id: &&usize| {
            let job = &self.jobs[**id];
            job.run.as_ref().is_some_and(|run| run.prompt_left == 0.0 && run.output + 1e-6 >= job.work.output as f64)
        };
        let over: Vec<_> = self.running.iter().filter(complete).copied().collect();
        for job in over {
            self.stop(job, Outcome::Complete);
            self.decide();
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive(source, tries) => self.arrive(source, tries),
            Event::Leave(job) if self.jobs[job].waits() => self.leave(job, Outcome::LeftQueue),
            Event::Expire(job) if self.jobs[job].waits() => self.leave(job, Outcome::Expired),
            Event::Leave(job) if self.jobs[job].run.is_some() => self.stop(job, Outcome::LeftRunning),
            Event::Ready(id, ready) => {
                self.replicas[id].ready = ready;
                self.scheduler.tick(self.instant(self.now));
                self.scheduler.set_replica(ReplicaId(id), self.replicas[id].total as u32, ready);
            }
            Event::Leave(_) | Event::Expire(_) => {}
        }
        self.decide();
    }

    fn leave(&mut self, job: usize, outcome: Outcome) {
        self.scheduler.leave(self.ticket(job), self.instant(self.now));
        self.stop_waiting(job);
        self.end(job, outcome);
    }

    fn arrive(&mut self, index: usize, tries: u32) {
        let source = self.sources[index].clone();
        let (now, first) = (self.now, tries == 0);
        if now >= source.active.end {
            return;
        }
        match source.arrivals {
            Arrivals::Every(seconds) if first => self.plan(now + seconds, Event::Arrive(index, 0)),
            Arrivals::Random(mean) if first => {
                let gap = self.random.exponential(mean);
                self.plan(now + gap, Event::Arrive(index, 0));
            }
            Arrivals::Bursts(count, seconds) if first => {
                self.plan(now + seconds, Event::Arrive(index, 0));
                (1..count).for_each(|_| self.enter(index, &source, 0));
            }
            _ => {}
        }
        self.enter(index, &source, tries);
    }

    fn enter(&mut self, index: usize, source: &Source, tries: u32) {
        let now = self.now;
        let work =
            Work { prompt: self.random.among(source.prompt.clone()), output: self.random.among(source.output.clone()) };
        let expected = (work.output as f64 * self.random.factor(&source.misjudged)).round().max(1.0) as u64;
        let expected = Work { prompt: work.prompt, output: expected };
        let conversation = if source.conversations == 0 { 0 } else { self.random.among(0..source.conversations) };
        let slots = self.replicas.iter().map(|replica| replica.total).max().unwrap_or(1);
        // Like the gateway: the wait may take what the client's patience leaves of the service.
        let deadline = now + (source.patience - self.engine.service(expected, slots)).max(0.0);
        let ticket = ticket(index, source, expected, conversation, self.instant(deadline));
        let entered = self.scheduler.enter(ticket, self.instant(now));
        let id = self.jobs.len();
        self.jobs.push(Job {
            source: index,
            work,
            expected,
            conversation,
            tries,
            arrived: now,
            deadline,
            ticket: None,
            predicted: None,
            started: None,
            first_token: None,
            ended: now,
            cached: 0,
            run: None,
            outcome: None,
        });
        match entered {
            Ok((ticket, outlook)) => {
                self.jobs[id].ticket = Some(ticket);
                self.jobs[id].predicted = outlook.wait.map(|wait| wait.as_secs_f64());
                assert!(self.by_ticket.insert(ticket, id).is_none(), "a ticket has two owners");
                self.waiting.insert(id);
                self.gaps.waits(index, true);
                self.plan(deadline, Event::Expire(id));
                let whim = if self.random.unit() < source.moody { self.random.exponential(20.0) } else { NEVER };
                self.plan(now + source.patience.min(whim), Event::Leave(id));
            }
            Err(refusal) => self.end(id, Outcome::Refused(refusal)),
        }
    }

    fn ticket(&self, job: usize) -> TicketId {
        self.jobs[job].ticket.expect("it has entered")
    }

    /// Takes all decisions that there are to take, then looks whether all is as it must be.
    fn decide(&mut self) {
        while let Some(decision) = self.scheduler.next(self.instant(self.now)) {
            match decision {
                Decision::Start { ticket, replica, served, .. } => self.start(self.by_ticket[&ticket], replica, served),
                Decision::Refuse { ticket, refusal } => {
                    let job = self.by_ticket[&ticket];
                    self.stop_waiting(job);
                    assert!(matches!(refusal, Refusal::Expired { .. }), "{refusal}");
                    self.end(job, Outcome::Expired);
                }
            }
        }
        self.check();
    }

    fn start(&mut self, id: usize, replica: ReplicaId, served: Arc<Served>) {
        assert!(self.jobs[id].waits() && self.waiting.contains(&id), "one that does not wait was started");
        assert!(self.jobs[id].deadline + 1e-6 >= self.now, "one whose deadline had passed was started");
        let slots = self.sources[self.jobs[id].source].slots as usize;
        let chosen = &mut self.replicas[replica.0];
        assert!(chosen.ready && chosen.idle.len() >= slots, "more are in flight than there are slots");
        if self.random.unit() < self.refused_connections {
            return self.scheduler.unused(self.ticket(id), self.instant(self.now));
        }
        let job = &mut self.jobs[id];
        // llama-server's choice of a slot: the one with the same beginning, else the one that has idled longest.
        let wanted = Some((job.source, job.conversation));
        let warm =
            chosen.idle.iter().position(|(last, _)| *last == wanted && self.sources[job.source].conversations > 0);
        if warm.is_some() {
            job.cached = job.work.prompt * 9 / 10;
        }
        chosen.idle.sort_by(|a, b| (a.0 != wanted).cmp(&(b.0 != wanted)).then(a.1.total_cmp(&b.1)));
        chosen.idle.drain(..slots);
        job.started.get_or_insert(self.now);
        let prompt_left = (job.work.prompt - job.cached) as f64;
        job.run = Some(Run { replica: replica.0, served, prompt_left, output: 0.0 });
        let (source, largest, estimate) = (job.source, cost(job.expected).max(cost(job.work)), cost(job.expected));
        self.gaps.started(source, largest, estimate);
        self.stop_waiting(id);
        self.running.insert(id);
    }

    fn stop_waiting(&mut self, id: usize) {
        assert!(self.waiting.remove(&id), "it does not wait");
        self.gaps.waits(self.jobs[id].source, false);
    }

    /// One that runs is over.
    fn stop(&mut self, id: usize, outcome: Outcome) {
        let job = &mut self.jobs[id];
        let run = job.run.take().expect("it runs");
        let slots = self.sources[job.source].slots as usize;
        let last = (Some((job.source, job.conversation)), self.now);
        self.replicas[run.replica].idle.extend(std::iter::repeat_n(last, slots));
        assert!(self.running.remove(&id));
        let (started, first) = (job.started.unwrap_or(self.now), job.first_token.unwrap_or(self.now));
        if outcome == Outcome::Complete {
            self.useful += (self.now - started) * slots as f64;
        }
        let (prompt, output) = (job.work.prompt - run.prompt_left.ceil() as u64, (run.output + 1e-6) as u64);
        // The queue tells how far a prompt has come by the time that it took.
        run.served.record(prompt, job.cached.min(prompt), output);
        let cached = job.cached.min(prompt) as f64;
        self.settled[job.source] += prompt as f64 - (1.0 - CACHED) * cached + OUTPUT * output as f64;
        if self.learns {
            self.scheduler.learn(Speed {
                prompt_tokens: prompt.saturating_sub(job.cached),
                prompt_ms: (first - started) * 1000.0,
                output_tokens: output,
                output_ms: (self.now - first) * 1000.0,
            });
        }
        let (ticket, now) = (self.ticket(id), self.instant(self.now));
        self.scheduler.finish(ticket, now);
        // What is over is over: none of these changes anything any more.
        self.scheduler.finish(ticket, now);
        self.scheduler.unused(ticket, now);
        self.scheduler.leave(ticket, now);
        self.end(id, outcome);
    }

    /// Ends everything, then looks whether each request was settled once, by what it was, and no slot ever idled.
    fn check_books(&mut self) {
        (0..self.jobs.len()).for_each(|job| match (self.jobs[job].outcome, &self.jobs[job].run) {
            (None, Some(_)) => self.stop(job, Outcome::LeftRunning),
            (None, None) => self.leave(job, Outcome::LeftQueue),
            (Some(_), _) => {}
        });
        assert!(self.scheduler.next(self.instant(self.now)).is_none());
        let stats = self.scheduler.stats(self.instant(self.now));
        assert_eq!((self.scheduler.depth(), stats.idle_with_backlog), (0, Duration::ZERO));
        assert!(self.scheduler.load().iter().all(|load| load.in_flight == 0));
        for (source, settled) in self.settled.iter().enumerate() {
            let tenant = format!("t{source}");
            let service =
                stats.service.iter().find(|(other, _)| **other == *tenant).map_or(0.0, |(_, service)| *service);
            assert!((service - settled).abs() < 1e-6 * settled.max(1.0), "{service} was charged, not {settled}");
        }
    }

    /// Each request has one outcome.
    fn end(&mut self, id: usize, outcome: Outcome) {
        let job = &mut self.jobs[id];
        assert_eq!(job.outcome.replace(outcome), None, "a request ended twice");
        job.ended = self.now;
        let (source, tries) = (job.source, job.tries);
        let pause = match outcome {
            Outcome::Complete | Outcome::LeftQueue | Outcome::LeftRunning => 0.0,
            Outcome::Refused(_) | Outcome::Expired => 1.0,
        };
        if matches!(self.sources[source].arrivals, Arrivals::Outstanding(_)) {
            self.plan(self.now + pause, Event::Arrive(source, 0));
        } else if outcome != Outcome::Complete && tries < self.sources[source].retries {
            self.plan(self.now + pause, Event::Arrive(source, tries + 1));
        }
    }

    /// What must hold whenever all decisions have been taken.
    fn check(&mut self) {
        let in_use = |source: usize| -> u32 {
            let slots = |job: &&usize| self.jobs[**job].source == source;
            self.running.iter().filter(slots).map(|_| self.sources[source].slots).sum()
        };
        let capped = |source: usize| {
            let (caps, slots) = (self.sources[source].caps, self.sources[source].slots);
            let most = [caps.tenant_slots, caps.key_slots].into_iter().filter(|&cap| cap > 0).min();
            most.is_some_and(|most| in_use(source) + slots > most)
        };
        let free = self.replicas.iter().filter(|replica| replica.ready).map(|replica| replica.idle.len()).max();
        let free = free.unwrap_or(0);
        let runnable = |source: usize| !capped(source) && self.sources[source].slots as usize <= free;
        // One that gathers several slots may leave some idle meanwhile.
        let gathers = self.waiting.iter().any(|&job| self.sources[self.jobs[job].source].slots > 1);
        for &id in &self.waiting {
            let job = &self.jobs[id];
            assert!(job.deadline >= self.now - 1e-6, "one whose deadline has passed still waits");
            assert!(gathers || !runnable(job.source), "a slot is idle while a request could run");
        }
        if self.thorough {
            self.scheduler.check();
        }
        self.gaps.decisions_were_taken();
    }
}

/// Units of cost with nothing cached.
fn cost(work: Work) -> f64 {
    work.prompt as f64 + OUTPUT * work.output as f64
}

/// What is at a share of the sorted values.
fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values
        .get(((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}
