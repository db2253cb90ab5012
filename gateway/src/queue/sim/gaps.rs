//! The service that pairs of tenants have had, and how far it comes apart while both have requests waiting.

use super::{OUTPUT, Source};

/// Service by tenant, and the largest gaps.
pub(super) struct Gaps {
    slots: usize,
    tenants: Vec<Tenant>,
    pairs: Vec<Pair>,
}

struct Tenant {
    class: usize,
    weight: f64,
    /// Units of cost that were worked off.
    service: f64,
    /// Requests that wait.
    waiting: usize,
    /// The largest cost of a request that was started: the estimate or the truth, and the estimate.
    largest_cost: f64,
    largest_estimate: f64,
}

struct Pair {
    tenants: (usize, usize),
    /// The least and the largest lead of the first over the second since both have requests waiting.
    leads: Option<(f64, f64)>,
    /// The same, but the largest when one of the first is started, and the least when one of the second is.
    at_starts: (f64, f64),
    widest: f64,
    widest_at_starts: f64,
}

impl Gaps {
    pub(super) fn new(sources: &[Source], slots: usize) -> Self {
        let tenant = |source: &Source| Tenant {
            class: source.class,
            weight: f64::from(source.weight),
            service: 0.0,
            waiting: 0,
            largest_cost: 0.0,
            largest_estimate: 0.0,
        };
        let tenants: Vec<_> = sources.iter().map(tenant).collect();
        let mut pairs = Vec::new();
        for second in 0..tenants.len() {
            let same_class = |&first: &usize| tenants[first].class == tenants[second].class;
            pairs.extend((0..second).filter(same_class).map(|first| Pair::new((first, second))));
        }
        Self { slots, tenants, pairs }
    }

    pub(super) fn serve(&mut self, tenant: usize, cost: f64) {
        self.tenants[tenant].service += cost;
    }

    pub(super) fn service(&self, tenant: usize) -> f64 {
        self.tenants[tenant].service
    }

    /// A request waits, or does so no longer.
    pub(super) fn waits(&mut self, tenant: usize, yes: bool) {
        let waiting = &mut self.tenants[tenant].waiting;
        *waiting = if yes { *waiting + 1 } else { *waiting - 1 };
    }

    /// A request that waited is given its slot.
    pub(super) fn started(&mut self, tenant: usize, largest_cost: f64, estimate: f64) {
        for index in 0..self.pairs.len() {
            let (first, second) = self.pairs[index].tenants;
            let other = if tenant == first { second } else { first };
            if ![first, second].contains(&tenant) || self.tenants[other].waiting == 0 {
                continue;
            }
            let lead = self.lead((first, second));
            let pair = &mut self.pairs[index];
            if pair.leads.is_some() {
                let (most, least) = &mut pair.at_starts;
                if tenant == first {
                    *most = most.max(lead);
                } else {
                    *least = least.min(lead);
                }
                pair.widest_at_starts = pair.widest_at_starts.max(*most - *least);
            }
        }
        let tenant = &mut self.tenants[tenant];
        tenant.largest_cost = tenant.largest_cost.max(largest_cost);
        tenant.largest_estimate = tenant.largest_estimate.max(estimate);
    }

    fn lead(&self, (first, second): (usize, usize)) -> f64 {
        let received = |tenant: usize| self.tenants[tenant].service / self.tenants[tenant].weight;
        received(first) - received(second)
    }

    /// Leads change only with time; and the gap of an interval is the largest lead in it less the least.
    pub(super) fn time_has_passed(&mut self) {
        for index in 0..self.pairs.len() {
            let lead = self.lead(self.pairs[index].tenants);
            let pair = &mut self.pairs[index];
            if let Some((least, most)) = &mut pair.leads {
                (*least, *most) = (least.min(lead), most.max(lead));
                pair.widest = pair.widest.max(*most - *least);
            }
        }
    }

    /// Intervals begin and end when requests come, start or leave.
    pub(super) fn decisions_were_taken(&mut self) {
        for index in 0..self.pairs.len() {
            let (first, second) = self.pairs[index].tenants;
            let both = self.tenants[first].waiting > 0 && self.tenants[second].waiting > 0;
            let lead = self.lead((first, second));
            let pair = &mut self.pairs[index];
            if !both {
                *pair =
                    Pair { widest: pair.widest, widest_at_starts: pair.widest_at_starts, ..Pair::new((first, second)) };
            } else if pair.leads.is_none() {
                pair.leads = Some((lead, lead));
            }
        }
    }

    /// The largest gap of any pair by `(k+1) (c_i/w_i + c_j/w_j)`, and twice the slack: over all of each interval.
    pub(super) fn worst_ratio(&self, slack: f64) -> f64 {
        let bound = |first: &Tenant, second: &Tenant| {
            let costs = first.largest_cost / first.weight + second.largest_cost / second.weight;
            (self.slots + 1) as f64 * costs + 2.0 * slack
        };
        self.worst(|pair| pair.widest, bound)
    }

    /// The same for the moments when one of them is started, where the bound is `k (e_i/w_i + e_j/w_j)` and twice the
    /// slack: what is charged but not served yet, which is at most the estimate `e` of all that runs.
    pub(super) fn worst_ratio_at_starts(&self, slack: f64) -> f64 {
        let bound = |first: &Tenant, second: &Tenant| {
            // Counts are of whole tokens: a prompt token and an output token of each request may be uncounted yet.
            let estimate = |tenant: &Tenant| (tenant.largest_estimate + 1.0 + OUTPUT) / tenant.weight;
            self.slots as f64 * (estimate(first) + estimate(second)) + 2.0 * slack
        };
        self.worst(|pair| pair.widest_at_starts, bound)
    }

    fn worst(&self, gap: fn(&Pair) -> f64, bound: impl Fn(&Tenant, &Tenant) -> f64) -> f64 {
        let ratio = |pair: &Pair| {
            let bound = bound(&self.tenants[pair.tenants.0], &self.tenants[pair.tenants.1]);
            if bound > 0.0 { gap(pair) / bound } else { 0.0 }
        };
        self.pairs.iter().map(ratio).fold(0.0, f64::max)
    }
}

impl Pair {
    fn new(tenants: (usize, usize)) -> Self {
        let at_starts = (f64::NEG_INFINITY, f64::INFINITY);
        Self { tenants, leads: None, at_starts, widest: 0.0, widest_at_starts: 0.0 }
    }
}
