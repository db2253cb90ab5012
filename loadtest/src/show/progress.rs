//! Live progress of a run: on a terminal a block of a few lines that is redrawn in place, elsewhere a line now and then.
//!
//! Takes a `Snapshot` whenever there is a new one and writes to what it was given (stderr, so that stdout can be piped);
//! the caller asks twice a second. Without a terminal most snapshots are passed over: a log wants a line every ten seconds.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::number::{count, milliseconds, none, printable, quantity};

/// How far apart lines are where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Characters of a line of the block. What a terminal has no room for is cut off at its edge.
const WIDTH: usize = 100;
/// Kinds of errors that are named; the others are counted together.
const KINDS: usize = 4;

/// How a run is getting on.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Since the beginning of the run.
    pub elapsed: Duration,
    /// How long requests are scheduled.
    pub duration: Duration,
    /// Requests scheduled so far.
    pub scheduled: u64,
    /// Requests under way.
    pub in_flight: u64,
    /// Requests that were complete.
    pub completed: u64,
    /// Requests that ended neither complete nor left.
    pub failed: u64,
    /// Requests whose client left as wanted.
    pub left: u64,
    /// Tokens generated so far.
    pub completion_tokens: u64,
    /// Median time to first token in milliseconds, of late; none if there was none.
    pub ttft_p50_ms: Option<f64>,
    /// The 95th percentile of the same.
    pub ttft_p95_ms: Option<f64>,
    /// Failed requests by their ending.
    pub errors: Vec<(String, u64)>,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A block redrawn in place: for a terminal.
    Block,
    /// A line every ten seconds: for a log.
    Lines,
    /// Nothing.
    Quiet,
}

impl Style {
    /// What suits an output: a block on a terminal, lines elsewhere, nothing if nothing is wanted.
    pub fn of(out: &impl IsTerminal, quiet: bool) -> Self {
        match (quiet, out.is_terminal()) {
            (true, _) => Self::Quiet,
            (false, true) => Self::Block,
            (false, false) => Self::Lines,
        }
    }
}

/// Shows snapshots as they come.
pub struct Progress<W: Write> {
    out: W,
    style: Style,
    /// Lines of the block on the screen.
    drawn: usize,
    /// The snapshot of the last line or block: rates are since then.
    last: Snapshot,
}

impl<W: Write> Progress<W> {
    /// Writes to `out` in a `style` that suits it.
    pub fn new(out: W, style: Style) -> Self {
        Self { out, style, drawn: 0, last: Snapshot::default() }
    }

    /// Shows how it is going, if it is time to.
    ///
    /// # Errors
    /// Those of the writer. They are no reason to end a run.
    pub fn update(&mut self, now: &Snapshot) -> io::Result<()> {
        match self.style {
            Style::Quiet => return Ok(()),
            Style::Lines if now.elapsed < self.last.elapsed + LINE_EVERY => return Ok(()),
            Style::Lines => writeln!(self.out, "{}", line(now, &self.last))?,
            Style::Block => self.draw(&block(now, &self.last))?,
        }
        self.last = now.clone();
        self.out.flush()
    }

    /// Leaves the last state on the screen and the cursor below it, so that what is written next stands alone.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(mut self, end: &Snapshot) -> io::Result<()> {
        match self.style {
            Style::Quiet => return Ok(()),
            Style::Lines => writeln!(self.out, "{}", line(end, &self.last))?,
            Style::Block => self.draw(&block(end, &self.last))?,
        }
        self.out.flush()
    }

    /// One write for the whole block, and each line is cleared only behind its new text: nothing flickers.
    fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        // No wrapping meanwhile: a line broken into two would make the block higher than the cursor goes back.
        let mut text = String::from("\u{1b}[?7l");
        if self.drawn > 0 {
            text.push_str(&format!("\u{1b}[{}A", self.drawn)); // up to the first line
        }
        for line in lines {
            text.push_str(&printable(line, WIDTH));
            text.push_str("\u{1b}[K\r\n"); // clear the rest of the line
        }
        text.push_str("\u{1b}[J\u{1b}[?7h"); // clear what an earlier, longer block left below, and wrap again
        self.drawn = lines.len();
        self.out.write_all(text.as_bytes())
    }
}

