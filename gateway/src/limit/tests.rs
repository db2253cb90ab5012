use std::num::NonZeroU32;
use std::sync::Barrier;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use proptest::prelude::*;
use tokio::time::advance;

use super::bucket::{Audit, Bucket};
use super::*;
use crate::config;
use crate::error::Reason;
use crate::ledger::usage::Reader;
use crate::ledger::{Count, CountedBy, Dispatched, Ending, Ledger, Outcome, Settings, Subject};
use crate::metrics::Metrics;
use crate::queue::ClassId;
use crate::surface::Surface;

const SECOND: Duration = Duration::from_secs(1);
/// A Saturday, half an hour before the month ends.
const EVENING: &str = "2026-01-31T23:30:00Z";

fn unlimited() -> Policy {
    let config = config::load(None, std::iter::empty(), &config::Overrides::default()).unwrap();
    config.policies[config::DEFAULT_POLICY].clone()
}

fn policy(change: impl FnOnce(&mut Policy)) -> Policy {
    let mut policy = unlimited();
    change(&mut policy);
    policy
}

fn terms(tenant: Policy, key: Option<Policy>) -> Terms {
    Terms { tenant: Arc::new(tenant), key: key.map(Arc::new), class: ClassId(0) }
}

fn caller(key_id: &str) -> Caller {
    Caller::new("acme", key_id)
}

/// A wall clock that tests set.
#[derive(Clone)]
struct Wall(Arc<AtomicI64>);

impl Wall {
    fn at(time: &str) -> Self {
        let wall = Self(Arc::default());
        wall.set(time);
        wall
    }

    fn set(&self, time: &str) {
        self.0.store(time.parse::<Timestamp>().unwrap().as_millisecond(), Relaxed);
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.0.load(Relaxed)).unwrap()
    }

    fn clock(&self) -> Clock {
        let wall = self.clone();
        Clock::from_fn(move || wall.now())
    }
}

/// Limits, and one tenant that asks.
struct World {
    limits: Limits,
    wall: Wall,
    terms: Terms,
}

impl World {
    fn new(tenant: Policy, key: Option<Policy>) -> Self {
        let wall = Wall::at(EVENING);
        Self { limits: Limits::new(wall.clock()), wall, terms: terms(tenant, key) }
    }

    fn enter(&self, key_id: &str) -> Result<Pass, Rejection> {
        self.limits.enter(&caller(key_id), &self.terms, false, self.wall.now())
    }

    fn reserve(&self, prompt: u64, output: u64) -> Result<Reservation, Rejection> {
        self.enter("k1")?.reserve(Need { prompt, output })
    }

    fn audit(&self) -> Audit {
        let audit = self.limits.audit("acme").unwrap();
        adds_up(&audit);
        audit
    }

    fn headers(&self) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        self.limits.tell(&caller("k1"), &self.terms, &mut headers);
        let text = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            (name.as_str().replace("x-ratelimit-", ""), value.to_str().unwrap().to_owned())
        };
        headers.iter().map(text).collect()
    }
}

fn adds_up(audit: &Audit) {
    assert_eq!(audit.level, audit.capacity + audit.refilled - audit.settled - audit.open, "{audit:?}");
    assert!(audit.level <= audit.capacity && audit.open >= 0, "{audit:?}");
}

fn refused<T>(result: Result<T, Rejection>) -> Rejection {
    result.err().expect("it is let in")
}

