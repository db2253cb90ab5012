use super::super::words::Reply;
use super::*;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// One slot: a token takes 10 ms, a prompt token 1 ms.
fn profile(slots: usize) -> Profile {
    let fast = Profile::shipped("fast").unwrap();
    Profile { slots, prefill_rate: 1000.0, batch: 100, context: 1000, host_cache: 260, ..fast }
}

fn sequence(first: u32, prompt: usize, output: u64) -> Sequence {
    Sequence {
        prompt: (0..prompt as u32).map(|token| first + token).collect(),
        reply: Reply::Words { seed: 1 },
        ends_at: None,
        limit: Some(output),
        cached: true,
        trouble: None,
    }
}

fn request(first: u32, prompt: usize, output: u64) -> Request {
    Request { sequences: vec![sequence(first, prompt, output)], together: false, streamed: true, ping: None }
}

fn unstreamed(request: Request) -> Request {
    Request { streamed: false, ..request }
}

/// Runs to `until` and gives the moments of what `wanted` picks of one request's events, in ms.
fn moments(model: &mut Model, until: u64, request: u64, wanted: fn(&Event) -> bool) -> Vec<u64> {
    let mut found = Vec::new();
    while let Some(due) = model.next().filter(|due| *due <= ms(until)) {
        model.advance(due);
        let outputs = model.outputs();
        let of_request = outputs.iter().filter(|output| output.request == request && wanted(&output.event));
        found.extend(of_request.map(|output| output.at.as_millis() as u64));
    }
    model.advance(ms(until));
    found
}

fn tokens(event: &Event) -> bool {
    matches!(event, Event::Token)
}

fn ended(event: &Event) -> bool {
    matches!(event, Event::Ended(_))
}

#[test]
fn a_request_alone_takes_what_the_profile_expects() {
    let mut model = Model::new(profile(1));
    let id = model.submit(request(0, 250, 4), ms(5));
    let expected = model.profile().expected(ms(5), 250, 4, 1);
    let moments = moments(&mut model, 1000, id, tokens);
    assert_eq!(moments, [265, 275, 285, 295]);
    assert_eq!(expected.first_token, ms(265));
    assert_eq!((expected.gap, expected.end), (ms(10), ms(295)));
}

#[test]
fn who_finds_no_slot_waits_its_turn() {
    let mut model = Model::new(profile(1));
    let ids = [0, 1000, 2000].map(|first| model.submit(request(first, 50, 2), ms(0)));
    assert_eq!((model.busy(), model.deferred()), (1, 2));
    let mut firsts = Vec::new();
    while let Some(due) = model.next().filter(|due| *due < ms(500)) {
        model.advance(due);
        firsts.extend(model.outputs().iter().filter(|output| output.event == Event::Started).map(|o| o.request));
    }
    assert_eq!(firsts, ids, "first come, first served");
}

#[test]
fn a_long_prompt_makes_others_wait_for_their_tokens() {
    let mut model = Model::new(profile(2));
    let first = model.submit(request(0, 10, 20), ms(0));
    model.submit(request(1000, 150, 1), ms(25));
    let moments = moments(&mut model, 1000, first, tokens);
    // 20 prefill and first token; then two passes with 99 and 51 prompt tokens beside its own.
    assert_eq!(&moments[..5], [20, 30, 30 + 99 + 10, 139 + 51 + 10, 210]);
}

#[test]
fn the_second_slot_makes_steps_longer_by_the_slope() {
    let mut model = Model::new(Profile { decode_slope: 0.5, ..profile(2) });
    let both = Request { sequences: vec![sequence(0, 10, 3), sequence(500, 10, 3)], ..request(0, 1, 1) };
    let id = model.submit(both, ms(0));
    assert_eq!(moments(&mut model, 1000, id, tokens), [10 + 10 + 15, 35, 50, 50, 65, 65]);
}

#[test]
fn a_prompt_that_begins_like_the_last_one_costs_only_the_rest() {
    let mut model = Model::new(profile(1));
    let first = model.submit(request(0, 100, 1), ms(0));
    assert_eq!(moments(&mut model, 1000, first, ended), [110]);
    let again = model.submit(request(0, 120, 1), ms(1000));
    assert_eq!(moments(&mut model, 2000, again, ended), [1000 + 20 + 10]);
    let same = model.submit(request(0, 120, 1), ms(2000));
    assert_eq!(moments(&mut model, 3000, same, ended), [2000 + 1 + 10], "one token is always computed");
    let mut uncached = request(0, 120, 1);
    uncached.sequences[0].cached = false;
    let uncached = model.submit(uncached, ms(3000));
    assert_eq!(moments(&mut model, 4000, uncached, ended), [3000 + 120 + 10]);
    assert_eq!((model.counters().prompt, model.counters().cached), (100 + 20 + 1 + 120, 100 + 119));
}

