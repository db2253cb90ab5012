//! What the order is good for, shown where the numbers can be told.

use super::*;
use crate::queue::{Caps, Ticket};

/// About a small model on a T4.
const T4: Engine = Engine { prompt_per_second: 400.0, token: 0.025, token_more: 0.005 };

fn sim(order: Order, slots: usize, sources: Vec<Source>) -> Sim {
    Sim::new(settings(order, &[1]), T4, &[slots], sources, 7)
}

impl Sim {
    fn of(&self, source: usize) -> impl Iterator<Item = &Job> {
        self.jobs.iter().filter(move |job| job.source == source)
    }

    /// Seconds from arrival to the first token.
    fn first_tokens(&self, source: usize) -> Vec<f64> {
        self.of(source).filter_map(|job| Some(job.first_token? - job.arrived)).collect()
    }

    fn complete(&self, source: usize) -> usize {
        self.of(source).filter(|job| job.outcome == Some(Outcome::Complete)).count()
    }

    /// Of the clients who have an outcome, those with an answer.
    fn success(&self, source: usize) -> f64 {
        self.complete(source) as f64 / self.of(source).filter(|job| job.outcome.is_some()).count() as f64
    }
}

/// 40 requests outstanding all the time, of 200 to 400 prompt and 128 to 256 output tokens.
fn flood() -> Source {
    Source { arrivals: Arrivals::Outstanding(40), prompt: 200..400, output: 128..256, ..Source::default() }
}

fn trickle() -> Source {
    Source { arrivals: Arrivals::Every(30.0), prompt: 50..100, output: 32..64, ..Source::default() }
}

#[test]
fn a_trickle_beside_a_flood_has_its_first_token_ten_times_sooner_than_first_come() {
    let run = |order| {
        let mut sim = sim(order, 2, vec![flood(), trickle()]);
        sim.run(3600.0);
        let tokens = sim.first_tokens(1);
        (quantile(tokens.clone(), 0.5), quantile(tokens, 0.95), sim.complete(0))
    };
    let (first_come, fair) = (run(Order::FirstCome), run(Order::Fair));
    println!("trickle's first token p50/p95: first come {:.1}/{:.1} s", first_come.0, first_come.1);
    println!("trickle's first token p50/p95: fair       {:.1}/{:.1} s", fair.0, fair.1);
    println!("flood's answers in an hour: {} and {}", first_come.2, fair.2);
    assert!(fair.1 * 10.0 <= first_come.1);
    assert!(fair.2 as f64 >= first_come.2 as f64 * 0.95);
}

#[test]
fn under_overload_slots_work_only_for_clients_who_are_still_there() {
    let (slots, hour) = (2, 3600.0);
    // Six tenants ask for one and a half times of what two slots can do.
    let work = Work { prompt: 600, output: 150 };
    let gap = T4.service(work, slots) / (slots as f64 * 1.5) * 6.0;
    let source = Source {
        arrivals: Arrivals::Random(gap),
        prompt: 200..1000,
        output: 50..250,
        misjudged: 0.5..2.0,
        patience: 60.0,
        ..Source::default()
    };
    let mut sim = sim(Order::Fair, slots, vec![source; 6]);
    sim.learns = true;
    sim.run(hour);
    // The simulation itself fails when one is started who has left or whose time is over.
    let goodput = sim.useful / (slots as f64 * hour);
    let count =
        |wanted: fn(Outcome) -> bool| sim.jobs.iter().filter_map(|job| job.outcome).filter(|&o| wanted(o)).count();
    println!("goodput at 1.5 times the capacity: {goodput:.3}");
    println!("complete: {}", count(|outcome| outcome == Outcome::Complete));
    println!("refused at entry: {}", count(|outcome| matches!(outcome, Outcome::Refused(_))));
    println!("expired in the queue: {}", count(|outcome| outcome == Outcome::Expired));
    println!("left the queue: {}", count(|outcome| outcome == Outcome::LeftQueue));
    println!("left while it ran: {}", count(|outcome| outcome == Outcome::LeftRunning));
    assert!(goodput >= 0.95);
}

