//! The memory limit: who was killed for it, and who only looks like it.

use super::attempt::{Attempt, place};
use crate::env::{
    container::{PROGRAMS, Root},
    wrong_ledger::{Reply, WrongLedger},
};
use serde_json::{Value, json};

fn ended(script: &str) -> (Attempt, i32) {
    let ledger = WrongLedger::start(Reply::to);
    let spec = place(Root::Host, &ledger);
    let mut attempt = Attempt::start(ledger, spec, &script.replace("hungry", &format!("{PROGRAMS}/hungry")));
    let code = attempt.end();
    (attempt, code)
}

fn evidence(ending: &Value) -> Vec<&str> {
    ending["verdict"]["evidence"].as_array().unwrap().iter().map(|seen| seen.as_str().unwrap()).collect()
}

#[test]
fn what_the_kernel_killed_is_out_of_memory_and_the_limit_and_the_peak_are_told() {
    // As the transfer's own process, and behind a shell that says it in a shell's way.
    for script in ["exec hungry", "hungry; exit $?"] {
        let (attempt, code) = ended(script);
        assert_eq!((code, attempt.oom_kills()), (137, 1), "{script}: {}", attempt.text("stderr"));
        let ending = attempt.ending();
        assert_eq!(ending["outcome"]["kind"], "out_of_memory", "{script}: {ending:#}");
        assert!(ending["verdict"]["summary"].as_str().unwrap().starts_with("The kernel killed"), "{ending:#}");
        let seen = evidence(&ending);
        let limit = 64 << 20;
        assert!(seen.contains(&"the control group's oom_kill rose by 1"), "{seen:?}");
        assert!(seen.contains(&&*format!("memory limit {limit} bytes")), "{seen:?}");
        let peak = seen.iter().find_map(|seen| seen.strip_prefix("memory peak ")?.strip_suffix(" bytes"));
        let peak: Option<u64> = peak.map(|peak| peak.parse().unwrap());
        // Version 2 tells no peak before Linux 5.19.
        let known = std::path::Path::new("/sys/fs/cgroup/memory").is_dir();
        assert!(peak.map_or(!known, |peak| (limit / 2..=limit).contains(&peak)), "{seen:?}");
        assert_eq!(attempt.last_word().unwrap().ending.unwrap().outcome.code(), "out_of_memory");
    }
}

#[test]
fn what_only_ends_like_that_is_not_out_of_memory() {
    for (script, outcome) in [
        ("exit 137", json!({"kind": "failed", "exit_code": 137})),
        ("kill -KILL $$", json!({"kind": "killed", "signal": 9})),
        ("(kill -KILL $$) & sleep 300", json!({"kind": "killed", "signal": 9})),
        // A shell whose command was killed by somebody.
        ("sh -c 'kill -KILL $$'; exit $?", json!({"kind": "failed", "exit_code": 137})),
    ] {
        let (attempt, code) = ended(script);
        assert_eq!((code, attempt.oom_kills()), (137, 0), "{script}: {}", attempt.text("stderr"));
        let ending = attempt.ending();
        assert_eq!(ending["outcome"], outcome, "{script}: {ending:#}");
        assert!(!evidence(&ending).iter().any(|seen| seen.contains("oom_kill")), "{script}: {ending:#}");
    }
}

#[test]
fn a_transfer_that_goes_on_after_the_kernel_killed_its_child_has_succeeded() {
    let (attempt, code) = ended("hungry; echo goes on");
    assert_eq!((code, attempt.oom_kills()), (0, 1), "{}", attempt.text("stderr"));
    assert!(attempt.text("stdout").contains("goes on"));
    let ending = attempt.ending();
    assert_eq!(ending["outcome"]["kind"], "succeeded", "{ending:#}");
    assert!(evidence(&ending).contains(&"the control group's oom_kill rose by 1"), "{ending:#}");
}
