//! The page around the charts: one file with all of its style, and a policy under which a browser asks nobody for
//! anything and runs nothing.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::colour;
use crate::report::Target;

const STYLE: &str = include_str!("page.css");

/// How it came out, on top of the page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Failed,
    /// Nothing was to be judged.
    Measured,
    Invalid,
}

/// What stands on top of a page.
pub(super) struct Head<'a> {
    pub(super) kind: &'static str,
    pub(super) name: &'a str,
    pub(super) question: &'a str,
    pub(super) outcome: Outcome,
    /// The verdict in a line.
    pub(super) verdict: String,
}

/// A whole page. Its text is escaped by maud wherever it is put in.
pub(super) fn page(head: &Head<'_>, facts: &[(&str, String)], body: &Markup) -> String {
    let (class, sign) = match head.outcome {
        Outcome::Passed => ("passed", "✓"),
        Outcome::Failed => ("failed", "✗"),
        Outcome::Measured => ("measured", "•"),
        Outcome::Invalid => ("invalid", "!"),
    };
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (head.name) " – " (head.verdict) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (colour::pattern())
                main {
                    header {
                        p.kind { (head.kind) }
                        h1 { (head.name) }
                        @if !head.question.is_empty() { p.question { (head.question) } }
                        p class={ "verdict " (class) } { span.sign aria-hidden="true" { (sign) } span.text { (head.verdict) } }
                        dl.facts { @for (name, value) in facts { div { dt { (name) } dd { (value) } } } }
                    }
                    (body)
                }
            }
        }
    }
    .into_string()
}

/// Where it was sent, and by what.
pub(super) fn facts<'a>(target: &Target, started_at: &str, harness: &str) -> Vec<(&'a str, String)> {
    let mut facts = vec![("Began", started_at.to_owned()), ("Target", target.url.clone())];
    facts.extend(target.upstream.clone().map(|upstream| ("llama-server", upstream)));
    facts.extend(target.build.clone().map(|build| ("Build", build)));
    facts.extend(target.slots.map(|slots| ("Slots", slots.to_string())));
    let exact = if target.exact_prompts { "exact, by the server's tokenizer" } else { "estimated" };
    facts.push(("Prompt lengths", exact.to_owned()));
    facts.push(("Harness", format!("loadtest {harness}")));
    facts
}

/// A part of the page with its title.
pub(super) fn section(title: &str, body: &Markup) -> Markup {
    html! { section { h2 { (title) } (body) } }
}

/// Charts beside each other as far as there is room.
pub(super) fn grid(figures: &[Markup]) -> Markup {
    html! { div.grid { @for figure in figures { (figure) } } }
}

/// A number that is worth being large.
pub(super) fn tile(name: &str, value: &str, note: &str) -> Markup {
    html! { div.tile { span.name { (name) } span.value { (value) } span.note { (note) } } }
}

/// A table; `columns` has a letter for each: `t` for text, `n` for numbers. Wide ones scroll on their own, not the page.
pub(super) fn table(caption: &str, columns: &str, head: &[&str], rows: &[Vec<Markup>]) -> Markup {
    let side = |column: usize| if columns.as_bytes().get(column) == Some(&b't') { "text" } else { "number" };
    html! {
        div.scroll role="region" aria-label=(caption) tabindex="0" {
            table {
                caption { (caption) }
                thead { tr { @for (column, cell) in head.iter().enumerate() { th scope="col" class=(side(column)) { (cell) } } } }
                tbody {
                    @for row in rows {
                        tr {
                            @for (column, cell) in row.iter().enumerate() {
                                @if column == 0 { th scope="row" class="text" { (cell) } }
                                @else { td class=(side(column)) { (cell) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Met or not, in a word and a sign: colour is only a help.
pub(super) fn sign(good: bool, word: &str) -> Markup {
    html! { span class=(if good { "good" } else { "bad" }) { (if good { "✓ " } else { "✗ " }) (word) } }
}

/// A cell of text.
pub(super) fn cell(text: impl Into<String>) -> Markup {
    let text = text.into();
    html! { (text) }
}
