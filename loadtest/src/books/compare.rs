//! The books side by side: numbers in, lines of the audit out.

use super::clients::{About, Claim};
use super::engine::Growth;
use super::ledger::Used;
use crate::report::AuditLine;

/// Tenants who share a key, and so a page in the ledger.
pub(super) struct Page {
    pub(super) names: String,
    pub(super) clients: Claim,
    /// None if it could not be read.
    pub(super) ledger: Option<Used>,
}

/// The lines of each page, and of all together. Who has nothing to be compared with has no line.
pub(super) fn lines(pages: &[Page], all: Claim, engine: Option<Growth>) -> Vec<AuditLine> {
    let mut lines = Vec::new();
    for page in pages.iter().filter(|page| page.ledger.is_some()) {
        lines.extend(of(&page.names, page.clients, page.ledger, None));
    }
    let ledger = pages.iter().map(|page| page.ledger).try_fold(Used::default(), |sum, used| Some(sum.plus(used?)));
    if engine.is_some() || (ledger.is_some() && pages.len() > 1) {
        lines.extend(of("all", all, ledger, engine));
    }
    lines
}

/// One number in three books.
struct Kind {
    name: &'static str,
    clients: About,
    ledger: Option<i64>,
    engine: Option<u64>,
}

fn of(names: &str, clients: Claim, ledger: Option<Used>, engine: Option<Growth>) -> Vec<AuditLine> {
    let cached = engine.and_then(|growth| growth.cached);
    let kind = |name, clients, ledger, engine| Kind { name, clients, ledger, engine };
    let mut kinds = vec![
        kind("requests", clients.requests, ledger.map(|used| used.requests), None),
        kind(
            "prompt",
            clients.prompt,
            ledger.map(|used| used.prompt_tokens),
            engine.zip(cached).map(|(growth, cached)| growth.computed + cached),
        ),
        kind("cached", clients.cached, ledger.map(|used| used.cached_tokens), cached),
        kind(
            "completion",
            clients.completion,
            ledger.map(|used| used.completion_tokens),
            engine.map(|growth| growth.generated),
        ),
    ];
    if let Some(growth) = engine.filter(|_| cached.is_none()) {
        // An older llama-server counts only what it computed.
        let About { number, allowed } = clients.prompt;
        let computed =
            About { number: number.saturating_sub(clients.cached.number), allowed: allowed + clients.cached.allowed };
        let of_ledger = ledger.map(|used| used.prompt_tokens - used.cached_tokens);
        kinds.push(kind("computed", computed, of_ledger, Some(growth.computed)));
    }
    let rounding = engine.map_or(0, |growth| growth.rounding);
    let compared = kinds.into_iter().filter(|kind| kind.ledger.is_some() || kind.engine.is_some());
    compared.map(|kind| line(names, &kind, rounding)).collect()
}

fn line(names: &str, kind: &Kind, rounding: u64) -> AuditLine {
    let allowed = kind.clients.allowed + if kind.engine.is_some() { rounding } else { 0 };
    let numbers = [Some(i128::from(kind.clients.number)), kind.ledger.map(i128::from), kind.engine.map(i128::from)];
    let present = || numbers.into_iter().flatten();
    let apart = present().max().zip(present().min()).map_or(0, |(most, least)| most - least);
    AuditLine {
        of: names.to_owned(),
        kind: kind.name.to_owned(),
        clients: kind.clients.number,
        // A ledger that shrank was corrected meanwhile; that is no agreement, whatever is shown.
        ledger: kind.ledger.map(|number| u64::try_from(number).unwrap_or(0)),
        engine: kind.engine,
        allowed,
        agrees: apart <= i128::from(allowed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(requests: u64, prompt: u64, cached: u64, completion: u64) -> Claim {
        let exact = |number| About { number, allowed: 0 };
        let (requests, prompt) = (exact(requests), exact(prompt));
        Claim { requests, prompt, cached: exact(cached), completion: exact(completion), cut: 0 }
    }

    fn used(requests: i64, prompt_tokens: i64, cached_tokens: i64, completion_tokens: i64) -> Option<Used> {
        Some(Used { requests, prompt_tokens, cached_tokens, completion_tokens })
    }

    fn page(names: &str, clients: Claim, ledger: Option<Used>) -> Page {
        Page { names: names.to_owned(), clients, ledger }
    }

    fn growth(computed: u64, cached: Option<u64>, generated: u64) -> Option<Growth> {
        Some(Growth { computed, cached, generated, rounding: 0 })
    }

    /// `of kind clients ledger engine`, with a star where it does not agree.
    fn shown(lines: &[AuditLine]) -> Vec<String> {
        let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let show = |line: &AuditLine| {
            let star = if line.agrees { "" } else { " *" };
            format!("{} {} {} {} {}{star}", line.of, line.kind, line.clients, number(line.ledger), number(line.engine))
        };
        lines.iter().map(show).collect()
    }

    #[test]
    fn each_tenant_stands_beside_the_ledger_and_all_beside_the_engine() {
        let pages =
            [page("a", claim(1, 100, 30, 7), used(1, 100, 30, 7)), page("b", claim(2, 50, 0, 3), used(2, 50, 0, 4))];
        let lines = lines(&pages, claim(3, 150, 30, 10), growth(120, Some(30), 11));
        let expected = [
            "a requests 1 1 -",
            "a prompt 100 100 -",
            "a cached 30 30 -",
            "a completion 7 7 -",
            "b requests 2 2 -",
            "b prompt 50 50 -",
            "b cached 0 0 -",
            "b completion 3 4 - *",
            "all requests 3 3 -",
            "all prompt 150 150 150",
            "all cached 30 30 30",
            "all completion 10 11 11 *",
        ];
        assert_eq!(shown(&lines), expected);
    }

    #[test]
    fn an_engine_that_does_not_count_cached_tokens_is_compared_by_computed_ones() {
        let lines = lines(&[page("a", claim(1, 100, 30, 7), None)], claim(1, 100, 30, 7), growth(71, None, 7));
        assert_eq!(shown(&lines), ["all completion 7 - 7", "all computed 70 - 71 *"]);
    }

    #[test]
    fn with_nothing_to_compare_there_is_no_line() {
        assert!(lines(&[page("a", claim(1, 1, 0, 1), None)], claim(1, 1, 0, 1), None).is_empty());
    }

    #[test]
    fn one_tenant_without_an_engine_is_not_repeated_as_all() {
        let lines = lines(&[page("a", claim(1, 1, 0, 1), used(1, 1, 0, 1))], claim(1, 1, 0, 1), None);
        assert!(lines.len() == 4 && lines.iter().all(|line| line.of == "a" && line.agrees));
    }

    #[test]
    fn what_is_allowed_is_the_distance_of_the_farthest_two() {
        let mut about = claim(1, 100, 0, 10);
        about.completion.allowed = 8;
        for (ledger, engine, agrees) in [(10, 18, true), (12, 12, true), (9, 18, false), (19, 19, false)] {
            let pages = [page("a", about, used(1, 100, 0, ledger))];
            let lines = lines(&pages, about, growth(100, Some(0), engine));
            assert_eq!(lines.last().unwrap().agrees, agrees, "{ledger} {engine}");
        }
    }

    #[test]
    fn a_ledger_that_shrank_does_not_agree() {
        let lines = lines(&[page("a", claim(0, 0, 0, 0), used(0, 0, 0, -5))], claim(0, 0, 0, 0), None);
        assert_eq!(shown(&lines)[3], "a completion 0 0 - *");
    }
}
