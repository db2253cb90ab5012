//! API keys over HTTP: what `llama-gateway keys` does on the command line, by the same code.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::body;
use super::gate::Refused;
use crate::app::App;
use crate::auth::{self, Change, KeyError, KeyInfo, Keys, NewKey, Scope, Wanted};
use crate::error::{Reason, Rejection};

/// What the path says. An id that is not UTF-8 is nobody's.
type KeyId = Result<Path<String>, PathRejection>;

/// `GET /v1/keys`
pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Json<Value>, Refused> {
    let (declared, now) = (app.authenticator.declared(), app.clock.now());
    let list = with_keys(&app, move |keys| {
        let data: Vec<_> = keys.list(declared)?.iter().map(|key| key.json(now)).collect();
        Ok(json!({"object": "list", "data": data}))
    });
    Ok(Json(list.await?))
}

/// `GET /v1/keys/{id}`
pub(super) async fn get(State(app): State<Arc<App>>, key_id: KeyId) -> Result<Json<Value>, Refused> {
    let (key_id, declared) = (id(key_id), app.authenticator.declared());
    let info = with_keys(&app, move |keys| keys.get(&key_id, &declared)).await?;
    Ok(Json(info.json(app.clock.now())))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    /// Without it, the refusal names it.
    #[serde(default)]
    tenant: String,
    #[serde(default)]
    label: String,
    policy: Option<String>,
    expires: Option<String>,
    #[serde(default)]
    models: Vec<String>,
    #[serde(default)]
    surfaces: Vec<String>,
    #[serde(default)]
    networks: Vec<String>,
}

