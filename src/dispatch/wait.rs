//! Why a job in the queue does not run: the reasons that admission goes by, in words, as of one of its last passes.

use super::{admit::Limits, roster::Counts};
use crate::{
    ledger::{Pause, PauseKind},
    record::Millis,
};
use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

/// What stood in the way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    trouble: Option<String>,
    /// The limit in all, or the cluster's, is reached.
    is_full: bool,
    /// As many places as may wait to start do.
    is_pending_full: bool,
    tenants: HashSet<String>,
    definitions: HashSet<(String, String)>,
    /// Incremental definitions with a job that runs.
    busy: HashSet<(String, String)>,
}

/// What one of the last passes saw, for those who ask.
#[derive(Debug, Default)]
pub struct Waits(Mutex<Seen>);

/// A job in the queue that somebody asks about.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub tenant: &'a str,
    pub definition: &'a str,
    pub incremental: bool,
    pub not_before: Millis,
    /// Its attempt is committed: its place is being made.
    pub is_launching: bool,
    /// The ledger was restored, and nobody has sent again what it loads.
    pub awaits_content: bool,
}

impl Waits {
    /// A pass saw this.
    pub(super) fn look(
        &self,
        limits: &Limits,
        counts: &Counts,
        cluster: &str,
        is_pending_full: bool,
        trouble: Option<&str>,
    ) {
        let tenants = counts
            .tenants
            .iter()
            .filter(|(tenant, count)| limits.of_tenant(tenant).is_some_and(|most| **count >= most));
        let definitions = counts.definitions.iter().filter(|((tenant, definition), count)| {
            limits.of_definition(tenant, definition).is_some_and(|most| **count >= most)
        });
        let seen = Seen {
            trouble: trouble.map(str::to_owned),
            is_full: limits.room(counts, cluster) == 0,
            is_pending_full,
            tenants: tenants.map(|(tenant, _)| tenant.clone()).collect(),
            definitions: definitions.map(|(definition, _)| definition.clone()).collect(),
            busy: counts.incremental.keys().cloned().collect(),
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }

    /// In one line; `None` if only its turn stands in its way.
    pub fn why(&self, job: Asked<'_>, pauses: &[Pause], now: Millis) -> Option<String> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let definition = (job.tenant.to_owned(), job.definition.to_owned());
        let trouble = || seen.trouble.as_deref().map(|why| format!("the cluster takes nothing now: {why}"));
        if job.is_launching {
            return Some(trouble().unwrap_or_else(|| "its place is being made".into()));
        }
        if job.awaits_content {
            return Some("the ledger was restored and does not know what it loads: send the same job again".into());
        }
        if let Some(pause) = pauses.iter().find(|pause| is_of(pause, job)) {
            let why = if pause.reason.is_empty() { String::new() } else { format!(": {}", pause.reason) };
            return Some(match (pause.kind, pause.name.as_str()) {
                (PauseKind::All, _) => format!("everything is paused{why}"),
                (PauseKind::Tenant, "") => format!("jobs without a tenant are paused{why}"),
                (kind, name) => format!("{} {name} is paused{why}", kind.as_str()),
            });
        }
        if job.not_before > now {
            let at = jiff::Timestamp::from_millisecond(job.not_before.0).map(|at| format!("{at:.0}"));
            return Some(format!("not before {}", at.unwrap_or_else(|_| job.not_before.0.to_string())));
        }
        if job.incremental && seen.busy.contains(&definition) {
            return Some(format!("definition {} is incremental and runs one job at a time", job.definition));
        }
        if seen.definitions.contains(&definition) {
            return Some(at_limit("definition", job.definition));
        }
        if seen.tenants.contains(job.tenant) {
            return Some(at_limit("tenant", job.tenant));
        }
        let full = || seen.is_full.then(|| "as many run as may".into());
        let pending = || {
            seen.is_pending_full
                .then(|| "as many wait for a node or for their start as may (limits.max_pending)".into())
        };
        trouble().or_else(full).or_else(pending)
    }
}

fn at_limit(kind: &str, name: &str) -> String {
    if name.is_empty() {
        return format!("jobs without a {kind} have reached their limit");
    }
    format!("{kind} {name} has reached its limit")
}

fn is_of(pause: &Pause, job: Asked<'_>) -> bool {
    match pause.kind {
        PauseKind::All => true,
        PauseKind::Tenant => pause.name == job.tenant,
        PauseKind::Definition => {
            pause.name == job.definition || pause.name == format!("{}/{}", job.tenant, job.definition)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_reason_is_told() {
        let mut counts = Counts::default();
        (counts.all, counts.tenants) = (2, [("t".to_owned(), 2)].into());
        counts.incremental = [(("t".to_owned(), "i".to_owned()), 1)].into();
        let limits = Limits { max_running: 9, per_tenant: Some(2), ..Limits::default() };
        let waits = Waits::default();
        waits.look(&limits, &counts, "here", false, None);
        let job = |tenant, definition| Asked {
            tenant,
            definition,
            incremental: true,
            not_before: Millis(5),
            is_launching: false,
            awaits_content: false,
        };
        let pause = |kind, name: &str| Pause { kind, name: name.into(), reason: "moving".into(), paused_at_ms: 1 };
        let why = |job, pauses: &[Pause]| waits.why(job, pauses, Millis(9));
        assert_eq!(why(job("u", "d"), &[]), None);
        assert!(why(job("t", "d"), &[]).unwrap().contains("tenant t has reached"));
        assert!(why(job("t", "i"), &[]).unwrap().contains("one job at a time"));
        assert_eq!(why(job("u", "d"), &[pause(PauseKind::All, "")]).unwrap(), "everything is paused: moving");
        let nobodys = [pause(PauseKind::Tenant, "")];
        assert_eq!(why(job("", "d"), &nobodys).unwrap(), "jobs without a tenant are paused: moving");
        assert_eq!(why(job("u", "d"), &nobodys), None);
        let paused = [pause(PauseKind::Definition, "u/d"), pause(PauseKind::Tenant, "t")];
        assert_eq!(why(job("u", "d"), &paused).unwrap(), "definition u/d is paused: moving");
        assert_eq!(why(job("t", "i"), &paused).unwrap(), "tenant t is paused: moving");
        assert!(waits.why(job("u", "d"), &[], Millis(4)).unwrap().starts_with("not before 1970"));
        waits.look(&Limits { max_running: 2, ..limits }, &counts, "here", false, Some("no route"));
        assert!(why(job("u", "d"), &[]).unwrap().contains("no route"));
        waits.look(&Limits { max_running: 2, ..Limits::default() }, &counts, "here", true, None);
        assert_eq!(why(job("u", "d"), &[]).unwrap(), "as many run as may");
        waits.look(&Limits { max_running: 9, ..Limits::default() }, &counts, "here", true, None);
        assert!(why(job("u", "d"), &[]).unwrap().contains("max_pending"));
    }
}
