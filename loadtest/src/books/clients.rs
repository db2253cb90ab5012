//! The clients' book: what all requests of a run were told of their tokens, and how much of it they could not know.
//!
//! A client that saw the end of its reply knows everything. One that did not knows the tokens that it saw: of its
//! prompt it knows what was planned, which is less than what the server counts by what the chat template adds. How much
//! that is, the tenant's complete requests tell.

use std::time::Duration;

use crate::record::{Ending, Record, Refusal};

/// Tokens that the server may have generated or counted beyond what a client that left had seen: as in the gateway's
/// own audit (docs/audit.md).
const TOKENS_PER_CUT: u64 = 8;
/// How long it may take until a leaving is noticed by all, and what was written before it is read: on a busy machine a
/// model that is quick gets further than those tokens meanwhile.
const UNNOTICED: Duration = Duration::from_millis(50);
/// What a chat template is taken to add where no complete request tells.
const UNKNOWN_TEMPLATE: i64 = 64;

/// The book of all tenants. Every record of the run goes into it, warm-up included.
#[derive(Clone, Debug)]
pub struct ClientBook {
    pages: Vec<Page>,
}

impl ClientBook {
    /// An empty book for so many tenants.
    pub fn new(tenants: usize) -> Self {
        Self { pages: vec![Page::default(); tenants] }
    }

    /// Enters a request on the page of its tenant.
    pub fn add(&mut self, record: &Record) {
        if let Some(page) = self.pages.get_mut(record.tenant) {
            page.add(record);
        }
    }

    /// The sum of some tenants.
    pub(super) fn sum(&self, tenants: &[usize]) -> Claim {
        tenants.iter().filter_map(|&tenant| self.pages.get(tenant)).map(Page::claim).fold(Claim::default(), Claim::plus)
    }
}

/// A number of the clients, and how far from it the true one may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct About {
    pub(super) number: u64,
    pub(super) allowed: u64,
}

impl About {
    fn plus(self, other: Self) -> Self {
        Self { number: self.number + other.number, allowed: self.allowed + other.allowed }
    }
}

/// What the clients claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) requests: About,
    pub(super) prompt: About,
    pub(super) cached: About,
    pub(super) completion: About,
    /// Requests of which the clients did not see the end.
    pub(super) cut: u64,
}

impl Claim {
    fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests.plus(other.requests),
            prompt: self.prompt.plus(other.prompt),
            cached: self.cached.plus(other.cached),
            completion: self.completion.plus(other.completion),
            cut: self.cut + other.cut,
        }
    }
}

/// Requests of which the clients were not told the tokens.
#[derive(Clone, Copy, Debug, Default)]
struct Untold {
    requests: u64,
    planned_prompt: u64,
}

impl Untold {
    fn add(&mut self, record: &Record) {
        self.requests += 1;
        self.planned_prompt += record.planned_prompt_tokens;
    }
}

/// One tenant's page.
#[derive(Clone, Copy, Debug, Default)]
struct Page {
    /// Requests that were answered with a good status, which the ledger has for sure; and tries that it may have.
    requests: About,
    /// What was told with usage.
    prompt: u64,
    cached: u64,
    completion: About,
    /// The least and the most that the server counted beyond what was planned, where it told. Below zero where answers
    /// of a conversation were shorter than planned.
    template: Option<(i64, i64)>,
    /// Cut after output had come: the whole prompt was counted by server and ledger.
    after_output: Untold,
    /// Cut before: any part of the prompt may have been counted, by one of them or by both.
    before_output: Untold,
}

impl Page {
    fn add(&mut self, record: &Record) {
        for refusal in &record.retried {
            self.refused(refusal, record);
        }
        // It was never sent, or waited for a further try.
        if record.tries as usize <= record.retried.len() {
            return;
        }
        match (&record.ending, record.usage) {
            (Ending::Unreachable, _) => {}
            (Ending::Refused(refusal), _) => self.refused(refusal, record),
            (_, Some(usage)) => {
                self.requests.number += 1;
                self.prompt += usage.prompt;
                self.cached += usage.cached;
                self.completion.number += usage.completion;
                let beyond = usage.prompt.cast_signed() - record.planned_prompt_tokens.cast_signed();
                let (least, most) = self.template.unwrap_or((beyond, beyond));
                self.template = Some((least.min(beyond), most.max(beyond)));
            }
            (_, None) => self.untold(record),
        }
    }

