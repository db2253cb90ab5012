//! The rules of the scheduler, one by one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::prefix::BLOCK_BYTES;
use super::scheduler::{Decision, Scheduler, Served, TicketId};
use super::{
    Caps, ClassId, Forecast, Outlook, Prefix, PrefixReader, Refusal, ReplicaId, Settings, Speed, Ticket, Work, fixture,
};
use crate::config::Order;

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// A request that has its slot.
struct Started {
    id: TicketId,
    tenant: Arc<str>,
    replica: usize,
    may_use_cache: bool,
    served: Arc<Served>,
    work: Work,
}

/// A scheduler with a clock, and the requests that it was given.
struct World {
    scheduler: Scheduler,
    now: Instant,
    tickets: BTreeMap<TicketId, Ticket>,
}

impl World {
    fn with(settings: Settings, replicas: &[u32]) -> Self {
        let mut scheduler = Scheduler::new(settings);
        for (id, &slots) in replicas.iter().enumerate() {
            scheduler.set_replica(ReplicaId(id), slots, true);
        }
        Self { scheduler, now: Instant::now(), tickets: BTreeMap::new() }
    }

    fn new(replicas: &[u32]) -> Self {
        Self::with(fixture::settings(), replicas)
    }

    fn try_enter(&mut self, ticket: Ticket) -> Result<(TicketId, Outlook), Refusal> {
        let entered = self.scheduler.enter(ticket.clone(), self.now)?;
        self.tickets.insert(entered.0, ticket);
        Ok(entered)
    }

    fn enter(&mut self, ticket: Ticket) -> TicketId {
        self.try_enter(ticket).unwrap().0
    }

    fn enter_many(&mut self, count: usize, ticket: &Ticket) {
        for _ in 0..count {
            self.enter(ticket.clone());
        }
    }

    fn next(&mut self) -> Option<Result<Started, (TicketId, Refusal)>> {
        Some(match self.scheduler.next(self.now)? {
            Decision::Refuse { ticket, refusal } => Err((ticket, refusal)),
            Decision::Start { ticket: id, replica, may_use_cache, served } => {
                let Ticket { tenant, work, .. } = self.tickets[&id].clone();
                Ok(Started { id, tenant, replica: replica.0, may_use_cache, served, work })
            }
        })
    }

    fn start(&mut self) -> Started {
        self.next().expect("a decision").expect("a start")
    }

    /// The tenants of all that can start now.
    fn start_all(&mut self) -> Vec<Started> {
        std::iter::from_fn(|| self.next()).map(Result::unwrap).collect()
    }

    /// Exactly what was expected is done, and the request is over.
    fn finish(&mut self, started: &Started) {
        started.served.record(started.work.prompt, 0, started.work.output);
        self.over(started);
    }

    fn over(&mut self, started: &Started) {
        self.scheduler.finish(started.id, self.now);
    }

    /// The tenants of the next requests, each of which is over before the next one starts.
    fn serve(&mut self, count: usize) -> String {
        let mut order = String::new();
        for _ in 0..count {
            let started = self.start();
            order.push_str(&started.tenant);
            self.finish(&started);
        }
        order
    }

    fn tell_speed(&mut self) {
        // A prompt token takes 10 ms, an output token 20 ms.
        let speed = Speed { prompt_tokens: 100, prompt_ms: 1000.0, output_tokens: 100, output_ms: 2000.0 };
        self.scheduler.learn(speed);
    }
}

/// A request that costs `prompt` units, all of them known beforehand.
fn ticket(tenant: &str, prompt: u64) -> Ticket {
    Ticket { work: Work { prompt, output: 0 }, ..fixture::ticket(tenant, 1) }
}

fn class(ticket: Ticket, class: usize) -> Ticket {
    Ticket { class: ClassId(class), ..ticket }
}

fn prompt(name: u8, blocks: u8) -> Prefix {
    let mut reader = PrefixReader::default();
    (0..blocks).for_each(|block| reader.push(&[name ^ block.rotate_left(4); BLOCK_BYTES]));
    reader.finish()
}

fn count(order: &str, tenant: char) -> usize {
    order.chars().filter(|&c| c == tenant).count()
}

