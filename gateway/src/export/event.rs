//! What is told of an entry or a correction: a CloudEvents 1.0 event in JSON.
//!
//! `docs/export.schema.json` describes it. Receivers rely on its form: fields may be added, and anything else is a new
//! type.

use jiff::Timestamp;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row};
use serde::{Serialize, Serializer};

use crate::database::read_time;

/// An entry's own place among its revisions; corrections are numbered from 1.
const ENTRY: i64 = 0;

/// An event of the ledger.
#[derive(Debug, Serialize)]
pub(super) struct Event {
    specversion: &'static str,
    /// `<request_id>.<revision>`: the same however often it is delivered.
    id: String,
    source: String,
    #[serde(rename = "type")]
    kind: &'static str,
    /// The tenant.
    subject: String,
    /// When the request ended, or was corrected. Where nobody knows its end: the last that is known of it.
    #[serde(serialize_with = "milliseconds")]
    pub(super) time: Timestamp,
    datacontenttype: &'static str,
    data: Data,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Data {
    Settled(Box<Settled>),
    Corrected(Box<Corrected>),
}

/// All that the ledger knows of a request.
#[derive(Debug, Serialize)]
struct Settled {
    request_id: String,
    revision: i64,
    tenant: String,
    key_id: String,
    model: String,
    surface: String,
    upstream: Option<String>,
    ending: String,
    status: Option<u16>,
    counted_by: String,
    prompt_tokens: i64,
    cached_tokens: i64,
    completion_tokens: i64,
    reasoning_tokens: Option<i64>,
    queue_wait_ms: i64,
    prefill_slot_ms: i64,
    decode_slot_ms: i64,
    #[serde(serialize_with = "known_milliseconds")]
    arrived: Option<Timestamp>,
    #[serde(serialize_with = "known_milliseconds")]
    dispatched: Option<Timestamp>,
    #[serde(serialize_with = "known_milliseconds")]
    first_token: Option<Timestamp>,
    #[serde(serialize_with = "known_milliseconds")]
    ended: Option<Timestamp>,
}

/// What is to be added to the entry and to its earlier corrections.
#[derive(Debug, Serialize)]
struct Corrected {
    request_id: String,
    revision: i64,
    reason: String,
    tenant: String,
    key_id: String,
    model: String,
    surface: String,
    #[serde(serialize_with = "known_milliseconds")]
    arrived: Option<Timestamp>,
    prompt_tokens: i64,
    cached_tokens: i64,
    completion_tokens: i64,
    reasoning_tokens: i64,
    prefill_slot_ms: i64,
    decode_slot_ms: i64,
}

fn milliseconds<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.3}"))
}

fn known_milliseconds<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => milliseconds(time, serializer),
        None => serializer.serialize_none(),
    }
}

/// Reads events out of the ledger.
pub(super) struct Events<'c> {
    entries: CachedStatement<'c>,
    corrections: CachedStatement<'c>,
    source: &'c str,
}

impl<'c> Events<'c> {
    /// Events that say that they are from `source`.
    pub(super) fn new(connection: &'c Connection, source: &'c str) -> rusqlite::Result<Self> {
        let corrections = "SELECT * FROM corrections WHERE request_id = ?1 AND revision = ?2";
        Ok(Self {
            entries: connection.prepare_cached("SELECT * FROM entries WHERE request_id = ?1")?,
            corrections: connection.prepare_cached(corrections)?,
            source,
        })
    }

    /// The event of an entry (revision 0) or of one of its corrections. `None`: the ledger does not have it any more.
    pub(super) fn read(&mut self, request_id: &str, revision: i64) -> rusqlite::Result<Option<Event>> {
        let (kind, found) = match revision {
            ENTRY => ("llama-gateway.request.settled.v1", self.entries.query_row([request_id], settled).optional()?),
            _ => {
                let found = self.corrections.query_row((request_id, revision), corrected).optional()?;
                ("llama-gateway.request.corrected.v1", found)
            }
        };
        Ok(found.map(|(tenant, time, data)| Event {
            specversion: "1.0",
            id: format!("{request_id}.{revision}"),
            source: self.source.to_owned(),
            kind,
            subject: tenant,
            time,
            datacontenttype: "application/json",
            data,
        }))
    }
}

type Found = (String, Timestamp, Data);

fn settled(row: &Row<'_>) -> rusqlite::Result<Found> {
    let settled = Settled {
        request_id: row.get("request_id")?,
        revision: ENTRY,
        tenant: row.get("tenant")?,
        key_id: row.get("key_id")?,
        model: row.get("model")?,
        surface: row.get("surface")?,
        upstream: row.get("upstream")?,
        ending: row.get("ending")?,
        status: row.get("status")?,
        counted_by: row.get("counted_by")?,
        prompt_tokens: row.get("prompt_tokens")?,
        cached_tokens: row.get("cached_tokens")?,
        completion_tokens: row.get("completion_tokens")?,
        reasoning_tokens: row.get("reasoning_tokens")?,
        queue_wait_ms: row.get("queue_wait_ms")?,
        prefill_slot_ms: row.get("prefill_slot_ms")?,
        decode_slot_ms: row.get("decode_slot_ms")?,
        arrived: read_time(row, "arrived_ms")?,
        dispatched: read_time(row, "dispatched_ms")?,
        first_token: read_time(row, "first_token_ms")?,
        ended: read_time(row, "ended_ms")?,
    };
    let last_known = settled.ended.or(settled.first_token).or(settled.dispatched).or(settled.arrived);
    Ok((settled.tenant.clone(), last_known.unwrap_or_default(), Data::Settled(Box::new(settled))))
}

fn corrected(row: &Row<'_>) -> rusqlite::Result<Found> {
    let corrected = Corrected {
        request_id: row.get("request_id")?,
        revision: row.get("revision")?,
        reason: row.get("reason")?,
        tenant: row.get("tenant")?,
        key_id: row.get("key_id")?,
        model: row.get("model")?,
        surface: row.get("surface")?,
        arrived: read_time(row, "arrived_ms")?,
        prompt_tokens: row.get("prompt_tokens")?,
        cached_tokens: row.get("cached_tokens")?,
        completion_tokens: row.get("completion_tokens")?,
        reasoning_tokens: row.get("reasoning_tokens")?,
        prefill_slot_ms: row.get("prefill_slot_ms")?,
        decode_slot_ms: row.get("decode_slot_ms")?,
    };
    let at = read_time(row, "at_ms")?.unwrap_or_default();
    Ok((corrected.tenant.clone(), at, Data::Corrected(Box::new(corrected))))
}
