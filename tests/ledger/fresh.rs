//! A ledger of a test's own, and what supervisors and people ask of it.

pub use crate::env::ledgers::owner;
use crate::env::ledgers::{Database, Place};
use sendo::{
    ledger::{AttemptEnd, Budget, Ledger, NextStep, RetryCase, Terms, now},
    record::{
        Millis,
        job::Job,
        outcome::{Confidence, CursorMove, Ending, Evidence, Outcome, Verdict},
        phase::Phase,
        usage::Usage,
        wire::{AttemptId, Body, Directive, GrantAnswer, GrantRequest, Record, RecordBatch},
    },
};
use std::time::Duration;

/// Writes each test three times: one database, one test.
macro_rules! on_each_database {
    ($($(#[$about:meta])* async fn $name:ident($fresh:ident: Fresh) $body:block)*) => {$(
        $(#[$about])*
        mod $name {
            #[allow(unused_imports)] // what the tests of a file share
            use super::*;
            use crate::{env::ledgers::Database, ledger::fresh::run};

            async fn test($fresh: Fresh) $body

            #[test]
            fn sqlite() {
                run(Database::Sqlite, test);
            }

            #[test]
            fn postgresql() {
                run(Database::Postgresql, test);
            }

            #[test]
            fn mariadb() {
                run(Database::Mariadb, test);
            }
        }
    )*};
}

pub const EVERY: u64 = 1000;
pub const TERMS: Terms = Terms { report_every_ms: EVERY, lease: Duration::from_secs(3600) };

/// A ledger in a database of its own.
pub struct Fresh {
    pub ledger: Ledger,
    pub place: Place,
}

/// Runs a test on a fresh ledger, for a limited time.
pub fn run<F: Future<Output = ()>>(database: Database, test: fn(Fresh) -> F) {
    runtime().block_on(async {
        let place = Place::new(database);
        let ledger = Ledger::open(&place.url, policy).await.unwrap();
        let limit = tokio::time::timeout(crate::env::LIMIT, test(Fresh { ledger, place }));
        limit.await.expect("the test takes too long");
    });
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap()
}

/// Success succeeds, the rest fails; a kill is tried again as often as the job allows, with all the memory that it may have after too little; what is
/// lost is held.
pub fn policy(case: &RetryCase<'_>) -> NextStep {
    match case.outcome {
        Outcome::Succeeded => NextStep::Succeed,
        _ if case.cancel_requested => NextStep::Cancel,
        Outcome::OutOfMemory if case.job.resources.memory < case.job.resources.memory_max => {
            let memory = case.job.resources.memory_max;
            NextStep::Retry { after: Duration::ZERO, budget: Budget::Memory, memory }
        }
        Outcome::Killed { .. } if case.infrastructure_retries < case.job.retry.infrastructure_limit => {
            NextStep::Retry { after: Duration::ZERO, budget: Budget::Infrastructure, memory: None }
        }
        Outcome::Lost => NextStep::Hold { question: "what now?".into() },
        _ => NextStep::Fail,
    }
}

pub fn job(id: &str, incremental: bool) -> Job {
    let text = format!(
        r#"{{"version":1,"id":"{id}","tenant":"t","definition":"d","embulk":{{"config":{{}},"incremental":{incremental}}}}}"#
    );
    serde_json::from_str(&text).unwrap()
}

pub fn ending(outcome: Outcome, cursor: Option<CursorMove>) -> Ending {
    let verdict = Verdict {
        code: outcome.code().into(),
        summary: outcome.code().into(),
        evidence: vec![],
        confidence: Confidence::Certain,
        next_action: String::new(),
    };
    Ending { outcome, verdict, exit_code: None, signal: None, last_lines: vec![], cursor, commit: None }
}

pub fn phase(seq: u64, phase: Phase) -> Record {
    Record { seq, at: Millis(0), body: Body::Phase { phase, reason: "so".into() } }
}

pub fn usage(seq: u64) -> Record {
    Record { seq, at: Millis(5), body: Body::Usage { usage: Box::new(Usage::default()) } }
}

pub fn end(seq: u64, outcome: Outcome) -> Record {
    Record { seq, at: Millis(0), body: Body::Ending { ending: Box::new(ending(outcome, None)) } }
}

impl Fresh {
    /// Takes the job in and launches its next attempt.
    pub async fn launched(&self, job: &Job) -> AttemptId {
        self.ledger.accept(job, "digest", 0).await.unwrap();
        self.next_attempt(&job.id).await
    }

    pub async fn next_attempt(&self, id: &str) -> AttemptId {
        let order = self
            .ledger
            .begin_launch(&owner(&self.ledger).await, id, "here", "uid".into())
            .await
            .unwrap()
            .expect("the job is to be launched");
        self.ledger.launched(&order.id, "uid").await.unwrap();
        order.id
    }

    pub async fn grant(&self, id: &AttemptId, nonce: &str) -> GrantAnswer {
        self.grant_on(id, nonce, TERMS).await
    }

    pub async fn grant_on(&self, id: &AttemptId, nonce: &str, terms: Terms) -> GrantAnswer {
        let request = GrantRequest { id: id.clone(), nonce: nonce.into() };
        self.ledger.grant(&request, "uid", "00".into(), terms).await.unwrap()
    }

    pub async fn append(&self, id: &AttemptId, source: &str, records: Vec<Record>) -> Directive {
        let batch = RecordBatch { id: id.clone(), source: source.into(), records };
        self.ledger.append(&batch, EVERY).await.unwrap().directive
    }

    /// A job whose first attempt executes under the nonce `n`.
    pub async fn executing(&self, job: &Job) -> AttemptId {
        let id = self.launched(job).await;
        assert!(matches!(self.grant(&id, "n").await, GrantAnswer::Granted(_)));
        assert_eq!(self.append(&id, "n", vec![phase(1, Phase::Executing)]).await, Directive::Continue);
        id
    }

    pub async fn phase(&self, id: &str) -> String {
        self.ledger.job(id).await.unwrap().summary.phase
    }

    pub async fn inferred(&self, id: &AttemptId, outcome: Outcome, evidence: Evidence) {
        let end = AttemptEnd { ending: ending(outcome, None), evidence, at: now() };
        self.ledger.end_attempt(id, end).await.unwrap();
    }

    /// The number that a query says.
    pub async fn count(&self, sql: &'static str) -> i64 {
        self.place.count(sql).await
    }
}