#[test]
fn tenants_share_by_work_and_not_by_requests() {
    let mut world = World::new(&[1]);
    for _ in 0..40 {
        world.enter(ticket("a", 1000));
        world.enter(ticket("b", 250));
    }
    let order = world.serve(25);
    assert_eq!((count(&order, 'a'), count(&order, 'b')), (5, 20), "{order}");
}

#[test]
fn tenants_share_by_weight() {
    let mut world = World::new(&[1]);
    for _ in 0..40 {
        world.enter(Ticket { weight: 3, ..ticket("a", 100) });
        world.enter(ticket("b", 100));
    }
    let order = world.serve(40);
    assert_eq!((count(&order, 'a'), count(&order, 'b')), (30, 10), "{order}");
}

#[test]
fn classes_share_by_weight_however_many_tenants_they_have() {
    let mut world = World::new(&[1]);
    for _ in 0..60 {
        // Classes of weights 1, 8 and 4.
        world.enter(class(ticket("b", 100), 0));
        world.enter(class(ticket("c", 100), 0));
        world.enter(class(ticket("i", 100), 1));
        world.enter(class(ticket("s", 100), 2));
    }
    let order = world.serve(52);
    let counts = ['i', 's', 'b', 'c'].map(|tenant| count(&order, tenant));
    assert_eq!(counts, [32, 16, 2, 2], "{order}");
}

#[test]
fn a_strict_class_goes_first_and_the_others_share_what_is_left() {
    let mut settings = fixture::settings();
    settings.classes[0].strict = true;
    settings.classes[1].strict = true;
    let mut world = World::with(settings, &[1]);
    for _ in 0..3 {
        world.enter(class(ticket("s", 100), 2));
        world.enter(class(ticket("i", 100), 1));
        world.enter(class(ticket("b", 100), 0));
    }
    assert_eq!(world.serve(9), "bbbiiisss");
}

#[test]
fn who_comes_next_to_a_flood_gets_the_next_slot() {
    let mut world = World::new(&[2]);
    world.enter_many(40, &ticket("a", 1000));
    let mut running = world.start_all();
    for _ in 0..5 {
        world.enter(ticket("b", 100));
        let over = running.remove(0);
        world.finish(&over);
        let started = world.start();
        assert_eq!(&*started.tenant, "b");
        world.finish(&started);
        running.push(world.start());
    }
}

#[test]
fn who_was_away_has_saved_nothing_up() {
    let mut world = World::new(&[1]);
    world.enter(ticket("b", 100));
    world.enter_many(80, &ticket("a", 100));
    world.serve(60);
    world.enter_many(20, &ticket("b", 100));
    let order = world.serve(20);
    assert_eq!((count(&order, 'a'), count(&order, 'b')), (10, 10), "{order}");
}

#[test]
fn a_cap_saves_nothing_up_either() {
    let mut world = World::new(&[2]);
    let capped =
        |key: &str| Ticket { key: key.into(), caps: Caps { key_slots: 1, ..Caps::default() }, ..ticket("b", 100) };
    // One endless request of the key `slow` keeps all others of that key waiting, while `a` is served.
    world.enter(capped("slow"));
    let _endless = world.start();
    world.enter_many(20, &capped("slow"));
    world.enter_many(60, &ticket("a", 100));
    world.serve(30);
    world.enter_many(20, &Ticket { caps: Caps::default(), ..capped("quick") });
    let order = world.serve(20);
    assert_eq!((count(&order, 'a'), count(&order, 'b')), (10, 10), "{order}");
}

#[test]
fn what_a_request_does_beyond_its_estimate_is_charged_while_it_runs() {
    let mut world = World::new(&[2]);
    world.enter_many(20, &ticket("a", 100));
    let long = world.start();
    assert_eq!(&*long.tenant, "a");
    world.enter_many(20, &ticket("b", 100));
    // Output tokens cost two units: 500 above the 100 of its estimate.
    long.served.record(100, 0, 250);
    let order = world.serve(12);
    assert_eq!(count(&order[..5], 'b'), 5, "{order}");
    assert_eq!((count(&order, 'a'), count(&order, 'b')), (3, 9), "{order}");
}

