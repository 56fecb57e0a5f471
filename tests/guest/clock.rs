//! A wall clock that jumps by a day: nothing ends by it, what is to end still does, and records tell the time that the clock tells.

use super::pod::{Order, Pod, readings};
use crate::env::{
    guest::Guest,
    wrong_ledger::{Reply, WrongLedger},
};
use sendo::record::{Millis, outcome::Outcome};
use std::fs;

const HOURS_23: i64 = 23 * 3_600_000;

fn set_clock(guest: &Guest, days: &str) {
    let script = guest.folder().join(format!("clock{days}"));
    fs::write(&script, format!("date --set '{days} days'\n")).unwrap();
    guest.start(&script);
}

#[test]
fn a_clock_that_jumps_ends_nothing_and_keeps_nothing_from_its_end() {
    let guest = Guest::shared(); // what the other containers do is not to depend on the clock either
    let ledgers = [(); 2].map(|()| WrongLedger::start(Reply::to));
    // Neither a day more nor a day less is an hour without a sign of life, or the deadline.
    let flags = ["--heartbeat", "1s", "--deadline", "1h", "--stall-after", "1h", "--grace", "1h"];
    let script = "until [ -e gate ]; do sleep 0.1; done";
    let patient = Pod::start(&guest, &ledgers[0], &Order { flags: &flags, script, ..Order::default() });
    let times = || readings(&ledgers[0]).into_iter().map(|(at, _)| at.0);
    let first = patient.wait("a reading", || times().next());
    set_clock(&guest, "+1");
    let ahead = patient.wait("a reading of tomorrow", || times().find(|at| *at > first + HOURS_23));
    // The control: a deadline does come, though the clock falls back by two days in the middle of it.
    let flags = ["--heartbeat", "1s", "--deadline", "15s"];
    let late = Pod::start(&guest, &ledgers[1], &Order { flags: &flags, script: "sleep 1000", ..Order::default() });
    late.wait("a reading", || readings(&ledgers[1]).first().map(|(at, _)| assert!(at.0 > first + HOURS_23)));
    set_clock(&guest, "-2");
    patient.wait("a reading of yesterday", || times().find(|at| *at < first - HOURS_23));
    assert_eq!(late.end(), 143, "{}", late.text("stderr"));
    assert_eq!(late.word().unwrap().ending.unwrap().outcome, Outcome::TimedOut);
    let before = times().count();
    patient.wait("one reading more", || (times().count() > before).then_some(()));
    patient.open("gate");
    assert_eq!(patient.end(), 0, "{}", patient.text("stderr"));
    let word = patient.word().unwrap();
    assert_eq!(word.ending.unwrap().outcome, Outcome::Succeeded);
    assert!(word.at < Millis(ahead - 2 * HOURS_23));
}
