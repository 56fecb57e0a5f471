//! How long to wait before the ledger is asked again.

use std::time::Duration;

/// Between two tries while the ledger does not answer: doubled from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// Whatever Retry-After says: the ending must be delivered while we linger.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The share of an interval by which it may vary, so that a fleet does not beat in step.
const JITTER: f64 = 0.1;

/// Tries without an answer so far.
#[derive(Default)]
pub struct Backoff {
    failures: u32,
    /// Of a lease, which does not wait either.
    pub longest: Option<Duration>,
}

impl Backoff {
    /// One more failed; how long to wait now.
    pub fn next(&mut self, retry_after: Option<Duration>) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let (first, last) = BACKOFF;
        let grown = first.saturating_mul(2_u32.saturating_pow(self.failures.min(16)));
        let wait = grown.min(last).max(retry_after.unwrap_or_default().min(LONGEST_WAIT));
        self.longest.map_or(jittered(wait), |longest| jittered(wait).min(longest))
    }

    /// The ledger has answered, or there is something new to try for.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    pub fn is_new(&self) -> bool {
        self.failures == 0
    }
}

/// The span, a little shorter or longer each time.
pub fn jittered(span: Duration) -> Duration {
    let mut random = [0_u8; 2];
    if ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random).is_err() {
        return span;
    }
    let share = f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX);
    span.mul_f64(1.0 + JITTER * (2.0 * share - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_waited_for_less_long_than_any_retry_after() {
        let mut backoff = Backoff::default();
        let longest = |backoff: &mut Backoff, after| (0..20).map(|_| backoff.next(after)).max().unwrap();
        let hour = Some(Duration::from_secs(3600));
        assert!(longest(&mut backoff, None) > Duration::from_secs(10));
        assert!(longest(&mut backoff, hour) > Duration::from_secs(50));
        backoff.longest = Some(Duration::from_millis(500));
        assert!(longest(&mut backoff, hour) <= Duration::from_millis(500));
    }
}
