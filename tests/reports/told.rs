//! What the ledger's answer to a report brings about.

use super::worker::{READY, Worker, ending};
use crate::env::wrong_ledger::{Asked, Reply, WrongLedger};
use sendo::record::outcome::Outcome;
use serde_json::json;
use std::fs;

const OBEDIENT: &str = "trap 'echo asked; exit 9' TERM; echo ready; until false; do sleep 0.05; done";

/// The ledger starts to say this once the transfer is ready.
fn told(script: &str, answer: fn(&Asked) -> Reply) -> (WrongLedger, Worker) {
    let ledger = WrongLedger::start(Reply::to);
    let worker = Worker::start(&ledger.url, script, &[("SENDO_ON_TERM", "finish")]);
    worker.says("ready");
    ledger.turn(answer);
    (ledger, worker)
}

fn stop_within(ms: u64) -> Reply {
    Reply::Well(json!({"directive": "continue", "report_every_ms": 100, "stop_within_ms": ms}))
}

#[test]
fn cancelled_it_is_asked_and_the_ending_says_why() {
    let (ledger, mut worker) = told(OBEDIENT, |_| Reply::directive("cancel"));
    assert_eq!(worker.end(), Some(9), "{}", worker.text("stderr"));
    assert_eq!(worker.text("stdout"), "ready\nasked\n");
    let ending = ending(&ledger.asked());
    assert_eq!((&ending["outcome"]["kind"], &ending["exit_code"]), (&json!("cancelled"), &json!(9)));
}

#[test]
fn superseded_it_is_killed_and_the_ending_still_arrives() {
    let (ledger, mut worker) = told(OBEDIENT, |_| Reply::directive("superseded"));
    assert_eq!(worker.end(), Some(75), "{}", worker.text("stderr"));
    assert_eq!(worker.text("stdout"), "ready\n", "it was not asked");
    let ending = ending(&ledger.asked());
    assert_eq!((&ending["outcome"]["kind"], &ending["signal"]), (&json!("cancelled"), &json!(9)));
}

#[test]
fn a_near_time_to_be_gone_by_asks_it_in_time() {
    let (ledger, mut worker) = told(OBEDIENT, |_| stop_within(8000));
    assert_eq!(worker.end(), Some(9), "{}", worker.text("stderr"));
    assert_eq!(worker.text("stdout"), "ready\nasked\n");
    ledger.wait("the drain", |asked| asked.records().iter().any(|record| record["phase"] == "stopping"));
    assert_eq!(worker.last_word().unwrap().ending.unwrap().outcome, Outcome::Drained);
}

#[test]
fn a_time_to_be_gone_by_that_is_over_kills() {
    let (_ledger, mut worker) = told(OBEDIENT, |_| stop_within(0));
    assert_eq!(worker.end(), Some(137), "{}", worker.text("stderr"));
    assert_eq!(worker.text("stdout"), "ready\n");
    assert_eq!(worker.last_word().unwrap().ending.unwrap().outcome, Outcome::Drained);
}

#[test]
fn a_time_to_be_gone_by_counts_from_the_question_and_not_from_a_late_answer() {
    let answer = |asked: &Asked| {
        let Reply::Well(body) = stop_within(1) else { unreachable!() };
        if asked.is_grant() { Reply::granted() } else { Reply::Late(std::time::Duration::from_millis(200), body) }
    };
    let (_ledger, mut worker) = told(OBEDIENT, answer);
    assert_eq!(worker.end(), Some(137), "{}", worker.text("stderr"));
    assert_eq!(worker.text("stdout"), "ready\n", "its time was over before the answer came");
}

#[test]
fn the_next_request_carries_a_token_that_was_replaced() {
    let ledger = WrongLedger::start(Reply::to);
    let mut worker = Worker::start(&ledger.url, READY, &[]);
    ledger.wait("a report with the first token", |asked| !asked.is_grant() && asked.token == "Bearer first");
    // As the kubelet does it.
    fs::write(worker.file("next"), "second").unwrap();
    fs::rename(worker.file("next"), worker.file("token")).unwrap();
    ledger.wait("a report with the second token", |asked| asked.token == "Bearer second");
    worker.open();
    assert_eq!(worker.end(), Some(0));
    assert_eq!(ledger.asked().last().unwrap().token, "Bearer second");
}

#[test]
fn without_its_token_it_waits_for_one() {
    let ledger = WrongLedger::start(Reply::to);
    let mut worker = Worker::start(&ledger.url, READY, &[]);
    worker.says("ready");
    fs::remove_file(worker.file("token")).unwrap();
    worker.logs("read the token from");
    fs::write(worker.file("token"), "second").unwrap();
    worker.open();
    assert_eq!(worker.end(), Some(0));
    assert_eq!(ending(&ledger.asked())["outcome"]["kind"], "succeeded");
}
