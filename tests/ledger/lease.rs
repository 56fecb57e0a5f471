//! A strict attempt's lease: held, renewed, over. A lease of nothing is over at once, one of an hour never.

use super::fresh::*;
use sendo::{
    ledger::{AttemptEnd, Terms, now},
    record::{
        job::Job,
        outcome::{Evidence, Outcome},
        phase::Phase,
        wire::{AttemptId, Directive, GrantAnswer},
    },
};
use std::time::Duration;

const OVER: Terms = Terms { report_every_ms: EVERY, lease: Duration::ZERO };

fn strict(id: &str) -> Job {
    serde_json::from_str(&format!(r#"{{"version":1,"id":"{id}","command":["x"],"fencing":"strict"}}"#)).unwrap()
}

impl Fresh {
    async fn lease_until(&self, id: &AttemptId) -> Option<i64> {
        self.ledger.job(&id.job).await.unwrap().attempts.last().unwrap().lease_until_ms
    }

    /// Whether the lease ended it.
    async fn ended_by_lease(&self, id: &AttemptId) -> bool {
        let end = AttemptEnd { ending: ending(Outcome::Lost, None), evidence: Evidence::Inference, at: now() };
        self.ledger.end_by_lease(id, end).await.unwrap()
    }

    /// Waits until the ledger's clock has moved on.
    async fn past(&self, moment: i64) {
        while now().0 <= moment {
            tokio::task::yield_now().await;
        }
    }
}

fn span(answer: &GrantAnswer) -> Option<u64> {
    match answer {
        GrantAnswer::Granted(grant) => grant.lease_ms,
        other => panic!("{other:?}"),
    }
}

on_each_database! {
    async fn a_strict_grant_brings_a_lease_and_a_patient_one_none(fresh: Fresh) {
        let patient = fresh.launched(&job("a", false)).await;
        assert_eq!(span(&fresh.grant(&patient, "n").await), None);
        assert!(fresh.lease_until(&patient).await.is_none());
        let id = fresh.launched(&strict("b")).await;
        assert!(fresh.lease_until(&id).await.is_none(), "nothing is held before the grant");
        let before = now().0;
        assert_eq!(span(&fresh.grant(&id, "n").await), Some(3_600_000));
        assert!(fresh.lease_until(&id).await.unwrap() >= before + 3_600_000);
    }

    async fn each_batch_renews_the_lease_an_empty_one_too(fresh: Fresh) {
        let id = fresh.launched(&strict("a")).await;
        fresh.grant(&id, "n").await;
        for batch in [vec![phase(1, Phase::Executing)], vec![], vec![]] {
            let until = fresh.lease_until(&id).await.unwrap();
            fresh.past(until - 3_600_000).await;
            assert_eq!(fresh.append(&id, "n", batch).await, Directive::Continue);
            assert!(fresh.lease_until(&id).await.unwrap() > until);
        }
        let until = fresh.lease_until(&id).await.unwrap();
        fresh.past(until - 3_600_000).await;
        assert_eq!(fresh.append(&id, "a stranger", vec![]).await, Directive::Superseded);
        assert_eq!(fresh.lease_until(&id).await.unwrap(), until, "a process without the grant renews nothing");
    }

    async fn an_attempt_keeps_the_span_that_it_was_granted(fresh: Fresh) {
        let id = fresh.launched(&strict("a")).await;
        fresh.grant(&id, "n").await;
        // The control program came back with another setting.
        assert_eq!(span(&fresh.grant_on(&id, "n", OVER).await), Some(3_600_000));
        fresh.append(&id, "n", vec![]).await;
        assert!(!fresh.ended_by_lease(&id).await);
    }

    async fn a_lease_that_is_over_ends_the_attempt_and_is_not_renewed_any_more(fresh: Fresh) {
        let id = fresh.launched(&strict("a")).await;
        fresh.grant_on(&id, "n", OVER).await;
        fresh.append(&id, "n", vec![phase(1, Phase::Executing)]).await;
        assert!(fresh.ended_by_lease(&id).await && !fresh.ended_by_lease(&id).await, "once");
        assert_eq!(fresh.phase("a").await, "held");
        let until = fresh.lease_until(&id).await;
        fresh.past(until.unwrap()).await;
        assert_eq!(fresh.append(&id, "n", vec![]).await, Directive::Superseded);
        assert!(matches!(fresh.grant(&id, "n").await, GrantAnswer::Superseded { .. }));
        assert_eq!(fresh.lease_until(&id).await, until);
    }

    async fn before_its_lease_is_over_an_attempt_has_no_successor(fresh: Fresh) {
        let id = fresh.launched(&strict("a")).await;
        assert!(!fresh.ended_by_lease(&id).await, "without a grant there is no lease to be over");
        fresh.grant(&id, "n").await;
        fresh.append(&id, "n", vec![phase(1, Phase::Executing)]).await;
        assert!(!fresh.ended_by_lease(&id).await);
        assert_eq!(fresh.phase("a").await, "executing");
        assert!(fresh.ledger.begin_launch(&owner(&fresh.ledger).await, "a", "here", "uid".into()).await.unwrap().is_none());
        // The control: a patient attempt is never ended so.
        let patient = fresh.launched(&job("b", false)).await;
        fresh.grant_on(&patient, "n", OVER).await;
        assert!(!fresh.ended_by_lease(&patient).await);
    }
}
