//! Who runs, in memory: counted for admission, and looked at in turns. The ledger is the truth; the roster is made anew from it at the
//! start and now and then, and follows what this program does in between.

use crate::{
    ledger::{Running, Waiting},
    record::wire::AttemptId,
};
use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
};

/// Attempts that count, by what limits them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub all: usize,
    pub clusters: HashMap<String, usize>,
    pub tenants: HashMap<String, usize>,
    /// By tenant and name.
    pub definitions: HashMap<(String, String), usize>,
    /// Of these, attempts of incremental jobs.
    pub incremental: HashMap<(String, String), usize>,
}

impl Counts {
    pub fn add(&mut self, running: &Running) {
        *self.clusters.entry(running.cluster.clone()).or_default() += 1;
        self.count(&running.tenant, &running.definition, running.incremental);
    }

    /// A permit was given to the job: it counts as running.
    pub fn give(&mut self, job: &Waiting) {
        self.count(&job.tenant, &job.definition, job.incremental);
    }

    fn count(&mut self, tenant: &str, definition: &str, incremental: bool) {
        let definition = (tenant.to_owned(), definition.to_owned());
        self.all += 1;
        *self.tenants.entry(tenant.to_owned()).or_default() += 1;
        if incremental {
            *self.incremental.entry(definition.clone()).or_default() += 1;
        }
        *self.definitions.entry(definition).or_default() += 1;
    }

    fn remove(&mut self, running: &Running) {
        let definition = (running.tenant.clone(), running.definition.clone());
        self.all -= 1;
        less(&mut self.clusters, &running.cluster);
        less(&mut self.tenants, &running.tenant);
        less(&mut self.definitions, &definition);
        if running.incremental {
            less(&mut self.incremental, &definition);
        }
    }
}

fn less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// Every attempt that has not ended.
#[derive(Debug, Default)]
pub struct Roster {
    attempts: BTreeMap<AttemptId, Running>,
    counts: Counts,
    /// The last one that was looked at.
    hand: Option<AttemptId>,
}

impl Roster {
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    pub fn len(&self) -> usize {
        self.attempts.len()
    }

    pub fn has(&self, id: &AttemptId) -> bool {
        self.attempts.contains_key(id)
    }

    /// Starts again from the ledger's word.
    pub fn renew(&mut self, running: Vec<Running>) {
        self.attempts.clear();
        self.counts = Counts::default();
        running.into_iter().for_each(|running| self.add(running));
    }

    pub fn add(&mut self, running: Running) {
        self.remove(&running.id);
        self.counts.add(&running);
        self.attempts.insert(running.id.clone(), running);
    }

    pub fn remove(&mut self, id: &AttemptId) {
        if let Some(gone) = self.attempts.remove(id) {
            self.counts.remove(&gone);
        }
    }

    /// Whether the attempt is known to be on another cluster.
    pub fn is_elsewhere(&self, id: &AttemptId, cluster: &str) -> bool {
        self.attempts.get(id).is_some_and(|running| running.cluster != cluster)
    }

    /// The next `most` of a cluster, in turn: after as many calls as it takes, all of them.
    pub fn slice(&mut self, cluster: &str, most: usize) -> Vec<AttemptId> {
        let behind = self.hand.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let mut slice: Vec<AttemptId> = of(&self.attempts, cluster, (behind, Bound::Unbounded)).take(most).collect();
        self.hand = slice.last().cloned();
        if slice.len() < most {
            // Round again, as far as we have not been.
            let until = slice.first().cloned().map_or(Bound::Unbounded, Bound::Excluded);
            let rest = most - slice.len();
            let first: Vec<AttemptId> = of(&self.attempts, cluster, (Bound::Unbounded, until)).take(rest).collect();
            self.hand = first.last().cloned().or(self.hand.take());
            slice.extend(first);
        }
        slice
    }
}

fn of<'a>(
    attempts: &'a BTreeMap<AttemptId, Running>,
    cluster: &'a str,
    range: (Bound<AttemptId>, Bound<AttemptId>),
) -> impl Iterator<Item = AttemptId> + 'a {
    attempts.range(range).filter(move |(_, running)| running.cluster == cluster).map(|(id, _)| id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn running(job: u32, tenant: u8, incremental: bool) -> Running {
        Running {
            id: AttemptId { job: format!("{job:05}"), attempt: 1 },
            cluster: if job.is_multiple_of(2) { "here".into() } else { "there".into() },
            launching: false,
            tenant: tenant.to_string(),
            definition: "d".into(),
            incremental,
        }
    }

    proptest! {
        #[test]
        fn the_counts_are_those_of_who_is_left(
            attempts in proptest::collection::vec((0_u32..40, 0_u8..4, any::<bool>()), 0..60),
            gone in proptest::collection::vec(0_u32..40, 0..60),
        ) {
            let mut roster = Roster::default();
            attempts.iter().for_each(|(job, tenant, incremental)| roster.add(running(*job, *tenant, *incremental)));
            gone.iter().for_each(|job| roster.remove(&running(*job, 0, false).id));
            let mut counts = Counts::default();
            roster.attempts.values().for_each(|running| counts.add(running));
            prop_assert_eq!(roster.counts(), &counts);
        }

        #[test]
        fn everybody_has_a_turn(count in 0_u32..50, most in 1_usize..20) {
            let mut roster = Roster::default();
            (0..count).for_each(|job| roster.add(running(job, 0, false)));
            let rounds = (count as usize).div_ceil(most) + 1;
            let seen: std::collections::BTreeSet<_> = (0..rounds).flat_map(|_| roster.slice("here", most)).collect();
            prop_assert_eq!(seen.len(), (count as usize).div_ceil(2));
            prop_assert!(roster.slice("here", most).len() <= most);
        }
    }
}
