//! What must hold of a scheduler at any time between two decisions, found out without its indices.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Ticket;
use super::flow::Waiter;
use super::scheduler::Scheduler;

impl Scheduler {
    /// Panics if something does not.
    pub(crate) fn check(&self) {
        let known = self.replicas.widest_known();
        let ready = self.replicas.widest_ready();
        let free = self.replicas.most_free();
        let mut waiting = 0;
        for (id, flow) in self.flows.all() {
            let waiters = || flow.places.iter().map(|(_, waiter)| waiter);
            let all = waiters().chain(flow.stranded.iter().map(|(_, waiter)| waiter));
            waiting += all.clone().count();
            assert!(all.clone().all(|waiter| known == 0 || waiter.slots <= known), "somebody waits for nothing");
            let aside = |waiter: &Waiter| ready > 0 && waiter.slots > ready;
            assert!(waiters().all(|waiter| !aside(waiter)), "somebody holds others up");
            assert!(flow.stranded.iter().all(|(_, waiter)| aside(waiter)), "somebody was left aside");
            // By key, the first one; of those that the key may run, the first one; if the tenant may run it.
            let mut keys: Vec<_> = waiters().map(|waiter| &waiter.ticket.key).collect();
            keys.sort();
            keys.dedup();
            let of_key = |key: &Arc<str>| flow.places.iter().find(|(_, waiter)| waiter.ticket.key == *key);
            let heads = keys.into_iter().filter_map(of_key);
            let heads = heads.filter(|(_, waiter)| self.flows.tenants.key_may_run(&waiter.ticket, waiter.slots));
            let head = heads.min_by_key(|(place, _)| **place).map(|(_, waiter)| waiter);
            let head = head.filter(|waiter| self.flows.tenants.tenant_may_run(&waiter.ticket, waiter.slots));
            let turn = flow.turn.map(|(slots, turn)| (turn.flow, turn.head, slots));
            assert_eq!(turn, head.map(|waiter| (id, waiter.id, waiter.slots)), "the index is wrong");
            assert!(head.is_none_or(|head| head.slots > free), "a slot is idle while somebody could run there");
            let listed: usize = self.flows.lanes.iter().flat_map(|lane| lane.turns()).filter(|t| t.flow == id).count();
            assert_eq!(listed, usize::from(head.is_some()));
        }
        assert_eq!(waiting, self.flows.waiting());
        self.check_capacity();
    }

    /// Panics if what runs and what is counted as running differ, or if a cap is exceeded.
    fn check_capacity(&self) {
        let mut tenants: BTreeMap<&str, u32> = BTreeMap::new();
        let mut keys: BTreeMap<&str, u32> = BTreeMap::new();
        for running in self.running.values() {
            let Waiter { ticket, slots, .. } = &*running.waiter;
            *tenants.entry(&ticket.tenant).or_default() += slots;
            *keys.entry(&ticket.key).or_default() += slots;
        }
        for running in self.running.values() {
            let Ticket { tenant, key, caps, .. } = &running.waiter.ticket;
            let within = |slots: u32, cap: u32| cap == 0 || slots <= cap;
            let kept = within(tenants[&**tenant], caps.tenant_slots) && within(keys[&**key], caps.key_slots);
            // Others of the tenant may have had no caps.
            let all_capped = self.running.values().all(|other| other.waiter.ticket.caps == *caps);
            assert!(kept || !all_capped, "a cap is exceeded");
        }
        let in_flight: u32 = self.load().iter().map(|load| load.in_flight).sum();
        let started = self.running.values().filter(|running| running.replica.is_some());
        assert!(in_flight <= started.map(|running| running.waiter.slots).sum());
        assert_eq!(self.gathering.len(), self.running.values().filter(|running| running.replica.is_none()).count());
        assert_eq!(tenants.values().sum::<u32>(), self.flows.lanes.iter().map(|lane| lane.in_flight).sum::<u32>());
    }
}
