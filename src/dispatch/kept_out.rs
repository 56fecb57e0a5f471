//! Orders that a full quota keeps out: committed, tried, and told that there is no room now. Pure.
//!
//! Each has a time at which it would try again; whose turn it is then is another question, and the answer is admission's: the most urgent,
//! and of the tenant that has the least for its weight. So the next place is not the luckiest one's.

use super::{admit::Limits, fair::share, launch::Tried, roster::Counts};
use crate::record::{job::Job, wire::AttemptId};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    time::Instant,
};

/// By when, then by arrival.
pub type Due = (Instant, u64);

/// Those who wait.
#[derive(Default)]
pub struct KeptOut(BTreeMap<Due, Tried>);

/// What whose turn it is goes by.
#[derive(Clone, Copy)]
pub struct Standings<'a> {
    pub limits: &'a Limits,
    /// Attempts that are committed, those kept out among them.
    pub counts: &'a Counts,
}

impl KeptOut {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn insert(&mut self, due: Due, tried: Tried) {
        self.0.insert(due, tried);
    }

    pub fn remove(&mut self, id: &AttemptId) {
        self.0.retain(|_, tried| tried.order.id != *id);
    }

    pub fn due(&self) -> Option<Instant> {
        self.0.keys().next().map(|(at, _)| *at)
    }

    /// So many may go, the first in turn.
    pub fn take(&mut self, most: usize, standings: Standings<'_>) -> Vec<Tried> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(next) = self.first(standings, |_| true)
        {
            taken.extend(self.0.remove(&next));
        }
        taken
    }

    /// The time of one of them has come: it goes, or in its place the first in turn of those who ask for no more; what asks for more would
    /// not find the room that this one may find.
    pub fn take_due(&mut self, now: Instant, standings: Standings<'_>) -> Option<Tried> {
        let (due, tried) = self.0.first_key_value().filter(|((at, _), _)| *at <= now)?;
        let (due, asked) = (*due, asks(&tried.order.job));
        let place = self.first(standings, |job| is_no_more(asks(job), asked))?;
        let first = self.0.remove(&place)?;
        // Who has given its turn away comes when the other would have.
        if let Some(own) = self.0.remove(&due) {
            self.0.insert(place, own);
        }
        Some(first)
    }

    fn first(&self, standings: Standings<'_>, may: impl Fn(&Job) -> bool) -> Option<Due> {
        let mut here = HashMap::<&str, usize>::new();
        self.0.values().for_each(|tried| *here.entry(tried.tenant()).or_default() += 1);
        let turn = |(due, tried): (&Due, &Tried)| {
            let tenant = tried.tenant();
            let committed = standings.counts.tenants.get(tenant).copied().unwrap_or_default();
            let places = committed.saturating_sub(here.get(tenant).copied().unwrap_or_default());
            (Reverse(tried.order.job.priority), share(places, standings.limits.weight(tenant)), tried.arrival, *due)
        };
        self.0.iter().filter(|(_, tried)| may(&tried.order.job)).map(turn).min().map(|(.., due)| due)
    }
}

/// What of a quota it needs, as far as the job says: processors, memory, disk.
fn asks(job: &Job) -> [Option<u64>; 3] {
    let asked = &job.resources;
    [asked.cpu.map(|cpu| cpu.0), asked.memory.map(|bytes| bytes.0), asked.disk.map(|bytes| bytes.0)]
}

/// Whether who asks for this finds room wherever who asks for the other does.
fn is_no_more(asks: [Option<u64>; 3], other: [Option<u64>; 3]) -> bool {
    asks.into_iter()
        .zip(other)
        .all(|(this, other)| this == other || this.zip(other).is_some_and(|(this, other)| this < other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Order;
    use std::time::Duration;

    /// Who waits, in the order of their times: job, tenant, priority, memory in GiB.
    fn waiting(orders: &[(&str, &str, i32, u64)]) -> (KeptOut, Counts, Instant) {
        let (mut kept_out, mut counts, now) = (KeptOut::default(), Counts::default(), Instant::now());
        for (number, (id, tenant, priority, memory)) in (0..).zip(orders) {
            let job = format!(
                r#"{{"version": 1, "id": "{id}", "tenant": "{tenant}", "priority": {priority}, "resources": {{"memory": "{memory}Gi"}}}}"#
            );
            let job: Job = serde_json::from_str(&job).unwrap();
            let id = AttemptId { job: job.id.clone(), attempt: 1 };
            let tried = Tried::new(Order { id, uid: String::new(), job, avoid_node: None }, number);
            kept_out.insert((now + Duration::from_secs(number), number), tried);
            *counts.tenants.entry((*tenant).to_owned()).or_default() += 1;
        }
        (kept_out, counts, now)
    }

    fn names(taken: impl IntoIterator<Item = Tried>) -> Vec<String> {
        taken.into_iter().map(|tried| tried.order.id.job).collect()
    }

    const FLOOD: [(&str, &str, i32, u64); 5] =
        [("a1", "a", 0, 1), ("a2", "a", 0, 1), ("a3", "a", 0, 1), ("b1", "b", 0, 1), ("a9", "a", 9, 1)];

    #[test]
    fn places_go_to_the_most_urgent_and_then_in_turn_among_tenants() {
        let (mut kept_out, mut counts, _) = waiting(&FLOOD);
        // Two of a's have their places already.
        *counts.tenants.get_mut("a").unwrap() += 2;
        let limits = Limits::default();
        let standings = Standings { limits: &limits, counts: &counts };
        assert_eq!(names(kept_out.take(4, standings)), ["a9", "b1", "a1", "a2"]);
        assert_eq!(kept_out.len(), 1);
        // With three times the weight, a is the one that has less.
        let own = super::super::admit::TenantLimits { max_running: None, weight: 9 };
        let limits = Limits { tenants: [("a".to_owned(), own)].into(), ..Limits::default() };
        *counts.tenants.get_mut("b").unwrap() += 1;
        let (mut kept_out, ..) = waiting(&FLOOD);
        assert_eq!(names(kept_out.take(2, Standings { limits: &limits, counts: &counts })), ["a9", "a1"]);
    }

    #[test]
    fn whose_time_has_come_gives_it_to_whoever_has_the_turn_and_asks_for_no_more() {
        let limits = Limits::default();
        let (mut kept_out, counts, now) = waiting(&FLOOD);
        let standings = Standings { limits: &limits, counts: &counts };
        assert_eq!(names(kept_out.take_due(now, standings)), ["a9"]);
        // The one that gave its turn away comes when the other would have.
        assert_eq!(kept_out.due(), Some(now + Duration::from_secs(1)));
        assert!(kept_out.take_due(now, standings).is_none());
        assert_eq!(kept_out.len(), 4);
        // There may be room for the small one, and none for the urgent one that is larger.
        let (mut kept_out, counts, now) = waiting(&[("small", "a", 0, 1), ("large", "a", 9, 2)]);
        let standings = Standings { limits: &limits, counts: &counts };
        assert_eq!(names(kept_out.take_due(now, standings)), ["small"]);
        assert_eq!(names(kept_out.take_due(now + Duration::from_secs(1), standings)), ["large"]);
    }
}
