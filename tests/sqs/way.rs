//! The way of a message: into the ledger, out of the queue, to the end of its transfer.

use super::served::{Served, waiting};
use crate::env::{
    dev::script,
    elasticmq::{EMPTY, elasticmq},
    wait_for,
};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

const TRACE: &str = "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01";
const OTHER_TRACE: &str = "00-11111111111111111111111111111111-2222222222222222-00";

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

#[test]
fn a_message_becomes_a_job_that_succeeds_and_its_queue_is_empty() {
    let mq = elasticmq();
    let queue = mq.queue("", 30, 5);
    let (before, job) = (now(), script("a", "true"));
    mq.send(&queue.url, &job.to_string());
    let after = now();
    let served = Served::start(&queue.url, "pollers = 2");
    let shown = wait_for("the job to succeed", || {
        let output = served.run(&["show", "a", "--json"]);
        let shown: Value = serde_json::from_slice(&output.stdout).ok()?;
        (shown["phase"] == "succeeded").then_some(shown)
    });
    mq.wait_depth(&queue.url, EMPTY);
    assert_eq!(mq.depth(queue.dead.as_ref().unwrap()), EMPTY);
    // The truth about how long it waited: since the queue took it, not since we did.
    let (queued, received) = (shown["queued_at_ms"].as_i64().unwrap(), shown["received_at_ms"].as_i64().unwrap());
    assert!((before..=after).contains(&queued), "{before} {queued} {after}");
    assert!(received >= after, "{received} {after}");
    assert_eq!(shown["transitions"][0]["at_ms"], json!(queued));
    assert_eq!(shown["transitions"][0]["recorded_at_ms"], json!(received));
    assert_eq!(served.sql("SELECT COUNT(*) AS n FROM refusals")[0]["n"], 0);
}

#[test]
fn a_hundred_messages_are_a_hundred_jobs_and_one_that_was_sent_three_times_is_one() {
    let mq = elasticmq();
    let queue = mq.queue("", 30, 5);
    for number in 0..100 {
        mq.send(&queue.url, &waiting(&format!("job-{number:03}")).to_string());
    }
    // The same content in another order of its keys, and traced another way.
    let again = r#"{"id": "job-007", "not_before": "2100-01-01T00:00:00Z", "command": ["true"], "version": 1}"#;
    mq.send(&queue.url, again);
    mq.send_with(&queue.url, &waiting("job-007").to_string(), &[("traceparent", TRACE)], None, None);
    let served = Served::start(&queue.url, "");
    mq.wait_depth(&queue.url, EMPTY);
    assert_eq!(served.jobs().len(), 100);
    assert_eq!(served.sql("SELECT COUNT(*) AS n FROM transitions")[0]["n"], 100);
    assert_eq!(served.sql("SELECT COUNT(*) AS n FROM refusals")[0]["n"], 0);
}

#[test]
fn trace_context_comes_from_the_attributes_first() {
    let mq = elasticmq();
    let queue = mq.queue("", 30, 5);
    let aws = ("AWSTraceHeader", "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1");
    let body = |id: &str, trace: &str| {
        let mut job = waiting(id);
        job["traceparent"] = json!(trace);
        job.to_string()
    };
    let traced = ("traceparent", TRACE);
    mq.send_with(&queue.url, &body("a-attribute", OTHER_TRACE), &[traced], None, None);
    mq.send_with(&queue.url, &body("b-aws", OTHER_TRACE), &[aws], None, None);
    mq.send_with(&queue.url, &body("c-both", ""), &[("traceparent", OTHER_TRACE), aws], None, None);
    mq.send(&queue.url, &body("d-body", OTHER_TRACE));
    mq.send_with(&queue.url, &body("e-broken", OTHER_TRACE), &[("traceparent", "00-1-2-01")], None, None);
    mq.send(&queue.url, &body("f-none", "nonsense"));
    let served = Served::start(&queue.url, "");
    served.wait_jobs(6);
    let rows = served.sql("SELECT traceparent FROM jobs ORDER BY id");
    let traces: Vec<_> = rows.iter().map(|row| row["traceparent"].as_str()).collect();
    let (one, other) = (Some(TRACE), Some(OTHER_TRACE));
    assert_eq!(traces, [one, one, other, other, other, None]);
    // It goes on to the transfer with the job.
    assert_eq!(served.json(&["show", "a-attribute"])["spec"]["traceparent"], json!(TRACE));
}

#[test]
fn a_message_of_a_mebibyte_is_a_job() {
    let mq = elasticmq();
    let queue = mq.queue("", 30, 5);
    let mut job = waiting("large");
    let room = 1024 * 1024 - job.to_string().len() - r#","labels":{"pad":""}"#.len();
    job["labels"] = json!({"pad": "x".repeat(room)});
    assert_eq!(job.to_string().len(), 1024 * 1024);
    mq.send(&queue.url, &job.to_string());
    let served = Served::start(&queue.url, "");
    assert_eq!(served.wait_jobs(1), ["large"]);
    mq.wait_depth(&queue.url, EMPTY);
    assert_eq!(served.json(&["show", "large"])["spec"]["labels"], job["labels"]);
}