#[test]
fn what_a_request_did_not_need_is_given_back_at_the_end() {
    let mut world = World::new(&[2]);
    world.enter(ticket("a", 1000));
    let short = world.start();
    world.enter_many(20, &ticket("a", 100));
    world.enter_many(20, &ticket("b", 100));
    assert_eq!(world.serve(3), "bbb");
    short.served.record(1000, 1000, 0);
    world.over(&short);
    // It cost 100, a tenth for each cached token.
    assert_eq!(world.serve(5), "aaaba");
}

#[test]
fn a_tie_goes_to_fewer_slots_in_flight_and_then_to_the_longest_wait() {
    let mut world = World::new(&[4]);
    world.enter(ticket("x", 0));
    world.enter(ticket("x", 0));
    world.enter(ticket("y", 0));
    let order: String = world.start_all().iter().map(|started| &*started.tenant).collect();
    // Both have the tag 0 throughout.
    assert_eq!(order, "xyx");
}

#[test]
fn within_a_tenant_the_earliest_deadline_goes_first_and_then_the_order_of_arrival() {
    let mut world = World::new(&[0]);
    let now = world.now;
    let until = |minutes: u32| Ticket { deadline: now + MINUTE * minutes, ..ticket("a", 100) };
    let ids = [9, 5, 9, 1, 5].map(|minutes| world.enter(until(minutes)));
    let positions = ids.map(|id| world.scheduler.outlook(id, now).unwrap().position);
    assert_eq!(positions, [3, 1, 4, 0, 2]);
    world.scheduler.set_replica(ReplicaId(0), 5, true);
    let started: Vec<_> = world.start_all().iter().map(|started| started.id.0).collect();
    assert_eq!(started, [3, 1, 4, 0, 2]);
}

#[test]
fn first_come_knows_neither_tenants_nor_classes_nor_deadlines() {
    let mut world = World::with(Settings { order: Order::FirstCome, ..fixture::settings() }, &[1]);
    world.enter_many(5, &ticket("a", 1000));
    world.enter(class(ticket("b", 1), 1));
    world.enter(Ticket { deadline: world.now + SECOND, ..ticket("a", 1) });
    let last = world.enter(ticket("b", 1));
    assert_eq!(world.scheduler.outlook(last, world.now).unwrap().position, 7);
    assert_eq!(world.serve(8), "aaaaabab");
}

#[test]
fn caps_on_slots_make_wait_whom_they_are_for_and_nobody_else() {
    let mut world = World::new(&[4]);
    let caps = Caps { tenant_slots: 2, key_slots: 1, ..Caps::default() };
    let keyed = |key: &str| Ticket { key: key.into(), caps, ..ticket("a", 100) };
    for key in ["one", "one", "two", "three"] {
        world.enter(keyed(key));
    }
    world.enter_many(2, &ticket("b", 100));
    let started = world.start_all();
    let keys: Vec<_> = started.iter().map(|started| &*world.tickets[&started.id].key).collect();
    assert_eq!(keys, ["one", "b", "two", "b"]);
    // The second one of key `one` came before that of `three`.
    world.finish(&started[0]);
    assert_eq!(world.start().id, TicketId(1));
    assert!(world.next().is_none());
    world.finish(&started[2]);
    assert_eq!(world.start().id, TicketId(3));
}

#[test]
fn a_cap_on_slots_holds_in_all_classes_together() {
    let mut world = World::new(&[4]);
    let caps = Caps { tenant_slots: 1, ..Caps::default() };
    world.enter(Ticket { caps, ..ticket("a", 100) });
    world.enter(class(Ticket { caps, ..ticket("a", 100) }, 1));
    let started = world.start_all();
    assert_eq!(started.len(), 1);
    world.finish(&started[0]);
    assert_eq!(world.start_all().len(), 1);
}

