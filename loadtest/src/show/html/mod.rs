//! The page of a run and the page of a sweep: each one HTML file that needs nothing else. No scripts and nothing from the
//! network, so that it can be put into a ticket and opened anywhere; light and dark; legible on a phone and without colours.
//!
//! `run.rs` and `sweep.rs` say what is on a page, `page.rs` how one is built, `chart.rs` draws with `axis.rs` and
//! `colour.rs`.

mod axis;
mod chart;
mod colour;
mod latency;
mod page;
mod run;
mod shares;
mod sweep;
#[cfg(test)]
mod tests;
mod timeline;

pub(super) use run::report;
pub(super) use sweep::sweep;
