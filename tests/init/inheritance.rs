//! What the child gets from us, and what it does not.

use super::running::{BOTH, Place, program, run, signals, under, under_with};
use crate::env;
use std::{fs, os::unix::fs::PermissionsExt as _};

#[test]
fn the_child_starts_with_a_clean_slate() {
    let status = ["cat", "/proc/self/status"];
    for place in BOTH {
        let burdened = |words: &[&str]| run(place, &[&[program("burdened")], words].concat());
        for name in ["SigBlk", "SigIgn", "SigPnd", "ShdPnd"] {
            assert_eq!(signals(burdened(&under(&status)).stdout(), name), 0, "{name}, {place:?}");
            let control = burdened(&status);
            assert!(signals(control.stdout(), name) != 0 || name.ends_with("Pnd"), "{name}, {place:?}");
        }
        // With SIGCHLD ignored, the kernel would reap in our place, and the exit code be lost.
        assert_eq!(burdened(&under(&["sh", "-c", "exit 9"])).code, 9, "{place:?}");
        assert_eq!(burdened(&under(&[program("orphans"), "5", "gone"])).code, 0, "{place:?}");
    }
}

#[test]
fn the_child_runs_as_whom_it_is_to_run() {
    let ids = "echo $(id -u) $(id -g) $(id -G); grep CapEff /proc/self/status";
    for place in BOTH {
        let by_number = run(place, &under_with(&["--user", "4711:4712"], &["sh", "-c", ids]));
        assert_eq!(by_number.stdout().lines().next(), Some("4711 4712 4712"), "{place:?}: {}", by_number.stderr());
        assert!(by_number.stdout().contains("CapEff:\t0000000000000000"), "{}", by_number.stdout());
        let by_name = run(place, &under_with(&["--user", "nobody"], &["id", "-un"]));
        assert_eq!(by_name.stdout().trim(), "nobody");
        assert_eq!(run(place, &under_with(&["--user", "no-such-user"], &["true"])).code, 64);
        assert_eq!(run(place, &under_with(&["--user", "nobody"], &["sh", "-c", "kill -KILL $$"])).code, 137);
    }
    let control = run(Place::Ordinary, &under(&["sh", "-c", ids]));
    assert!(!control.stdout().starts_with("4711"));
}

#[test]
fn the_child_leads_a_group_of_its_own() {
    let leads = |words: &[&str]| {
        let ended = run(Place::Ordinary, words);
        let (pid, rest) = ended.stdout().split_once(' ').unwrap();
        rest.rsplit_once(") ").unwrap().1.split(' ').nth(2) == Some(pid)
    };
    let stat = ["cat", "/proc/self/stat"];
    assert!(leads(&under(&stat)));
    assert!(!leads(&stat));
}

#[test]
fn the_child_inherits_stdin_descriptors_and_environment_and_nothing_of_ours() {
    let script = "cat; for fd in /proc/$$/fd/*; do [ -e $fd ] && echo ${fd##*/}; done; env | grep -v '^_=' | sort";
    let child = ["sh", "-c", script];
    for place in BOTH {
        let text = |words: &[&str]| {
            let env = ["env", "SENDO_GRACE=1h", "SENDO_UNKNOWN=x", "SENDOX=kept"];
            let with_input = ["sh", "-c", "printf 'in\\nput' | \"$@\"", "sh"];
            run(place, &[&env[..], &with_input, words].concat()).stdout().to_owned()
        };
        let bare = text(&child);
        assert!(bare.starts_with("in\nput") && bare.contains("SENDO_GRACE=1h"), "{bare}");
        let without_ours: Vec<_> = bare.lines().filter(|line| !line.starts_with("SENDO_")).collect();
        assert_eq!(text(&under(&child)).lines().collect::<Vec<_>>(), without_ours, "{place:?}");
    }
}

#[test]
fn the_childs_own_user_cannot_read_the_supervisors_environment() {
    let folder = env::scratch();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = folder.path().join("supervisor");
    fs::copy(env::supervisor(), &copy).unwrap();
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "SENDO_SECRET=hidden"];
    let parents = ["sh", "-c", "cat /proc/$PPID/environ; echo $?"];
    for place in BOTH {
        let text = |words: &[&str]| run(place, &[&nobody[..], words].concat()).stdout().to_owned();
        assert_eq!(text(&[&[copy.to_str().unwrap(), "--"], &parents[..]].concat()), "1\n", "{place:?}");
        let control = ["sh", "-c", &format!("{}; true", "sh -c 'cat /proc/$PPID/environ'")];
        assert!(text(&control).contains("SENDO_SECRET=hidden"), "{place:?}");
    }
}
