//! A cluster that takes nothing is let be, and what was committed for it is neither lost nor doubled.

use super::{job, lines, serve, submit_all, waits_for};
use crate::env::{dev::Dev, wait_for};
use serde_json::{Value, json};
use std::fs;

const JOBS: usize = 12;

/// More than the breaker stands, so that some are committed and some are not when it opens.
fn flood(dev: &Dev) -> Vec<Value> {
    let runs = dev.home.path().join("runs");
    (0..JOBS).map(|number| job(&format!("j{number}"), "t", &format!("echo j{number} >> {}", runs.display()))).collect()
}

fn break_it(dev: &Dev) {
    let attempts = dev.state_dir().join("attempts");
    fs::remove_dir(&attempts).unwrap();
    fs::write(&attempts, "").unwrap();
}

fn mend_it(dev: &Dev) {
    let attempts = dev.state_dir().join("attempts");
    fs::remove_file(&attempts).unwrap();
    fs::create_dir(&attempts).unwrap();
}

/// Orders that wait for the cluster.
fn committed(dev: &Dev) -> u64 {
    dev.sql("SELECT COUNT(*) AS n FROM attempts WHERE state = 'launching'")[0]["n"].as_u64().unwrap()
}

fn each_ran_once(dev: &Dev) {
    for number in 0..JOBS {
        dev.wait(&format!("j{number}"), &["succeeded"]);
    }
    let mut ran = lines(&dev.home.path().join("runs"));
    ran.sort_unstable();
    let mut all: Vec<String> = (0..JOBS).map(|number| format!("j{number}")).collect();
    all.sort_unstable();
    assert_eq!(ran, all);
    assert_eq!(dev.sql("SELECT COUNT(*) AS n FROM attempts")[0]["n"], json!(JOBS));
}

#[test]
fn it_is_let_be_for_a_while_and_then_goes_on_by_itself() {
    let dev = serve("max_running = 6");
    break_it(&dev);
    submit_all(&dev, &flood(&dev));
    wait_for("the breaker to open", || {
        fs::read_to_string(dev.home.path().join("dev.log")).unwrap().contains("let be for a while").then_some(())
    });
    waits_for(&dev, "j0", "the cluster takes nothing now: ");
    // What waits is not committed to a cluster that takes nothing.
    assert!(committed(&dev) <= 6, "half of them wait in the queue");
    mend_it(&dev);
    each_ran_once(&dev);
}

#[test]
fn it_is_asked_again_although_nobody_is_left_who_would_have_found_out() {
    let dev = serve("max_running = 6");
    break_it(&dev);
    let mut jobs = flood(&dev);
    submit_all(&dev, &jobs.split_off(JOBS - 1));
    let last = format!("j{}", JOBS - 1);
    wait_for("the breaker to open", || {
        fs::read_to_string(dev.home.path().join("dev.log")).unwrap().contains("let be for a while").then_some(())
    });
    assert!(dev.run(&["cancel", &last]).status.success());
    dev.wait(&last, &["cancelled"]);
    mend_it(&dev);
    submit_all(&dev, &jobs[..1]);
    dev.wait("j0", &["succeeded"]);
}

#[test]
fn what_was_committed_before_a_kill_is_made_after_it_once() {
    let mut dev = serve("max_running = 6");
    break_it(&dev);
    submit_all(&dev, &flood(&dev));
    wait_for("orders that are committed and not made", || (committed(&dev) >= 5).then_some(()));
    dev.kill();
    mend_it(&dev);
    dev.restart_after_stop();
    each_ran_once(&dev);
}
