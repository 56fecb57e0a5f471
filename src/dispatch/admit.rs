//! Who may go next: pure. A [`Permit`] comes from here alone, and without one nothing is launched.

use crate::ledger::{LiveAttempt, Waiting};
use std::collections::HashSet;

/// Limits of admission.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Attempts alive at the same time.
    pub max_running: usize,
}

/// Leave to launch one attempt of one job.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    job: String,
}

impl Permit {
    /// The job that it is for; using it uses it up.
    pub fn into_job(self) -> String {
        self.job
    }
}

/// Gives permits to the waiting, best first, as far as the limits go. An incremental definition runs one job at a time, in order.
pub fn admit(waiting: &[Waiting], live: &[LiveAttempt], limits: Limits) -> Vec<Permit> {
    let room = limits.max_running.saturating_sub(live.len());
    let mut busy: HashSet<(String, String)> = live
        .iter()
        .filter(|attempt| attempt.order.job.is_incremental())
        .map(|attempt| {
            let job = &attempt.order.job;
            (job.tenant.clone().unwrap_or_default(), job.definition.clone().unwrap_or_default())
        })
        .collect();
    let free = |job: &&Waiting| !job.incremental || busy.insert((job.tenant.clone(), job.definition.clone()));
    waiting.iter().filter(free).take(room).map(|job| Permit { job: job.id.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ledger::Order,
        record::{Millis, phase::Phase, wire::AttemptId},
    };
    use proptest::prelude::*;

    fn waiting(id: u32, definition: u8, incremental: bool) -> Waiting {
        Waiting {
            id: id.to_string(),
            tenant: "t".into(),
            definition: definition.to_string(),
            priority: 0,
            incremental,
            queued_at: Millis(0),
            not_before: Millis(0),
        }
    }

    fn live(definition: u8, incremental: bool) -> LiveAttempt {
        let spec = format!(
            "{{\"version\": 1, \"id\": \"x\", \"tenant\": \"t\", \"definition\": \"{definition}\", \
             \"embulk\": {{\"config\": {{}}, \"incremental\": {incremental}}}}}"
        );
        LiveAttempt {
            order: Order {
                id: AttemptId { job: "x".into(), attempt: 1 },
                uid: "u".into(),
                job: serde_json::from_str(&spec).unwrap(),
            },
            phase: Phase::Executing,
            launching: false,
            granted: true,
            executing: true,
            nonce: None,
            lease_until: None,
            cancel_requested: None,
        }
    }

    proptest! {
        #[test]
        fn never_more_than_the_limit_and_incremental_definitions_one_at_a_time(
            queue in proptest::collection::vec((0_u8..5, any::<bool>()), 0..40),
            running in proptest::collection::vec((0_u8..5, any::<bool>()), 0..10),
            max_running in 0_usize..20,
        ) {
            let waiting: Vec<_> = (0..).zip(&queue).map(|(id, (definition, incremental))| waiting(id, *definition, *incremental)).collect();
            let live: Vec<_> = running.iter().map(|(definition, incremental)| live(*definition, *incremental)).collect();
            let admitted: Vec<usize> = admit(&waiting, &live, Limits { max_running })
                .into_iter()
                .map(|permit| permit.into_job().parse().unwrap())
                .collect();
            prop_assert!(admitted.is_sorted(), "the best go first");
            prop_assert!(admitted.is_empty() || admitted.len() + live.len() <= max_running);
            for definition in 0..5 {
                let starting = admitted.iter().filter(|id| queue[**id] == (definition, true)).count();
                let busy = running.contains(&(definition, true));
                prop_assert!(starting <= usize::from(!busy));
            }
        }
    }
}
