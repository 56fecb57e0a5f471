//! An image that starts as root: `--user` gives the transfer another user, and nothing of root's.

use super::attempt::{Attempt, place};
use crate::env::{
    container::{Root, USER},
    wrong_ledger::{Reply, WrongLedger},
};
use serde_json::json;

const NEEDED: [&str; 3] = ["CAP_KILL", "CAP_SETGID", "CAP_SETUID"];

const TELLS: &str = "id -u; id -g; grep -E '^(Groups|CapEff|CapPrm):' /proc/self/status | tr -d '\\t '
    cat /proc/1/environ 2>/dev/null || echo 'environ: refused'
    trap 'echo asked; exit 9' TERM; echo ready; until false; do sleep 0.05; done";

/// By name and by number, where the image has that user.
#[test]
fn a_container_that_starts_as_root_runs_the_transfer_as_somebody_else() {
    for user in ["worker", "10001"] {
        let ledger = WrongLedger::start(Reply::to);
        let mut spec = place(Root::Host, &ledger).env("SENDO_USER", user).env("SENDO_ON_TERM", "stop");
        (spec.user, spec.capabilities) = (0, NEEDED.to_vec());
        let mut attempt = Attempt::start(ledger, spec, TELLS);
        attempt.says("ready");
        attempt.kill("TERM");
        assert_eq!(attempt.end(), 9, "{}", attempt.text("stderr"));
        let (none, number) = ("0000000000000000", USER.to_string());
        let (permitted, effective) = (format!("CapPrm:{none}"), format!("CapEff:{none}"));
        // The kernel's lines in the kernel's order.
        let expected = [&*number, &*number, "Groups:", &permitted, &effective, "environ: refused", "ready", "asked"];
        assert_eq!(attempt.text("stdout").lines().collect::<Vec<_>>(), expected);
        assert_eq!(attempt.ending()["outcome"], json!({"kind": "drained"}));
    }
}

/// The control: without the setting it is root's.
#[test]
fn without_a_user_the_transfer_is_root() {
    let ledger = WrongLedger::start(Reply::to);
    let mut spec = place(Root::Host, &ledger);
    spec.user = 0;
    let mut attempt = Attempt::start(ledger, spec, "id -u");
    assert_eq!((attempt.end(), attempt.text("stdout").as_str()), (0, "0\n"), "{}", attempt.text("stderr"));
}

/// Without CAP_KILL it would run, and never hear that it is to end.
#[test]
fn root_without_what_it_needs_for_that_starts_nothing_and_names_it() {
    for lacking in NEEDED {
        let ledger = WrongLedger::start(Reply::to);
        let mut spec = place(Root::Host, &ledger).env("SENDO_USER", "worker");
        (spec.user, spec.capabilities) = (0, NEEDED.into_iter().filter(|name| *name != lacking).collect());
        let mut attempt = Attempt::start(ledger, spec, "echo it runs");
        assert_eq!((attempt.end(), attempt.text("stdout").as_str()), (64, ""), "{}", attempt.text("stderr"));
        attempt.logs(&format!("SENDO_USER: root lacks {lacking}"));
        assert!(attempt.ledger.asked().is_empty());
    }
}
