//! Workloads made of a workload: at another load, of one tenant alone.

use super::{Arrival, Length, Tenant, Workload};

impl Workload {
    /// The same at `factor` times the load: rates, speeds of traces and numbers of users are multiplied; users are
    /// rounded, to one at least. `factor` is above 0.
    pub fn scaled(&self, factor: f64) -> Self {
        let mut scaled = self.clone();
        scaled.tenants.values_mut().for_each(|tenant| tenant.arrival.scale(factor));
        scaled
    }

    /// The same with one tenant alone. What it sends and when does not change; objectives of the others, and of how
    /// they share, fall away.
    pub fn only(&self, tenant: &str) -> Self {
        let mut only = self.clone();
        only.tenants.retain(|name, _| name == tenant);
        only.slo.run.at_most.retain(|measure, _| measure.split_once(':').is_none_or(|(of, _)| of == tenant));
        only.slo.run.jain_index = None;
        only.slo.run.service_gap_within_bound = false;
        only.slo.run.victim_ratio = None;
        only.fairness.victim = None;
        only
    }
}

impl Arrival {
    fn scale(&mut self, factor: f64) {
        match self {
            Self::Closed { users, .. } => *users = ((f64::from(*users) * factor).round() as u32).max(1),
            Self::Constant { rate } | Self::Poisson { rate } | Self::Gamma { rate, .. } | Self::Bursts { rate, .. } => {
                *rate *= factor;
            }
            Self::Ramp { from, to } => [from, to].into_iter().for_each(|rate| *rate *= factor),
            Self::Steps { rates, .. } => rates.iter_mut().for_each(|rate| *rate *= factor),
            Self::Trace { speed, .. } => *speed *= factor,
        }
    }
}

impl Tenant {
    /// All of its lengths with their keys.
    pub(super) fn lengths_mut(&mut self) -> Vec<(&'static str, &mut Length)> {
        let mut lengths = vec![
            ("prompt_tokens", &mut self.prompt_tokens),
            ("output_tokens", &mut self.output_tokens),
            ("turns", &mut self.turns),
            ("turn_pause", &mut self.turn_pause),
        ];
        lengths.extend(self.leavers.after_seconds.as_mut().map(|length| ("leavers.after_seconds", length)));
        lengths.extend(self.leavers.after_tokens.as_mut().map(|length| ("leavers.after_tokens", length)));
        if let Arrival::Closed { think_time, .. } = &mut self.arrival {
            lengths.push(("arrival.think_time", think_time));
        }
        lengths
    }
}
