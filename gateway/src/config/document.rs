//! Keeps `docs/configuration.md` equal to `config.default.toml`.

const DEFAULTS: &str = include_str!("../../config.default.toml");
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");

const INTRODUCTION: &str = "# Configuration

Every key, with its default. `gateway/config.default.toml` is the same list as a file; this page is made from it
(`UPDATE_DOCS=1 cargo test -p gateway --lib config` writes it anew).

Layers, the later ones win: defaults, the file of `--config`, environment variables, flags. Unknown keys and variables
are refused, with the nearest known one named. `llama-gateway check-config F` says whether a file is right.
Durations are text such as `250ms`, `90s` or `2h 30m`. In the environment, lists are separated by commas. Policies
other than the default one, tenants, issuers and price tables are set in the file only.
Secrets never stand in the file: `admin.key_file` and `upstream.api_key_file` name files.
";

/// The page: one table a section, the comments above a key as its meaning.
fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    let (mut section, mut comment) = (String::new(), Vec::new());
    for line in DEFAULTS.lines().skip_while(|line| !line.starts_with('[')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
            let meaning = std::mem::take(&mut comment).join(" ");
            page.push_str(&format!("\n## {section}\n"));
            if !meaning.is_empty() {
                page.push_str(&format!("{meaning}\n"));
            }
            if !["requests.extra_fields", "tenants", "issuers", "prices"].contains(&section.as_str()) {
                page.push_str("\n| key | default | variable | meaning |\n|---|---|---|---|\n");
            }
        } else if let Some(text) = line.strip_prefix("# ") {
            comment.push(text.trim().to_owned());
        } else if let Some((key, default)) = line.split_once(" = ") {
            let variable = format!("LLAMA_GATEWAY_{section}_{key}").replace('.', "_").to_uppercase();
            let meaning = std::mem::take(&mut comment).join(" ");
            page.push_str(&format!("| `{key}` | `{default}` | `{variable}` | {meaning} |\n"));
        }
    }
    page
}

#[test]
fn the_page_says_what_the_default_file_says() {
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PAGE, &page).unwrap();
    }
    let written = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(written == page, "docs/configuration.md is stale: run UPDATE_DOCS=1 cargo test -p gateway --lib config");
}
