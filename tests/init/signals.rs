//! Signals go on to the transfer's group, at once and each time, from the first moment.

use super::running::{BOTH, Place, Running, number, only_child, program, run, send, signals, under, under_with};
use crate::env::{self, wait_for};
use nix::sys::signal::Signal;
use std::fs;

/// The first and the last real-time signal that the C library leaves to programs.
const REAL_TIME: [i32; 2] = [34, 64];
/// How often the races are run.
const ROUNDS: usize = 30;

#[test]
fn signals_reach_the_childs_whole_group_each_time() {
    for place in BOTH {
        let running = Running::start(place, &under(&[program("listener")]));
        running.says("parent ready");
        running.says("child ready");
        let named = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGWINCH].map(number);
        let twice = [named.as_slice(), &REAL_TIME, &[number(Signal::SIGTERM)]].concat();
        let mut expected = vec!["child ready".to_owned(), "parent ready".to_owned()];
        for signal in twice {
            send(running.init(), signal);
            expected.extend([format!("child {signal}"), format!("parent {signal}")]);
            expected.sort();
            let mut said = vec![];
            wait_for(&format!("{expected:?}"), || {
                said = running.stdout().lines().map(str::to_owned).collect::<Vec<_>>();
                (said.len() >= expected.len()).then_some(())
            });
            said.sort();
            assert_eq!(said, expected, "{place:?}");
        }
        send(running.init(), number(Signal::SIGQUIT));
        assert_eq!(running.end().code, 0);
    }
}

#[test]
fn a_child_that_left_its_group_is_signalled_too() {
    // It joins the group of a child of its own; the group that it led is empty.
    let leaves = r#"pipe my $hears, my $says; my $child = fork;
        unless ($child) { setpgrp; syswrite $says, "!"; sleep 1000; exit }
        sysread $hears, my $ready, 1; setpgrp 0, $child; syswrite STDOUT, "ready\n"; sleep 1000"#;
    for place in BOTH {
        let running = Running::start(place, &under(&["perl", "-e", leaves]));
        running.says("ready");
        let child = only_child(running.init()).unwrap();
        // The control: its group alone would not do.
        let group = nix::unistd::Pid::from_raw(child);
        assert_eq!(nix::sys::signal::killpg(group, None), Err(nix::errno::Errno::ESRCH));
        send(running.init(), number(Signal::SIGTERM));
        assert_eq!(running.end().code, 143, "{place:?}");
    }
}

#[test]
fn control_a_careless_init_forwards_nothing() {
    for place in BOTH {
        let running = Running::start(place, &[program("careless"), program("listener")]);
        running.says("parent ready");
        let child = only_child(running.init()).unwrap();
        send(running.init(), number(Signal::SIGTERM));
        send(child, number(Signal::SIGUSR1));
        running.says("parent 10");
        assert!(!running.stdout().contains("15"), "{place:?}");
        send(child, number(Signal::SIGQUIT));
    }
}

#[test]
fn the_grace_ends_in_a_kill_and_no_grace_never_does() {
    let folder = env::scratch();
    let go = folder.path().join("go");
    let script = format!("trap '' TERM; echo ready; until [ -e {} ]; do sleep 0.05; done; exit 5", go.display());
    for place in BOTH {
        let start = |flags: &[&str]| {
            let running = Running::start(place, &under_with(flags, &["sh", "-c", &script]));
            running.says("ready");
            send(running.init(), number(Signal::SIGTERM));
            running
        };
        let without = start(&[]);
        assert_eq!(start(&["--grace", "1s"]).end().code, 137, "{place:?}");
        // As long as the other's whole life, and alive.
        assert!(env::is_alive(without.init()), "{place:?}");
        fs::write(&go, "").unwrap();
        assert_eq!(without.end().code, 5, "{place:?}");
        fs::remove_file(&go).unwrap();
    }
}

#[test]
fn a_term_right_after_the_start_is_not_lost() {
    for _ in 0..ROUNDS {
        let running = Running::start(Place::Ordinary, &under(&["sleep", "1000"]));
        send(running.init(), number(Signal::SIGTERM));
        let code = running.end().code;
        // Before the supervisor's first line of code, the kernel ends it as any process.
        assert!([143, -15].contains(&code), "{code}");
    }
    for _ in 0..ROUNDS {
        let running = Running::start(Place::PidOne, &under(&["sleep", "1000"]));
        // Before the first line of code the kernel discards what PID 1 does not block: not ours to mend.
        let init = running.init();
        wait_for("the supervisor to block TERM", || {
            let status = fs::read_to_string(format!("/proc/{init}/status")).ok()?;
            (status.starts_with("Name:\tsendo") && signals(&status, "SigBlk") & 1 << 14 != 0).then_some(())
        });
        send(init, number(Signal::SIGTERM));
        assert_eq!(running.end().code, 143);
    }
}

#[test]
fn a_term_that_waited_before_the_start_is_forwarded() {
    for place in BOTH {
        let pending = [program("burdened"), "--pending-term"];
        assert_eq!(run(place, &[&pending, under(&["sleep", "1000"]).as_slice()].concat()).code, 143, "{place:?}");
        let control = run(place, &[&pending[..], &["cat", "/proc/self/status"]].concat());
        assert_ne!(signals(control.stdout(), "ShdPnd"), 0);
    }
}
