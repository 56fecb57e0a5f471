//! Next to nothing around it: no `/proc`, no libraries, no `/dev`, nothing writable, no name for its user, no room on the disk.

use super::running::{BOTH, Place, Running, program, run, under, under_with};
use crate::env::{self, wait_for};
use std::{fs, os::unix::fs::PermissionsExt as _};

/// A shell that mounts what `$1` says in a namespace of its own, and becomes the rest.
fn with_mounts<'a>(mounts: &'a str, words: &[&'a str]) -> Vec<&'a str> {
    let shell = "eval \"$0\" && exec \"$@\"";
    [&["unshare", "--mount", "sh", "-ec", shell, mounts], words].concat()
}

#[test]
fn a_root_that_holds_nothing_else_will_do() {
    let root = env::scratch();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o555)).unwrap();
    fs::copy(env::supervisor(), root.path().join("init")).unwrap();
    // Static itself, so it serves as the transfer too.
    let inside = |user: &str, flags: &[&str]| {
        let bare = format!("mount --bind {0} {0} && mount -o remount,bind,ro {0}", root.path().display());
        let chroot = format!("--userspec={user}");
        let chroot = ["chroot", &chroot, root.path().to_str().unwrap(), "/init"];
        let words = [&chroot[..], flags, &["--", "/init", "--version"]].concat();
        BOTH.map(|place| run(place, &with_mounts(&bare, &words)))
    };
    for user in ["0:0", "10001:10001", "65534:65534"] {
        for relay in ["off", "on"] {
            for ended in inside(user, &["--relay", relay]) {
                let version = concat!("sendo-supervisor ", env!("CARGO_PKG_VERSION"), "\n");
                assert_eq!((ended.code, ended.stdout(), ended.stderr()), (0, version, ""), "user {user}");
            }
        }
    }
    // By number without a passwd; by name it says what is missing.
    inside("0:0", &["--user", "10001"]).iter().for_each(|ended| assert_eq!(ended.code, 0, "{}", ended.stderr()));
    for ended in inside("0:0", &["--user", "embulk"]) {
        assert_eq!(ended.code, 64);
        assert!(ended.stderr().contains("/etc/passwd"), "{}", ended.stderr());
    }
}

#[test]
fn without_a_proc_of_its_own_it_still_ends_what_is_left() {
    let folder = env::scratch();
    // None at all, and that of the namespace above, whose numbers mean other processes.
    let none = "mount -t tmpfs none /proc";
    for (name, mounts, place) in [("none", none, "--pid"), ("none", none, "--uts"), ("foreign", ":", "--pid")] {
        let file = folder.path().join(format!("{name}{place}"));
        let daemon = under(&[program("daemon"), file.to_str().unwrap(), "stubborn"]);
        // No `--mount-proc` here.
        let words = [&["unshare", "--fork", "--kill-child", place], &with_mounts(mounts, &daemon)[..]].concat();
        let ended = run(Place::Ordinary, &words);
        assert_eq!(ended.code, 0, "{name} {place}: {}", ended.stderr());
        let notes = fs::read_to_string(&file).unwrap();
        assert!(notes.ends_with("TERM\n"), "{name} {place}: {notes}");
        // The numbers of an ordinary process are ours too.
        let pid = notes.lines().find_map(|line| line.strip_prefix("pid ")?.parse().ok()).unwrap();
        assert!(place == "--pid" || !env::is_alive(pid), "{notes}");
    }
    // The control finds nobody by a foreign /proc: pids there are not pids here.
    let looks = "use strict; exit 3 if (readlink '/proc/self') eq $$; exit 4";
    let looking = |proc: &str| run(Place::Ordinary, &["unshare", "--fork", "--pid", proc, "perl", "-e", looks]).code;
    assert_eq!((looking("--mount-proc"), looking("--kill-child")), (3, 4));
}

#[test]
fn a_full_disk_behind_its_output_does_not_harm_the_child() {
    let script = "i=0; while [ $i -lt 3000 ]; do echo $i || exit 1; i=$((i+1)); done; exit 6";
    for place in BOTH {
        let onto = |words: &[&str]| run(place, &[&["sh", "-c", "exec \"$@\" >/dev/full", "sh"], words].concat()).code;
        assert_eq!(onto(&under_with(&["--relay", "on"], &["sh", "-c", script])), 6, "{place:?}");
        assert_eq!(onto(&["sh", "-c", script]), 1, "the control");
    }
}

#[test]
fn who_holds_the_output_open_from_outside_does_not_hold_it_up() {
    for place in BOTH {
        let script = "echo ready; read -r _ < gate; exit 5";
        let start = |words: &[&str]| {
            let folder = env::scratch();
            let launch = format!("cd {}; mkfifo gate; exec \"$@\"", folder.path().display());
            let running = Running::start(place, &[&["sh", "-c", &launch, "sh"], words].concat());
            running.says("ready");
            (running, folder)
        };
        let (running, folder) = start(&under_with(&["--relay", "on"], &["sh", "-c", script]));
        let child = super::running::only_child(running.init()).unwrap();
        let held = fs::OpenOptions::new().write(true).open(format!("/proc/{child}/fd/1")).unwrap();
        fs::write(folder.path().join("gate"), "\n").unwrap();
        assert_eq!(running.end().code, 5, "{place:?}");
        drop(held);
        // The control reads to the end of the pipe.
        let copying = format!("sh -c '{script}' | cat");
        let (running, folder) = start(&["sh", "-c", &copying]);
        let children = || {
            let init = running.init();
            let children = fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap();
            children.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<i32>>()
        };
        let [child, cat] = children()[..] else { panic!("{:?}", children()) };
        let held = fs::OpenOptions::new().write(true).open(format!("/proc/{child}/fd/1")).unwrap();
        fs::write(folder.path().join("gate"), "\n").unwrap();
        wait_for("the end of the writer", || (!env::is_alive(child)).then_some(()));
        assert!(env::is_alive(cat));
        drop(held);
        running.end();
    }
}