    /// A try that failed. Whether it has a row in the ledger depends on how far it came.
    fn refused(&mut self, refusal: &Refusal, record: &Record) {
        let status = refusal.status;
        // Without a reply nothing is known of it, but that one which had no connection was nowhere.
        if status == 0 {
            if refusal.code != Ending::Unreachable.label() {
                self.requests.allowed += 1;
                self.before_output.add(record);
                self.completion.allowed += unseen_output(record);
            }
            return;
        }
        // The key, the path or the body was refused before there was a row.
        if !matches!(status, 401 | 403 | 404 | 405 | 408 | 413 | 415) {
            self.requests.allowed += 1;
        }
        // llama-server had been asked.
        if matches!(status, 500 | 502 | 504) {
            self.before_output.add(record);
            self.completion.allowed += record.planned_output_tokens;
        }
    }

    fn untold(&mut self, record: &Record) {
        match record.head {
            Some(_) => self.requests.number += 1,
            None => self.requests.allowed += 1,
        }
        self.completion.number += record.tokens_seen;
        if record.first_token.is_some() {
            self.after_output.add(record);
        } else {
            self.before_output.add(record);
        }
        self.completion.allowed += unseen_output(record);
    }

    fn claim(&self) -> Claim {
        let (least, most) = self.template.unwrap_or((0, UNKNOWN_TEMPLATE));
        let half = (most - least).unsigned_abs().div_ceil(2);
        let counted = |of: Untold, beyond: i64| {
            of.planned_prompt.saturating_add_signed(beyond.saturating_mul(of.requests.cast_signed()))
        };
        let (after, before) = (self.after_output, self.before_output);
        let of_left = counted(before, most);
        Claim {
            requests: self.requests,
            prompt: About {
                number: self.prompt + counted(after, least + (most - least) / 2),
                allowed: half * after.requests + of_left,
            },
            cached: About { number: self.cached, allowed: counted(after, most) + of_left },
            completion: self.completion,
            cut: after.requests + before.requests,
        }
    }
}

