//! Owners of a task: one at a time, and a deposed one writes nothing.

use super::fresh::*;
use sendo::ledger::{Error, Fence, Ledger};
use sqlx::Executor as _;
use std::time::Duration;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

const LONG: Duration = Duration::from_secs(3600);

async fn acquire(ledger: &Ledger, holder: &str, span: Duration) -> Option<Fence> {
    ledger.acquire_lease("admission", holder, span).await.unwrap()
}

/// Somebody who owns the task whenever it can; what it believes; and its stop.
fn keep(fresh: &Fresh, holder: &'static str) -> (JoinHandle<()>, watch::Receiver<Option<Fence>>, CancellationToken) {
    let (ledger, (owner, seen), stop) = (fresh.ledger.clone(), watch::channel(None), CancellationToken::new());
    let shutdown = stop.clone();
    let task = tokio::spawn(async move { ledger.keep_lease("admission", holder, owner, shutdown).await });
    (task, seen, stop)
}

on_each_database! {
    async fn one_owner_at_a_time_and_each_new_one_has_a_higher_number(fresh: Fresh) {
        let first = acquire(&fresh.ledger, "a", LONG).await.unwrap();
        assert_eq!(acquire(&fresh.ledger, "a", LONG).await.as_ref(), Some(&first), "the same holder keeps its number");
        assert_eq!(acquire(&fresh.ledger, "b", LONG).await, None);
        assert!(fresh.ledger.acquire_lease("another task", "b", LONG).await.unwrap().is_some());
        fresh.ledger.release_fence(&first).await.unwrap();
        let second = acquire(&fresh.ledger, "b", Duration::ZERO).await.expect("at once after a release");
        let third = acquire(&fresh.ledger, "c", LONG).await.expect("after its end");
        assert!(first.number() < second.number() && second.number() < third.number());
        assert!(!fresh.ledger.renew_fence(&second, LONG).await.unwrap());
        assert!(fresh.ledger.renew_fence(&third, LONG).await.unwrap());
        fresh.ledger.release_fence(&second).await.unwrap();
        assert_eq!(acquire(&fresh.ledger, "d", LONG).await, None, "a deposed owner gives nothing away");
    }

    async fn a_deposed_owner_launches_nothing(fresh: Fresh) {
        fresh.ledger.accept(&job("a", false), "digest", 0).await.unwrap();
        let asleep = acquire(&fresh.ledger, "a", Duration::ZERO).await.unwrap();
        let owner = acquire(&fresh.ledger, "b", LONG).await.unwrap();
        let refused = fresh.ledger.begin_launch(&asleep, "a", "here", "uid".into()).await;
        assert!(matches!(refused, Err(Error::Deposed(task)) if task == "admission"));
        assert_eq!(fresh.count("SELECT COUNT(*) FROM attempts").await, 0);
        assert!(fresh.ledger.begin_launch(&owner, "a", "here", "uid".into()).await.unwrap().is_some());
    }

    async fn of_many_that_ask_at_once_one_owns(fresh: Fresh) {
        let all = (0..32).map(|n| {
            let ledger = fresh.ledger.clone();
            tokio::spawn(async move { acquire(&ledger, &format!("holder {n}"), LONG).await })
        });
        let mut owners = Vec::new();
        for task in all.collect::<Vec<_>>() {
            owners.extend(task.await.unwrap());
        }
        assert_eq!(owners.len(), 1, "{owners:?}");
    }

    async fn a_crashed_owner_is_followed_by_another(fresh: Fresh) {
        let (first, mut seen, _) = keep(&fresh, "a");
        let fence = seen.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        let (_second, mut next, _) = keep(&fresh, "b");
        first.abort();
        let successor = next.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert!(successor.number() > fence.number());
    }

    async fn an_owner_that_cannot_renew_does_not_believe_itself_the_owner(fresh: Fresh) {
        let (_task, mut seen, _) = keep(&fresh, "a");
        seen.wait_for(Option::is_some).await.unwrap();
        if fresh.place.is_file() {
            // One program has the file: there is nobody to lose it to, and nothing to renew.
            return;
        }
        let mut session = fresh.place.session().await;
        session.execute("BEGIN").await.unwrap();
        session.execute("UPDATE leases SET until_ms = until_ms + 1").await.unwrap();
        seen.wait_for(Option::is_none).await.unwrap();
        session.execute("ROLLBACK").await.unwrap();
        seen.wait_for(Option::is_some).await.unwrap();
    }

    async fn a_kept_lease_passes_on_at_once_when_its_owner_stops(fresh: Fresh) {
        let (first, mut seen, stop) = keep(&fresh, "a");
        let fence = seen.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        let (_second, mut next, _) = keep(&fresh, "b");
        if fresh.place.is_file() {
            // One program has the file: whoever asks is that program, in its next life.
            assert!(next.wait_for(Option::is_some).await.unwrap().as_ref().unwrap().number() > fence.number());
            return;
        }
        assert!(fresh.ledger.renew_fence(&fence, LONG).await.unwrap());
        stop.cancel();
        first.await.unwrap();
        assert!(seen.borrow().is_none(), "who stops is no owner");
        let successor = next.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert!(successor.number() > fence.number());
    }
}
