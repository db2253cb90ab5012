//! Replicas that come and go, are stuck, or work for others.

use super::*;

fn at(host: u8, port: u16) -> SocketAddr {
    ([127, 0, 0, host], port).into()
}

impl World {
    /// A name whose only address is that of a replica; further ones are found by [`World::find`].
    fn named(first: &Fake) -> Self {
        Self::start_with(&[format!("dns://{}", first.address)], |_| ())
    }

    /// The name of URL `place` resolves to these from now on.
    fn find(&self, place: usize, addresses: &[SocketAddr]) {
        self.upstream.fleet.found(place, addresses.iter().copied().collect());
    }

    fn ids(&self) -> Vec<usize> {
        let ids: Vec<_> = self.upstream.snapshot().iter().map(|one| one.id.0).collect();
        let queued: Vec<_> = self.queue.load().iter().map(|load| load.replica.0).collect();
        assert_eq!(ids, queued, "the queue knows the same ones");
        ids
    }

    async fn slot(&self) -> crate::queue::Slot {
        self.queue.enter(fixture::ticket("t", 1)).unwrap().await.unwrap()
    }

    async fn until(&self, condition: impl FnMut(&Vec<ReplicaStatus>) -> bool) {
        let mut watch = self.upstream.watch();
        let met = timeout(Duration::from_secs(30), watch.wait_for(condition)).await;
        assert!(met.is_ok(), "{:?}", self.upstream.snapshot());
    }
}

/// Two replicas on one port, as a name would give them.
async fn pair() -> (Fake, Fake) {
    let first = Fake::start(Mood::Ready { slots: 1 }).await;
    let second = Fake::start_at(at(2, first.address.port()), Mood::Ready { slots: 1 }).await;
    (first, second)
}

#[tokio::test]
async fn an_address_that_appears_is_a_replica_that_takes_requests() {
    let (first, second) = pair().await;
    let world = World::named(&first);
    world.reaches(0, State::Ready, 1).await;
    let _slot = world.slot().await;
    let waiting = world.queue.enter(fixture::ticket("t", 1)).unwrap();
    world.find(0, &[first.address, second.address]);
    assert_eq!(waiting.await.unwrap().replica(), ReplicaId(1));
    assert_eq!(*world.upstream.snapshot()[1].address, *second.address.to_string());
    let reply = world.chat(1);
    let (_first, mut second) = (first, second);
    second.posts.recv().await.unwrap().write(&ok("{}")).await;
    assert_eq!(reply.await.unwrap().unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn an_address_that_vanishes_gets_no_new_request_finishes_those_it_has_and_is_forgotten() {
    let (first, mut second) = pair().await;
    let world = World::named(&first);
    world.find(0, &[first.address, second.address]);
    world.reaches(0, State::Ready, 1).await;
    world.reaches(1, State::Ready, 1).await;
    let slots = [world.slot().await, world.slot().await];
    let reply = world.chat(1);
    let mut post = second.posts.recv().await.unwrap();
    post.open_stream().await;
    let mut body = reply.await.unwrap().unwrap().into_body();

    world.find(0, &[first.address]);
    world.reaches(1, State::Leaving, 1).await;
    world.find(0, &[first.address]);
    assert_eq!(world.ids(), [0, 1], "it is not forgotten while it works");
    post.chunk("data: x\n\n").await;
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "data: x\n\n");

    let (on_first, on_second) = slots.into_iter().partition::<Vec<_>, _>(|slot| slot.replica() == ReplicaId(0));
    drop(on_second);
    let mut waiting = world.queue.enter(fixture::ticket("t", 1)).unwrap();
    assert!(futures_now(&mut waiting).is_none(), "the free slot is nobody's");
    drop(on_first);
    assert_eq!(waiting.await.unwrap().replica(), ReplicaId(0));

    let tasks = world.tasks.len();
    world.upstream.fleet.found_nothing();
    assert_eq!(world.ids(), [0]);
    while world.tasks.len() > tasks - 2 {
        tokio::task::yield_now().await;
    }
    assert!(matches!(world.chat(1).await.unwrap(), Err(SendError::NoReplica(_))));
    // The same address is another replica when it comes again.
    world.find(0, &[first.address, second.address]);
    assert_eq!(world.ids(), [0, 2]);
    world.reaches(2, State::Ready, 1).await;
}

fn futures_now(waiting: &mut crate::queue::Waiting) -> Option<Result<crate::queue::Slot, crate::queue::Refusal>> {
    use std::task::{Context, Poll, Waker};
    match std::pin::Pin::new(waiting).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => Some(outcome),
        Poll::Pending => None,
    }
}

