use std::sync::{Arc, Mutex};

use super::*;
use crate::stub::{Asked, Conn, Stub};
use crate::target::tests::server;

/// A llama-server with one slot.
#[derive(Clone, Default)]
struct Llama(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// A request is under way.
    serving: bool,
    /// After its client left: for so many answers of `/slots` it is still busy.
    still_busy: u32,
    /// What `still_busy` is set to when a client leaves.
    notices_after: u32,
    /// Clients who left.
    left: u32,
    /// Events of a reply, after which it is silent.
    events: usize,
    /// The reply ends after its events.
    ends: bool,
    has_slots: bool,
    has_metrics: bool,
}

fn metrics(busy: bool) -> String {
    let busy = u8::from(busy);
    format!(
        "llamacpp:prompt_tokens_total 1\nllamacpp:tokens_predicted_total 1\n\
         llamacpp:requests_processing {busy}\nllamacpp:requests_deferred 0\n"
    )
}

impl Llama {
    async fn start(state: State) -> (Self, Stub) {
        let llama = Self(Arc::new(Mutex::new(state)));
        let served = llama.clone();
        let stub = Stub::start(move |mut conn| {
            let llama = served.clone();
            async move {
                while let Some(asked) = conn.request().await {
                    if asked.path() == "/v1/chat/completions" {
                        return llama.stream(&mut conn).await;
                    }
                    let (status, body) = llama.tell(&asked);
                    conn.whole(status, "", &body).await;
                }
            }
        });
        (llama, stub.await)
    }

    async fn stream(&self, conn: &mut Conn) {
        let (events, ends) = self.change(|state| {
            state.serving = true;
            (state.events, state.ends)
        });
        conn.stream().await;
        // Comments that keep the connection alive are no output.
        for _ in 0..EVENTS {
            conn.chunk(": ping\n\n").await;
        }
        for _ in 0..events {
            conn.chunk("data: {}\n\n").await;
        }
        if ends {
            self.change(|state| state.serving = false);
            return conn.chunk("").await;
        }
        conn.hung_up().await;
        self.change(|state| {
            state.serving = false;
            state.still_busy = state.notices_after;
            state.left += 1;
        });
    }

    /// What it says of its slots.
    fn tell(&self, asked: &Asked) -> (u16, String) {
        self.change(|state| {
            let busy = state.serving || state.still_busy > 0;
            let (status, body) = match asked.path() {
                "/slots" if state.has_slots => (200, format!("[{{\"is_processing\":{busy}}}]")),
                "/metrics" if state.has_metrics => (200, metrics(busy)),
                _ => return (501, String::new()),
            };
            state.still_busy = state.still_busy.saturating_sub(1);
            (status, body)
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }
}

async fn probe(stub: &Stub, leaving: Leaving) -> anyhow::Result<Freed> {
    let server = server(stub);
    let probe = Probe { target: &server, upstreams: std::slice::from_ref(&server), model: "tiny", trials: 3 };
    probe.run(leaving).await
}

/// Three trials in which llama-server notices after 50 questions, 2 ms apart.
fn assert_noticed_after_100_ms(freed: &Freed, llama: &Llama) {
    assert_eq!((freed.times.count, freed.missed, llama.0.lock().unwrap().left), (3, 0, 3));
    assert!((100.0..=110.0).contains(&freed.times.min) && freed.times.max <= 110.0, "{freed:?}");
    assert!((2.0..=4.0).contains(&freed.resolution), "{freed:?}");
}

#[tokio::test(start_paused = true)]
async fn the_time_until_the_slot_is_free_is_counted_from_the_leaving() {
    let state = State { notices_after: 50, events: 10, has_slots: true, ..State::default() };
    let (llama, stub) = Llama::start(state).await;
    assert_noticed_after_100_ms(&probe(&stub, Leaving::DuringOutput).await.unwrap(), &llama);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_before_the_first_token_leaves_when_the_prompt_is_being_computed() {
    let state = State { notices_after: 50, has_slots: true, ..State::default() };
    let (llama, stub) = Llama::start(state).await;
    assert_noticed_after_100_ms(&probe(&stub, Leaving::BeforeFirstToken).await.unwrap(), &llama);
}

#[tokio::test(start_paused = true)]
async fn without_slots_the_metrics_are_watched() {
    let state = State { notices_after: 50, events: 10, has_metrics: true, ..State::default() };
    let (llama, stub) = Llama::start(state).await;
    assert_noticed_after_100_ms(&probe(&stub, Leaving::DuringOutput).await.unwrap(), &llama);
}

#[tokio::test]
async fn a_llama_server_that_tells_nothing_is_an_error_with_a_hint() {
    let (_, stub) = Llama::start(State { events: 10, ..State::default() }).await;
    let error = probe(&stub, Leaving::DuringOutput).await.unwrap_err();
    assert!(format!("{error:#}").ends_with("hint: start llama-server with --slots or --metrics"), "{error:#}");
}

#[tokio::test(start_paused = true)]
async fn a_llama_server_that_others_use_is_given_up() {
    let (llama, stub) = Llama::start(State { has_slots: true, ..State::default() }).await;
    llama.0.lock().unwrap().serving = true;
    let error = probe(&stub, Leaving::DuringOutput).await.unwrap_err();
    assert_eq!(format!("{error:#}"), "before a trial: llama-server was busy for 10 s: others use it");
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_ends_before_its_client_leaves_is_a_missed_trial() {
    let state = State { events: EVENTS - 1, ends: true, has_slots: true, ..State::default() };
    let (_, stub) = Llama::start(state).await;
    let freed = probe(&stub, Leaving::DuringOutput).await.unwrap();
    assert_eq!((freed.times.count, freed.missed), (0, 3));
}