/// `POST /v1/keys`
pub(super) async fn create(State(app): State<Arc<App>>, body: Body) -> Result<(StatusCode, Json<Value>), Refused> {
    let CreateBody { tenant, label, policy, expires, models, surfaces, networks } = body::read(body).await?;
    let now = app.clock.now();
    check_policy(&app, policy.as_deref())?;
    let expires =
        expires.map(|text| auth::parse_expiry(&text, now)).transpose().map_err(|error| refusal(&app, error))?;
    let scope = Scope::parse(&models, &surfaces, &networks).map_err(|error| refusal(&app, error.into()))?;
    let wanted = Wanted { tenant, label, policy, expires, scope };
    let made = with_keys(&app, move |keys| {
        let key = keys.create(&wanted, now)?;
        Ok((keys.get(key.key_id(), &[])?, key))
    });
    let (info, key) = made.await?;
    log("create", &info);
    Ok((StatusCode::CREATED, Json(shown(&app, &info, &key))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeBody {
    label: Option<String>,
    /// `null` takes it away.
    #[serde(default, deserialize_with = "given")]
    policy: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    expires: Option<Option<String>>,
    models: Option<Vec<String>>,
    surfaces: Option<Vec<String>>,
    networks: Option<Vec<String>>,
}

/// A field that is there, be it `null`.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// `PATCH /v1/keys/{id}`
pub(super) async fn change(State(app): State<Arc<App>>, key_id: KeyId, body: Body) -> Result<Json<Value>, Refused> {
    let ChangeBody { label, policy, expires, models, surfaces, networks } = body::read(body).await?;
    let now = app.clock.now();
    check_policy(&app, policy.as_ref().and_then(Option::as_deref))?;
    let expires = expires.map(|text| text.map(|text| auth::parse_expiry(&text, now)).transpose()).transpose();
    let expires = expires.map_err(|error| refusal(&app, error))?;
    let change = Change { label, policy, expires, ..Change::default() };
    let change = change.lists(models.as_deref(), surfaces.as_deref(), networks.as_deref());
    let (change, key_id) = (change.map_err(|error| refusal(&app, error))?, id(key_id));
    let info = with_keys(&app, move |keys| keys.change(&key_id, &change)).await?;
    log("change", &info);
    Ok(Json(info.json(now)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RotateBody {
    overlap: Option<String>,
}

/// `POST /v1/keys/{id}/rotate`
pub(super) async fn rotate(State(app): State<Arc<App>>, key_id: KeyId, body: Body) -> Result<Json<Value>, Refused> {
    let RotateBody { overlap } = body::read(body).await?;
    let overlap = auth::parse_overlap(overlap.as_deref().unwrap_or(auth::DEFAULT_OVERLAP));
    let (overlap, key_id) = (overlap.map_err(|error| refusal(&app, error))?, id(key_id));
    let now = app.clock.now();
    let rotated = with_keys(&app, move |keys| {
        let key = keys.rotate(&key_id, overlap, now)?;
        Ok((keys.get(&key_id, &[])?, key))
    });
    let (info, key) = rotated.await?;
    log("rotate", &info);
    Ok(Json(shown(&app, &info, &key)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeBody {
    #[serde(default)]
    end_streams: bool,
}

/// `POST /v1/keys/{id}/revoke`
pub(super) async fn revoke(State(app): State<Arc<App>>, key_id: KeyId, body: Body) -> Result<Json<Value>, Refused> {
    let RevokeBody { end_streams } = body::read(body).await?;
    let (key_id, now) = (id(key_id), app.clock.now());
    let revoked = with_keys(&app, move |keys| {
        keys.revoke(&key_id, end_streams, now)?;
        keys.get(&key_id, &[])
    });
    let info = revoked.await?;
    log(if end_streams { "revoke and end streams" } else { "revoke" }, &info);
    Ok(Json(info.json(now)))
}

fn id(key_id: KeyId) -> String {
    key_id.map_or_else(|_| String::new(), |Path(key_id)| key_id)
}

/// A key with its secret: the one answer that has it.
fn shown(app: &App, info: &KeyInfo, key: &NewKey) -> Value {
    let mut json = info.json(app.clock.now());
    json["key"] = json!(key.expose());
    json
}

fn log(action: &str, key: &KeyInfo) {
    tracing::info!(who = "admin", action, key_id = key.key_id, tenant = key.tenant, "API key");
}

fn check_policy(app: &App, policy: Option<&str>) -> Result<(), Rejection> {
    let checked = policy.map_or(Ok(()), |policy| app.config.check_policy(policy));
    checked.map_err(|error| Rejection::field("policy", error.to_string()))
}

/// Does something with the keys on a thread that may wait for the disk.
async fn with_keys<T: Send + 'static>(
    app: &App,
    work: impl FnOnce(&Keys) -> Result<T, KeyError> + Send + 'static,
) -> Result<T, Rejection> {
    let directory = app.config.server.data_dir.clone();
    match tokio::task::spawn_blocking(move || work(&Keys::open(&directory)?)).await {
        Ok(done) => done.map_err(|error| refusal(app, error)),
        Err(error) => Err(Rejection::new(Reason::Internal, "The gateway is at fault.").operator(error.to_string())),
    }
}

fn refusal(app: &App, error: KeyError) -> Rejection {
    let text = error.to_string();
    let field = match &error {
        KeyError::Tenant(_) => "tenant",
        KeyError::Label { .. } => "label",
        KeyError::Expiry(_) => "expires",
        KeyError::Overlap(_) => "overlap",
        KeyError::Scope(error) => error.list,
        KeyError::Unknown(key_id) if app.authenticator.declared().iter().any(|key| key.key_id == *key_id) => {
            let text = format!("The key `{key_id}` is declared in a file, and is changed there.");
            return Rejection::new(Reason::InvalidRequest, text);
        }
        KeyError::Unknown(_) => return Rejection::new(Reason::KeyNotFound, "There is no key with this id."),
        KeyError::Revoked(_) => return Rejection::new(Reason::InvalidRequest, text),
        KeyError::Database(_) | KeyError::Sql(_) | KeyError::Random(_) | KeyError::Declared(_) => {
            let rejection = Rejection::new(Reason::Internal, "The keys cannot be used at the moment.");
            return rejection.operator(format!("{:#}", anyhow::Error::from(error)));
        }
    };
    Rejection::field(field, text)
}
