//! What is going on now, for the console and for `llama-gateway top`: once, or every second.

mod look;
pub mod snapshot;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderName, header};
use http_body::Frame;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::gate::Refused;
use crate::app::App;
use crate::error::Rejection;

/// Pause between two events of a stream.
const PAUSE: Duration = Duration::from_secs(1);
/// A snapshot of this age is given to others who ask, too: many who look cost little more than one.
const FRESH: Duration = Duration::from_millis(500);

/// The last snapshot, as JSON.
#[derive(Default)]
pub(super) struct Latest(Mutex<Option<(Instant, Bytes)>>);

impl Latest {
    fn json(&self, app: &App) -> Result<Bytes, serde_json::Error> {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some((_, json)) = latest.as_ref().filter(|(taken, _)| now.duration_since(*taken) < FRESH) {
            return Ok(json.clone());
        }
        let json = Bytes::from(serde_json::to_vec(&look::look(app))?);
        *latest = Some((now, json.clone()));
        Ok(json)
    }
}

/// `GET /v1/live`
pub(super) async fn once(
    State(app): State<Arc<App>>,
    Extension(latest): Extension<Arc<Latest>>,
) -> Result<Response, Refused> {
    let json = latest.json(&app).map_err(|error| Rejection::internal().operator(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

/// `GET /v1/live/events`
pub(super) async fn events(State(app): State<Arc<App>>, Extension(latest): Extension<Arc<Latest>>) -> Response {
    let mut ticks = interval(PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::new(Events { app, latest, ticks })).into_response()
}

/// A snapshot at once, and then one after each pause, for as long as somebody reads.
struct Events {
    app: Arc<App>,
    latest: Arc<Latest>,
    ticks: Interval,
}

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        ready!(self.ticks.poll_tick(context));
        Poll::Ready(match self.latest.json(&self.app) {
            Ok(json) => Some(Ok(Frame::data([b"event: live\ndata: ", &*json, b"\n\n"].concat().into()))),
            Err(error) => {
                tracing::error!(%error, "a snapshot cannot be written as JSON");
                None
            }
        })
    }
}
