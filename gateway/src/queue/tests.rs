use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use proptest::prelude::*;

use super::*;

fn ticket(slots: u32) -> Ticket {
    Ticket { slots, tenant: "t".into() }
}

fn queue(max_waiting: usize, replicas: &[u32]) -> Queue {
    let queue = Queue::new(max_waiting);
    for (id, &total) in replicas.iter().enumerate() {
        queue.set_replica(ReplicaId(id), total, true);
    }
    queue
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

fn in_flight(queue: &Queue) -> u32 {
    queue.load().iter().map(|load| load.in_flight).sum()
}

#[test]
fn slots_are_given_in_the_order_of_arrival_and_come_back() {
    let queue = queue(8, &[1]);
    let mut waiting: Vec<_> = (0..3).map(|_| queue.enter(ticket(1)).unwrap()).collect();
    assert_eq!(queue.depth(), 2);
    assert_eq!(waiting.iter().map(Waiting::position).collect::<Vec<_>>(), [0, 0, 1]);
    for i in 0..3 {
        let slot = granted(&mut waiting[i]);
        assert!(waiting[i + 1..].iter_mut().all(|later| poll(later).is_none()));
        drop(slot);
    }
    assert_eq!((queue.depth(), in_flight(&queue)), (0, 0));
}

#[test]
fn a_full_queue_refuses_but_a_free_slot_needs_no_place_in_it() {
    let queue = queue(1, &[1]);
    let _running = queue.enter(ticket(1)).unwrap();
    let waiting = queue.enter(ticket(1)).unwrap();
    assert_eq!(queue.enter(ticket(1)).unwrap_err(), Refusal::Full);
    assert_eq!(queue.depth(), 1);
    drop(waiting);
    let _waiting = queue.enter(ticket(1)).unwrap();

    let unbuffered = self::queue(0, &[1]);
    let _running = unbuffered.enter(ticket(1)).unwrap();
    assert_eq!(unbuffered.enter(ticket(1)).unwrap_err(), Refusal::Full);
}

#[test]
fn who_needs_several_slots_is_not_overtaken_while_they_gather() {
    let queue = queue(8, &[2]);
    let mut singles: Vec<_> = (0..2).map(|_| queue.enter(ticket(1)).unwrap()).collect();
    let mut slots: Vec<_> = singles.iter_mut().map(granted).collect();
    let mut wide = queue.enter(ticket(2)).unwrap();
    let mut late = queue.enter(ticket(1)).unwrap();
    slots.pop();
    assert!(poll(&mut wide).is_none() && poll(&mut late).is_none());
    slots.pop();
    let wide = granted(&mut wide);
    assert!(poll(&mut late).is_none());
    drop(wide);
    assert_eq!(granted(&mut late).replica(), ReplicaId(0));
}

#[test]
fn the_replica_with_the_most_free_slots_is_chosen() {
    let queue = queue(8, &[1, 3]);
    let next = || {
        let mut waiting = queue.enter(ticket(1)).unwrap();
        granted(&mut waiting)
    };
    let slots = [next(), next(), next(), next()];
    assert_eq!(slots.each_ref().map(|slot| slot.replica().0), [1, 1, 0, 1]);
}

#[test]
fn what_no_replica_can_hold_is_refused_but_not_before_one_is_known() {
    let queue = Queue::new(8);
    let mut early = queue.enter(ticket(3)).unwrap();
    queue.set_replica(ReplicaId(0), 0, false);
    assert!(poll(&mut early).is_none(), "a replica that was never up says nothing about its slots");
    queue.set_replica(ReplicaId(0), 2, true);
    assert_eq!(poll(&mut early).unwrap().unwrap_err(), Refusal::TooWide { slots: 2 });
    assert_eq!(queue.enter(ticket(3)).unwrap_err(), Refusal::TooWide { slots: 2 });
}

#[test]
fn who_waits_for_a_larger_replica_that_is_down_holds_nobody_up() {
    let queue = queue(8, &[4, 1]);
    queue.set_replica(ReplicaId(0), 4, false);
    let mut wide = queue.enter(ticket(3)).unwrap();
    let mut single = queue.enter(ticket(1)).unwrap();
    assert_eq!(granted(&mut single).replica(), ReplicaId(1));
    assert!(poll(&mut wide).is_none());
    queue.set_replica(ReplicaId(0), 4, true);
    assert_eq!(granted(&mut wide).replica(), ReplicaId(0));
}

#[test]
fn a_replica_that_came_back_with_fewer_slots_starts_nothing_until_enough_are_free() {
    let queue = queue(8, &[3]);
    let mut running: Vec<_> = (0..3).map(|_| queue.enter(ticket(1)).unwrap()).collect();
    let mut slots: Vec<_> = running.iter_mut().map(granted).collect();
    let mut waiting = queue.enter(ticket(1)).unwrap();
    queue.set_replica(ReplicaId(0), 2, true);
    slots.pop();
    assert!(poll(&mut waiting).is_none());
    slots.pop();
    assert!(poll(&mut waiting).is_some());
}

#[test]
fn a_client_that_leaves_the_queue_costs_nothing() {
    let queue = queue(8, &[1]);
    let mut running = queue.enter(ticket(1)).unwrap();
    let slot = granted(&mut running);
    let left = queue.enter(ticket(1)).unwrap();
    let mut next = queue.enter(ticket(1)).unwrap();
    drop(left);
    assert_eq!((queue.depth(), next.position()), (1, 0));
    drop(slot);
    assert!(poll(&mut next).is_some());
}

#[test]
fn a_slot_given_to_a_client_that_leaves_goes_to_the_next_one() {
    let queue = queue(8, &[1]);
    let given = queue.enter(ticket(1)).unwrap();
    let mut next = queue.enter(ticket(1)).unwrap();
    let flag = Arc::<Flag>::default();
    assert!(poll_with(&mut next, &flag).is_pending());
    drop(given);
    assert!(flag.0.load(Ordering::Relaxed));
    assert!(poll(&mut next).is_some());
}

/// What may happen to a queue; indices wrap around what is there.
#[derive(Clone, Debug)]
enum Event {
    Arrive(u32),
    Poll(usize),
    Leave(usize),
    Release(usize),
    Replica(usize, u32, bool),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1..4_u32).prop_map(Event::Arrive),
        4 => any::<usize>().prop_map(Event::Poll),
        2 => any::<usize>().prop_map(Event::Leave),
        3 => any::<usize>().prop_map(Event::Release),
        1 => (0..3_usize, 0..5_u32, any::<bool>()).prop_map(|(id, total, ready)| Event::Replica(id, total, ready)),
    ]
}

