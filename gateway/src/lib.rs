//! llama-gateway: an authenticating, metering, OpenAI-compatible gateway in front of `llama-server`.
//!
//! The groups of modules stand so that a module calls only those of its own group and of groups below it. There are two
//! exceptions: `server` lends its `Client`, `Drain`, `Counts` and `Tls` to those below, and the ledger names the
//! `Surface` of a request.
//! `docs/life-of-a-request.md` walks through the modules in the order in which a request meets them.

pub mod cli;
pub mod serve;
pub mod server;

pub mod admin;
mod admit;
pub mod app;
mod dispatch;
mod enqueue;
pub mod handle;
pub mod patience;
pub mod routes;
pub mod usage;

pub mod account;
pub mod stream;

pub mod count;
pub mod limit;
pub mod retries;
pub mod roster;
pub mod upstream;

pub mod audit;
pub mod export;

pub mod auth;
pub mod policy;
pub mod surface;

pub mod ledger;
pub mod queue;
pub mod traces;

pub mod clock;
pub mod config;
pub mod database;
pub mod error;
pub mod metrics;
pub mod outbound;
pub mod panics;
pub mod parameters;
pub mod prices;
mod table;
pub mod volume;