/// A change a second between two snapshots.
fn rate(now: &Snapshot, last: &Snapshot, value: fn(&Snapshot) -> u64) -> String {
    let seconds = now.elapsed.saturating_sub(last.elapsed).as_secs_f64();
    let change = value(now).saturating_sub(value(last)) as f64;
    if seconds > 0.0 { quantity(change / seconds) } else { none() }
}

fn ttft(now: &Snapshot) -> String {
    let [p50, p95] = [now.ttft_p50_ms, now.ttft_p95_ms].map(|value| value.map_or_else(none, milliseconds));
    format!("TTFT p50 {p50}, p95 {p95}")
}

fn block(now: &Snapshot, last: &Snapshot) -> Vec<String> {
    let mut lines = vec![
        clock(now),
        format!(
            "scheduled {}   in flight {}   completed {}   failed {}   left {}",
            count(now.scheduled),
            count(now.in_flight),
            count(now.completed),
            count(now.failed),
            count(now.left)
        ),
        format!(
            "completed {}/s   tokens {}/s   {}",
            rate(now, last, |s| s.completed),
            rate(now, last, |s| s.completion_tokens),
            ttft(now)
        ),
    ];
    if !now.errors.is_empty() {
        lines.push(format!("errors: {}", errors(now)));
    }
    lines
}

/// Time passed, as a bar; after the last scheduled request the run waits for those under way.
fn clock(now: &Snapshot) -> String {
    const CELLS: usize = 30;
    let part = (now.elapsed.as_secs_f64() / now.duration.as_secs_f64().max(0.001)).min(1.0);
    let done = (part * CELLS as f64) as usize;
    format!("[{}{}] {}", "#".repeat(done), ".".repeat(CELLS - done), passed(now))
}

/// Time passed.
fn passed(now: &Snapshot) -> String {
    let [elapsed, duration] = [now.elapsed, now.duration].map(|time| time.as_secs());
    match elapsed.checked_sub(duration) {
        None | Some(0) => format!("{elapsed} s of {duration} s"),
        Some(draining) => format!("{duration} s, and {draining} s of draining"),
    }
}

fn line(now: &Snapshot, last: &Snapshot) -> String {
    let mut line = format!(
        "{}: scheduled {}, in flight {}, completed {} ({}/s), failed {}, left {}, tokens {}/s, {}",
        passed(now),
        count(now.scheduled),
        count(now.in_flight),
        count(now.completed),
        rate(now, last, |s| s.completed),
        count(now.failed),
        count(now.left),
        rate(now, last, |s| s.completion_tokens),
        ttft(now),
    );
    if !now.errors.is_empty() {
        line.push_str(&format!("; errors: {}", errors(now)));
    }
    line
}

