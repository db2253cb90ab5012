//! A tenant's sessions: what is said, how long answers may be, who leaves and who reads slowly.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::arrivals::Arrivals;
use super::draw::Draw;
use super::seeds::{Purpose, Seeds};
use super::trace::{BLOCK_TOKENS, Trace};
use super::{Leave, PlanError, Session, Turn, Vocabulary};
use crate::workload::{Arrival, Length, MOST_TOKENS, MOST_TURNS, Surface, Tenant, Workload};

/// What one tenant sends, and when. Cheap to ask from several tasks at once: nothing in it changes.
#[derive(Clone, Debug)]
pub struct TenantPlan {
    seeds: Seeds,
    vocabulary: Vocabulary,
    tenant: Tenant,
    duration: Duration,
    trace: Option<Arc<Trace>>,
    prompt_tokens: Draw,
    output_tokens: Draw,
    turns: Draw,
    turn_pause: Draw,
    think_time: Draw,
    leave_after: Option<Draw>,
    leave_after_chunks: Option<Draw>,
}

impl TenantPlan {
    /// The plan of the tenant `name`; reads its trace and its files of lengths.
    ///
    /// # Errors
    /// There is no such tenant; a file cannot be read or has a bad line.
    pub fn new(workload: &Workload, name: &str, vocabulary: &Vocabulary) -> Result<Self, PlanError> {
        let tenant = workload.tenants.get(name).ok_or_else(|| PlanError::NoTenant(name.to_owned()))?;
        let trace = match &tenant.arrival {
            Arrival::Trace { file, format, speed } => {
                Some(Arc::new(Trace::read(file, *format, *speed, workload.duration)?))
            }
            _ => None,
        };
        let zero = Length::zero();
        let think_time = if let Arrival::Closed { think_time, .. } = &tenant.arrival { think_time } else { &zero };
        Ok(Self {
            seeds: Seeds::new(workload.seed, name),
            vocabulary: vocabulary.clone(),
            duration: workload.duration,
            trace,
            prompt_tokens: Draw::new(&tenant.prompt_tokens)?,
            output_tokens: Draw::new(&tenant.output_tokens)?,
            turns: Draw::new(&tenant.turns)?,
            turn_pause: Draw::new(&tenant.turn_pause)?,
            think_time: Draw::new(think_time)?,
            leave_after: tenant.leavers.after_seconds.as_ref().map(Draw::new).transpose()?,
            leave_after_chunks: tenant.leavers.after_tokens.as_ref().map(Draw::new).transpose()?,
            tenant: tenant.clone(),
        })
    }

    /// The moments at which its sessions begin: the first is that of session 0, and so on.
    pub fn arrivals(&self) -> Arrivals {
        match &self.trace {
            Some(trace) => Arrivals::recorded(Arc::clone(trace)),
            None => {
                let rng = self.seeds.generator(Purpose::Arrivals, 0);
                Arrivals::drawn(&self.tenant.arrival, self.duration, rng)
            }
        }
    }

    /// The pause of a user, in a closed loop, between session `number` and the next.
    pub fn think_time(&self, number: u64) -> Duration {
        self.think_time.seconds(&mut self.seeds.generator(Purpose::ThinkTime, number))
    }

    /// The session with this number. The same each time, whatever else was asked for.
    pub fn session(&self, number: u64) -> Session {
        let mut habits = self.seeds.generator(Purpose::Session, number);
        let mut text = self.seeds.generator(Purpose::Text, number);
        let row = self.trace.as_ref().map(|trace| trace.row(number));
        let turns = if row.is_some() { 1 } else { self.turns.count(&mut habits, MOST_TURNS) };
        let turns = (0..turns).map(|turn| {
            let mut turn = self.turn(turn > 0, &mut habits);
            if let Some(row) = &row {
                (turn.prompt_tokens, turn.output_tokens) = (row.prompt_tokens, row.output_tokens);
            }
            turn.prompt = self.prompt(turn.prompt_tokens, row.as_ref().map_or(&[], |row| row.blocks), &mut text);
            turn
        });
        let turns = turns.collect();
        Session { number, system: self.system(number), system_tokens: u64::from(self.tenant.prefix_tokens), turns }
    }

    /// The system prompt, which all sessions of a group have in common.
    fn system(&self, number: u64) -> Option<String> {
        let tokens = u64::from(self.tenant.prefix_tokens);
        let group = number % u64::from(self.tenant.prefixes.max(1));
        let write = || self.prompt(tokens, &[], &mut self.seeds.generator(Purpose::Prefix, group));
        (tokens > 0).then(write)
    }

    /// All of a turn but its text. Draws as many numbers for each turn whatever comes of them, so that another share of
    /// leavers, say, changes nothing else.
    fn turn(&self, is_later: bool, rng: &mut ChaCha8Rng) -> Turn {
        let tenant = &self.tenant;
        let prompt_tokens = self.prompt_tokens.count(rng, MOST_TOKENS);
        let output_tokens = self.output_tokens.count(rng, MOST_TOKENS);
        let pause = self.turn_pause.seconds(rng);
        let [streamed, leaves, is_slow] =
            [tenant.streamed, tenant.leavers.share, tenant.slow_readers.share].map(|share| rng.random::<f64>() < share);
        let can_stream = !matches!(tenant.surface, Surface::Embeddings | Surface::Rerank);
        let leave = Leave {
            after: self.leave_after.as_ref().map(|draw| draw.seconds(rng)),
            after_chunks: self.leave_after_chunks.as_ref().map(|draw| draw.count(rng, MOST_TOKENS)),
        };
        Turn {
            prompt: String::new(),
            prompt_tokens,
            output_tokens,
            pause: if is_later { pause } else { Duration::ZERO },
            streamed: streamed && can_stream,
            leave: leaves.then_some(leave),
            slow_reader: is_slow.then_some(tenant.slow_readers.pause),
        }
    }

    /// A text of so many tokens. It begins with the blocks of a trace, if there are any: the same number is the same
    /// text, as far as the prompt goes.
    fn prompt(&self, tokens: u64, blocks: &[u64], rng: &mut ChaCha8Rng) -> String {
        // Words have five letters or so, and a space.
        let mut text = String::with_capacity(tokens as usize * 6);
        let mut missing = tokens;
        for block in blocks {
            let of_block = missing.min(BLOCK_TOKENS);
            self.vocabulary.write(&mut text, of_block, &mut self.seeds.generator(Purpose::Block, *block));
            missing -= of_block;
        }
        self.vocabulary.write(&mut text, missing, rng);
        text
    }
}
