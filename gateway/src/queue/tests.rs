//! The queue as its users see it: futures, wake-ups, drops, many threads, metrics.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake};

use proptest::prelude::*;

use super::fixture::{settings, ticket};
use super::*;
use crate::config::Order;
use crate::ledger::{Count, CountedBy};

fn queue_of(settings: Settings, replicas: &[u32]) -> Queue {
    let queue = Queue::new(settings, Arc::new(Metrics::new().unwrap()));
    for (id, &total) in replicas.iter().enumerate() {
        queue.set_replica(ReplicaId(id), total, true);
    }
    queue
}

fn queue(replicas: &[u32]) -> Queue {
    queue_of(settings(), replicas)
}

/// A tenant of which so many may wait.
fn bounded(tenant_queued: u32) -> Ticket {
    Ticket { caps: Caps { tenant_queued, ..Caps::default() }, ..ticket("t", 1) }
}

/// Says whether its task was woken.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn poll_with(waiting: &mut Waiting, flag: &Arc<Flag>) -> Poll<Result<Slot, Refusal>> {
    Pin::new(waiting).poll(&mut Context::from_waker(&Waker::from(Arc::clone(flag))))
}

fn poll(waiting: &mut Waiting) -> Option<Result<Slot, Refusal>> {
    match poll_with(waiting, &Arc::default()) {
        Poll::Ready(outcome) => Some(outcome),
        Poll::Pending => None,
    }
}

fn granted(waiting: &mut Waiting) -> Slot {
    poll(waiting).unwrap().unwrap()
}

/// Units of cost that a tenant has been given.
fn served(queue: &Queue, tenant: &str) -> f64 {
    queue.observe();
    queue.0.metrics.service_total.with_label_values(&[tenant]).get()
}

fn in_flight(queue: &Queue) -> u32 {
    queue.load().iter().map(|load| load.in_flight).sum()
}

#[test]
fn the_slots_of_one_tenant_are_given_in_the_order_of_arrival_and_come_back() {
    let queue = queue(&[1]);
    let mut waiting: Vec<_> = (0..3).map(|_| queue.enter(ticket("t", 1)).unwrap()).collect();
    assert_eq!(queue.depth(), 2);
    assert_eq!(waiting.iter().map(|one| one.outlook().position).collect::<Vec<_>>(), [0, 0, 1]);
    assert_eq!(waiting.iter().map(|one| one.entry().position).collect::<Vec<_>>(), [0, 0, 1]);
    for i in 0..3 {
        let slot = granted(&mut waiting[i]);
        assert!(waiting[i + 1..].iter_mut().all(|later| poll(later).is_none()));
        drop(slot);
    }
    assert_eq!((queue.depth(), in_flight(&queue)), (0, 0));
}

#[test]
fn a_full_queue_refuses_but_a_free_slot_needs_no_place_in_it() {
    let queue = queue(&[1]);
    let _running = queue.enter(bounded(1)).unwrap();
    let waiting = queue.enter(bounded(1)).unwrap();
    assert!(matches!(queue.enter(bounded(1)), Err(Refusal::Full { .. })));
    assert_eq!(queue.depth(), 1);
    drop(waiting);
    let _waiting = queue.enter(bounded(1)).unwrap();
}

#[test]
fn who_needs_several_slots_is_not_overtaken_while_they_gather() {
    let queue = queue(&[2]);
    let mut singles: Vec<_> = (0..2).map(|_| queue.enter(ticket("t", 1)).unwrap()).collect();
    let mut slots: Vec<_> = singles.iter_mut().map(granted).collect();
    let mut wide = queue.enter(ticket("t", 2)).unwrap();
    let mut late = queue.enter(ticket("other", 1)).unwrap();
    slots.pop();
    // The other tenant has nothing in flight, so it is its turn first; then the slots gather.
    let late = granted(&mut late);
    let mut later = queue.enter(ticket("t", 1)).unwrap();
    drop(late);
    assert!(poll(&mut wide).is_none() && poll(&mut later).is_none());
    slots.pop();
    let wide = granted(&mut wide);
    assert!(poll(&mut later).is_none());
    drop(wide);
    assert_eq!(granted(&mut later).replica(), ReplicaId(0));
}

#[test]
fn the_replica_with_the_most_free_slots_is_chosen() {
    let queue = queue(&[1, 3]);
    let next = || {
        let mut waiting = queue.enter(ticket("t", 1)).unwrap();
        granted(&mut waiting)
    };
    let slots = [next(), next(), next(), next()];
    assert_eq!(slots.each_ref().map(|slot| slot.replica().0), [1, 1, 0, 1]);
}

