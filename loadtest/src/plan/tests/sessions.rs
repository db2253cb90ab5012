//! Sessions: pure, with texts of the length that they say and prefixes that are shared.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const MANY_SIDED: &str = "
    prompt_tokens = { kind = 'lognormal', median = 20, sigma = 1, max = 200 }
    output_tokens = { kind = 'uniform', min = 5, max = 50 }
    prefix_tokens = 30
    prefixes = 3
    turns = { kind = 'uniform', min = 1, max = 4 }
    turn_pause = { kind = 'uniform', min = 1, max = 2 }
    streamed = 0.5
    leavers = { share = 0.3, after_seconds = { kind = 'uniform', max = 2 }, after_tokens = 4 }
    slow_readers = { share = 0.2, pause = '50ms' }";

fn words(text: &str) -> u64 {
    text.split(' ').filter(|word| !word.is_empty()).count() as u64
}

proptest! {
    #[test]
    fn a_session_is_the_same_in_whatever_order_it_is_asked_for(mut numbers in proptest::collection::vec(0..500u64, 1..12)) {
        let plan = chat(MANY_SIDED);
        let first: Vec<_> = numbers.iter().map(|number| plan.session(*number)).collect();
        numbers.reverse();
        let second: Vec<_> = numbers.iter().map(|number| chat(MANY_SIDED).session(*number)).collect();
        prop_assert_eq!(first, second.into_iter().rev().collect::<Vec<_>>());
    }

    #[test]
    fn a_prefix_is_shared_by_exactly_the_sessions_of_its_group(one in 0..500u64, other in 0..500u64) {
        let plan = chat(MANY_SIDED);
        let (one, other) = (plan.session(one), plan.session(other));
        prop_assert_eq!(one.number % 3 == other.number % 3, one.system == other.system);
        prop_assert_eq!(words(one.system.as_deref().unwrap()), 30);
        prop_assert_eq!(one.number == other.number, one.turns[0].prompt == other.turns[0].prompt);
    }

    #[test]
    fn texts_have_as_many_words_as_they_say(number in 0..500u64) {
        for turn in chat(MANY_SIDED).session(number).turns {
            prop_assert_eq!(words(&turn.prompt), turn.prompt_tokens);
            prop_assert!((1..=200).contains(&turn.prompt_tokens) && (5..=50).contains(&turn.output_tokens));
        }
    }
}

#[test]
fn another_tenant_in_the_workload_changes_nothing() {
    let alone = workload("[tenants.chat]\narrival = { kind = 'poisson', rate = 2 }\n");
    let mut beside = alone.clone();
    beside.tenants.insert("another".to_owned(), Default::default());
    let [alone, beside] =
        [alone, beside].map(|workload| TenantPlan::new(&workload, "chat", &Vocabulary::estimated()).unwrap());
    assert_eq!(alone.session(3), beside.session(3));
    assert!(alone.arrivals().take(100).eq(beside.arrivals().take(100)));
}

#[test]
fn another_seed_another_tenant_and_another_number_say_something_else() {
    let text = "[tenants.a]\n[tenants.b]\n";
    let prompt = |seed: u64, tenant: &str, number: u64| {
        let workload = Workload { seed, ..workload(text) };
        let plan = TenantPlan::new(&workload, tenant, &Vocabulary::estimated()).unwrap();
        plan.session(number).turns[0].prompt.clone()
    };
    let prompts = BTreeSet::from([prompt(1, "a", 0), prompt(2, "a", 0), prompt(1, "b", 0), prompt(1, "a", 1)]);
    assert_eq!(prompts.len(), 4);
}

#[test]
fn leavers_slow_readers_and_streams_are_as_many_as_the_workload_says() {
    let plan = chat(MANY_SIDED);
    let turns: Vec<_> = (0..4000).flat_map(|number| plan.session(number).turns).collect();
    let share = |is: fn(&Turn) -> bool| turns.iter().filter(|turn| is(turn)).count() as f64 / turns.len() as f64;
    // About 10,000 turns: the standard error is below 0.005.
    assert!((share(|turn| turn.streamed) - 0.5).abs() < 0.02);
    assert!((share(|turn| turn.leave.is_some()) - 0.3).abs() < 0.02);
    assert!((share(|turn| turn.slow_reader == Some(Duration::from_millis(50))) - 0.2).abs() < 0.02);
    let leave = turns.iter().find_map(|turn| turn.leave).unwrap();
    assert!(leave.after.unwrap() <= Duration::from_secs(2));
    assert_eq!(leave.after_chunks, Some(4));
}

#[test]
fn the_first_turn_has_no_pause_and_the_others_have() {
    let plan = chat(MANY_SIDED);
    for session in (0..50).map(|number| plan.session(number)) {
        assert_eq!(session.turns[0].pause, Duration::ZERO);
        assert!(session.turns[1..].iter().all(|turn| (1.0..=2.0).contains(&turn.pause.as_secs_f64())));
    }
}

#[test]
fn another_share_of_leavers_changes_nothing_else() {
    let with = chat(MANY_SIDED).session(7);
    let mut without = chat(&MANY_SIDED.replace("share = 0.3", "share = 0.0")).session(7);
    for (turn, before) in without.turns.iter_mut().zip(&with.turns) {
        turn.leave = before.leave;
    }
    assert_eq!(with, without);
}

#[test]
fn what_cannot_be_streamed_is_not() {
    let plan = chat("surface = 'embeddings'");
    assert!((0..50).all(|number| !plan.session(number).turns[0].streamed));
}

#[test]
fn users_think_as_long_as_the_workload_says() {
    let plan = chat("arrival = { kind = 'closed', users = 1, think_time = { kind = 'uniform', min = 1, max = 3 } }");
    let pauses: Vec<_> = (0..100).map(|number| plan.think_time(number)).collect();
    assert!(pauses.iter().all(|pause| (1.0..=3.0).contains(&pause.as_secs_f64())));
    assert_ne!(pauses[0], pauses[1]);
    assert_eq!(pauses[5], plan.think_time(5));
}

#[test]
fn a_vocabulary_of_known_words_is_used() {
    let vocabulary = Vocabulary::from_words(vec!["left".to_owned(), "right".to_owned()]).unwrap();
    let plan = TenantPlan::new(&workload("[tenants.chat]"), "chat", &vocabulary).unwrap();
    assert!(plan.session(0).turns[0].prompt.split(' ').all(|word| word == "left" || word == "right"));
    assert!(Vocabulary::from_words(vec!["alone".to_owned()]).is_none());
}

#[test]
fn the_estimated_words_differ() {
    let vocabulary = Vocabulary::estimated();
    let words: Vec<_> = vocabulary.words().collect();
    assert!(words.len() > 200);
    assert_eq!(words.iter().collect::<BTreeSet<_>>().len(), words.len());
}

#[test]
fn a_tenant_that_is_not_there_has_no_plan() {
    let error = TenantPlan::new(&workload("[tenants.chat]"), "chatt", &Vocabulary::estimated()).unwrap_err();
    assert!(error.to_string().starts_with("there is no tenant `chatt`"), "{error}");
}
