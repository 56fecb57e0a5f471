//! Readings of many attempts go together, and each is told its own.

use super::fresh::*;
use crate::env::ledgers::Database;
use sendo::{
    ledger::Error,
    record::{
        outcome::Outcome,
        phase::Phase,
        wire::{AttemptId, Directive, RecordBatch},
    },
};
use sqlx::Executor as _;

on_each_database! {
    async fn each_of_many_batches_is_kept_and_answered_for_itself(fresh: Fresh) {
        let mut ids = Vec::new();
        for n in 0..20 {
            ids.push(fresh.executing(&job(&format!("j{n:02}"), false)).await);
        }
        fresh.ledger.cancel("j01", "enough").await.unwrap();
        fresh.append(&ids[2], "n", vec![end(2, Outcome::Killed { signal: 9 })]).await;
        let second = fresh.next_attempt("j02").await;
        let mut tasks = Vec::new();
        for round in 0..10 {
            for (n, id) in ids.iter().enumerate() {
                let source = if n == 3 { "a stranger" } else { "n" };
                let records = (0..3).map(|k| usage(10 + 3 * round + k)).collect();
                let batch = RecordBatch { id: id.clone(), source: source.into(), records };
                let ledger = fresh.ledger.clone();
                tasks.push((n, tokio::spawn(async move { ledger.append(&batch, EVERY).await.unwrap().directive })));
            }
        }
        for (n, task) in tasks {
            let expected = match n {
                1 => Directive::Cancel,
                3 => Directive::Superseded,
                _ => Directive::Continue,
            };
            assert_eq!(task.await.unwrap(), expected, "j{n:02}");
        }
        assert_eq!(fresh.count("SELECT COUNT(*) FROM heartbeats").await, 20 * 30);
        assert_eq!(second.attempt, 2);
        assert_eq!(fresh.count("SELECT conflicts FROM attempts WHERE job_id = 'j03'").await, 10);
    }

    async fn what_is_too_much_is_told_and_nothing_of_it_is_lost(fresh: Fresh) {
        let mut ids = Vec::new();
        for n in 0..40 {
            ids.push(fresh.executing(&job(&format!("j{n:02}"), false)).await);
        }
        let mut session = fresh.place.session().await;
        let (lock, free) = match fresh.place.database {
            Database::Sqlite => ("BEGIN IMMEDIATE", "ROLLBACK"),
            Database::Postgresql => ("BEGIN; LOCK TABLE heartbeats", "ROLLBACK"),
            Database::Mariadb => ("LOCK TABLES heartbeats WRITE", "UNLOCK TABLES"),
        };
        session.execute(lock).await.unwrap();
        // As supervisors come back after an outage: with a hundred readings each.
        let mut tasks = Vec::new();
        for number in 0..400 {
            let records = (0..100).map(|seq| usage(10 + 100 * (number % 10) + seq)).collect();
            let id = &ids[usize::try_from(number / 10).unwrap()];
            let batch = RecordBatch { id: id.clone(), source: "n".into(), records };
            let ledger = fresh.ledger.clone();
            tasks.push(tokio::spawn(async move { ledger.append(&batch, EVERY).await }));
            tokio::task::yield_now().await;
        }
        let mut busy = 0;
        while busy == 0 {
            busy = tasks.iter().filter(|task| task.is_finished()).count();
            tokio::task::yield_now().await;
        }
        session.execute(free).await.unwrap();
        let (mut kept, mut refused, mut slowest) = (0, 0, 0);
        for task in tasks {
            match task.await.unwrap() {
                Ok(answer) if answer.directive == Directive::Continue => {
                    kept += 1;
                    slowest = slowest.max(answer.report_every_ms);
                }
                Err(Error::Busy) => refused += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(refused > 0 && kept > 0, "{kept} kept, {refused} refused");
        assert!(slowest > 4 * EVERY, "before it refuses it asks for less: every {slowest} ms");
        let id = &ids[0];
        let idle = RecordBatch { id: id.clone(), source: "n".into(), records: vec![] };
        assert_eq!(fresh.ledger.append(&idle, EVERY).await.unwrap().report_every_ms, EVERY, "and no longer than that");
        assert_eq!(fresh.count("SELECT COUNT(*) FROM heartbeats").await, 100 * kept);
        assert_eq!(fresh.append(id, "n", vec![phase(100_000, Phase::Stopping)]).await, Directive::Continue);
    }
}

/// A program that died with a transaction open, say: SQLite's has the whole file, and its lock goes with it.
async fn a_locked_attempt_holds_up_nobody_else(fresh: Fresh) {
    let [locked, free] = [fresh.executing(&job("locked", false)).await, fresh.executing(&job("free", false)).await];
    let mut session = fresh.place.session().await;
    session.execute("BEGIN").await.unwrap();
    session.execute("UPDATE attempts SET conflicts = 0 WHERE job_id = 'locked'").await.unwrap();
    let batch = |id: &AttemptId| RecordBatch { id: id.clone(), source: "n".into(), records: vec![usage(10)] };
    for _ in 0..3 {
        // At the same time, so that they are of one group more often than not.
        let (one, other) = (batch(&locked), batch(&free));
        let (one, other) = tokio::join!(fresh.ledger.append(&one, EVERY), fresh.ledger.append(&other, EVERY));
        assert!(matches!(one, Err(Error::Busy)), "{one:?}");
        assert_eq!(other.unwrap().directive, Directive::Continue);
    }
    session.execute("ROLLBACK").await.unwrap();
    assert_eq!(fresh.append(&locked, "n", vec![usage(10)]).await, Directive::Continue);
    assert_eq!(fresh.count("SELECT COUNT(*) FROM heartbeats").await, 2);
}

#[test]
fn an_attempt_that_is_locked_on_postgresql_holds_up_nobody_else() {
    run(Database::Postgresql, a_locked_attempt_holds_up_nobody_else);
}

#[test]
fn an_attempt_that_is_locked_on_mariadb_holds_up_nobody_else() {
    run(Database::Mariadb, a_locked_attempt_holds_up_nobody_else);
}
