//! API keys over HTTP: what `llama-gateway keys` does on the command line, by the same code.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::gate::Refused;
use crate::app::App;
use crate::auth::{KeyError, Keys};
use crate::error::{Reason, Rejection};

/// `GET /v1/keys`
pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Json<Value>, Refused> {
    let keys = with_keys(&app, |keys| keys.list()).await?;
    let data: Vec<_> = keys.iter().map(|key| json!({"id": key.key_id, "tenant": key.tenant})).collect();
    Ok(Json(json!({"object": "list", "data": data})))
}

/// Does something with the keys on a thread that may wait for the disk.
async fn with_keys<T: Send + 'static>(
    app: &App,
    work: impl FnOnce(&Keys) -> Result<T, KeyError> + Send + 'static,
) -> Result<T, Rejection> {
    let directory = app.config.server.data_dir.clone();
    let done = tokio::task::spawn_blocking(move || work(&Keys::open(&directory)?)).await;
    match done {
        Ok(done) => done.map_err(|error| rejection(&error)),
        Err(error) => Err(Rejection::new(Reason::Internal, "The gateway is at fault.").operator(error.to_string())),
    }
}

fn rejection(error: &KeyError) -> Rejection {
    Rejection::new(Reason::Internal, "The keys cannot be used at the moment.").operator(error.to_string())
}
