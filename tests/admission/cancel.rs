//! A cancel ends a job soon, wherever it stands.

use super::{UNTIL_GO, job, submit_all, waits_for};
use crate::env::{self, dev::Dev, is_alive, kill, wait_for};
use nix::sys::signal::Signal;
use serde_json::json;
use std::{fs, os::unix::fs::PermissionsExt as _};

/// A `sendo serve` whose supervisors begin when the test says so: a place that is being set up.
fn slow_to_start() -> (Dev, tempfile::TempDir) {
    let folder = env::scratch();
    let program = folder.path().join("sendo-supervisor");
    let gate = folder.path().join("gate");
    let real = env::supervisor();
    let text = format!("#!/bin/sh\nuntil [ -e {gate:?} ]; do sleep 0.05; done\nexec {real:?} \"$@\"\n");
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    (Dev::serve("max_running = 4", &program), folder)
}

#[test]
fn while_it_is_set_up() {
    let (dev, folder) = slow_to_start();
    submit_all(&dev, &[job("a", "t", "true"), job("b", "t", "true")]);
    for id in ["a", "b"] {
        dev.wait(id, &["setting_up"]);
    }
    let place = dev.supervisor_pid("a", 1);
    assert!(dev.run(&["cancel", "a"]).status.success());
    dev.wait("a", &["cancelled"]);
    wait_for("its place to be empty", || (!is_alive(place)).then_some(()));
    assert_eq!(dev.phases("a"), ["queued", "setting_up", "cancelled"]);
    // The other one was only slow.
    fs::write(folder.path().join("gate"), "").unwrap();
    dev.wait("b", &["succeeded"]);
}

#[test]
fn while_it_executes_and_will_not_hear() {
    let dev = super::serve("");
    submit_all(&dev, &[job("a", "t", "trap '' TERM; while :; do sleep 0.05; done")]);
    dev.wait("a", &["executing"]);
    let transfer = dev.transfer_pid("a", 1);
    assert!(dev.run(&["cancel", "a"]).status.success());
    dev.wait("a", &["cancelled"]);
    assert!(!is_alive(transfer), "the ledger says it after it is so");
}

#[test]
fn while_it_is_stopping() {
    let dev = super::serve("");
    submit_all(&dev, &[job("a", "t", UNTIL_GO)]);
    dev.wait("a", &["executing"]);
    // Its place is asked to go, and it may finish first: for hours.
    kill(dev.supervisor_pid("a", 1), Signal::SIGTERM);
    dev.wait("a", &["stopping"]);
    assert!(dev.run(&["cancel", "a"]).status.success());
    dev.wait("a", &["cancelled"]);
    assert_eq!(dev.phases("a"), ["queued", "setting_up", "executing", "stopping", "cancelled"]);
}

#[test]
fn while_its_place_cannot_be_made() {
    let dev = super::serve("max_running = 2");
    let attempts = dev.state_dir().join("attempts");
    fs::remove_dir(&attempts).unwrap();
    fs::write(&attempts, "").unwrap();
    submit_all(&dev, &[job("a", "t", "echo ran > ../../../ran"), job("b", "t", "true")]);
    for id in ["a", "b"] {
        wait_for("its attempt", || (dev.json(&["show", id])["attempt"] == json!(1)).then_some(()));
    }
    assert!(dev.run(&["cancel", "a"]).status.success());
    dev.wait("a", &["cancelled"]);
    assert_eq!(dev.phases("a"), ["queued", "cancelled"]);
    waits_for(&dev, "b", "");
    fs::remove_file(&attempts).unwrap();
    fs::create_dir(&attempts).unwrap();
    dev.wait("b", &["succeeded"]);
    assert!(!dev.home.path().join("ran").exists() && !dev.attempt("a", 1).exists(), "it was taken back");
}
