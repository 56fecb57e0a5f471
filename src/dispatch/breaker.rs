//! Lets a sick cluster be: after so many failures in a row nothing is asked of it for a while, then one request finds out.

use super::jitter::jittered;
use std::time::{Duration, Instant};

/// Failures in a row that open it.
const FAILURES: u32 = 5;
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);

/// The breaker of one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    Closed {
        failures: u32,
    },
    /// Nothing goes until then.
    Open {
        until: Instant,
        rests: u32,
    },
    /// One goes, to find out.
    HalfOpen {
        rests: u32,
    },
}

impl Default for Breaker {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

impl Breaker {
    /// How many requests may be under way now, as far as the cluster's health goes.
    pub fn window(&mut self, now: Instant) -> usize {
        match *self {
            Self::Closed { .. } => usize::MAX,
            Self::Open { until, .. } if now < until => 0,
            Self::Open { rests, .. } => {
                *self = Self::HalfOpen { rests };
                1
            }
            Self::HalfOpen { .. } => 1,
        }
    }

    /// When it is worth asking again.
    pub fn open_until(&self) -> Option<Instant> {
        match self {
            Self::Open { until, .. } => Some(*until),
            _ => None,
        }
    }

    /// Nobody is left to find out whether it is well again: the next one does, and its failure opens it at once.
    pub fn trust_once(&mut self) {
        if !self.is_closed() {
            *self = Self::Closed { failures: FAILURES - 1 };
        }
    }

    /// Not closed: nothing new is committed to be launched.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed { .. })
    }

    /// The cluster answered, whatever it said.
    pub fn answered(&mut self) {
        *self = Self::default();
    }

    /// It did not answer. `random` spreads the next question, so that many of us do not ask at once.
    pub fn failed(&mut self, now: Instant, random: u64) {
        *self = match *self {
            Self::Closed { failures } if failures + 1 < FAILURES => Self::Closed { failures: failures + 1 },
            Self::Closed { .. } => Self::open(now, 1, random),
            Self::HalfOpen { rests } => Self::open(now, rests + 1, random),
            // One that was under way when it opened.
            open @ Self::Open { .. } => open,
        };
    }

    fn open(now: Instant, rests: u32, random: u64) -> Self {
        let rest = FIRST_REST.saturating_mul(1 << (rests - 1).min(10)).min(LONGEST_REST);
        Self::Open { until: now + jittered(rest, random), rests }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_rests_longer_each_time() {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        for _ in 0..FAILURES - 1 {
            breaker.failed(now, 0);
        }
        breaker.answered();
        for _ in 0..FAILURES - 1 {
            breaker.failed(now, 0);
            assert_eq!(breaker.window(now), usize::MAX);
        }
        let mut last = Duration::ZERO;
        for _ in 0..10 {
            breaker.failed(now, 7);
            assert_eq!(breaker.window(now), 0);
            let until = breaker.open_until().unwrap();
            assert!(until - now >= last, "each rest at least as long");
            last = (until - now).min(LONGEST_REST);
            now = until;
            assert_eq!(breaker.window(now), 1, "one finds out");
        }
        assert!(last == LONGEST_REST);
        breaker.answered();
        assert_eq!(breaker.window(now), usize::MAX);
    }
}
