//! The model in real time: one task lets it run, handlers hand it requests and get their events.
//!
//! Events are due at the model's own moments, not after the last one was handled: what a timer is late by does not add up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::model::{Model, Moment, Output, Request};

/// Events of one sequence beyond its tokens and prompt batches, with some room for pings.
const FURTHER_EVENTS: usize = 64;

/// The model and those who wait for its events.
pub(crate) struct Engine {
    state: Mutex<State>,
    changed: Notify,
    began: Instant,
}

struct State {
    model: Model,
    listeners: HashMap<u64, mpsc::Sender<Output>>,
}

impl State {
    /// Hands out what has happened. Who has left gets nothing; who does not read loses nothing but pings, since there is
    /// room for all events that a request can have: llama-server generates on for a slow reader, too.
    fn hand_out(&mut self) {
        for output in self.model.outputs() {
            if let Some(listener) = self.listeners.get(&output.request) {
                listener.try_send(output).ok();
            }
        }
    }
}

impl Engine {
    /// A model that begins now.
    pub(crate) fn new(model: Model) -> Self {
        let state = State { model, listeners: HashMap::new() };
        Self { state: Mutex::new(state), changed: Notify::new(), began: Instant::now() }
    }

    /// Lets the model run until it is told to stop.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        loop {
            let next = self.update(|model, now| {
                model.advance(now);
                model.next()
            });
            let due = async {
                match next {
                    Some(moment) => sleep_until(self.began + moment).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => {}
                () = due => {}
            }
        }
    }

    /// What has passed since the start.
    pub(crate) fn now(&self) -> Moment {
        self.began.elapsed()
    }

    /// Does something with the model as it is now, and hands out what comes of it.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut Model, Moment) -> T) -> T {
        let mut state = self.lock();
        let now = self.now();
        let result = change(&mut state.model, now);
        state.hand_out();
        result
    }

    /// Hands in a request. Dropping the ticket means that its client has left.
    pub(crate) fn submit(self: &Arc<Self>, request: Request) -> Ticket {
        let mut state = self.lock();
        let profile = state.model.profile();
        let room = |prompt: usize| prompt / profile.batch.max(1) + profile.context + FURTHER_EVENTS;
        let capacity = request.sequences.iter().map(|sequence| room(sequence.prompt.len())).sum();
        let (sender, events) = mpsc::channel(capacity);
        let id = state.model.submit(request, self.now());
        state.listeners.insert(id, sender);
        state.hand_out();
        drop(state);
        self.changed.notify_one();
        Ticket { id, engine: Arc::clone(self), events }
    }

    /// Lets the task that runs the model look again at what is due next.
    pub(crate) fn wake(&self) {
        self.changed.notify_one();
    }

    fn leave(&self, request: u64) {
        let mut state = self.lock();
        state.listeners.remove(&request);
        state.model.leave(request, self.now());
        state.hand_out();
        drop(state);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request's place: its events come through it, and without it nobody waits for them.
pub(crate) struct Ticket {
    id: u64,
    engine: Arc<Engine>,
    events: mpsc::Receiver<Output>,
}

impl Ticket {
    /// The next event.
    pub(crate) async fn next(&mut self) -> Option<Output> {
        self.events.recv().await
    }

    /// The next event, for a body that is polled.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Output>> {
        self.events.poll_recv(cx)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.engine.leave(self.id);
    }
}
