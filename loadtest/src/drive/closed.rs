//! The closed loop: a user begins a session when the last one is over and the user has thought.

use std::sync::Arc;
use std::time::Duration;

use super::session::{Due, session};
use super::{Run, Turned};

/// One of a tenant's users.
pub(super) struct User {
    pub(super) tenant: usize,
    /// Its number among them, from 0.
    pub(super) user: u32,
    pub(super) users: u32,
    pub(super) think_time: Arc<dyn Fn(u64) -> Duration + Send + Sync>,
}

/// What a user does for the whole run.
pub(super) async fn user(run: Arc<Run>, user: User) {
    let mut due = Due { tenant: user.tenant, session: user.user.into(), turn: 0, scheduled: Duration::ZERO };
    while let Turned::Now(place) = run.turn_to(due).await {
        let ended = session(&run, due, place).await;
        let scheduled = ended + (user.think_time)(due.session);
        due = Due { session: due.session + u64::from(user.users), scheduled, ..due };
    }
}
