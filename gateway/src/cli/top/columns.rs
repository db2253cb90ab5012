//! Tables that fit: the least important columns go first, names are cut only when that is not enough.

use super::text::{Line, Span, Style};

/// Columns between two columns of a table.
const GAP: usize = 2;
/// A name is cut to so many characters before a column is left out for it.
const SHORT_NAME: usize = 12;

/// One column of a table.
pub(super) struct Column {
    head: &'static str,
    /// Numbers are flush right and never cut; names may be.
    is_number: bool,
    /// The column with the highest one is left out first.
    rank: u8,
}

impl Column {
    pub(super) const fn name(head: &'static str, rank: u8) -> Self {
        Self { head, is_number: false, rank }
    }

    pub(super) const fn number(head: &'static str, rank: u8) -> Self {
        Self { head, is_number: true, rank }
    }

    /// The width below which it is left out.
    fn least(&self, widest: usize) -> usize {
        if self.is_number { widest } else { widest.min(SHORT_NAME) }
    }
}

/// Lays a table out: its head and its rows, none of them wider than `width`.
pub(super) fn table<const N: usize>(columns: &[Column; N], rows: Vec<[Span; N]>, width: usize) -> Vec<Line> {
    let widest = std::array::from_fn(|at| {
        let cells = rows.iter().map(|row| row[at].width());
        cells.chain([columns[at].head.len()]).max().unwrap_or_default()
    });
    let widths = widths(columns, &widest, width);
    let head = std::array::from_fn(|at| Span::new(Style::Underlined, columns[at].head));
    let line = |cells: [Span; N]| {
        let mut line = Line::default();
        for ((mut cell, column), width) in cells.into_iter().zip(columns).zip(&widths) {
            let Some(width) = width else { continue };
            if !line.0.is_empty() {
                line.0.push(Span::plain(" ".repeat(GAP)));
            }
            cell.fit(*width, column.is_number);
            line.0.push(cell);
        }
        line.cut(width)
    };
    std::iter::once(head).chain(rows).map(line).collect()
}

/// How wide each column becomes; none: it is left out.
fn widths<const N: usize>(columns: &[Column; N], widest: &[usize; N], width: usize) -> [Option<usize>; N] {
    let mut widths: [_; N] = std::array::from_fn(|at| Some(columns[at].least(widest[at])));
    let total = |widths: &[Option<usize>; N]| {
        let shown = widths.iter().flatten();
        shown.clone().sum::<usize>() + GAP * shown.count().saturating_sub(1)
    };
    while total(&widths) > width && widths.iter().flatten().count() > 1 {
        let shown = (0..N).filter(|at| widths[*at].is_some());
        let Some(last) = shown.max_by_key(|at| columns[*at].rank) else { break };
        widths[last] = None;
    }
    // What is left of the line goes to the names that were cut, from the left.
    let mut left = width.saturating_sub(total(&widths));
    for (width, widest) in widths.iter_mut().zip(widest) {
        if let Some(width) = width {
            let more = left.min(widest.saturating_sub(*width));
            *width += more;
            left -= more;
        }
    }
    widths
}
