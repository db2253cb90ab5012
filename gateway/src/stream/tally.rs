//! The token counts of one request, gathered from what its stream shows.
//!
//! llama-server decodes one sequence for each choice of each prompt and reports each one on its own, always with the
//! whole prompt. Here they are put together: each prompt once, the output of all.

use memchr::memmem;

use super::timings::Timings;
use super::usage::Usage;
use crate::ledger::{Count, CountedBy};

/// More sequences than any request can have: bounds the memory that a number in the stream can ask for.
pub(super) const MAX_SEQUENCES: usize = 1024;

/// llama-server counts context in 32 bits. A larger number is a fault, and must not make a sum overflow.
const MAX_TOKENS: u64 = u32::MAX as u64;

/// The sequence that a chunk belongs to: the `index` of its choice. It stands before anything else of that name, and
/// within a text its quotes would be escaped.
pub(super) fn index_of(chunk: &[u8]) -> Option<usize> {
    const KEY: &[u8] = b"\"index\":";
    let value = chunk.get(memmem::find(chunk, KEY)? + KEY.len()..)?;
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(value.get(..digits)?).ok()?.parse().ok()
}

/// How far the numbers of a sequence can be trusted, the least first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    #[default]
    Nothing,
    /// Only the prompt is known.
    Prompt,
    Timings,
    Usage,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sequence {
    prompt: u64,
    cached: u64,
    completion: u64,
    reasoning: Option<u64>,
    source: Source,
}

/// The counts so far.
#[derive(Debug)]
pub(super) struct Tally {
    /// Sequences of the request.
    expected: usize,
    /// Sequences for each prompt: sequence `i` belongs to prompt `i / choices`.
    choices: usize,
    sequences: Vec<Sequence>,
    /// Output events: what is left to count by where llama-server gives no numbers.
    events: u64,
    /// Tokens of all prompts, as counted before: for a reply that does not tell.
    admitted: Option<u64>,
    /// The final output was told without a prompt.
    output_alone: bool,
}

impl Tally {
    pub(super) fn new(prompts: u32, choices: u32) -> Self {
        let expected = usize::try_from(prompts.saturating_mul(choices)).unwrap_or(usize::MAX).max(1);
        let choices = usize::try_from(choices).unwrap_or(usize::MAX).max(1);
        Self { expected, choices, sequences: Vec::new(), events: 0, admitted: None, output_alone: false }
    }

    /// llama-server has counted all prompts before: so many tokens.
    pub(super) fn admitted(&mut self, prompt: u64) {
        self.admitted = Some(prompt.min(MAX_TOKENS));
    }

    /// The request has one sequence: nothing needs to be told apart.
    pub(super) fn single(&self) -> bool {
        self.expected == 1
    }

    /// An output event.
    pub(super) fn event(&mut self) {
        self.events = self.events.saturating_add(1);
    }

    /// The prompt of a sequence, before any output. `false`: there can be no such sequence.
    pub(super) fn prompt(&mut self, index: usize, prompt: Usage) -> bool {
        self.set(
            index,
            Sequence { prompt: prompt.prompt, cached: prompt.cached, source: Source::Prompt, ..Sequence::default() },
        )
    }

    /// The final output of a sequence whose prompt was told before, or, if it was not, at least some output.
    pub(super) fn output(&mut self, index: usize, completion: u64) {
        match self.sequences.get_mut(index) {
            Some(sequence) if sequence.source != Source::Nothing => {
                sequence.completion = completion.min(MAX_TOKENS);
                sequence.source = Source::Usage;
            }
            _ => {
                self.events = self.events.max(completion.min(MAX_TOKENS));
                self.output_alone = true;
            }
        }
    }

    /// The running count of a sequence; it never goes back. `false`: there can be no such sequence.
    pub(super) fn timings(&mut self, index: usize, timings: Timings) -> bool {
        let before = self.sequences.get(index).copied().unwrap_or_default();
        self.set(
            index,
            Sequence {
                prompt: timings.cached.saturating_add(timings.computed).max(before.prompt),
                cached: timings.cached,
                completion: timings.predicted.max(before.completion),
                source: Source::Timings,
                ..Sequence::default()
            },
        )
    }

