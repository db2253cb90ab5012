//! The gateway from outside: the real binary between real clients and a real llama-server.
//!
//! Where a test needs a gate (hold the stream before token 3) a stub stands in for llama-server; everywhere else
//! llama-server itself answers. `scripts/test` makes what is needed and names it in the environment.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]
#![expect(clippy::print_stdout, reason = "what the long ones found is worth reading: --no-capture shows it")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests have no async runtime: they watch real processes in real time"
)]

mod harness;

mod accounts;
mod admin;
mod audit;
mod auth;
mod cancel;
mod chat;
mod cli;
mod clients;
mod console;
mod console_http;
mod count;
mod cut;
mod dangerous;
mod drain;
mod endings;
mod export;
mod fair;
mod fold;
mod http;
mod keys;
mod killed;
mod ledger;
mod ledger_faults;
mod limits;
mod live;
mod loadtest;
mod metrics;
mod panics;
mod privacy;
mod queue;
mod refusals;
mod replicas;
mod simulator;
mod surfaces;
mod tokens;
mod top;
mod traces;
mod upstream_faults;
mod usage;
mod waiting;