/// Tokens that may have been generated for a client which did not see them.
fn unseen_output(record: &Record) -> u64 {
    // A reply in one piece may have been nearly complete.
    if !record.streamed {
        return record.planned_output_tokens.max(TOKENS_PER_CUT);
    }
    let took: Duration = record.gaps.iter().sum();
    let meanwhile = match took.as_secs_f64() {
        0.0 => 0,
        seconds => (record.gaps.len() as f64 / seconds * UNNOTICED.as_secs_f64()) as u64,
    };
    // No more than what it was allowed in all, but llama-server counts a token or two beyond.
    meanwhile.min(record.planned_output_tokens.saturating_sub(record.tokens_seen)).max(TOKENS_PER_CUT)
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::record::{Usage, sample};

    /// A complete request: 100 prompt tokens planned and 12 added by the template, 40 of them cached, 20 generated.
    pub(in crate::books) fn complete() -> Record {
        let at = Duration::from_secs;
        Record {
            head: Some(at(1)),
            first_token: Some(at(2)),
            first_output_token: Some(at(2)),
            last_token: Some(at(3)),
            ended: at(3),
            chunks: 20,
            planned_prompt_tokens: 100,
            planned_output_tokens: 20,
            usage: Some(Usage { prompt: 112, cached: 40, completion: 20 }),
            tokens_seen: 20,
            ..sample()
        }
    }

    fn claim(records: &[Record]) -> Claim {
        let mut book = ClientBook::new(2);
        records.iter().for_each(|record| book.add(record));
        book.sum(&[0, 1])
    }

    fn about(number: u64, allowed: u64) -> About {
        About { number, allowed }
    }

    #[test]
    fn complete_requests_are_claimed_to_the_token() {
        let other = Record { tenant: 1, ..complete() };
        let expected = Claim {
            requests: about(2, 0),
            prompt: about(224, 0),
            cached: about(80, 0),
            completion: about(40, 0),
            cut: 0,
        };
        assert_eq!(claim(&[complete(), other]), expected);
    }

    #[test]
    fn a_client_that_leaves_after_output_knows_its_prompt_from_the_others_and_its_output_by_a_few_tokens() {
        let left = Record { ending: Ending::Left, usage: None, tokens_seen: 7, ..complete() };
        let claim = claim(&[complete(), left]);
        assert_eq!((claim.requests, claim.prompt), (about(2, 0), about(224, 0)));
        assert_eq!((claim.cached, claim.completion, claim.cut), (about(40, 112), about(27, 8), 1));
    }

    #[test]
    fn a_quick_model_may_be_further_ahead_of_a_client_that_left_but_not_beyond_its_limit() {
        let left = |gap: u64, planned: u64| {
            let gaps = vec![Duration::from_micros(gap); 6];
            unseen_output(&Record { gaps, tokens_seen: 7, planned_output_tokens: planned, ..complete() })
        };
        assert_eq!(left(20_000, 500), 8, "2.5 tokens in 50 ms");
        assert_eq!(left(1000, 500), 50);
        assert_eq!(left(1000, 30), 23);
        assert_eq!(left(0, 500), 8, "no pace is known");
    }

    #[test]
    fn templates_that_add_more_here_than_there_widen_what_is_allowed() {
        let longer = Record { usage: Some(Usage { prompt: 117, cached: 0, completion: 1 }), ..complete() };
        let left = Record { ending: Ending::Cut, usage: None, ..complete() };
        let claim = claim(&[complete(), longer, left]);
        // 12 to 17 more than planned: 114 ± 3.
        assert_eq!(claim.prompt, about(112 + 117 + 114, 3));
    }

    #[test]
    fn of_a_client_that_leaves_before_any_output_nothing_or_all_may_have_been_counted() {
        let left = Record {
            ending: Ending::TimedOut,
            usage: None,
            tokens_seen: 0,
            head: None,
            first_token: None,
            ..complete()
        };
        let claim = claim(&[complete(), left]);
        assert_eq!((claim.requests, claim.prompt), (about(1, 1), about(112, 112)));
        assert_eq!((claim.cached, claim.completion, claim.cut), (about(40, 112), about(20, 8), 1));
    }

    #[test]
    fn a_reply_in_one_piece_whose_client_left_may_have_been_generated_up_to_its_end() {
        let left = Record {
            streamed: false,
            ending: Ending::Left,
            usage: None,
            tokens_seen: 0,
            first_token: None,
            ..complete()
        };
        assert_eq!(claim(&[complete(), left]).completion, about(20, 20));
    }

    #[test]
    fn refused_tries_have_no_tokens_and_some_have_a_row() {
        let refusal = |status| Refusal { status, code: String::new() };
        let retried = Record { tries: 3, retried: vec![refusal(429), refusal(503)], ..complete() };
        assert_eq!(claim(&[retried]).requests, about(1, 2));
        let refused = |status| Record { ending: Ending::Refused(refusal(status)), usage: None, ..complete() };
        assert_eq!(claim(&[refused(401), refused(413)]), Claim::default());
        let late = claim(&[refused(504)]);
        assert_eq!((late.requests, late.prompt, late.completion), (about(0, 1), about(0, 164), about(0, 20)));
    }

    #[test]
    fn who_never_reached_the_server_is_in_no_book() {
        assert_eq!(
            claim(&[Record { ending: Ending::Unreachable, usage: None, head: None, ..complete() }]),
            Claim::default()
        );
    }

    #[test]
    fn a_try_without_a_reply_may_have_used_tokens_and_the_next_one_is_claimed_beside_it() {
        let retried = |code: &str| {
            let refusal = Refusal { status: 0, code: code.to_owned() };
            claim(&[Record { tries: 2, retried: vec![refusal], ..complete() }])
        };
        for code in ["cut", "timed out"] {
            let claim = retried(code);
            assert_eq!((claim.requests, claim.prompt), (about(1, 1), about(112, 112)), "{code}");
            assert_eq!((claim.cached, claim.completion), (about(40, 112), about(20, 8)), "{code}");
        }
        assert_eq!(retried("unreachable"), claim(&[complete()]), "it never reached the server");
        let whole = Record {
            streamed: false,
            tries: 2,
            retried: vec![Refusal { status: 0, code: "cut".to_owned() }],
            ..complete()
        };
        assert_eq!(claim(&[whole]).completion, about(20, 20), "a reply in one piece may have been nearly complete");
    }

    #[test]
    fn who_was_never_sent_or_waited_for_a_further_try_is_claimed_no_further() {
        let nothing = Record {
            usage: None,
            tokens_seen: 0,
            head: None,
            first_token: None,
            ending: Ending::Abandoned,
            ..complete()
        };
        assert_eq!(claim(&[Record { tries: 0, ..nothing.clone() }]), Claim::default());
        let refused = Refusal { status: 401, code: String::new() };
        assert_eq!(claim(&[Record { tries: 1, retried: vec![refused], ..nothing }]), Claim::default());
    }
}