#[test]
fn what_no_replica_can_hold_is_refused_but_not_before_one_is_known() {
    let queue = queue(&[]);
    let mut early = queue.enter(ticket("t", 3)).unwrap();
    queue.set_replica(ReplicaId(0), 0, false);
    assert!(poll(&mut early).is_none(), "a replica that was never up says nothing about its slots");
    queue.set_replica(ReplicaId(0), 2, true);
    assert_eq!(poll(&mut early).unwrap().unwrap_err(), Refusal::TooWide { slots: 2 });
    assert_eq!(queue.enter(ticket("t", 3)).unwrap_err(), Refusal::TooWide { slots: 2 });
}

#[test]
fn who_waits_for_a_larger_replica_that_is_down_holds_nobody_up() {
    let queue = queue(&[4, 1]);
    queue.set_replica(ReplicaId(0), 4, false);
    let mut wide = queue.enter(ticket("t", 3)).unwrap();
    let mut single = queue.enter(ticket("t", 1)).unwrap();
    assert_eq!(granted(&mut single).replica(), ReplicaId(1));
    assert!(poll(&mut wide).is_none());
    queue.set_replica(ReplicaId(0), 4, true);
    assert_eq!(granted(&mut wide).replica(), ReplicaId(0));
}

#[test]
fn a_replica_that_came_back_with_fewer_slots_starts_nothing_until_enough_are_free() {
    let queue = queue(&[3]);
    let mut running: Vec<_> = (0..3).map(|_| queue.enter(ticket("t", 1)).unwrap()).collect();
    let mut slots: Vec<_> = running.iter_mut().map(granted).collect();
    let mut waiting = queue.enter(ticket("t", 1)).unwrap();
    queue.set_replica(ReplicaId(0), 2, true);
    slots.pop();
    assert!(poll(&mut waiting).is_none());
    slots.pop();
    assert!(poll(&mut waiting).is_some());
}

#[test]
fn a_replica_that_is_removed_starts_nothing_and_is_gone_once_nothing_runs_on_it() {
    let queue = queue(&[1, 1]);
    let mut running: Vec<_> = (0..2).map(|_| queue.enter(ticket("t", 1)).unwrap()).collect();
    let mut slots: Vec<_> = running.iter_mut().map(granted).collect();
    let mut waiting = queue.enter(ticket("t", 1)).unwrap();
    queue.remove_replica(ReplicaId(1));
    drop(slots.pop());
    assert_eq!(queue.load().len(), 1);
    assert!(poll(&mut waiting).is_none());
    drop(slots.pop());
    assert_eq!(granted(&mut waiting).replica(), ReplicaId(0));
}

#[test]
fn a_client_that_leaves_the_queue_costs_nothing() {
    let queue = queue(&[1]);
    let mut running = queue.enter(ticket("t", 1)).unwrap();
    let slot = granted(&mut running);
    let left = queue.enter(ticket("t", 1)).unwrap();
    let mut next = queue.enter(ticket("t", 1)).unwrap();
    let view = left.view();
    assert_eq!(view.outlook().map(|outlook| outlook.position), Some(0));
    drop(left);
    assert_eq!((queue.depth(), next.outlook().position, view.outlook()), (1, 0, None));
    drop(slot);
    assert!(poll(&mut next).is_some());
}

#[test]
fn a_slot_given_to_a_client_that_leaves_goes_to_the_next_one() {
    let queue = queue(&[1]);
    let given = queue.enter(ticket("t", 1)).unwrap();
    let mut next = queue.enter(ticket("t", 1)).unwrap();
    let flag = Arc::<Flag>::default();
    assert!(poll_with(&mut next, &flag).is_pending());
    drop(given);
    assert!(flag.0.load(Ordering::Relaxed));
    assert!(poll(&mut next).is_some());
}

#[test]
fn a_slot_that_was_not_used_is_asked_for_again_from_the_same_place() {
    let queue = queue(&[1, 1]);
    let mut waiting: Vec<_> = (0..4).map(|_| queue.enter(ticket("t", 1)).unwrap()).collect();
    let first = granted(&mut waiting[0]);
    let second = granted(&mut waiting[1]);
    queue.set_replica(first.replica(), 1, false);
    let mut again = first.unused();
    assert_eq!((queue.depth(), again.outlook().position), (3, 0));
    drop(second);
    assert_eq!(granted(&mut again).replica(), ReplicaId(1));
}

