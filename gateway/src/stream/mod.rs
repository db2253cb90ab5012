//! A reply of llama-server on its way back: events are found in the bytes, counted and passed on.

pub mod fold;
pub mod meter;
pub mod sse;
mod tally;
mod timings;
mod usage;
