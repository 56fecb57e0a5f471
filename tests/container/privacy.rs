//! The transfer runs as the supervisor's own user beside it, and learns nothing of it.

use super::{
    attempt::{Attempt, TOKEN, place},
    hardened::open,
};
use crate::{
    env::{
        container::{PROGRAMS, Root},
        wrong_ledger::{KEY, Reply, WrongLedger},
    },
    reports::worker::believed,
};
use std::fs;

#[test]
fn a_transfer_of_the_same_user_cannot_look_into_pid_1() {
    let ledger = WrongLedger::start(Reply::to);
    let spec = place(Root::Host, &ledger);
    let script = format!(
        "{PROGRAMS}/peeper 1; echo; {PROGRAMS}/peeper --peer; echo; env; echo; ls /proc/self/fd; echo ready
        until [ -e /tmp/gate ]; do sleep 0.05; done"
    );
    let mut attempt = Attempt::start(ledger, spec, &script);
    attempt.says("ready");
    // There was something to find.
    let environment = fs::read_to_string(format!("/proc/{}/environ", attempt.pid())).unwrap();
    assert!(environment.contains("SENDO_TOKEN_FILE="), "{environment}");
    open(&attempt, "gate");
    assert_eq!(attempt.end(), 0, "{}", attempt.text("stderr"));

    let said = attempt.text("stdout");
    let [of_us, of_a_peer, env, descriptors] = &said.split("\n\n").collect::<Vec<_>>()[..] else { panic!("{said}") };
    let tries = |text: &str| -> Vec<(String, String)> {
        text.lines().map(|line| line.split_once(": ").map(|(name, came)| (name.into(), came.into())).unwrap()).collect()
    };
    let (of_us, of_a_peer) = (tries(of_us), tries(of_a_peer));
    assert_eq!(of_us.len(), 16);
    // The same tries find all of a process that does not hide: it is not the container that refuses.
    assert!(of_a_peer.iter().all(|(_, came)| came == "seen"), "{of_a_peer:?}");
    assert!(of_us.iter().map(|(name, _)| name).eq(of_a_peer.iter().map(|(name, _)| name)));
    let refused = ["Permission denied", "Operation not permitted"];
    assert!(of_us.iter().all(|(_, came)| refused.contains(&came.as_str())), "{of_us:?}");

    assert!(env.contains("HOME=/tmp") && !env.contains("SENDO_") && !env.contains(TOKEN), "{env}");
    // Its own three, and the folder that it lists.
    assert_eq!(descriptors.lines().filter(|line| *line != "ready").collect::<Vec<_>>(), ["0", "1", "2", "3"]);
}

/// Writes what a supervisor would on a success, signed with a key of its own, and longer than anything true.
const FORGES: &str = "until [ -e /tmp/forge ]; do sleep 0.05; done; cat /run/forged >/dev/termination-log; echo forged
    until [ -e /tmp/gate ]; do sleep 0.05; done";

/// An attempt that beats once, and whose transfer then forges the last word; `forged` is under another key than the grant's.
fn forged() -> (Attempt, String) {
    let forger = WrongLedger::start(|asked| {
        let mut grant = crate::env::wrong_ledger::grant();
        grant["key"] = "0e".repeat(32).into();
        if asked.is_grant() { Reply::Well(grant) } else { Reply::go_on() }
    });
    let spec = place(Root::Host, &forger);
    let mut other = Attempt::start(forger, spec, "true");
    assert_eq!(other.end(), 0, "{}", other.text("stderr"));
    let forged = other.text("word") + &" ".repeat(4000);
    let told = believed(forged.as_bytes(), &[0x0e; 32]).unwrap();
    assert_eq!(told.ending.unwrap().outcome.code(), "succeeded");

    let ledger = WrongLedger::start(Reply::to);
    let spec = place(Root::Host, &ledger);
    fs::write(spec.file("forged"), &forged).unwrap();
    let source = spec.file("forged");
    // The last of two settings of one name wins: it beats once, and at the end.
    let spec = spec.bind(&source, "/run/forged", "ro").env("SENDO_HEARTBEAT", "1h");
    let attempt = Attempt::start(ledger, spec, FORGES);
    // It is sent when it is written.
    attempt.ledger.wait("the first reading", |asked| asked.brings("usage"));
    assert!(attempt.last_word().is_some(), "{}", attempt.text("word"));
    open(&attempt, "forge");
    attempt.says("forged");
    (attempt, forged)
}

#[test]
fn a_forged_last_word_is_found_out() {
    let (mut attempt, forged) = forged();
    assert_eq!(attempt.text("word"), forged);
    attempt.kill("KILL");
    assert_eq!(attempt.end(), 137);
    assert_eq!(attempt.text("word"), forged);
    assert!(believed(forged.as_bytes(), &KEY).is_none() && attempt.last_word().is_none());
}

#[test]
fn a_supervisor_that_lives_has_the_last_word() {
    let (mut attempt, forged) = forged();
    open(&attempt, "gate");
    assert_eq!(attempt.end(), 0, "{}", attempt.text("stderr"));
    assert!(attempt.text("word").len() < forged.len(), "nothing of the longer message is left");
    assert_eq!(attempt.last_word().unwrap().ending.unwrap().outcome.code(), "succeeded");
}
