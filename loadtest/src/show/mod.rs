//! What people see of a run: a summary and live progress in the terminal, a CSV with a line a request, and one HTML page.
//!
//! Takes a `Report` or a `Sweep` (and, while it runs, snapshots and records); gives text. Nothing here measures or judges,
//! and nothing needs the network: the page holds all that it shows.

pub mod progress;
pub mod table;

mod html;
mod measures;
mod number;
#[cfg(test)]
mod sample;
mod text;

use crate::report::Report;
use crate::report::sweep::Sweep;

/// A summary of a run for the terminal: 100 columns at most, verdict last.
pub fn text(report: &Report) -> String {
    text::report(report)
}

/// The runs of a sweep as a table for the terminal, and the limit.
pub fn text_sweep(sweep: &Sweep) -> String {
    text::sweep(sweep)
}

/// A run as one self-contained HTML page: no scripts, no network.
pub fn html(report: &Report) -> String {
    html::report(report)
}

/// A sweep as such a page.
pub fn html_sweep(sweep: &Sweep) -> String {
    html::sweep(sweep)
}
