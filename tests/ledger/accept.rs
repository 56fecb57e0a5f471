//! Jobs come in by batches, each once; what does not come in is kept with its reason.

use super::fresh::*;
use sendo::{
    ledger::{Accepted, Error, Incoming, RefusalFilter},
    record::{Millis, job::Job},
};
use std::collections::HashMap;

fn incoming<'a>(job: &'a Job, digest: &'a str) -> Incoming<'a> {
    Incoming { job, digest, not_before_ms: 0, queued_at: Millis(5) }
}

on_each_database! {
    async fn a_batch_says_of_each_what_became_of_it(fresh: Fresh) {
        let jobs: Vec<_> = (0..25).map(|number| job(&format!("job-{number:02}"), false)).collect();
        let first: Vec<_> = jobs[..5].iter().map(|job| incoming(job, "digest")).collect();
        assert_eq!(fresh.ledger.accept_batch(&first).await.unwrap(), [Accepted::New; 5]);
        // In any order, with the same one twice, more than one statement carries.
        let mut batch: Vec<_> = jobs.iter().rev().map(|job| incoming(job, "digest")).collect();
        batch.push(incoming(&jobs[9], "digest"));
        batch.push(incoming(&jobs[9], "other"));
        batch.push(incoming(&jobs[2], "other"));
        let accepted = fresh.ledger.accept_batch(&batch).await.unwrap();
        assert_eq!(accepted[..20], [Accepted::New; 20]);
        assert_eq!(accepted[20..25], [Accepted::Known; 5]);
        assert_eq!(accepted[25..], [Accepted::Known, Accepted::OtherContent, Accepted::OtherContent]);
        for job in &jobs {
            let view = fresh.ledger.job(&job.id).await.unwrap();
            assert_eq!((view.summary.phase.as_str(), view.summary.queued_at_ms, view.transitions.len()), ("queued", 5, 1));
            assert!(view.summary.received_at_ms > 5);
            assert_eq!((view.transitions[0].at_ms, view.transitions[0].recorded_at_ms), (5, view.summary.received_at_ms));
        }
        assert_eq!(fresh.ledger.accept_batch(&[]).await.unwrap(), []);
    }

    async fn a_batch_of_which_one_fails_leaves_none(fresh: Fresh) {
        let mut jobs = ["a", "b", "c"].map(|id| job(id, false));
        if fresh.place.is_file() {
            // SQLite takes a value of any length.
            let trigger = "CREATE TRIGGER cursed BEFORE INSERT ON jobs WHEN NEW.id = 'b' BEGIN SELECT RAISE(ABORT, 'no'); END";
            fresh.place.execute(trigger).await;
        } else {
            jobs[1].tenant = Some("t".repeat(1000));
        }
        let batch: Vec<_> = jobs.iter().map(|job| incoming(job, "digest")).collect();
        let error = fresh.ledger.accept_batch(&batch).await.unwrap_err();
        assert!(error.is_of_the_value() && error.is_answered(), "{error:?}");
        assert!(matches!(fresh.ledger.job("a").await, Err(Error::NoSuchJob(_))));
        // The control: without it the others are taken.
        assert_eq!(fresh.ledger.accept_batch(&[batch[0], batch[2]]).await.unwrap(), [Accepted::New; 2]);
    }

    async fn many_that_take_the_same_jobs_at_once_make_each_once(fresh: Fresh) {
        let mut takers = tokio::task::JoinSet::new();
        for taker in 0..8 {
            let ledger = fresh.ledger.clone();
            takers.spawn(async move {
                let mut jobs: Vec<_> = (0..20).map(|number| job(&format!("job-{number:02}"), false)).collect();
                jobs.rotate_left(taker * 2);
                let batch: Vec<_> = jobs.iter().map(|job| incoming(job, "digest")).collect();
                let accepted = ledger.accept_batch(&batch).await.unwrap();
                jobs.into_iter().map(|job| job.id).zip(accepted).collect::<Vec<_>>()
            });
        }
        let mut made: HashMap<String, usize> = HashMap::new();
        while let Some(taken) = takers.join_next().await {
            for (id, accepted) in taken.unwrap() {
                *made.entry(id).or_default() += usize::from(accepted == Accepted::New);
            }
        }
        assert_eq!(made.len(), 20);
        assert!(made.values().all(|times| *times == 1), "{made:?}");
    }

    async fn a_refusal_counts_up_and_keeps_what_a_database_can_keep(fresh: Fresh) {
        let long = "x".repeat(5000);
        for reason in ["one", "a\0b", &long] {
            fresh.ledger.refuse("q", "m", Some("j\0"), reason, "digest").await.unwrap();
        }
        fresh.ledger.refuse("q", "n", Some(&long), "other", "digest").await.unwrap();
        let all = fresh.ledger.refusals(&RefusalFilter { limit: 10, ..RefusalFilter::default() }).await.unwrap();
        assert_eq!(all.len(), 2);
        let of = |id: &str| all.iter().find(|refusal| refusal.message_id == id).unwrap();
        assert_eq!((of("m").times, of("m").job_id.as_deref(), of("m").reason.len()), (3, Some("j\\u0000"), 4000));
        assert_eq!((of("n").times, of("n").job_id.as_deref()), (1, None));
        let first = RefusalFilter { limit: 1, ..RefusalFilter::default() };
        let latest = fresh.ledger.refusals(&first).await.unwrap().pop().unwrap();
        let next =
            RefusalFilter { before_ms: Some(latest.last_at_ms), before_id: Some(latest.message_id.clone()), ..first };
        let next = fresh.ledger.refusals(&next).await.unwrap().pop().unwrap();
        assert_ne!(latest.message_id, next.message_id);
        let one =
            RefusalFilter { message_id: Some("n".into()), queue: Some("q".into()), limit: 10, ..RefusalFilter::default() };
        assert_eq!(fresh.ledger.refusals(&one).await.unwrap().len(), 1);
    }
}
