//! What the supervisor and the ledger say to each other: `POST /v1/grants` and `POST /v1/records`, version 1.
//!
//! Both bodies are JSON; both carry the attempt's token as `Authorization: Bearer`. The token says which attempt speaks, the
//! body repeats it, and the ledger refuses a body that names another.

use super::{Millis, outcome::Ending, phase::Phase, usage::Usage};
use serde::{Deserialize, Serialize};

/// One try at a job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttemptId {
    pub job: String,
    /// Counted from 1.
    pub attempt: u32,
}

impl std::fmt::Display for AttemptId {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}/{}", self.job, self.attempt)
    }
}

/// "May I start?" The answer binds the attempt to this process for good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GrantRequest {
    #[serde(flatten)]
    pub id: AttemptId,
    /// Chosen at random when the supervisor starts: another process, another nonce. Also the `source` of its records.
    pub nonce: String,
}

/// The ledger's answer to a [`GrantRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum GrantAnswer {
    Granted(Box<Grant>),
    /// Another process has the grant, or the attempt is over: run nothing.
    Superseded {
        reason: String,
    },
    /// Not now; ask again.
    Wait {
        reason: String,
    },
}

/// Leave to start the attempt's process, and what it needs for that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// Signs the termination message; hexadecimal.
    pub key: String,
    /// How often to ship usage, in milliseconds.
    pub report_every_ms: u64,
    /// Under `fencing: strict` alone: so long after the sending of the last request that the ledger acknowledged (this one, then each
    /// batch, an empty one too) nothing of the attempt may run any more. A `superseded` acknowledges nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// What the place may use, where it is not the control group that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// `embulk.config` with its references to secrets still unresolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embulk_config: Option<serde_json::Value>,
    /// Present for an incremental definition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Cursor>,
}

/// From where an incremental definition goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cursor {
    /// Counts the moves; 0 where there was none yet.
    pub generation: i64,
    /// Embulk's config diff of the last success, as Embulk wrote it (YAML); empty at the first run.
    pub diff: String,
}

/// A batch of what happened, in order of `seq`; an empty one says that the supervisor is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordBatch {
    #[serde(flatten)]
    pub id: AttemptId,
    /// The grant's nonce.
    pub source: String,
    pub records: Vec<Record>,
}

/// One thing that happened. (job, attempt, source, seq) names it for ever: sent twice, it is kept once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Counted from 1 by the source, without regard to the kind.
    pub seq: u64,
    /// The worker's clock.
    pub at: Millis,
    #[serde(flatten)]
    pub body: Body,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Body {
    /// `executing` or `stopping`.
    Phase {
        phase: Phase,
        reason: String,
    },
    Usage {
        usage: Box<Usage>,
    },
    Ending {
        ending: Box<Ending>,
    },
}

/// The ledger's answer to a [`RecordBatch`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordsAnswer {
    pub directive: Directive,
    /// How soon the place must be empty, where that is known and earlier than the grace. Counted by the ledger from this answer, by the
    /// supervisor from the sending of its request, which is earlier: no clock of one is read by the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_within_ms: Option<u64>,
    pub report_every_ms: u64,
}

/// What the supervisor is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Directive {
    Continue,
    /// An operator or the scheduler wants it stopped.
    Cancel,
    /// This attempt is not, or no longer, the one that counts: stop at once.
    Superseded,
}