/// Runs `each` on so many threads at once, in the paused time of the test.
fn at_once<T: Send>(threads: usize, each: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let runtime = tokio::runtime::Handle::current();
    let barrier = Barrier::new(threads);
    std::thread::scope(|scope| {
        let spawn = |i| {
            let (runtime, barrier, each) = (&runtime, &barrier, &each);
            scope.spawn(move || {
                let _paused = runtime.enter();
                barrier.wait();
                each(i)
            })
        };
        let threads: Vec<_> = (0..threads).map(spawn).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[tokio::test(start_paused = true)]
async fn of_200_simultaneous_requests_exactly_10_pass_a_limit_of_10() {
    let cases = [
        (policy(|policy| policy.requests_per_minute = 10), None, Reason::RequestRate),
        (policy(|policy| policy.concurrent_requests = 10), None, Reason::Concurrency),
        (policy(|policy| policy.tokens_per_minute = 1000), None, Reason::TokenRate),
        (policy(|policy| policy.tokens_per_day = 1000), None, Reason::QuotaExceeded),
        (unlimited(), Some(policy(|policy| policy.requests_per_minute = 5)), Reason::RequestRate),
        (unlimited(), Some(policy(|policy| policy.concurrent_requests = 5)), Reason::Concurrency),
        (unlimited(), Some(policy(|policy| policy.tokens_per_minute = 500)), Reason::TokenRate),
        // The tenant's limit is spent on those whom their key lets in, whatever the order.
        (
            policy(|policy| policy.requests_per_minute = 10),
            Some(policy(|policy| policy.requests_per_minute = 5)),
            Reason::RequestRate,
        ),
    ];
    for (tenant, key, reason) in cases {
        let world = World::new(tenant, key);
        let outcomes = at_once(200, |i| {
            let key = if i % 2 == 0 { "k1" } else { "k2" };
            world.enter(key)?.reserve(Need { prompt: 60, output: 40 })
        });
        let passed = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(passed, 10, "{reason:?}");
        assert!(outcomes.into_iter().filter_map(Result::err).all(|rejection| rejection.reason == reason));
    }
}

#[tokio::test(start_paused = true)]
async fn threads_that_end_in_every_way_leave_nothing_behind() {
    let limited = |policy: &mut Policy| {
        policy.requests_per_minute = 100_000;
        policy.tokens_per_minute = 10_000;
        policy.concurrent_requests = 6;
        policy.tokens_per_day = 1_000_000;
        policy.cut_at_quota = true;
    };
    let world = World::new(policy(limited), Some(policy(limited)));
    let used: u64 = at_once(8, |thread| {
        let mut used = 0;
        for i in 0..500_u64 {
            let Ok(pass) = world.enter(["k1", "k2"][thread % 2]) else { continue };
            let way = (i * 7 + thread as u64) % 6;
            if way == 0 {
                drop(pass);
                continue;
            }
            let Ok(mut reservation) = pass.reserve(Need { prompt: 10 + i % 5, output: 20 }) else { continue };
            match way {
                1 => reservation.give_back(),
                2 => drop(reservation),
                3 => {
                    reservation.used(17);
                    drop(reservation);
                    used += 17;
                }
                4 => {
                    assert!((0..100).all(|tokens| reservation.used(tokens)));
                    reservation.settle(100);
                    reservation.settle(1_000_000);
                    reservation.give_back();
                    used += 100;
                }
                _ => {
                    reservation.settle(5);
                    used += 5;
                }
            }
        }
        used
    })
    .into_iter()
    .sum();
    assert!(used > 0);
    let audit = world.audit();
    assert_eq!((audit.open, audit.settled, audit.refilled), (0, i128::from(used), 0));
    let periods = Periods::of(world.wall.now());
    for owner in world.limits.kept().tenants.values() {
        assert_eq!(lock_one(owner).quotas_used(periods).next().unwrap().2, used);
    }
    advance(Duration::from_secs(100_000)).await;
    let held: Vec<_> = (0..6).map(|_| world.enter("k1").unwrap()).collect();
    assert_eq!(refused(world.enter("k1")).reason, Reason::Concurrency);
    drop(held);
    assert_eq!(world.audit().level, 10_000);
}

#[tokio::test(start_paused = true)]
async fn what_one_limit_refuses_costs_nothing_at_the_others() {
    let tenant = policy(|policy| {
        policy.requests_per_minute = 10;
        policy.concurrent_requests = 20;
        policy.tokens_per_minute = 1000;
        policy.tokens_per_day = 5000;
    });
    let key = policy(|policy| policy.tokens_per_minute = 100);
    let world = World::new(tenant, Some(key));
    let _first = world.reserve(50, 50).unwrap();
    let before = (world.audit(), world.headers());
    let rejection = refused(world.reserve(50, 10));
    assert_eq!(rejection.reason, Reason::TokenRate);
    assert_eq!(
        rejection.message,
        "The API key's limit of 100 tokens a minute is reached: this request needs about 60, and 0 are left. \
         Try again in 36s."
    );
    assert_eq!((world.audit(), world.headers()), before);
    // Others of the tenant are not concerned: 9 requests and 900 tokens are left to them.
    let others: Vec<_> = (2..11)
        .map(|i| world.enter(&format!("k{i}")).unwrap().reserve(Need { prompt: 100, output: 0 }).unwrap())
        .collect();
    assert_eq!(refused(world.enter("k11")).reason, Reason::RequestRate);
    drop(others);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_never_ran_gives_back_everything() {
    let world = World::new(
        policy(|policy| {
            policy.requests_per_minute = 1;
            policy.concurrent_requests = 1;
            policy.tokens_per_minute = 100;
            policy.tokens_per_month = 100;
        }),
        None,
    );
    for _ in 0..3 {
        let mut reservation = world.reserve(60, 40).unwrap();
        assert_eq!(refused(world.enter("k1")).reason, Reason::Concurrency);
        reservation.give_back();
        // Not only when it is dropped.
        assert_eq!(world.audit().level, 100);
        reservation.settle(100);
    }
    // One that ran and used nothing, since its client left, was a request all the same.
    drop(world.reserve(60, 40).unwrap());
    assert_eq!(world.audit().level, 100);
    let rejection = refused(world.enter("k1"));
    assert_eq!((rejection.reason, rejection.retry_after), (Reason::RequestRate, Some(60 * SECOND)));
    assert_eq!(rejection.message, "The tenant's limit of 1 requests a minute is reached. Try again in 1m0s.");
}

#[tokio::test(start_paused = true)]
async fn a_debt_delays_the_next_request_for_exactly_as_long_as_it_takes_to_pay() {
    let world = World::new(policy(|policy| policy.tokens_per_minute = 7000), None);
    let mut long = world.reserve(100, 900).unwrap();
    assert!(long.used(20_000));
    long.settle(20_000);
    assert_eq!(world.audit().level, -13_000);
    let wait = refused(world.reserve(40, 60)).retry_after.unwrap();
    // 13,100 tokens at 7,000 a minute, rounded up to the next nanosecond.
    assert_eq!(wait, Duration::from_nanos((13_100_u64 * 60_000_000_000).div_ceil(7000)));
    advance(wait - Duration::from_millis(1)).await;
    assert_eq!(refused(world.reserve(40, 60)).retry_after, Some(Duration::from_millis(1)));
    advance(Duration::from_millis(1)).await;
    assert!(world.reserve(40, 60).is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_needs_more_than_a_minute_holds_is_let_in_when_the_bucket_is_full() {
    let world = World::new(policy(|policy| policy.tokens_per_minute = 100), None);
    let mut small = world.reserve(1, 0).unwrap();
    small.settle(1);
    let wait = refused(world.reserve(5000, 100)).retry_after.unwrap();
    assert_eq!(wait, Duration::from_millis(600));
    advance(wait).await;
    let mut large = world.reserve(5000, 100).unwrap();
    assert_eq!(world.audit().level, -5000);
    large.settle(5050);
    assert_eq!(world.audit().level, -4950);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_spans_midnight_counts_on_the_day_on_which_it_arrived() {
    let world = World::new(
        policy(|policy| {
            policy.tokens_per_day = 1000;
            policy.tokens_per_month = 1500;
        }),
        None,
    );
    let mut night = world.reserve(500, 400).unwrap();
    let rejection = refused(world.reserve(101, 0));
    assert_eq!((rejection.reason, rejection.retry_after), (Reason::QuotaExceeded, None));
    assert_eq!(
        rejection.message,
        "The tenant's quota of 1000 tokens a day (UTC) leaves 100 tokens, and the prompt has 101."
    );
    let arrived_before = world.enter("k1").unwrap();
    world.wall.set("2026-02-01T00:00:00Z");
    // A new day, a new month.
    let mut morning = world.reserve(1000, 0).unwrap();
    // Who arrived before midnight is held to the old day.
    assert_eq!(refused(arrived_before.reserve(Need { prompt: 101, output: 0 })).reason, Reason::QuotaExceeded);
    night.settle(900);
    assert_eq!(used(&world, "2026-02-01T00:00:00Z"), vec![0, 0]);
    morning.settle(1000);
    assert_eq!(used(&world, "2026-01-31T00:00:00Z"), vec![900, 900]);
    assert_eq!(used(&world, "2026-02-01T00:00:00Z"), vec![1000, 1000]);
    world.wall.set("2026-02-02T00:00:00Z");
    let rejection = refused(world.reserve(501, 0));
    assert!(rejection.message.contains("1500 tokens a month (UTC) leaves 500"), "{rejection}");
    assert!(world.reserve(500, 0).is_ok());
}

fn used(world: &World, time: &str) -> Vec<u64> {
    let owner = world.limits.kept().tenants["acme"].clone();
    let mut state = lock_one(&owner);
    state.quotas_used(Periods::of(time.parse().unwrap())).map(|(_, _, used)| used).collect()
}

#[tokio::test(start_paused = true)]
async fn a_prompt_larger_than_the_whole_quota_is_not_told_to_come_back() {
    let world = World::new(unlimited(), Some(policy(|policy| policy.tokens_per_day = 100)));
    let rejection = refused(world.reserve(101, 0));
    assert_eq!((rejection.reason, rejection.retry_after), (Reason::QuotaExceeded, None));
    assert_eq!(
        rejection.message,
        "The prompt has 101 tokens, more than the API key's whole quota of 100 tokens a day."
    );
}

#[tokio::test(start_paused = true)]
async fn retries_may_be_read_while_all_places_are_taken_but_only_as_many_as_there_are_places() {
    let world = World::new(
        policy(|policy| {
            policy.requests_per_minute = 6;
            policy.concurrent_requests = 2;
        }),
        Some(policy(|policy| policy.concurrent_requests = 3)),
    );
    let retry = || world.limits.enter(&caller("k1"), &world.terms, true, world.wall.now());
    let left = || world.headers()[1].1.clone();
    let mut firsts = vec![world.enter("k1").unwrap(), world.enter("k1").unwrap()];
    let mut retries = vec![retry().unwrap(), retry().unwrap()];
    assert_eq!(refused(retry()).reason, Reason::Concurrency);
    assert_eq!(refused(world.enter("k1")).reason, Reason::Concurrency);
    // The place must have become free by the time that it has been read. If it has not, all is given back.
    assert_eq!((left().as_str(), refused(retries[0].take_place()).reason), ("2", Reason::Concurrency));
    drop(retries.remove(0));
    assert_eq!(left(), "3");
    drop(firsts.pop());
    retries[0].take_place().unwrap();
    retries[0].take_place().unwrap();
    assert_eq!(refused(world.enter("k1")).reason, Reason::Concurrency, "it has the place now");
    drop((retries, firsts));
    let mut alone = retry().unwrap();
    alone.take_place().unwrap();
    // Requests a minute are asked of a retry before it is read.
    let _last = [retry().unwrap(), retry().unwrap()];
    assert_eq!(refused(retry()).reason, Reason::RequestRate);
}

#[tokio::test(start_paused = true)]
async fn a_running_request_is_cut_where_its_quota_ends() {
    let world = World::new(
        policy(|policy| {
            policy.tokens_per_day = 1000;
            policy.cut_at_quota = true;
        }),
        None,
    );
    let mut first = world.reserve(100, 50).unwrap();
    let mut second = world.reserve(100, 50).unwrap();
    let both = (0..).find(|tokens| !first.used(100 + tokens) | !second.used(100 + tokens));
    // 1000 in all: one of them stops when the other holds at most a step of what is left.
    assert!((400 - 64..=400).contains(&both.unwrap()), "{both:?}");
    let (mut cut, mut other) = if first.cut { (first, second) } else { (second, first) };
    cut.settle(cut.used);
    let last = (other.used..).find(|tokens| !other.used(*tokens)).unwrap();
    other.settle(last);
    assert_eq!(used(&world, EVENING), vec![1000]);
    // Nothing is left, not even for the smallest prompt.
    assert_eq!(refused(world.reserve(1, 0)).reason, Reason::QuotaExceeded);
}

#[tokio::test(start_paused = true)]
async fn without_a_cut_a_running_request_may_go_over_and_the_next_is_refused() {
    let world = World::new(policy(|policy| policy.tokens_per_day = 1000), None);
    let mut request = world.reserve(100, 50).unwrap();
    assert!((0..5000).all(|tokens| request.used(tokens)));
    // What it goes over is held while it runs.
    assert_eq!(refused(world.reserve(1, 0)).reason, Reason::QuotaExceeded);
    request.settle(5000);
    assert_eq!(used(&world, EVENING), vec![5000]);
}

#[tokio::test(start_paused = true)]
async fn several_tokens_at_once_beyond_the_quota_are_counted_all_the_same() {
    let world = World::new(
        policy(|policy| {
            policy.tokens_per_day = 200;
            policy.cut_at_quota = true;
        }),
        None,
    );
    let mut request = world.reserve(100, 50).unwrap();
    assert!(request.used(199));
    assert!(!request.used(230));
    assert!(!request.used(231));
    drop(request);
    assert_eq!(used(&world, EVENING), vec![231]);
}

#[tokio::test(start_paused = true)]
async fn headers_tell_the_tighter_of_tenant_and_key() {
    let world = World::new(
        policy(|policy| {
            policy.requests_per_minute = 60;
            policy.tokens_per_minute = 6000;
        }),
        Some(policy(|policy| policy.tokens_per_minute = 1000)),
    );
    let text = |headers: &[(&str, &str)]| -> Vec<_> {
        headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    };
    let full = [
        ("limit-requests", "60"),
        ("remaining-requests", "60"),
        ("reset-requests", "0s"),
        ("limit-tokens", "1000"),
        ("remaining-tokens", "1000"),
        ("reset-tokens", "0s"),
    ];
    assert_eq!(world.headers(), text(&full));
    let mut request = world.reserve(300, 200).unwrap();
    request.settle(1300);
    let debt = [
        ("limit-requests", "60"),
        ("remaining-requests", "59"),
        ("reset-requests", "1s"),
        ("limit-tokens", "1000"),
        ("remaining-tokens", "0"),
        ("reset-tokens", "1m18s"),
    ];
    assert_eq!(world.headers(), text(&debt));
    advance(Duration::from_millis(988)).await;
    assert_eq!(world.headers()[2].1, "12ms");
    // Another key of the tenant: its own limit is untouched, and tighter than what the tenant has left.
    let mut headers = HeaderMap::new();
    world.limits.tell(&caller("k2"), &world.terms, &mut headers);
    assert_eq!(headers["x-ratelimit-remaining-tokens"], "1000");
    let quotas = World::new(policy(|policy| policy.tokens_per_day = 7), None);
    assert_eq!(quotas.headers(), vec![]);
    assert_eq!(World::new(unlimited(), None).headers(), vec![]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_without_limits_leaves_no_trace() {
    let world = World::new(unlimited(), Some(unlimited()));
    let mut request = world.reserve(1 << 60, 1 << 60).unwrap();
    assert!(request.used(u64::MAX));
    request.settle(u64::MAX);
    assert!(world.limits.kept().tenants.is_empty() && world.limits.kept().keys.is_empty());
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_idle_and_full_again_are_forgotten() {
    let world = World::new(unlimited(), Some(policy(|policy| policy.requests_per_minute = 60)));
    let busy = world.enter("busy").unwrap();
    (1..KEYS_BEFORE_SWEEP).for_each(|i| drop(world.enter(&format!("k{i}")).unwrap()));
    assert_eq!(world.limits.kept().keys.len(), KEYS_BEFORE_SWEEP);
    // All have just been used.
    drop(world.enter("one more").unwrap());
    assert_eq!(world.limits.kept().keys.len(), KEYS_BEFORE_SWEEP + 1);
    advance(60 * SECOND).await;
    (0..KEYS_BEFORE_SWEEP).for_each(|i| drop(world.enter(&format!("n{i}")).unwrap()));
    assert!(world.limits.kept().keys.len() <= KEYS_BEFORE_SWEEP + 1);
    assert!(world.limits.kept().keys.contains_key("busy"));
    drop(busy);
}

/// Writes settled requests, of the key `k1` of `acme`: when they arrived and their tokens.
async fn served(directory: &std::path::Path, wall: &Wall, requests: &[(&str, u64)]) {
    let on_failure = crate::config::OnFailure::Refuse;
    let settings = Settings { progress_interval: SECOND, max_live: 16, on_failure, export: false };
    let (ledger, writer) = Ledger::open(directory, wall.clock(), settings).unwrap();
    for (i, (arrived, tokens)) in requests.iter().enumerate() {
        let subject = Subject {
            request_id: format!("req_{arrived}_{i}").into(),
            tenant: "acme".into(),
            key_id: "k1".into(),
            model: "tiny".into(),
            surface: Surface::Chat,
            arrived: arrived.parse().unwrap(),
        };
        let mut charge = ledger.admit(subject).unwrap();
        let dispatched = Dispatched {
            at: wall.now(),
            queue_wait: Duration::ZERO,
            upstream: "127.0.0.1:8001".into(),
            slots: 1,
            prompt: 10,
        };
        charge.open(dispatched).await.unwrap();
        let count = Count { prompt: tokens - 1, cached: 0, completion: 1, by: CountedBy::Usage, ..Count::default() };
        let outcome = Outcome {
            ending: Ending::Complete,
            status: 200,
            count,
            dispatched: None,
            queue_wait: Duration::ZERO,
            first_token: None,
            ended: wall.now(),
        };
        charge.close(outcome).await.unwrap();
    }
    drop(ledger);
    writer.close().await.unwrap();
}

#[tokio::test]
async fn a_restart_restores_quotas_and_debts_from_the_ledger() {
    let directory = tempfile::tempdir().unwrap();
    let wall = Wall::at(EVENING);
    let requests = [
        ("2025-12-31T23:59:59Z", 1_000_000),
        ("2026-01-01T00:00:00Z", 1),
        ("2026-01-31T00:00:00Z", 20),
        ("2026-01-31T22:29:59Z", 300),
        ("2026-01-31T23:28:00Z", 4000),
        ("2026-01-31T23:29:30Z", 1),
        // The clock was ahead for a while.
        ("2026-01-31T23:59:00Z", 2),
        // It was far ahead once: that is of neither this day nor this month, nor of the last hour.
        ("2026-02-01T00:30:01Z", 50_000),
        ("2027-01-31T12:00:00Z", 50_000),
    ];
    served(directory.path(), &wall, &requests).await;
    let mut world = World::new(
        policy(|policy| {
            policy.tokens_per_minute = 1000;
            policy.tokens_per_day = 10_000;
            policy.tokens_per_month = 20_000;
        }),
        Some(policy(|policy| policy.tokens_per_minute = 10_000)),
    );
    world.wall = wall;
    tokio::time::pause();
    world.limits = Limits::new(world.wall.clock());
    let reader = Reader::open(directory.path()).unwrap();
    let terms = world.terms.clone();
    world.limits.restore(&reader, |_, key| Some((Arc::new(caller(key)), terms.clone()))).unwrap();
    assert_eq!(used(&world, EVENING), vec![4323, 4324]);
    // Full at 23:28, then 4,000 were used, 2,000 have come back since, and 3 were used.
    assert_eq!(world.audit().level, 1000 - 4000 + 2000 - 3);
    assert_eq!(refused(world.reserve(500, 497)).retry_after, Some(120 * SECOND));
    let key = world.limits.kept().keys["k1"].clone();
    assert_eq!(lock_one(&key).audit(world.limits.now()).unwrap().level, 9998);
    // What was used before the start is no drift.
    let metrics = Metrics::new().unwrap();
    world.limits.observe(&metrics);
    assert_eq!(metrics.token_bucket_drift.with_label_values(&["acme"]).get(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_empty_ledger_leaves_everything() {
    let directory = tempfile::tempdir().unwrap();
    let wall = Wall::at(EVENING);
    served(directory.path(), &wall, &[]).await;
    let world = World::new(policy(|policy| policy.tokens_per_minute = 100), None);
    world.limits.restore(&Reader::open(directory.path()).unwrap(), |_, _| None).unwrap();
    assert!(world.reserve(100, 0).is_ok());
}

#[tokio::test(start_paused = true)]
async fn metrics_of_one_scrape_add_up_and_show_a_drift() {
    let world = World::new(
        policy(|policy| {
            policy.tokens_per_minute = 1000;
            policy.tokens_per_day = 5000;
        }),
        Some(policy(|policy| policy.concurrent_requests = 2)),
    );
    let metrics = Metrics::new().unwrap();
    let mut over = world.reserve(100, 100).unwrap();
    over.settle(150);
    let _running = world.reserve(300, 0).unwrap();
    drop(over);
    let _other = world.reserve(1, 0).unwrap();
    assert_eq!(refused(world.enter("k1")).reason, Reason::Concurrency);
    for (kind, tokens) in [("prompt", 100), ("cached", 90), ("completion", 50)] {
        metrics.tokens_total.with_label_values(&["acme", "tiny", kind]).inc_by(tokens);
    }
    advance(3 * SECOND).await;
    let read = || {
        world.limits.observe(&metrics);
        let of = |metric: &prometheus::IntGaugeVec| metric.with_label_values(&["acme"]).get();
        let sums = [
            of(&metrics.token_bucket_capacity),
            of(&metrics.token_bucket_refilled),
            of(&metrics.token_bucket_settled),
            of(&metrics.token_reservations_open),
        ];
        assert_eq!(of(&metrics.token_bucket_level), sums[0] + sums[1] - sums[2] - sums[3]);
        (sums, of(&metrics.token_bucket_drift))
    };
    assert_eq!(read(), ([1000, 50, 150, 301], 0));
    assert_eq!(metrics.quota_used_tokens.with_label_values(&["acme", "day"]).get(), 150);
    assert_eq!(metrics.quota_limit_tokens.with_label_values(&["acme", "day"]).get(), 5000);
    assert_eq!(metrics.limit_refusals_total.with_label_values(&["acme", "concurrent_requests"]).get(), 1);
    // An account that the bucket does not know of.
    metrics.tokens_total.with_label_values(&["acme", "other", "prompt"]).inc_by(7);
    assert_eq!(read().1, -7);
}

/// What happens to a bucket.
#[derive(Clone, Debug)]
enum Event {
    Pass(Duration),
    /// A request that reserves some tokens and will use others.
    Take(u64, u64),
    /// The request with this index among the open ones is over.
    Settle(prop::sample::Index),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        (0..30_000_000_000_u64).prop_map(|nanos| Event::Pass(Duration::from_nanos(nanos))),
        (0..700_u64, 0..900_u64).prop_map(|(reserved, used)| Event::Take(reserved, used)),
        any::<prop::sample::Index>().prop_map(Event::Settle),
    ];
    prop::collection::vec(event, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_bucket_adds_up_and_reservations_leave_it_as_if_the_truth_had_been_known(
        capacity in 1..2000_u64,
        events in events(),
    ) {
        let mut now = HISTORY;
        let mut bucket = Bucket::new(capacity);
        // The same requests, each of which took at once what it was going to use of its reservation.
        let mut knowing = Bucket::new(capacity);
        let mut open = Vec::new();
        let (mut settled, mut reserved_now, mut takings) = (0, 0, 0);
        let end = |bucket: &mut Bucket, knowing: &mut Bucket, (taken, known, reserved, used), now| {
            bucket.settle(taken, used, now);
            let used_of_it: u64 = std::cmp::min(reserved, used);
            knowing.settle(known, used_of_it, now);
            let beyond = knowing.take(used - used_of_it, now);
            knowing.settle(beyond, used - used_of_it, now);
        };
        for event in events {
            match event {
                Event::Pass(time) => now += time,
                Event::Take(reserved, used) => {
                    takings += 1;
                    reserved_now += i128::from(reserved);
                    let known = knowing.take(reserved.min(used), now);
                    open.push((bucket.take(reserved, now), known, reserved, used));
                }
                Event::Settle(index) if !open.is_empty() => {
                    let request = open.swap_remove(index.index(open.len()));
                    reserved_now -= i128::from(request.2);
                    settled += i128::from(request.3);
                    end(&mut bucket, &mut knowing, request, now);
                }
                Event::Settle(_) => {}
            }
            let audit = bucket.audit(now);
            adds_up(&audit);
            prop_assert_eq!((audit.open, audit.settled), (reserved_now, settled));
            // To wait as long as it says is enough, and no less is.
            let wait = bucket.wait(capacity / 2, now);
            prop_assert_eq!(bucket.clone().wait(capacity / 2, now + wait), Duration::ZERO);
            if let Some(before) = wait.checked_sub(Duration::from_nanos(1)) {
                prop_assert!(!bucket.clone().wait(capacity / 2, now + before).is_zero());
            }
        }
        for request in open {
            end(&mut bucket, &mut knowing, request, now);
        }
        let (level, known) = (bucket.audit(now).level, knowing.audit(now).level);
        // A full bucket drops fractions of a token, so each taking may differ by one.
        prop_assert!((level - known).abs() <= takings, "{level} instead of {known}");
    }

    #[test]
    fn requests_that_are_given_back_leave_the_rest_as_if_they_had_not_come(
        limit in 1..20_u32,
        steps in prop::collection::vec((0..20_000_u64, any::<bool>(), 0..8_usize), 0..60),
    ) {
        let limit = NonZeroU32::new(limit).unwrap();
        let (mut requests, mut others) = (requests::Requests::new(limit), requests::Requests::new(limit));
        let mut now = HISTORY;
        let mut held: std::collections::VecDeque<(u64, usize)> = Default::default();
        for (step, (millis, stays, hold)) in steps.into_iter().enumerate() {
            now += Duration::from_millis(millis);
            while held.front().is_some_and(|(_, until)| *until <= step) {
                requests.give_back(held.pop_front().unwrap().0, now);
            }
            let Ok(taking) = requests.take(now) else { continue };
            if stays {
                requests.keep(taking);
                let taking = others.take(now).expect("those that were given back cannot have helped");
                others.keep(taking);
            } else {
                held.push_back((taking, step + hold));
            }
        }
        held.into_iter().for_each(|(taking, _)| requests.give_back(taking, now));
        prop_assert_eq!(requests.left(now), others.left(now));
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_is_told_what_it_has_used_of_each_limit_and_when_all_of_it_is_left_again() {
    let tenant = policy(|policy| {
        policy.tokens_per_day = 1000;
        policy.tokens_per_month = 5000;
        policy.concurrent_requests = 3;
    });
    let key = policy(|policy| {
        policy.requests_per_minute = 60;
        policy.tokens_per_minute = 600;
    });
    let world = World::new(tenant, Some(key));
    let mut over = world.reserve(100, 50).unwrap();
    over.settle(120);
    let _running = world.reserve(200, 100).unwrap();
    let levels = world.limits.describe(&caller("k1"), &world.terms, world.wall.now());
    let seen: Vec<_> = levels
        .iter()
        .map(|level| (level.of, level.name, level.limit, level.used, level.remaining, level.resets_in))
        .collect();
    let half_an_hour = Some(1800 * SECOND);
    assert_eq!(
        seen,
        [
            ("tenant", "concurrent_requests", 3, 1, 2, None),
            ("tenant", "tokens_per_day", 1000, 420, 580, half_an_hour),
            ("tenant", "tokens_per_month", 5000, 420, 4580, half_an_hour),
            ("key", "requests_per_minute", 60, 2, 58, Some(2 * SECOND)),
            ("key", "tokens_per_minute", 600, 420, 180, Some(42 * SECOND)),
        ]
    );
    // Who has no limits is told of none.
    assert_eq!(world.limits.describe(&caller("k1"), &terms(unlimited(), None), world.wall.now()), []);
}
