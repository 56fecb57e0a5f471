//! How an attempt ended, how surely that is known, and what people are told.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How an attempt ended. The name is stable: alerts and SQL match on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    Succeeded,
    /// It ended by itself with a code other than 0.
    Failed {
        exit_code: i32,
    },
    /// It died by a signal that we did not send, and nothing says out of memory.
    Killed {
        signal: i32,
    },
    OutOfMemory,
    TimedOut,
    Stalled,
    /// We stopped it because its Pod was asked to go.
    Drained,
    /// Its lease ran out while the ledger could not be reached; we killed it (`fencing: strict`).
    Fenced,
    /// An operator or the scheduler said so.
    Cancelled,
    /// It could not be executed: the errno of exec.
    NotStarted {
        errno: i32,
    },
    /// The cluster will not have it.
    CreateFailed,
    /// Its image could not be had within the cluster's time for that.
    ImageUnavailable,
    /// No node had room for it, or none suited, within the cluster's time for that.
    Unschedulable,
    /// Its node was short of something, or was emptied.
    Evicted,
    /// Another Pod with a higher priority took its place.
    Preempted,
    /// Its node is gone.
    NodeLost,
    /// Somebody deleted its place.
    Deleted,
    /// Its container never ran: the kubelet's reason.
    ContainerNotStarted {
        reason: String,
    },
    /// Proof of end of a place whose supervisor never got a grant.
    NeverGranted,
    /// Proof of end, and no evidence of how.
    Lost,
}

impl Outcome {
    /// The word in the tables, the verdict's code and the metrics' label.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Killed { .. } => "killed",
            Self::OutOfMemory => "out_of_memory",
            Self::TimedOut => "timed_out",
            Self::Stalled => "stalled",
            Self::Drained => "drained",
            Self::Fenced => "fenced",
            Self::Cancelled => "cancelled",
            Self::NotStarted { .. } => "not_started",
            Self::CreateFailed => "create_failed",
            Self::ImageUnavailable => "image_unavailable",
            Self::Unschedulable => "unschedulable",
            Self::Evicted => "evicted",
            Self::Preempted => "preempted",
            Self::NodeLost => "node_lost",
            Self::Deleted => "deleted",
            Self::ContainerNotStarted { .. } => "container_not_started",
            Self::NeverGranted => "never_granted",
            Self::Lost => "lost",
        }
    }

    /// The fault lies with the place and not with the transfer: its retries come out of the infrastructure's budget.
    pub fn is_infrastructure(&self) -> bool {
        match self {
            Self::Killed { signal } => !is_own_crash(*signal),
            Self::Drained | Self::Fenced | Self::Lost => true,
            Self::Evicted | Self::Preempted | Self::NodeLost | Self::Deleted => true,
            Self::NeverGranted | Self::ContainerNotStarted { .. } => true,
            _ => false,
        }
    }

    /// What a person does about it, where Sendo does not ask them anything more exact. Who tries again stands beside it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Succeeded | Self::Cancelled => "",
            Self::Failed { .. } => "Read the last lines, mend the configuration or the data, then retry.",
            Self::Killed { signal } if is_own_crash(*signal) => {
                "Read the last lines and what the crash left (of a JVM, hs_err_pid*.log), mend it, then retry."
            }
            Self::Killed { .. } => "Look at what else the node ran at that moment.",
            Self::OutOfMemory => "Give the job more memory, or fewer parallel tasks.",
            Self::TimedOut => "Raise the job's deadline, or split the transfer.",
            Self::Stalled => "Look at the far side: a lock, a dead connection, a full disk.",
            Self::Drained => {
                "Nothing, if it was once. Else find out who asks its Pods to go, or give it a longer `grace`."
            }
            Self::Fenced => "Look at the way to the ledger, and at the ledger itself, at that time.",
            Self::NotStarted { errno: libc::EAGAIN | libc::ENOMEM } => {
                "Raise the limit of processes or memory where it was to run, then retry it yourself: Sendo does not."
            }
            Self::NotStarted { .. } => "Mend the command or the image.",
            Self::CreateFailed => "Mend what the cluster names, then `sendo retry` it.",
            Self::ImageUnavailable => "Mend the image's name or the registry's access; then `sendo retry` it.",
            Self::Unschedulable => "Ask for less, or give the cluster nodes that suit; then `sendo retry` it.",
            Self::Evicted => "Have the job ask for the memory and disk that it needs, or look at what fills the node.",
            Self::Preempted => "Give its Pods a higher priority class (the template's), or the cluster more room.",
            Self::NodeLost => "Look at the node; there is nothing to mend in the job.",
            Self::Deleted => "Find out who deletes Pods (the API server's audit log); `sendo cancel` ends a job.",
            Self::ContainerNotStarted { .. } => {
                "Mend what the kubelet names: a Secret, a volume, the image's entry point."
            }
            Self::NeverGranted => {
                "Look at the way from its Pod to the ledger (`ledger_url`), and at `sendo serve` at that time."
            }
            Self::Lost => "Look at its node, and at the target: nothing says how far it came.",
        }
    }

    /// The transfer's process certainly never ran, so nothing can have been written.
    pub fn never_ran(&self) -> bool {
        let not_placed = matches!(self, Self::CreateFailed | Self::ImageUnavailable | Self::Unschedulable);
        not_placed || matches!(self, Self::NotStarted { .. } | Self::NeverGranted | Self::ContainerNotStarted { .. })
    }
}

