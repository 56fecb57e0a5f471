//! Exit codes, and what the supervisor says to bad usage.

use super::running::{BOTH, Place, run, under};
use crate::env;
use std::{fs, os::unix::fs::PermissionsExt as _};

#[test]
fn the_exit_code_is_the_childs() {
    for place in BOTH {
        for (script, code) in [
            ("exit 0", 0),
            ("exit 3", 3),
            ("exit 255", 255),
            ("kill -TERM $$", 143),
            ("kill -KILL $$", 137),
            ("kill -34 $$", 128 + 34),
        ] {
            assert_eq!(run(place, &under(&["sh", "-c", script])).code, code, "{script}, {place:?}");
        }
    }
}

#[test]
fn what_cannot_be_started_is_127_or_126() {
    let folder = env::scratch();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let file = |name: &str, content: &[u8], mode| {
        fs::write(path(name), content).unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
        path(name)
    };
    let mut foreign = fs::read(env::supervisor()).unwrap();
    foreign[18..20].copy_from_slice(&[0xf3, 0]); // e_machine, elf(5): RISC-V
    for place in BOTH {
        for (command, code) in [
            ("no-such-command".into(), 127),
            (path("missing"), 127),
            (file("no-interpreter", b"#!/missing\n", 0o755), 127),
            (path(""), 126),
            (file("not-executable", b"#!/bin/sh\n", 0o644), 126),
            (file("for-another-machine", &foreign, 0o755), 126),
            // Not a shell script that succeeds.
            (file("empty", b"", 0o755), 126),
        ] {
            let ended = run(place, &under(&[&command]));
            assert_eq!(ended.code, code, "{command}, {place:?}: {}", ended.stderr());
            assert!(ended.stderr().contains(&command), "{}", ended.stderr());
        }
    }
}

#[test]
fn bad_usage_is_64_names_the_flag_and_the_mend() {
    let supervisor = env::supervisor();
    let supervisor = supervisor.to_str().unwrap();
    for (words, parts) in [
        (vec!["--bogus", "true"], ["--bogus", "--help"]),
        (vec!["--"], ["nothing to run", "usage:"]),
        (vec!["--grace", "5", "--", "true"], ["--grace", "30s"]),
        (vec!["--relay", "maybe", "--", "true"], ["--relay", "on"]),
        (vec!["--job", "a", "--", "true"], ["--attempt", "SENDO_ATTEMPT"]),
    ] {
        let ended = run(Place::Ordinary, &[&[supervisor], words.as_slice()].concat());
        assert_eq!((ended.code, ended.stdout()), (64, ""), "{words:?}");
        assert!(parts.iter().all(|part| ended.stderr().contains(part)), "{}", ended.stderr());
    }
    let variable = run(Place::Ordinary, &["env", "SENDO_GRACE=5", supervisor, "--", "true"]);
    assert_eq!(variable.code, 64);
    assert!(variable.stderr().contains("SENDO_GRACE: ") && variable.stderr().contains("30s"), "{}", variable.stderr());
    for (flag, part) in [("--help", "--grace SPAN"), ("--version", env!("CARGO_PKG_VERSION"))] {
        let ended = run(Place::Ordinary, &[supervisor, flag]);
        assert_eq!((ended.code, ended.stderr()), (0, ""));
        assert!(ended.stdout().contains(part));
    }
}
