//! How many statements this process has sent: what one job costs is held to a figure by the benchmarks.

use std::sync::atomic::{AtomicU64, Ordering};

static STATEMENTS: AtomicU64 = AtomicU64::new(0);

pub(super) fn one() {
    STATEMENTS.fetch_add(1, Ordering::Relaxed);
}

/// Since the process began.
pub fn statements() -> u64 {
    STATEMENTS.load(Ordering::Relaxed)
}
