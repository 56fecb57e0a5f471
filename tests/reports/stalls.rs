//! A transfer that does nothing for its stall limit is stopped; one that is only silent is not.

use super::worker::{Worker, ending};
use crate::env::wrong_ledger::{Reply, WrongLedger};
use serde_json::{Value, json};

/// Each of these takes longer than the limit.
const LIMIT: &str = "3s";

fn ended(script: &str) -> (Option<i32>, Value) {
    let ledger = WrongLedger::start(Reply::to);
    let mut worker = Worker::start(&ledger.url, script, &[("SENDO_STALL_AFTER", LIMIT)]);
    let code = worker.end();
    (code, ending(&ledger.asked()))
}

#[test]
fn without_output_disk_io_and_cpu_it_is_stopped_and_the_ending_says_why() {
    let (code, ending) = ended("trap 'exit 9' TERM; sleep 1000 & wait");
    assert_eq!((code, &ending["outcome"]["kind"]), (Some(9), &json!("stalled")), "{ending:#}");
    let evidence = ending["verdict"]["evidence"].to_string();
    assert!(evidence.contains("no output, no disk I/O and no CPU"), "{evidence}");
}

#[test]
fn work_without_a_word_is_no_stall() {
    let (code, ending) = ended("exec perl -e 'do { ($user, $kernel) = times } while $user + $kernel < 4'");
    assert_eq!((code, &ending["outcome"]["kind"]), (Some(0), &json!("succeeded")), "{ending:#}");
}

#[test]
fn words_without_work_are_no_stall() {
    let (code, ending) = ended("for beat in 1 2 3 4 5 6 7 8 9 10 11 12; do echo $beat; sleep 0.4; done");
    assert_eq!((code, &ending["outcome"]["kind"]), (Some(0), &json!("succeeded")), "{ending:#}");
}