struct Client {
    waiting: Waiting,
    woken: Arc<Flag>,
    polled: bool,
}

/// The clients of a queue, and what must hold after everything that they do.
struct World {
    queue: Queue,
    clients: Vec<Client>,
    slots: Vec<Slot>,
}

impl World {
    fn step(&mut self, event: &Event) {
        let before = self.snapshot();
        match *event {
            Event::Arrive(slots) => match self.queue.enter(ticket(slots)) {
                Ok(waiting) => self.clients.push(Client { waiting, woken: Arc::default(), polled: false }),
                Err(Refusal::Full) => assert!(self.queue.depth() >= MAX_WAITING),
                Err(Refusal::TooWide { slots: widest }) => {
                    assert!(slots > widest && self.queue.load().iter().all(|load| load.total <= widest));
                }
            },
            Event::Poll(i) if !self.clients.is_empty() => self.poll(i % self.clients.len()),
            Event::Leave(i) if !self.clients.is_empty() => drop(self.clients.remove(i % self.clients.len())),
            Event::Release(i) if !self.slots.is_empty() => drop(self.slots.remove(i % self.slots.len())),
            Event::Replica(id, total, ready) => self.queue.set_replica(ReplicaId(id), total, ready),
            Event::Poll(_) | Event::Leave(_) | Event::Release(_) => {}
        }
        self.check(&before);
    }

    fn poll(&mut self, i: usize) {
        let client = &mut self.clients[i];
        match poll_with(&mut client.waiting, &client.woken) {
            Poll::Pending => client.polled = true,
            Poll::Ready(outcome) => {
                assert!(!client.polled || client.woken.0.load(Ordering::Relaxed), "a wake-up was lost");
                self.slots.extend(outcome);
                self.clients.remove(i);
            }
        }
    }

    /// Who waits, by arrival, with the slots needed.
    fn snapshot(&self) -> Vec<(u64, u32)> {
        self.queue.0.lock().waiting.iter().map(|(&place, waiter)| (place, waiter.slots)).collect()
    }

    fn check(&self, before: &[(u64, u32)]) {
        let state = self.queue.0.lock();
        let ready: Vec<_> = state.replicas.values().filter(|replica| replica.ready).collect();
        let could_run = |slots: u32| ready.iter().any(|replica| replica.total >= slots);
        let can_run = |slots: u32| ready.iter().any(|replica| replica.total >= replica.in_flight + slots);

        let head = state.waiting.values().find(|waiter| could_run(waiter.slots));
        assert!(head.is_none_or(|head| !can_run(head.slots)), "a slot is idle while the head could run");
        assert!(state.waiting.len() <= MAX_WAITING);

        let started: Vec<u64> = before
            .iter()
            .filter(|(place, _)| matches!(state.decided.get(place), Some(Ok(_))))
            .map(|&(place, _)| place)
            .collect();
        for (&place, waiter) in &state.waiting {
            let overtaken = could_run(waiter.slots) && started.iter().any(|&started| started > place);
            assert!(!overtaken, "one that could have run was overtaken");
        }
        for (id, replica) in &state.replicas {
            let held: u32 = self.slots.iter().filter(|slot| slot.replica == *id).map(|slot| slot.slots).sum();
            let given: u32 = self
                .clients
                .iter()
                .filter(|client| state.decided.get(&client.waiting.place) == Some(&Ok(*id)))
                .map(|client| client.waiting.slots)
                .sum();
            assert_eq!(replica.in_flight, held + given, "a slot was lost or given twice");
            let touched = started.iter().any(|place| state.decided.get(place) == Some(&Ok(*id)));
            assert!(!touched || replica.in_flight <= replica.total, "more in flight than there are slots");
        }
    }
}

const MAX_WAITING: usize = 5;

proptest! {
    #[test]
    fn whatever_happens_order_capacity_and_progress_hold(events in prop::collection::vec(event(), 1..120)) {
        let queue = queue(MAX_WAITING, &[2, 3]);
        let mut world = World { queue: queue.clone(), clients: Vec::new(), slots: Vec::new() };
        for event in &events {
            world.step(event);
        }
        drop(world);
        prop_assert_eq!((queue.depth(), in_flight(&queue)), (0, 0));
        prop_assert!(queue.0.lock().decided.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_is_forgotten_when_many_tasks_come_run_and_leave_at_once() {
    let queue = queue(10_000, &[2, 1]);
    let tasks = tokio_util::task::TaskTracker::new();
    for i in 0..2_000_u32 {
        let queue = queue.clone();
        tasks.spawn(async move {
            let waiting = queue.enter(ticket(1 + i % 2)).unwrap();
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
