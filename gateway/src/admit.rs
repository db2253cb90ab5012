//! From the head of a request to its account: what may it ask for, and what of its limits does it take?
//!
//! Takes an [`Arrival`] and a body; gives [`Entered`], and of that [`Begun`]. Who is refused here has no row.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::timeout;

use crate::account::{Account, Opening};
use crate::app::App;
use crate::count::Counted;
use crate::error::{Reason, Rejection};
use crate::handle::Arrival;
use crate::ledger::Subject;
use crate::limit::{Need, Pass, Reservation};
use crate::queue::Work;
use crate::retries::Live;
use crate::surface::{Ask, Fingerprint, Surface, cached_only, fields};
use crate::traces::{Asked, Step, Trace};

/// A request that is let in and understood. Dropped in this order: `live` tells that the rest has been given back.
pub(crate) struct Entered {
    pub(crate) ask: Ask,
    fingerprint: Fingerprint,
    model: Arc<str>,
    pass: Pass,
    pub(crate) live: Live,
}

/// Lets a request in, if its limits allow, and reads it. If it is a retry that takes the place of its first try, it
/// takes that one's place among the concurrent requests, too.
pub(crate) async fn enter(app: &App, surface: Surface, body: Body, arrival: &Arrival) -> Result<Entered, Rejection> {
    let Arrival { caller, terms, patience, trace, .. } = arrival;
    if !caller.scope.allows_surface(surface) {
        return Err(Rejection::new(Reason::EndpointNotAllowed, "The API key is not for this endpoint."));
    }
    let is_retry = patience.retries > 0;
    let owe = |rejection: &Rejection| {
        // Of a retry that is refused unread it is not known what it would have replaced: its next try may yet.
        if !is_retry && rejection.reason.may_be_retried() {
            app.retries.refused(caller.key_id.clone());
        }
    };
    let limit = trace.step(Step::Limit);
    let mut pass = app.limits.enter(caller, terms, is_retry, arrival.timestamp).inspect_err(owe)?;
    drop(limit);
    let reading = trace.step(Step::Body);
    let (ask, model) = understand(app, surface, body, arrival).await.inspect_err(owe)?;
    drop(reading);
    trace.asked(|| asked(&ask, &model));
    if let Err(rejection) = app.ready() {
        owe(&rejection);
        pass.give_back();
        return Err(rejection);
    }
    let fingerprint = ask.fingerprint();
    let mut live = app.retries.arrive(caller.key_id.clone(), fingerprint, patience.retries);
    live.alone().await;
    pass.take_place()?;
    Ok(Entered { ask, fingerprint, model, pass, live })
}

/// What a trace tells of the request.
fn asked(ask: &Ask, model: &Arc<str>) -> Asked {
    let generates = ask.surface.streams();
    Asked {
        model: model.clone(),
        max_tokens: generates.then_some(ask.output_cap),
        temperature: ask.sampling.temperature,
        top_p: ask.sampling.top_p,
        stream: generates.then_some(ask.stream),
        choices: ask.choices,
    }
}

/// What the request asks for, if it may, and of which model.
async fn understand(app: &App, surface: Surface, body: Body, arrival: &Arrival) -> Result<(Ask, Arc<str>), Rejection> {
    let Arrival { caller, terms, .. } = arrival;
    let body = read(app, body).await?;
    let ask = fields::read(surface, &body, &app.bounds, terms.default_output_tokens())?;
    if terms.private_cache() && !surface.can_avoid_cache() {
        return Err(cached_only());
    }
    let model = app.model(ask.model.as_deref())?;
    if !caller.scope.allows_model(&model) {
        // While no llama-server has told its model's name, nobody can say whether it may be used.
        app.ready()?;
        let rejection = Rejection::new(Reason::ModelNotAllowed, "The API key is not for this model.");
        return Err(Rejection { param: Some("model".to_owned()), ..rejection });
    }
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

/// A request that has an account.
pub(crate) struct Begun {
    pub(crate) ask: Ask,
    pub(crate) counted: Counted,
    pub(crate) work: Work,
    pub(crate) account: Account,
}

/// Counts the prompt, takes the tokens that the request will need, and begins its account.
pub(crate) async fn begin(app: &App, entered: Entered, arrival: &Arrival) -> Result<Begun, Rejection> {
    let Entered { ask, fingerprint, model, pass, live } = entered;
    let Arrival { caller, client, trace, .. } = arrival;
    let reserved = reserve(app, &ask, fingerprint, pass, (&caller.tenant, trace)).await;
    let (counted, work, mut reservation) =
        reserved.inspect_err(|refused| live.ended(refused.reason.may_be_retried()))?;
    let subject = Subject {
        request_id: arrival.request_id.clone(),
        tenant: caller.tenant.clone(),
        key_id: caller.key_id.clone(),
        model,
        surface: ask.surface,
        arrived: arrival.timestamp,
    };
    let charge = app.ledger.admit(subject.clone()).inspect_err(|_| reservation.give_back())?;
    let (client, trace) = (client.clone(), trace.clone());
    let opening = Opening { charge, subject, reservation, live, client, arrived: arrival.at, trace };
    Ok(Begun { ask, counted, work, account: Account::begin(opening, app.books()) })
}

/// Counts the prompt, and takes its tokens and those of the output to be expected.
async fn reserve(
    app: &App,
    ask: &Ask,
    fingerprint: Fingerprint,
    pass: Pass,
    (tenant, trace): (&Arc<str>, &Trace),
) -> Result<(Counted, Work, Reservation), Rejection> {
    let counting = trace.step(Step::Count);
    let counted = app.counter.count(&app.upstream, ask, (tenant.clone(), fingerprint)).await?;
    drop(counting);
    let _limit = trace.step(Step::Limit);
    let expected = app.queue.expected_output(tenant, ask.surface.label());
    let output = expected.min(u64::from(ask.output_cap)) * u64::from(ask.sequences());
    let reservation = pass.reserve(Need { prompt: counted.tokens, output })?;
    Ok((counted, Work { prompt: counted.tokens, output }, reservation))
}