#[test]
fn one_who_floods_fills_only_its_own_queue() {
    let slots = 2;
    let gap = T4.service(Work { prompt: 600, output: 150 }, slots) / slots as f64;
    let source = |load: f64| Source {
        arrivals: Arrivals::Random(gap / load),
        prompt: 200..1000,
        output: 50..250,
        patience: 60.0,
        caps: Caps { tenant_queued: 4, ..Caps::default() },
        ..Source::default()
    };
    let mut sim = sim(Order::Fair, slots, vec![source(4.0), source(0.1), source(0.1), source(0.1)]);
    sim.learns = true;
    sim.run(4.0 * 3600.0);
    let light: Vec<_> = (1..4).map(|source| sim.success(source)).collect();
    println!("success of the light tenants {light:.3?}, of the one who floods {:.3}", sim.success(0));
    println!("goodput {:.3}", sim.useful / (slots as f64 * sim.now));
    assert!(light.iter().all(|&success| success >= 0.99));
}

/// The longest time in which no request of the first tenant starts after the second came back from 1,000 s of idling.
fn longest_pause(no_lift: bool) -> f64 {
    let busy = Source { arrivals: Arrivals::Outstanding(8), ..flood() };
    let early = Source { active: 1000.0..NEVER, ..flood() };
    let mut sim = sim(Order::Fair, 2, vec![busy, early]);
    sim.scheduler.ablate.no_lift = no_lift;
    sim.run(3000.0);
    let mut starts: Vec<_> = sim.of(0).filter_map(|job| job.started).filter(|&start| start > 990.0).collect();
    starts.sort_by(f64::total_cmp);
    starts.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max)
}

#[test]
fn who_was_idle_for_long_does_not_make_the_others_wait_for_it() {
    let (pause, without) = (longest_pause(false), longest_pause(true));
    println!("longest pause of the busy tenant: {pause:.0} s; if idling were saved up: {without:.0} s");
    assert!(pause < 30.0 && without > 500.0);
}

#[test]
fn the_predicted_wait_is_about_the_real_one() {
    for slots in [1, 2, 4] {
        let gap = T4.service(Work { prompt: 600, output: 150 }, slots) / slots as f64 * 4.0 / 1.1;
        let source = |weight| Source {
            weight,
            arrivals: Arrivals::Random(gap),
            prompt: 200..1000,
            output: 50..250,
            misjudged: 0.5..2.0,
            patience: 120.0,
            ..Source::default()
        };
        let mut sim = sim(Order::Fair, slots, vec![source(1), source(1), source(2), source(4)]);
        sim.learns = true;
        sim.run(2.0 * 3600.0);
        let ratio = |job: &Job| Some((job.started? - job.arrived) / job.predicted.filter(|&wait| wait > 1.0)?);
        let ratios: Vec<_> = sim.jobs.iter().filter_map(ratio).collect();
        let at = |share| quantile(ratios.clone(), share);
        println!(
            "{slots} slots, {} waits: real by predicted p10 {:.2} p50 {:.2} p90 {:.2}",
            ratios.len(),
            at(0.1),
            at(0.5),
            at(0.9)
        );
        assert!(ratios.len() > 100 && (0.5..=2.0).contains(&at(0.5)));
    }
}

#[test]
fn classes_and_tenants_get_their_shares_by_weight() {
    let source = |class, weight| Source { class, weight, ..flood() };
    // Classes 8 : 4 : 1, and in the first of them tenants 3 : 1.
    let sources = vec![source(0, 3), source(0, 1), source(1, 1), source(2, 1)];
    let mut sim = Sim::new(settings(Order::Fair, &[8, 4, 1]), T4, &[4], sources, 7);
    sim.run(2.0 * 3600.0);
    let all: f64 = (0..4).map(|source| sim.gaps.service(source)).sum();
    let shares: Vec<_> = (0..4).map(|source| sim.gaps.service(source) / all).collect();
    println!("shares {shares:.3?} of 0.462, 0.154, 0.308, 0.077");
    for (share, wanted) in shares.iter().zip([6.0 / 13.0, 2.0 / 13.0, 4.0 / 13.0, 1.0 / 13.0]) {
        assert!((share / wanted - 1.0).abs() < 0.03, "{share} is not {wanted}");
    }
}

