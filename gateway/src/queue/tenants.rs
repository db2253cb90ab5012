//! What tenants and their keys have waiting and running, in all classes.

use std::collections::HashMap;
use std::sync::Arc;

use super::Ticket;
use super::flow::FlowId;

#[derive(Debug, Default)]
struct Usage {
    waiting: u32,
    in_flight: u32,
}

#[derive(Debug, Default)]
struct Tenant {
    usage: Usage,
    keys: HashMap<Arc<str>, Usage>,
    flows: Vec<FlowId>,
}

/// The tenants that have anything waiting, running, or still on their account.
#[derive(Debug, Default)]
pub(super) struct Tenants(HashMap<Arc<str>, Tenant>);

impl Tenants {
    /// The flows of a tenant: one for each class that its keys are in.
    pub(super) fn flows(&self, tenant: &str) -> impl Iterator<Item = FlowId> {
        self.0.get(tenant).into_iter().flat_map(|tenant| tenant.flows.iter().copied())
    }

    pub(super) fn add_flow(&mut self, tenant: &Arc<str>, flow: FlowId) {
        self.0.entry(tenant.clone()).or_default().flows.push(flow);
    }

    pub(super) fn remove_flow(&mut self, tenant: &str, flow: FlowId) {
        if let Some(found) = self.0.get_mut(tenant) {
            found.flows.retain(|&other| other != flow);
            if found.flows.is_empty() {
                self.0.remove(tenant);
            }
        }
    }

    /// One more of them waits, or one less.
    pub(super) fn waits(&mut self, ticket: &Ticket, change: i32) {
        self.change(ticket, |usage| usage.waiting = usage.waiting.saturating_add_signed(change));
    }

    /// It takes slots, or gives them back.
    pub(super) fn occupies(&mut self, ticket: &Ticket, slots: i64) {
        let add = |count: u32| u32::try_from(i64::from(count) + slots).unwrap_or_default();
        self.change(ticket, |usage| usage.in_flight = add(usage.in_flight));
    }

    fn change(&mut self, ticket: &Ticket, change: impl Fn(&mut Usage)) {
        let Some(tenant) = self.0.get_mut(&ticket.tenant) else { return };
        change(&mut tenant.usage);
        let key = tenant.keys.entry(ticket.key.clone()).or_default();
        change(key);
        if (key.waiting, key.in_flight) == (0, 0) {
            tenant.keys.remove(&ticket.key);
        }
    }

    fn usage(&self, ticket: &Ticket) -> Option<(&Usage, Option<&Usage>)> {
        let tenant = self.0.get(&ticket.tenant)?;
        Some((&tenant.usage, tenant.keys.get(&ticket.key)))
    }

    /// Whether as many of its tenant or of its key wait as may wait.
    pub(super) fn is_full(&self, ticket: &Ticket) -> bool {
        let full = |usage: &Usage, cap: u32| cap > 0 && usage.waiting >= cap;
        self.usage(ticket).is_some_and(|(tenant, key)| {
            full(tenant, ticket.caps.tenant_queued) || key.is_some_and(|key| full(key, ticket.caps.key_queued))
        })
    }

    /// Whether its key may take that many more slots.
    pub(super) fn key_may_run(&self, ticket: &Ticket, slots: u32) -> bool {
        let key = self.usage(ticket).and_then(|(_, key)| key);
        within(key, ticket.caps.key_slots, slots)
    }

    /// Whether its tenant may take that many more slots.
    pub(super) fn tenant_may_run(&self, ticket: &Ticket, slots: u32) -> bool {
        within(self.usage(ticket).map(|(tenant, _)| tenant), ticket.caps.tenant_slots, slots)
    }
}

fn within(usage: Option<&Usage>, cap: u32, slots: u32) -> bool {
    cap == 0 || usage.map_or(0, |usage| usage.in_flight).saturating_add(slots) <= cap
}
