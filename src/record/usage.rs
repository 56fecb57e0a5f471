//! One heartbeat's reading. What cannot be read is absent, never zero.

use serde::{Deserialize, Serialize};

/// What a transfer uses, and how far it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// The container's control group, where it holds this attempt alone.
    #[serde(flatten)]
    pub cgroup: Cgroup,
    /// The transfer's process tree.
    #[serde(flatten)]
    pub tree: Tree,
    /// The JVM in that tree, if there is one.
    #[serde(flatten)]
    pub jvm: Jvm,
    /// The Pod's network.
    #[serde(flatten)]
    pub network: Network,
    /// What the transfer's own lines tell.
    #[serde(flatten)]
    pub progress: Progress,
    /// Bytes free where the work is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_free_bytes: Option<u64>,
    /// Seconds since the last output, I/O or CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silent_seconds: Option<f64>,
}

/// Source: `memory.*`, `cpu.*` and `io.pressure` of cgroup v2, `memory`, `cpu` and `cpuacct` of v1
/// (<https://docs.kernel.org/admin-guide/cgroup-v2.html>).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cgroup {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_current_bytes: Option<u64>,
    /// Current less inactive file cache: what the kubelet evicts by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_working_set_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_peak_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// Processes that the kernel killed for memory since the group was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_throttled_seconds: Option<f64>,
    /// Time in which at least one thread waited for the resource (PSI, `some`); v2 alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi_memory_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi_cpu_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi_io_seconds: Option<f64>,
}

/// Source: `/proc` by sysinfo, and `getrusage(RUSAGE_CHILDREN)` for what has ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tree {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss_bytes: Option<u64>,
    /// User and system time of the living and the reaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tree_cpu_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_read_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_written_bytes: Option<u64>,
}

/// Source: the counters that HotSpot publishes in `/tmp/hsperfdata_USER/PID`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Jvm {
    /// What objects take, garbage included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jvm_heap_used_bytes: Option<u64>,
    /// What the JVM has taken from the system for the heap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jvm_heap_committed_bytes: Option<u64>,
    /// `-Xmx`, or what the JVM chose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jvm_heap_max_bytes: Option<u64>,
    /// Collections, or a concurrent collector's pauses, since its start; and the time in them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jvm_gc_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jvm_gc_seconds: Option<f64>,
}

/// Source: `/proc/net/dev`, all interfaces but the loopback.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_received_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_sent_bytes: Option<u64>,
}

/// How far the transfer is, by its own lines.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks_done: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks_total: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks_running: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Lines and bytes of stdout and stderr that went through the relay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_lines: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_bytes: Option<u64>,
}

impl Usage {
    /// The memory that a person means: the container's working set, or else the tree's resident memory.
    pub fn memory_bytes(&self) -> Option<u64> {
        self.cgroup.memory_working_set_bytes.or(self.tree.rss_bytes)
    }

    /// The CPU time that a person means: the container's, or else the tree's.
    pub fn cpu_seconds(&self) -> Option<f64> {
        self.cgroup.cpu_seconds.or(self.tree.tree_cpu_seconds)
    }
}
