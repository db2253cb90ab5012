//! How the tenants shared the slots, in the units of the gateway's scheduler (docs/scheduling.md): a request costs its
//! computed prompt tokens, its cached ones at a fraction, and its output tokens at the price of `output_cost` each.
//!
//! Service is counted in buckets of time: prompt tokens when they are computed, output tokens when they come. A tenant
//! has requests waiting in a bucket if one of them waited throughout it. Where the only request that waits is followed
//! by another within a bucket, the time in which its tenant waited counts as two times.
//!
//! Everything is kept in whole numbers and priced at the end, when the price of an output token is known.

use std::collections::BTreeMap;

use super::histogram::micros;
use super::service::{each_output_token, each_prompt_token, prompt_done, waited};
use crate::record::Record;
use crate::report::{self, Distribution, Gap, Service, Victim};
use crate::workload::Workload;

/// Buckets of the whole run.
const BUCKETS: usize = 10_000;
/// What an output token costs if nothing is known: the scheduler's first assumption, too.
const DEFAULT_OUTPUT_COST: f64 = 2.0;
/// The scheduler's bounds of what it learns.
const OUTPUT_COSTS: (f64, f64) = (0.5, 200.0);

/// Service and waiting of all tenants.
pub struct Fairness {
    settings: crate::workload::Fairness,
    slots: u32,
    /// Microseconds of a bucket.
    width: u64,
    /// The first bucket after the warm-up.
    first: usize,
    tenants: Vec<Tenant>,
    timings: Timings,
}

struct Tenant {
    name: String,
    weight: f64,
    class: String,
    buckets: Vec<Bucket>,
    largest: Largest,
}

/// Tokens of the requests of a tenant in one bucket.
#[derive(Clone, Copy, Default)]
struct Bucket {
    computed: u32,
    cached: u32,
    output: u32,
    /// By how many the requests that wait throughout are more than in the bucket before.
    waiting: i32,
}

/// What the server says of its speed.
#[derive(Default)]
struct Timings {
    prefill_micros: u64,
    prefill_tokens: u64,
    decode_micros: u64,
    decode_tokens: u64,
}

/// Tokens that are computed and generated for a request.
#[derive(Clone, Copy)]
struct Tokens {
    computed: u64,
    cached: u64,
    output: u64,
}

impl Fairness {
    /// For the tenants of a workload at so many slots.
    pub fn new(workload: &Workload, slots: u32) -> Self {
        let width = (micros(workload.duration + workload.drain) / BUCKETS as u64).max(1000);
        let tenant = |(name, tenant): (&String, &crate::workload::Tenant)| Tenant {
            name: name.clone(),
            weight: tenant.weight,
            class: tenant.class.clone(),
            buckets: vec![Bucket::default(); BUCKETS],
            largest: Largest::default(),
        };
        Self {
            settings: workload.fairness.clone(),
            slots,
            width,
            first: (micros(workload.warm_up).div_ceil(width) as usize).min(BUCKETS),
            tenants: workload.tenants.iter().map(tenant).collect(),
            timings: Timings::default(),
        }
    }

    /// Adds a request. Those of the warm-up belong to it: their service and waiting go on after it.
    pub fn add(&mut self, record: &Record) {
        let Some(tenant) = self.tenants.get_mut(record.tenant) else { return };
        let tokens = Tokens::of(record);
        self.timings.add(record, tokens);
        let prompt_cost = tokens.computed as f64 + self.settings.cached_cost * tokens.cached as f64;
        tenant.largest.add(prompt_cost, tokens.output as f64);
        let width = self.width;
        // What comes after the end of the run counts in its last bucket.
        let index = |micros: u64| ((micros / width) as usize).min(BUCKETS - 1);
        let buckets = &mut tenant.buckets;
        each_prompt_token(record, tokens.computed, |moment, some| add(&mut buckets[index(moment)].computed, some));
        if let Some(done) = prompt_done(record) {
            add(&mut buckets[index(micros(done))].cached, tokens.cached);
        }
        each_output_token(record, |moment, some| add(&mut buckets[index(moment)].output, some));
        if let Some((begin, end)) = waited(record) {
            let (begin, end) = (micros(begin).div_ceil(width), index(micros(end)));
            if let Some(bucket) = tenant.buckets[..end].get_mut(begin as usize) {
                bucket.waiting += 1;
                tenant.buckets[end].waiting -= 1;
            }
        }
    }

    /// The price of an output token, in computed prompt tokens, and where it comes from.
    pub fn output_cost(&self) -> (f64, &'static str) {
        if self.settings.output_cost > 0.0 {
            return (self.settings.output_cost, "given by the workload");
        }
        match self.timings.output_cost() {
            Some(learned) => (learned.clamp(OUTPUT_COSTS.0, OUTPUT_COSTS.1), "learned from the server's timings"),
            None => (DEFAULT_OUTPUT_COST, "assumed: the server told no timings"),
        }
    }

