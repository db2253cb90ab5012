//! Usage over HTTP: what both views, that of a key's holder and that of the operator, have in common.
//!
//! Takes a [`Query`]; gives what the ledger says, read on a thread that may wait for the disk.

pub mod own;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::config::Config;
use crate::error::{Reason, Rejection};
use crate::ledger::Sums;
use crate::ledger::query::{Query, Used};
use crate::ledger::usage::{Reader, UsageError};
use crate::prices::{Cost, Money, Prices};

/// How long a question waits for those before it.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Reads the ledger for those who ask over HTTP, few at a time: nobody can load the disk by asking often.
pub struct Reads {
    directory: PathBuf,
    prices: Option<Arc<Prices>>,
    places: Arc<Semaphore>,
}

impl Reads {
    /// Lets so many read at once.
    pub fn new(config: &Config, at_once: usize) -> Self {
        Self {
            directory: config.server.data_dir.clone(),
            prices: Prices::of(config).map(Arc::new),
            places: Arc::new(Semaphore::new(at_once)),
        }
    }

    /// What things cost; `None`: nothing has a price.
    pub fn prices(&self) -> Option<&Prices> {
        self.prices.as_deref()
    }

    /// What was used.
    ///
    /// # Errors
    /// Too many ask at once, the ledger cannot be read, or it does not keep any more what is asked for.
    pub async fn used(&self, query: Query) -> Result<Vec<Used>, Rejection> {
        let place = timeout(LONGEST_WAIT, self.places.clone().acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            let rejection = Rejection::new(Reason::Concurrency, "Too many questions about usage are asked at once.");
            return Err(rejection.retry_after(LONGEST_WAIT));
        };
        let (directory, prices) = (self.directory.clone(), self.prices.clone());
        let read = move || {
            // It reads to the end, whether or not anybody waits for it.
            let _place = place;
            Reader::open(&directory)?.used(&query, prices.as_deref())
        };
        let read = tokio::task::spawn_blocking(read).await;
        let read = read.map_err(|error| unreadable(&error.to_string()))?;
        read.map_err(|error| match error {
            UsageError::Deleted { until } => Rejection::field(
                "start_time",
                format!(
                    "Single requests before {until} ({}) are not kept any more. Ask for whole days (UTC), or for what \
                     came later.",
                    until.as_second()
                ),
            ),
            error => unreadable(&error.to_string()),
        })
    }
}

fn unreadable(operator: &str) -> Rejection {
    Rejection::new(Reason::Internal, "The usage cannot be read at the moment.").operator(operator)
}

/// What answers tell of sums besides the tokens that OpenAI counts, too.
#[derive(Serialize)]
pub struct Further {
    reasoning_tokens: i64,
    #[serde(rename = "queue_wait_seconds", serialize_with = "seconds")]
    queue_wait_ms: i64,
    #[serde(rename = "prefill_slot_seconds", serialize_with = "seconds")]
    prefill_slot_ms: i64,
    #[serde(rename = "decode_slot_seconds", serialize_with = "seconds")]
    decode_slot_ms: i64,
    #[serde(flatten)]
    price: Option<Price>,
}

/// What sums cost, where anything has a price.
#[derive(Serialize)]
struct Price {
    cost: Money,
    currency: String,
    unpriced_requests: i64,
}

impl Further {
    /// That of some sums and their cost.
    pub fn of(sums: Sums, cost: Option<Cost>, prices: Option<&Prices>) -> Self {
        let price = prices.map(|prices| {
            let cost = cost.unwrap_or_default();
            let currency = prices.currency().to_owned();
            Price { cost: cost.total(), currency, unpriced_requests: cost.unpriced_requests }
        });
        Self {
            reasoning_tokens: sums.reasoning_tokens,
            queue_wait_ms: sums.queue_wait_ms,
            prefill_slot_ms: sums.prefill_slot_ms,
            decode_slot_ms: sums.decode_slot_ms,
            price,
        }
    }
}

/// Milliseconds as seconds: three decimals are exact in any number that can occur.
fn seconds<S: Serializer>(milliseconds: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(*milliseconds as f64 / 1000.0)
}
