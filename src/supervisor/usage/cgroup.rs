//! The control group that we are in, version 1 or 2, if it holds this attempt alone.
//!
//! In a container it does. Elsewhere (the `local` cluster) a group counts only if every process in it is ours: a user session's
//! memory is not the transfer's.

use super::super::descent::is_descendant;
use crate::record::usage::Cgroup;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// No limit, as cgroup v1 writes it: the largest multiple of the page size in a signed 64-bit integer.
const V1_UNLIMITED: u64 = 0x7fff_ffff_ffff_f000;
const MOUNT: &str = "/sys/fs/cgroup";

/// Where the readings lie.
pub enum Group {
    V1 { memory: PathBuf, cpu: PathBuf, cpuacct: PathBuf },
    V2(PathBuf),
}

impl Group {
    /// Our group, if there is one that is ours alone.
    pub fn ours() -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let group = Self::find(Path::new(MOUNT), &own)?;
        (std::process::id() == 1 || group.holds_only_us()).then_some(group)
    }

    /// Reads `/proc/self/cgroup` (cgroups(7)): lines of `hierarchy:controllers:path`. In a cgroup namespace the path is `/`, and
    /// where the namespace is the host's but the mount the container's, the path does not exist below the mount: then the
    /// mount's root is the container's group.
    fn find(mount: &Path, own: &str) -> Option<Self> {
        let path_of = |controller: &str| {
            own.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                controllers.split(',').any(|name| name == controller).then_some(path)
            })
        };
        let below = |root: PathBuf, path: &str| {
            let inside = root.join(path.trim_start_matches('/'));
            if inside.is_dir() { inside } else { root }
        };
        if mount.join("cgroup.controllers").exists() {
            return Some(Self::V2(below(mount.to_owned(), path_of("")?)));
        }
        let v1 = |name: &str| path_of(name).map(|path| below(mount.join(name), path));
        Some(Self::V1 { memory: v1("memory")?, cpu: v1("cpu")?, cpuacct: v1("cpuacct")? })
    }

    fn holds_only_us(&self) -> bool {
        let procs = match self {
            Self::V2(path) => path.join("cgroup.procs"),
            Self::V1 { memory, .. } => memory.join("cgroup.procs"),
        };
        let Ok(procs) = fs::read_to_string(procs) else { return false };
        let ours = i32::try_from(std::process::id()).unwrap_or(0);
        procs.lines().all(|pid| pid.parse().is_ok_and(|pid| pid == ours || is_descendant(pid)))
    }

    /// What the group says now.
    pub fn read(&self) -> Cgroup {
        match self {
            Self::V2(path) => read_v2(path),
            Self::V1 { memory, cpu, cpuacct } => read_v1(memory, cpu, cpuacct),
        }
    }
}

fn read_v2(path: &Path) -> Cgroup {
    let current = number(&path.join("memory.current"));
    let stat = |name| keyed(&path.join("memory.stat"), name);
    let cpu = |name| keyed(&path.join("cpu.stat"), name);
    let stalled = |name| some_total(&path.join(name)).map(|micros| seconds(micros, 1e6));
    Cgroup {
        memory_current_bytes: current,
        memory_working_set_bytes: current.map(|bytes| bytes.saturating_sub(stat("inactive_file").unwrap_or(0))),
        memory_peak_bytes: number(&path.join("memory.peak")),
        memory_limit_bytes: number(&path.join("memory.max")),
        oom_kills: keyed(&path.join("memory.events"), "oom_kill"),
        cpu_seconds: cpu("usage_usec").map(|micros| seconds(micros, 1e6)),
        cpu_throttled_seconds: cpu("throttled_usec").map(|micros| seconds(micros, 1e6)),
        psi_memory_seconds: stalled("memory.pressure"),
        psi_cpu_seconds: stalled("cpu.pressure"),
        psi_io_seconds: stalled("io.pressure"),
    }
}

fn read_v1(memory: &Path, cpu: &Path, cpuacct: &Path) -> Cgroup {
    let current = number(&memory.join("memory.usage_in_bytes"));
    let inactive = keyed(&memory.join("memory.stat"), "total_inactive_file").unwrap_or(0);
    Cgroup {
        memory_current_bytes: current,
        memory_working_set_bytes: current.map(|bytes| bytes.saturating_sub(inactive)),
        memory_peak_bytes: number(&memory.join("memory.max_usage_in_bytes")),
        memory_limit_bytes: number(&memory.join("memory.limit_in_bytes")).filter(|limit| *limit < V1_UNLIMITED),
        oom_kills: keyed(&memory.join("memory.oom_control"), "oom_kill"),
        cpu_seconds: number(&cpuacct.join("cpuacct.usage")).map(|nanos| seconds(nanos, 1e9)),
        cpu_throttled_seconds: keyed(&cpu.join("cpu.stat"), "throttled_time").map(|nanos| seconds(nanos, 1e9)),
        ..Cgroup::default()
    }
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The value of `name` in a file of `name value` lines.
fn keyed(file: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The microseconds in which somebody waited: `some avg10=0.00 avg60=0.00 avg300=0.00 total=12345`
/// (<https://docs.kernel.org/accounting/psi.html>).
fn some_total(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split(' ').find_map(|field| field.strip_prefix("total=")?.parse().ok())
}

#[allow(clippy::cast_precision_loss)] // 2^53 ns are 104 days of CPU; beyond that the error is below a microsecond
fn seconds(count: u64, per_second: f64) -> f64 {
    count as f64 / per_second
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = root.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        root
    }

    #[test]
    fn reads_version_2_and_leaves_out_what_is_not_there() {
        let root = tree(&[
            ("cgroup.controllers", "cpu memory\n"),
            ("pod/memory.current", "5000\n"),
            ("pod/memory.max", "max\n"),
            ("pod/memory.stat", "anon 10\ninactive_file 1000\n"),
            ("pod/memory.events", "low 0\noom 2\noom_kill 1\n"),
            ("pod/cpu.stat", "usage_usec 1500000\nthrottled_usec 0\n"),
            (
                "pod/memory.pressure",
                "some avg10=1.00 avg60=0.20 avg300=0.00 total=2500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
            ),
            ("pod/io.pressure", "full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"),
        ]);
        let read = Group::find(root.path(), "0::/pod\n").unwrap().read();
        assert_eq!((read.memory_current_bytes, read.memory_working_set_bytes), (Some(5000), Some(4000)));
        assert_eq!((read.memory_limit_bytes, read.memory_peak_bytes), (None, None));
        assert_eq!((read.oom_kills, read.cpu_seconds, read.cpu_throttled_seconds), (Some(1), Some(1.5), Some(0.0)));
        assert_eq!((read.psi_memory_seconds, read.psi_cpu_seconds, read.psi_io_seconds), (Some(2.5), None, None));
    }

    #[test]
    fn reads_version_1_and_knows_its_way_of_saying_unlimited() {
        let root = tree(&[
            ("memory/memory.usage_in_bytes", "700\n"),
            ("memory/memory.stat", "total_inactive_file 100\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
            ("cpuacct/cpuacct.usage", "2500000000\n"),
        ]);
        let own = "4:memory:/kubepods/x\n3:cpu,cpuacct:/kubepods/x\n";
        let read = Group::find(root.path(), own).unwrap().read();
        assert_eq!((read.memory_working_set_bytes, read.memory_limit_bytes), (Some(600), None));
        assert_eq!((read.oom_kills, read.cpu_seconds, read.cpu_throttled_seconds), (Some(3), Some(2.5), None));
    }
}