#[tokio::test]
async fn an_address_that_comes_back_while_it_still_works_is_the_same_replica() {
    let (first, second) = pair().await;
    let world = World::named(&first);
    world.find(0, &[second.address]);
    assert_eq!(world.ids(), [1]);
    world.reaches(1, State::Ready, 1).await;
    let slot = world.slot().await;
    world.find(0, &[first.address]);
    world.reaches(1, State::Leaving, 1).await;
    world.find(0, &[first.address, second.address]);
    world.reaches(1, State::Ready, 1).await;
    drop(slot);
    assert_eq!(world.ids(), [1, 2]);
}

#[tokio::test]
async fn a_look_up_that_fails_changes_nothing() {
    let (first, second) = pair().await;
    let world = World::named(&first);
    world.find(0, &[first.address, second.address]);
    world.upstream.fleet.found_nothing();
    assert_eq!(world.ids(), [0, 1]);
    world.reaches(1, State::Ready, 1).await;
}

#[tokio::test]
async fn a_replica_that_is_configured_and_found_is_one() {
    let (first, second) = pair().await;
    let urls = [format!("http://{}", first.address), format!("dns://{}", second.address)];
    let world = World::start_with(&urls, |_| ());
    assert_eq!(world.ids(), [0, 1]);
    world.find(1, &[first.address, second.address]);
    assert_eq!(world.ids(), [0, 1]);
    world.find(1, &[first.address]);
    assert_eq!(world.ids(), [0]);
    world.reaches(0, State::Ready, 1).await;
}

#[tokio::test]
async fn a_replica_that_is_configured_by_name_and_found_is_one() {
    let first = Fake::start(Mood::Ready { slots: 1 }).await;
    let urls = [format!("http://localhost:{}", first.address.port()), format!("dns://{}", first.address)];
    let world = World::start_with(&urls, |config| config.resolve_interval = Duration::from_millis(10));
    world.until(|all| all.len() == 1).await;
    assert_eq!(world.ids(), [0]);
    world.reaches(0, State::Ready, 1).await;
}

#[tokio::test]
async fn two_names_of_one_address_are_one_replica() {
    let (first, second) = pair().await;
    let urls = [format!("dns://{}", first.address), format!("dns://{}", second.address)];
    let world = World::start_with(&urls, |_| ());
    world.find(0, &[first.address, second.address]);
    world.find(1, &[first.address, second.address]);
    assert_eq!(world.ids(), [0, 1]);
    world.find(0, &[]);
    assert_eq!(world.ids(), [0, 1], "one name is enough");
}

#[tokio::test]
async fn without_any_replica_nothing_is_ready() {
    let first = Fake::start(Mood::Ready { slots: 1 }).await;
    let world = World::named(&first);
    world.find(0, &[]);
    assert_eq!(world.ids(), [0_usize; 0]);
    assert_eq!(world.upstream.readiness(), Readiness::Unreachable);
}

fn slots(busy: &[(u64, u64)]) -> String {
    let slot = |(id, (task, decoded)): (usize, &(u64, u64))| {
        format!(
            r#"{{"id":{id},"is_processing":true,"id_task":{task},"n_prompt_tokens_processed":1,"next_token":[{{"n_decoded":{decoded}}}]}}"#
        )
    };
    let busy: Vec<_> = busy.iter().enumerate().map(slot).collect();
    format!("[{}]", busy.join(","))
}

fn inspecting(wedged_after: Duration) -> impl FnOnce(&mut config::Upstream) {
    move |config| (config.inspect_interval, config.wedged_after) = (Duration::from_millis(5), wedged_after)
}

