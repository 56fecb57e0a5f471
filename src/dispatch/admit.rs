//! Who may go next: pure. A [`Permit`] comes from here alone, and without one nothing is launched.
//!
//! Higher priority first; inside a priority tenants in turn (`fair`); inside a tenant whoever has been ready the longest. It does not ask
//! whether there is room on any node: what waits for one is the autoscaler's signal, and `max_pending` bounds it.

use super::{fair::Fair, roster::Counts};
use crate::ledger::{Pause, PauseKind, Waiting};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
};

/// Limits of admission.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// Attempts alive at the same time.
    pub max_running: usize,
    pub per_cluster: Option<usize>,
    pub per_tenant: Option<usize>,
    pub per_definition: Option<usize>,
    /// Attempts on a cluster that have been launched and have not started: Pods that wait for a node.
    pub max_pending: Option<usize>,
    pub tenants: HashMap<String, TenantLimits>,
    /// By `NAME` of every tenant, or `TENANT/NAME`, which is the stronger.
    pub definitions: HashMap<String, usize>,
}

/// One tenant's own.
#[derive(Debug, Clone, Copy)]
pub struct TenantLimits {
    pub max_running: Option<usize>,
    /// Of two tenants with enough to do, this one's share grows with its weight.
    pub weight: u32,
}

impl Limits {
    pub fn of_tenant(&self, tenant: &str) -> Option<usize> {
        self.tenants.get(tenant).and_then(|own| own.max_running).or(self.per_tenant)
    }

    pub fn weight(&self, tenant: &str) -> u32 {
        self.tenants.get(tenant).map_or(1, |own| own.weight)
    }

    pub fn of_definition(&self, tenant: &str, definition: &str) -> Option<usize> {
        if definition.is_empty() {
            return None;
        }
        let own = self.definitions.get(&format!("{tenant}/{definition}"));
        own.or_else(|| self.definitions.get(definition)).copied().or(self.per_definition)
    }

    /// How many more may run on the cluster.
    pub fn room(&self, counts: &Counts, cluster: &str) -> usize {
        let here = counts.clusters.get(cluster).copied().unwrap_or_default();
        let all = self.max_running.saturating_sub(counts.all);
        self.per_cluster.map_or(all, |most| all.min(most.saturating_sub(here)))
    }
}

/// What is paused, for looking up.
#[derive(Debug, Clone, Default)]
pub struct Pauses {
    all: bool,
    tenants: HashSet<String>,
    definitions: HashSet<String>,
}

impl Pauses {
    pub fn new(pauses: &[Pause]) -> Self {
        let of = |kind| pauses.iter().filter(move |pause| pause.kind == kind).map(|pause| pause.name.clone());
        Self {
            all: of(PauseKind::All).next().is_some(),
            tenants: of(PauseKind::Tenant).collect(),
            definitions: of(PauseKind::Definition).collect(),
        }
    }

    pub fn tenant(&self, tenant: &str) -> bool {
        self.all || self.tenants.contains(tenant)
    }

    pub fn definition(&self, tenant: &str, definition: &str) -> bool {
        !self.definitions.is_empty()
            && (self.definitions.contains(definition) || self.definitions.contains(&format!("{tenant}/{definition}")))
    }
}

/// Leave to launch one attempt of one job.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    job: Waiting,
}

impl Permit {
    /// The job that it is for; using it uses it up.
    pub fn into_job(self) -> Waiting {
        self.job
    }
}

/// What admission goes by.
#[derive(Clone, Copy)]
pub struct Policy<'a> {
    pub limits: &'a Limits,
    pub pauses: &'a Pauses,
    pub counts: &'a Counts,
    /// What was given since those were counted.
    pub given: &'a Counts,
}

impl Policy<'_> {
    /// Whether nothing but room stands in this job's way.
    pub fn is_free(&self, job: &Waiting) -> bool {
        let definition = (job.tenant.clone(), job.definition.clone());
        let running = [self.counts, self.given].map(|counts| counts.definitions.get(&definition).copied());
        let running: usize = running.into_iter().flatten().sum();
        let is_busy = |counts: &Counts| counts.incremental.contains_key(&definition);
        !self.pauses.definition(&job.tenant, &job.definition)
            && self.limits.of_definition(&job.tenant, &job.definition).is_none_or(|most| running < most)
            && !(job.incremental && (is_busy(self.counts) || is_busy(self.given)))
    }

    /// Whether the tenant may have another attempt.
    pub fn takes(&self, tenant: &str) -> bool {
        !self.pauses.tenant(tenant) && self.limits.of_tenant(tenant).is_none_or(|most| self.running(tenant) < most)
    }

    /// Where the tenant stands in the order of turns; the least is next.
    pub fn turn(&self, fair: &Fair, tenant: &str) -> (u64, u64) {
        fair.turn(tenant, self.running(tenant), self.limits.weight(tenant))
    }

    fn running(&self, tenant: &str) -> usize {
        [self.counts, self.given].into_iter().filter_map(|counts| counts.tenants.get(tenant)).sum()
    }
}

/// Gives at most `room` permits to the waiting. Each of `lines` holds jobs of one tenant and one priority, the first to go first; `fair`
/// counts the turns that are given here.
pub fn admit(
    lines: Vec<Vec<Waiting>>,
    limits: &Limits,
    pauses: &Pauses,
    counts: &Counts,
    fair: &mut Fair,
    room: usize,
) -> Vec<Permit> {
    let mut given = Counts::default();
    let mut lines: Vec<_> = lines.into_iter().map(|line| line.into_iter().peekable()).collect();
    let mut turns = BinaryHeap::new();
    for (index, line) in lines.iter_mut().enumerate() {
        if let Some(first) = line.peek() {
            let turn = Policy { limits, pauses, counts, given: &given }.turn(fair, &first.tenant);
            turns.push(Reverse((Reverse(first.priority), turn, first.not_before, index)));
        }
    }
    let mut permits = Vec::new();
    while permits.len() < room
        && let Some(Reverse((priority, turn, ready, index))) = turns.pop()
    {
        let Some(next) = lines[index].peek() else { continue };
        let policy = Policy { limits, pauses, counts, given: &given };
        if !policy.takes(&next.tenant) {
            continue;
        }
        // Another line of the tenant's may have had a turn meanwhile.
        let now = policy.turn(fair, &next.tenant);
        if now > turn {
            turns.push(Reverse((priority, now, ready, index)));
            continue;
        }
        let Some(job) = lines[index].find(|job| policy.is_free(job)) else { continue };
        fair.serve(&job.tenant, limits.weight(&job.tenant));
        given.give(&job);
        if let Some(next) = lines[index].peek() {
            let turn = Policy { limits, pauses, counts, given: &given }.turn(fair, &job.tenant);
            turns.push(Reverse((priority, turn, next.not_before, index)));
        }
        permits.push(Permit { job });
    }
    permits
}

#[cfg(test)]
mod tests;
