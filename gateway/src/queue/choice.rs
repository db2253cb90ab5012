//! Which request goes first: the one whose turn it is, or a warm one that does not jump far.

use super::flow::{Turn, Waiter};
use super::scheduler::{Scheduler, TicketId};
use super::tag::Tag;

/// How many flows, and how many requests of each, are looked at for a warm prompt: a decision must stay cheap.
const MAX_FLOWS_TRIED: usize = 16;
const MAX_HEADS_TRIED: usize = 4;

impl Scheduler {
    /// Which request goes: the one whose turn it is, or one that does not jump far and is warm.
    pub(super) fn choose(&mut self, first: Turn) -> TicketId {
        let chosen = self.warm_one(first).unwrap_or(first.head);
        if chosen != first.head
            && let Some(flow) = self.flows.get_mut(first.flow)
        {
            flow.passes += 1;
        }
        let served = self.flows.find(chosen).and_then(|(flow, _)| self.flows.get_mut(flow));
        if let Some(flow) = served
            && flow.turn.is_some_and(|(_, turn)| turn.head == chosen)
        {
            flow.passes = 0;
        }
        chosen
    }

    fn warm_one(&self, first: Turn) -> Option<TicketId> {
        let slack = f64::from(self.settings.locality_slack);
        let passed = self.flows.get(first.flow)?;
        if slack == 0.0 || self.flows.first_come() || passed.passes >= self.settings.locality_passes {
            return None;
        }
        let free = self.replicas.most_free();
        let near = self.flows.lanes.get(passed.class)?.until(first.tag + Tag::of(slack, 1));
        let others = near.filter(|turn| turn.flow != first.flow);
        // The one that was used last is the one that was least probably displaced since.
        let mut best: Option<(u64, TicketId)> = None;
        for turn in std::iter::once(&first).chain(others).take(MAX_FLOWS_TRIED) {
            let Some(flow) = self.flows.get(turn.flow) else { continue };
            if turn.tag > first.tag + Tag::of(slack, flow.weight) {
                continue;
            }
            for (_, waiter) in flow.places.iter().take(MAX_HEADS_TRIED) {
                let link = waiter.halfway.filter(|_| waiter.slots <= free);
                let age = link.and_then(|link| self.replicas.age(link, free));
                let younger = age.filter(|age| best.is_none_or(|(least, _)| *age < least));
                if let Some(age) = younger.filter(|_| self.may_run(waiter)) {
                    best = Some((age, waiter.id));
                }
            }
        }
        best.map(|(_, id)| id)
    }

    fn may_run(&self, waiter: &Waiter) -> bool {
        let (tenants, slots) = (&self.flows.tenants, waiter.slots);
        tenants.key_may_run(&waiter.ticket, slots) && tenants.tenant_may_run(&waiter.ticket, slots)
    }
}
