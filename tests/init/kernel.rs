//! A kernel that is older than ours, or that refuses.

use super::{
    running::{BOTH, Ended, Place, run, under, under_with},
    start::{start, tampered},
};
use crate::env::{
    self,
    wrong_ledger::{Reply, WrongLedger},
};
use serde_json::Value;
use std::{fs, os::unix::fs::PermissionsExt as _};

/// What Linux 4.14 does not have yet and a program of today may ask for.
const NEWER: [&str; 14] = [
    "close_range",
    "clone3",
    "pidfd_open",
    "pidfd_getfd",
    "pidfd_send_signal",
    "openat2",
    "faccessat2",
    "rseq",
    "statx",
    "epoll_pwait2",
    "fchmodat2",
    "futex_waitv",
    "process_madvise",
    "io_uring_setup",
];

#[test]
fn an_old_kernel_will_do() {
    let old = format!("inject=?{}:error=ENOSYS", NEWER.join(",?")); // ?: if this strace knows it;
    let script = "(setsid sleep 1000 &) ; exit 9";
    for place in BOTH {
        for relay in ["off", "on"] {
            let words = under_with(&["--relay", relay], &["sh", "-c", script]);
            let ended = start(&tampered(place, &[&old], &words)).end();
            assert_eq!(ended.code, 9, "relay {relay}, {place:?}: {}", ended.stderr());
        }
    }
    let (ended, ledger) = with_a_job("word", &[&old], &["sh", "-c", "ls /proc/self/fd | wc -l; exit 9"]);
    assert_eq!(ended.code, 9, "{}", ended.stderr());
    assert_eq!(ending(&ledger)["exit_code"], 9);
    // The control: the injection is one.
    let without_fork = start(&tampered(Place::Ordinary, &["inject=clone,fork,vfork:error=ENOSYS"], &under(&["true"])));
    assert_eq!(without_fork.end().code, 126);
}

#[test]
fn a_fork_that_fails_says_why_and_what_to_do() {
    for (error, mend) in [("EAGAIN", "pids.max"), ("ENOMEM", "memory")] {
        let inject = format!("inject=clone,fork,vfork:error={error}");
        let ended = start(&tampered(Place::Ordinary, &[&inject], &under(&["some-command"]))).end();
        assert_eq!(ended.code, 126, "{}", ended.stderr());
        assert!(ended.stderr().contains("start `some-command`") && ended.stderr().contains(mend), "{}", ended.stderr());
        let (ended, ledger) = with_a_job("word", &[&inject], &["true"]);
        assert_eq!(ended.code, 126, "{}", ended.stderr());
        let ending = ending(&ledger);
        assert_eq!(ending["outcome"]["kind"], "not_started", "{ending:#}");
        let errno = if error == "EAGAIN" { libc::EAGAIN } else { libc::ENOMEM };
        assert!(ending.to_string().contains(mend) && ending.to_string().contains(&errno.to_string()), "{ending:#}");
    }
}

#[test]
fn a_full_disk_behind_the_termination_log_is_told_and_harms_nothing() {
    for (word, told) in [("/dev/full", true), ("word", false)] {
        let (ended, ledger) = with_a_job(word, &[], &["sh", "-c", "exit 9"]);
        assert_eq!((ended.code, &ending(&ledger)["exit_code"]), (9, &9.into()), "{}", ended.stderr());
        let said = ended.stderr().contains("/dev/full") && ended.stderr().contains("No space left");
        assert_eq!(said, told, "{}", ended.stderr());
    }
}

#[test]
fn the_users_limit_of_processes_is_named() {
    let folder = env::scratch();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = folder.path().join("supervisor");
    fs::copy(env::supervisor(), &copy).unwrap();
    for place in BOTH {
        let limited = |uid: &str, limit: &str| {
            let who = ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "prlimit", limit];
            run(place, &[&who[..], &[copy.to_str().unwrap(), "--", "true"]].concat())
        };
        // A user of this test's own: all processes of one user count together.
        let uid = (0x4000_0000 + std::process::id() * 4 + u32::from(place == Place::PidOne)).to_string();
        let ended = limited(&uid, "--nproc=1");
        assert_eq!(ended.code, 126, "{}", ended.stderr());
        assert!(ended.stderr().contains("ulimit -u"), "{}", ended.stderr());
        assert_eq!(limited(&uid, "--nproc=2").code, 0, "the control");
    }
}

fn ending(ledger: &WrongLedger) -> Value {
    let asked = ledger.wait("the ending", |asked| asked.taken && asked.brings("ending"));
    asked.records().iter().find(|record| record["record"] == "ending").unwrap()["ending"].clone()
}

/// The command as an attempt of its own, granted and heard by a ledger; `word` is the file of its last word.
fn with_a_job(word: &str, inject: &[&str], command: &[&str]) -> (Ended, WrongLedger) {
    let folder = env::scratch();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(file("token"), "first\n").unwrap();
    let ledger = WrongLedger::start(Reply::to);
    let flags = ["--job", "a", "--attempt", "1", "--ledger-url", &ledger.url, "--token-file", &file("token")];
    let files = ["--termination-log", &file(word), "--work-dir", folder.path().to_str().unwrap()];
    let ended = start(&tampered(Place::Ordinary, inject, &under_with(&[&flags[..], &files].concat(), command))).end();
    (ended, ledger)
}
