//! What a ledger promises to supervisors and people.

use super::fresh::*;
use sendo::{
    ledger::{Cancelled, Launch, Retried},
    record::{
        Millis,
        outcome::{CursorMove, Evidence, Outcome},
        phase::Phase,
        quantity::Bytes,
        wire::{AttemptId, Body, Directive, GrantAnswer, GrantRequest, Record},
    },
};

on_each_database! {
    async fn a_record_counts_once_however_often_it_is_sent(fresh: Fresh) {
        let id = fresh.executing(&job("a", false)).await;
        let batch = || vec![phase(1, Phase::Executing), usage(2), usage(3), end(4, Outcome::Failed { exit_code: 1 })];
        for _ in 0..3 {
            assert_eq!(fresh.append(&id, "n", batch()).await, Directive::Continue);
        }
        let view = fresh.ledger.job("a").await.unwrap();
        let phases: Vec<_> = view.transitions.iter().map(|step| step.to_phase.as_str()).collect();
        assert_eq!(phases, ["queued", "setting_up", "executing", "failed"]);
        assert_eq!(fresh.ledger.heartbeats("a", None, (i64::MIN, 0), 100).await.unwrap().len(), 2);
    }

    async fn a_grant_binds_one_process_for_good(fresh: Fresh) {
        let id = fresh.launched(&job("a", false)).await;
        for (nonce, granted) in [("n", true), ("n", true), ("m", false), ("n", true)] {
            assert_eq!(matches!(fresh.grant(&id, nonce).await, GrantAnswer::Granted(_)), granted, "{nonce}");
        }
        let request = GrantRequest { id: id.clone(), nonce: "n".into() };
        let elsewhere = fresh.ledger.grant(&request, "another uid", "00".into(), TERMS).await.unwrap();
        assert!(matches!(elsewhere, GrantAnswer::Superseded { .. }));
        // A stranger's records are history: they move nothing and the stranger is told to stop.
        let told = fresh.append(&id, "m", vec![phase(1, Phase::Executing), end(2, Outcome::Succeeded)]).await;
        assert_eq!((told, fresh.phase("a").await.as_str()), (Directive::Superseded, "setting_up"));
        assert_eq!(fresh.ledger.job("a").await.unwrap().attempts[0].conflicts, 1);
    }

    async fn an_earlier_attempt_is_fenced_off(fresh: Fresh) {
        let first = fresh.executing(&job("a", false)).await;
        fresh.inferred(&first, Outcome::Killed { signal: 9 }, Evidence::ExitCode).await;
        assert_eq!(fresh.phase("a").await, "queued");
        let second = fresh.next_attempt("a").await;
        assert_eq!(second.attempt, 2);
        assert!(matches!(fresh.grant(&first, "n").await, GrantAnswer::Superseded { .. }));
        assert_eq!(fresh.append(&first, "n", vec![end(2, Outcome::Succeeded)]).await, Directive::Superseded);
        let view = fresh.ledger.job("a").await.unwrap();
        assert_eq!((view.summary.phase.as_str(), view.attempts[0].outcome.as_deref()), ("setting_up", Some("killed")));
        assert_eq!(view.attempts[0].conflicts, 1, "kept and counted");
    }

    async fn better_evidence_replaces_worse_and_not_the_other_way_round(fresh: Fresh) {
        let id = fresh.executing(&job("a", false)).await;
        fresh.inferred(&id, Outcome::Lost, Evidence::Inference).await;
        assert_eq!(fresh.phase("a").await, "held");
        assert_eq!(fresh.append(&id, "n", vec![end(2, Outcome::Succeeded)]).await, Directive::Continue);
        assert_eq!(fresh.phase("a").await, "succeeded");
        fresh.inferred(&id, Outcome::Failed { exit_code: 137 }, Evidence::ExitCode).await;
        assert_eq!(fresh.ledger.job("a").await.unwrap().attempts[0].outcome.as_deref(), Some("succeeded"));
    }

    async fn better_evidence_against_a_final_end_is_counted_and_taken(fresh: Fresh) {
        let id = fresh.executing(&job("a", false)).await;
        fresh.inferred(&id, Outcome::Succeeded, Evidence::ExitCode).await;
        assert_eq!(fresh.append(&id, "n", vec![end(2, Outcome::Failed { exit_code: 1 })]).await, Directive::Continue);
        let view = fresh.ledger.job("a").await.unwrap();
        assert_eq!((view.summary.phase.as_str(), view.attempts[0].conflicts), ("succeeded", 1));
    }

    async fn a_retry_that_was_granted_is_not_taken_back_by_better_evidence_of_the_same(fresh: Fresh) {
        let only_one = |id: &str| {
            let mut job = job(id, false);
            job.retry.infrastructure_limit = 1;
            job
        };
        let [same, other] = [fresh.executing(&only_one("same")).await, fresh.executing(&only_one("other")).await];
        for id in [&same, &other] {
            fresh.inferred(id, Outcome::Killed { signal: 9 }, Evidence::Inference).await;
            assert_eq!(fresh.phase(&id.job).await, "queued");
        }
        fresh.append(&same, "n", vec![end(2, Outcome::Killed { signal: 9 })]).await;
        assert_eq!(fresh.phase("same").await, "queued");
        assert_eq!(fresh.ledger.job("same").await.unwrap().attempts[0].evidence, 4);
        // The negative control: what is not tried again at all.
        fresh.append(&other, "n", vec![end(2, Outcome::Failed { exit_code: 1 })]).await;
        assert_eq!(fresh.phase("other").await, "failed");
    }

    async fn a_persons_retry_stands_whatever_else_comes_to_light_but_a_success(fresh: Fresh) {
        let ids = [fresh.executing(&job("failed", false)).await, fresh.executing(&job("done", false)).await];
        for id in &ids {
            fresh.inferred(id, Outcome::Lost, Evidence::Inference).await;
            assert_eq!(fresh.phase(&id.job).await, "held");
            assert_eq!(fresh.ledger.retry(&id.job, Some(1), "the table is empty").await.unwrap(), Retried::Queued);
        }
        fresh.append(&ids[0], "n", vec![end(2, Outcome::Failed { exit_code: 1 })]).await;
        assert_eq!(fresh.phase("failed").await, "queued");
        let view = fresh.ledger.job("failed").await.unwrap();
        assert_eq!((view.attempts[0].evidence, view.attempts[0].outcome.as_deref()), (4, Some("failed")));
        assert_eq!(view.summary.outcome.as_deref(), Some("failed"));
        fresh.append(&ids[1], "n", vec![end(2, Outcome::Succeeded)]).await;
        assert_eq!(fresh.phase("done").await, "succeeded");
    }

    async fn a_retry_with_more_memory_is_not_taken_back_by_better_evidence_of_the_same(fresh: Fresh) {
        let mut growing = job("growing", false);
        (growing.resources.memory, growing.resources.memory_max) = (Some(Bytes(1 << 30)), Some(Bytes(2 << 30)));
        let mut still = growing.clone();
        (still.id, still.resources.memory_max) = ("still".into(), still.resources.memory);
        let [grown, same] = [fresh.executing(&growing).await, fresh.executing(&still).await];
        for id in [&grown, &same] {
            fresh.inferred(id, Outcome::OutOfMemory, Evidence::ExitCode).await;
            fresh.append(id, "n", vec![end(2, Outcome::OutOfMemory)]).await;
        }
        assert_eq!(fresh.phase("growing").await, "queued");
        assert_eq!(
            fresh.count("SELECT COUNT(*) FROM attempts WHERE job_id = 'growing' AND retry_budget = 'memory'").await,
            1
        );
        // The negative control: one that may not grow, and has no other retries.
        assert_eq!(fresh.phase("still").await, "failed");
        // And nobody gives back what was never paid.
        assert_eq!(fresh.count("SELECT COUNT(*) FROM jobs WHERE own_retries <> 0").await, 0);
    }

    async fn a_job_that_is_over_moves_no_cursor(fresh: Fresh) {
        let id = fresh.executing(&job("a", true)).await;
        assert_eq!(fresh.ledger.cancel("a", "enough").await.unwrap(), Cancelled::UnderWay);
        fresh.inferred(&id, Outcome::Lost, Evidence::Inference).await;
        assert_eq!(fresh.phase("a").await, "cancelled");
        let cursor = CursorMove { from_generation: 0, diff: "one".into() };
        let late = Body::Ending { ending: Box::new(ending(Outcome::Succeeded, Some(cursor))) };
        fresh.append(&id, "n", vec![Record { seq: 2, at: Millis(0), body: late }]).await;
        assert_eq!(fresh.count("SELECT COUNT(*) FROM cursors WHERE generation > 0").await, 0);
        let view = fresh.ledger.job("a").await.unwrap();
        assert_eq!((view.summary.phase.as_str(), view.attempts[0].conflicts), ("cancelled", 1));
    }

    async fn ended_attempts_are_released_page_by_page_whatever_one_of_them_says(fresh: Fresh) {
        for id in ["a", "b", "c"] {
            let id = fresh.executing(&job(id, false)).await;
            fresh.inferred(&id, Outcome::Killed { signal: 9 }, Evidence::ExitCode).await;
        }
        fresh.executing(&job("alive", false)).await;
        // A newer release's.
        fresh.place.execute("UPDATE jobs SET spec = '{\"version\":1,\"id\":\"b\",\"later\":1}' WHERE id = 'b'").await;
        // And two attempts of one job.
        fresh.place.execute("UPDATE attempts SET job_id = 'a', attempt = 2 WHERE job_id = 'c'").await;
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let (page, next) = fresh.ledger.unreleased("here", after.as_ref(), 1).await.unwrap();
            found.extend(page.into_iter().map(|attempt| (attempt.order.id.job, attempt.order.id.attempt)));
            let Some(next) = next else { break };
            after = Some(next);
        }
        assert_eq!(found, [("a".to_owned(), 1), ("a".to_owned(), 2)]);
    }

    async fn a_job_that_this_release_cannot_read_is_let_be(fresh: Fresh) {
        let ledger = &fresh.ledger;
        ledger.accept(&job("newer", false), "digest", 0).await.unwrap();
        ledger.accept(&job("ours", false), "digest", 0).await.unwrap();
        fresh.place.execute("UPDATE jobs SET spec = '{\"version\":1,\"id\":\"newer\",\"later\":1}' WHERE id = 'newer'").await;
        assert_eq!(ledger.heads(0, "t", None, 10).await.unwrap().len(), 2);
        let launch = |job: &str| Launch { job: job.into(), uid: format!("uid {job}") };
        let launches = [launch("newer"), launch("ours")];
        let orders = ledger.begin_launches(&owner(ledger).await, &launches, "here", &|_| Ok(())).await.unwrap();
        assert_eq!(orders.iter().map(|order| order.id.job.as_str()).collect::<Vec<_>>(), ["ours"]);
        // Or who admits would get the same again and again.
        assert!(ledger.heads(0, "t", None, 10).await.unwrap().is_empty());
        assert_eq!(fresh.count("SELECT COUNT(*) FROM jobs WHERE id = 'newer' AND phase = 'queued'").await, 1);
        assert_eq!(fresh.count("SELECT COUNT(*) FROM attempts").await, 1);
    }

    async fn a_process_that_stops_because_it_was_told_of_its_end_does_not_cancel_its_job(fresh: Fresh) {
        let id = fresh.executing(&job("a", false)).await;
        fresh.inferred(&id, Outcome::Killed { signal: 9 }, Evidence::Inference).await;
        assert_eq!(fresh.phase("a").await, "queued");
        fresh.append(&id, "n", vec![end(2, Outcome::Cancelled)]).await;
        let view = fresh.ledger.job("a").await.unwrap();
        assert_eq!((view.summary.phase.as_str(), view.attempts[0].outcome.as_deref()), ("queued", Some("killed")));
        assert_eq!(view.attempts[0].conflicts, 1, "kept and counted");
        // The negative control: somebody has cancelled it.
        let id = fresh.executing(&job("b", false)).await;
        assert_eq!(fresh.ledger.cancel("b", "enough").await.unwrap(), Cancelled::UnderWay);
        fresh.inferred(&id, Outcome::Lost, Evidence::Inference).await;
        fresh.append(&id, "n", vec![end(2, Outcome::Cancelled)]).await;
        let view = fresh.ledger.job("b").await.unwrap();
        assert_eq!((view.summary.phase.as_str(), view.attempts[0].outcome.as_deref()), ("cancelled", Some("cancelled")));
    }

    async fn a_phase_that_does_not_follow_moves_nothing(fresh: Fresh) {
        let id = fresh.launched(&job("a", false)).await;
        fresh.grant(&id, "n").await;
        for wrong in [Phase::Stopping, Phase::Succeeded, Phase::Queued] {
            fresh.append(&id, "n", vec![phase(wrong as u64 + 1, wrong)]).await;
            assert_eq!(fresh.phase("a").await, "setting_up");
        }
    }

    async fn a_cursor_moves_with_a_success_from_where_it_was_granted(fresh: Fresh) {
        let granted = async |id: &AttemptId| match fresh.grant(id, "n").await {
            GrantAnswer::Granted(grant) => grant.cursor.unwrap(),
            other => panic!("{other:?}"),
        };
        let succeed = async |id: &AttemptId, from_generation, diff: &str| {
            let cursor = CursorMove { from_generation, diff: diff.into() };
            let record = Body::Ending { ending: Box::new(ending(Outcome::Succeeded, Some(cursor))) };
            fresh.append(id, "n", vec![phase(1, Phase::Executing), Record { seq: 2, at: Millis(0), body: record }]).await
        };
        let first = fresh.launched(&job("a", true)).await;
        assert_eq!((granted(&first).await.generation, granted(&first).await.diff), (0, String::new()));
        succeed(&first, 0, "one").await;
        let second = fresh.launched(&job("b", true)).await;
        assert_eq!((granted(&second).await.generation, granted(&second).await.diff), (1, "one".into()));
        // Somebody else moves it meanwhile: the load is done, and a person is asked.
        let third = fresh.launched(&job("c", true)).await;
        granted(&third).await;
        succeed(&third, 1, "three").await;
        succeed(&second, 1, "two").await;
        assert_eq!((fresh.phase("c").await.as_str(), fresh.phase("b").await.as_str()), ("succeeded", "held"));
        let view = fresh.ledger.job("b").await.unwrap();
        assert_eq!(view.summary.verdict.unwrap().code, "cursor_conflict");
        let fourth = fresh.launched(&job("d", true)).await;
        assert_eq!((granted(&fourth).await.generation, granted(&fourth).await.diff), (2, "three".into()));
    }

    async fn a_retry_that_overtook_its_launch_stays_in_the_queue(fresh: Fresh) {
        fresh.ledger.accept(&job("a", false), "digest", 0).await.unwrap();
        let order = fresh.ledger.begin_launch(&owner(&fresh.ledger).await, "a", "here", "uid".into()).await.unwrap().unwrap();
        fresh.grant(&order.id, "n").await;
        fresh.append(&order.id, "n", vec![phase(1, Phase::Executing), end(2, Outcome::Killed { signal: 9 })]).await;
        fresh.ledger.launched(&order.id, "uid").await.unwrap();
        assert_eq!(fresh.phase("a").await, "queued");
        assert_eq!(fresh.ledger.heads(0, "t", None, 10).await.unwrap().len(), 1);
    }

    async fn a_cancel_is_told_to_the_attempt_and_ends_what_has_none(fresh: Fresh) {
        let id = fresh.executing(&job("a", false)).await;
        assert_eq!(fresh.ledger.cancel("a", "enough").await.unwrap(), Cancelled::UnderWay);
        assert_eq!(fresh.append(&id, "n", vec![phase(2, Phase::Stopping)]).await, Directive::Cancel);
        fresh.append(&id, "n", vec![end(3, Outcome::Cancelled)]).await;
        assert_eq!(fresh.phase("a").await, "cancelled");
        assert_eq!(fresh.ledger.retry("a", Some(1), "again").await.unwrap(), Retried::Queued);
        assert_eq!(fresh.ledger.retry("a", Some(1), "again").await.unwrap(), Retried::AlreadyDone { attempt: 1 });
        assert_eq!(fresh.ledger.cancel("a", "enough").await.unwrap(), Cancelled::AtOnce);
        assert!(fresh.ledger.begin_launch(&owner(&fresh.ledger).await, "a", "here", "uid".into()).await.unwrap().is_none());
    }
}
