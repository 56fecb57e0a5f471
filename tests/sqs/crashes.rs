//! `kill -9` on the way between queue and ledger: nothing is lost, nothing is there twice.

use super::served::{Served, waiting};
use crate::env::{
    elasticmq::{Depth, EMPTY, elasticmq},
    sqs_proxy::{Fate, Proxy},
    wait_for,
};

const JOBS: usize = 25;

fn fill(queue: &str) {
    for number in 0..JOBS {
        elasticmq().send(queue, &waiting(&format!("job-{number:02}")).to_string());
    }
}

fn all_once(served: &Served) {
    let expected: Vec<_> = (0..JOBS).map(|number| format!("job-{number:02}")).collect();
    assert_eq!(served.jobs(), expected);
    let transitions = served.sql("SELECT COUNT(*) AS n FROM transitions");
    assert_eq!(transitions[0]["n"], JOBS, "each was accepted once");
}

#[test]
fn killed_between_commit_and_delete_the_messages_come_again_and_are_known() {
    let (mq, proxy) = (elasticmq(), Proxy::start());
    let queue = mq.queue("", 2, 100);
    fill(&queue.url);
    proxy.rule("DeleteMessageBatch", Fate::Hang, u32::MAX);
    let mut served = Served::start_at(&queue.url, &proxy.endpoint, "pollers = 1");
    wait_for("a delete to be asked for", || (proxy.seen("DeleteMessageBatch", Fate::Hang) > 0).then_some(()));
    served.kill();
    let taken = served.jobs();
    assert!(!taken.is_empty(), "the control: the commit came before the delete");
    mq.wait_depth(&queue.url, Depth { visible: u32::try_from(JOBS).unwrap(), in_flight: 0 });
    served.start_again(&queue.url, &mq.endpoint(), "");
    served.wait_jobs(JOBS);
    mq.wait_depth(&queue.url, EMPTY);
    all_once(&served);
}

#[test]
fn killed_with_messages_in_hand_and_none_in_the_ledger_they_come_again() {
    let mq = elasticmq();
    let queue = mq.queue("", 2, 100);
    let mut served = Served::start(&queue.url, "pollers = 2");
    let lock = super::ledger::lock(&served);
    fill(&queue.url);
    wait_for("messages in hand", || (mq.depth(&queue.url).in_flight > 0).then_some(()));
    served.kill();
    drop(lock);
    assert_eq!(served.jobs(), Vec::<String>::new(), "the control: nothing was committed");
    served.start_again(&queue.url, &mq.endpoint(), "");
    served.wait_jobs(JOBS);
    mq.wait_depth(&queue.url, EMPTY);
    all_once(&served);
}

#[test]
fn killed_again_and_again_at_any_moment_nothing_is_lost_or_doubled() {
    let mq = elasticmq();
    let queue = mq.queue("", 1, 1000);
    let mut served = Served::start(&queue.url, "pollers = 3");
    fill(&queue.url);
    // Each time a little later on its way: at the first job seen, the second, …
    for round in 1..=5 {
        wait_for("some jobs", || (served.jobs().len() >= round * 3).then_some(()));
        served.kill();
        served.start_again(&queue.url, &mq.endpoint(), "pollers = 3");
    }
    served.wait_jobs(JOBS);
    mq.wait_depth(&queue.url, EMPTY);
    all_once(&served);
    assert_eq!(served.sql("PRAGMA integrity_check")[0]["integrity_check"], "ok");
}
