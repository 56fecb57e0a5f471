//! Job control, on a terminal of the test's own.

use super::running::{Place, Running, number, only_child, program, send, under};
use crate::env::wait_for;
use nix::{
    fcntl::OFlag,
    pty::{PtyMaster, grantpt, posix_openpt, unlockpt},
    sys::signal::Signal,
};
use std::{fs, io::Write as _, process::Command};

const INTERRUPT: &[u8] = &[0x03];
const SUSPEND: &[u8] = &[0x1a];

/// The far side; gone, the terminal has hung up. No program of any test inherits it.
struct Terminal(PtyMaster);

impl Terminal {
    fn name(&self) -> String {
        nix::pty::ptsname_r(&self.0).unwrap()
    }

    fn type_in(&mut self, text: &[u8]) {
        self.0.write_all(text).unwrap();
    }
}

/// `words` lead a session on a terminal; their stdin is the terminal, their output is heard as ever.
fn on_a_terminal(words: &[&str]) -> (Running, Terminal) {
    let terminal = Terminal(posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap());
    grantpt(&terminal.0).unwrap();
    unlockpt(&terminal.0).unwrap();
    let launch = ["sh", "-c", "exec setsid --ctty \"$@\" < \"$0\"", &terminal.name()];
    (Running::start(Place::Ordinary, &[&launch[..], words].concat()), terminal)
}

/// A field of `/proc/PID/stat`, by its number in proc_pid_stat(5).
fn field(pid: i32, number: usize) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.split(' ').nth(number - 3).unwrap().parse().unwrap()
}

fn foreground(pid: i32) -> i32 {
    field(pid, 8)
}

fn times(running: &Running, line: &str) -> usize {
    running.stdout().lines().filter(|said| *said == line).count()
}

#[test]
fn the_child_has_the_terminal_and_what_is_typed_reaches_it_once() {
    let (running, mut terminal) = on_a_terminal(&under(&[program("listener")]));
    running.says("parent ready");
    running.says("child ready");
    let child = only_child(running.init()).unwrap();
    assert_eq!(foreground(running.init()), child);
    terminal.type_in(INTERRUPT);
    terminal.type_in(SUSPEND);
    for signal in [Signal::SIGINT, Signal::SIGTSTP] {
        running.says(&format!("parent {}", number(signal)));
        running.says(&format!("child {}", number(signal)));
    }
    // Whatever the supervisor had to forward would have come before this.
    send(running.init(), 64);
    running.says("parent 64");
    assert_eq!((times(&running, "parent 2"), times(&running, "parent 20")), (1, 1), "{}", running.stdout());
    send(running.init(), number(Signal::SIGQUIT));
    assert_eq!(running.end().code, 0);
    // The control: an init without groups of its own hears it all itself, and dies of it.
    let (running, mut terminal) = on_a_terminal(&[program("careless"), program("listener")]);
    running.says("child ready");
    let child = only_child(running.init()).unwrap();
    assert_ne!(foreground(running.init()), child);
    running.says("parent ready");
    terminal.type_in(INTERRUPT);
    running.says("parent 2");
    send(child, number(Signal::SIGQUIT));
    assert_eq!(running.end().code, -2);
}

#[test]
fn a_child_suspended_from_the_terminal_goes_on_when_it_is_told() {
    let words = under(&["sh", "-c", "echo ready; read -r line; echo \"$line\"; exit 3"]);
    let (running, mut terminal) = on_a_terminal(&words);
    running.says("ready");
    let child = only_child(running.init()).unwrap();
    terminal.type_in(SUSPEND);
    wait_for("the stop", || (state(child) == 'T').then_some(()));
    send(running.init(), number(Signal::SIGCONT));
    wait_for("it to go on", || (state(child) != 'T').then_some(()));
    terminal.type_in(b"word\n");
    running.says("word");
    assert_eq!(running.end().code, 3);
}

fn state(pid: i32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
}

#[test]
fn a_terminal_that_hangs_up_or_changes_its_size_is_told() {
    let (running, terminal) = on_a_terminal(&under(&[program("listener")]));
    running.says("parent ready");
    running.says("child ready");
    let resized = Command::new("stty").args(["rows", "50", "-F", &terminal.name()]).status();
    assert!(resized.unwrap().success());
    running.says(&format!("parent {}", number(Signal::SIGWINCH)));
    // The kernel tells the session's leader alone, which is the supervisor.
    drop(terminal);
    running.says("parent 1");
    running.says("child 1");
    send(running.init(), number(Signal::SIGQUIT));
    assert_eq!(running.end().code, 0);
}

#[test]
fn a_terminal_that_is_anothers_stays_so() {
    // A job in the background of a shell: the shell's group keeps the terminal.
    let background = "set -m; \"$@\" & wait $!; echo \"ended $?\"";
    let (running, _terminal) =
        on_a_terminal(&[&["sh", "-c", background, "sh"], &under(&[program("listener")])[..]].concat());
    running.says("parent ready");
    let shell = running.init();
    assert_eq!(foreground(shell), field(shell, 5));
    let supervisor = only_child(shell).unwrap();
    // SIGTTOU is for who writes from the background; it goes on to the child and stops nobody here.
    send(supervisor, number(Signal::SIGTTOU));
    running.says(&format!("parent {}", number(Signal::SIGTTOU)));
    send(supervisor, number(Signal::SIGQUIT));
    running.says("ended 0");
}

#[test]
fn the_terminal_comes_back_after_the_child() {
    // A script goes on to read; whoever is not in the foreground group would get SIGTTIN.
    let script = "\"$@\"; echo \"ended $?\"; read -r line; echo \"$line\"";
    for (child, code) in [("true", "0"), ("no-such-command", "127")] {
        let words = [&["sh", "-c", script, "sh"], &under(&[child])[..]];
        let (running, mut terminal) = on_a_terminal(&words.concat());
        running.says(&format!("ended {code}"));
        let shell = running.init();
        assert_eq!(foreground(shell), field(shell, 5), "{child}");
        terminal.type_in(b"word\n");
        running.says("word");
        assert_eq!(running.end().code, 0);
    }
}
