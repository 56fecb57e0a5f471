//! The JVM among the transfer's processes, by the file in which it publishes its counters: nothing is attached, nothing runs in it.
//!
//! Source: `/tmp/hsperfdata_USER/PID` in the JVM's own root and by its pid in its own namespace (HotSpot's `perfMemory_posix.cpp`);
//! absent with `-XX:-UsePerfData` or `-XX:+PerfDisableSharedMem`. The transfer owns the file, so it is opened with care and read
//! with a limit; `hsperfdata` knows its format.

use super::{super::foreign, hsperfdata, tree::Process};
use crate::record::usage::Jvm as Reading;
use std::{
    fs,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// 32 KiB by default; `-XX:PerfDataMemorySize` may ask for more.
const FILE_LIMIT: u64 = 128 * 1024;
/// Processes looked at in one search, and entries of a folder for temporary files: both are the transfer's to multiply.
const PROCESSES_LIMIT: usize = 64;
const ENTRIES_LIMIT: usize = 4096;
/// A process's start is known to the second, and so is the time of boot that it is counted from.
const START_TOLERANCE: u64 = 2;

/// Reads one JVM's counters.
pub struct Jvm {
    proc: PathBuf,
    tmp: PathBuf,
    found: Option<Found>,
}

struct Found {
    process: Process,
    file: PathBuf,
    owner: u32,
}

impl Jvm {
    pub fn new() -> Self {
        Self::below("/proc".into(), "/tmp".into())
    }

    fn below(proc: PathBuf, tmp: PathBuf) -> Self {
        Self { proc, tmp, found: None }
    }

    /// The counters of the first JVM among these processes; a JVM once found is stayed with while it lives.
    pub fn read(&mut self, processes: &[Process]) -> Reading {
        let known = self.found.as_ref().filter(|found| processes.contains(&found.process));
        if let Some(reading) = known.and_then(read) {
            return reading;
        }
        self.found = None;
        for process in processes.iter().take(PROCESSES_LIMIT) {
            if let Some((found, reading)) = self.search(*process) {
                self.found = Some(found);
                return reading;
            }
        }
        Reading::default()
    }

    fn search(&self, process: Process) -> Option<(Found, Reading)> {
        let folder = self.proc.join(process.pid.to_string());
        let status = fs::read_to_string(folder.join("status")).ok()?;
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name));
        // Uid: real, effective, saved, file system; NSpid: from our namespace to its own (proc_pid_status(5)).
        let owner = field("Uid:")?.split_whitespace().nth(1)?.parse().ok()?;
        let own_pid =
            field("NSpid:").and_then(|pids| pids.split_whitespace().last()?.parse().ok()).unwrap_or(process.pid);
        // Its root is closed to us if it may not be traced; then ours is most likely the same.
        let roots = [folder.join("root/tmp"), self.tmp.clone()];
        let files = roots.iter().flat_map(|tmp| folders(tmp)).map(|folder| folder.join(own_pid.to_string()));
        files.map(|file| Found { process, file, owner }).find_map(|found| read(&found).map(|reading| (found, reading)))
    }
}

/// The folders in which JVMs publish, one a user.
fn folders(tmp: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(tmp).into_iter().flatten().take(ENTRIES_LIMIT).flatten();
    entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"hsperfdata_")).map(|entry| entry.path())
}

/// A file from before the process is what a killed JVM of the same pid left.
fn read(found: &Found) -> Option<Reading> {
    let (file, about) = foreign::open(&found.file, found.owner).ok()?;
    let is_left_over = u64::try_from(about.mtime()).ok()?.saturating_add(START_TOLERANCE) < found.process.started;
    if is_left_over {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT).read_to_end(&mut bytes).ok()?;
    hsperfdata::read(&bytes)
}

#[cfg(test)]
mod tests {
    use super::{super::hsperfdata::tests::serial, *};
    use nix::{sys::stat::Mode, unistd::mkfifo};

    /// Process 7, which calls itself 1, with its root and ours.
    fn tree(owner: u32) -> (tempfile::TempDir, Jvm) {
        let root = tempfile::tempdir().unwrap();
        let jvm = Jvm::below(root.path().join("proc"), root.path().join("tmp"));
        fs::create_dir_all(root.path().join("proc/7/root/tmp/hsperfdata_embulk")).unwrap();
        fs::create_dir_all(root.path().join("tmp/hsperfdata_embulk")).unwrap();
        fs::write(root.path().join("proc/7/status"), format!("Name:\tjava\nUid:\t9\t{owner}\t9\t9\nNSpid:\t7\t1\n"))
            .unwrap();
        (root, jvm)
    }

    /// Processes 3 and 7, of a moment after 1970.
    fn processes(started: u64) -> [Process; 2] {
        [3, 7].map(|pid| Process { pid, started })
    }

    fn us() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    #[test]
    fn the_jvms_own_root_is_looked_at_before_ours() {
        let (root, mut jvm) = tree(us());
        assert_eq!(jvm.read(&processes(1)), Reading::default());
        fs::write(root.path().join("tmp/hsperfdata_embulk/1"), serial(true)).unwrap();
        assert_eq!(jvm.read(&processes(1)).jvm_gc_count, Some(10));
        fs::write(root.path().join("proc/7/root/tmp/hsperfdata_embulk/1"), serial(true)).unwrap();
        fs::remove_file(root.path().join("tmp/hsperfdata_embulk/1")).unwrap();
        assert_eq!(jvm.read(&processes(1)).jvm_gc_count, Some(10));
        assert_eq!(jvm.read(&processes(1)[..1]), Reading::default());
    }

    #[test]
    fn only_a_plain_file_of_the_same_user_counts() {
        let (root, mut jvm) = tree(us());
        let file = root.path().join("tmp/hsperfdata_embulk/1");
        mkfifo(&file, Mode::S_IRUSR).unwrap();
        assert_eq!(jvm.read(&processes(1)), Reading::default());
        fs::remove_file(&file).unwrap();
        fs::write(root.path().join("elsewhere"), serial(true)).unwrap();
        std::os::unix::fs::symlink(root.path().join("elsewhere"), &file).unwrap();
        assert_eq!(jvm.read(&processes(1)), Reading::default());

        fs::remove_file(&file).unwrap();
        fs::write(&file, serial(true)).unwrap();
        assert_eq!(jvm.read(&processes(u64::MAX)), Reading::default());
        assert_eq!(jvm.read(&processes(1)).jvm_gc_count, Some(10));

        let (root, mut jvm) = tree(us() + 1);
        fs::write(root.path().join("tmp/hsperfdata_embulk/1"), serial(true)).unwrap();
        assert_eq!(jvm.read(&processes(1)), Reading::default());
    }
}
