//! The workloads that come with the program.

/// Names and texts.
pub(super) const SHIPPED: [(&str, &str); 8] = [
    ("agents-multi-turn", include_str!("../../workloads/agents-multi-turn.toml")),
    ("chat", include_str!("../../workloads/chat.toml")),
    ("flood-and-trickle", include_str!("../../workloads/flood-and-trickle.toml")),
    ("overload", include_str!("../../workloads/overload.toml")),
    ("rag-long-prompts", include_str!("../../workloads/rag-long-prompts.toml")),
    ("smoke", include_str!("../../workloads/smoke.toml")),
    ("soak", include_str!("../../workloads/soak.toml")),
    ("three-tenants", include_str!("../../workloads/three-tenants.toml")),
];

/// The text (TOML) of the workload of this name that comes with the program.
pub fn shipped_text(name: &str) -> Option<&'static str> {
    SHIPPED.iter().find(|(shipped, _)| *shipped == name).map(|(_, text)| *text)
}

/// Names and texts (TOML) of the workloads that come with the program, by name.
pub fn shipped() -> impl Iterator<Item = (&'static str, &'static str)> {
    SHIPPED.into_iter()
}
