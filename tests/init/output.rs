//! The supervisor's own stdio, and the relay.

use super::running::{BOTH, program, run, under_with};
use crate::env;
use std::{fs, fs::File};

#[test]
fn closed_stdio_is_no_obstacle() {
    for place in BOTH {
        for relay in ["off", "on"] {
            for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
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
