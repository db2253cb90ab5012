//! The table of requests: CSV with a line for each, written while the run goes on, for whoever wants to reckon for himself.
//!
//! Moments are milliseconds since the beginning of the run, empty where there was none:
//!
//! | column | what it is |
//! |---|---|
//! | `tenant`, `session`, `turn` | whose it was; sessions and turns count from 0 |
//! | `scheduled_ms` | when it should have been sent |
//! | `dispatched_ms` | when the harness turned to it |
//! | `sent_ms` | when its first try was handed to HTTP |
//! | `head_ms` | when the head of the last reply came |
//! | `first_token_ms`, `first_output_token_ms`, `last_token_ms` | events with content; output is what is no reasoning |
//! | `ended_ms` | when it was over |
//! | `queue_wait_ms` | how long it waited in the gateway's queue, as the gateway tells: a duration |
//! | `largest_gap_ms` | the longest time between two events with content: a duration |
//! | `ending`, `status`, `code` | how it ended, and the HTTP status and code if that was an error |
//! | `good` | `true` if it was within the objectives |
//! | `tries` | how many times it was sent |
//! | `retried` | statuses and codes of the tries before the last, separated by `;` |
//! | `chunks` | events with content |
//! | `planned_prompt_tokens`, `planned_output_tokens` | what the workload wanted |
//! | `prompt_tokens`, `cached_tokens`, `completion_tokens` | what the server counted |
//! | `tokens_seen` | generated tokens that are known of, also where the reply was cut |
//! | `request_id` | the id that the server gave it |
//! | `lie` | what was wrong with the server's own numbers |

use std::borrow::Cow;
use std::io::Write;
use std::time::Duration;

use crate::record::{Ending, Record, Refusal};

/// The columns, in order.
pub const HEADER: [&str; 28] = [
    "tenant",
    "session",
    "turn",
    "scheduled_ms",
    "dispatched_ms",
    "sent_ms",
    "head_ms",
    "first_token_ms",
    "first_output_token_ms",
    "last_token_ms",
    "ended_ms",
    "queue_wait_ms",
    "largest_gap_ms",
    "ending",
    "status",
    "code",
    "good",
    "tries",
    "retried",
    "chunks",
    "planned_prompt_tokens",
    "planned_output_tokens",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "tokens_seen",
    "request_id",
    "lie",
];

/// Writes the table. What has been added is written out when it is dropped, so that a run that breaks off keeps it.
pub struct Table<W: Write>(csv::Writer<W>);

impl<W: Write> Table<W> {
    /// Begins a table with its header.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn new(out: W) -> csv::Result<Self> {
        let mut writer = csv::Writer::from_writer(out);
        writer.write_record(HEADER)?;
        Ok(Self(writer))
    }

    /// Adds a request: `tenant` is its tenant's name, `good` whether it was within the objectives.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn add(&mut self, record: &Record, tenant: &str, good: bool) -> csv::Result<()> {
        let moment = |moment: Option<Duration>| moment.map(milliseconds).unwrap_or_default();
        let (ending, status, code) = ending(&record.ending);
        let retried: Vec<String> = record.retried.iter().map(|try_| format!("{} {}", try_.status, try_.code)).collect();
        let usage =
            |tokens: fn(crate::record::Usage) -> u64| record.usage.map(|u| tokens(u).to_string()).unwrap_or_default();
        self.0.write_record([
            &*text(tenant),
            &record.session.to_string(),
            &record.turn.to_string(),
            &milliseconds(record.scheduled),
            &milliseconds(record.dispatched),
            &milliseconds(record.sent),
            &moment(record.head),
            &moment(record.first_token),
            &moment(record.first_output_token),
            &moment(record.last_token),
            &milliseconds(record.ended),
            &moment(record.queue_wait),
            &moment(record.gaps.iter().max().copied()),
            &ending,
            &status,
            &text(&code),
            if good { "true" } else { "false" },
            &record.tries.to_string(),
            &retried.join("; "),
            &record.chunks.to_string(),
            &record.planned_prompt_tokens.to_string(),
            &record.planned_output_tokens.to_string(),
            &usage(|usage| usage.prompt),
            &usage(|usage| usage.cached),
            &usage(|usage| usage.completion),
            &record.tokens_seen.to_string(),
            &text(record.request_id.as_deref().unwrap_or_default()),
            &text(record.lie.as_deref().unwrap_or_default()),
        ])
    }

    /// Writes out what is still held back.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// To the microsecond.
fn milliseconds(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64() * 1000.0)
}

/// Kind, status and code apart: the kind without the code has few values to group by.
fn ending(ending: &Ending) -> (String, String, String) {
    let with = |kind: &str, Refusal { status, code }: &Refusal| (kind.to_owned(), status.to_string(), code.clone());
    match ending {
        Ending::Refused(refusal) => with("refused", refusal),
        Ending::ErrorEvent(refusal) => with("error in stream", refusal),
        other => (other.label(), String::new(), String::new()),
    }
}

