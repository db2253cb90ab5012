//! A snapshot as lines: the head, and below it the tables of what runs, who waits, the tenants and the replicas.

use jiff::Timestamp;

use super::columns::{Column, table};
use super::text::{Line, Span, Style, count, or_dash, span};
use crate::admin::live::snapshot::{Bucket, Quota, Running, Snapshot, Tenant, Upstream, Waiting};

/// A limit of which less than a tenth is left is pointed out.
const LITTLE_LEFT: u64 = 10;

/// What is below the head.
pub(super) struct Document {
    pub(super) lines: Vec<Line>,
    /// The lines at which the parts begin.
    pub(super) parts: Vec<usize>,
}

/// The state of the whole, on as many lines as it takes.
pub(super) fn head(snapshot: &Snapshot, width: usize) -> Vec<Line> {
    let gateway = &snapshot.gateway;
    let (state, style) = match (gateway.draining, gateway.readiness.as_str()) {
        (true, _) => ("draining", Style::Warning),
        (false, "ready") => ("ready", Style::Good),
        (false, other) => (other, Style::Bad),
    };
    let slots = |of: fn(&Upstream) -> u32| snapshot.upstreams.iter().map(of).fold(0, u32::saturating_add);
    // Not `sum`, which is -0.0 of nothing.
    let speed = snapshot.running.iter().filter_map(|running| running.tokens_per_second).fold(0.0, |sum, one| sum + one);
    let mut facts = vec![
        Span::new(Style::Bold, format!("llama-gateway {}", gateway.version)),
        Span::new(style, state),
        Span::plain(format!("up {}", span(snapshot.at - gateway.started))),
        Span::plain(format!("{} connections", gateway.open_connections)),
        Span::plain(moment(snapshot.at)),
        Span::plain(format!("slots {}/{} busy", slots(|up| up.slots_busy), slots(|up| up.slots))),
        Span::plain(format!("{} waiting", snapshot.waiting_total)),
        Span::plain(format!("{speed:.1} tokens/s")),
        Span::plain(format!("queue drains in {}", or_dash(snapshot.queue.drain_seconds, span))),
    ];
    if !gateway.ledger_healthy {
        facts.push(Span::new(Style::Bad, "THE LEDGER FAILS"));
    }
    flow(facts, width)
}

/// The tables.
pub(super) fn body(snapshot: &Snapshot, width: usize) -> Document {
    let mut document = Document { lines: Vec::new(), parts: Vec::new() };
    let title = format!("RUNNING {}", shown(snapshot.running.len(), snapshot.running_total));
    document.part(&title, running(&snapshot.running, width));
    let title = format!("QUEUE {}{}", shown(snapshot.waiting.len(), snapshot.waiting_total), expected(snapshot));
    document.part(&title, waiting(&snapshot.waiting, width));
    document.part("TENANTS (tokens left)", tenants(&snapshot.tenants, width));
    document.part("UPSTREAMS", upstreams(&snapshot.upstreams, width));
    document.lines = std::mem::take(&mut document.lines).into_iter().map(|line| line.cut(width)).collect();
    document
}

impl Document {
    fn part(&mut self, title: &str, table: Vec<Line>) {
        if !self.lines.is_empty() {
            self.lines.push(Line::default());
        }
        self.parts.push(self.lines.len());
        self.lines.push(Line::of(Style::Bold, title));
        // A head without rows says nothing.
        let none = vec![Line::of(Style::Plain, "none")];
        self.lines.extend(if table.len() > 1 { table } else { none });
    }
}

/// Facts side by side, on the next line where the width is used up.
fn flow(facts: Vec<Span>, width: usize) -> Vec<Line> {
    const GAP: &str = "  ";
    let mut lines: Vec<Line> = Vec::new();
    for fact in facts {
        match lines.last_mut() {
            Some(line) if line.width() + GAP.len() + fact.width() <= width => line.0.extend([Span::plain(GAP), fact]),
            _ => lines.push(Line(vec![fact])),
        }
    }
    lines.into_iter().map(|line| line.cut(width)).collect()
}

fn running(all: &[Running], width: usize) -> Vec<Line> {
    const COLUMNS: [Column; 12] = [
        Column::name("TENANT", 0),
        Column::name("KEY", 6),
        Column::name("SURFACE", 5),
        Column::name("PHASE", 1),
        Column::number("PROMPT", 4),
        Column::number("OUTPUT", 2),
        Column::number("TOK/S", 3),
        Column::number("TTFT", 7),
        Column::number("AGE", 3),
        Column::number("WAITED", 8),
        Column::name("UPSTREAM", 9),
        Column::name("REQUEST", 11),
    ];
    let row = |one: &Running| {
        [
            Span::plain(&one.tenant),
            Span::plain(&one.key_id),
            Span::plain(&one.surface),
            Span::plain(&one.phase),
            tokens(one.prompt_tokens),
            tokens(one.completion_tokens),
            Span::plain(or_dash(one.tokens_per_second, |speed| format!("{speed:.1}"))),
            time(one.ttft_seconds),
            time(Some(one.age_seconds)),
            time(Some(one.queue_wait_seconds)),
            Span::plain(&one.upstream),
            Span::plain(&one.request_id),
        ]
    };
    table(&COLUMNS, all.iter().map(row).collect(), width)
}

