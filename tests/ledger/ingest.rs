//! Readings of many attempts go together, and each is told its own.

use super::fresh::*;
use sendo::{
    ledger::Error,
    record::{
        outcome::Outcome,
        phase::Phase,
        wire::{Directive, RecordBatch},
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
        let id = fresh.executing(&job("a", false)).await;
        let mut session = fresh.place.session().await;
        session.execute(if fresh.place.is_file() { "BEGIN IMMEDIATE" } else { "BEGIN" }).await.unwrap();
        session.execute("UPDATE attempts SET conflicts = 0").await.unwrap();
        let mut tasks = Vec::new();
        for seq in 0..12_000 {
            let batch = RecordBatch { id: id.clone(), source: "n".into(), records: vec![usage(10 + seq)] };
            let ledger = fresh.ledger.clone();
            tasks.push(tokio::spawn(async move { ledger.append(&batch, EVERY).await }));
            if seq % 500 == 0 {
                tokio::task::yield_now().await;
            }
        }
        let mut busy = 0;
        while busy == 0 {
            busy = tasks.iter().filter(|task| task.is_finished()).count();
            tokio::task::yield_now().await;
        }
        session.execute("ROLLBACK").await.unwrap();
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
        let idle = RecordBatch { id: id.clone(), source: "n".into(), records: vec![] };
        assert_eq!(fresh.ledger.append(&idle, EVERY).await.unwrap().report_every_ms, EVERY, "and no longer than that");
        assert_eq!(fresh.count("SELECT COUNT(*) FROM heartbeats").await, kept);
        assert_eq!(fresh.append(&id, "n", vec![phase(100_000, Phase::Stopping)]).await, Directive::Continue);
    }
}
