//! Processes that are stopped, and go on.

use super::running::{BOTH, Place, Running, number, only_child, program, send, signals, under};
use crate::env::{self, wait_for};
use nix::sys::signal::Signal;
use std::fs;

fn status(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default()
}

fn stop(pid: i32) {
    env::kill(pid, Signal::SIGSTOP);
    wait_for("the stop", || status(pid).contains("State:\tT").then_some(()));
}

fn waits_for(pid: i32, signal: Signal) {
    wait_for(&format!("{signal} to wait"), || {
        (signals(&status(pid), "ShdPnd") & 1 << (number(signal) - 1) != 0).then_some(())
    });
}

#[test]
fn a_stopped_child_has_not_ended_and_gets_its_signals_when_it_goes_on() {
    for place in BOTH {
        let running = Running::start(place, &under(&[program("listener")]));
        running.says("parent ready");
        let child = only_child(running.init()).unwrap();
        stop(child);
        // Forwarded, so the supervisor has seen the stop before it and lives.
        send(running.init(), number(Signal::SIGUSR1));
        waits_for(child, Signal::SIGUSR1);
        assert!(!running.stdout().contains("parent 10"));
        send(running.init(), number(Signal::SIGCONT));
        running.says("parent 10");
        running.says("parent 18");
        send(running.init(), number(Signal::SIGQUIT));
        assert_eq!(running.end().code, 0, "{place:?}");
    }
    // The control takes a stop for the end.
    let hasty = "$c = fork or exec @ARGV; waitpid $c, 2; exit 99";
    let running = Running::start(Place::Ordinary, &["perl", "-e", hasty, "sleep", "1000"]);
    let child = wait_for("the child", || only_child(running.init()));
    env::kill(child, Signal::SIGSTOP);
    assert_eq!(running.end().code, 99);
    assert!(env::is_alive(child));
    env::kill(child, Signal::SIGKILL);
}

#[test]
fn a_stopped_supervisor_forwards_when_it_goes_on() {
    for place in BOTH {
        let running = Running::start(place, &under(&[program("listener")]));
        running.says("parent ready");
        let init = running.init();
        stop(init);
        let sent = [Signal::SIGUSR1, Signal::SIGTERM].map(|signal| {
            send(init, number(signal));
            waits_for(init, signal);
            number(signal)
        });
        assert!(!running.stdout().contains("parent 1"));
        send(init, number(Signal::SIGCONT));
        sent.iter().for_each(|signal| running.says(&format!("parent {signal}")));
        send(init, number(Signal::SIGQUIT));
        assert_eq!(running.end().code, 0, "{place:?}");
    }
}

#[test]
fn a_child_that_ends_under_a_stopped_supervisor_is_reaped_when_it_goes_on() {
    for place in BOTH {
        let running = Running::start(place, &under(&["sleep", "1000"]));
        let child = wait_for("the child", || {
            only_child(running.init()).filter(|child| status(*child).starts_with("Name:\tsleep"))
        });
        stop(running.init());
        env::kill(child, Signal::SIGKILL);
        wait_for("the child to die", || status(child).contains("State:\tZ").then_some(()));
        send(running.init(), number(Signal::SIGCONT));
        assert_eq!(running.end().code, 137, "{place:?}");
    }
}