/// The most frequent kinds by name.
fn errors(now: &Snapshot) -> String {
    let mut kinds = now.errors.clone();
    kinds.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
    let rest: u64 = kinds.iter().skip(KINDS).map(|(_, times)| times).sum();
    kinds.truncate(KINDS);
    let mut named: Vec<String> =
        kinds.iter().map(|(kind, times)| format!("{} {}", printable(kind, 40), count(*times))).collect();
    if rest > 0 {
        named.push(format!("others {}", count(rest)));
    }
    named.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(seconds: u64) -> Snapshot {
        Snapshot {
            elapsed: Duration::from_secs(seconds),
            duration: Duration::from_secs(60),
            scheduled: seconds * 10,
            in_flight: 4,
            completed: seconds * 9,
            completion_tokens: seconds * 500,
            ttft_p50_ms: Some(412.0),
            ..Snapshot::default()
        }
    }

    fn failing(seconds: u64) -> Snapshot {
        let errors = vec![("cut".to_owned(), 2), ("status 500 \u{1b}[2Jinternal".to_owned(), 7)];
        Snapshot { failed: 9, errors, ..snapshot(seconds) }
    }

    fn shown(style: Style, snapshots: &[Snapshot]) -> String {
        let mut out = Vec::new();
        let mut progress = Progress::new(&mut out, style);
        let (last, before) = snapshots.split_last().unwrap();
        for snapshot in before {
            progress.update(snapshot).unwrap();
        }
        progress.finish(last).unwrap();
        String::from_utf8(out).unwrap()
    }

    const COLUMNS: usize = 60;

    /// What a narrow terminal shows: as much of one as is needed to follow what is written here.
    fn screen(written: &str) -> Vec<String> {
        let (mut rows, mut row, mut column, mut wraps) = (vec![Vec::new()], 0usize, 0usize, true);
        let mut rest = written.chars();
        while let Some(c) = rest.next() {
            match c {
                '\u{1b}' => {
                    assert_eq!(rest.next(), Some('['));
                    let mut number = 0;
                    let mut rest = rest.by_ref().filter(|c| *c != '?');
                    match rest.find(|c| c.to_digit(10).map(|digit| number = number * 10 + digit).is_none()) {
                        Some('A') => row -= number as usize,
                        Some(letter @ ('h' | 'l')) => wraps = letter == 'h',
                        Some('K') => rows[row].truncate(column),
                        Some('J') => {
                            rows[row].truncate(column);
                            rows.truncate(row + 1);
                        }
                        other => panic!("unknown sequence {other:?}"),
                    }
                }
                '\r' => column = 0,
                '\n' => {
                    row += 1;
                    rows.resize(rows.len().max(row + 1), Vec::new());
                }
                c => {
                    assert!(column < COLUMNS || !wraps, "a longer line would be broken into two");
                    column = column.min(COLUMNS - 1);
                    let end = rows[row].len().min(column + 1);
                    rows[row].splice(column..end, [c]);
                    column += 1;
                }
            }
        }
        rows.into_iter().map(|row| row.into_iter().collect()).collect()
    }

    #[test]
    fn a_terminal_shows_the_newest_block_in_place_and_the_cursor_below_it() {
        let screen = screen(&shown(Style::Block, &[snapshot(1), failing(2), snapshot(30)]));
        assert_eq!(
            screen,
            [
                "[###############...............] 30 s of 60 s",
                "scheduled 300   in flight 4   completed 270   failed 0   le0",
                "completed 9.00/s   tokens 500/s   TTFT p50 412 ms, p95 –",
                "",
            ]
        );
    }

    #[test]
    fn errors_are_shown_by_kind_and_cannot_move_the_cursor() {
        let screen = screen(&shown(Style::Block, &[failing(70)]));
        assert_eq!(screen[0], "[##############################] 60 s, and 10 s of draining");
        assert_eq!(screen[3], "errors: status 500 \u{fffd}[2Jinternal 7, cut 2");
    }

    #[test]
    fn a_block_is_one_write_so_that_nothing_flickers() {
        struct Writes(usize);
        impl Write for Writes {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += 1;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut writes = Writes(0);
        Progress::new(&mut writes, Style::Block).update(&failing(1)).unwrap();
        assert_eq!(writes.0, 1);
    }

    #[test]
    fn a_log_gets_a_line_every_ten_seconds_and_one_at_the_end() {
        let every_second: Vec<_> = (1..=25).map(snapshot).collect();
        let written = shown(Style::Lines, &every_second);
        let lines: Vec<_> = written.lines().collect();
        assert_eq!(lines.len(), 3, "{written}");
        assert_eq!(
            lines[1],
            "20 s of 60 s: scheduled 200, in flight 4, completed 180 (9.00/s), failed 0, left 0, tokens 500/s, \
             TTFT p50 412 ms, p95 –"
        );
        assert!(!written.contains('\u{1b}'));
    }

    #[test]
    fn kinds_of_errors_beyond_the_fourth_are_counted_together() {
        let errors = (1..=6).map(|n| (format!("status 50{n}"), n)).collect();
        let text = errors_of(errors);
        assert_eq!(text, "status 506 6, status 505 5, status 504 4, status 503 3, others 3");
    }

    fn errors_of(kinds: Vec<(String, u64)>) -> String {
        errors(&Snapshot { errors: kinds, ..snapshot(1) })
    }

    #[test]
    fn what_is_no_terminal_gets_lines_and_quiet_is_quiet() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(Style::of(&file, false), Style::Lines);
        assert_eq!(Style::of(&file, true), Style::Quiet);
    }

    #[test]
    fn quiet_writes_nothing() {
        assert_eq!(shown(Style::Quiet, &[snapshot(1), failing(20)]), "");
    }
}
