//! The words that both programs speak: what a job is, where it stands, how an attempt ended, and what travels
//! between the supervisor in the worker and the ledger in the control program.
//!
//! Serde alone: nothing here reads a clock, a file or a socket, so each word means the same on both sides of the wire.
//! Who writes which transition stands in [`phase`]; what the ledger makes of an outcome is `ledger::fold`'s business.

pub mod job;
pub mod outcome;
pub mod phase;
pub mod quantity;
pub mod span;
pub mod termination;
mod text;
pub mod usage;
pub mod wire;

use serde::{Deserialize, Serialize};

/// Bytes as the wire and the tables hold them: two lower-case digits each.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Milliseconds since 1970-01-01T00:00:00Z. The one notion of a moment on the wire and in the ledger's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Millis(pub i64);

impl Millis {
    /// A moment read from the system's clock by the caller; before 1970 counts as 1970.
    pub fn from_system(time: std::time::SystemTime) -> Self {
        let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// This moment moved forward by `span`.
    pub fn plus(self, span: std::time::Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; nothing if the clock went back.
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}
