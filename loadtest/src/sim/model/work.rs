//! What is asked of the model, and what it says while it works on it.

use std::time::Duration;

use super::super::words::{Reply, Token};
use super::Moment;

/// One HTTP request.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is to be generated: one for each choice or prompt.
    pub sequences: Vec<Sequence>,
    /// Whether all of them must start at the same moment (choices), or each as a slot is free (prompts).
    pub together: bool,
    /// Whether tokens are given one by one; otherwise there is one event at the end.
    pub streamed: bool,
    /// Its own pause between pings, if it has one.
    pub ping: Option<Duration>,
}

/// One prompt and its reply.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// The prompt.
    pub prompt: Vec<Token>,
    /// What will be said.
    pub reply: Reply,
    /// After how many tokens the model ends by itself, if it does.
    pub ends_at: Option<u64>,
    /// How many tokens it may give; 0 to have the prompt computed and nothing more.
    pub limit: Option<u64>,
    /// Whether the prompt may come from the cache (`cache_prompt`).
    pub cached: bool,
    /// What goes wrong, if anything.
    pub trouble: Option<Trouble>,
}

/// Something goes wrong after some tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// After how many tokens.
    pub after: u64,
    /// What.
    pub kind: TroubleKind,
}

/// The ways in which the model itself goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TroubleKind {
    /// The slot gives no more, until its client leaves.
    Hang,
    /// The slot gives no more, and is never free again.
    Wedge,
    /// The slot is freed without an end.
    Break,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The model had said all.
    Complete,
    /// The limit or the context was reached.
    Limit,
}

/// What became of a sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// It has a slot.
    Started,
    /// It got a slot and does not fit into its context; it has as many tokens.
    TooLong(usize),
    /// So many prompt tokens are there, cached ones included. Streams only.
    Progress(usize),
    /// A token. Streams only.
    Token,
    /// It is over.
    Ended(End),
    /// Nothing has been said for a while. Streams only.
    Ping,
    /// It ended in the middle (`TroubleKind::Break`).
    Broken,
}

/// An event, of which sequence, and what has been counted for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Output {
    /// The request's number.
    pub request: u64,
    /// The sequence among the request's.
    pub sequence: usize,
    /// What happened.
    pub event: Event,
    /// When.
    pub at: Moment,
    /// The prompt's tokens.
    pub prompt: usize,
    /// Its tokens and times so far.
    pub timings: Timings,
}

/// Tokens and times of a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    /// Prompt tokens from the cache.
    pub cached: usize,
    /// Prompt tokens computed so far.
    pub computed: usize,
    /// How long they took, with the wait for other slots' passes.
    pub prompt: Duration,
    /// Tokens generated.
    pub predicted: u64,
    /// How long the tokens after the first took.
    pub predicting: Duration,
}

/// Sequences that start together.
pub(super) struct Launch {
    pub(super) request: u64,
    pub(super) works: Vec<Work>,
    /// When their client left, if it did and nobody has noticed.
    pub(super) left: Option<Moment>,
}

impl Launch {
    /// A request as what must start together, in order.
    pub(super) fn of(id: u64, request: Request, next_task: &mut u64) -> Vec<Self> {
        let Request { sequences, together, streamed, ping } = request;
        let works = sequences.into_iter().enumerate().map(|(index, sequence)| {
            let task = *next_task;
            *next_task += 1;
            let follows = together && index > 0;
            Work { streamed, ping, follows, ..Work::new(id, index, task, sequence) }
        });
        let launch = |works| Self { request: id, works, left: None };
        if together { vec![launch(works.collect())] } else { works.map(|work| launch(vec![work])).collect() }
    }
}

/// A sequence that waits or has a slot.
pub(super) struct Work {
    pub(super) request: u64,
    index: usize,
    pub(super) task: u64,
    pub(super) sequence: Sequence,
    pub(super) streamed: bool,
    pub(super) ping: Option<Duration>,
    /// Whether it has its prompt from the request's first choice, which computes it for all.
    pub(super) follows: bool,
    /// Prompt tokens that came from the cache.
    pub(super) cached: usize,
    /// Prompt tokens that are there, cached ones included.
    pub(super) processed: usize,
    pub(super) generated: u64,
    pub(super) began: Moment,
    /// When its first token came.
    first: Moment,
    /// When its last result came.
    pub(super) last: Moment,
    /// When something was last written for it.
    pub(super) written: Moment,
    pub(super) left: Option<Moment>,
    /// Whether the server knows that its client has left.
    pub(super) noticed: bool,
}

impl Work {
    fn new(request: u64, index: usize, task: u64, sequence: Sequence) -> Self {
        let zero = Moment::ZERO;
        Self {
            request,
            index,
            task,
            sequence,
            streamed: false,
            ping: None,
            follows: false,
            cached: 0,
            processed: 0,
            generated: 0,
            began: zero,
            first: zero,
            last: zero,
            written: zero,
            left: None,
            noticed: false,
        }
    }

    /// Prompt tokens that are not there yet.
    pub(super) fn to_compute(&self) -> usize {
        self.sequence.prompt.len() - self.processed
    }

    /// Whether it gives nothing more.
    pub(super) fn is_stuck(&self) -> bool {
        self.sequence.trouble.is_some_and(|trouble| {
            trouble.kind != TroubleKind::Break && self.to_compute() == 0 && self.generated >= trouble.after
        })
    }

    pub(super) fn is_wedged(&self) -> bool {
        self.is_stuck() && self.sequence.trouble.is_some_and(|trouble| trouble.kind == TroubleKind::Wedge)
    }

    pub(super) fn note_token(&mut self, at: Moment) {
        if self.generated == 0 {
            self.first = at;
        }
        self.last = at;
        self.generated += 1;
    }

    pub(super) fn timings(&self) -> Timings {
        let prompt_until = if self.generated == 0 { self.last } else { self.first };
        let predicting = if self.generated == 0 { Duration::ZERO } else { self.last - self.first };
        Timings {
            cached: self.cached,
            computed: self.processed - self.cached,
            prompt: prompt_until.saturating_sub(self.began),
            predicted: self.generated,
            predicting,
        }
    }

    pub(super) fn output(&self, event: Event, at: Moment) -> Output {
        let prompt = self.sequence.prompt.len();
        Output { request: self.request, sequence: self.index, event, at, prompt, timings: self.timings() }
    }
}

/// A slot.
#[derive(Default)]
pub(super) struct Slot {
    /// What its cache holds.
    pub(super) held: Vec<Token>,
    pub(super) used: Moment,
    pub(super) work: Option<Work>,
    /// The task that it had last, with the tokens it had then.
    pub(super) had: Option<(u64, usize)>,
}
