//! Many launches in one transaction, on a real ledger: each as if it were alone.

use crate::env::{self, ledgers::owner};
use sendo::{
    dispatch::retry,
    ledger::{AttemptEnd, Launch, Ledger, now},
    record::{
        job::Job,
        outcome::{Confidence, Ending, Evidence, Outcome, Verdict},
    },
};

const JOBS: usize = 75;

async fn ledger(folder: &tempfile::TempDir) -> Ledger {
    let url = format!("sqlite://{}?mode=rwc", folder.path().join("ledger.db").display());
    let ledger = Ledger::open(&url, retry::next_step).await.unwrap();
    for number in 0..JOBS {
        let text = format!(r#"{{"version": 1, "id": "j{number}", "tenant": "t", "command": ["true"]}}"#);
        let job: Job = serde_json::from_str(&text).unwrap();
        ledger.accept(&job, "digest", 0).await.unwrap();
    }
    ledger
}

fn killed() -> AttemptEnd {
    let outcome = Outcome::Killed { signal: 9 };
    let verdict = Verdict {
        code: outcome.code().into(),
        summary: String::new(),
        evidence: vec![],
        confidence: Confidence::Certain,
        next_action: String::new(),
    };
    let ending =
        Ending { outcome, verdict, exit_code: None, signal: None, last_lines: vec![], cursor: None, commit: None };
    AttemptEnd { ending, evidence: Evidence::ExitCode, at: now() }
}

#[tokio::test]
async fn what_is_no_longer_to_be_launched_is_left_out_and_each_other_gets_its_own() {
    let folder = env::scratch();
    let ledger = ledger(&folder).await;
    ledger.cancel("j3", "enough").await.unwrap();
    assert!(ledger.begin_launch(&owner(&ledger).await, "j5", "here", "other".into()).await.unwrap().is_some());
    let launch = |number| Launch { job: format!("j{number}"), uid: String::new() };
    let all: Vec<Launch> = (0..JOBS).map(launch).collect();
    let refuse = |job: &Job| if job.id == "j7" { Err(killed().ending.verdict) } else { Ok(()) };
    let orders = ledger.begin_launches(&owner(&ledger).await, &all, "here", &refuse).await.unwrap();
    assert_eq!(orders.len(), JOBS - 3, "cancelled, launched by somebody else, rejected");
    assert!(orders.iter().all(|order| order.id.attempt == 1 && !["j3", "j5", "j7"].contains(&&*order.id.job)));
    assert_eq!(ledger.job("j7").await.unwrap().summary.phase, "rejected");
    assert!(
        ledger.begin_launches(&owner(&ledger).await, &all, "here", &refuse).await.unwrap().is_empty(),
        "said twice, done once"
    );
    // One ends before anybody has said that its place exists: it stays queued for its next attempt.
    ledger.end_attempt(&orders[0].id, killed()).await.unwrap();
    let places: Vec<_> = orders.iter().map(|order| (order.id.clone(), Some(format!("uid-{}", order.id.job)))).collect();
    for _ in 0..2 {
        ledger.launched_all(&places).await.unwrap();
    }
    for order in &orders {
        let view = ledger.job(&order.id.job).await.unwrap();
        let expected = if order.id == orders[0].id { "queued" } else { "setting_up" };
        assert_eq!(view.summary.phase, expected, "{}", order.id);
        assert_eq!(view.attempts[0].uid, format!("uid-{}", order.id.job));
        assert_eq!(
            view.transitions.iter().filter(|step| step.to_phase == "setting_up").count(),
            usize::from(expected == "setting_up")
        );
    }
    // A UID is bound once.
    ledger.launched_all(&[(orders[1].id.clone(), Some("another".into()))]).await.unwrap();
    let view = ledger.job(&orders[1].id.job).await.unwrap();
    assert_eq!(view.attempts[0].uid, format!("uid-{}", orders[1].id.job));
}

#[tokio::test]
async fn a_node_that_killed_an_attempt_is_named_to_the_next() {
    let folder = env::scratch();
    let ledger = ledger(&folder).await;
    let first = ledger.begin_launch(&owner(&ledger).await, "j0", "here", "u".into()).await.unwrap().unwrap();
    assert_eq!(first.avoid_node, None);
    ledger.launched(&first.id, "").await.unwrap();
    ledger.on_node(&first.id, "node-7").await.unwrap();
    ledger.end_attempt(&first.id, killed()).await.unwrap();
    let again = ledger.begin_launch(&owner(&ledger).await, "j0", "here", "v".into()).await.unwrap().unwrap();
    assert_eq!((again.id.attempt, again.avoid_node.as_deref()), (2, Some("node-7")));
    let live = ledger.live_attempt(&again.id).await.unwrap().unwrap();
    assert_eq!(live.order.avoid_node.as_deref(), Some("node-7"), "and to whoever finds the order after a restart");
}
