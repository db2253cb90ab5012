//! One issuer, and its keys: fetched when the gateway starts, from time to time, and when a token names one that is not
//! known.
//!
//! Only the issuer's own task fetches, so that there is never more than one fetch under way; who needs a key waits for
//! it, but not for long.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::{Algorithm, Header};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::fetch::{FetchError, Fetcher, read_file};
use super::jwks::{JwksError, Key, KeySet, algorithms};
use super::refusal::Refusal;
use crate::clock::Clock;
use crate::config;
use crate::metrics::Metrics;

/// Between two fetches there is at least this pause, whatever tokens come.
const SHORTEST_PAUSE: Duration = Duration::from_secs(2);
/// Pause between two looks at a file with keys.
const FILE_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause after a fetch that failed; it begins with the shortest and doubles.
const LONGEST_RETRY_PAUSE: Duration = Duration::from_secs(30);
/// How long a request waits for a fetch that is under way.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there are no new keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeysError {
    /// Nothing came.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// What came is of no use.
    #[error(transparent)]
    Jwks(#[from] JwksError),
}

impl KeysError {
    fn label(&self) -> &'static str {
        match self {
            Self::Fetch(error) => error.label(),
            Self::Jwks(_) => "malformed",
        }
    }
}

/// What is known of the keys now.
#[derive(Clone, Default)]
struct Known {
    keys: Option<Arc<KeySet>>,
    /// When they were fetched.
    fresh: Option<Instant>,
    /// Fetches that are over.
    fetches: u64,
    /// When the last one was over, and whether it brought keys.
    last: Option<(Instant, bool)>,
}

/// One issuer.
pub(super) struct Issuer {
    pub(super) name: String,
    pub(super) config: config::Issuer,
    algorithms: Vec<Algorithm>,
    known: watch::Sender<Known>,
    /// A token has come whose key is not known.
    wanted: Notify,
}

impl Issuer {
    pub(super) fn new(name: &str, config: &config::Issuer) -> Self {
        Self {
            name: name.to_owned(),
            config: config.clone(),
            algorithms: algorithms(&config.algorithms),
            known: watch::Sender::new(Known::default()),
            wanted: Notify::new(),
        }
    }

    /// Says whether keys can be read from the file that the configuration names, if it names one.
    pub(super) fn check(&self) -> Result<(), KeysError> {
        if let Some(path) = &self.config.jwks_file {
            KeySet::parse(&read_file(path)?, &self.algorithms, None)?;
        }
        Ok(())
    }

    /// The key that a token with this header is signed with. It waits for a fetch where that may help.
    pub(super) async fn key(&self, header: &Header) -> Result<Arc<Key>, Refusal> {
        if !self.algorithms.contains(&header.alg) {
            return Err(Refusal::Algorithm);
        }
        match self.known_key(header) {
            Err(Refusal::NoKeys | Refusal::UnknownKey) => {}
            known => return known,
        }
        let is_fresh = self.fetch_again().await;
        match self.known_key(header) {
            // It may be one that could not be fetched.
            Err(Refusal::UnknownKey) if !is_fresh => Err(Refusal::NoKeys),
            known => known,
        }
    }

    fn known_key(&self, header: &Header) -> Result<Arc<Key>, Refusal> {
        let known = self.known.borrow();
        known.keys.as_ref().ok_or(Refusal::NoKeys)?.choose(header).cloned()
    }

    /// Waits for the next fetch, unless the last one is over for less than the shortest pause. Says whether the keys are
    /// those that the issuer has now.
    async fn fetch_again(&self) -> bool {
        let mut known = self.known.subscribe();
        let before = {
            let known = known.borrow();
            match known.last {
                Some((at, brought_keys)) if at.elapsed() < SHORTEST_PAUSE => return brought_keys,
                _ => known.fetches,
            }
        };
        self.wanted.notify_waiters();
        let fetched = timeout(PATIENCE, known.wait_for(|known| known.fetches > before)).await;
        matches!(fetched, Ok(Ok(known)) if known.last.is_some_and(|(_, brought_keys)| brought_keys))
    }

    /// Keeps the keys fresh, for ever.
    pub(super) async fn run(self: Arc<Self>, clock: Clock, metrics: Arc<Metrics>) {
        let mut fetcher = Fetcher::new();
        let regular = if self.config.jwks_file.is_some() { FILE_PAUSE } else { self.config.refresh_interval };
        let regular = regular.max(SHORTEST_PAUSE);
        let mut retry = SHORTEST_PAUSE;
        loop {
            let fetched = self.fetch(&mut fetcher).await;
            self.tell(&fetched, &clock, &metrics);
            let pause = if fetched.is_ok() { regular } else { retry.min(regular) };
            retry = if fetched.is_ok() { SHORTEST_PAUSE } else { (retry * 2).min(LONGEST_RETRY_PAUSE) };
            // Only those who come from now on want another fetch; those before have waited for this one.
            let wanted = pin!(self.wanted.notified());
            self.take(fetched);
            sleep(SHORTEST_PAUSE).await;
            tokio::select! {
                () = sleep(pause.saturating_sub(SHORTEST_PAUSE)) => {}
                () = wanted => {}
            }
        }
    }

    async fn fetch(&self, fetcher: &mut Fetcher) -> Result<KeySet, KeysError> {
        let text = fetcher.fetch(&self.config).await?;
        let before = self.known.borrow().keys.clone();
        Ok(KeySet::parse(&text, &self.algorithms, before.as_deref())?)
    }

    /// Takes over what a fetch has brought. When it brought nothing, the keys stay what they were, until they are stale.
    fn take(&self, fetched: Result<KeySet, KeysError>) {
        let (now, brought_keys) = (Instant::now(), fetched.is_ok());
        let mut dropped = None;
        self.known.send_modify(|known| {
            let is_stale = known.fresh.is_some_and(|fresh| fresh.elapsed() >= self.config.max_stale);
            if let Ok(keys) = fetched {
                known.fresh = Some(now);
                dropped = known.keys.replace(Arc::new(keys));
            } else if is_stale {
                dropped = known.keys.take();
            }
            known.fetches += 1;
            known.last = Some((now, brought_keys));
        });
        if let Some(dropped) = dropped {
            dropped.withdraw_all_but(self.known.borrow().keys.as_deref());
        }
    }

    /// Tells the operator: each fetch in the metrics, the beginning and the end of an outage in the log.
    fn tell(&self, fetched: &Result<KeySet, KeysError>, clock: &Clock, metrics: &Metrics) {
        let issuer = self.name.as_str();
        let outcome = fetched.as_ref().map_or_else(KeysError::label, |_| "ok");
        metrics.token_key_fetches_total.with_label_values(&[issuer, outcome]).inc();
        let (had_keys, was_well) = {
            let known = self.known.borrow();
            (known.keys.is_some(), known.last.is_none_or(|(_, brought_keys)| brought_keys))
        };
        match fetched {
            Ok(keys) => {
                let fetched_at = clock.now().as_millisecond() as f64 / 1000.0;
                metrics.token_keys_fetched_timestamp_seconds.with_label_values(&[issuer]).set(fetched_at);
                if !had_keys || !was_well {
                    tracing::info!(issuer, keys = keys.len(), unusable = keys.unusable, "keys of the issuer fetched");
                }
            }
            Err(error) if was_well => {
                // What is wrong with a certificate, say, is the last of several causes.
                let causes: Vec<_> = anyhow::Chain::new(error).map(ToString::to_string).collect();
                tracing::warn!(issuer, error = causes.join(": "), had_keys, "keys of the issuer cannot be fetched");
            }
            Err(_) => {}
        }
    }
}
