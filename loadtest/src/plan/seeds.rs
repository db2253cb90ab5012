//! Random numbers that can be repeated: which generator draws what.
//!
//! Each thing that is drawn has a generator of its own, made of four numbers: the workload's seed, the tenant's name,
//! the purpose, and a number (of the session, of the shared prefix, of the block of a trace). Together they are the 32
//! bytes of a ChaCha8 key, and ChaCha's outputs for different keys have nothing in common (Bernstein 2008). So session 7 of a
//! tenant is the same whether session 6 was ever made, and another tenant in the workload changes nothing of it.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// What is drawn. The numbers are part of what makes runs repeatable: they do not change.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// When sessions begin; one generator for all of them, in their order.
    Arrivals = 1,
    /// Lengths, pauses and habits of a session.
    Session = 2,
    /// What the user says in a session.
    Text = 3,
    /// A shared system prompt.
    Prefix = 4,
    /// A user's pause between two sessions.
    ThinkTime = 5,
    /// A block of a prompt that a trace tells apart from others by a number.
    Block = 6,
}

/// The generators of one tenant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seeds {
    workload: u64,
    tenant: u64,
}

impl Seeds {
    /// Those of the tenant `name` in a workload with this seed.
    pub(super) fn new(workload: u64, name: &str) -> Self {
        Self { workload, tenant: fnv1a(name) }
    }

    /// The generator for one thing.
    pub(super) fn generator(&self, purpose: Purpose, number: u64) -> ChaCha8Rng {
        let mut key = [0; 32];
        for (place, part) in key.chunks_exact_mut(8).zip([self.workload, self.tenant, purpose as u64, number]) {
            place.copy_from_slice(&part.to_le_bytes());
        }
        ChaCha8Rng::from_seed(key)
    }
}

/// FNV-1a with 64 bits (Fowler, Noll, Vo): a hash that is the same in every version and on every machine.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
