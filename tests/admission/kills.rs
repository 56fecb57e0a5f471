//! `kill -9` of `sendo serve` at chosen steps of a flood: nothing is lost and nothing runs twice.

use super::{job, lines, serve, submit_all};
use crate::env::wait_for;
use std::{collections::BTreeMap, process::Command};

const JOBS: usize = 60;

/// What must be true of some job, that was not of any at the last kill, for the next one.
const STEPS: [(&str, &str); 10] = [
    ("it waits", "SELECT COUNT(*) FROM jobs WHERE phase = 'queued' AND attempt = 0"),
    ("its attempt is committed", "SELECT COUNT(*) FROM attempts WHERE state = 'launching'"),
    ("its place exists", "SELECT COUNT(*) FROM attempts WHERE state = 'launched' AND granted_at_ms IS NULL"),
    ("it is granted", "SELECT COUNT(*) FROM attempts WHERE granted_at_ms IS NOT NULL AND executing_at_ms IS NULL"),
    ("it executes", "SELECT COUNT(*) FROM jobs WHERE phase = 'executing'"),
    ("its end is known", "SELECT COUNT(*) FROM attempts WHERE state = 'ended' AND released_at_ms IS NULL"),
    ("its place is released", "SELECT COUNT(*) FROM attempts WHERE released_at_ms IS NOT NULL"),
    ("another attempt is committed", "SELECT COUNT(*) FROM attempts WHERE state = 'launching'"),
    ("another is granted", "SELECT COUNT(*) FROM attempts WHERE granted_at_ms IS NOT NULL AND executing_at_ms IS NULL"),
    ("another end is known", "SELECT COUNT(*) FROM attempts WHERE state = 'ended' AND released_at_ms IS NULL"),
];

#[test]
fn nothing_is_lost_and_nothing_runs_twice() {
    let mut dev = serve("max_running = 3");
    let runs = dev.home.path().join("runs");
    let script = |id: &str| format!("echo {id} >> {}; sleep 0.1", runs.display());
    let jobs: Vec<_> = (0..JOBS).map(|number| format!("j{number}")).collect();
    submit_all(&dev, &jobs.iter().map(|id| job(id, "t", &script(id))).collect::<Vec<_>>());
    let ledger = dev.state_dir().join("ledger.db");
    let count = |query: &str| -> u64 {
        // Its own program for each look: the server's death must not be felt here.
        let output = Command::new("sqlite3").arg("-readonly").arg(&ledger).arg(query).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or_default()
    };
    let mut reached = vec![];
    for (step, query) in STEPS {
        let left = wait_for(step, || {
            let ended = count("SELECT COUNT(*) FROM jobs WHERE phase = 'succeeded'");
            let is_over = ended >= JOBS as u64;
            (is_over || count(query) > 0).then_some(!is_over)
        });
        if left {
            reached.push(step);
        }
        dev.restart_after_kill();
    }
    assert!(reached.len() >= 8, "the flood was over too soon for the kills to mean anything: {reached:?}");
    for id in &jobs {
        dev.wait(id, &["succeeded"]);
    }
    let mut ran: BTreeMap<String, usize> = BTreeMap::new();
    lines(&runs).into_iter().for_each(|id| *ran.entry(id).or_default() += 1);
    let expected: BTreeMap<String, usize> = jobs.iter().map(|id| (id.clone(), 1)).collect();
    assert_eq!(ran, expected);
    assert_eq!(count("SELECT COUNT(*) FROM attempts WHERE conflicts > 0"), 0);
}
