//! Recorded traffic: moments and lengths of requests, from a file.
//!
//! A file is read line by line, up to the row that would come after the end of the run; what is kept of a row is 32
//! bytes and its blocks. Prompts are not in the public traces; they are made up, of the recorded length.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::PlanError;
use crate::workload::{MOST_TOKENS, TraceFormat};

/// Tokens of a block of Mooncake's traces: two prompts with the same number at the same place have these in common.
pub(super) const BLOCK_TOKENS: u64 = 512;
/// Rows, and blocks of all rows, that are kept.
const MOST_ROWS: usize = 10_000_000;
const MOST_BLOCKS: usize = 20_000_000;
/// Bytes of a line; a prompt of a million tokens has 2,000 blocks.
const LONGEST_LINE: u64 = 1 << 20;

/// The rows that are due within a run; at least one.
#[derive(Debug)]
pub(super) struct Trace {
    rows: Vec<Kept>,
    blocks: Vec<u64>,
}

#[derive(Debug)]
struct Kept {
    moment: Duration,
    prompt_tokens: u32,
    output_tokens: u32,
    /// Where its blocks end among all; they begin where those of the row before end.
    blocks_end: usize,
}

/// One request of a trace.
#[derive(Debug, PartialEq)]
pub(super) struct Row<'a> {
    pub(super) prompt_tokens: u64,
    pub(super) output_tokens: u64,
    /// Numbers of the prompt's blocks, if the trace has them.
    pub(super) blocks: &'a [u64],
}

impl Trace {
    /// Reads a trace, played at `speed`, as far as `duration` goes. It begins with its first row, except in our own
    /// format, whose moments are those of the run.
    ///
    /// # Errors
    /// The file cannot be read; a line makes no sense, is earlier than the one before or one too many; no row is due.
    pub(super) fn read(path: &Path, format: TraceFormat, speed: f64, duration: Duration) -> Result<Self, PlanError> {
        let file = File::open(path).map_err(|error| PlanError::unreadable(path, &error))?;
        let reader = BufReader::new(file);
        let rows: Box<dyn Iterator<Item = Numbered>> = match format {
            TraceFormat::Jsonl => Box::new(json_rows::<OurRow>(reader, path)),
            TraceFormat::Mooncake => Box::new(json_rows::<MooncakeRow>(reader, path)),
            TraceFormat::Azure => Box::new(csv_rows::<AzureRow>(reader, path)),
            TraceFormat::BurstGpt => Box::new(csv_rows::<BurstGptRow>(reader, path)),
        };
        let mut trace = Self { rows: Vec::new(), blocks: Vec::new() };
        let mut first = None;
        let mut last = Duration::ZERO;
        for numbered in rows {
            let (line, row) = numbered?;
            let origin = *first.get_or_insert(if format == TraceFormat::Jsonl { Duration::ZERO } else { row.at });
            if row.at < last || row.at < origin {
                return Err(PlanError::line(path, line, "is earlier than the row before".to_owned()));
            }
            last = row.at;
            let seconds = (row.at - origin).as_secs_f64() / speed;
            if seconds >= duration.as_secs_f64() {
                break;
            }
            let moment = Duration::from_secs_f64(seconds);
            trace.keep(moment, row).map_err(|what| PlanError::line(path, line, what))?;
        }
        if trace.rows.is_empty() {
            return Err(PlanError::line(path, 1, "no row is due within the workload's duration".to_owned()));
        }
        Ok(trace)
    }

    fn keep(&mut self, moment: Duration, row: Recorded) -> Result<(), String> {
        let tokens = |tokens: u64| {
            let few = tokens as f64 <= MOST_TOKENS;
            // Recorded requests that failed have no tokens; nobody can send or ask for none.
            if few { Ok(tokens.max(1) as u32) } else { Err(format!("{tokens} tokens: at most {MOST_TOKENS}")) }
        };
        self.blocks.extend(row.blocks);
        if self.rows.len() >= MOST_ROWS || self.blocks.len() > MOST_BLOCKS {
            return Err(format!("too much: at most {MOST_ROWS} rows and {MOST_BLOCKS} blocks"));
        }
        self.rows.push(Kept {
            moment,
            prompt_tokens: tokens(row.prompt_tokens)?,
            output_tokens: tokens(row.output_tokens)?,
            blocks_end: self.blocks.len(),
        });
        Ok(())
    }

    /// When row `at` is due.
    pub(super) fn moment(&self, at: usize) -> Option<Duration> {
        self.rows.get(at).map(|row| row.moment)
    }

    /// The row of session `number`; beyond the end it begins again.
    pub(super) fn row(&self, number: u64) -> Row<'_> {
        let at = (number % self.rows.len() as u64) as usize;
        let row = &self.rows[at];
        let blocks_begin = if at == 0 { 0 } else { self.rows[at - 1].blocks_end };
        Row {
            prompt_tokens: u64::from(row.prompt_tokens),
            output_tokens: u64::from(row.output_tokens),
            blocks: &self.blocks[blocks_begin..row.blocks_end],
        }
    }
}

/// What a line says, whatever its format.
struct Recorded {
    /// Since some moment that is the same for the whole file.
    at: Duration,
    prompt_tokens: u64,
    output_tokens: u64,
    blocks: Vec<u64>,
}

/// A row with its line, from 1.
type Numbered = Result<(usize, Recorded), PlanError>;