    /// What a request costs, in words.
    pub fn cost_formula(&self) -> String {
        let (output_cost, source) = self.output_cost();
        let cached_cost = self.settings.cached_cost;
        format!(
            "computed prompt tokens + {cached_cost} * cached prompt tokens + {output_cost:.2} * output tokens; the \
             price of an output token is {source}"
        )
    }

    /// As it stands in the report, without the victim. None where there is nobody to share with.
    pub fn report(&self) -> Option<report::Fairness> {
        if self.tenants.len() < 2 {
            return None;
        }
        let (output_cost, _) = self.output_cost();
        let histories: Vec<_> = self.tenants.iter().map(|tenant| self.history(tenant, output_cost)).collect();
        let mut service = BTreeMap::new();
        let mut jain_index: Option<f64> = None;
        for members in self.classes().values() {
            let shared = shared_service(&histories, members);
            for (member, cost_while_all_waited) in members.iter().zip(&shared) {
                let tenant = &self.tenants[*member];
                let of_tenant = Service {
                    weight: tenant.weight,
                    class: tenant.class.clone(),
                    cost: histories[*member].service.iter().sum(),
                    cost_while_all_waited: *cost_while_all_waited,
                    largest_request: tenant.largest.at(output_cost),
                };
                service.insert(tenant.name.clone(), of_tenant);
            }
            let weights = members.iter().map(|member| self.tenants[*member].weight);
            let weighted: Vec<_> = shared.iter().zip(weights).map(|(cost, weight)| cost / weight).collect();
            let index = if members.len() > 1 { jain(&weighted) } else { None };
            jain_index = [jain_index, index].into_iter().flatten().reduce(f64::min);
        }
        let gaps = self.gaps(&histories, output_cost);
        Some(report::Fairness { output_cost, slots: self.slots, service, jain_index, gaps, victim: None })
    }

    /// Indices of the tenants of each class.
    fn classes(&self) -> BTreeMap<&str, Vec<usize>> {
        let mut classes: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, tenant) in self.tenants.iter().enumerate() {
            classes.entry(&tenant.class).or_default().push(index);
        }
        classes
    }

    fn gaps(&self, histories: &[History], output_cost: f64) -> Vec<Gap> {
        let mut gaps = Vec::new();
        for members in self.classes().values() {
            for (position, first) in members.iter().enumerate() {
                for second in &members[position + 1..] {
                    let (one, other) = (&self.tenants[*first], &self.tenants[*second]);
                    let largest = |tenant: &Tenant| tenant.largest.at(output_cost) / tenant.weight;
                    let weights = (one.weight, other.weight);
                    let (gap, buckets) = largest_gap(&histories[*first], &histories[*second], weights);
                    gaps.push(Gap {
                        tenants: (one.name.clone(), other.name.clone()),
                        gap,
                        bound: (f64::from(self.slots) + 1.0) * (largest(one) + largest(other)),
                        seconds_both_waited: (buckets * self.width) as f64 / 1_000_000.0,
                    });
                }
            }
        }
        gaps
    }

    fn history(&self, tenant: &Tenant, output_cost: f64) -> History {
        let mut waiting = 0;
        let mut history = History::default();
        for (index, bucket) in tenant.buckets.iter().enumerate() {
            waiting += bucket.waiting;
            if index >= self.first {
                let prompt = f64::from(bucket.computed) + self.settings.cached_cost * f64::from(bucket.cached);
                history.service.push(prompt + output_cost * f64::from(bucket.output));
                history.waited.push(waiting > 0);
            }
        }
        history
    }

    /// The memory that it has from the beginning, and the little that grows.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let of_tenant = |tenant: &Tenant| {
            tenant.buckets.len() * size_of::<Bucket>() + tenant.largest.0.len() * size_of::<(f64, f64)>()
        };
        self.tenants.iter().map(of_tenant).sum()
    }
}

/// A tenant's buckets after the warm-up, priced.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) service: Vec<f64>,
    pub(super) waited: Vec<bool>,
}

/// The service of each member in the buckets in which all of them waited.
fn shared_service(histories: &[History], members: &[usize]) -> Vec<f64> {
    let buckets = members.first().map_or(0, |member| histories[*member].waited.len());
    let all: Vec<_> = (0..buckets).filter(|bucket| members.iter().all(|m| histories[*m].waited[*bucket])).collect();
    members.iter().map(|member| all.iter().map(|bucket| histories[*member].service[*bucket]).sum()).collect()
}

