//! A record that the ledger will never take costs no other record its place, and nobody an hour's lingering.

use super::worker::{READY, Worker, ending};
use crate::env::wrong_ledger::{Asked, Reply, WrongLedger};
use sendo::record::outcome::Outcome;
use serde_json::Value;
use std::collections::BTreeSet;

/// The numbers of the records in the ledger, and those that were sent and are not.
fn taken_and_missing(asked: &[Asked]) -> (BTreeSet<u64>, Vec<Value>) {
    let numbers = |asked: &Asked| asked.records().iter().map(number).collect::<Vec<_>>();
    let taken: BTreeSet<u64> = asked.iter().filter(|asked| asked.taken).flat_map(numbers).collect();
    let mut missing: Vec<Value> = asked.iter().flat_map(Asked::records).cloned().collect();
    missing.retain(|record| !taken.contains(&number(record)));
    missing.sort_by_key(number);
    missing.dedup_by_key(|record| number(record));
    // Every number up to the last was sent.
    let all = taken.iter().copied().chain(missing.iter().map(number)).collect::<BTreeSet<_>>();
    assert!(all.iter().copied().eq(1..=all.len() as u64), "{all:?}");
    (taken, missing)
}

fn number(record: &Value) -> u64 {
    record["seq"].as_u64().unwrap()
}

/// A ledger that takes no batch with such a record, after an outage in which several have gathered.
fn refusing(poison: fn(&Value) -> bool) -> WrongLedger {
    WrongLedger::start(move |asked| match () {
        () if !asked.is_grant() && asked.nth < 3 => Reply::Wrong(503, "", ""),
        () if asked.records().iter().any(poison) => Reply::Wrong(422, "", "will not do"),
        () => Reply::to(asked),
    })
}

#[test]
fn one_bad_reading_blocks_neither_the_others_nor_the_ending() {
    let ledger = refusing(|record| record["seq"] == 3);
    let mut worker = Worker::start(&ledger.url, READY, &[]);
    ledger.wait("a whole batch to be refused", |asked| asked.nth >= 3 && !asked.is_grant() && !asked.taken);
    worker.open();
    assert_eq!(worker.end(), Some(0), "{}", worker.text("stderr"));
    let asked = ledger.asked();
    assert_eq!(ending(&asked)["outcome"]["kind"], "succeeded");
    let (taken, missing) = taken_and_missing(&asked);
    assert!(taken.len() > 3 && missing.len() == 1, "all but the bad one: {missing:?}");
    assert_eq!((&missing[0]["record"], number(&missing[0])), (&"usage".into(), 3));
    assert!(worker.text("stderr").contains("refuses a reading; dropped"), "{}", worker.text("stderr"));
}

#[test]
fn control_without_a_bad_record_nothing_is_dropped() {
    let ledger = refusing(|_| false);
    let mut worker = Worker::start(&ledger.url, READY, &[]);
    ledger.wait("a batch to be taken", |asked| !asked.is_grant() && asked.taken);
    worker.open();
    assert_eq!(worker.end(), Some(0), "{}", worker.text("stderr"));
    assert!(taken_and_missing(&ledger.asked()).1.is_empty());
    assert!(!worker.text("stderr").contains("refuses"));
}

#[test]
fn a_refused_phase_is_left_out_and_the_ending_arrives() {
    let ledger = refusing(|record| record["phase"] == "executing");
    let mut worker = Worker::start(&ledger.url, &format!("{READY}; exit 3"), &[("SENDO_LINGER", "1h")]);
    ledger.wait("a reading to be taken", |asked| asked.taken && asked.brings("usage"));
    worker.open();
    assert_eq!(worker.end(), Some(3), "{}", worker.text("stderr"));
    let asked = ledger.asked();
    assert_eq!(ending(&asked)["exit_code"], 3);
    let (_, missing) = taken_and_missing(&asked);
    assert!(missing.len() == 1 && missing[0]["phase"] == "executing", "{missing:?}");
    worker.logs("stays in the termination log alone");
}

#[test]
fn an_ending_that_is_refused_is_left_in_the_termination_log_and_nobody_lingers() {
    let ledger = refusing(|record| record["record"] == "ending");
    // An hour is more than this test waits.
    let mut worker = Worker::start(&ledger.url, &format!("{READY}; exit 3"), &[("SENDO_LINGER", "1h")]);
    ledger.wait("a batch to be taken", |asked| !asked.is_grant() && asked.taken);
    worker.open();
    assert_eq!(worker.end(), Some(3), "{}", worker.text("stderr"));
    let (_, missing) = taken_and_missing(&ledger.asked());
    assert!(missing.len() == 1 && missing[0]["record"] == "ending", "the readings have arrived: {missing:?}");
    assert_eq!(worker.last_word().unwrap().ending.unwrap().outcome, Outcome::Failed { exit_code: 3 });
    worker.logs("stays in the termination log alone");
}

#[test]
fn a_batch_that_is_too_large_arrives_in_smaller_ones() {
    let ledger = WrongLedger::start(|asked| match () {
        () if !asked.is_grant() && asked.nth < 3 => Reply::Wrong(503, "", ""),
        () if asked.records().len() > 1 => Reply::Wrong(413, "", ""),
        () => Reply::to(asked),
    });
    let mut worker = Worker::start(&ledger.url, READY, &[]);
    ledger.wait("a batch to be refused", |asked| asked.nth >= 3 && !asked.is_grant() && !asked.taken);
    worker.open();
    assert_eq!(worker.end(), Some(0), "{}", worker.text("stderr"));
    let asked = ledger.asked();
    assert!(taken_and_missing(&asked).1.is_empty());
    assert_eq!(ending(&asked)["outcome"]["kind"], "succeeded");
}
