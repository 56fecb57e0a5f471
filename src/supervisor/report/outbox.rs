//! Records that the ledger has not yet acknowledged: in order, numbered, in bounded memory.
//!
//! A batch that the ledger will never take is tried again in halves, phases and endings before readings, until what it does not take stands alone.
//! So one bad record costs a few requests, and no other record its place.

use crate::record::{
    Millis,
    wire::{Body, Record},
};
use std::collections::VecDeque;

/// Readings kept while the ledger is away: an hour of them at the default beat, then every second one of the older half goes.
const USAGE_LIMIT: usize = 360;
/// Records in one request.
const BATCH: usize = 100;

/// What is still to be delivered. Phases and endings are dropped only when the ledger has refused them by themselves.
pub struct Outbox {
    waiting: VecDeque<Record>,
    last_seq: u64,
    /// Records in one request: halved by a refusal, doubled by an acknowledgement.
    width: usize,
}

/// What a refusal has come to.
#[derive(Debug, PartialEq)]
pub enum Refused {
    /// One of several: the next batch is smaller.
    Narrowed,
    /// This record alone: it is out.
    Dropped(Record),
    /// A batch without records: none is to blame.
    Empty,
}

impl Default for Outbox {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), last_seq: 0, width: BATCH }
    }
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
        let urgent_alone = self.width < BATCH && self.is_urgent();
        let next = self.waiting.iter().filter(|record| !urgent_alone || !is_usage(record));
        next.take(self.width).cloned().collect()
    }

    /// The records with these numbers, in order, are in the ledger.
    pub fn acknowledge(&mut self, seqs: &[u64]) {
        self.waiting.retain(|record| seqs.binary_search(&record.seq).is_err());
        self.width = (self.width * 2).min(BATCH);
    }

    /// The ledger will never take the records with these numbers as one batch.
    pub fn refuse(&mut self, seqs: &[u64]) -> Refused {
        match seqs {
            [] => Refused::Empty,
            [seq] => {
                self.width = 1;
                let found = self.waiting.iter().position(|record| record.seq == *seq);
                // Thinned out meanwhile: none is left to blame.
                found.and_then(|at| self.waiting.remove(at)).map_or(Refused::Empty, Refused::Dropped)
            }
            several => {
                self.width = several.len() / 2;
                Refused::Narrowed
            }
        }
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

pub fn is_usage(record: &Record) -> bool {
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
                outbox.acknowledge(&(1..=ack).collect::<Vec<_>>());
                phases.retain(|seq| *seq > ack);
            }
            let kept: Vec<_> = outbox.waiting.iter().filter(|record| !is_usage(record)).map(|record| record.seq).collect();
            prop_assert_eq!(kept, phases);
            let seqs: Vec<_> = outbox.waiting.iter().map(|record| record.seq).collect();
            prop_assert!(seqs.is_sorted());
        }
    }

    proptest! {
        #[test]
        fn what_the_ledger_does_not_take_is_found_and_nothing_else_is_lost(
            kinds in proptest::collection::vec((any::<bool>(), 0_u8..10), 0..300),
        ) {
            let mut outbox = Outbox::default();
            let mut bad = vec![];
            for (is_phase, badness) in kinds {
                let seq = outbox.push(Millis(0), if is_phase { phase() } else { usage() });
                if badness == 0 {
                    bad.push(seq);
                }
            }
            let (mut taken, mut dropped, mut requests) = (vec![], vec![], 0);
            let all = outbox.waiting.len();
            while !outbox.is_empty() {
                let seqs: Vec<u64> = outbox.batch().iter().map(|record| record.seq).collect();
                prop_assert!(!seqs.is_empty() && seqs.is_sorted());
                requests += 1;
                if seqs.iter().any(|seq| bad.contains(seq)) {
                    if let Refused::Dropped(record) = outbox.refuse(&seqs) {
                        dropped.push(record.seq);
                    }
                } else {
                    outbox.acknowledge(&seqs);
                    taken.extend(seqs);
                }
            }
            dropped.sort_unstable();
            prop_assert_eq!(taken.len() + dropped.len(), all);
            prop_assert!(bad.iter().filter(|seq| !taken.contains(seq)).eq(&dropped));
            prop_assert!(requests <= all / BATCH + 2 + 20 * bad.len(), "{} requests for {} bad ones", requests, bad.len());
        }
    }

    #[test]
    fn an_ending_does_not_wait_behind_readings_that_are_refused() {
        let mut outbox = Outbox::default();
        for _ in 0..50 {
            outbox.push(Millis(0), usage());
        }
        let phase = outbox.push(Millis(0), phase());
        let seqs: Vec<u64> = outbox.batch().iter().map(|record| record.seq).collect();
        assert_eq!(outbox.refuse(&seqs), Refused::Narrowed);
        assert!(outbox.batch().iter().map(|record| record.seq).eq([phase]));
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
