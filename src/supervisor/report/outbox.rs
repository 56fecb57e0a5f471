//! Records that the ledger has not yet acknowledged: in order, numbered, in bounded memory.

use crate::record::{
    Millis,
    wire::{Body, Record},
};
use std::collections::VecDeque;

/// Readings kept while the ledger is away: an hour of them at the default beat, then every second one of the older half goes.
const USAGE_LIMIT: usize = 360;
/// Records in one request.
const BATCH: usize = 100;

/// What is still to be delivered. Phases and endings are never dropped.
#[derive(Default)]
pub struct Outbox {
    waiting: VecDeque<Record>,
    last_seq: u64,
}

impl Outbox {
    /// Numbers it and keeps it.
    pub fn push(&mut self, at: Millis, body: Body) -> u64 {
        self.last_seq += 1;
        self.waiting.push_back(Record { seq: self.last_seq, at, body });
        if self.usages() > USAGE_LIMIT {
            self.thin();
        }
        self.last_seq
    }

    /// The next request's records, oldest first.
    pub fn batch(&self) -> Vec<Record> {
        self.waiting.iter().take(BATCH).cloned().collect()
    }

    /// All of a batch up to this number is in the ledger.
    pub fn acknowledge(&mut self, seq: u64) {
        self.waiting.retain(|record| record.seq > seq);
    }

    /// The ledger will never take a batch as it is: without its readings it may.
    pub fn drop_readings(&mut self, up_to: u64) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|record| record.seq > up_to || !is_usage(record));
        self.waiting.len() < before
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Something waits that a person waits for: a phase or an ending.
    pub fn is_urgent(&self) -> bool {
        self.waiting.iter().any(|record| !is_usage(record))
    }

    fn usages(&self) -> usize {
        self.waiting.iter().filter(|record| is_usage(record)).count()
    }

    fn thin(&mut self) {
        let mut nth = 0;
        self.waiting.retain(|record| {
            if !is_usage(record) {
                return true;
            }
            nth += 1;
            nth > USAGE_LIMIT / 2 || nth % 2 == 0
        });
    }
}

fn is_usage(record: &Record) -> bool {
    matches!(record.body, Body::Usage { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::phase::Phase;
    use proptest::prelude::*;

    fn usage() -> Body {
        Body::Usage { usage: Box::default() }
    }

    fn phase() -> Body {
        Body::Phase { phase: Phase::Executing, reason: String::new() }
    }

    proptest! {
        #[test]
        fn phases_survive_and_memory_is_bounded(kinds in proptest::collection::vec(any::<u8>(), 0..2000), acks in proptest::collection::vec(0_u64..2000, 0..5)) {
            let mut outbox = Outbox::default();
            let mut phases = vec![];
            for kind in &kinds {
                let is_phase = *kind < 4;
                let seq = outbox.push(Millis(0), if is_phase { phase() } else { usage() });
                if is_phase {
                    phases.push(seq);
                }
                prop_assert!(outbox.usages() <= USAGE_LIMIT);
            }
            for ack in acks {
                outbox.acknowledge(ack);
                phases.retain(|seq| *seq > ack);
            }
            let kept: Vec<_> = outbox.waiting.iter().filter(|record| !is_usage(record)).map(|record| record.seq).collect();
            prop_assert_eq!(kept, phases);
            let seqs: Vec<_> = outbox.waiting.iter().map(|record| record.seq).collect();
            prop_assert!(seqs.is_sorted());
        }
    }

    #[test]
    fn the_newest_readings_are_kept_whole() {
        let mut outbox = Outbox::default();
        for _ in 0..=USAGE_LIMIT {
            outbox.push(Millis(0), usage());
        }
        let newest: Vec<_> = outbox.waiting.iter().rev().take(USAGE_LIMIT / 2).map(|record| record.seq).collect();
        let expected: Vec<_> = (0..USAGE_LIMIT as u64 / 2).map(|back| USAGE_LIMIT as u64 + 1 - back).collect();
        assert_eq!(newest, expected);
    }
}
