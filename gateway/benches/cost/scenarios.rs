//! What is measured.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One way of asking, for a while.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Scenario {
    /// The row of the table.
    pub(crate) name: String,
    /// Connections, each with one request at a time.
    pub(crate) connections: u32,
    /// Whether the clients ask for streams.
    pub(crate) stream: bool,
    /// Tokens of a reply.
    pub(crate) tokens: u32,
    /// Between two tokens.
    pub(crate) pause: Duration,
    /// What the cost is divided by.
    pub(crate) unit: Unit,
    /// Whether memory is read at its end.
    pub(crate) tells_memory: bool,
    /// Before the measured window; connections are opened in its first half.
    pub(crate) warmup: Duration,
    /// The measured window.
    pub(crate) window: Duration,
}

/// What the cost is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Unit {
    /// Replies that were complete.
    Request,
    /// Events of streams.
    Chunk,
}

/// More tokens than a window has time for: no stream ends within it, so that chunks are measured without requests.
const ENDLESS: u32 = 100_000;

/// All scenarios; `quick` ones are too short for figures.
pub(crate) fn all(quick: bool) -> Vec<Scenario> {
    let millis = |full, short| Duration::from_millis(if quick { short } else { full });
    let many = |full, short| if quick { short } else { full };
    let request = |name: &str, connections, stream| Scenario {
        name: name.to_owned(),
        connections,
        stream,
        tokens: 1,
        pause: Duration::ZERO,
        unit: Unit::Request,
        tells_memory: false,
        warmup: millis(1000, 200),
        window: millis(3000, 300),
    };
    let chunks = |name: String, connections, tokens, pause| Scenario {
        tokens,
        pause: Duration::from_millis(pause),
        unit: Unit::Chunk,
        tells_memory: tokens == ENDLESS && connections >= 200,
        warmup: millis(2000, 400),
        ..request(&name, connections, true)
    };
    let (paced, open) = (many(256, 64), many(1000, 200));
    vec![
        request("CPU per request, µs: one client", 1, false),
        request("CPU per request, µs: 32 clients", 32, false),
        request("CPU per streamed request, µs: 32 clients", 32, true),
        chunks(format!("CPU per chunk, µs: {paced} streams, 50/s each"), paced, ENDLESS, 20),
        chunks(format!("CPU per chunk, µs: {open} streams, 10/s each"), open, ENDLESS, 100),
        chunks("CPU per chunk, µs: 32 streams, no pause".to_owned(), 32, 1000, 0),
    ]
}
