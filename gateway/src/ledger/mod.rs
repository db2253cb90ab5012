//! The record of every request: one entry each, whatever way it ended.

mod entry;

pub use entry::{Count, CountedBy, Ending, Outcome, Subject};
