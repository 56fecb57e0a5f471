//! Many at once on one job: exactly one of them wins, whichever it is.

use super::fresh::*;
use sendo::{
    ledger::{Accepted, Cancelled, Retried},
    record::{
        outcome::{Evidence, Outcome},
        phase::Phase,
        wire::{GrantAnswer, GrantRequest, RecordBatch},
    },
};

const MANY: usize = 32;

/// Runs the same thing at once and gives back what each of them said.
macro_rules! at_once {
    ($fresh:ident, |$n:ident, $ledger:ident| $body:expr) => {{
        let barrier = std::sync::Arc::new(tokio::sync::Barrier::new(MANY));
        let tasks: Vec<_> = (0..MANY)
            .map(|$n| {
                let ($ledger, barrier) = ($fresh.ledger.clone(), barrier.clone());
                tokio::spawn(async move {
                    barrier.wait().await;
                    $body
                })
            })
            .collect();
        let mut said = Vec::new();
        for task in tasks {
            said.push(task.await.unwrap());
        }
        said
    }};
}

on_each_database! {
    async fn one_of_many_that_submit_takes_the_job_in(fresh: Fresh) {
        let said = at_once!(fresh, |n, ledger| ledger.accept(&job("a", false), ["one", "other"][n % 2], 0).await.unwrap());
        let new = said.iter().filter(|said| **said == Accepted::New).count();
        let other = said.iter().filter(|said| **said == Accepted::OtherContent).count();
        assert_eq!((new, other), (1, MANY / 2));
        assert_eq!(fresh.count("SELECT COUNT(*) FROM transitions").await, 1);
    }

    async fn one_of_many_launches_commits_the_attempt(fresh: Fresh) {
        fresh.ledger.accept(&job("a", false), "digest", 0).await.unwrap();
        let said = at_once!(fresh, |n, ledger| ledger.begin_launch(&owner(&ledger).await, "a", "here", format!("uid {n}")).await.unwrap());
        assert_eq!(said.iter().flatten().count(), 1);
        assert_eq!(fresh.count("SELECT COUNT(*) FROM attempts").await, 1);
    }

    async fn one_of_many_processes_gets_the_grant(fresh: Fresh) {
        let id = fresh.launched(&job("a", false)).await;
        let said = at_once!(fresh, |n, ledger| {
            let id = sendo::record::wire::AttemptId { job: "a".into(), attempt: 1 };
            let request = GrantRequest { id, nonce: format!("n{n}") };
            ledger.grant(&request, "uid", "00".into(), TERMS).await.unwrap()
        });
        assert_eq!(said.iter().filter(|said| matches!(said, GrantAnswer::Granted(_))).count(), 1);
        assert_eq!(id.attempt, 1);
    }

    async fn many_copies_of_one_batch_are_kept_once(fresh: Fresh) {
        fresh.executing(&job("a", false)).await;
        at_once!(fresh, |n, ledger| {
            let id = sendo::record::wire::AttemptId { job: "a".into(), attempt: 1 };
            let readings = vec![usage(5), usage(6)];
            let all = vec![usage(2), usage(3), end(4, Outcome::Killed { signal: 9 })];
            let batch = RecordBatch { id, source: "n".into(), records: if n % 2 == 0 { all } else { readings } };
            ledger.append(&batch, EVERY).await.unwrap()
        });
        assert_eq!(fresh.phase("a").await, "queued");
        assert_eq!(fresh.count("SELECT COUNT(*) FROM transitions WHERE to_phase = 'queued'").await, 2);
        assert_eq!(fresh.count("SELECT infrastructure_retries FROM jobs").await, 1);
        let readings = fresh.count("SELECT COUNT(*) FROM heartbeats").await;
        assert_eq!(readings, 4, "also those that came after the end are history");
    }

    async fn an_end_a_cancel_and_a_launch_at_once_leave_one_story(fresh: Fresh) {
        let id = fresh.executing(&job("a", false)).await;
        at_once!(fresh, |n, ledger| match n % 4 {
            0 => {
                let end = sendo::ledger::AttemptEnd {
                    ending: ending(Outcome::Failed { exit_code: 1 }, None),
                    evidence: Evidence::ExitCode,
                    at: sendo::ledger::now(),
                };
                ledger.end_attempt(&sendo::record::wire::AttemptId { job: "a".into(), attempt: 1 }, end).await.unwrap();
            }
            1 => drop(ledger.cancel("a", "enough").await.unwrap()),
            2 => drop(ledger.begin_launch(&owner(&ledger).await, "a", "here", format!("{n}")).await.unwrap()),
            _ => {
                let batch = RecordBatch {
                    id: sendo::record::wire::AttemptId { job: "a".into(), attempt: 1 },
                    source: "n".into(),
                    records: vec![phase(2, Phase::Stopping), end(3, Outcome::Failed { exit_code: 2 })],
                };
                ledger.append(&batch, EVERY).await.unwrap();
            }
        });
        let view = fresh.ledger.job("a").await.unwrap();
        assert_eq!((view.attempts.len(), id.attempt), (1, 1));
        assert!(view.attempts[0].outcome.is_some());
        // The timeline has no gap, no doubled number, and each step begins where the one before ended.
        for (n, two) in view.transitions.windows(2).enumerate() {
            assert_eq!(two[0].number, n as i64 + 1);
            assert_eq!(Some(two[0].to_phase.as_str()), two[1].from_phase.as_deref());
        }
        assert_eq!(view.transitions.last().unwrap().to_phase, view.summary.phase);
        assert!(["failed", "cancelled"].contains(&view.summary.phase.as_str()), "{}", view.summary.phase);
    }

    async fn one_of_many_clicks_retries(fresh: Fresh) {
        let id = fresh.executing(&job("a", false)).await;
        fresh.append(&id, "n", vec![end(2, Outcome::Failed { exit_code: 1 })]).await;
        let said = at_once!(fresh, |_n, ledger| ledger.retry("a", Some(1), "again").await.unwrap());
        assert_eq!(said.iter().filter(|said| **said == Retried::Queued).count(), 1);
        let said = at_once!(fresh, |_n, ledger| ledger.cancel("a", "enough").await.unwrap());
        assert_eq!(said.iter().filter(|said| **said == Cancelled::AtOnce).count(), 1);
    }
}
