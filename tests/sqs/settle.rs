//! The end of a message: deleted after its job is in the ledger, whatever becomes of the delete.

use super::served::{Served, waiting};
use crate::env::{
    elasticmq::{EMPTY, elasticmq},
    sqs_proxy::{Fate, Proxy},
    wait_for,
};

fn ten(queue: &str) {
    for number in 0..10 {
        elasticmq().send(queue, &waiting(&format!("job-{number}")).to_string());
    }
}

#[test]
fn a_delete_that_fails_for_one_of_the_batch_is_tried_again() {
    let (mq, proxy) = (elasticmq(), Proxy::start());
    // Hidden for longer than the test: only another delete can empty it.
    let queue = mq.queue("", 600, 5);
    ten(&queue.url);
    proxy.rule("DeleteMessageBatch", Fate::FailFirstEntry, 2);
    let served = Served::start_at(&queue.url, &proxy.endpoint, "pollers = 1");
    served.wait_jobs(10);
    mq.wait_depth(&queue.url, EMPTY);
    assert_eq!(proxy.seen("DeleteMessageBatch", Fate::FailFirstEntry), 2);
}

#[test]
fn a_message_that_cannot_be_deleted_comes_again_and_is_the_same_job() {
    let (mq, proxy) = (elasticmq(), Proxy::start());
    let queue = mq.queue("", 1, 100);
    mq.send(&queue.url, &waiting("a").to_string());
    proxy.rule("DeleteMessageBatch", Fate::FailFirstEntry, u32::MAX);
    let served = Served::start_at(&queue.url, &proxy.endpoint, "");
    served.wait_log("not deleted");
    wait_for("the message to come again", || served.log().matches("not deleted").nth(1).map(drop));
    assert_ne!(mq.depth(&queue.url), EMPTY, "the control: it is still there");
    proxy.rule("DeleteMessageBatch", Fate::Pass, 0);
    mq.wait_depth(&queue.url, EMPTY);
    assert_eq!(served.jobs(), ["a"]);
    assert_eq!(served.sql("SELECT COUNT(*) AS n FROM transitions")[0]["n"], 1);
    assert_eq!(served.sql("SELECT COUNT(*) AS n FROM refusals")[0]["n"], 0);
}

#[test]
fn a_stop_leaves_nothing_in_hand() {
    let mq = elasticmq();
    // Hidden for longer than the test.
    let queue = mq.queue("", 600, 5);
    let mut served = Served::start(&queue.url, "");
    ten(&queue.url);
    served.wait_jobs(10);
    assert_eq!(served.stop(), Some(0));
    assert_eq!(mq.depth(&queue.url), EMPTY);
}

/// The queue may hand a message to the long poll that a stop has just left; that one is hidden for its visibility timeout, and no longer.
#[test]
fn a_message_that_meets_a_stop_comes_in_at_the_next_start() {
    let mq = elasticmq();
    let queue = mq.queue("", 1, 100);
    let mut served = Served::start(&queue.url, "");
    mq.send(&queue.url, &waiting("before").to_string());
    served.wait_jobs(1);
    assert_eq!(served.stop(), Some(0));
    mq.send(&queue.url, &waiting("after").to_string());
    assert_eq!(served.jobs(), ["before"], "the control: nobody reads it");
    served.start_again(&queue.url, &mq.endpoint(), "");
    served.wait_jobs(2);
    mq.wait_depth(&queue.url, EMPTY);
}
