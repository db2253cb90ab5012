//! Plans: repeatable, with the moments and lengths that the workload says.

mod arrivals;
mod draws;
mod golden;
mod sessions;
mod traces;

use super::*;
use crate::workload::Workload;

/// A workload by its text, unchecked.
fn workload(text: &str) -> Workload {
    toml::from_str(text).unwrap()
}

/// The plan of the tenant `chat` with these lines.
fn chat(lines: &str) -> TenantPlan {
    plan("seed = 1\nduration = '10000s'", lines)
}

fn plan(head: &str, lines: &str) -> TenantPlan {
    TenantPlan::new(&workload(&format!("{head}\n[tenants.chat]\n{lines}\n")), "chat", &Vocabulary::estimated()).unwrap()
}