#[test]
fn what_is_wider_than_a_cap_or_than_every_replica_is_refused() {
    let mut world = World::new(&[4, 2]);
    let wide = |slots, caps| Ticket { slots, caps, ..ticket("a", 100) };
    assert_eq!(world.try_enter(wide(5, Caps::default())).unwrap_err(), Refusal::TooWide { slots: 4 });
    let capped = Caps { tenant_slots: 3, key_slots: 2, ..Caps::default() };
    assert_eq!(world.try_enter(wide(3, capped)).unwrap_err(), Refusal::TooWide { slots: 2 });
    let waiting = world.enter(wide(3, Caps::default()));
    world.scheduler.set_replica(ReplicaId(0), 2, true);
    assert_eq!(world.next().unwrap().err(), Some((waiting, Refusal::TooWide { slots: 2 })));
    assert_eq!(world.scheduler.depth(), 0);
}

#[test]
fn slots_gather_for_a_wide_one_on_one_replica_while_others_go_on_elsewhere() {
    let mut world = World::new(&[2, 2]);
    world.enter_many(4, &ticket("a", 100));
    let running = world.start_all();
    let wide = world.enter(Ticket { slots: 2, ..ticket("w", 100) });
    world.enter_many(4, &ticket("b", 100));
    // One slot is free on the first replica: it is kept for the wide one.
    let (here, there): (Vec<_>, Vec<_>) = running.into_iter().partition(|started| started.replica == 0);
    world.finish(&here[0]);
    assert!(world.next().is_none());
    assert_eq!(world.scheduler.outlook(wide, world.now).unwrap().position, 0);
    // Others go on on the second one.
    world.finish(&there[0]);
    assert_eq!((&*world.start().tenant, world.next().is_none()), ("b", true));
    world.finish(&here[1]);
    let started = world.start();
    assert_eq!((started.id, started.replica), (wide, 0));
}

#[test]
fn a_wide_one_starts_wherever_enough_slots_are_free_first() {
    let mut world = World::new(&[2, 2]);
    world.enter_many(4, &ticket("a", 100));
    let running = world.start_all();
    let wide = world.enter(Ticket { slots: 2, ..ticket("w", 100) });
    world.finish(running.iter().find(|started| started.replica == 0).unwrap());
    assert!(world.next().is_none());
    running.iter().filter(|started| started.replica == 1).for_each(|started| world.finish(started));
    let started = world.start();
    assert_eq!((started.id, started.replica), (wide, 1));
    world.enter(ticket("b", 100));
    assert_eq!(world.start().replica, 0, "nothing is kept free any more");
}

#[test]
fn slots_do_not_gather_for_one_that_has_left_or_for_a_replica_that_is_gone() {
    let mut world = World::new(&[2, 1]);
    world.enter_many(3, &ticket("a", 100));
    let running = world.start_all();
    let wide = world.enter(Ticket { slots: 2, ..ticket("w", 100) });
    world.enter(ticket("b", 100));
    let first: Vec<_> = running.iter().filter(|started| started.replica == 0).collect();
    world.finish(first[0]);
    assert!(world.next().is_none());
    world.scheduler.leave(wide, world.now);
    assert_eq!(&*world.start().tenant, "b");

    let wide = world.enter(Ticket { slots: 2, ..ticket("w", 100) });
    world.enter(ticket("b", 100));
    world.finish(first[1]);
    assert!(world.next().is_none());
    world.scheduler.set_replica(ReplicaId(0), 2, false);
    let narrow = running.iter().find(|started| started.replica == 1).unwrap();
    world.finish(narrow);
    assert_eq!(&*world.start().tenant, "b");
    // It has its place still, and waits for the only replica that could hold it.
    assert_eq!(world.scheduler.outlook(wide, world.now), Some(Outlook { position: 0, wait: None }));
    world.scheduler.remove_replica(ReplicaId(0));
    assert_eq!(world.next().unwrap().err(), Some((wide, Refusal::TooWide { slots: 1 })));
}

#[test]
fn one_that_was_not_sent_is_back_in_its_old_place_as_if_nothing_had_been() {
    let mut world = World::new(&[1, 1]);
    world.enter_many(3, &ticket("a", 100));
    world.enter_many(3, &ticket("b", 100));
    let (first, other) = (world.start(), world.start());
    assert_eq!((first.id, &*other.tenant), (TicketId(0), "b"));
    world.scheduler.set_replica(ReplicaId(first.replica), 1, false);
    world.scheduler.unused(first.id, world.now);
    assert!(world.next().is_none());
    assert_eq!(world.scheduler.outlook(first.id, world.now).unwrap().position, 0);
    world.finish(&other);
    let again = world.start();
    assert_eq!(again.id, first.id);
    world.finish(&again);
    assert_eq!(world.serve(4), "abab");
}

