//! `loadtest`: a load test for LLM servers with tenants, and a simulated llama-server. The modules, in the order of a run;
//! each calls only those below it:
//!
//! - `cli`: arguments in, exit code out
//! - `workload`: the file that says what is sent, read and checked
//! - `plan`: the workload as sessions and moments
//! - `record`: what is kept of one request
//! - `report`: what is said of a run
//! - `sim`: a simulated llama-server
//! - `clock`: moments of a run

pub mod cli;
pub mod clock;
pub mod plan;
pub mod record;
pub mod report;
pub mod sim;
pub mod workload;