/// Jain's index of fairness (Jain, Chiu, Hawe 1984): 1 if all have the same, 1/n if one of n has everything. None if
/// nobody has anything.
pub(super) fn jain(shares: &[f64]) -> Option<f64> {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    (squares > 0.0).then(|| sum * sum / (shares.len() as f64 * squares))
}

/// The largest gap of weighted service over any time in which both waited, and in how many buckets they did. The gap of
/// an interval is the lead at its end less that at its beginning, so the largest one is the range of the lead.
pub(super) fn largest_gap(one: &History, other: &History, weights: (f64, f64)) -> (f64, u64) {
    let (mut largest, mut buckets) = (0.0_f64, 0);
    let (mut lead, mut least, mut most) = (0.0_f64, 0.0_f64, 0.0_f64);
    for bucket in 0..one.service.len() {
        if !(one.waited[bucket] && other.waited[bucket]) {
            (lead, least, most) = (0.0, 0.0, 0.0);
            continue;
        }
        buckets += 1;
        lead += one.service[bucket] / weights.0 - other.service[bucket] / weights.1;
        (least, most) = (least.min(lead), most.max(lead));
        largest = largest.max(most - least);
    }
    (largest, buckets)
}

/// A tenant's first-token times beside the others and alone. None if one of them has none.
pub fn victim(tenant: &str, alone: Distribution, beside: Distribution) -> Option<Victim> {
    let ratio = (alone.p50 > 0.0 && beside.count > 0).then(|| beside.p50 / alone.p50)?;
    Some(Victim { tenant: tenant.to_owned(), alone, beside, ratio })
}

fn add(sum: &mut u32, tokens: u64) {
    *sum = sum.saturating_add(u32::try_from(tokens).unwrap_or(u32::MAX));
}

impl Tokens {
    /// As the server counted; where a reply was cut short after its first token, its prompt counts as planned.
    fn of(record: &Record) -> Self {
        let prompt = record.usage.map_or(record.planned_prompt_tokens, |usage| usage.prompt);
        let cached = record.usage.map_or(0, |usage| usage.cached.min(prompt));
        let prompt = if record.first_token.is_some() { prompt } else { 0 };
        Self { computed: prompt.saturating_sub(cached), cached: cached.min(prompt), output: record.tokens_seen }
    }
}

impl Timings {
    fn add(&mut self, record: &Record, tokens: Tokens) {
        if let (Some(prefill), Some(decode), Some(_)) = (record.prefill, record.decode, record.usage) {
            let add = |sum: &mut u64, count: u64| *sum = sum.saturating_add(count);
            add(&mut self.prefill_micros, micros(prefill));
            add(&mut self.prefill_tokens, tokens.computed);
            add(&mut self.decode_micros, micros(decode));
            add(&mut self.decode_tokens, tokens.output);
        }
    }

    /// Milliseconds of an output token by those of a prompt token.
    fn output_cost(&self) -> Option<f64> {
        let known = self.prefill_micros > 0 && self.prefill_tokens > 0 && self.decode_tokens > 0;
        let each = |micros: u64, tokens: u64| micros as f64 / tokens as f64;
        known.then(|| each(self.decode_micros, self.decode_tokens) / each(self.prefill_micros, self.prefill_tokens))
    }
}

/// The requests that can be the largest one, whatever an output token costs: the upper convex hull of prompt costs and
/// output tokens (Andrew's monotone chain). It has some ten points, however many requests there are.
#[derive(Default)]
pub(super) struct Largest(pub(super) Vec<(f64, f64)>);

impl Largest {
    pub(super) fn add(&mut self, prompt: f64, output: f64) {
        if self.0.iter().any(|point| point.0 >= prompt && point.1 >= output) {
            return;
        }
        let place = self.0.partition_point(|point| point.0 < prompt);
        self.0.insert(place, (prompt, output));
        let mut hull: Vec<(f64, f64)> = Vec::with_capacity(self.0.len());
        for point in &self.0 {
            while let Some(last) = hull.last()
                && (last.1 <= point.1 || hull.len() > 1 && !turns_right(hull[hull.len() - 2], *last, *point))
            {
                hull.pop();
            }
            hull.push(*point);
        }
        self.0 = hull;
    }

    /// The largest cost.
    pub(super) fn at(&self, output_cost: f64) -> f64 {
        self.0.iter().map(|(prompt, output)| prompt + output_cost * output).fold(0.0, f64::max)
    }
}

fn turns_right(from: (f64, f64), at: (f64, f64), to: (f64, f64)) -> bool {
    (at.0 - from.0) * (to.1 - from.1) < (at.1 - from.1) * (to.0 - from.0)
}