#[test]
fn what_is_dead_is_never_started() {
    let mut world = World::new(&[1]);
    world.enter(ticket("a", 100));
    let running = world.start();
    let late = world.enter(Ticket { deadline: world.now + SECOND, ..ticket("a", 100) });
    let left = world.enter(ticket("a", 100));
    let alive = world.enter(ticket("a", 100));
    world.scheduler.leave(left, world.now);
    world.now += SECOND;
    world.finish(&running);
    assert_eq!(world.scheduler.retry_after(late), Duration::from_secs(5));
    let refusal = Refusal::Expired { retry_after: Duration::from_secs(5) };
    assert_eq!(world.next().unwrap().err(), Some((late, refusal)));
    assert_eq!(world.start().id, alive);
    assert_eq!(world.scheduler.depth(), 0);
}

#[test]
fn a_tenant_and_a_key_may_have_so_many_waiting_and_a_free_slot_needs_no_place() {
    let mut world = World::new(&[1]);
    let caps = Caps { tenant_queued: 2, key_queued: 1, ..Caps::default() };
    let keyed = |key: &str| Ticket { key: key.into(), caps, ..ticket("a", 100) };
    let full = Err(Refusal::Full { retry_after: Duration::from_secs(5) });
    world.enter(keyed("one"));
    let running = world.start();
    world.enter(keyed("one"));
    assert_eq!(world.try_enter(keyed("one")), full);
    let two = world.enter(keyed("two"));
    assert_eq!(world.try_enter(keyed("three")), full, "the tenant's bound");
    assert!(world.try_enter(ticket("b", 100)).is_ok(), "nobody else's");
    world.scheduler.leave(two, world.now);
    world.enter(keyed("three"));
    world.finish(&running);
    // With the speed known, the answer says when the first of its own gets a slot.
    world.tell_speed();
    world.enter_many(6, &Ticket { weight: 1000, ..ticket("b", 1000) });
    let Err(Refusal::Full { retry_after }) = world.try_enter(keyed("one")) else { panic!("it is full") };
    assert!(retry_after >= SECOND, "{retry_after:?}");
}

#[test]
fn who_would_wait_too_long_is_refused_at_once_and_told_when_to_come() {
    let mut world = World::new(&[1]);
    world.tell_speed();
    world.enter(ticket("a", 1000));
    let _running = world.start();
    // The running one takes 10 s more, the waiting ones 10 s each.
    world.enter_many(5, &ticket("a", 1000));
    let impatient = Ticket { deadline: world.now + SECOND * 20, ..ticket("a", 100) };
    let (_, outlook) = world.try_enter(impatient.clone()).unwrap();
    assert_eq!(outlook, Outlook { position: 0, wait: Some(SECOND * 10) }, "the earliest deadline goes first");
    let last = Ticket { deadline: world.now + SECOND * 599, ..ticket("a", 100) };
    assert!(world.try_enter(last.clone()).is_ok());
    let Err(refusal) = world.try_enter(Ticket { deadline: world.now + SECOND * 5, ..last }) else { panic!("too long") };
    assert_eq!(refusal, Refusal::TooLong { wait: SECOND * 10, retry_after: SECOND * 5 });
    assert_eq!(world.scheduler.depth(), 7);
    // What will be tomorrow is not known today.
    world.enter(Ticket { deadline: world.now + SECOND * 700, ..ticket("a", 100_000_000) });
    let endless = world.try_enter(Ticket { deadline: world.now + SECOND * 701, ..ticket("a", 100) });
    let Err(Refusal::TooLong { retry_after, .. }) = endless else { panic!("too long") };
    assert_eq!(retry_after, SECOND * 3600);
}

