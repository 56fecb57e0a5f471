//! What the transfer uses, read from the kernel: its control group, its process tree, its network, the disk under its work; and from its
//! JVM's own counters.
//!
//! Read on the reporter's thread, so that a slow disk delays no signal and no reap.

mod cgroup;
mod hsperfdata;
mod jvm;
mod network;
pub mod pace;
mod tree;

use super::relay::Seen;
use crate::record::usage::{Progress, Usage};
use std::{path::PathBuf, sync::Arc, time::Instant};

/// CPU below this share of a core is no sign of life: a JVM's own housekeeping uses less.
const IDLE_CPU_SHARE: f64 = 0.01;

/// Takes readings of one transfer.
pub struct Sampler {
    cgroup: Option<cgroup::Group>,
    tree: tree::Tree,
    jvm: jvm::Jvm,
    seen: Arc<Seen>,
    work_dir: PathBuf,
    alive: SignOfLife,
}

/// When the transfer last showed that it lives, by output, disk I/O or CPU. Not by the network: in a Pod our own reports travel there too.
struct SignOfLife {
    at: Instant,
    read_at: Instant,
    cpu_seconds: f64,
    counters: (Option<u64>, Option<u64>, Option<u64>),
}

impl Sampler {
    /// `seen` is what the relay sees; `work_dir` tells which disk to watch.
    pub fn new(seen: Arc<Seen>, work_dir: PathBuf, now: Instant) -> Self {
        let alive = SignOfLife { at: now, read_at: now, cpu_seconds: 0.0, counters: (None, None, None) };
        let (cgroup, tree, jvm) = (cgroup::Group::ours(), tree::Tree::new(), jvm::Jvm::new());
        Self { cgroup, tree, jvm, seen, work_dir, alive }
    }

    /// One reading.
    pub fn read(&mut self, now: Instant) -> Usage {
        let (tree, processes) = self.tree.read();
        let mut usage = Usage {
            cgroup: self.cgroup.as_ref().map(cgroup::Group::read).unwrap_or_default(),
            tree,
            jvm: self.jvm.read(&processes),
            network: network::read(),
            progress: self.seen.progress(),
            disk_free_bytes: free_bytes(&self.work_dir),
            silent_seconds: None,
        };
        let cpu = usage.cpu_seconds();
        usage.silent_seconds = Some(self.alive.observe(&usage.tree, &usage.progress, cpu, now));
        usage
    }
}

/// What our control group says now; nothing where it is not ours alone.
pub fn group() -> crate::record::usage::Cgroup {
    cgroup::Group::ours().as_ref().map(cgroup::Group::read).unwrap_or_default()
}

impl SignOfLife {
    fn observe(
        &mut self,
        tree: &crate::record::usage::Tree,
        progress: &Progress,
        cpu: Option<f64>,
        now: Instant,
    ) -> f64 {
        let counters = (progress.output_bytes, tree.disk_read_bytes, tree.disk_written_bytes);
        let cpu = cpu.unwrap_or(self.cpu_seconds);
        let elapsed = now.saturating_duration_since(self.read_at).as_secs_f64();
        if counters != self.counters || cpu - self.cpu_seconds > elapsed * IDLE_CPU_SHARE {
            self.at = now;
        }
        (self.read_at, self.cpu_seconds, self.counters) = (now, cpu, counters);
        now.saturating_duration_since(self.at).as_secs_f64()
    }
}

fn free_bytes(folder: &std::path::Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(folder).ok()?;
    stat.blocks_available().checked_mul(stat.fragment_size())
}
