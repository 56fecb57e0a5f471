//! The kernel's kill for memory: of the transfer alone, and of everything in the container.

use super::pod::{Order, Pod, program, readings};
use crate::{
    env::{
        self,
        guest::Guest,
        wrong_ledger::{Reply, WrongLedger, grant},
    },
    reports::worker::ending,
};
use sendo::record::{outcome::Outcome, phase::Phase, termination::MESSAGE_LIMIT};
use serde_json::json;

const LIMIT_BYTES: u64 = 96 << 20;
const LIMIT: (&str, &str) = ("memory.max", "96M");
/// What a kubelet sets on v2 unless it is told otherwise (`singleProcessOOMKill`).
const ALL_DIE: (&str, &str) = ("memory.oom.group", "1");
/// As long as the kernel remembers a program's name (proc_pid_comm(5)).
const NAME_LENGTH: usize = 15;
const ONE_DIES: (&str, &str) = ("memory.oom.group", "0");

#[test]
fn a_transfer_beyond_the_limit_is_out_of_memory_and_the_supervisor_tells_it() {
    let hog = program("hog");
    // A shell whose command was killed ends with 137 by itself.
    for (script, signal, code) in [(format!("exec {hog}"), Some(9), None), (hog.to_owned(), None, Some(137))] {
        let ledger = WrongLedger::start(Reply::to);
        // The first kill comes before the supervisor begins, and is not counted.
        let flags = ["--heartbeat", "1s"];
        let order = Order { group: &[LIMIT, ONE_DIES], before: hog, flags: &flags, script: &script };
        let pod = Pod::start(&Guest::shared(), &ledger, &order);
        assert_eq!(pod.end(), 137, "{}", pod.text("stderr"));
        assert_eq!(pod.kept("memory.events", "oom_kill"), 2);
        let told = pod.word().unwrap().ending.unwrap();
        assert_eq!((&told.outcome, told.signal, told.exit_code), (&Outcome::OutOfMemory, signal, code));
        let evidence = told.verdict.evidence.join("; ");
        for part in ["oom_kill rose by 1", &format!("memory limit {LIMIT_BYTES} bytes")] {
            assert!(evidence.contains(part), "{evidence}");
        }
        let peak = evidence.split("memory peak ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        let peak: u64 = peak.unwrap_or_else(|| panic!("no peak: {evidence}"));
        assert!(peak > LIMIT_BYTES * 9 / 10 && peak <= pod.kept("memory.peak", ""), "{peak}");
        assert_eq!(ending(&ledger.asked()), serde_json::to_value(&told).unwrap());
    }
}

#[test]
fn a_kill_by_somebody_else_is_no_lack_of_memory() {
    let ledger = WrongLedger::start(Reply::to);
    let script = "sh -c \"kill -9 $$\"; sleep 1000";
    let order = Order { group: &[LIMIT, ONE_DIES], before: program("hog"), script, ..Order::default() };
    let pod = Pod::start(&Guest::shared(), &ledger, &order);
    assert_eq!(pod.end(), 137, "{}", pod.text("stderr"));
    // The control: the kernel did kill for memory here, only not since the start.
    assert_eq!(pod.kept("memory.events", "oom_kill"), 1);
    assert_eq!(pod.word().unwrap().ending.unwrap().outcome, Outcome::Killed { signal: 9 });
    assert_eq!(ending(&ledger.asked())["outcome"], json!({"kind": "killed", "signal": 9}));
}

#[test]
fn where_all_die_together_the_ledger_has_the_curve_and_the_last_word_is_signed() {
    let ledger = WrongLedger::start(Reply::to);
    let script = format!("exec {} 60 rise 93 burst", program("hog"));
    let order = Order { group: &[LIMIT, ALL_DIE], flags: &["--heartbeat", "1s"], script: &script, before: "" };
    let pod = Pod::start(&Guest::shared(), &ledger, &order);
    let share = |percent: u64| LIMIT_BYTES * percent / 100;
    let used = || readings(&ledger).into_iter().filter_map(|(_, usage)| usage.cgroup.memory_working_set_bytes);
    pod.wait("a reading at 60 %", || used().find(|bytes| *bytes >= share(55)));
    assert!(used().all(|bytes| bytes < share(90)));
    pod.open("rise");
    pod.wait("a reading near the limit", || used().find(|bytes| *bytes >= share(90)));
    pod.open("burst");
    // Nobody is left to say how the transfer ended. (`unshare` has its own words for a child that was killed.)
    assert!([1, 137].contains(&pod.end()), "{}", pod.text("stderr"));
    assert!(pod.kept("memory.events", "oom_group_kill") >= 1, "{}", pod.text("group.memory.events"));
    let console = pod.guest().console();
    let name: String = env::supervisor().file_name().unwrap().to_str().unwrap().chars().take(NAME_LENGTH).collect();
    let killed = |line: &str| line.contains("Killed process") && line.contains(&format!("({name})"));
    assert!(console.lines().any(killed), "{console}");
    assert!(ledger.asked().iter().all(|asked| !asked.brings("ending")));
    assert!(used().next_back().unwrap() >= share(90));
    assert!(pod.text("word").len() <= MESSAGE_LIMIT);
    let word = pod.word().expect("a signed word");
    assert_eq!((word.phase, &word.ending), (Phase::Executing, &None));
    let last = word.usage.unwrap().cgroup;
    assert_eq!(last.memory_limit_bytes, Some(LIMIT_BYTES));
    assert!(last.memory_working_set_bytes.unwrap() >= share(90), "{last:?}");
}

/// Two containers that hold the same memory, and would beat and report once an hour.
#[test]
fn near_its_limit_a_container_beats_faster_and_reports_at_once() {
    let hourly = || {
        WrongLedger::start(|asked| {
            let mut answer = if asked.is_grant() { grant() } else { json!({"directive": "continue"}) };
            answer["report_every_ms"] = json!(3_600_000);
            Reply::Well(answer)
        })
    };
    let start = |ledger: &WrongLedger, limit| {
        // Held by a file in memory: PID 1 is there from the first reading on.
        let before = "mount -t tmpfs tmpfs /mnt && head -c 178M /dev/zero >/mnt/full || exit 1";
        let script = "until [ -e gate ]; do sleep 0.1; done";
        let order = Order { group: &[("memory.max", limit)], before, flags: &["--heartbeat", "1h"], script };
        Pod::start(&Guest::shared(), ledger, &order)
    };
    let (ledger_near, ledger_far) = (hourly(), hourly());
    let (near, far) = (start(&ledger_near, "192M"), start(&ledger_far, "400M"));
    far.wait("the far one's start", || ledger_far.asked().iter().any(|asked| asked.brings("phase")).then_some(()));
    near.wait("the near one's third beat", || (readings(&ledger_near).len() >= 3).then_some(()));
    for pod in [near, far] {
        pod.open("gate");
        assert_eq!(pod.end(), 0, "{}", pod.text("stderr"));
    }
    // The control: the first beat, and the one of the end.
    assert_eq!(readings(&ledger_far).len(), 2);
}