#[test]
fn nobody_is_refused_for_a_prediction_while_a_slot_is_free_or_nothing_is_known() {
    let mut world = World::new(&[2]);
    let hasty = || Ticket { deadline: Instant::now(), ..ticket("a", 1000) };
    world.enter(ticket("b", 1000));
    world.enter(ticket("b", 1000));
    let running = world.start_all();
    assert!(world.try_enter(hasty()).is_ok(), "nothing is known");
    world.tell_speed();
    assert!(matches!(world.try_enter(hasty()), Err(Refusal::TooLong { .. })));
    world.finish(&running[0]);
    let caps = Caps { tenant_slots: 1, ..Caps::default() };
    assert!(world.try_enter(Ticket { caps, ..ticket("c", 9) }).is_ok());
}

#[test]
fn the_outlook_counts_what_goes_before_by_tags_and_classes() {
    let mut world = World::new(&[1]);
    world.tell_speed();
    world.enter(ticket("a", 100));
    let running = world.start();
    world.enter_many(10, &ticket("a", 100));
    let last = world.enter(ticket("a", 100));
    assert_eq!(world.scheduler.outlook(last, world.now), Some(Outlook { position: 10, wait: Some(SECOND * 11) }));
    // Another tenant of the same weight that has 5 waiting and comes to 0: it goes level with the tenth of these first.
    world.enter_many(5, &ticket("b", 100));
    assert_eq!(world.scheduler.outlook(last, world.now).unwrap().position, 15);
    let (_, first_of_class) = world.try_enter(class(ticket("i", 100), 1)).unwrap();
    assert!(first_of_class.position <= 1, "{first_of_class:?}");
    world.finish(&running);
    assert_eq!(world.serve(3), "iba");
}

/// Seconds that a newcomer would wait, by class, and that the backlog takes.
fn forecast(world: &mut World) -> ([Option<f64>; 3], f64, Option<f64>) {
    let Forecast { waits, backlog, drain } = world.scheduler.forecast(world.now);
    let waits: Vec<_> = waits.iter().map(|(_, wait)| wait.map(|wait| wait.as_secs_f64())).collect();
    (waits.try_into().unwrap(), backlog, drain.map(|drain| drain.as_secs_f64()))
}

#[test]
fn the_forecast_for_who_comes_now_knows_free_slots_classes_and_the_rest_of_what_runs() {
    let mut world = World::new(&[]);
    assert_eq!(forecast(&mut world), ([None; 3], 0.0, Some(0.0)), "no replica");
    world.scheduler.set_replica(ReplicaId(0), 1, true);
    assert_eq!(forecast(&mut world), ([Some(0.0); 3], 0.0, Some(0.0)), "a slot is free");
    world.enter(ticket("a", 100));
    let running = world.start();
    assert_eq!(forecast(&mut world), ([None; 3], 0.0, Some(0.0)), "the speed is not known");
    world.tell_speed();
    assert_eq!(forecast(&mut world), ([Some(1.0); 3], 0.0, Some(0.0)), "what runs takes one more second");

    // Nine seconds of one class: its tag is a request ahead, so a newcomer of it goes first.
    world.enter_many(9, &ticket("a", 100));
    let (waits, backlog, drain) = forecast(&mut world);
    assert_eq!((waits[2], backlog, drain), (Some(1.0), 900.0, Some(9.0)));
    // And what a newcomer is told is what it is told when it comes.
    for (class_id, wait) in waits.into_iter().enumerate() {
        let (id, outlook) = world.try_enter(class(ticket("new", 100), class_id)).unwrap();
        assert_eq!(wait, outlook.wait.map(|wait| wait.as_secs_f64()));
        world.scheduler.leave(id, world.now);
    }
    world.finish(&running);
    let again = world.start();
    assert_eq!(forecast(&mut world).1, 800.0);
    world.over(&again);
    world.serve(8);
    assert_eq!(forecast(&mut world), ([Some(0.0); 3], 0.0, Some(0.0)));
}

#[test]
fn in_a_line_the_forecast_for_everybody_is_all_that_waits() {
    let settings = Settings { order: Order::FirstCome, ..fixture::settings() };
    let mut world = World::with(settings, &[2]);
    world.tell_speed();
    world.enter_many(2, &ticket("a", 100));
    world.start_all();
    world.enter_many(4, &ticket("a", 100));
    world.enter_many(2, &class(ticket("b", 300), 0));
    // 1,000 units at two slots of 100 a second, after the second that the shorter one of the running ones takes.
    assert_eq!(forecast(&mut world), ([Some(6.0); 3], 1000.0, Some(5.0)));
}

