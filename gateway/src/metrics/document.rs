//! Keeps `docs/metrics.md` equal to the registry.

use super::Metrics;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");

const INTRODUCTION: &str = "# Metrics

Every metric of the gateway, as `/metrics` on the admin port shows it. This page is made from the registry
(`UPDATE_DOCS=1 cargo test -p gateway --lib metrics` writes it anew).

A histogram has the series `NAME_bucket` (with the label `le`), `NAME_sum` and `NAME_count`.
Labels come only from fixed or configured sets: nothing that a client sends becomes a label.

| metric | type | labels | meaning |
|---|---|---|---|
";

/// `IntCounterVec` is a counter, and so on.
fn kind(of_type: &str) -> &'static str {
    if of_type.contains("Counter") {
        "counter"
    } else if of_type.contains("Gauge") {
        "gauge"
    } else {
        "histogram"
    }
}

/// One row a metric, in the order of the source.
fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for (description, of_type) in Metrics::new().unwrap().described() {
        let labels: Vec<String> = description.variable_labels.iter().map(|label| format!("`{label}`")).collect();
        page.push_str(&format!(
            "| `llama_gateway_{}` | {} | {} | {} |\n",
            description.fq_name,
            kind(of_type),
            labels.join(", "),
            description.help
        ));
    }
    page
}

#[test]
fn the_page_says_what_the_registry_says() {
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PAGE, &page).unwrap();
    }
    let written = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(written == page, "docs/metrics.md is stale: run UPDATE_DOCS=1 cargo test -p gateway --lib metrics");
}
