//! Whose turn it is among tenants of one priority.
//!
//! First whoever runs the least for its weight: a tenant's first job goes into the next free slot, whatever others have waiting. Between
//! equals a virtual clock decides (start-time fair queueing, Goyal, Vin and Cheng 1996): each launch sets its tenant's time forward by 1/weight,
//! and a tenant that comes back begins at the clock, so that nobody saves up turns by staying away.

use std::collections::HashMap;

/// One launch of a tenant of weight 1, in the clock's units.
const ONE: u64 = 1 << 20;
/// Tenants that are remembered before those without a claim are forgotten.
const REMEMBERED: usize = 10_000;

/// What a tenant has, for its weight.
pub fn share(running: usize, weight: u32) -> u64 {
    u64::try_from(running).unwrap_or(u64::MAX).saturating_mul(ONE) / u64::from(weight.max(1))
}

/// The clock. Its loss at a take-over costs nobody more than one turn.
#[derive(Debug, Clone, Default)]
pub struct Fair {
    clock: u64,
    next: HashMap<String, u64>,
}

impl Fair {
    /// The least goes first.
    pub fn turn(&self, tenant: &str, running: usize, weight: u32) -> (u64, u64) {
        (share(running, weight), self.next.get(tenant).copied().unwrap_or_default().max(self.clock))
    }

    /// A job of the tenant goes.
    pub fn serve(&mut self, tenant: &str, weight: u32) {
        let (_, start) = self.turn(tenant, 0, weight);
        self.clock = start;
        self.next.insert(tenant.to_owned(), start + ONE / u64::from(weight.max(1)));
        if self.next.len() > REMEMBERED {
            self.next.retain(|_, next| *next > self.clock);
        }
    }
}
