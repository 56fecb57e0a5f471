//! A root that holds nothing but two static programs: `FROM scratch`.

use super::attempt::{Attempt, place};
use crate::env::{
    container::{Root, SUPERVISOR, Spec},
    wrong_ledger::{Reply, WrongLedger},
};
use serde_json::json;

/// Every file of the image; the rest is what its place shows it.
const FILES: &str = "exec 2>&1; busybox find / -xdev -type f ! -path '/run/*' | busybox sort";

#[test]
fn a_plain_init_needs_no_file_but_itself() {
    // An orphan ends too, and goes only if PID 1 reaps it.
    let script = format!(
        "{FILES}; (busybox sleep 0.1 & echo $! >/tmp/orphan)
         while [ -e /proc/$(busybox cat /tmp/orphan) ]; do busybox sleep 0.05; done
         trap 'echo asked; exit 5' TERM; echo ready; while :; do busybox sleep 0.05; done"
    );
    let mut container = Spec::new(Root::Scratch).start(&[SUPERVISOR, "--", "sh", "-c", &script]);
    container.says("ready");
    container.kill("TERM");
    assert_eq!(container.end(), 5, "{}", container.text("stderr"));
    // The shell tells that its `sleep` was asked too.
    let said = container.text("stdout").replace("Terminated\n", "");
    assert_eq!((said, container.text("stderr")), (format!("/bin/sh\n{SUPERVISOR}\nready\nasked\n"), String::new()));
}

/// Without certificates, without users, without names of hosts.
#[test]
fn a_job_over_http_needs_no_file_but_the_supervisor() {
    let ledger = WrongLedger::start(Reply::to);
    let spec = place(Root::Scratch, &ledger);
    let mut attempt = Attempt::start(ledger, spec, FILES);
    assert_eq!(attempt.end(), 0, "{}", attempt.text("stderr"));
    assert_eq!(attempt.text("stdout"), format!("/bin/sh\n{SUPERVISOR}\n"));
    assert_eq!(attempt.ending()["outcome"], json!({"kind": "succeeded"}));
    assert_eq!(attempt.last_word().unwrap().ending.unwrap().outcome.code(), "succeeded");
}

#[test]
fn a_job_over_https_without_certificates_says_what_is_missing() {
    let ledger = WrongLedger::start(Reply::to);
    let spec = place(Root::Scratch, &ledger).env("SENDO_LEDGER_URL", "https://127.0.0.1:1");
    let mut attempt = Attempt::start(ledger, spec, "echo it runs");
    assert_eq!((attempt.end(), attempt.text("stdout").as_str()), (71, ""));
    attempt.logs("put a CA bundle into the image");
}
