//! The fetcher against a hub of its own that cuts, stalls and lies; and the real binary, killed midway.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says so by panicking")]

mod hub;
mod world;

mod binary;
mod checked;
mod cuts;
mod faults;
mod fetched;
mod lock;
mod offline;
mod refusals;
mod space;
