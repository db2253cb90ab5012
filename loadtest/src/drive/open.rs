//! The open loop: sessions begin at their moments, whatever has become of those before.

use std::sync::Arc;
use std::time::Duration;

use super::session::{Due, session};
use super::{Run, Turned};

/// The moments of one tenant.
type Moments = Box<dyn Iterator<Item = Duration> + Send>;

/// A tenant's next session.
struct Next {
    due: Due,
    rest: Moments,
}

/// Begins the sessions of all tenants, in the order of their moments.
pub(super) async fn dispatch(run: Arc<Run>, tenants: Vec<(usize, Moments)>) {
    let first = |(tenant, mut rest): (usize, Moments)| {
        let scheduled = rest.next()?;
        Some(Next { due: Due { tenant, session: 0, turn: 0, scheduled }, rest })
    };
    let mut tenants: Vec<Next> = tenants.into_iter().filter_map(first).collect();
    while let Some((index, next)) = tenants.iter_mut().enumerate().min_by_key(|(_, next)| next.due.scheduled) {
        let due = next.due;
        match next.rest.next() {
            Some(scheduled) => next.due = Due { session: due.session + 1, scheduled, ..due },
            None => drop(tenants.swap_remove(index)),
        }
        match run.turn_to(due).await {
            Turned::Now(place) => {
                let shared = run.clone();
                run.tasks.spawn(async move { session(&shared, due, place).await });
            }
            Turned::Abandoned => {}
            Turned::Over => break,
        }
    }
}
