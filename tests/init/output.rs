//! The supervisor's own stdio, and the relay.

use super::running::{BOTH, Place, program, run, under_with};
use crate::env;
use std::{fs, fs::File};

#[test]
fn closed_stdio_is_no_obstacle() {
    for place in BOTH {
        for relay in ["off", "on"] {
            for closed in ["", "<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"] {
                let launch = ["sh", "-c", &format!("exec \"$@\" {closed}"), "sh"];
                let words = under_with(&["--relay", relay], &["sh", "-c", "echo a; echo b >&2; exit 4"]);
                assert_eq!(run(place, &[&launch[..], &words].concat()).code, 4, "{closed}, relay {relay}, {place:?}");
            }
        }
    }
}

#[test]
fn a_reader_that_went_away_does_not_kill_the_child() {
    let writes = ["sh", "-c", "i=0; while [ $i -lt 2000 ]; do echo $i || exit 1; i=$((i+1)); done; exit 6"];
    for place in BOTH {
        let unheard = |words: &[&str]| run(place, &[&[program("unheard")], words].concat());
        let ended = unheard(&under_with(&["--relay", "on"], &writes));
        assert_eq!(ended.code, 6, "{place:?}: {}", ended.stderr());
        assert_ne!(unheard(&writes).code, 6, "{place:?}");
    }
}

#[test]
fn an_output_that_nobody_reads_does_not_make_it_deaf() {
    // A pipe that is open and never read: full, it blocks whoever writes to it.
    let script = "mkfifo full; sleep 600 < full & exec 9<>full; trap '' PIPE; exec \"$@\" >full 2>&1";
    for place in BOTH {
        let folder = env::scratch();
        let writer = "i=0; while :; do echo $i; i=$((i+1)); done";
        let words = under_with(&["--relay", "on"], &["sh", "-c", writer]);
        let launch = ["env", "SENDO_LOG=trace", "sh", "-c", &format!("cd {}; {script}", folder.path().display()), "sh"];
        let mut running = super::running::Running::start(place, &[&launch[..], &words].concat());
        let init = running.init();
        // The writer waits in its own pipe, so all behind it is full.
        env::wait_for("the writer to wait", || {
            let children = fs::read_to_string(format!("/proc/{init}/task/{init}/children")).ok()?;
            let waits =
                |pid: &str| fs::read_to_string(format!("/proc/{pid}/wchan")).is_ok_and(|wchan| wchan.contains("pipe"));
            children.split_whitespace().any(waits).then_some(())
        });
        env::kill(init, nix::sys::signal::Signal::SIGTERM);
        env::wait_for("the end", || running.process.try_wait().unwrap());
    }
}

#[test]
fn the_relay_passes_every_byte() {
    let folder = env::scratch();
    let file = folder.path().join("binary");
    let mut random = File::open("/dev/urandom").unwrap();
    let mut bytes = vec![0; 3 << 20];
    std::io::Read::read_exact(&mut random, &mut bytes).unwrap();
    bytes.extend(b"\nno end of line");
    fs::write(&file, &bytes).unwrap();
    let script = format!("cat {0}; cat {0} >&2", file.display());
    for place in BOTH {
        let ended = run(place, &under_with(&["--relay", "on"], &["sh", "-c", &script]));
        assert_eq!(ended.code, 0);
        for passed in [ended.stdout, ended.stderr] {
            // Not the slices themselves: a failure would print megabytes.
            let differs_at = bytes.iter().zip(&passed).position(|(one, other)| one != other);
            assert_eq!((passed.len(), differs_at), (bytes.len(), None), "{place:?}");
        }
    }
}

#[test]
fn a_line_of_a_hundred_megabytes_passes_whole() {
    const LENGTH: usize = 100_000_000;
    let script = format!("head -c {LENGTH} /dev/zero | tr '\\0' x; echo; echo behind it");
    let passed = run(Place::PidOne, &under_with(&["--relay", "on"], &["sh", "-c", &script])).stdout;
    assert_eq!(passed.len(), LENGTH + "\nbehind it\n".len());
    assert!(passed[..LENGTH].iter().all(|byte| *byte == b'x') && passed.ends_with(b"x\nbehind it\n"));
}