#[test]
fn a_strict_class_goes_first_whatever_the_others_wait_for() {
    let mut settings = settings(Order::Fair, &[1, 1]);
    settings.classes[0].strict = true;
    let sources = vec![Source { ..trickle() }, Source { class: 1, ..flood() }];
    let mut sim = Sim::new(settings, T4, &[1], sources, 7);
    sim.run(3600.0);
    let longest = quantile(sim.first_tokens(0), 1.0);
    println!("strict class: first token after {longest:.1} s at most");
    // One request of the other class at most, and its own prompt.
    assert!(longest <= T4.service(Work { prompt: 400, output: 256 }, 1) + 0.3);
}

/// Cached share of all prompt tokens, and what clients wait: half of them at most, one in a hundred at least, in
/// seconds.
fn conversations(slack: u32, passes: u32) -> (f64, f64, f64, usize) {
    let talk = Source {
        arrivals: Arrivals::Outstanding(4),
        prompt: 2900..3100,
        output: 64..128,
        conversations: 2,
        ..Source::default()
    };
    let mut settings = settings(Order::Fair, &[1]);
    (settings.locality_slack, settings.locality_passes) = (slack, passes);
    let mut sim = Sim::new(settings, T4, &[2], vec![talk; 6], 7);
    sim.run(3600.0);
    let started = || sim.jobs.iter().filter(|job| job.started.is_some());
    let prompt: u64 = started().map(|job| job.work.prompt).sum();
    let cached: u64 = started().map(|job| job.cached).sum();
    let waits: Vec<_> = started().filter_map(|job| Some(job.started? - job.arrived)).collect();
    let done = (0..6).map(|source| sim.complete(source)).sum();
    (cached as f64 / prompt as f64, quantile(waits.clone(), 0.5), quantile(waits, 0.99), done)
}

#[test]
fn some_slack_finds_more_prompts_in_the_cache_and_passes_bound_what_that_costs() {
    let mut results = Vec::new();
    for (slack, passes) in [(0, 0), (4096, 4), (4096, 1000), (16384, 1000)] {
        let (cached, median, tail, done) = conversations(slack, passes);
        println!(
            "slack {slack}, passes {passes}: cached {cached:.2}, done {done}, wait p50 {median:.0} s, p99 {tail:.0} s"
        );
        results.push((cached, tail, done));
    }
    let [none, bounded, ..] = results[..] else { panic!("four results") };
    assert!(bounded.0 > none.0 + 0.2 && bounded.2 > none.2);
    assert!(bounded.1 < 2.0 * none.1);
}

#[test]
fn the_example_of_the_documentation_goes_as_it_says() {
    let mut scheduler = Scheduler::new(settings(Order::Fair, &[1]));
    scheduler.set_replica(ReplicaId(0), 1, true);
    let now = Instant::now();
    let (mut names, mut started) = (BTreeMap::new(), String::new());
    for decision in 1..=8 {
        let coming: &[_] = match decision {
            1 => &[("A", 2, 100), ("B", 1, 110)],
            7 => &[("C", 1, 100)],
            _ => &[],
        };
        // Five of each, so that all have something waiting.
        for (name, weight, prompt) in coming.iter().flat_map(|&one| [one; 5]) {
            let source = Source { weight, ..Source::default() };
            let work = Work { prompt, output: 50 };
            let waiting = ticket(0, &source, work, 0, now + Duration::from_secs(1000));
            let waiting = Ticket { tenant: name.into(), ..waiting };
            names.insert(scheduler.enter(waiting, now).unwrap().0, (name, prompt));
        }
        let Some(Decision::Start { ticket, served, .. }) = scheduler.next(now) else { panic!("nobody starts") };
        let (name, prompt) = names[&ticket];
        started += name;
        let output = if decision == 6 { 150 } else { 50 };
        served.record(prompt, 0, output);
        scheduler.finish(ticket, now);
    }
    assert_eq!(started, "ABAABACB");
}