#[tokio::test(start_paused = true)]
async fn what_llama_server_never_told_of_is_charged_by_the_time_it_took() {
    let queue = queue(&[1]);
    let prompt = |prompt| Ticket { work: Work { prompt, output: 0 }, ..ticket("t", 1) };
    let slot = queue.enter(prompt(100)).unwrap().await.unwrap();
    slot.record(&Count { prompt: 100, cached: 0, completion: 0, by: CountedBy::Timings, ..Count::default() });
    slot.learn(Speed { prompt_tokens: 100, prompt_ms: 1000.0, output_tokens: 0, output_ms: 0.0 });
    drop(slot);
    assert_eq!(served(&queue, "t"), 100.0);
    let slot = queue.enter(prompt(1000)).unwrap().await.unwrap();
    tokio::time::advance(Duration::from_secs(4)).await;
    drop(slot);
    assert_eq!(served(&queue, "t"), 500.0);
    // Where there is no stream, there may be output of which nothing is known before the end.
    let unseen = |untold_output| Ticket { untold_output, ..prompt(100) };
    for (ticket, units) in [(prompt(100), 100.0), (unseen(1000), 400.0), (unseen(100), 300.0)] {
        let before = served(&queue, "t");
        let slot = queue.enter(ticket).unwrap().await.unwrap();
        tokio::time::advance(Duration::from_secs(4)).await;
        drop(slot);
        assert_eq!(served(&queue, "t") - before, units);
    }
    // Who has output, has had the prompt.
    let before = served(&queue, "t");
    let slot = queue.enter(prompt(1000)).unwrap().await.unwrap();
    slot.record(&Count { prompt: 0, cached: 0, completion: 50, by: CountedBy::Events, ..Count::default() });
    drop(slot);
    assert_eq!(served(&queue, "t") - before, 1100.0);
}

