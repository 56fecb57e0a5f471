//! Who may ask PID 1 to go: whoever stands outside the transfer.

use super::{
    attempt::{Attempt, place},
    hardened::open,
};
use crate::env::{
    container::Root,
    wait_for,
    wrong_ledger::{Reply, WrongLedger},
};
use serde_json::json;
use std::process::Child;

/// Sends the transfer's own TERM to PID 1 in this way, and is a good citizen otherwise.
fn start(own_term: &str) -> Attempt {
    let ledger = WrongLedger::start(Reply::to);
    let spec = place(Root::Host, &ledger).env("SENDO_ON_TERM", "stop");
    let script = format!("trap 'echo asked; exit 9' TERM\n{own_term}\necho ready; until false; do sleep 0.05; done");
    Attempt::start(ledger, spec, &script)
}

/// It was asked once, not killed: whatever came before counted for nothing.
fn assert_drained(mut attempt: Attempt) {
    assert_eq!(attempt.end(), 9, "{}", attempt.text("stderr"));
    assert_eq!(attempt.text("stdout"), "ready\nasked\n");
    assert_eq!(attempt.phases(), ["executing", "stopping"]);
    assert_eq!(attempt.ending()["outcome"], json!({"kind": "drained"}));
}

#[test]
fn a_term_from_inside_starts_nothing_and_one_from_outside_a_drain() {
    // By the transfer itself, by a child of it, and by one whose parent is gone.
    for own_term in ["kill -TERM 1", "sh -c 'kill -TERM 1; sleep 300' &", "(sh -c 'kill -TERM 1; sleep 300' &)"] {
        let attempt = start(own_term);
        attempt.says("ready");
        attempt.logs("the transfer signalled us; not obeyed");
        let seen = attempt.ledger.asked().len();
        wait_for("one more report", || (attempt.ledger.asked().len() > seen + 1).then_some(()));
        assert_eq!(attempt.phases(), ["executing"], "{own_term}");
        attempt.kill("TERM");
        assert_drained(attempt);
    }
}

#[test]
fn a_sender_that_is_gone_when_pid_1_looks_was_the_transfers() {
    let attempt = start("until [ -e /tmp/gate ]; do sleep 0.05; done; sh -c 'kill -TERM 1'; touch /tmp/sent");
    attempt.ledger.wait("the start", |asked| asked.brings("phase"));
    attempt.kill("STOP");
    open(&attempt, "gate");
    let sent = attempt.inside("/tmp/sent");
    wait_for("the sender to be gone", || sent.exists().then_some(()));
    attempt.kill("CONT");
    attempt.logs("the transfer signalled us; not obeyed");
    attempt.says("ready");
    attempt.kill("TERM");
    assert_drained(attempt);
}

/// Ends with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_term_from_a_command_that_somebody_ran_in_the_container_starts_a_drain() {
    let attempt = start("true");
    attempt.says("ready");
    let _shell = Killed(attempt.exec(&["sh", "-c", "kill -TERM 1; sleep 300"]).spawn().unwrap());
    assert_drained(attempt);
}

#[test]
fn a_second_term_from_outside_kills() {
    let ledger = WrongLedger::start(Reply::to);
    let spec = place(Root::Host, &ledger).env("SENDO_ON_TERM", "stop");
    let mut attempt = Attempt::start(ledger, spec, "trap '' TERM; echo ready; until false; do sleep 0.05; done");
    attempt.says("ready");
    attempt.kill("TERM");
    attempt.ledger.wait("the drain", |asked| asked.records().iter().any(|record| record["phase"] == "stopping"));
    attempt.kill("TERM");
    assert_eq!(attempt.end(), 137, "{}", attempt.text("stderr"));
    assert_eq!(attempt.ending()["outcome"], json!({"kind": "drained"}));
}
