//! Orphans are reaped, what the child leaves behind ends, and the child ends with its supervisor.

use super::running::{BOTH, Place, Running, only_child, program, run, under, under_with};
use crate::env::{self, LIMIT, wait_for};
use nix::sys::signal::Signal;
use std::fs;

/// What 9,500 orphans may add: less than seven bytes for each.
const MEMORY_NOISE_KB: u64 = 64;

#[test]
fn orphans_are_reaped() {
    for place in BOTH {
        assert_eq!(run(place, &under(&[program("orphans"), "20", "gone"])).code, 0, "{place:?}");
    }
    // The control: the same orphans stay.
    let careless = [program("careless"), program("orphans"), "20", "zombies"];
    assert_eq!(run(Place::PidOne, &careless).code, 0);
}

#[test]
fn ten_thousand_orphans_are_reaped_and_leave_no_trace_in_memory() {
    let resident = |pid: i32| -> u64 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix(" kB"));
        most.unwrap().trim().parse().unwrap()
    };
    // As an ordinary process it is the same code; fewer will do.
    for (place, last) in [(Place::PidOne, 20), (Place::Ordinary, 4)] {
        let folder = env::scratch();
        let gate = folder.path().join("gate");
        let batches =
            format!("for i in $(seq {last}); do {} 500 gone || exit 1; echo batch $i; done", program("orphans"));
        let script = format!("{batches}; until [ -e {} ]; do sleep 0.05; done; exit 8", gate.display());
        let running = Running::start(place, &under(&["sh", "-c", &script]));
        running.says("batch 1");
        let before = resident(running.init());
        (2..=last).for_each(|nth| running.says(&format!("batch {nth}")));
        let children = format!("/proc/{0}/task/{0}/children", running.init());
        assert_eq!(fs::read_to_string(children).unwrap().split_whitespace().count(), 1, "{place:?}");
        let after = resident(running.init());
        assert!(after - before <= MEMORY_NOISE_KB, "{before} kB, then {after} kB, {place:?}");
        fs::write(gate, "").unwrap();
        assert_eq!(running.end().code, 8, "{place:?}");
    }
    let careless = [program("careless"), program("orphans"), "500", "zombies"];
    assert_eq!(run(Place::PidOne, &careless).code, 0);
}

#[test]
fn what_the_child_leaves_behind_is_asked_to_end() {
    for place in BOTH {
        let notes = |init: fn(&[&str]) -> Vec<&'static str>| {
            let folder = env::scratch();
            let file = folder.path().join("notes");
            let ended = run(place, &init(&[program("daemon"), file.to_str().unwrap(), "obedient"]));
            assert_eq!(ended.code, 0, "{place:?}");
            fs::read_to_string(file).unwrap()
        };
        assert!(notes(under).ends_with("\nTERM\n"), "{place:?}");
        let careless: fn(&[&str]) -> _ = |words| [&[program("careless")], words].concat().iter().map(leaked).collect();
        let control = notes(careless);
        assert!(!control.contains("TERM"), "{place:?}");
        end_daemon(place, &control);
    }
}

#[test]
fn what_does_not_end_is_killed() {
    let folder = env::scratch();
    for relay in ["off", "on"] {
        let file = folder.path().join(relay);
        let daemon = [program("daemon"), file.to_str().unwrap(), "stubborn"];
        assert_eq!(run(Place::PidOne, &under_with(&["--relay", relay], &daemon)).code, 0);
        assert!(fs::read_to_string(&file).unwrap().ends_with("TERM\n"));
        fs::remove_file(&file).unwrap();
        assert_eq!(run(Place::Ordinary, &under_with(&["--relay", relay], &daemon)).code, 0);
        let notes = fs::read_to_string(&file).unwrap();
        assert!(notes.ends_with("TERM\n") && !env::is_alive(pid_in(&notes)), "{notes}");
    }
    let file = folder.path().join("control");
    let daemon = [program("careless"), program("daemon"), file.to_str().unwrap(), "stubborn"];
    assert_eq!(run(Place::Ordinary, &daemon).code, 0);
    let notes = fs::read_to_string(&file).unwrap();
    assert!(env::is_alive(pid_in(&notes)));
    end_daemon(Place::Ordinary, &notes);
}

#[test]
fn what_was_left_by_what_is_left_is_asked_to_end_too_and_once() {
    // A parent that goes at TERM, its child that does not, and another that goes later.
    let leaves = r#"setsid sh -c 'sh -c "trap \"echo TERM >> notes\" TERM; echo ready >> notes; while :; do sleep 0.05; done" & exec sleep 1000' &
        setsid sh -c 'trap "sleep 0.3; exit" TERM; echo ready >> notes; while :; do sleep 0.05; done' &
        until [ "$(cat notes 2>/dev/null)" = "$(printf 'ready\nready')" ]; do sleep 0.05; done"#;
    for place in BOTH {
        let folder = env::scratch();
        let script = format!("cd {}; {leaves}; exit 6", folder.path().display());
        assert_eq!(run(place, &under(&["sh", "-c", &script])).code, 6, "{place:?}");
        assert_eq!(fs::read_to_string(folder.path().join("notes")).unwrap(), "ready\nready\nTERM\n", "{place:?}");
    }
}

#[test]
fn where_nothing_is_left_nothing_is_waited_for() {
    let started = std::time::Instant::now();
    // With the margin of a sweep each time, this would take longer than the limit.
    for _ in 0..100 {
        assert_eq!(run(Place::Ordinary, &under(&["true"])).code, 0);
    }
    assert!(started.elapsed() < LIMIT);
}

#[test]
fn where_the_last_leftover_goes_nothing_more_is_waited_for() {
    let folder = env::scratch();
    let started = std::time::Instant::now();
    // As above: with the whole margin each time, this would take longer than the limit.
    for nth in 0..70 {
        let file = folder.path().join(nth.to_string());
        assert_eq!(run(Place::Ordinary, &under(&[program("daemon"), file.to_str().unwrap(), "obedient"])).code, 0);
        assert!(fs::read_to_string(file).unwrap().ends_with("TERM\n"));
    }
    assert!(started.elapsed() < LIMIT);
}

#[test]
fn a_killed_supervisor_takes_its_child_along() {
    let child_of = |words: &[&str]| {
        let mut running = Running::start(Place::Ordinary, words);
        let child = wait_for("the child", || only_child(running.init()));
        running.says("ready");
        running.process.kill().unwrap();
        running.process.wait().unwrap();
        child
    };
    let script = ["sh", "-c", "trap '' TERM HUP; echo ready; while sleep 0.1; do :; done"];
    let child = child_of(&under(&script));
    wait_for("the child to die", || (!env::is_alive(child)).then_some(()));
    let control = child_of(&[&[program("careless")], &script[..]].concat());
    assert!(env::is_alive(control));
    env::kill(control, Signal::SIGKILL);
}

fn pid_in(notes: &str) -> i32 {
    notes.lines().find_map(|line| line.strip_prefix("pid ")?.parse().ok()).unwrap()
}

fn end_daemon(place: Place, notes: &str) {
    // PID 1 took everything of its namespace along.
    if place == Place::Ordinary {
        env::kill(pid_in(notes), Signal::SIGKILL);
    }
}

fn leaked(word: &&str) -> &'static str {
    (*word).to_owned().leak()
}