#[test]
fn a_warm_prompt_goes_first_within_the_slack_but_not_for_ever() {
    let settings = Settings { locality_slack: 1000, locality_passes: 3, ..fixture::settings() };
    let mut world = World::with(settings, &[1]);
    let about = |tenant: &str, name| Ticket { prefix: prompt(name, 4), ..ticket(tenant, 200) };
    world.enter(about("w", 1));
    let first = world.start();
    world.enter_many(9, &about("w", 1));
    for name in 0..9 {
        world.enter(about("c", 100 + name));
    }
    world.finish(&first);
    // `c` is behind, and cold. It is passed over three times, then it is its turn.
    assert_eq!(world.serve(8), "wwwcwwwc");

    let tight = Settings { locality_slack: 100, locality_passes: 30, ..fixture::settings() };
    let mut world = World::with(tight, &[1]);
    world.enter(about("w", 1));
    let first = world.start();
    world.enter_many(9, &about("w", 1));
    for name in 0..9 {
        world.enter(about("c", 100 + name));
    }
    world.finish(&first);
    assert_eq!(world.serve(4), "cwcw", "its tag is too far ahead");
}

#[test]
fn within_a_tenant_a_warm_prompt_goes_first_too() {
    let settings = Settings { locality_slack: 1, locality_passes: 1, ..fixture::settings() };
    let mut world = World::with(settings, &[1]);
    let about = |name| Ticket { prefix: prompt(name, 4), ..ticket("a", 200) };
    world.enter(about(1));
    let first = world.start();
    let ids = [2, 1, 3, 1].map(|name| world.enter(about(name)));
    world.finish(&first);
    let order: Vec<_> = (0..4)
        .map(|_| {
            let started = world.start();
            world.finish(&started);
            ids.iter().position(|&id| id == started.id).unwrap()
        })
        .collect();
    assert_eq!(order, [1, 0, 3, 2]);
}

#[test]
fn among_equally_free_replicas_the_one_that_knows_the_prompt_is_chosen_and_it_costs_less() {
    let mut world = World::new(&[1, 1]);
    let about = |tenant: &str, name| Ticket { prefix: prompt(name, 4), ..ticket(tenant, 1000) };
    world.enter(about("a", 1));
    world.enter(about("a", 2));
    let started = world.start_all();
    started.iter().for_each(|started| world.finish(started));
    world.enter(about("a", 2));
    let warm = world.start();
    assert_eq!((warm.replica, warm.may_use_cache), (started[1].replica, true));
    // 100 units for it, so `a` is served many times before `b`, which has one of 1,000 running.
    world.enter(ticket("b", 1000));
    let _other = world.start();
    world.enter_many(5, &ticket("a", 100));
    world.enter_many(5, &ticket("b", 100));
    warm.served.record(1000, 1000, 0);
    world.over(&warm);
    assert_eq!(world.serve(5), "aaaaa");
}

#[test]
fn a_private_prompt_uses_no_cache_and_nobody_uses_that_of_its_replica_until_it_is_restarted() {
    let mut world = World::new(&[2, 2]);
    let about = |tenant: &str, private| Ticket { private, prefix: prompt(1, 4), ..ticket(tenant, 100) };
    let start = |world: &mut World, tenant: &str, private| {
        world.enter(about(tenant, private));
        let started = world.start();
        world.finish(&started);
        (started.replica, started.may_use_cache)
    };
    assert_eq!(start(&mut world, "a", false), (0, true));
    assert_eq!(start(&mut world, "p", true), (0, false));
    assert_eq!(start(&mut world, "p", true), (0, false), "where the cache is lost already");
    assert_eq!(start(&mut world, "a", false), (1, true), "where it is not");
    world.scheduler.set_replica(ReplicaId(1), 2, false);
    assert_eq!(start(&mut world, "a", false), (0, false));
    world.scheduler.set_replica(ReplicaId(0), 2, false);
    world.scheduler.set_replica(ReplicaId(0), 2, true);
    assert_eq!(start(&mut world, "a", false), (0, false), "it may just have been out of reach");
    world.scheduler.replica_restarted(ReplicaId(0));
    assert_eq!(start(&mut world, "a", false), (0, true));
}

