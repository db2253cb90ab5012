//! The first draws of a workload, word for word. If this test fails, a version of the harness measures something else than
//! the one before, and reports cannot be compared: that is no small change.

use super::*;

#[test]
fn the_first_draws_of_a_workload_are_what_they_always_were() {
    let plan = plan(
        "seed = 42\nduration = '60s'",
        "arrival = { kind = 'gamma', rate = 2, shape = 0.5 }
         prompt_tokens = { kind = 'lognormal', median = 5, sigma = 0.5 }
         output_tokens = { kind = 'normal', mean = 50, deviation = 20 }
         prefix_tokens = 4
         turns = { kind = 'uniform', min = 1, max = 3 }
         turn_pause = { kind = 'empirical', values = [1, 2, 3], weights = [1, 1, 2] }
         streamed = 0.5",
    );
    let moments: Vec<_> = plan.arrivals().take(4).map(|moment| moment.as_micros()).collect();
    assert_eq!(moments, [73_511, 89_313, 103_049, 118_228]);
    let session = plan.session(1);
    assert_eq!(session.system.as_deref(), Some("green remember reach effect"));
    let turns: Vec<_> = session
        .turns
        .iter()
        .map(|turn| (&*turn.prompt, turn.output_tokens, turn.pause.as_secs(), turn.streamed))
        .collect();
    assert_eq!(
        turns,
        [("war offer major art", 38, 0, false), ("resource join rich east scale near structure", 62, 3, true),]
    );
}
