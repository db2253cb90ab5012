//! The table of request fields as a page for people: `docs/request-fields.md`.

use super::rule::Rule;
use super::table::{self, Group};
use super::{Surface, rule};

const INTRODUCTION: &str = "\
# Request fields

What the gateway does with each field of a request body. Written from `gateway/src/surface/table.rs`; do not edit.

llama-server reads many more fields than its API pages name, and some of them stop it, make it reserve gigabytes or
switch accounting off. So a body is never passed on as it came: only the fields below go through, each within its
bounds. A field that stands nowhere on this page is left out, as llama-server itself ignores what it does not know.
`null` means the default, as if the field were absent. A field that is given twice is refused.

Operators let further fields pass with `requests.extra_fields`, for example
`extra_fields = { chat = [\"new_sampler\"] }`; fields that are left out or refused below may be named there too.

Media must be in the request (`data:` URLs, base64): llama-server would fetch `http` and `file` addresses itself,
from wherever its machine can reach, so they are refused.
";

/// The page, in Markdown.
fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    let mut groups: Vec<&'static Group> = Vec::new();
    for group in Surface::ALL.into_iter().flat_map(table::groups) {
        if !groups.iter().any(|known| known.title == group.title) {
            groups.push(group);
        }
    }
    for group in groups {
        let takes = |surface: &Surface| table::groups(*surface).iter().any(|one| one.title == group.title);
        let surfaces: Vec<_> = Surface::ALL.iter().filter(|surface| takes(surface)).map(|one| one.label()).collect();
        page.push_str(&format!("\n## {}\n\nOn: {}.\n\n", group.title, surfaces.join(", ")));
        page.push_str("| field | what is done | why |\n|---|---|---|\n");
        for field in group.fields {
            page.push_str(&format!("| `{}` | {} | {} |\n", field.name, done(field.rule), field.why));
        }
    }
    page
}

fn done(rule: Rule) -> String {
    match rule {
        Rule::Content | Rule::Prompts(_) | Rule::Dropped | Rule::Refused | Rule::Cap | Rule::Read(_) => {
            rule.to_string()
        }
        rule::FLAG => "passes: true or false".to_owned(),
        rule => format!("passes: {rule}"),
    }
}

mod tests {
    use super::*;

    #[test]
    fn the_page_in_the_docs_says_what_the_table_says() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/request-fields.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(file, page()).unwrap();
        }
        let written = std::fs::read_to_string(file).unwrap_or_default();
        assert!(
            written == page(),
            "docs/request-fields.md is stale; run: UPDATE_DOCS=1 cargo test -p gateway --lib surface::document"
        );
    }

    #[test]
    fn no_field_stands_twice_on_a_surface() {
        for surface in Surface::ALL {
            let mut names: Vec<_> =
                table::groups(surface).iter().flat_map(|group| group.fields).map(|field| field.name).collect();
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all, "{}", surface.label());
        }
    }
}
