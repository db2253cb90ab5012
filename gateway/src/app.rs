//! What all requests share.

use std::sync::Arc;

use axum::response::Response;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::account::Books;
use crate::auth::{Authenticator, Revocation, Scope, Tokens};
use crate::clock::Clock;
use crate::config::Config;
use crate::count::Counter;
use crate::error::{Dialect, Reason, Rejection};
use crate::ledger::Ledger;
use crate::limit::Limits;
use crate::metrics::Metrics;
use crate::policy::Policies;
use crate::queue::Queue;
use crate::retries::Retries;
use crate::roster::Roster;
use crate::server::{Counts, Drain, Tls};
use crate::stream::{Ended, ended};
use crate::surface::fields::Bounds;
use crate::surface::models;
use crate::traces::{Trace, Traces};
use crate::upstream::{Readiness, Upstream};
use crate::usage::Reads;
use crate::volume::Volume;

/// The name in the ledger for the model of a llama-server that has not told its own yet.
const UNKNOWN_MODEL: &str = "unknown";

/// What all requests share.
pub struct App {
    /// The configuration.
    pub config: Config,
    /// Wall-clock time.
    pub clock: Clock,
    /// Knows the API keys.
    pub authenticator: Arc<Authenticator>,
    /// Checks what others have signed.
    pub tokens: Tokens,
    /// What callers may use.
    pub policies: Policies,
    /// What callers may still use.
    pub limits: Limits,
    /// Counts prompts.
    pub counter: Counter,
    /// Bounds on request fields.
    pub bounds: Bounds,
    /// Who waits for which slot.
    pub queue: Queue,
    /// The requests that wait or run, for operators who look.
    pub roster: Roster,
    /// Which requests a retry may replace.
    pub retries: Retries,
    /// The llama-server replicas.
    pub upstream: Arc<Upstream>,
    /// The record of every request.
    pub ledger: Ledger,
    /// What holders of keys ask the ledger.
    pub own_usage: Reads,
    /// What operators ask it.
    pub all_usage: Reads,
    /// Where the steps of requests are told.
    pub traces: Traces,
    /// What Prometheus sees.
    pub metrics: Arc<Metrics>,
    /// Whether the gateway is shutting down.
    pub drain: Drain,
    /// What the public listener counts.
    pub counts: Arc<Counts>,
    /// The certificate of the public listener, if it has one.
    pub tls: Option<Tls>,
    /// Where the data directory lies.
    pub volume: Volume,
    /// When the gateway was started.
    pub started: Timestamp,
}

impl App {
    /// The models that are served and may be used, in the shape of `GET /v1/models`.
    pub fn models(&self, scope: &Scope) -> serde_json::Value {
        let facts = self.upstream.facts();
        let upstream = facts.as_ref().map(|facts| &*facts.models);
        let mut list = models::list(&self.config.models.aliases, upstream, self.started.as_second());
        models::retain(&mut list, |id| self.may_use(scope, id));
        list
    }

    /// Whether a model may be asked for by this name.
    pub fn may_use(&self, scope: &Scope, id: &str) -> bool {
        scope.models.is_empty() || self.model(Some(id)).is_ok_and(|model| scope.allows_model(&model))
    }

    /// One model that is served.
    pub fn one_model(&self, id: &str) -> Option<serde_json::Value> {
        let facts = self.upstream.facts();
        models::one(
            id,
            &self.config.models.aliases,
            facts.as_ref().map(|facts| &*facts.models),
            self.started.as_second(),
        )
    }

    /// Slots of the largest replica.
    pub fn widest(&self) -> u32 {
        self.queue.load().iter().map(|load| load.total).max().unwrap_or(0)
    }

    /// What the account of each request needs.
    pub fn books(&self) -> Books {
        Books { clock: self.clock.clone(), metrics: self.metrics.clone(), drain: self.drain.clone() }
    }

    /// Comes true when a request must end before its answer does.
    pub fn ended(&self, replaced: CancellationToken, revocation: &Revocation) -> Ended {
        ended(self.drain.clone(), replaced, revocation.clone())
    }

    /// The name under which a request for the model `asked` is accounted.
    ///
    /// # Errors
    /// The name is none of those that the list of models shows, and aliases are configured.
    pub fn model(&self, asked: Option<&str>) -> Result<Arc<str>, Rejection> {
        let facts = self.upstream.facts();
        let own: Arc<str> = facts.map_or(UNKNOWN_MODEL.into(), |facts| models::public_name(&facts.model).into());
        let Some(asked) = asked else { return Ok(own) };
        if let Some(alias) = self.config.models.aliases.iter().find(|alias| *alias == asked) {
            return Ok(Arc::from(alias.as_str()));
        }
        if self.config.models.aliases.is_empty() || asked == &*own || self.one_model(asked).is_some() {
            return Ok(own);
        }
        Err(self.no_such_model(asked))
    }

    /// The refusal of a model that is not served.
    pub fn no_such_model(&self, asked: &str) -> Rejection {
        let name: String = asked.chars().filter(|c| !c.is_control()).take(64).collect();
        let rejection = Rejection::new(Reason::ModelNotFound, format!("The model `{name}` does not exist."));
        Rejection { param: Some("model".to_owned()), ..rejection }
    }

    /// Answers a request that has no account yet with its refusal; counts and logs it.
    pub fn refuse(&self, dialect: Dialect, request_id: &str, rejection: &Rejection, trace: &Trace) -> Response {
        trace.refused(rejection);
        self.metrics.refused_total.with_label_values(&[rejection.reason.label()]).inc();
        tracing::info!(
            request_id,
            trace_id = trace.id(),
            reason = rejection.reason.label(),
            status = rejection.reason.status().as_u16(),
            operator = rejection.operator,
            "refused"
        );
        rejection.response(dialect, request_id)
    }

    /// Whether any replica can take a request.
    ///
    /// # Errors
    /// None can; the rejection tells whether one is loading.
    pub fn ready(&self) -> Result<(), Rejection> {
        match self.upstream.readiness() {
            Readiness::Ready => Ok(()),
            Readiness::Loading => Err(Rejection::model_loading()),
            Readiness::Wedged => Err(Rejection::backend_unavailable()
                .operator("llama-server answers, but its slots are stuck\n  hint: restart it if this does not pass")),
            Readiness::Unreachable => Err(Rejection::backend_unavailable()),
        }
    }
}
