//! The supervisor with a job, as `sendo dev` starts it: drains, deadlines, grants, the last word, a ledger that is away.

use crate::env::{
    self,
    dev::{Dev, script},
    is_alive, kill, stderr, wait_for,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::{fs, path::PathBuf, process::Command};

const LIFE: [&str; 4] = ["queued", "setting_up", "executing", "succeeded"];
/// The kubelet keeps no more of a termination message.
const MESSAGE_LIMIT: usize = 4096;

/// Waits until the transfer has written the line to its stdout.
#[track_caller]
fn says(dev: &Dev, id: &str, attempt: u32, line: &str) {
    wait_for(&format!("`{line}` from {id}.{attempt}"), || {
        output(dev, id, attempt, "stdout").lines().any(|said| said == line).then_some(())
    });
}

fn output(dev: &Dev, id: &str, attempt: u32, stream: &str) -> String {
    fs::read_to_string(dev.attempt(id, attempt).join(format!("{stream}.log"))).unwrap_or_default()
}

/// A file that lets the transfers go that wait for it, and the shell's words for waiting.
fn gate(dev: &Dev) -> (PathBuf, String) {
    let gate = dev.home.path().join("gate");
    let wait = format!("until [ -e {} ]; do sleep 0.05; done", gate.display());
    (gate, wait)
}

/// SIGTERM to the supervisor of a transfer that has said `ready`.
#[track_caller]
fn ask_to_go(dev: &Dev, id: &str) {
    says(dev, id, 1, "ready");
    kill(dev.supervisor_pid(id, 1), Signal::SIGTERM);
}

fn with(job: Value, more: Value) -> Value {
    let mut job = job;
    job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    job
}

// Drains.

#[test]
fn asked_to_go_a_transfer_may_finish() {
    let dev = Dev::start(&[]);
    let (gate, wait) = gate(&dev);
    dev.accepted(&script("a", &format!("trap 'echo asked' TERM; echo ready; {wait}; echo finished")));
    ask_to_go(&dev, "a");
    dev.wait("a", &["stopping"]);
    fs::write(gate, "").unwrap();
    let job = dev.wait("a", &["succeeded"]);
    assert_eq!(dev.phases("a"), ["queued", "setting_up", "executing", "stopping", "succeeded"]);
    assert_eq!(job["outcome"], "succeeded");
    assert_eq!(output(&dev, "a", 1, "stdout"), "ready\nfinished\n", "no TERM reached it");
}

#[test]
fn where_the_job_says_stop_it_is_asked_at_once_and_a_person_decides() {
    let dev = Dev::start(&[]);
    let stopping = "trap 'echo asked; exit 1' TERM; echo ready; until false; do sleep 0.05; done";
    dev.accepted(&with(script("a", stopping), json!({"on_term": "stop"})));
    ask_to_go(&dev, "a");
    let job = dev.wait("a", &["held"]);
    assert_eq!(dev.phases("a"), ["queued", "setting_up", "executing", "stopping", "held"]);
    assert_eq!((&job["outcome"], &job["attempts"][0]["exit_code"]), (&json!("drained"), &json!(1)));
    assert!(job["verdict"]["next_action"].as_str().unwrap().contains("sendo retry a"), "{job:#}");
    let sender = format!("SIGTERM from pid {} (", std::process::id());
    assert!(job["verdict"]["evidence"].to_string().contains(&sender), "{job:#}");
    assert_eq!(output(&dev, "a", 1, "stdout"), "ready\nasked\n");
}

#[test]
fn a_drained_load_that_may_be_repeated_is_run_again() {
    let dev = Dev::start(&[]);
    let first = dev.home.path().join("first");
    let twice = format!("mkdir {} || exit 0; echo ready; exec sleep 600", first.display());
    let more = json!({"on_term": "stop", "retry": {"idempotent": true, "backoff": "100ms"}});
    dev.accepted(&with(script("a", &twice), more));
    ask_to_go(&dev, "a");
    dev.wait("a", &["succeeded"]);
    let attempts = dev.sql("SELECT attempt, outcome, killed_by_signal AS killed FROM attempts ORDER BY attempt");
    let drained = json!({"attempt": 1, "outcome": "drained", "killed": 15});
    assert_eq!(attempts, [drained, json!({"attempt": 2, "outcome": "succeeded", "killed": null})]);
}

#[test]
fn the_second_term_kills() {
    let dev = Dev::start(&[]);
    let (_, wait) = gate(&dev);
    dev.accepted(&script("a", &format!("trap '' TERM; echo ready; {wait}")));
    ask_to_go(&dev, "a");
    dev.wait("a", &["stopping"]);
    assert!(is_alive(dev.transfer_pid("a", 1)));
    kill(dev.supervisor_pid("a", 1), Signal::SIGTERM);
    let job = dev.wait("a", &["held"]);
    assert_eq!((&job["outcome"], &job["attempts"][0]["killed_by_signal"]), (&json!("drained"), &json!(9)));
}

#[test]
fn a_term_from_the_transfer_itself_starts_no_drain() {
    let dev = Dev::start(&[]);
    let (gate, wait) = gate(&dev);
    dev.accepted(&with(script("a", &format!("kill -TERM $PPID; echo ready; {wait}")), json!({"on_term": "stop"})));
    says(&dev, "a", 1, "ready");
    wait_for("the supervisor's word on it", || output(&dev, "a", 1, "stderr").contains("not obeyed").then_some(()));
    fs::write(gate, "").unwrap();
    dev.wait("a", &["succeeded"]);
    assert_eq!(dev.phases("a"), LIFE);
}

#[test]
fn the_deadline_ends_a_transfer() {
    let dev = Dev::start(&[]);
    dev.accepted(&with(script("a", "exec sleep 600"), json!({"deadline": "1s"})));
    let job = dev.wait("a", &["failed"]);
    assert_eq!((&job["outcome"], &job["attempts"][0]["killed_by_signal"]), (&json!("timed_out"), &json!(15)));
    assert_eq!(dev.phases("a"), ["queued", "setting_up", "executing", "stopping", "failed"]);
}

// What the transfer gets, and what it does not.

#[test]
fn the_transfer_sees_nothing_of_ours() {
    let dev = Dev::start(&[]);
    let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    let look = format!(
        "env; for fd in /proc/$$/fd/*; do [ -e $fd ] && echo fd ${{fd##*/}}; done; {nobody} cat /proc/$PPID/environ; echo ours $?; \
         {nobody} sh -c 'cat /proc/self/environ > /dev/null; echo own $?'"
    );
    dev.accepted(&with(script("a", &look), json!({"env": {"GIVEN": "by the job"}})));
    dev.wait("a", &["succeeded"]);
    let seen = output(&dev, "a", 1, "stdout");
    assert!(!seen.contains("SENDO_") && seen.contains("GIVEN=by the job\n"), "{seen}");
    assert!(seen.contains("ours 1\nown 0\n"), "{seen}");
    let descriptors: Vec<_> = seen.lines().filter_map(|line| line.strip_prefix("fd ")).collect();
    assert_eq!(descriptors, ["0", "1", "2"]);
}

#[test]
fn the_transfers_output_passes_unchanged() {
    let dev = Dev::start(&[]);
    let file = dev.home.path().join("binary");
    let write =
        format!("head -c 3000000 /dev/urandom > {0}; printf '\\nno end of line' >> {0}; cat {0}", file.display());
    dev.accepted(&script("a", &write));
    dev.wait("a", &["succeeded"]);
    let (written, passed) = (fs::read(file).unwrap(), fs::read(dev.attempt("a", 1).join("stdout.log")).unwrap());
    assert!(written == passed, "{} bytes written, {} passed", written.len(), passed.len());
}

#[test]
fn a_daemon_that_keeps_the_output_open_holds_nothing_up() {
    let dev = Dev::start(&[]);
    let daemon = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/daemon");
    let notes = dev.home.path().join("notes");
    dev.accepted(&script("a", &format!("{daemon} {} stubborn; echo last", notes.display())));
    dev.wait("a", &["succeeded"]);
    assert_eq!(output(&dev, "a", 1, "stdout"), "last\n");
    let notes = fs::read_to_string(notes).unwrap();
    let pid = notes.lines().find_map(|line| line.strip_prefix("pid ")?.parse().ok()).unwrap();
    assert!(notes.ends_with("TERM\n") && !is_alive(pid), "{notes}");
}

#[test]
fn the_last_word_fits_whatever_the_last_lines_are() {
    let dev = Dev::start(&[]);
    let program = r#"print "\x01" x 20000, "\n", "\xff" x 20000, "\n", "\"" x 20000, "\n" for 1 .. 30; exit 3"#;
    dev.accepted(&json!({"version": 1, "id": "a", "command": ["perl", "-e", program]}));
    let job = dev.wait("a", &["failed"]);
    let lines = job["attempts"][0]["last_lines"].as_array().unwrap();
    let length: usize = lines.iter().map(|line| line.as_str().unwrap().len()).sum();
    assert!(length > MESSAGE_LIMIT, "the ledger has what the message has no room for");
    let text = fs::read(dev.attempt("a", 1).join("termination-log")).unwrap();
    assert!(text.len() <= MESSAGE_LIMIT, "{} bytes", text.len());
    let word: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(word["story"]["ending"]["outcome"], json!({"kind": "failed", "exit_code": 3}), "{word:#}");
}

// Grants, and a ledger that is away.

#[test]
fn an_attempt_started_twice_runs_once() {
    let dev = Dev::start(&[]);
    let (gate, wait) = gate(&dev);
    dev.accepted(&script("a", &format!("echo ready; {wait}")));
    says(&dev, "a", 1, "ready");
    let (ran, word) = (dev.home.path().join("ran"), dev.home.path().join("word"));
    let second = |job: &[(&str, &str)]| {
        let mut command = Command::new(env::supervisor());
        command.env("SENDO_ATTEMPT", "1").env("SENDO_LEDGER_URL", &dev.url).env("SENDO_TERMINATION_LOG", &word);
        command.env("SENDO_TOKEN_FILE", dev.attempt("a", 1).join("token")).env("SENDO_WORK_DIR", dev.home.path());
        command.envs(job.iter().copied()).args(["--", "touch"]).arg(&ran).output().unwrap()
    };
    let output = second(&[("SENDO_JOB", "a")]);
    assert_eq!(output.status.code(), Some(75), "{}", stderr(&output));
    assert!(!ran.exists());
    assert!(fs::read_to_string(&word).unwrap().contains("superseded"));
    // The control: without its job it would have run.
    assert_eq!(second(&[]).status.code(), Some(0));
    assert!(ran.exists());
    dev.wait("a", &["executing"]);
    fs::write(gate, "").unwrap();
    dev.wait("a", &["succeeded"]);
    assert_eq!(dev.phases("a"), LIFE);
    assert_eq!(dev.sql("SELECT attempt, outcome FROM attempts"), [json!({"attempt": 1, "outcome": "succeeded"})]);
}

#[test]
fn an_end_while_the_ledger_is_away_arrives_later_and_once() {
    let mut dev = Dev::start(&[]);
    let (gate, wait) = gate(&dev);
    dev.accepted(&script("a", &format!("echo ready; {wait}")));
    dev.wait("a", &["executing"]);
    let (supervisor, transfer) = (dev.supervisor_pid("a", 1), dev.transfer_pid("a", 1));
    dev.kill();
    fs::write(gate, "").unwrap();
    wait_for("the transfer to end", || (!is_alive(transfer)).then_some(()));
    wait_for("the supervisor to find nobody", || {
        output(&dev, "a", 1, "stderr").contains("does not answer").then_some(())
    });
    assert!(is_alive(supervisor));
    dev.restart_after_kill();
    dev.wait("a", &["succeeded"]);
    wait_for("the supervisor to go", || (!is_alive(supervisor)).then_some(()));
    assert_eq!(dev.phases("a"), LIFE);
    let attempt = json!({"attempt": 1, "outcome": "succeeded", "evidence": 4, "conflicts": 0});
    assert_eq!(dev.sql("SELECT attempt, outcome, evidence, conflicts FROM attempts"), [attempt]);
    let kinds = "SELECT body ->> '$.record' AS kind, COUNT(*) AS n FROM records GROUP BY kind ORDER BY kind";
    assert_eq!(dev.sql(kinds), [json!({"kind": "ending", "n": 1}), json!({"kind": "phase", "n": 1})]);
}
