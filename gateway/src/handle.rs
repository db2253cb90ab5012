//! One request, top to bottom.
//!
//! `Arrival -> Entered -> Begun -> Queued -> Running -> answer`: each step takes what the step before gave. The first
//! three are in `admit.rs` and `enqueue.rs`, the fourth in `dispatch.rs`.

use std::future::poll_fn;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use tokio::time::{Instant, timeout};

use crate::admit::{begin, enter};
use crate::app::App;
use crate::auth::Caller;
use crate::dispatch::{dispatch, unsent};
use crate::enqueue::{Queued, enqueue};
use crate::error::Rejection;
use crate::ledger::Ending;
use crate::patience::Patience;
use crate::policy::Terms;
use crate::server::Client;
use crate::stream::body::{StreamBody, Surroundings};
use crate::stream::meter::Meter;
use crate::stream::white_space::{Answering, WhiteSpaceBody};
use crate::stream::whole::whole;
use crate::surface::{Ask, Surface};
use crate::traces::Trace;
use crate::upstream::errors;

/// A request that has passed the gate: who asks, on which connection, since when.
#[derive(Clone)]
pub struct Arrival {
    /// Who asks.
    pub caller: Arc<Caller>,
    /// What it may use.
    pub terms: Terms,
    /// How long it will wait.
    pub patience: Patience,
    /// The `x-request-id` of the answer.
    pub request_id: Arc<str>,
    /// The client's connection.
    pub client: Arc<Client>,
    /// When the request head had been read.
    pub at: Instant,
    /// The same by the wall clock.
    pub timestamp: Timestamp,
    /// Where its steps are noted.
    pub trace: Trace,
}

const JSON: (HeaderName, HeaderValue) = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
/// nginx and its kin would hold back what is sent piece by piece.
const NO_BUFFERING: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// Answers a request.
pub async fn handle(app: &Arc<App>, surface: Surface, arrival: Arrival, body: Body) -> Response {
    let dialect = surface.dialect();
    arrival.trace.surface(surface.label());
    let refuse = |rejection: Rejection| {
        let ending = Ending::Failed(rejection.reason).label();
        app.metrics.requests_total.with_label_values(&[surface.label(), ending]).inc();
        app.refuse(dialect, &arrival.request_id, &rejection, &arrival.trace)
    };
    let entered = match enter(app, surface, body, &arrival).await {
        Ok(entered) => entered,
        Err(rejection) => return refuse(rejection),
    };
    if !surface.takes_slot() {
        let answered = direct(app, &entered.ask, &arrival).await;
        entered.live.ended(answered.as_ref().is_err_and(|rejection| rejection.reason.may_be_retried()));
        return answered.unwrap_or_else(refuse);
    }
    let begun = match begin(app, entered, &arrival).await {
        Ok(begun) => begun,
        Err(rejection) => return refuse(rejection),
    };
    // From here on the account tells of every ending.
    let failed = |rejection: Rejection| rejection.response(dialect, &arrival.request_id);
    let queued = match enqueue(app, begun, &arrival) {
        Ok(queued) => queued,
        Err(rejection) => return failed(rejection),
    };
    let wait = queued.wait.clone();
    let answered =
        if queued.ask.stream { streamed(app, queued, &arrival).await } else { one_piece(app, queued, &arrival).await };
    let mut response = answered.unwrap_or_else(failed);
    wait.tell(response.headers_mut());
    response
}

