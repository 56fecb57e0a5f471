//! A job where nothing is allowed that a transfer does not need.

use super::attempt::{Attempt, place};
use crate::env::{
    container::{Container, MIB, Root, USER},
    wrong_ledger::{Reply, WrongLedger},
};
use sendo::record::outcome::Outcome;
use serde_json::json;
use std::{fs, os::unix::fs::MetadataExt as _};

/// Tells what it may do, and ends with 7 when it is let.
const TELLS: &str = "id -u
    grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status
    touch /tmp/x && echo 'tmp: written'
    touch /x 2>/dev/null || echo 'root: refused'
    touch /dev/x 2>/dev/null || echo 'dev: refused'
    mount -t tmpfs none /tmp 2>/dev/null || echo 'mount: refused'
    echo ready
    until [ -e /tmp/gate ]; do sleep 0.05; done
    exit 7";

/// Makes a file in the container that its transfer waits for.
pub fn open(container: &Container, gate: &str) {
    fs::write(container.inside(&format!("/tmp/{gate}")), "").unwrap();
}

/// The kubelet gives version 1 no control group namespace, and version 2 one.
#[test]
fn a_hardened_job_is_told_as_any_other() {
    for cgroup_namespace in [true, false] {
        let ledger = WrongLedger::start(Reply::to);
        let mut spec = place(Root::Host, &ledger);
        (spec.cgroup_namespace, spec.memory_limit) = (cgroup_namespace, 96 * MIB);
        let word = fs::metadata(spec.file("word")).unwrap();
        let mut attempt = Attempt::start(ledger, spec, TELLS);
        attempt.says("ready");
        let bounded = |reading: &serde_json::Value| {
            let current = reading["memory_current_bytes"].as_u64();
            reading["memory_limit_bytes"] == json!(96 * MIB)
                && current.is_some_and(|bytes| (MIB / 4..96 * MIB).contains(&bytes))
        };
        attempt.ledger.wait("a reading of the control group", |asked| {
            asked.records().iter().any(|record| bounded(&record["usage"]))
        });
        let story = crate::env::wait_for("the story so far", || attempt.last_word());
        assert_eq!((story.id.job.as_str(), story.ending), ("a", None));
        open(&attempt, "gate");
        assert_eq!(attempt.end(), 7, "{}", attempt.text("stderr"));

        let said = attempt.text("stdout").replace('\t', " ");
        // The kernel's lines in the kernel's order.
        let (none, user) = ("0000000000000000", USER.to_string());
        let (effective, bounding) = (format!("CapEff: {none}"), format!("CapBnd: {none}"));
        let allowed = [&*user, &*effective, &*bounding, "NoNewPrivs: 1", "Seccomp: 2", "tmp: written"];
        let refused = ["root: refused", "dev: refused", "mount: refused", "ready"];
        assert_eq!(said.lines().collect::<Vec<_>>(), [&allowed[..], &refused[..]].concat());

        assert_eq!(attempt.phases(), ["executing"]);
        let ending = attempt.ending();
        assert_eq!((&ending["outcome"]["kind"], &ending["exit_code"]), (&json!("failed"), &json!(7)), "{ending:#}");
        let last = attempt.readings().pop().unwrap();
        assert!(last["oom_kills"] == 0 && last["cpu_seconds"].as_f64() > Some(0.0), "{last:#}");
        assert_eq!(attempt.last_word().unwrap().ending.unwrap().outcome, Outcome::Failed { exit_code: 7 });
        // In place: nobody could have made it anew.
        let now = fs::metadata(attempt.file("word")).unwrap();
        assert_eq!((now.ino(), now.uid(), now.mode()), (word.ino(), 0, word.mode()));
    }
}

#[test]
fn a_termination_log_that_may_not_be_written_is_said_and_harms_nothing() {
    let ledger = WrongLedger::start(Reply::to);
    let spec = place(Root::Host, &ledger);
    fs::set_permissions(spec.file("word"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let mut attempt = Attempt::start(ledger, spec, "exit 7");
    assert_eq!(attempt.end(), 7);
    attempt.logs("no last word left");
    assert_eq!((attempt.text("word").as_str(), &attempt.ending()["exit_code"]), ("", &json!(7)));
}