    /// All output of a sequence up to here was thought.
    pub(super) fn thought(&mut self, index: usize) {
        if let Some(sequence) = self.sequences.get_mut(index) {
            sequence.reasoning = Some(sequence.completion);
        }
    }

    /// The final usage of a sequence: takes the place of all that was counted before. `false`: there can be no such
    /// sequence.
    pub(super) fn usage(&mut self, index: usize, usage: Usage) -> bool {
        let Usage { prompt, cached, completion } = usage;
        self.set(index, Sequence { prompt, cached, completion, source: Source::Usage, ..Sequence::default() })
    }

    fn set(&mut self, index: usize, sequence: Sequence) -> bool {
        if index >= MAX_SEQUENCES {
            return false;
        }
        if self.sequences.len() <= index {
            self.sequences.resize_with(index + 1, Sequence::default);
        }
        if let Some(place) = self.sequences.get_mut(index).filter(|place| place.source <= sequence.source) {
            let prompt = sequence.prompt.min(MAX_TOKENS);
            let completion = sequence.completion.min(MAX_TOKENS);
            let reasoning = place.reasoning.map(|thoughts| thoughts.min(completion));
            *place = Sequence { prompt, cached: sequence.cached.min(prompt), completion, reasoning, ..sequence };
        }
        true
    }

    /// The sequence that a usage without an index belongs to: `last`, which was seen just before, unless that one
    /// has its usage already.
    pub(super) fn awaiting_usage(&self, last: usize) -> usize {
        let awaits = |index: &usize| self.sequences.get(*index).is_none_or(|s| s.source != Source::Usage);
        if awaits(&last) { last } else { (0..MAX_SEQUENCES).find(awaits).unwrap_or(last) }
    }

    /// The sequences whose final usage was not read, with what is known of theirs.
    pub(super) fn unfinished(&self) -> impl Iterator<Item = (usize, Usage)> {
        (0..self.expected.min(MAX_SEQUENCES)).filter_map(|index| {
            let Sequence { prompt, cached, completion, source, .. } =
                self.sequences.get(index).copied().unwrap_or_default();
            (source != Source::Usage).then_some((index, Usage { prompt, cached, completion }))
        })
    }

    /// The final usage of every sequence was read.
    pub(super) fn complete(&self) -> bool {
        self.sequences.iter().filter(|sequence| sequence.source == Source::Usage).count() >= self.expected
    }

