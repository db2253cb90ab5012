//! One request, top to bottom.
//!
//! `Arrival -> Ask -> Account -> Queued -> Running -> answer`: each step takes what the step before gave.

use std::future::poll_fn;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use jiff::Timestamp;
use tokio::time::{Instant, timeout};

use crate::account::{Account, Held};
use crate::app::App;
use crate::auth::Caller;
use crate::count::Counted;
use crate::dispatch::{Queued, dispatch, queue, unsent};
use crate::error::{Reason, Rejection};
use crate::ledger::{Ending, Subject};
use crate::limit::{Need, Pass};
use crate::patience::Patience;
use crate::policy::Terms;
use crate::queue::Work;
use crate::retries::Live;
use crate::server::Client;
use crate::stream::body::{StreamBody, Surroundings};
use crate::stream::meter::Meter;
use crate::stream::white_space::{Answering, WhiteSpaceBody};
use crate::stream::whole::whole;
use crate::surface::{Ask, Surface, cached_only, fields};
use crate::upstream::errors;

/// A request that has passed the gate: who asks, on which connection, since when.
#[derive(Clone)]
pub struct Arrival {
    /// Who asks.
    pub caller: Caller,
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
}

const JSON: (HeaderName, HeaderValue) = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
/// nginx and its kin would hold back what is sent piece by piece.
const NO_BUFFERING: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// Answers a request.
pub async fn handle(app: &Arc<App>, surface: Surface, arrival: Arrival, body: Body) -> Response {
    let dialect = surface.dialect();
    let refuse = |rejection: Rejection| {
        let ending = Ending::Failed(rejection.reason).label();
        app.metrics.requests_total.with_label_values(&[surface.label(), ending]).inc();
        app.refuse(dialect, &arrival.request_id, &rejection)
    };
    let Entered { ask, model, pass, live } = match enter(app, surface, body, &arrival).await {
        Ok(entered) => entered,
        Err(rejection) => return refuse(rejection),
    };
    if !surface.takes_slot() {
        // The pass is held until the answer is there.
        let answered = direct(app, &ask, &arrival).await.unwrap_or_else(refuse);
        drop(pass);
        live.ended(false);
        return answered;
    }
    let Begun { account, work, meter } = match begin(app, &ask, model, (pass, live), &arrival).await {
        Ok(begun) => begun,
        Err(rejection) => return refuse(rejection),
    };
    // From here on the account tells of every ending.
    let failed = |rejection: Rejection| rejection.response(dialect, &arrival.request_id);
    let queued = match queue(app, ask, work, account, &arrival) {
        Ok(queued) => queued,
        Err(rejection) => return failed(rejection),
    };
    let wait = queued.wait.clone();
    let answered = if queued.ask.stream {
        streamed(app, queued, meter, &arrival).await
    } else {
        one_piece(app, queued, meter, &arrival).await
    };
    let mut response = answered.unwrap_or_else(|rejection| {
        wait.end();
        failed(rejection)
    });
    wait.tell(response.headers_mut());
    response
}

/// A request that is let in and understood. Dropped in this order: `live` tells that the rest has been given back.
struct Entered {
    ask: Ask,
    model: Arc<str>,
    pass: Pass,
    live: Live,
}

/// Lets a request in, if its limits allow, and reads it. If it is a retry that takes the place of its first try, it
/// takes that one's place among the concurrent requests, too.
async fn enter(app: &App, surface: Surface, body: Body, arrival: &Arrival) -> Result<Entered, Rejection> {
    let Arrival { caller, terms, patience, .. } = arrival;
    let is_retry = patience.retries > 0;
    let owe = |rejection: &Rejection| {
        // Of a retry that is refused unread it is not known what it would have replaced: its next try may yet.
        if !is_retry && rejection.reason.may_be_retried() {
            app.retries.refused(caller.key_id.clone());
        }
    };
    let mut pass = app.limits.enter(caller, terms, is_retry, arrival.timestamp).inspect_err(owe)?;
    let (ask, model) = understand(app, surface, body, terms).await.inspect_err(owe)?;
    if let Err(rejection) = app.ready() {
        owe(&rejection);
        pass.give_back();
        return Err(rejection);
    }
    let mut live = app.retries.arrive(caller.key_id.clone(), ask.fingerprint(), patience.retries);
    live.alone().await;
    pass.take_place()?;
    Ok(Entered { ask, model, pass, live })
}

/// What the request asks for, if it may, and of which model.
async fn understand(app: &App, surface: Surface, body: Body, terms: &Terms) -> Result<(Ask, Arc<str>), Rejection> {
    let body = read(app, body).await?;
    let ask = fields::read(surface, &body, &app.bounds, terms.default_output_tokens())?;
    if terms.private_cache() && !surface.can_avoid_cache() {
        return Err(cached_only());
    }
    let model = app.model(ask.model.as_deref())?;
    Ok((ask, model))
}

