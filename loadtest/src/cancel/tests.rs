use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::*;
use crate::served::{Asked, Served, serve_bodies};

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

/// A reply: some text, or the events that are left to be sent and then silence. A stream tells when its client leaves.
enum Reply {
    Text(Option<String>),
    Stream(usize, Llama),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let (rest, llama) = match &mut *self {
            Self::Text(text) => return Poll::Ready(text.take().map(|text| Ok(Frame::data(text.into())))),
            Self::Stream(rest, llama) => (rest, llama),
        };
        if *rest > 0 {
            *rest -= 1;
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"data: {}\n\n")))));
        }
        let mut state = llama.0.lock().unwrap();
        if state.serving && !state.ends {
            return Poll::Pending;
        }
        state.serving = false;
        Poll::Ready(None)
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let Self::Stream(_, llama) = self else { return };
        let mut state = llama.0.lock().unwrap();
        if state.serving {
            state.serving = false;
            state.still_busy = state.notices_after;
            state.left += 1;
        }
    }
}

fn metrics(busy: bool) -> String {
    let busy = u8::from(busy);
    format!(
        "llamacpp:prompt_tokens_total 1\nllamacpp:tokens_predicted_total 1\n\
         llamacpp:requests_processing {busy}\nllamacpp:requests_deferred 0\n"
    )
}

impl Llama {
    fn answer(&self, asked: &Asked) -> (u16, Reply) {
        let text = |text| Reply::Text(Some(text));
        let mut state = self.0.lock().unwrap();
        let busy = state.serving || state.still_busy > 0;
        match asked.path.as_str() {
            "/v1/chat/completions" => {
                state.serving = true;
                (200, Reply::Stream(state.events, self.clone()))
            }
            "/slots" if state.has_slots => {
                state.still_busy = state.still_busy.saturating_sub(1);
                (200, text(format!("[{{\"is_processing\":{busy}}}]")))
            }
            "/metrics" if state.has_metrics => {
                state.still_busy = state.still_busy.saturating_sub(1);
                (200, text(metrics(busy)))
            }
            _ => (501, text(String::new())),
        }
    }

    async fn start(state: State) -> (Self, Served) {
        let llama = Self(Arc::new(Mutex::new(state)));
        let answers = llama.clone();
        (llama, serve_bodies(move |asked| answers.answer(asked)).await)
    }
}

async fn probe(served: &Served, leaving: Leaving) -> anyhow::Result<Freed> {
    let server = served.server();
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
    let (llama, served) = Llama::start(state).await;
    assert_noticed_after_100_ms(&probe(&served, Leaving::DuringOutput).await.unwrap(), &llama);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_before_the_first_token_leaves_when_the_prompt_is_being_computed() {
    let state = State { notices_after: 50, has_slots: true, ..State::default() };
    let (llama, served) = Llama::start(state).await;
    assert_noticed_after_100_ms(&probe(&served, Leaving::BeforeFirstToken).await.unwrap(), &llama);
}

#[tokio::test(start_paused = true)]
async fn without_slots_the_metrics_are_watched() {
    let state = State { notices_after: 50, events: 10, has_metrics: true, ..State::default() };
    let (llama, served) = Llama::start(state).await;
    assert_noticed_after_100_ms(&probe(&served, Leaving::DuringOutput).await.unwrap(), &llama);
}

#[tokio::test]
async fn a_llama_server_that_tells_nothing_is_an_error_with_a_hint() {
    let (_, served) = Llama::start(State { events: 10, ..State::default() }).await;
    let error = probe(&served, Leaving::DuringOutput).await.unwrap_err();
    assert!(format!("{error:#}").ends_with("hint: start llama-server with --slots or --metrics"), "{error:#}");
}

#[tokio::test(start_paused = true)]
async fn a_llama_server_that_others_use_is_given_up() {
    let (llama, served) = Llama::start(State { has_slots: true, ..State::default() }).await;
    llama.0.lock().unwrap().serving = true;
    let error = probe(&served, Leaving::DuringOutput).await.unwrap_err();
    assert_eq!(format!("{error:#}"), "before a trial: llama-server was busy for 10 s: others use it");
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_ends_before_its_client_leaves_is_a_missed_trial() {
    let state = State { events: EVENTS - 1, ends: true, has_slots: true, ..State::default() };
    let (_, served) = Llama::start(state).await;
    let freed = probe(&served, Leaving::DuringOutput).await.unwrap();
    assert_eq!((freed.times.count, freed.missed), (0, 3));
}

#[test]
fn percentiles_of_a_handful_are_values_that_came() {
    let times: Vec<_> = [30, 10, 20, 40].map(Duration::from_millis).to_vec();
    let distribution = distribution(&times);
    let few = [distribution.min, distribution.p50, distribution.p90, distribution.max, distribution.mean];
    assert_eq!(few, [10.0, 20.0, 40.0, 40.0, 25.0]);
    assert_eq!(super::distribution(&[]).count, 0);
}
