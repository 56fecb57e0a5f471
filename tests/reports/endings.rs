//! What the ending says of how it came about.

use super::worker::{READY, Worker, ending};
use crate::env::{
    self, wait_for,
    wrong_ledger::{Asked, Reply, WrongLedger},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::{fs, time::Duration};

#[test]
fn a_crash_is_said_to_be_the_transfers_own() {
    for (script, signal, summary) in [
        ("kill -SEGV $$", 11, "The transfer crashed: signal 11."),
        ("kill -ABRT $$", 6, "The transfer crashed: signal 6."),
        ("kill -KILL $$", 9, "Something outside the transfer and Sendo killed it with signal 9."),
    ] {
        let ledger = WrongLedger::start(Reply::to);
        let mut worker = Worker::start(&ledger.url, script, &[]);
        assert_eq!(worker.end(), Some(128 + signal), "{}", worker.text("stderr"));
        let ending = ending(&ledger.asked());
        assert_eq!(ending["outcome"], json!({"kind": "killed", "signal": signal}), "{ending:#}");
        assert_eq!(ending["verdict"]["summary"], summary, "{ending:#}");
    }
}

#[test]
fn a_failure_that_comes_together_with_a_term_is_the_transfers_own() {
    let ledger = WrongLedger::start(Reply::to);
    let mut worker =
        Worker::start(&ledger.url, &format!("echo transfer $$; {READY}; exit 3"), &[("SENDO_ON_TERM", "stop")]);
    worker.says("ready");
    let transfer = worker.says("transfer ").parse().unwrap();
    // Stopped, it finds both when it goes on.
    env::kill(worker.pid(), Signal::SIGSTOP);
    let status = format!("/proc/{}/status", worker.pid());
    wait_for("the stop", || fs::read_to_string(&status).unwrap().contains("State:\tT").then_some(()));
    env::kill(worker.pid(), Signal::SIGTERM);
    worker.open();
    wait_for("the transfer to end", || (!env::is_alive(transfer)).then_some(()));
    env::kill(worker.pid(), Signal::SIGCONT);
    assert_eq!(worker.end(), Some(3), "{}", worker.text("stderr"));
    let ending = ending(&ledger.asked());
    assert_eq!(ending["outcome"], json!({"kind": "failed", "exit_code": 3}), "{ending:#}");
    let evidence = ending["verdict"]["evidence"].to_string();
    assert!(evidence.contains("SIGTERM from pid") && !evidence.contains("we ended it"), "{evidence}");
}

#[test]
fn a_reader_that_is_stuck_takes_no_more_than_its_share_of_the_time_for_the_ending() {
    // A report is always under way, and the ending goes when it is given up.
    let late = Duration::from_secs(3600);
    let ledger = WrongLedger::start(move |asked| match Reply::to(asked) {
        Reply::Well(body) if !asked.is_grant() && !asked.brings("ending") => Reply::Late(late, body),
        reply => reply,
    });
    // Less than what a stuck reader gets where there is time.
    let more = [("SENDO_ON_TERM", "stop"), ("SENDO_GRACE", "4s")];
    let mut worker = Worker::start_unread(&ledger.url, "exec yes", &more);
    ledger.wait("a report", |asked| !asked.is_grant());
    env::kill(worker.pid(), Signal::SIGTERM);
    assert_eq!(worker.end(), Some(143), "{}", worker.text("stderr"));
    let ending = ending(&ledger.asked());
    assert_eq!(ending["outcome"]["kind"], "drained", "{ending:#}");
}

/// As root without the right to signal others' processes; the transfer leaves one.
fn leaves_what_it_may_not_kill(more: &[(&str, &str)], reply: fn(&Asked) -> Reply) -> (Option<i32>, Value) {
    let ledger = WrongLedger::start(reply);
    let script = "setsid setpriv --reuid=65534 --clear-groups sh -c 'echo left $$; exec sleep 100' & \
        until [ -e gate ]; do sleep 0.05; done; exit 3";
    let mut worker = Worker::start_powerless(&ledger.url, script, more);
    let left: i32 = worker.says("left ").parse().unwrap();
    worker.open();
    let code = worker.end();
    assert!(env::is_alive(left), "the control: it does not end");
    env::kill(left, Signal::SIGKILL);
    (code, ending(&ledger.asked()))
}

#[test]
fn what_cannot_be_ended_is_told_and_holds_up_no_ending() {
    let (code, ending) = leaves_what_it_may_not_kill(&[], Reply::to);
    assert_eq!((code, &ending["outcome"]), (Some(3), &json!({"kind": "failed", "exit_code": 3})), "{ending:#}");
    let seen = json!("1 process of what it left behind could not be ended");
    assert!(ending["verdict"]["evidence"].as_array().unwrap().contains(&seen), "{ending:#}");
}

#[test]
fn under_a_lease_an_ending_that_leaves_something_is_said_to_be_no_proof() {
    let leased = |asked: &Asked| if asked.is_grant() { Reply::leased(Duration::from_secs(60)) } else { Reply::go_on() };
    let (_, ending) = leaves_what_it_may_not_kill(&[("SENDO_FENCING", "strict")], leased);
    assert!(ending["verdict"]["evidence"].to_string().contains("is no proof that nothing of it runs"), "{ending:#}");
}
