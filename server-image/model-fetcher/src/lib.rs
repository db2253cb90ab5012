//! Fetches a GGUF model of hundreds of gigabytes to a volume, in the order of the modules:
//!
//! 1. `parameters`: what to fetch and where to, from the environment.
//! 2. `volume`, `record`: what is there already. A complete model ends here, without network.
//! 3. `client`, `hub`: the revision's commit and the files of the repository.
//! 4. `quantisation`: which of these files are the model.
//! 5. `plan`, `room`: what is missing, and whether it fits; `prune` deletes other models.
//! 6. `download`, `sink`, `retry`, `progress`: each file, until its SHA-256 is right.
//! 7. `record` again: `model.json`, written last.
//!
//! Instead of 3 to 7, `offline` takes a volume as others filled it. `check` reads everything again.

pub mod check;
pub mod cli;
pub mod client;
pub mod download;
pub mod fault;
pub mod fetch;
pub mod hub;
pub mod offline;
pub mod parameters;
pub mod plan;
pub mod progress;
pub mod prune;
pub mod quantisation;
pub mod record;
pub mod retry;
pub mod room;
pub mod sink;
pub mod volume;
