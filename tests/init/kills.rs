//! Deaths below the supervisor, and pids that come again.

use super::running::{BOTH, Place, Running, only_child, program, run, under};
use crate::env::{self, wait_for};
use nix::sys::signal::Signal;
use std::fs;

#[test]
fn a_killed_grandchild_is_the_childs_business() {
    let script = "sleep 1000 & echo pid; wait $!; echo \"saw $?\"; exit 4";
    for place in BOTH {
        let running = Running::start(place, &under(&["sh", "-c", script]));
        running.says("pid");
        let child = only_child(running.init()).unwrap();
        env::kill(wait_for("the grandchild", || only_child(child)), Signal::SIGKILL);
        let ended = running.end();
        assert_eq!((ended.code, ended.stdout()), (4, "pid\nsaw 137\n"), "{place:?}");
    }
}

#[test]
fn the_end_of_a_killed_middle_is_ours_and_nothing_stays() {
    // The child, a middle that is killed, and one below it that ends as an orphan.
    for (place, init) in
        [(Place::PidOne, under(&[])), (Place::Ordinary, under(&[])), (Place::PidOne, vec![program("careless")])]
    {
        let folder = env::scratch();
        let gate = |name: &str| folder.path().join(name);
        let wait = |name: &str| format!("until [ -e {} ]; do sleep 0.05; done", gate(name).display());
        let middle = format!("sh -c \"echo low; {}\"; :", wait("low"));
        let script = format!("sh -c '{middle}' & wait; {}; exit 6", wait("child"));
        let running = Running::start(place, &[&init[..], &["sh", "-c", &script]].concat());
        running.says("low");
        let init_pid = running.init();
        let middle = only_child(only_child(init_pid).unwrap()).unwrap();
        let low = only_child(middle).unwrap();
        env::kill(middle, Signal::SIGKILL);
        let status = || fs::read_to_string(format!("/proc/{low}/status")).unwrap_or_default();
        wait_for("the adoption", || status().contains(&format!("PPid:\t{init_pid}\n")).then_some(()));
        fs::write(gate("low"), "").unwrap();
        wait_for("the orphan's end", || (!env::is_alive(low)).then_some(()));
        if init.contains(&program("careless")) {
            assert!(status().contains("State:\tZ"), "the control");
        } else {
            wait_for("the reaping", || status().is_empty().then_some(()));
        }
        fs::write(gate("child"), "").unwrap();
        assert_eq!(running.end().code, 6, "{place:?}");
    }
}

#[test]
fn a_pid_that_comes_again_is_not_taken_for_the_child() {
    let notes = |init: &[&str]| {
        let folder = env::scratch();
        let file = folder.path().join("notes");
        // On a machine that is too busy the leftover is killed before it is through.
        wait_for("the leftover's notes", || {
            let _ = fs::remove_file(&file);
            let ended = run(Place::PidOne, &[init, &[program("again"), file.to_str().unwrap()]].concat());
            assert_eq!((ended.code, ended.stderr()), (0, ""));
            fs::read_to_string(&file).ok().filter(|notes| notes.ends_with("sent\n"))
        })
    };
    // USR1 goes to the supervisor when another process leads a group of the ended child's number.
    assert_eq!(notes(&under(&[])), "the same pid\nsent\n");
    // The control forwards to that number whoever has it, unless the signal came just before its wait(2), where Perl looks at none.
    let forgetful =
        "$c = fork or exec @ARGV; $SIG{USR1} = sub { kill -USR1 => $c }; 1 until wait < 0 && !$!{EINTR}; exit 0";
    wait_for("the wrong one to be hit", || {
        (notes(&["perl", "-MErrno", "-e", forgetful]) == "the same pid\nUSR1\nsent\n").then_some(())
    });
}