#[test]
fn a_prompt_that_lost_its_slot_comes_back_from_the_host_cache_until_that_is_full() {
    let mut model = Model::new(profile(1));
    let mut at = 0;
    let mut computed = |first, prompt| {
        let id = model.submit(request(first, prompt, 1), ms(at));
        let ended = moments(&mut model, at + 1000, id, ended)[0];
        at += 1000;
        ended + 1000 - at - 10
    };
    assert_eq!(computed(0, 100), 100);
    assert_eq!(computed(10_000, 150), 150);
    assert_eq!(computed(0, 100), 1, "saved when its slot was taken");
    assert_eq!(computed(20_000, 180), 180);
    assert_eq!(computed(10_000, 150), 150, "there was no room for both");
}

#[test]
fn a_stream_whose_client_leaves_frees_its_slot_after_the_token_under_way() {
    let mut model = Model::new(profile(1));
    let id = model.submit(request(0, 10, 100), ms(0));
    model.leave(id, ms(55));
    model.advance(ms(59));
    assert_eq!(model.busy(), 1);
    model.advance(ms(60));
    assert_eq!(model.busy(), 0);
    assert_eq!(model.cancels().collect::<Vec<_>>(), [&Cancel { left: ms(55), freed: ms(60) }]);
}

#[test]
fn a_prompt_nobody_wants_is_ended_only_between_batches() {
    let mut model = Model::new(profile(1));
    let id = model.submit(request(0, 300, 5), ms(0));
    model.leave(id, ms(110));
    model.advance(ms(1000));
    assert_eq!(model.cancels().next(), Some(&Cancel { left: ms(110), freed: ms(200) }));
}

#[test]
fn a_client_that_left_the_queue_is_not_noticed_while_another_streams() {
    let mut model = Model::new(profile(1));
    let stream = model.submit(request(0, 10, 300), ms(0));
    let queued = model.submit(request(1000, 50, 300), ms(0));
    model.leave(queued, ms(10));
    assert_eq!(moments(&mut model, 3010, stream, ended), [3010]);
    model.advance(ms(4000));
    assert_eq!(model.counters().prompt, 10 + 50, "it was launched and its prompt computed");
    assert_eq!(model.cancels().next(), Some(&Cancel { left: ms(10), freed: ms(3010 + 50 + 10) }));
}

#[test]
fn a_client_that_left_the_queue_is_noticed_within_a_second_of_silence() {
    let mut model = Model::new(profile(1));
    model.submit(unstreamed(request(0, 10, 300)), ms(0));
    let queued = model.submit(unstreamed(request(1000, 50, 300)), ms(0));
    model.leave(queued, ms(1200));
    model.advance(ms(2500));
    assert_eq!(model.deferred(), 0);
    assert_eq!(model.cancels().next(), Some(&Cancel { left: ms(1200), freed: ms(2000) }));
}

#[test]
fn an_unstreamed_reply_for_nobody_runs_on_beside_a_stream() {
    let mut model = Model::new(profile(2));
    let gone = model.submit(unstreamed(request(0, 10, 100)), ms(0));
    model.submit(request(1000, 10, 500), ms(0));
    model.leave(gone, ms(50));
    assert_eq!(moments(&mut model, 3000, gone, ended).len(), 1, "it ran to its end");
}

#[test]
fn an_unstreamed_reply_for_nobody_is_ended_within_a_second_unless_somebody_polls() {
    for (polled, busy) in [(false, 0), (true, 1)] {
        let mut model = Model::new(profile(1));
        let gone = model.submit(unstreamed(request(0, 10, 900)), ms(0));
        model.leave(gone, ms(50));
        for half_second in 1..6 {
            model.advance(ms(half_second * 500));
            if polled {
                model.poke(ms(half_second * 500));
            }
        }
        assert_eq!(model.busy(), busy, "polled: {polled}");
    }
}

#[test]
fn pings_come_in_silence_and_not_while_another_slot_gives_tokens() {
    let slow = Profile { prefill_rate: 1.0, ping: Duration::from_secs(5), ..profile(2) };
    let ping = |event: &Event| matches!(event, Event::Ping);
    let mut model = Model::new(slow.clone());
    let silent = model.submit(request(0, 20, 1), ms(0));
    assert_eq!(moments(&mut model, 19_000, silent, ping), [5000, 10_000, 15_000]);

    let mut model = Model::new(Profile { prefill_rate: 1000.0, ..slow });
    let mut stuck = request(0, 10, 10);
    stuck.sequences[0].trouble = Some(Trouble { after: 1, kind: TroubleKind::Hang });
    let stuck = model.submit(stuck, ms(0));
    model.submit(request(500, 10, 900), ms(0));
    assert_eq!(moments(&mut model, 9000, stuck, ping), [0; 0], "the other one speaks");
    assert_eq!(moments(&mut model, 20_000, stuck, ping).len(), 2, "and then does not");
}

#[test]
fn a_hanging_slot_is_free_when_its_client_leaves_and_a_wedged_one_never() {
    for (kind, busy) in [(TroubleKind::Hang, 0), (TroubleKind::Wedge, 1)] {
        let mut model = Model::new(profile(1));
        let mut request = request(0, 10, 10);
        request.sequences[0].trouble = Some(Trouble { after: 3, kind });
        let id = model.submit(request, ms(0));
        assert_eq!(moments(&mut model, 500, id, tokens).len(), 3);
        model.leave(id, ms(500));
        model.advance(ms(60_000));
        assert_eq!(model.busy(), busy, "{kind:?}");
    }
}

