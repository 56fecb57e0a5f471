//! `fencing: strict` under `sendo dev`: who cannot reach the ledger ends in time, and only then counts as ended where nobody can see it.

use crate::env::{
    dev::{Dev, script},
    is_alive, kill, stdout, wait_for,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;

/// Long enough for a busy machine to renew it.
const LEASE: [&str; 2] = ["--lease", "8s"];

fn strict(mut job: Value) -> Value {
    job["fencing"] = json!("strict");
    job
}

/// The supervisor is killed, and its place can no longer be seen.
fn vanish(dev: &Dev, id: &str) {
    let (supervisor, lock) = (dev.supervisor_pid(id, 1), dev.attempt(id, 1).join("lock"));
    fs::rename(&lock, lock.with_extension("away")).unwrap();
    fs::create_dir(&lock).unwrap();
    kill(supervisor, Signal::SIGKILL);
}

#[test]
fn in_an_outage_of_the_ledger_a_strict_job_is_fenced_and_a_patient_one_succeeds() {
    let mut dev = Dev::start(&LEASE);
    let gate = dev.home.path().join("gate");
    let wait = format!("until [ -e {} ]; do sleep 0.05; done", gate.display());
    dev.accepted(&strict(script("strict", &wait)));
    dev.accepted(&script("patient", &wait));
    let shown = dev.wait("strict", &["executing"]);
    dev.wait("patient", &["executing"]);
    assert!(shown["attempts"][0]["lease_until_ms"].is_i64(), "{shown:#}");
    assert!(stdout(&dev.run(&["show", "strict"])).contains("fencing strict, lease until 2"));
    assert!(!stdout(&dev.run(&["show", "patient"])).contains("fencing"));
    let [fenced, goes_on] = ["strict", "patient"].map(|id| dev.transfer_pid(id, 1));
    dev.kill();
    wait_for("the strict transfer's end", || (!is_alive(fenced)).then_some(()));
    assert!(is_alive(goes_on));
    dev.restart_after_kill();
    let job = dev.wait("strict", &["held"]);
    let attempt = &job["attempts"][0];
    assert_eq!((&job["outcome"], &attempt["killed_by_signal"]), (&json!("fenced"), &json!(9)));
    assert_eq!(attempt["evidence"], json!(4), "its supervisor's record");
    let evidence = job["verdict"]["evidence"].to_string();
    assert!(evidence.contains("lease 8s, margin 2s"), "{evidence}");
    dev.wait("patient", &["executing"]);
    fs::write(gate, "").unwrap();
    dev.wait("patient", &["succeeded"]);
    assert!(dev.sql("SELECT lease_until_ms FROM attempts WHERE job_id = 'patient'")[0]["lease_until_ms"].is_null());
}

#[test]
fn a_load_that_was_fenced_and_may_be_repeated_is_run_again_on_the_infrastructures_budget() {
    let mut dev = Dev::start(&LEASE);
    let first = dev.home.path().join("first");
    let mut job = strict(script("a", &format!("mkdir {} || exit 0; exec sleep 600", first.display())));
    job["retry"] = json!({"idempotent": true, "backoff": "100ms"});
    dev.accepted(&job);
    dev.wait("a", &["executing"]);
    wait_for("the first attempt to be in the middle", || first.exists().then_some(()));
    let transfer = dev.transfer_pid("a", 1);
    dev.kill();
    wait_for("the transfer's end", || (!is_alive(transfer)).then_some(()));
    dev.restart_after_kill();
    dev.wait("a", &["succeeded"]);
    let attempts = dev.sql("SELECT attempt, outcome FROM attempts ORDER BY attempt");
    assert_eq!(attempts, [json!({"attempt": 1, "outcome": "fenced"}), json!({"attempt": 2, "outcome": "succeeded"})]);
    assert_eq!(dev.sql("SELECT infrastructure_retries AS n FROM jobs")[0]["n"], 1);
}

#[test]
fn where_nobody_can_see_it_an_attempt_has_ended_once_its_lease_is_over_and_a_patient_one_never() {
    let dev = Dev::start(&LEASE);
    let mut repeatable = strict(script("repeatable", "exec sleep 600"));
    repeatable["retry"] = json!({"idempotent": true, "backoff": "1ms"});
    dev.accepted(&repeatable);
    dev.wait("repeatable", &["executing"]);
    vanish(&dev, "repeatable");
    wait_for("a successor", || (dev.json(&["show", "repeatable"])["attempt"] == 2).then_some(()));
    let attempts =
        "SELECT lease_until_ms, launching_at_ms, outcome FROM attempts WHERE job_id = 'repeatable' ORDER BY attempt";
    let rows = dev.sql(attempts);
    assert_eq!(rows[0]["outcome"], "lost");
    assert!(
        rows[1]["launching_at_ms"].as_i64() >= rows[0]["lease_until_ms"].as_i64(),
        "no second attempt before: {rows:?}"
    );
    assert_eq!(dev.run(&["cancel", "repeatable"]).status.code(), Some(0));
    dev.wait("repeatable", &["cancelled"]);
    // The control, and one that a person is asked about.
    dev.accepted(&script("patient", "exec sleep 600"));
    dev.accepted(&strict(script("strict", "exec sleep 600")));
    for id in ["patient", "strict"] {
        dev.wait(id, &["executing"]);
        vanish(&dev, id);
    }
    let job = dev.wait("strict", &["held"]);
    assert_eq!((&job["outcome"], &job["attempts"][0]["evidence"]), (&json!("lost"), &json!(1)));
    let evidence = job["verdict"]["evidence"].to_string();
    assert!(evidence.contains("the cluster cannot tell") && evidence.contains("its lease"), "{evidence}");
    assert_eq!(dev.json(&["show", "patient"])["phase"], "executing", "nothing is decided");
}