/// The whole body is read before anything is waited for: a client that leaves is noticed at once then.
async fn read(app: &App, body: Body) -> Result<Bytes, Rejection> {
    let server = &app.config.server;
    let too_large = || {
        let limit = server.max_body_bytes;
        Rejection::new(Reason::RequestTooLarge, format!("The body is larger than {limit} bytes."))
    };
    if body.size_hint().lower() > server.max_body_bytes as u64 {
        return Err(too_large());
    }
    match timeout(server.body_timeout, Limited::new(body, server.max_body_bytes).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => {
            let rejection = Rejection::new(Reason::InvalidRequest, "The body could not be read.");
            Err(rejection.operator(error.to_string()))
        }
        Err(_elapsed) => Err(Rejection::new(Reason::RequestTimeout, "The body did not arrive in time.")),
    }
}

/// A request whose account has begun.
struct Begun {
    account: Account,
    work: Work,
    /// What will count the tokens of its reply.
    meter: Meter,
}

/// Counts the prompt, takes the tokens that the request will need, and begins its account.
async fn begin(
    app: &App,
    ask: &Ask,
    model: Arc<str>,
    (pass, live): (Pass, Live),
    arrival: &Arrival,
) -> Result<Begun, Rejection> {
    let surface = ask.surface;
    let counted = app.counter.count(&app.upstream, ask, &arrival.caller.tenant).await?;
    let prompt = counted.tokens;
    let expected = app.queue.expected_output(&arrival.caller.tenant, surface.label());
    let output = expected.min(u64::from(ask.output_cap)) * u64::from(ask.sequences());
    let mut reservation = pass.reserve(Need { prompt, output })?;
    let subject = Subject {
        request_id: arrival.request_id.clone(),
        tenant: arrival.caller.tenant.clone(),
        key_id: arrival.caller.key_id.clone(),
        model,
        surface,
        arrived: arrival.timestamp,
    };
    let charge = app.ledger.admit(subject.clone()).inspect_err(|_| reservation.give_back())?;
    let account =
        Account::begin(charge, subject, Held { reservation, live }, (arrival.at, arrival.client.clone()), app.books());
    Ok(Begun { account, work: Work { prompt, output }, meter: meter(ask, counted, &arrival.terms) })
}

/// Answers in one piece. If that is configured, its 200 is held back for a moment only, like that of a stream, and
/// white space keeps the client company.
async fn one_piece(app: &Arc<App>, queued: Queued, meter: Meter, arrival: &Arrival) -> Result<Response, Rejection> {
    let (answered, dialect) = (queued.answered(), queued.ask.surface.dialect());
    let mut answering = answering(app, queued, meter);
    if !app.config.requests.white_space_keep_alive {
        return Ok(json(answering.await?));
    }
    if let Ok(reply) = timeout(arrival.patience.pause(app.config.timeouts.early_open), &mut answering).await {
        return Ok(json(reply?));
    }
    answered.set();
    let keep_alive = arrival.patience.pause(app.config.timeouts.keep_alive);
    let body = WhiteSpaceBody::new(answering, keep_alive, dialect, arrival.request_id.clone());
    Ok(([JSON, NO_BUFFERING], Body::new(body)).into_response())
}

/// The reply of one piece to a request.
fn answering(app: &Arc<App>, queued: Queued, meter: Meter) -> Answering {
    let app = app.clone();
    Box::pin(async move {
        // What llama-server gets is not needed for the reply, and is not kept until it has come.
        let ask = Ask { upstream_body: Bytes::new(), ..queued.ask.clone() };
        let ended = app.ended(queued.replaced.clone());
        let running = dispatch(&app, queued).await?;
        whole(running, &ask, meter, ended).await
    })
}

/// What counts the tokens of a reply.
fn meter(ask: &Ask, prompt: Counted, terms: &Terms) -> Meter {
    let mut meter = Meter::new(ask);
    if prompt.exact {
        meter.admitted(prompt.tokens);
    }
    if terms.may_be_cut() {
        meter.watch();
    }
    meter
}

/// Answers with a stream. Its 200 is held back for a moment, so that what fails early is a plain reply; then it
/// goes out even while the request still waits, and the body keeps the client company.
async fn streamed(app: &Arc<App>, queued: Queued, meter: Meter, arrival: &Arrival) -> Result<Response, Rejection> {
    let timeouts = &app.config.timeouts;
    let around = Surroundings {
        dialect: queued.ask.surface.dialect(),
        request_id: arrival.request_id.clone(),
        answered: queued.answered(),
        ended: app.ended(queued.replaced.clone()),
        view: queued.view(),
        queue_update: arrival.patience.pause(timeouts.queue_update),
        keep_alive: arrival.patience.pause(timeouts.keep_alive),
        metrics: app.metrics.clone(),
    };
    let opening = {
        let app = app.clone();
        Box::pin(async move { dispatch(&app, queued).await })
    };
    let mut body = StreamBody::new(opening, meter, around);
    let early_open = arrival.patience.pause(timeouts.early_open);
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

/// Requests that llama-server's HTTP threads answer alone: no slot, no queue, no entry.
async fn direct(app: &App, ask: &Ask, arrival: &Arrival) -> Result<Response, Rejection> {
    let called = app.upstream.call(ask.surface.upstream_path(), ask.upstream_body.clone()).await;
    let (status, reply) = called.map_err(|error| unsent(&error))?;
    if status != StatusCode::OK {
        return Err(errors::rejection(status, &reply));
    }
    let (surface, ending) = (ask.surface.label(), Ending::Complete.label());
    app.metrics.requests_total.with_label_values(&[surface, ending]).inc();
    tracing::info!(
        request_id = &*arrival.request_id,
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
