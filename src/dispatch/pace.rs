//! How many places are made at the same time on one cluster: as many as it takes well. Additive increase, multiplicative decrease, as TCP
//! finds its window; a decrease answers for all that was under way when it happened.

use std::time::{Duration, Instant};

const FIRST: f64 = 8.0;
const LEAST: f64 = 1.0;
/// One API server took no more from more clients than this.
const MOST: f64 = 64.0;
const DECREASE: f64 = 0.5;
/// So many times the best latency is a queue at the other end: more requests would only make it longer.
const SLOW: u32 = 8;
/// Latencies below this are too short to compare.
const QUICK: Duration = Duration::from_millis(20);
/// The best latency is forgotten by so much with each answer: the cluster of an hour ago is another one.
const FORGET: f64 = 1.001;

/// The window of one cluster.
#[derive(Debug, Clone)]
pub struct Pace {
    window: f64,
    /// Doubling per round until the first decrease.
    starting: bool,
    best: Option<Duration>,
    decreased_at: Option<Instant>,
    hold_until: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { window: FIRST, starting: true, best: None, decreased_at: None, hold_until: None }
    }
}

impl Pace {
    /// Requests that may be under way now.
    pub fn window(&self, now: Instant) -> usize {
        if self.held_until(now).is_some() {
            return 0;
        }
        // Between 1 and 64: exact.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let window = self.window as usize;
        window
    }

    /// The cluster has asked for silence until then.
    pub fn held_until(&self, now: Instant) -> Option<Instant> {
        self.hold_until.filter(|until| *until > now)
    }

    /// It answered well after `took`.
    pub fn answered(&mut self, took: Duration) {
        let best = self.best.map_or(took, |best| best.mul_f64(FORGET).min(took));
        self.best = Some(best);
        if took > best.max(QUICK) * SLOW {
            self.starting = false;
            return;
        }
        let step = if self.starting { 1.0 } else { 1.0 / self.window };
        self.window = (self.window + step).min(MOST);
    }

    /// It asked for less, or did not answer a request that was sent at `sent`.
    pub fn too_much(&mut self, sent: Instant, now: Instant, retry_after: Option<Duration>) {
        if let Some(span) = retry_after {
            self.hold_until = self.hold_until.max(Some(now + span));
        }
        self.starting = false;
        if self.decreased_at.is_none_or(|at| sent >= at) {
            self.window = (self.window * DECREASE).max(LEAST);
            self.decreased_at = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn it_opens_up_while_all_is_well_and_halves_once_for_a_round() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        (0..200).for_each(|_| pace.answered(5 * MS));
        assert_eq!(pace.window(now), 64);
        // All sixty-four were sent before the first of them was refused.
        (0..64).for_each(|_| pace.too_much(now, now + MS, None));
        assert_eq!(pace.window(now), 32);
        pace.too_much(now + 2 * MS, now + 3 * MS, None);
        assert_eq!(pace.window(now), 16);
        // From here on one more a round, not one an answer.
        (0..17).for_each(|_| pace.answered(5 * MS));
        assert_eq!(pace.window(now), 17);
        for round in 1..20 {
            pace.too_much(now + 10 * round * MS, now + 10 * round * MS, None);
        }
        assert_eq!(pace.window(now), 1, "one always goes, or nobody would find out that all is well again");
    }

    #[test]
    fn it_is_silent_as_long_as_it_is_told() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.too_much(now, now, Some(Duration::from_secs(2)));
        assert_eq!(pace.window(now + Duration::from_secs(1)), 0);
        assert_eq!(pace.window(now + Duration::from_secs(2)), 4);
    }

    #[test]
    fn a_queue_at_the_other_end_is_not_made_longer() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        (0..10).for_each(|_| pace.answered(5 * MS));
        let window = pace.window(now);
        (0..50).for_each(|_| pace.answered(500 * MS));
        assert_eq!(pace.window(now), window);
    }
}