#[tokio::test(start_paused = true)]
async fn what_llama_server_never_told_of_is_not_free_before_its_speed_is_known() {
    let queue = queue(&[1]);
    let slot = queue.enter(ticket("t", 1)).unwrap().await.unwrap();
    tokio::time::advance(Duration::from_millis(40)).await;
    drop(slot);
    assert_eq!(served(&queue, "t"), 40.0);
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_nobody_comes_for_is_paid_for() {
    let queue = queue(&[1]);
    let given = queue.enter(ticket("t", 1)).unwrap();
    let _other = queue.enter(ticket("t", 1)).unwrap();
    let mut next = queue.enter(ticket("u", 1)).unwrap();
    tokio::time::advance(Duration::from_secs(30)).await;
    drop(given);
    assert_eq!(served(&queue, "t"), 30_000.0);
    assert!(poll(&mut next).is_some());
}

#[tokio::test(start_paused = true)]
async fn slots_that_come_were_not_idle_before() {
    let queue = queue(&[]);
    let waiting = queue.enter(ticket("t", 1)).unwrap();
    tokio::time::advance(Duration::from_secs(4)).await;
    queue.set_replica(ReplicaId(0), 1, true);
    drop(waiting.await.unwrap());
    queue.observe();
    assert_eq!(queue.0.metrics.slots_idle_with_backlog_seconds_total.get(), 0.0);
}

#[test]
fn the_metrics_show_the_slots_of_each_tenant_and_what_is_ahead() {
    let queue = queue(&[3]);
    let busy = |tenant: &str| queue.0.metrics.tenant_slots_busy.with_label_values(&[tenant]).get();
    let mut slots = [1, 2].map(|slots| granted(&mut queue.enter(ticket("t", slots)).unwrap())).into_iter();
    let waiting = queue.enter(ticket("u", 1)).unwrap();
    queue.observe();
    let text = queue.0.metrics.scrape(|_| queue.observe()).unwrap();
    assert!(!text.contains("tenant_slots_busy{tenant=\"u\"}"), "it has not held any: {text}");
    assert!(!text.contains("expected_wait_seconds{"), "the speed is not known: {text}");
    assert_eq!((busy("t"), queue.0.metrics.queue_backlog.get()), (3, 300.0));
    slots.next().unwrap().learn(Speed { prompt_tokens: 100, prompt_ms: 1000.0, output_tokens: 0, output_ms: 0.0 });
    let text = queue.0.metrics.scrape(|_| queue.observe()).unwrap();
    for class in ["batch", "interactive", "standard"] {
        assert!(text.contains(&format!("queue_expected_wait_seconds{{class=\"{class}\"}} 1.5\n")), "{text}");
    }
    assert_eq!((busy("t"), busy("u"), queue.0.metrics.queue_backlog.get()), (2, 1, 0.0));
    drop((waiting, slots));
    queue.observe();
    assert_eq!((busy("t"), busy("u")), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn every_ticket_has_one_outcome() {
    let queue = queue(&[1]);
    let outcomes = |tenant: &str| {
        ["dispatched", "full", "too_long", "too_wide", "expired", "left"]
            .map(|outcome| queue.0.metrics.queue_tickets_total.with_label_values(&[tenant, "standard", outcome]).get())
    };
    let soon = || Ticket { deadline: Instant::now() + Duration::from_secs(1), ..ticket("t", 1) };
    let slot = queue.enter(bounded(3)).unwrap().await.unwrap();
    let left = queue.enter(bounded(3)).unwrap();
    let (mut expired, late) = (queue.enter(soon()).unwrap(), queue.enter(soon()).unwrap());
    queue.enter(bounded(3)).unwrap_err();
    queue.enter(ticket("t", 2)).unwrap_err();
    slot.learn(Speed { prompt_tokens: 100, prompt_ms: 1e6, output_tokens: 0, output_ms: 0.0 });
    queue.enter(soon()).unwrap_err();
    drop(left);
    queue.observe();
    assert_eq!(queue.0.metrics.queue_depth.with_label_values(&["t", "standard"]).get(), 2);

    tokio::time::advance(Duration::from_secs(2)).await;
    drop(late);
    drop(slot.unused());
    assert!(matches!(poll(&mut expired), Some(Err(Refusal::Expired { .. }))));
    drop(queue.enter(bounded(3)).unwrap());
    assert_eq!(outcomes("t"), [1, 1, 1, 1, 2, 2]);
    queue.observe();
    let metrics = &queue.0.metrics;
    assert_eq!(metrics.queue_depth.with_label_values(&["t", "standard"]).get(), 0);
    assert_eq!(metrics.queue_wait_seconds.with_label_values(&["t", "standard"]).get_sample_count(), 5);
    assert_eq!(metrics.slots_idle_with_backlog_seconds_total.get(), 0.0);
    assert_eq!(in_flight(&queue), 0);
}

#[tokio::test(start_paused = true)]
async fn predictions_are_compared_with_what_came_of_them() {
    let queue = queue(&[1]);
    let slot = queue.enter(ticket("t", 1)).unwrap().await.unwrap();
    // 100 prompt tokens and 100 output tokens at 2 units: 3 s.
    slot.learn(Speed { prompt_tokens: 100, prompt_ms: 1000.0, output_tokens: 0, output_ms: 0.0 });
    let waiting = queue.enter(ticket("t", 1)).unwrap();
    assert_eq!(waiting.entry().wait, Some(Duration::from_secs(3)));
    tokio::time::advance(Duration::from_secs(6)).await;
    drop(slot);
    drop(waiting.await.unwrap());
    let ratio = &queue.0.metrics.queue_wait_ratio;
    assert_eq!((ratio.get_sample_count(), ratio.get_sample_sum()), (1, 2.0));
}

/// What may happen to a queue; indices wrap around what is there.
#[derive(Clone, Debug)]
enum Event {
    Arrive { tenant: usize, slots: u32, capped: bool, private: bool },
    Poll(usize),
    Leave(usize),
    Release(usize),
    Unused(usize),
    Replica(usize, u32, bool),
    Remove(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let arrive = (0..3_usize, 1..4_u32, any::<bool>(), any::<bool>());
    prop_oneof![
        4 => arrive.prop_map(|(tenant, slots, capped, private)| Event::Arrive { tenant, slots, capped, private }),
        4 => any::<usize>().prop_map(Event::Poll),
        2 => any::<usize>().prop_map(Event::Leave),
        3 => any::<usize>().prop_map(Event::Release),
        1 => any::<usize>().prop_map(Event::Unused),
        1 => (0..3_usize, 0..5_u32, any::<bool>()).prop_map(|(id, total, ready)| Event::Replica(id, total, ready)),
        1 => (0..3_usize).prop_map(Event::Remove),
    ]
}

struct Client {
    waiting: Waiting,
    slots: u32,
    woken: Arc<Flag>,
    polled: bool,
}

/// The clients of a queue, and what must hold after everything that they do.
struct World {
    queue: Queue,
    clients: Vec<Client>,
    slots: Vec<(Slot, u32)>,
}

const MAX_WAITING: u32 = 4;

impl World {
    fn step(&mut self, event: &Event) {
        match *event {
            Event::Arrive { tenant, slots, capped, private } => self.arrive(tenant, slots, capped, private),
            Event::Poll(i) if !self.clients.is_empty() => self.poll(i % self.clients.len()),
            Event::Leave(i) if !self.clients.is_empty() => drop(self.clients.remove(i % self.clients.len())),
            Event::Release(i) if !self.slots.is_empty() => drop(self.slots.remove(i % self.slots.len())),
            Event::Unused(i) if !self.slots.is_empty() => {
                let (slot, slots) = self.slots.remove(i % self.slots.len());
                self.clients.push(Client { waiting: slot.unused(), slots, woken: Arc::default(), polled: false });
            }
            Event::Replica(id, total, ready) => self.queue.set_replica(ReplicaId(id), total, ready),
            Event::Remove(id) => self.queue.remove_replica(ReplicaId(id)),
            _ => {}
        }
        self.check();
    }

    fn arrive(&mut self, tenant: usize, slots: u32, capped: bool, private: bool) {
        let caps = Caps {
            tenant_queued: MAX_WAITING,
            key_queued: MAX_WAITING - 1,
            tenant_slots: if capped { 4 } else { 0 },
            key_slots: if capped { 3 } else { 0 },
        };
        let key = format!("{tenant}{slots}").into();
        let ticket = Ticket { key, caps, private, ..ticket(["a", "b", "c"][tenant], slots) };
        match self.queue.enter(ticket) {
            Ok(waiting) => self.clients.push(Client { waiting, slots, woken: Arc::default(), polled: false }),
            Err(Refusal::Full { .. }) => assert!(self.queue.depth() >= MAX_WAITING as usize - 1),
            Err(Refusal::TooWide { slots: widest }) => {
                assert!(slots > widest && self.queue.load().iter().all(|load| load.total <= widest));
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn poll(&mut self, i: usize) {
        let client = &mut self.clients[i];
        match poll_with(&mut client.waiting, &client.woken) {
            Poll::Pending => client.polled = true,
            Poll::Ready(outcome) => {
                assert!(!client.polled || client.woken.0.load(Ordering::Relaxed), "a wake-up was lost");
                let slots = client.slots;
                self.slots.extend(outcome.map(|slot| (slot, slots)));
                self.clients.remove(i);
            }
        }
    }

    fn check(&self) {
        let mut state = self.queue.0.lock();
        assert!(state.scheduler.next(Instant::now()).is_none(), "somebody could have been started");
        state.scheduler.check();
        for load in state.scheduler.load() {
            let held: u32 = self.slots.iter().filter(|(slot, _)| slot.replica == load.replica).map(|(_, n)| n).sum();
            let given = self.clients.iter().filter(|client| {
                let decided = state.decided.get(&client.waiting.id).map(|decided| &decided.outcome);
                matches!(decided, Some(Ok(grant)) if grant.replica == load.replica)
            });
            let given: u32 = given.map(|client| client.slots).sum();
            assert_eq!(load.in_flight, held + given, "a slot was lost or given twice");
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_capacity_caps_and_progress_hold(
        events in prop::collection::vec(event(), 1..120),
        first_come in any::<bool>(),
    ) {
        let order = if first_come { Order::FirstCome } else { Order::Fair };
        let queue = queue_of(Settings { order, ..settings() }, &[2, 3]);
        let mut world = World { queue: queue.clone(), clients: Vec::new(), slots: Vec::new() };
        for event in &events {
            world.step(event);
        }
        drop(world);
        prop_assert_eq!((queue.depth(), in_flight(&queue)), (0, 0));
        let state = queue.0.lock();
        prop_assert!(state.decided.is_empty() && state.wakers.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_is_forgotten_when_many_tasks_come_run_and_leave_at_once() {
    let queue = queue(&[2, 1]);
    let tasks = tokio_util::task::TaskTracker::new();
    for i in 0..2_000_u32 {
        let queue = queue.clone();
        tasks.spawn(async move {
            let waiting = queue.enter(ticket(["a", "b", "c"][i as usize % 3], 1 + i % 2)).unwrap();
            if i % 3 == 0 {
                // Leaves at some point: before it is polled, while it waits, or as it is given a slot.
                tokio::select! {
                    biased;
                    () = yields(i % 7) => {}
                    slot = waiting => drop(slot),
                }
            } else {
                let slot = waiting.await.unwrap();
                assert!(queue.load()[slot.replica().0].in_flight <= 2);
                yields(i % 5).await;
            }
        });
    }
    tasks.close();
    tasks.wait().await;
    assert_eq!((queue.depth(), in_flight(&queue)), (0, 0));
}

async fn yields(times: u32) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}