    /// All put together.
    pub(super) fn count(&self) -> Count {
        let mut count = Count::default();
        for choices in self.sequences.chunks(self.choices) {
            let known = || choices.iter().filter(|sequence| sequence.source > Source::Nothing);
            // The choices share the work on their prompt: what one of them had to compute was not cached.
            count.prompt += known().map(|sequence| sequence.prompt).max().unwrap_or_default();
            count.cached += known().map(|sequence| sequence.cached).min().unwrap_or_default();
            count.completion += choices.iter().map(|sequence| sequence.completion).sum::<u64>();
        }
        let thoughts = self.sequences.iter().filter_map(|sequence| sequence.reasoning);
        count.reasoning = thoughts.reduce(|sum, one| sum + one);
        let best = self.sequences.iter().map(|sequence| sequence.source).max().unwrap_or_default();
        count.by = match best {
            Source::Usage if self.complete() => CountedBy::Usage,
            Source::Usage | Source::Timings => CountedBy::Timings,
            Source::Nothing if self.events == 0 => CountedBy::Nothing,
            Source::Prompt => {
                count.completion = self.events;
                CountedBy::Events
            }
            Source::Nothing => {
                count.prompt = self.admitted.unwrap_or_default();
                count.completion = self.events;
                if self.output_alone && self.admitted.is_some() { CountedBy::Admission } else { CountedBy::Events }
            }
        };
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(prompt: u64, cached: u64, completion: u64) -> Usage {
        Usage { prompt, cached, completion }
    }

    fn count(prompt: u64, cached: u64, completion: u64, by: CountedBy) -> Count {
        Count { prompt, cached, completion, by, ..Count::default() }
    }

    #[test]
    fn each_prompt_counts_once_and_the_output_of_all_choices() {
        let mut tally = Tally::new(2, 2);
        for (index, usage) in [usage(10, 0, 1), usage(10, 9, 2), usage(20, 5, 3), usage(20, 19, 4)].iter().enumerate() {
            assert_ne!(tally.count().by, CountedBy::Usage);
            assert!(tally.usage(index, *usage));
        }
        assert!(tally.complete());
        assert_eq!(tally.count(), count(30, 5, 10, CountedBy::Usage));
    }

    #[test]
    fn usage_takes_the_place_of_timings_for_good() {
        let mut tally = Tally::new(1, 1);
        let timings = Timings { cached: 2, computed: 3, predicted: 9 };
        assert!(tally.timings(0, timings));
        assert_eq!(tally.count(), count(5, 2, 9, CountedBy::Timings));
        assert!(tally.usage(0, usage(5, 2, 8)));
        assert!(tally.timings(0, timings));
        assert_eq!(tally.count(), count(5, 2, 8, CountedBy::Usage));
    }

    #[test]
    fn while_one_sequence_still_runs_the_count_is_by_timings() {
        let mut tally = Tally::new(1, 2);
        assert!(tally.usage(0, usage(5, 0, 8)));
        assert!(tally.timings(1, Timings { cached: 0, computed: 5, predicted: 4 }));
        assert_eq!(tally.count(), count(5, 0, 12, CountedBy::Timings));
    }

    #[test]
    fn a_usage_without_index_goes_to_the_sequence_seen_last_that_has_none() {
        let mut tally = Tally::new(1, 3);
        assert_eq!(tally.awaiting_usage(1), 1);
        assert!(tally.usage(1, usage(1, 0, 1)));
        assert_eq!(tally.awaiting_usage(1), 0);
        assert_eq!(tally.awaiting_usage(2), 2);
    }

    #[test]
    fn without_numbers_output_events_are_counted() {
        let mut tally = Tally::new(1, 1);
        assert_eq!(tally.count(), Count::default());
        assert!(tally.prompt(0, usage(7, 3, 0)));
        assert_eq!(tally.count(), count(7, 3, 0, CountedBy::Events));
        tally.event();
        tally.event();
        assert_eq!(tally.count(), count(7, 3, 2, CountedBy::Events));
        tally.output(0, 5);
        assert_eq!(tally.count(), count(7, 3, 5, CountedBy::Usage));
    }

    #[test]
    fn output_without_a_prompt_is_counted_with_that_of_the_admission() {
        for (admitted, prompt, by) in [(None, 0, CountedBy::Events), (Some(7), 7, CountedBy::Admission)] {
            let mut tally = Tally::new(1, 1);
            admitted.into_iter().for_each(|prompt| tally.admitted(prompt));
            assert_eq!(tally.count(), Count::default(), "nothing was generated");
            tally.event();
            assert_eq!(tally.count(), count(prompt, 0, 1, CountedBy::Events));
            tally.output(0, 5);
            assert_eq!(tally.count(), count(prompt, 0, 5, by));
        }
    }

    #[test]
    fn what_the_reply_tells_of_its_prompt_wins_over_the_admission() {
        let mut tally = Tally::new(1, 1);
        tally.admitted(9);
        assert!(tally.prompt(0, usage(7, 3, 0)));
        tally.event();
        assert_eq!(tally.count(), count(7, 3, 1, CountedBy::Events));
        tally.output(0, 5);
        assert_eq!(tally.count(), count(7, 3, 5, CountedBy::Usage));
    }

    #[test]
    fn numbers_that_cannot_be_true_are_bounded() {
        let mut tally = Tally::new(u32::MAX, u32::MAX);
        assert!(tally.usage(0, usage(u64::MAX, u64::MAX, u64::MAX)));
        assert!(tally.usage(1, usage(u64::MAX, 0, u64::MAX)));
        assert_eq!(tally.count(), count(MAX_TOKENS, 0, 2 * MAX_TOKENS, CountedBy::Timings));
        assert!(!tally.usage(usize::MAX, usage(1, 0, 1)));
    }
}
