//! What the heartbeats say of a control group, against the group's own files.

use super::pod::{Order, Pod, readings};
use crate::env::{
    guest::Guest,
    wrong_ledger::{Reply, WrongLedger},
};
use sendo::record::usage::Usage;

const DISK_BYTES: u64 = 8 << 20;

/// What only rises, with the file and the line that tell it, and the unit's parts.
type Counter = (&'static str, &'static str, f64, fn(&Usage) -> Option<f64>);
const COUNTERS: [Counter; 5] = [
    ("cpu.stat", "usage_usec", 1e6, |usage| usage.cgroup.cpu_seconds),
    ("cpu.stat", "throttled_usec", 1e6, |usage| usage.cgroup.cpu_throttled_seconds),
    ("cpu.pressure", "total", 1e6, |usage| usage.cgroup.psi_cpu_seconds),
    ("memory.pressure", "total", 1e6, |usage| usage.cgroup.psi_memory_seconds),
    ("io.pressure", "total", 1e6, |usage| usage.cgroup.psi_io_seconds),
];

#[test]
fn the_readings_are_those_of_the_groups_own_files() {
    let ledger = WrongLedger::start(Reply::to);
    // After its disk work it keeps what the files say by then; then it is busy beyond its share, three processes in all.
    let script = "dd if=/dev/zero of=/dev/vda bs=1M count=8 oflag=direct 2>dd || exit 1
        for file in cpu.stat cpu.pressure memory.pressure io.pressure memory.peak; do cat /sys/fs/cgroup/$file >earlier.$file; done
        sleep 1000 & sleep 1000 & until [ -e gate ]; do :; done";
    let group = [("memory.max", "96M"), ("cpu.max", "20000 100000"), ("pids.max", "64")];
    let order = Order { group: &group, flags: &["--heartbeat", "1s"], script, before: "" };
    let pod = Pod::start(&Guest::shared(), &ledger, &order);
    pod.wait("a reading of it all", || {
        readings(&ledger).into_iter().find(|(_, usage)| {
            let (cgroup, tree) = (&usage.cgroup, &usage.tree);
            let stalled = [cgroup.cpu_throttled_seconds, cgroup.psi_cpu_seconds, cgroup.psi_io_seconds];
            stalled.iter().all(|seconds| seconds.is_some_and(|seconds| seconds > 0.0))
                && tree.processes == Some(3)
                && tree.disk_written_bytes >= Some(DISK_BYTES)
        })
    });
    pod.open("gate");
    assert_eq!(pod.end(), 0, "{}", pod.text("stderr"));
    let readings: Vec<Usage> = readings(&ledger).into_iter().map(|(_, usage)| usage).collect();
    let last = readings.last().unwrap();
    for (file, name, parts, reading) in COUNTERS {
        let told: Vec<f64> = readings.iter().map(|usage| reading(usage).unwrap()).collect();
        assert!(told.is_sorted(), "{file}, {name}: {told:?}");
        let earlier = pod.number(&format!("earlier.{file}"), name) as f64 / parts;
        let later = pod.kept(file, name) as f64 / parts;
        let told = told.last().unwrap();
        assert!(earlier <= *told && *told <= later, "{file}, {name}: {earlier} {told} {later}");
    }
    for usage in &readings {
        let memory = &usage.cgroup;
        assert_eq!((memory.memory_limit_bytes, memory.oom_kills), (Some(96 << 20), Some(0)));
        let (set, current) = (memory.memory_working_set_bytes.unwrap(), memory.memory_current_bytes.unwrap());
        assert!(0 < set && set <= current && current <= 96 << 20, "{memory:?}");
    }
    let peaks: Vec<u64> = readings.iter().map(|usage| usage.cgroup.memory_peak_bytes.unwrap()).collect();
    assert!(peaks.is_sorted() && *peaks.last().unwrap() <= pod.kept("memory.peak", ""), "{peaks:?}");
    assert!(*peaks.last().unwrap() >= pod.number("earlier.memory.peak", ""), "{peaks:?}");
    assert!(last.tree.disk_written_bytes.unwrap() >= DISK_BYTES);
}

#[test]
fn without_limits_none_is_told_and_nothing_is_throttled() {
    let ledger = WrongLedger::start(Reply::to);
    let script = "until [ -e gate ]; do :; done";
    let pod =
        Pod::start(&Guest::shared(), &ledger, &Order { flags: &["--heartbeat", "1s"], script, ..Order::default() });
    pod.wait("a busy reading", || {
        readings(&ledger).into_iter().find(|(_, usage)| usage.cgroup.cpu_seconds > Some(0.5))
    });
    pod.open("gate");
    assert_eq!(pod.end(), 0, "{}", pod.text("stderr"));
    for (_, usage) in readings(&ledger) {
        assert_eq!((usage.cgroup.memory_limit_bytes, usage.cgroup.cpu_throttled_seconds), (None, Some(0.0)));
    }
}