fn waiting(all: &[Waiting], width: usize) -> Vec<Line> {
    const COLUMNS: [Column; 9] = [
        Column::number("POS", 1),
        Column::name("TENANT", 0),
        Column::name("KEY", 6),
        Column::name("SURFACE", 7),
        Column::name("CLASS", 4),
        Column::number("PROMPT", 5),
        Column::number("WAITED", 3),
        Column::number("EXPECTED", 2),
        Column::name("REQUEST", 8),
    ];
    let row = |one: &Waiting| {
        [
            Span::plain(one.position.to_string()),
            Span::plain(&one.tenant),
            Span::plain(&one.key_id),
            Span::plain(&one.surface),
            Span::plain(&one.class),
            tokens(one.prompt_tokens),
            time(Some(one.waited_seconds)),
            time(one.expected_wait_seconds),
            Span::plain(&one.request_id),
        ]
    };
    table(&COLUMNS, all.iter().map(row).collect(), width)
}

fn tenants(all: &[Tenant], width: usize) -> Vec<Line> {
    const COLUMNS: [Column; 7] = [
        Column::name("TENANT", 0),
        Column::number("RUNNING", 4),
        Column::number("WAITING", 5),
        Column::number("SLOTS", 6),
        Column::number("THIS MINUTE", 3),
        Column::number("TODAY", 1),
        Column::number("THIS MONTH", 2),
    ];
    let minute = |bucket: Bucket| (bucket.left, bucket.capacity);
    let period = |quota: Quota| (quota.limit.saturating_sub(quota.used), quota.limit);
    let row = |one: &Tenant| {
        [
            Span::plain(&one.tenant),
            Span::plain(one.running.to_string()),
            Span::plain(one.waiting.to_string()),
            Span::plain(one.slots_busy.to_string()),
            left(one.tokens_per_minute.map(minute)),
            left(one.day.map(period)),
            left(one.month.map(period)),
        ]
    };
    table(&COLUMNS, all.iter().map(row).collect(), width)
}

fn upstreams(all: &[Upstream], width: usize) -> Vec<Line> {
    const COLUMNS: [Column; 9] = [
        Column::name("ADDRESS", 0),
        Column::name("STATE", 1),
        Column::number("BUSY", 2),
        Column::number("FOREIGN", 5),
        Column::number("RESTARTS", 6),
        Column::number("CONTEXT", 7),
        Column::name("MODEL", 4),
        Column::name("BUILD", 8),
        Column::name("PROBLEM", 3),
    ];
    let row = |one: &Upstream| {
        let style = match one.state.as_str() {
            "ready" => Style::Good,
            "loading" | "leaving" => Style::Warning,
            _ => Style::Bad,
        };
        [
            Span::plain(&one.address),
            Span::new(style, &one.state),
            Span::plain(format!("{}/{}", one.slots_busy, one.slots)),
            Span::new(warn(one.foreign_requests > 0), one.foreign_requests.to_string()),
            Span::plain(one.restarts.to_string()),
            Span::plain(or_dash(one.context_tokens, |tokens| count(tokens.into()))),
            Span::plain(one.model.as_deref().unwrap_or("-")),
            Span::plain(one.build.as_deref().unwrap_or("-")),
            Span::new(Style::Warning, one.problem.as_deref().unwrap_or("-")),
        ]
    };
    table(&COLUMNS, all.iter().map(row).collect(), width)
}

fn shown(shown: usize, total: usize) -> String {
    if shown < total { format!("{total}, the first {shown} of them") } else { total.to_string() }
}

/// How long somebody would wait who came now, by class.
fn expected(snapshot: &Snapshot) -> String {
    let classes = snapshot.queue.expected_wait_seconds.iter();
    let classes: Vec<_> = classes.map(|(class, wait)| format!("{class} {}", or_dash(*wait, span))).collect();
    if classes.is_empty() { String::new() } else { format!("; expected for newcomers: {}", classes.join(", ")) }
}

fn tokens(number: u64) -> Span {
    Span::plain(count(number))
}

fn time(seconds: Option<f64>) -> Span {
    Span::plain(or_dash(seconds, span))
}

/// What is left of a limit.
fn left(limit: Option<(u64, u64)>) -> Span {
    let Some((left, limit)) = limit else { return Span::plain("-") };
    Span::new(warn(left < limit / LITTLE_LEFT), format!("{} of {}", count(left), count(limit)))
}

fn warn(wrong: bool) -> Style {
    if wrong { Style::Warning } else { Style::Plain }
}

/// The time of day, UTC.
fn moment(at: f64) -> String {
    let time = Timestamp::from_second(at as i64).unwrap_or_default().to_string();
    time.get(11..19).map(|time| format!("{time} UTC")).unwrap_or_default()
}