/// Text from outside. Spreadsheets take a cell that begins with one of these for a formula and run it; a quote before it
/// makes it text (OWASP, "CSV Injection").
fn text(value: &str) -> Cow<'_, str> {
    if value.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) {
        Cow::Owned(format!("'{value}"))
    } else {
        Cow::Borrowed(value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::record::{Usage, sample};

    fn record() -> Record {
        let ms = Duration::from_millis;
        Record {
            session: 3,
            turn: 1,
            scheduled: ms(1000),
            dispatched: Duration::from_micros(1_000_250),
            sent: ms(1001),
            tries: 2,
            retried: vec![Refusal { status: 429, code: "rate_limit_exceeded".to_owned() }],
            head: Some(ms(1200)),
            first_token: Some(ms(1400)),
            last_token: Some(ms(2400)),
            ended: ms(2401),
            gaps: vec![ms(300), ms(700)],
            chunks: 3,
            queue_wait: Some(ms(150)),
            planned_prompt_tokens: 128,
            planned_output_tokens: 3,
            usage: Some(Usage { prompt: 130, cached: 64, completion: 3 }),
            tokens_seen: 3,
            request_id: Some("0198-a".to_owned()),
            ..sample()
        }
    }

    /// Lines by column, read back.
    fn read(bytes: &[u8]) -> Vec<BTreeMap<String, String>> {
        csv::Reader::from_reader(bytes).deserialize().map(|line| line.unwrap()).collect()
    }

    fn written(record: &Record, tenant: &str) -> BTreeMap<String, String> {
        let mut bytes = Vec::new();
        Table::new(&mut bytes).unwrap().add(record, tenant, true).unwrap();
        read(&bytes).remove(0)
    }

    #[test]
    fn a_request_is_a_line_with_all_of_its_moments() {
        let line = written(&record(), "chat");
        let expected = [
            ("tenant", "chat"),
            ("session", "3"),
            ("turn", "1"),
            ("scheduled_ms", "1000.000"),
            ("dispatched_ms", "1000.250"),
            ("sent_ms", "1001.000"),
            ("head_ms", "1200.000"),
            ("first_token_ms", "1400.000"),
            ("first_output_token_ms", ""),
            ("last_token_ms", "2400.000"),
            ("ended_ms", "2401.000"),
            ("queue_wait_ms", "150.000"),
            ("largest_gap_ms", "700.000"),
            ("ending", "complete"),
            ("status", ""),
            ("code", ""),
            ("good", "true"),
            ("tries", "2"),
            ("retried", "429 rate_limit_exceeded"),
            ("chunks", "3"),
            ("planned_prompt_tokens", "128"),
            ("planned_output_tokens", "3"),
            ("prompt_tokens", "130"),
            ("cached_tokens", "64"),
            ("completion_tokens", "3"),
            ("tokens_seen", "3"),
            ("request_id", "0198-a"),
            ("lie", ""),
        ];
        assert_eq!(expected.map(|(name, _)| name), HEADER);
        assert_eq!(line, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn an_error_has_status_and_code_in_columns_of_their_own() {
        let refusal = Refusal { status: 503, code: "queue_full".to_owned() };
        let line = written(&Record { ending: Ending::Refused(refusal), usage: None, ..record() }, "chat");
        assert_eq!([&line["ending"], &line["status"], &line["code"]], ["refused", "503", "queue_full"]);
        assert_eq!([&line["prompt_tokens"], &line["tokens_seen"]], ["", "3"]);
    }

    #[test]
    fn a_spreadsheet_takes_no_name_for_a_formula() {
        let refusal = Refusal { status: 500, code: "@SUM(1)".to_owned() };
        let evil = Record {
            ending: Ending::ErrorEvent(refusal),
            request_id: Some("+1".to_owned()),
            lie: Some("-1 tokens, \"said\"\nso".to_owned()),
            ..record()
        };
        let line = written(&evil, "=HYPERLINK(\"http://evil\")");
        assert_eq!(line["tenant"], "'=HYPERLINK(\"http://evil\")");
        assert_eq!([&line["code"], &line["request_id"]], ["'@SUM(1)", "'+1"]);
        assert_eq!(line["lie"], "'-1 tokens, \"said\"\nso");
    }

    #[test]
    fn what_was_added_is_kept_when_the_run_breaks_off() {
        #[derive(Clone, Default)]
        struct File(Arc<Mutex<Vec<u8>>>);
        impl Write for File {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let file = File::default();
        let mut table = Table::new(file.clone()).unwrap();
        table.add(&record(), "chat", false).unwrap();
        drop(table);
        assert_eq!(read(&file.0.lock().unwrap())[0]["good"], "false");
    }
}
