//! How soon the next reading is due.
//!
//! On cgroup v2 the kubelet has PID 1 killed together with the transfer (`memory.oom.group`): the curve that is in the ledger by then is
//! the only witness of what grew.

use crate::record::usage::Cgroup;
use std::time::Duration;

/// From this share of its limit on, a working set is near it.
const NEAR_PERCENT: u128 = 90;
/// A JVM fills the last tenth of its container within seconds.
const NEAR_BEAT: Duration = Duration::from_secs(1);

/// The time to the next reading; with true, this one is to be shipped at once.
pub fn next(group: &Cgroup, configured: Duration) -> (Duration, bool) {
    let near = group
        .memory_working_set_bytes
        .zip(group.memory_limit_bytes)
        .is_some_and(|(used, limit)| limit > 0 && u128::from(used) * 100 >= u128::from(limit) * NEAR_PERCENT);
    (if near { configured.min(NEAR_BEAT) } else { configured }, near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_the_limit_it_is_faster_and_never_slower() {
        let beat = Duration::from_secs(10);
        let short = Duration::from_millis(200);
        let group =
            |used, limit| Cgroup { memory_working_set_bytes: used, memory_limit_bytes: limit, ..Cgroup::default() };
        for (used, limit, configured, expected) in [
            (Some(90), Some(100), beat, (NEAR_BEAT, true)),
            (Some(u64::MAX), Some(u64::MAX), beat, (NEAR_BEAT, true)),
            (Some(95), Some(100), short, (short, true)),
            (Some(89), Some(100), beat, (beat, false)),
            (Some(95), None, beat, (beat, false)),
            (None, Some(100), beat, (beat, false)),
        ] {
            assert_eq!(next(&group(used, limit), configured), expected, "{used:?} of {limit:?}");
        }
    }
}
