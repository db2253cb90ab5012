//! What is on the screen: a pure function of what is known, where the reader has scrolled to, and the size.

use super::document::{Document, body, head};
use super::text::{Line, Span, Style};
use crate::admin::live::snapshot::Snapshot;

/// Columns and rows of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

/// What the keys have changed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct View {
    /// Lines of the tables above the first one that is seen.
    pub(super) offset: usize,
    pub(super) is_paused: bool,
    pub(super) shows_help: bool,
}

/// How far a key scrolls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scroll {
    Line,
    LineBack,
    Page,
    PageBack,
    /// To the next of the four tables, and from the last one to the first.
    NextPart,
    Top,
    End,
}

const HELP: &[&str] = &[
    "q, Esc, Ctrl-C   quit",
    "p                pause: the screen stays as it is; again: go on",
    "up, down         scroll by a line",
    "PgUp, PgDn       scroll by a page",
    "Home, End        to the first line, to the last one",
    "Tab              to the next table",
    "h, ?             this help; any key: back",
    "",
    "TOK/S     tokens a second of the stream, at present",
    "TTFT      time to the first token, from the arrival of the request",
    "AGE       since the request arrived",
    "POS       how many are before it in the queue",
    "EXPECTED  how long it will probably still wait",
    "FOREIGN   requests in llama-server that did not come through the gateway",
    "-         not known, or no such limit",
    "",
    "Columns that have no room are left out: make the window wider to see more.",
];

/// The lines of the screen: as many as it has rows, none wider than it.
pub(super) fn screen(snapshot: &Snapshot, view: &View, lost: Option<&str>, size: Size) -> Vec<Line> {
    let (mut lines, room) = top(snapshot, lost, size);
    let shown = if view.shows_help { help(size.columns) } else { body(snapshot, size.columns).lines };
    let offset = if view.shows_help { 0 } else { view.offset.min(shown.len().saturating_sub(room)) };
    let hidden = shown.len().saturating_sub(offset + room);
    lines.extend(shown.into_iter().skip(offset).take(room));
    lines.resize(size.rows.saturating_sub(1), Line::default());
    lines.push(foot(view, hidden, size.columns));
    lines.truncate(size.rows);
    lines
}

/// Where a scroll leads.
pub(super) fn scroll(snapshot: &Snapshot, view: &View, lost: Option<&str>, scroll: Scroll, size: Size) -> usize {
    let (_, room) = top(snapshot, lost, size);
    let Document { lines, parts } = body(snapshot, size.columns);
    let last = lines.len().saturating_sub(room);
    // The tables may have become shorter since.
    let offset = view.offset.min(last);
    let wanted = match scroll {
        Scroll::Line => offset + 1,
        Scroll::LineBack => offset.saturating_sub(1),
        Scroll::Page => offset + room,
        Scroll::PageBack => offset.saturating_sub(room),
        Scroll::NextPart if offset == last => 0,
        Scroll::NextPart => parts.into_iter().find(|part| *part > offset).unwrap_or_default(),
        Scroll::Top => 0,
        Scroll::End => last,
    };
    wanted.min(last)
}

/// What is above the tables, and how many rows are left for these.
fn top(snapshot: &Snapshot, lost: Option<&str>, size: Size) -> (Vec<Line>, usize) {
    let mut lines = head(snapshot, size.columns);
    lines.extend(lost.map(|lost| Line::of(Style::Bad, lost).cut(size.columns)));
    lines.push(Line::default());
    // On a tiny screen the tables matter no less than the head.
    lines.truncate(size.rows / 2);
    let room = size.rows.saturating_sub(lines.len() + 1);
    (lines, room)
}

fn help(width: usize) -> Vec<Line> {
    HELP.iter().map(|line| Line::of(Style::Plain, line).cut(width)).collect()
}

fn foot(view: &View, hidden: usize, width: usize) -> Line {
    let paused = if view.is_paused { "PAUSED  " } else { "" };
    let more = if hidden > 0 { format!("  {hidden} below") } else { String::new() };
    let mut span = Span::new(Style::Bar, format!("{paused}q quit  p pause  h help{more}"));
    span.fit(width, false);
    Line(vec![span])
}