#[tokio::test]
async fn a_replica_with_a_stuck_slot_takes_no_request_until_it_moves_and_keeps_those_it_has() {
    let mut fake = Fake::start(Mood::Ready { slots: 2 }).await;
    let world = World::start(&[fake.address], inspecting(Duration::from_millis(100)));
    world.reaches(0, State::Ready, 2).await;
    let slot = world.slot().await;
    let reply = world.chat(0);
    let mut post = fake.posts.recv().await.unwrap();
    post.open_stream().await;
    let mut body = reply.await.unwrap().unwrap().into_body();
    *fake.script.slots.lock().unwrap() = Some(slots(&[(7, 20)]));
    world.reaches(0, State::Wedged, 2).await;
    assert_eq!(world.upstream.readiness(), Readiness::Wedged);
    let problem = world.upstream.snapshot()[0].problem.clone().unwrap();
    assert_eq!(&*problem, "slot 0 has been busy without progress for 100ms");
    post.chunk("data: x\n\n").await;
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "data: x\n\n");
    let mut waiting = world.queue.enter(fixture::ticket("t", 1)).unwrap();
    assert!(futures_now(&mut waiting).is_none());

    *fake.script.slots.lock().unwrap() = Some(slots(&[]));
    world.reaches(0, State::Ready, 2).await;
    assert_eq!(waiting.await.unwrap().replica(), ReplicaId(0));
    assert_eq!(world.upstream.snapshot()[0].problem, None);
    drop(slot);
}

#[tokio::test]
async fn a_wedged_replica_that_dies_is_down_and_comes_back_ready() {
    let fake = Fake::start(Mood::Ready { slots: 1 }).await;
    let world = World::start(&[fake.address], inspecting(Duration::from_millis(50)));
    *fake.script.slots.lock().unwrap() = Some(slots(&[(7, 20)]));
    world.reaches(0, State::Wedged, 1).await;
    let address = fake.die().await;
    world.reaches(0, State::Down, 1).await;
    let _fake = Fake::start_at(address, Mood::Ready { slots: 1 }).await;
    world.reaches(0, State::Ready, 1).await;
}

#[tokio::test]
async fn requests_past_the_gateway_are_seen_in_the_slots() {
    let fake = Fake::start(Mood::Ready { slots: 3 }).await;
    let world = World::start(&[fake.address], inspecting(HOUR));
    world.reaches(0, State::Ready, 3).await;
    let slot = world.slot().await;
    *fake.script.slots.lock().unwrap() = Some(slots(&[(7, 20), (8, 1)]));
    world.until(|all| all[0].foreign == 1).await;
    drop(slot);
    world.until(|all| all[0].foreign == 2).await;
    assert_eq!(world.upstream.readiness(), Readiness::Ready, "it is reported, no more");
    *fake.script.slots.lock().unwrap() = Some(slots(&[]));
    world.until(|all| all[0].foreign == 0).await;
}

#[tokio::test]
async fn metrics_are_looked_at_where_slots_are_switched_off() {
    let fake = Fake::start(Mood::Ready { slots: 1 }).await;
    let world = World::start(&[fake.address], inspecting(Duration::from_millis(50)));
    let metrics = "llamacpp:prompt_tokens_total 9\nllamacpp:n_decode_total 5\nllamacpp:requests_processing 1\n\
                   llamacpp:requests_deferred 2\n";
    *fake.script.metrics.lock().unwrap() = Some(metrics.to_owned());
    world.until(|all| all[0].foreign == 3).await;
    world.reaches(0, State::Wedged, 1).await;
    *fake.script.metrics.lock().unwrap() = Some(metrics.replace("decode_total 5", "decode_total 6"));
    world.reaches(0, State::Ready, 1).await;
}

#[tokio::test]
async fn a_replica_that_tells_nothing_of_its_slots_is_used_all_the_same() {
    let fake = Fake::start(Mood::Ready { slots: 1 }).await;
    let world = World::start(&[fake.address], inspecting(Duration::from_millis(1)));
    world.reaches(0, State::Ready, 1).await;
    fake.probed(20).await;
    assert_eq!(world.upstream.snapshot()[0].state, State::Ready);
}
