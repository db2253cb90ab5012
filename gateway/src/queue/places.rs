//! The waiting requests of a flow in their order, and what goes before each of them.

use std::collections::BTreeMap;

use super::flow::{Place, Waiter};

/// Places of a run at most.
const MAX_RUN: usize = 64;

/// Requests by their places.
#[derive(Debug, Default)]
pub(super) struct Places {
    waiters: BTreeMap<Place, Box<Waiter>>,
    /// The same in runs, so that what goes before a place is known without a look at everything that does: each of
    /// many thousands that wait may ask for it twice a second.
    runs: Vec<Run>,
    cost: f64,
}

/// Places that follow each other.
#[derive(Debug)]
struct Run {
    /// None of them is before this one, and all of the runs before it are.
    first: Place,
    count: usize,
    cost: f64,
}

impl Places {
    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    pub(super) fn get(&self, place: &Place) -> Option<&Waiter> {
        self.waiters.get(place).map(|waiter| &**waiter)
    }

    /// In their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Place, &Waiter)> + Clone {
        self.waiters.iter().map(|(place, waiter)| (place, &**waiter))
    }

    /// Units of cost of all of them.
    pub(super) fn cost(&self) -> f64 {
        self.cost
    }

    /// How many go before this place, and what they cost.
    pub(super) fn before(&self, place: Place) -> (usize, f64) {
        let begun = self.runs.partition_point(|run| run.first < place);
        let Some((within, whole)) = self.runs.get(..begun).and_then(<[Run]>::split_last) else { return (0, 0.0) };
        let sum = whole.iter().fold((0, 0.0), |(count, cost), run| (count + run.count, cost + run.cost));
        let rest = self.waiters.range(within.first..place);
        rest.fold(sum, |(count, cost), (_, waiter)| (count + 1, cost + waiter.cost))
    }

    pub(super) fn insert(&mut self, place: Place, waiter: Box<Waiter>) {
        let cost = waiter.cost;
        self.waiters.insert(place, waiter);
        self.cost += cost;
        let at = self.run(place);
        let Some(run) = self.runs.get_mut(at) else { return self.runs.push(Run { first: place, count: 1, cost }) };
        (run.first, run.count, run.cost) = (run.first.min(place), run.count + 1, run.cost + cost);
        if run.count > MAX_RUN {
            self.split(at);
        }
    }

    pub(super) fn remove(&mut self, place: Place) -> Option<Box<Waiter>> {
        let waiter = self.waiters.remove(&place)?;
        // Sums of many floating-point numbers drift; an empty queue costs nothing.
        self.cost = if self.waiters.is_empty() { 0.0 } else { self.cost - waiter.cost };
        let at = self.run(place);
        if let Some(run) = self.runs.get_mut(at) {
            (run.count, run.cost) = (run.count - 1, run.cost - waiter.cost);
            if run.count == 0 {
                self.runs.remove(at);
            } else {
                self.unite(at);
                if let Some(before) = at.checked_sub(1) {
                    self.unite(before);
                }
            }
        }
        Some(waiter)
    }

    /// The run that a place belongs to: the first one also takes what is before it.
    fn run(&self, place: Place) -> usize {
        self.runs.partition_point(|run| run.first <= place).saturating_sub(1)
    }

    fn split(&mut self, at: usize) {
        let Some(run) = self.runs.get_mut(at) else { return };
        let half = run.count / 2;
        let later = self.waiters.range(run.first..).skip(half).take(run.count - half);
        let Some((&first, _)) = later.clone().next() else { return };
        let later = Run { first, count: run.count - half, cost: later.map(|(_, waiter)| waiter.cost).sum() };
        (run.count, run.cost) = (half, run.cost - later.cost);
        self.runs.insert(at + 1, later);
    }

    /// Puts a run and the next one together if both are short.
    fn unite(&mut self, at: usize) {
        if let Some([run, next]) = self.runs.get_mut(at..at + 2)
            && run.count + next.count <= MAX_RUN / 2
        {
            (run.count, run.cost) = (run.count + next.count, run.cost + next.cost);
            self.runs.remove(at + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::queue::fixture::ticket;
    use crate::queue::scheduler::TicketId;

    fn place(number: u16) -> Place {
        Place { deadline: None, ticket: TicketId(number.into()) }
    }

    fn waiter(number: u16) -> Box<Waiter> {
        let (id, entered) = (TicketId(number.into()), tokio::time::Instant::now());
        Box::new(Waiter { id, ticket: ticket("t", 1), slots: 1, entered, cost: f64::from(number % 7), halfway: None })
    }

    proptest! {
        #[test]
        fn what_goes_before_a_place_is_known_whatever_comes_and_goes(
            comes in prop::collection::vec(0..2000_u16, 1..1500),
            goes in prop::collection::vec(0..2000_u16, 1..1500),
            asked in prop::collection::vec(0..2000_u16, 20),
        ) {
            let mut places = Places::default();
            for &number in &comes {
                if places.get(&place(number)).is_none() {
                    places.insert(place(number), waiter(number));
                }
            }
            for number in goes {
                prop_assert_eq!(places.get(&place(number)).is_some(), places.remove(place(number)).is_some());
            }
            for number in asked {
                let before = places.iter().filter(|(other, _)| **other < place(number));
                let sum = before.fold((0, 0.0), |(count, cost), (_, waiter)| (count + 1, cost + waiter.cost));
                prop_assert_eq!(places.before(place(number)), sum);
            }
            prop_assert_eq!(places.cost(), places.iter().map(|(_, waiter)| waiter.cost).sum::<f64>());
            // Runs are neither long nor many.
            prop_assert!(places.runs.iter().all(|run| (1..=MAX_RUN).contains(&run.count)));
            prop_assert!(places.runs.len() <= 1 + 4 * places.len() / MAX_RUN);
        }
    }
}
