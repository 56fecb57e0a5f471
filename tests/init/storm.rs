//! Storms of signals, and of dying children.

use super::running::{BOTH, Place, Running, number, program, send, under};
use crate::env::wait_for;
use nix::sys::signal::Signal;
use std::{
    collections::BTreeMap,
    fs,
    process::{Child, Command},
};

/// What a transfer can be sent in any order: no stops, which take each other away, and no faults, which end us.
const ORDINARY: [Signal; 15] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGPIPE,
    Signal::SIGALRM,
    Signal::SIGTERM,
    Signal::SIGSTKFLT,
    Signal::SIGURG,
    Signal::SIGXCPU,
    Signal::SIGXFSZ,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGWINCH,
    Signal::SIGIO,
];
const ORDINARY_SENT: usize = 40_000;
const REAL_TIME_SENT: usize = 10_000;
/// Sent when all else has been; the highest, so it comes last.
const LAST: i32 = 64;
/// Each comes as often as it is sent, the lower one first (signal(7)).
const REAL_TIME: [i32; 2] = [34, 63];

/// A sender; ends with the test.
struct Storm(Child);

impl Storm {
    /// `count` signals, or without end.
    fn start(pid: i32, count: Option<usize>, signals: &[i32]) -> Self {
        let count = count.map_or("-1".into(), |count| count.to_string());
        let words = [vec![pid.to_string(), count], signals.iter().map(i32::to_string).collect()].concat();
        Self(Command::new(program("storm")).args(words).spawn().unwrap())
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How often each line was said.
fn counted(running: &Running) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    running.stdout().lines().for_each(|line| *counts.entry(line.to_owned()).or_default() += 1);
    counts
}

/// Everything sent so far has arrived when this has, the `nth` time.
fn passed(running: &Running, nth: usize) -> BTreeMap<String, usize> {
    send(running.init(), LAST);
    wait_for("the last signal", || {
        let counts = counted(running);
        ["parent 64", "child 64"].iter().all(|line| counts.get(*line) == Some(&nth)).then_some(counts)
    })
}

#[test]
fn a_storm_of_signals_loses_none_that_the_kernel_keeps() {
    // All processes of one user share what the kernel queues; ours and two listeners keep each signal.
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max pending signals")).unwrap();
    let limit: usize = limit.split_whitespace().next().unwrap().parse().unwrap_or(usize::MAX);
    assert!(limit > 4 * REAL_TIME_SENT, "the kernel queues {limit} signals a user");
    let ordinary = ORDINARY.map(number);
    for place in BOTH {
        let running = Running::start(place, &under(&[program("listener")]));
        running.says("parent ready");
        running.says("child ready");
        let init = running.init();
        let mut storms = [
            Storm::start(init, Some(ORDINARY_SENT), &ordinary),
            Storm::start(init, Some(REAL_TIME_SENT / 2), &REAL_TIME),
            Storm::start(init, Some(REAL_TIME_SENT / 2), &REAL_TIME),
        ];
        storms.iter_mut().for_each(|storm| assert!(storm.0.wait().unwrap().success()));
        let during = passed(&running, 1);
        for name in ["parent", "child"] {
            for signal in REAL_TIME {
                assert_eq!(during.get(&format!("{name} {signal}")), Some(&(REAL_TIME_SENT / 2)), "{place:?}");
            }
        }
        ordinary.iter().for_each(|signal| send(init, *signal));
        let after = passed(&running, 2);
        for line in ordinary.iter().flat_map(|signal| [format!("parent {signal}"), format!("child {signal}")]) {
            assert_eq!(after.get(&line), during.get(&line).map(|before| before + 1).as_ref(), "{line}, {place:?}");
        }
        send(init, number(Signal::SIGQUIT));
        assert_eq!(running.end().code, 0);
    }
}

#[test]
fn a_storm_without_end_keeps_it_neither_from_reaping_nor_from_ending() {
    // Standard signals that nobody here minds; the orphans inherit that.
    let signals = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGTERM];
    let script = format!("trap '' HUP USR1 USR2 TERM; echo ready; {} 500 gone && exit 7", program("orphans"));
    let through_the_storm = |place, words: &[&str]| {
        let running = Running::start(place, words);
        running.says("ready");
        let init = running.init();
        let _storms = [(); 3].map(|()| Storm::start(init, None, &signals.map(number)));
        running.end().code
    };
    for place in BOTH {
        assert_eq!(through_the_storm(place, &under(&["sh", "-c", &script])), 7, "{place:?}");
    }
    let control = through_the_storm(Place::Ordinary, &[program("careless"), "sh", "-c", &script]);
    assert!(control < 0, "{control}");
}