/// Whether a process that died by this signal brought it about itself: a fault, an abort, a limit of its own, a reader that went away.
pub fn is_own_crash(signal: i32) -> bool {
    use libc::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGPIPE, SIGSEGV, SIGSYS, SIGTRAP, SIGXCPU, SIGXFSZ};
    [SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGPIPE, SIGSEGV, SIGSYS, SIGTRAP, SIGXCPU, SIGXFSZ].contains(&signal)
}

/// How good the evidence for an outcome is. Higher replaces lower, until a successor attempt exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// Concluded from what is absent.
    Inference = 1,
    /// The exit code that the parent of the supervisor saw: the kubelet's, or the local cluster's.
    ExitCode = 2,
    /// A termination message with the attempt's own signature.
    TerminationMessage = 3,
    /// The supervisor's record.
    Record = 4,
}

impl Evidence {
    /// The rank as the ledger's column holds it.
    pub fn rank(self) -> i64 {
        self as i64
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Inference => "inference",
            Self::ExitCode => "the supervisor's exit code",
            Self::TerminationMessage => "the signed termination message",
            Self::Record => "the supervisor's record",
        })
    }
}

/// How sure a verdict is of its cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    Certain,
    Likely,
    Unknown,
}

impl Confidence {
    /// The word on the wire and on the screen.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Certain => "certain",
            Self::Likely => "likely",
            Self::Unknown => "unknown",
        }
    }
}

/// An outcome's cause in words: one record that the console, alerts and SQL show as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The outcome's code, or a finer one; stable.
    pub code: String,
    /// One sentence.
    pub summary: String,
    /// What was seen, each with its source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    pub confidence: Confidence,
    /// What a person, or Sendo, does about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub next_action: String,
}

/// Everything that a living supervisor says of an attempt's end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ending {
    pub outcome: Outcome,
    pub verdict: Verdict,
    /// The transfer's own exit code, if it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that it died by, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The last lines that it wrote, redacted; with a failure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<String>,
    /// Where an incremental definition goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<CursorMove>,
    /// How far the commit had come, where the transfer's lines say so and all of them were seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<Commit>,
}

/// How far a load that did not succeed had come with its commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    pub state: CommitState,
    /// The transfer's line that says so.
    pub line: String,
}

/// Whether anything can be in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommitState {
    /// All rows were still in temporary tables.
    NotBegun,
    /// From here on rows may be in the target.
    Begun,
    Done,
}

/// A definition's cursor moved by one successful attempt: compare-and-set on the generation it started from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CursorMove {
    /// The generation that the grant named.
    pub from_generation: i64,
    /// Embulk's config diff, as Embulk wrote it (YAML).
    pub diff: String,
}