/// Our own: `{"at": 1.5, "prompt_tokens": 100, "output_tokens": 20}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OurRow {
    at: f64,
    prompt_tokens: u64,
    output_tokens: u64,
}

/// Mooncake's (Qin et al., FAST 2025): milliseconds, lengths, and a number for every block of the prompt.
#[derive(Deserialize)]
struct MooncakeRow {
    timestamp: f64,
    input_length: u64,
    output_length: u64,
    #[serde(default)]
    hash_ids: Vec<u64>,
}

/// Azure's of 2023 (Splitwise) and 2024 (DynamoLLM), `2023-11-16 18:15:46.6805900` and with `+00:00`.
#[derive(Deserialize)]
struct AzureRow {
    #[serde(rename = "TIMESTAMP")]
    timestamp: String,
    #[serde(rename = "ContextTokens")]
    prompt_tokens: u64,
    #[serde(rename = "GeneratedTokens")]
    output_tokens: u64,
}

/// BurstGPT's (Wang et al., 2024): seconds. Failed requests have 0 response tokens.
#[derive(Deserialize)]
struct BurstGptRow {
    #[serde(rename = "Timestamp")]
    timestamp: f64,
    #[serde(rename = "Request tokens")]
    prompt_tokens: u64,
    #[serde(rename = "Response tokens")]
    output_tokens: u64,
}

impl TryFrom<OurRow> for Recorded {
    type Error = String;

    fn try_from(row: OurRow) -> Result<Self, String> {
        let OurRow { at, prompt_tokens, output_tokens } = row;
        Ok(Self { at: seconds(at)?, prompt_tokens, output_tokens, blocks: Vec::new() })
    }
}

impl TryFrom<MooncakeRow> for Recorded {
    type Error = String;

    fn try_from(row: MooncakeRow) -> Result<Self, String> {
        let blocks_of_prompt = row.input_length.div_ceil(BLOCK_TOKENS) as usize;
        let blocks = row.hash_ids.into_iter().take(blocks_of_prompt).collect();
        let at = seconds(row.timestamp / 1000.0)?;
        Ok(Self { at, prompt_tokens: row.input_length, output_tokens: row.output_length, blocks })
    }
}

impl TryFrom<AzureRow> for Recorded {
    type Error = String;

    fn try_from(row: AzureRow) -> Result<Self, String> {
        const BEFORE_ALL: jiff::civil::DateTime = jiff::civil::date(2000, 1, 1).at(0, 0, 0, 0);
        let AzureRow { timestamp, prompt_tokens, output_tokens } = row;
        let time: jiff::civil::DateTime =
            timestamp.parse().map_err(|error| format!("\"{timestamp}\" is no time: {error}"))?;
        let at =
            Duration::try_from(time.duration_since(BEFORE_ALL)).map_err(|_| format!("{timestamp} is before 2000"))?;
        Ok(Self { at, prompt_tokens, output_tokens, blocks: Vec::new() })
    }
}

impl TryFrom<BurstGptRow> for Recorded {
    type Error = String;

    fn try_from(row: BurstGptRow) -> Result<Self, String> {
        let BurstGptRow { timestamp, prompt_tokens, output_tokens } = row;
        Ok(Self { at: seconds(timestamp)?, prompt_tokens, output_tokens, blocks: Vec::new() })
    }
}

fn seconds(seconds: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("{seconds} s is no moment"))
}

/// The rows of a file with a JSON object a line.
fn json_rows<R>(mut reader: impl BufRead, path: &Path) -> impl Iterator<Item = Numbered>
where
    R: DeserializeOwned + TryInto<Recorded, Error = String>,
{
    let mut line = 0;
    let mut text = Vec::new();
    std::iter::from_fn(move || {
        loop {
            line += 1;
            text.clear();
            match reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut text) {
                Ok(0) => return None,
                Ok(_) if text.trim_ascii().is_empty() => {}
                Ok(_) => {
                    let row = serde_json::from_slice::<R>(&text).map_err(|error| error.to_string());
                    let row = row.and_then(TryInto::try_into);
                    return Some(row.map(|row| (line, row)).map_err(|what| PlanError::line(path, line, what)));
                }
                Err(error) => return Some(Err(PlanError::unreadable(path, &error))),
            }
        }
    })
}

/// The rows of a CSV file with a head.
fn csv_rows<R>(reader: impl Read, path: &Path) -> impl Iterator<Item = Numbered>
where
    R: DeserializeOwned + TryInto<Recorded, Error = String>,
{
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(reader);
    let head = reader.headers().cloned();
    reader.into_records().map(move |record| {
        let unreadable = |error: &dyn std::fmt::Display| PlanError::unreadable(path, error);
        let head = head.as_ref().map_err(|error| unreadable(error))?;
        let record = record.map_err(|error| unreadable(&error))?;
        let line = record.position().map_or(0, |position| position.line() as usize);
        let row = record.deserialize::<R>(Some(head)).map_err(|error| csv_words(&error));
        let row = row.and_then(TryInto::try_into).map_err(|what| PlanError::line(path, line, what))?;
        Ok((line, row))
    })
}

/// What is wrong with a row, without the record's number, which counts otherwise than lines.
fn csv_words(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::Deserialize { err, .. } => err.to_string(),
        _ => error.to_string(),
    }
}
