//! Who asked a transfer to go stands in its verdict.

use super::worker::{Worker, ending};
use crate::env::{
    self,
    wrong_ledger::{Reply, WrongLedger},
};
use nix::sys::signal::Signal;

const OBEDIENT: &str = "trap 'exit 9' TERM; echo ready; until false; do sleep 0.05; done";
const STOP: [(&str, &str); 1] = [("SENDO_ON_TERM", "stop")];

/// What the verdict's evidence says, after the signal.
#[track_caller]
fn evidence_of(ledger: &WrongLedger, mut worker: Worker, pid: i32) -> String {
    worker.says("ready");
    env::kill(pid, Signal::SIGTERM);
    assert_eq!(worker.end(), Some(9), "{}", worker.text("stderr"));
    ending(&ledger.asked())["verdict"]["evidence"].to_string()
}

#[test]
fn a_sender_beside_us_is_named() {
    let ledger = WrongLedger::start(Reply::to);
    let worker = Worker::start(&ledger.url, OBEDIENT, &STOP);
    let pid = worker.pid();
    let evidence = evidence_of(&ledger, worker, pid);
    assert!(evidence.contains(&format!("SIGTERM from pid {} (", std::process::id())), "{evidence}");
}

#[test]
fn a_sender_outside_the_pod_is_told_as_such() {
    let ledger = WrongLedger::start(Reply::to);
    let worker = Worker::start_as_init(&ledger.url, OBEDIENT, &STOP);
    let pid = worker.init_pid();
    let evidence = evidence_of(&ledger, worker, pid);
    assert!(evidence.contains("SIGTERM from outside the Pod"), "{evidence}");
}

#[test]
fn signals_of_the_transfer_itself_are_counted_and_start_nothing() {
    let ledger = WrongLedger::start(Reply::to);
    let script = "kill -TERM $PPID; kill -TERM $PPID; echo ready; until [ -e gate ]; do sleep 0.05; done; exit 9";
    let mut worker = Worker::start(&ledger.url, script, &STOP);
    worker.says("ready");
    worker.logs("not obeyed");
    worker.open();
    assert_eq!(worker.end(), Some(9), "{}", worker.text("stderr"));
    let evidence = ending(&ledger.asked())["verdict"]["evidence"].to_string();
    // Two of one kind that wait together are one (signal(7)).
    assert!(evidence.contains("from the transfer's own descendants, not obeyed"), "{evidence}");
    assert!(!evidence.contains("SIGTERM from"), "{evidence}");
}

#[test]
fn a_descendant_is_known_however_deep_it_sits() {
    let ledger = WrongLedger::start(Reply::to);
    let deep = "for (1 .. 100) { my $child = fork // die; if ($child) { waitpid $child, 0; exit } } kill TERM => $ARGV[0]; sleep 1 until -e \"gate\"";
    let script = format!("perl -e '{deep}' $PPID & echo ready; wait; exit 9");
    let mut worker = Worker::start(&ledger.url, &script, &STOP);
    worker.logs("not obeyed");
    worker.open();
    assert_eq!(worker.end(), Some(9), "{}", worker.text("stderr"));
    let evidence = ending(&ledger.asked())["verdict"]["evidence"].to_string();
    assert!(evidence.contains("1 signal from the transfer's own descendants, not obeyed"), "{evidence}");
}