#[test]
fn who_has_nothing_left_is_forgotten_but_not_how_long_its_answers_are() {
    let mut world = World::new(&[1]);
    for tenant in 0..100 {
        world.enter(Ticket { work: Work { prompt: 10, output: 50 }, ..ticket(&tenant.to_string(), 0) });
        world.enter(ticket("busy", 10));
    }
    world.serve(190);
    assert!(world.scheduler.flows.all().count() <= 12, "{}", world.scheduler.flows.all().count());
    world.serve(10);
    assert_eq!(world.scheduler.flows.all().count(), 0);
    assert_eq!(world.scheduler.expected_output(&"7".into(), "chat"), 50);
    assert_eq!(world.scheduler.expected_output(&"unknown".into(), "chat"), 256);
}

#[test]
fn the_statistics_tell_depth_service_and_idle_time() {
    let mut world = World::new(&[1]);
    world.enter_many(3, &ticket("a", 100));
    world.enter(class(ticket("b", 100), 1));
    let order = world.serve(2);
    assert_eq!(order, "ab");
    let running = world.start();
    running.served.record(30, 0, 0);
    world.now += MINUTE;
    let stats = world.scheduler.stats(world.now);
    assert_eq!(stats.depth.iter().map(|(_, depth)| *depth).collect::<Vec<_>>(), [1]);
    let service: Vec<_> = stats.service.iter().map(|(tenant, service)| (&**tenant, *service)).collect();
    assert_eq!(service, [("a", 130.0), ("b", 100.0)]);
    assert_eq!(stats.idle_with_backlog, Duration::ZERO);
    // A driver that forgets to ask for the next decision is found out.
    world.finish(&running);
    world.now += SECOND * 3;
    assert_eq!(world.scheduler.stats(world.now).idle_with_backlog, SECOND * 3);
    assert_eq!(world.serve(1), "a");
    world.now += MINUTE;
    assert_eq!(world.scheduler.stats(world.now).idle_with_backlog, SECOND * 3);
}

#[test]
fn jains_index_is_one_for_a_fair_order_and_low_where_a_flood_takes_all() {
    let jain = |order| {
        let mut world = World::with(Settings { order, ..fixture::settings() }, &[1]);
        for _ in 0..40 {
            world.enter_many(40, &ticket("a", 100));
            world.enter(ticket("b", 100));
            world.enter(Ticket { weight: 2, ..ticket("c", 100) });
            world.enter(Ticket { weight: 2, ..ticket("c", 100) });
        }
        for _ in 0..118 {
            world.now += SECOND;
            world.serve(1);
        }
        world.scheduler.stats(world.now).jain()
    };
    assert!(jain(Order::Fair) > 0.98, "{}", jain(Order::Fair));
    assert!(jain(Order::FirstCome) < 0.6, "{}", jain(Order::FirstCome));
}

#[test]
fn the_speed_is_learned_and_priced() {
    let mut world = World::new(&[1]);
    let work = Work { prompt: 100, output: 50 };
    assert_eq!(world.scheduler.expected_service(work), (Duration::ZERO, Duration::ZERO));
    world.scheduler.learn(Speed { prompt_tokens: 100, prompt_ms: 500.0, output_tokens: 100, output_ms: 2000.0 });
    assert_eq!(world.scheduler.expected_service(work), (SECOND / 2, SECOND * 3 / 2));
    let stats = world.scheduler.stats(world.now);
    assert_eq!((stats.output_cost, stats.rate), (4.0, 200.0));
    // 20 s with the slot busy: 50 units a second is all that gets done.
    world.enter_many(4, &ticket("a", 500));
    for _ in 0..2 {
        let started = world.start();
        world.now += SECOND * 10;
        world.finish(&started);
    }
    assert_eq!(world.scheduler.stats(world.now).rate, 50.0);
}
