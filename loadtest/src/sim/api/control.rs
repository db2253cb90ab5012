//! What a real llama-server does not have: faults to order, and how long leavings took.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::fault::Fault;
use super::super::server::App;
use super::error::ApiError;

/// `POST /sim/faults` with `{"fault": "cut", "requests": 2}`: the next two requests that name no fault have this one.
///
/// # Errors
/// No fault has this name.
pub(crate) fn put_fault(app: &App, body: &Value) -> Result<Value, ApiError> {
    let name = body["fault"].as_str().unwrap_or_default();
    let fault: Fault = name.parse().map_err(|error| ApiError::invalid(format!("{error}")))?;
    let requests = body["requests"].as_u64().unwrap_or(1);
    app.faults().put(fault, requests);
    Ok(json!({"fault": name, "requests": requests}))
}

/// `POST /sim/stall` with `{"ms": 2000}`: no slot does anything for so long, in real time.
///
/// # Errors
/// No length is given.
pub(crate) fn stall(app: &App, body: &Value) -> Result<Value, ApiError> {
    let milliseconds = body["ms"].as_u64().ok_or_else(|| ApiError::invalid("\"ms\" must be a whole number"))?;
    app.engine.update(|model, now| model.stall(Duration::from_millis(milliseconds), now));
    app.engine.wake();
    Ok(json!({"ms": milliseconds}))
}

/// `GET /sim/cancels`: the requests whose clients left before their end, the oldest first: when, since the server's
/// start, and how long until the slot, or the place in the queue, was free.
pub(crate) fn cancels(app: &App) -> Value {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    let cancels = app.engine.update(|model, now| {
        model.advance(now);
        model.cancels().copied().collect::<Vec<_>>()
    });
    let cancel = cancels.iter().map(|cancel| {
        json!({"left_at_ms": milliseconds(cancel.left), "free_after_ms": milliseconds(cancel.freed - cancel.left)})
    });
    json!({"cancels": cancel.collect::<Vec<_>>()})
}
