//! `loadtest`: a load test for LLM servers with tenants, and a simulated llama-server. The modules, in the order of a run;
//! each calls only those below it, but for `workload`, which asks `verdict` whether an objective names a measure:
//!
//! - `cli`: arguments in, exit code out
//! - `beside`: the same workload directly, through nginx and through the gateway
//! - `search`: runs at several loads, and the highest that meets the objectives
//! - `run`: one measured run, from workload and target to report
//! - `books`: tokens as clients, ledger and llama-server counted them
//! - `cancel`: how soon a client's leaving frees its slot
//! - `target`: the server before a run: reachable, keys, slots, words of one token
//! - `drive`: sends what is planned, and makes a record of each request
//! - `client`: HTTP to the server, and what its replies mean
//! - `plan`: the workload as sessions and moments
//! - `compare`: two reports of the same workload, and whether they differ by more than chance
//! - `show`: the report for people
//! - `verdict`: whether it met its objectives; JUnit XML
//! - `measure`: records folded into what the report says
//! - `report`: what is said of a run
//! - `workload`: the file that says what is sent, read and checked
//! - `record`: what is kept of one request
//! - `process`: CPU time and memory of processes
//! - `clock`: moments of a run
//!
//! `sim` stands alone: a simulated llama-server.

pub mod beside;
pub mod books;
pub mod cancel;
pub mod cli;
pub mod client;
pub mod clock;
pub mod compare;
pub mod drive;
pub mod measure;
pub mod plan;
pub mod process;
pub mod record;
pub mod report;
pub mod run;
pub mod search;
pub mod show;
pub mod sim;
#[cfg(test)]
mod stepped_time;
#[cfg(test)]
mod stub;
pub mod target;
pub mod verdict;
pub mod workload;
