//! The command line of llama-gateway.
fn main() {}