#[test]
fn a_broken_sequence_frees_its_slot_without_an_end() {
    let mut model = Model::new(profile(1));
    let mut request = request(0, 10, 10);
    request.sequences[0].trouble = Some(Trouble { after: 3, kind: TroubleKind::Break });
    let id = model.submit(request, ms(0));
    assert_eq!(moments(&mut model, 500, id, |event| matches!(event, Event::Broken)), [40]);
    assert_eq!(model.busy(), 0);
}

#[test]
fn a_stall_holds_everything_back_by_its_length() {
    let mut model = Model::new(profile(1));
    let id = model.submit(request(0, 10, 4), ms(0));
    model.stall(ms(500), ms(25));
    let late = model.submit(request(1000, 10, 1), ms(30));
    assert_eq!(moments(&mut model, 1000, id, tokens), [20, 530, 540, 550]);
    assert!(model.busy() == 0 && model.deferred() == 0, "{late} was served too");
}

#[test]
fn nothing_starts_in_a_stall() {
    let mut model = Model::new(profile(1));
    model.stall(ms(500), ms(0));
    let id = model.submit(request(0, 10, 1), ms(100));
    assert_eq!(moments(&mut model, 1000, id, |event| matches!(event, Event::Started)), [500]);
}

#[test]
fn a_prompt_beyond_the_context_is_refused_when_it_gets_its_slot() {
    let mut model = Model::new(profile(1));
    model.submit(request(0, 10, 3), ms(0));
    let long = model.submit(request(5000, 1000, 3), ms(0));
    assert_eq!(moments(&mut model, 1000, long, |event| *event == Event::TooLong(1000)), [40]);
}

#[test]
fn the_context_ends_a_reply_that_has_no_other_end() {
    let mut model = Model::new(profile(1));
    let mut endless = request(0, 900, 1);
    endless.sequences[0].limit = None;
    let id = model.submit(endless, ms(0));
    assert_eq!(moments(&mut model, 10_000, id, tokens).len(), 100);
    let mut brief = request(5000, 10, 50);
    brief.sequences[0].ends_at = Some(7);
    let id = model.submit(brief, ms(10_000));
    assert_eq!(moments(&mut model, 20_000, id, |event| *event == Event::Ended(End::Complete)).len(), 1);
}

#[test]
fn choices_wait_for_as_many_slots_and_let_others_pass() {
    let mut model = Model::new(profile(2));
    let running = model.submit(request(0, 10, 20), ms(0));
    let sequences = vec![sequence(500, 10, 2), sequence(500, 10, 2)];
    let choices = model.submit(Request { sequences, together: true, ..request(0, 1, 1) }, ms(0));
    let single = model.submit(request(900, 10, 2), ms(0));
    let started = |event: &Event| matches!(event, Event::Started);
    assert_eq!(moments(&mut model, 100, single, started), [0]);
    assert_eq!(model.deferred(), 1);
    assert_eq!(moments(&mut model, 2000, choices, started).len(), 2);
    assert!(running < choices);
}

#[test]
fn choices_share_the_work_on_their_prompt() {
    let mut model = Model::new(profile(2));
    let sequences = || vec![sequence(0, 150, 2), sequence(0, 150, 2)];
    let first = model.submit(Request { sequences: sequences(), together: true, ..request(0, 1, 1) }, ms(0));
    assert_eq!(moments(&mut model, 1000, first, tokens), [160, 160, 170, 170]);
    assert_eq!(model.counters().prompt, 150);
    model.submit(request(5000, 10, 2), ms(1000));
    model.advance(ms(2000));
    let again = model.submit(Request { sequences: sequences(), together: true, ..request(0, 1, 1) }, ms(2000));
    assert_eq!(moments(&mut model, 3000, again, tokens), [2011, 2011, 2021, 2021], "what one slot holds serves both");
}

#[test]
fn tokens_are_counted_when_their_request_is_over() {
    let mut model = Model::new(profile(1));
    let id = model.submit(request(0, 100, 11), ms(0));
    model.advance(ms(150));
    assert_eq!((model.counters().prompt, model.counters().predicted), (100, 0));
    assert_eq!(moments(&mut model, 1000, id, ended), [210]);
    assert_eq!(model.counters().predicted, 11);
    assert_eq!(model.counters().averages(), (100.0 / 0.11, 11.0 / 0.1));
    assert_eq!(model.counters().averages(), (0.0, 0.0), "averages begin anew with each reader");
}

#[test]
fn a_slot_tells_what_it_does() {
    let mut model = Model::new(profile(2));
    model.submit(request(0, 100, 11), ms(0));
    model.advance(ms(135));
    let slots = model.look();
    assert!(slots[0].busy && !slots[1].busy);
    assert_eq!((slots[0].computed, slots[0].generated, slots[0].remain), (100, 3, Some(8)));
    model.advance(ms(1000));
    assert_eq!(model.look()[0].task, Some(0), "the last task stays");
}
