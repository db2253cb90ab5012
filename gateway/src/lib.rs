//! llama-gateway: an authenticating, metering, OpenAI-compatible gateway in front of `llama-server`.
//!
//! The modules stand in the order in which a request meets them; a module calls only those below it, and
//! `config`, `error`, `metrics` and `clock`, which call nobody; only `server` lends its `Client` and `Drain` to those
//! below. `docs/life-of-a-request.md` walks through them.

pub mod cli;
pub mod serve;
pub mod server;

pub mod admin;
pub mod app;
pub mod count;
mod dispatch;
pub mod handle;
pub mod patience;
pub mod routes;

pub mod auth;
pub mod policy;
pub mod surface;

pub mod limit;
pub mod queue;
pub mod retries;
pub mod upstream;

pub mod stream;

pub mod account;
pub mod ledger;

pub mod clock;
pub mod config;
pub mod database;
pub mod error;
pub mod metrics;
mod table;
