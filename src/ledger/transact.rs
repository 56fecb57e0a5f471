//! Verbs as wholes: tried again where the database was in the way, and never applied twice.
//!
//! A verb that fails before its commit has done nothing, whatever failed, and is tried again from its beginning where that can help: after a deadlock, a
//! serialization failure, a wait for a lock that was too long, a lost connection, a server that starts, is full or has become read-only. A connection that
//! is lost *in* the commit leaves it open whether the verb was done. It is tried again too, with [`Again::MayBeDone`]: appends are idempotent by their keys, and
//! the few verbs that are not by themselves look for their own mark.

use super::{
    Error, Ledger,
    dialect::{Fault, fault},
};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// The first pause is at most this long, each next one at most twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A restart of a server is shorter; what takes longer is told to the caller, who asks again.
const LIMIT: Duration = Duration::from_secs(15);

/// What an earlier try of the same verb may have left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Nothing.
    Clean,
    /// A commit whose answer was lost.
    MayBeDone,
}

impl Ledger {
    /// Runs a verb, which begins and commits its own transaction, until the database lets it through, for a bounded time.
    pub(super) async fn transact<T, F: Future<Output = Result<T, Error>>>(
        &self,
        verb: impl Fn(Again) -> F,
    ) -> Result<T, Error> {
        let (started, mut pause, mut again) = (Instant::now(), FIRST_PAUSE, Again::Clean);
        loop {
            let error = match verb(again).await {
                Err(error) => error,
                done => return done,
            };
            let fault = match &error {
                Error::Unavailable(inner) => fault(inner),
                Error::Uncertain(_) => Fault::Connection,
                _ => return Err(error),
            };
            if fault == Fault::Connection {
                // The others go to the same server.
                self.staleness.raise();
            }
            if fault == Fault::Other || started.elapsed() + pause > LIMIT {
                return Err(error);
            }
            if matches!(error, Error::Uncertain(_)) {
                again = Again::MayBeDone;
            }
            tracing::warn!(%error, ?fault, "the ledger's verb is tried again");
            tokio::time::sleep(pause.mul_f64(jitter())).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// From a quarter to the whole: those that were in each other's way do not meet again.
fn jitter() -> f64 {
    let random = uuid::Uuid::new_v4().as_u128() as u32; // its low bits are random
    0.25 + 0.75 * f64::from(random) / f64::from(u32::MAX)
}

/// From when on connections lead where the ledger is: older ones are not used again.
#[derive(Debug)]
pub struct Staleness {
    since: Instant,
    /// Milliseconds after `since`.
    raised_ms: AtomicU64,
}

impl Staleness {
    pub fn new() -> Self {
        Self { since: Instant::now(), raised_ms: AtomicU64::new(0) }
    }

    fn raise(&self) {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.raised_ms.fetch_max(now, Ordering::Relaxed);
    }

    /// Whether a connection of this age was made since.
    pub fn is_fresh(&self, age: Duration) -> bool {
        let raised = Duration::from_millis(self.raised_ms.load(Ordering::Relaxed));
        raised.is_zero() || self.since.elapsed().saturating_sub(age) >= raised
    }
}
