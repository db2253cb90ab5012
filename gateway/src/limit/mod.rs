//! What a caller may still use: requests and tokens a minute, requests at once, tokens a day and a month; each for the
//! tenant as a whole and, on top of that, for the key alone.
//!
//! `Caller -> Pass -> Reservation`: a [`Pass`] holds a place among the concurrent requests, a [`Reservation`] also the
//! tokens that the request will probably use. Both give everything back by being dropped, and each token is settled
//! exactly once, whatever way a request ends.

use std::sync::Arc;

use http::HeaderMap;

use crate::auth::Caller;
use crate::clock::Clock;
use crate::error::Rejection;
use crate::policy::Terms;

/// The tokens that a request will use, as far as is known before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Prompt tokens, counted by llama-server.
    pub prompt: u64,
    /// Output tokens that are expected, of all choices: never above the output cap.
    pub output: u64,
}

/// Everybody's limits. Cheap to clone.
#[derive(Clone)]
pub struct Limits(Arc<Shared>);

struct Shared {
    #[expect(dead_code, reason = "being written")]
    clock: Clock,
}

impl Limits {
    /// Limits of which nothing is used up.
    pub fn new(clock: Clock) -> Self {
        Self(Arc::new(Shared { clock }))
    }

    /// Takes one of the requests a minute and a place among the concurrent requests.
    ///
    /// # Errors
    /// There is none left; nothing was taken then.
    pub fn enter(&self, _caller: &Caller, _terms: &Terms) -> Result<Pass, Rejection> {
        Ok(Pass { _limits: self.clone() })
    }

    /// What is left, as the `x-ratelimit-*` headers of an answer: of the tenant's and the key's limits the tighter one.
    pub fn tell(&self, _caller: &Caller, _terms: &Terms, _headers: &mut HeaderMap) {}
}

/// A request that is let in. Dropping it gives its place among the concurrent requests back.
#[must_use = "dropping it gives its place back"]
pub struct Pass {
    _limits: Limits,
}

impl Pass {
    /// Takes the tokens that the request will need.
    ///
    /// # Errors
    /// The bucket or the quota does not have them; everything that was taken is given back, the request too.
    pub fn reserve(self, _need: Need) -> Result<Reservation, Rejection> {
        Ok(Reservation { _pass: self })
    }
}

/// The tokens that a request holds. Dropping it settles with what it was last told.
#[must_use = "dropping it settles"]
pub struct Reservation {
    _pass: Pass,
}

impl Reservation {
    /// The request has used so many tokens, prompt and output, by now. `false`: its quota is used up, and its policy
    /// wants it to end here.
    pub fn used(&mut self, _tokens: u64) -> bool {
        true
    }

    /// The request is over and has used so many tokens. Only the first call counts.
    pub fn settle(&mut self, _tokens: u64) {}

    /// The request was refused before it ran: gives back all, also the one request a minute.
    pub fn give_back(&mut self) {}
}