/// Answers with a stream. Its 200 is held back for a moment, so that what fails early is a plain reply; then it
/// goes out even while the request still waits, and the body keeps the client company.
async fn streamed(app: &Arc<App>, queued: Queued, arrival: &Arrival) -> Result<Response, Rejection> {
    let meter = meter(&queued, arrival);
    let (timeouts, patience) = (&app.config.timeouts, &arrival.patience);
    let around = Surroundings {
        dialect: queued.ask.surface.dialect(),
        request_id: arrival.request_id.clone(),
        answered: queued.account.answered(),
        ended: app.ended(queued.account.replaced(), &queued.revocation),
        view: queued.waiting.view(),
        queue_update: patience.pause(timeouts.queue_update),
        keep_alive: patience.pause(timeouts.keep_alive),
        metrics: app.metrics.clone(),
    };
    let opening = {
        let app = app.clone();
        Box::pin(async move { dispatch(&app, queued).await })
    };
    let mut body = StreamBody::new(opening, meter, around);
    let early_open = patience.pause(timeouts.early_open);
    if let Ok(opened) = timeout(early_open, poll_fn(|context| body.poll_open(context))).await {
        opened?;
    }
    body.answered();
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        NO_BUFFERING,
    ];
    Ok((headers, Body::new(body)).into_response())
}

/// Answers in one piece. If that is configured, its 200 is held back for a moment only, like that of a stream, and
/// white space keeps the client company.
async fn one_piece(app: &Arc<App>, queued: Queued, arrival: &Arrival) -> Result<Response, Rejection> {
    let (answered, dialect) = (queued.account.answered(), queued.ask.surface.dialect());
    let (timeouts, patience) = (&app.config.timeouts, &arrival.patience);
    let mut answering = answering(app, queued, arrival);
    if !app.config.requests.white_space_keep_alive {
        return Ok(json(answering.await?));
    }
    if let Ok(reply) = timeout(patience.pause(timeouts.early_open), &mut answering).await {
        return Ok(json(reply?));
    }
    answered.set();
    let keep_alive = patience.pause(timeouts.keep_alive);
    let body = WhiteSpaceBody::new(answering, keep_alive, dialect, arrival.request_id.clone());
    Ok(([JSON, NO_BUFFERING], Body::new(body)).into_response())
}

/// The reply of one piece to a request.
fn answering(app: &Arc<App>, queued: Queued, arrival: &Arrival) -> Answering {
    let (app, meter) = (app.clone(), meter(&queued, arrival));
    Box::pin(async move {
        // What llama-server gets is not needed for the reply, and is not kept until it has come.
        let ask = Ask { upstream_body: Bytes::new(), ..queued.ask.clone() };
        let ended = app.ended(queued.account.replaced(), &queued.revocation);
        let running = dispatch(&app, queued).await?;
        whole(running, &ask, meter, ended).await
    })
}

/// What counts the tokens of a reply.
fn meter(queued: &Queued, arrival: &Arrival) -> Meter {
    let mut meter = Meter::new(&queued.ask);
    if queued.counted.exact {
        meter.admitted(queued.counted.tokens);
    }
    if arrival.terms.may_be_cut() {
        meter.watch();
    }
    meter
}

/// Requests that llama-server's HTTP threads answer alone: no slot, no queue, no row.
async fn direct(app: &App, ask: &Ask, arrival: &Arrival) -> Result<Response, Rejection> {
    let (path, trace) = (ask.surface.upstream_path(), &arrival.trace);
    let told = trace.attempt(path, Arc::default);
    let called = app.upstream.call(path, ask.upstream_body.clone(), &told).await;
    let called = called.inspect_err(|error| trace.attempt_failed(error.label()));
    let (status, reply) = called.map_err(|error| unsent(&error))?;
    trace.attempt_answered(status.as_u16());
    if status != StatusCode::OK {
        return Err(errors::rejection(status, &reply));
    }
    let (surface, ending) = (ask.surface.label(), Ending::Complete.label());
    app.metrics.requests_total.with_label_values(&[surface, ending]).inc();
    tracing::info!(
        request_id = &*arrival.request_id,
        trace_id = trace.id(),
        tenant = &*arrival.caller.tenant,
        key_id = &*arrival.caller.key_id,
        surface,
        ending,
        duration_ms = arrival.at.elapsed().as_secs_f64() * 1000.0,
        "request"
    );
    Ok(json(reply))
}

fn json(reply: Bytes) -> Response {
    ([JSON], reply).into_response()
}
