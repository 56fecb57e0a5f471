//! A TERM at every moment of the start: at each system call of the supervisor's, and at each step of its child's.
//!
//! strace sends the signal, or stops the child, exactly there.

use super::running::{BOTH, Place, Running, number, only_child, program, run, send, signals, under};
use crate::env::{self, wait_for};
use nix::sys::signal::Signal;
use std::{collections::HashMap, fs, path::Path};

/// `words` in their place, under strace, which tampers with them as `inject` says.
pub fn tampered(place: Place, inject: &[&str], words: &[&str]) -> Vec<String> {
    let inject = inject.iter().flat_map(|inject| ["-e", inject]);
    let strace = ["strace", "-f", "-qq", "-o", "/dev/null"].into_iter().chain(inject);
    let unshare = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child", "--"];
    let unshare = unshare.into_iter().filter(|_| place == Place::PidOne);
    strace.chain(unshare).chain(words.iter().copied()).map(str::to_owned).collect()
}

/// strace stands above it, so that its place is not what `Running` thinks.
pub fn start(words: &[String]) -> Running {
    Running::start(Place::Ordinary, &words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn status(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default()
}

/// The first below `pid` that is of that name.
fn below(pid: i32, name: &str) -> i32 {
    wait_for(name, || {
        let mut pid = only_child(pid)?;
        while !status(pid).starts_with(&format!("Name:\t{name}")) {
            pid = only_child(pid)?;
        }
        Some(pid)
    })
}

#[test]
fn a_term_at_any_system_call_of_the_start_is_not_lost() {
    let folder = env::scratch();
    let file = folder.path().join("calls");
    let words = under(&["sleep", "1000"]);
    let strace = ["strace", "-o", file.to_str().unwrap()];
    let traced = run(Place::Ordinary, &[&strace[..], &under(&["true"])].concat());
    assert_eq!(traced.code, 0, "{}", traced.stderr());
    let calls = fs::read_to_string(&file).unwrap();
    let mut nth: HashMap<&str, usize> = HashMap::new();
    let mut taken_over = false;
    // From the first one behind the exec to the one that waits for events.
    for call in calls.lines().skip(1).filter_map(|line| line.split_once('(')).map(|(call, _)| call) {
        if call == "poll" && taken_over {
            break;
        }
        let nth = nth.entry(call).and_modify(|nth| *nth += 1).or_insert(1);
        let inject = format!("inject={call}:signal=TERM:when={nth}");
        let code = start(&tampered(Place::Ordinary, &[&inject], &words)).end().code;
        taken_over |= call == "signalfd4";
        // Before it takes over the signals, the kernel ends it as any process.
        assert!(code == 143 || (code == -15 && !taken_over), "{code} at {call} {nth}");
    }
    assert!(taken_over, "{calls}");
    // As PID 1 those that `unshare` before it does not make; not the number of one that it makes.
    for call in ["signalfd4", "socketpair", "recvfrom"] {
        let inject = format!("inject={call}:signal=TERM");
        assert_eq!(start(&tampered(Place::PidOne, &[&inject], &words)).end().code, 143, "{call}");
    }
    // The control: PID 1 without a signalfd never hears of it.
    let inject = "inject=pipe2:signal=TERM";
    let script = "pipe my $hears, my $says";
    let control = |place| start(&tampered(place, &[inject], &["perl", "-e", script])).end().code;
    assert_eq!((control(Place::PidOne), control(Place::Ordinary)), (0, -15));
}

#[test]
fn a_term_between_fork_and_exec_waits_for_the_exec() {
    // Before it has a group of its own; with its parent checked; executed, before its first own instruction.
    for call in ["setpgid:signal=STOP", "getppid:signal=STOP", "execve:signal=STOP:when=2"] {
        for place in BOTH {
            // The child's first try is in vain, so that its second execve is the one; the supervisor has no second.
            let path = ["env", "PATH=/missing:/usr/bin:/bin"].map(str::to_owned);
            let launch = tampered(place, &[&format!("inject={call}")], &under(&["sleep", "1000"]));
            let folder = env::scratch();
            let log = folder.path().join("log");
            let launch = [&path[..], &launch].concat().into_iter().map(|word| match word.as_str() {
                "/dev/null" => log.to_str().unwrap().to_owned(),
                _ => word,
            });
            let running = start(&launch.collect::<Vec<_>>());
            let supervisor = below(running.init(), "sendo");
            stopped(&log);
            let child = only_child(supervisor).unwrap();
            send(supervisor, number(Signal::SIGTERM));
            send(child, number(Signal::SIGCONT));
            assert_eq!(running.end().code, 143, "{call}, {place:?}");
        }
    }
    // The control: who does not forward it leaves the child as it is.
    let folder = env::scratch();
    let log = folder.path().join("log");
    let words = ["strace", "-f", "-qq", "-o", log.to_str().unwrap(), "-e", "inject=execve:signal=STOP:when=2"];
    let words = [&["env", "PATH=/missing:/usr/bin:/bin"], &words[..], &[program("careless"), "sleep", "1000"]].concat();
    let running = Running::start(Place::Ordinary, &words);
    let careless = below(running.init(), "careless");
    stopped(&log);
    let child = only_child(careless).unwrap();
    send(careless, number(Signal::SIGTERM));
    wait_for("the careless to die", || (!env::is_alive(careless)).then_some(()));
    assert_eq!(signals(&status(child), "ShdPnd") & 1 << 14, 0);
    send(child, number(Signal::SIGKILL));
}

/// strace says so when the whole stop is there; a process under it is also `t` at each of its system calls.
fn stopped(log: &Path) {
    wait_for("the child to stop", || fs::read_to_string(log).ok()?.contains("stopped by SIGSTOP").then_some(()));
}
