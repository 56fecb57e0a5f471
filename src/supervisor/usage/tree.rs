//! The transfer's process tree: all descendants of ours that are alive, and what those used that are not.

use crate::record::usage::Tree as Reading;
use nix::sys::resource::{UsageWho, getrusage};
use std::collections::{HashMap, HashSet};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// Reads the tree by sysinfo.
pub struct Tree {
    /// Absent where sysinfo cannot read this system.
    system: Option<System>,
    /// Disk counters vanish with their process; the largest sum seen stands for what is gone.
    disk: Option<(u64, u64)>,
}

/// One of the transfer's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// Seconds since 1970; whole ones, as `/proc` tells the time of boot.
    pub started: u64,
}

impl Tree {
    pub fn new() -> Self {
        Self { system: System::new().ok(), disk: None }
    }

    /// What all descendants use now, and who they are, the oldest first. A tree without a living process has no memory to read.
    pub fn read(&mut self) -> (Reading, Vec<Process>) {
        let what = ProcessRefreshKind::nothing().with_memory().with_cpu().without_tasks();
        let Some(system) = &mut self.system else { return (Reading::default(), vec![]) };
        system.refresh_processes_specifics(ProcessesToUpdate::All, true, what);
        let ours = descendants(system);
        let mut reading = Reading { processes: u32::try_from(ours.len()).ok(), ..Reading::default() };
        let mut cpu_seconds = reaped_cpu_seconds();
        let (mut disk, mut is_hidden) = (None, false);
        let mut processes = vec![];
        for process in ours.iter().filter_map(|pid| system.process(*pid)) {
            reading.rss_bytes = Some(reading.rss_bytes.unwrap_or(0).saturating_add(process.memory()));
            let milliseconds = u32::try_from(process.accumulated_cpu_time()).unwrap_or(u32::MAX);
            cpu_seconds = cpu_seconds.map(|seconds| seconds + f64::from(milliseconds) / 1000.0);
            processes.push(Process { pid: process.pid().as_u32(), started: process.start_time() });
            match disk_bytes(process.pid().as_u32()) {
                Ok((read, written)) => {
                    let (all_read, all_written) = disk.unwrap_or((0_u64, 0_u64));
                    disk = Some((all_read.saturating_add(read), all_written.saturating_add(written)));
                }
                Err(error) => is_hidden |= error.kind() == std::io::ErrorKind::PermissionDenied,
            }
        }
        self.disk = larger(self.disk, disk);
        // A part of it would look like a transfer that reads and writes less.
        let disk = self.disk.filter(|_| !is_hidden);
        reading.tree_cpu_seconds = cpu_seconds;
        reading.disk_read_bytes = disk.map(|disk| disk.0);
        reading.disk_written_bytes = disk.map(|disk| disk.1);
        processes.sort_unstable_by_key(|process| (process.started, process.pid));
        (reading, processes)
    }
}

/// What it read from and wrote to disks (proc_pid_io(5)); another user's is hidden from us. Not by sysinfo, where hidden is zero.
fn disk_bytes(pid: u32) -> std::io::Result<(u64, u64)> {
    let counters = std::fs::read_to_string(format!("/proc/{pid}/io"))?;
    let counter = |name: &str| {
        let value = counters.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.ok_or(std::io::ErrorKind::InvalidData)
    };
    Ok((counter("read_bytes:")?, counter("write_bytes:")?))
}

fn larger(one: Option<(u64, u64)>, other: Option<(u64, u64)>) -> Option<(u64, u64)> {
    let (Some(one), Some(other)) = (one, other) else { return one.or(other) };
    Some((one.0.max(other.0), one.1.max(other.1)))
}

fn descendants(system: &System) -> HashSet<Pid> {
    let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
    for (pid, process) in system.processes() {
        if let Some(parent) = process.parent() {
            children.entry(parent).or_default().push(*pid);
        }
    }
    let mut found = HashSet::new();
    let mut next = children.remove(&Pid::from_u32(std::process::id())).unwrap_or_default();
    while let Some(pid) = next.pop() {
        if found.insert(pid) {
            next.extend(children.remove(&pid).unwrap_or_default());
        }
    }
    found
}

/// User and system time of all children that we have reaped, and of theirs.
fn reaped_cpu_seconds() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).ok()?;
    let seconds = |time: nix::sys::time::TimeVal| {
        let micros = i32::try_from(time.tv_usec()).map(f64::from).unwrap_or(0.0);
        i32::try_from(time.tv_sec()).map(f64::from).unwrap_or(f64::from(i32::MAX)) + micros / 1e6
    };
    Some(seconds(usage.user_time()) + seconds(usage.system_time()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_of_the_disk_counts_and_what_is_hidden_does_not() {
        assert!(disk_bytes(std::process::id()).is_ok());
        assert_eq!(disk_bytes(u32::MAX).unwrap_err().kind(), std::io::ErrorKind::NotFound);
        assert_eq!(larger(None, None), None);
        assert_eq!(larger(Some((1, 4)), None), Some((1, 4)));
        assert_eq!(larger(Some((1, 4)), Some((2, 3))), Some((2, 4)));
    }
}
