//! Where attempts run. One trait, level-triggered: the same order may be given again, and what cannot be seen is unknown, never gone.

pub mod key;
pub mod kubernetes;
pub mod local;

use crate::{
    ledger::{Foundling, Order, Speaker},
    record::wire::AttemptId,
};
use futures::future::BoxFuture;
use std::{path::PathBuf, time::Duration};

/// A place that runs attempts.
pub trait Cluster: Send + Sync {
    /// Its name in the ledger.
    fn name(&self) -> &str;

    /// The UID of the next place, where that is ours to choose; empty where the place brings its own, as a Pod does.
    fn choose_uid(&self) -> String;

    /// Makes the attempt's place, once: given again, the place that exists counts. Gives back the place's UID.
    fn launch<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Result<String, LaunchError>>;

    /// What can be seen of the attempt's place.
    fn observe<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Observation>;

    /// Asks the place to end: TERM now, KILL after `grace`. Given again, the first request counts.
    fn stop<'a>(&'a self, order: &'a Order, grace: Duration) -> BoxFuture<'a, anyhow::Result<()>>;

    /// The attempt's end is in the ledger: what only the running needed goes away.
    fn release<'a>(&'a self, id: &'a AttemptId) -> BoxFuture<'a, anyhow::Result<()>>;

    /// The place on this cluster that the token speaks for.
    fn vouch<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Witness, Stranger>>;

    /// How soon the attempt's place will be emptied by somebody else, where that is known.
    fn gone_within(&self, _id: &AttemptId) -> Option<Duration> {
        None
    }

    /// Attempts whose place still waits for its release, whatever the ledger says of them.
    fn unreleased(&self) -> Vec<AttemptId> {
        Vec::new()
    }

    /// Every attempt that has a place here; `None` while that is not known.
    fn places(&self) -> Option<Vec<AttemptId>> {
        Some(Vec::new())
    }

    /// What the attempt's place itself says of it, for a ledger that has never heard of it.
    fn describe<'a>(&'a self, _id: &'a AttemptId) -> BoxFuture<'a, anyhow::Result<Described>> {
        Box::pin(async { Ok(Described::Gone) })
    }

    /// Where the attempt's `stdout` or `stderr` lies, if it lies on this machine.
    fn output_file(&self, id: &AttemptId, stream: &str) -> Option<PathBuf>;
}

/// What a place says of its attempt.
#[derive(Debug)]
pub enum Described {
    Gone,
    /// It is there, and does not say enough.
    Unreadable(String),
    Found(Box<Foundling>),
}

/// Why a place was not made.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The cluster will never have it as it is.
    #[error("{0}")]
    Refused(String),
    /// It may go another time.
    #[error("{why}")]
    NotNow {
        why: String,
        hindrance: Hindrance,
        /// The cluster's own word on when to ask again.
        retry_after: Option<Duration>,
    },
}

/// What stands in the way of a place that may be made another time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hindrance {
    /// No room for this one (a quota): others may go.
    Full,
    /// The cluster asks for fewer requests.
    Busy,
    /// It does not answer, or not in a way that can be understood; whether the place exists is to be looked up.
    Away,
}

/// Whom a token speaks for: known before it is known of which attempt he speaks.
#[derive(Debug, Clone)]
pub struct Witness {
    pub speaker: Speaker,
    /// What the place is called.
    pub place: String,
    /// What an attempt's is.
    pub place_of: fn(&AttemptId) -> String,
}

impl Witness {
    /// The speaker, if he speaks for this attempt.
    pub fn speaks_for(self, id: &AttemptId) -> Result<Speaker, Stranger> {
        if self.place == (self.place_of)(id) {
            return Ok(self.speaker);
        }
        Err(Stranger::Another(format!("the token is {}'s, and that is not the one of {id}", self.place)))
    }
}

/// Why a token speaks for nobody here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    /// It is not one of this cluster's, or no longer good.
    #[error("this needs the token of an attempt: {0}")]
    Unknown(String),
    /// It is good, and for somebody else.
    #[error("{0}")]
    Another(String),
    /// The cluster's keys cannot be read now.
    #[error("{0}")]
    NotNow(String),
}

/// What can be seen of an attempt's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// Its supervisor lives, or nobody can say that it does not.
    Alive { uid: String },
    /// It exists, and its supervisor was never started.
    Waiting { uid: String, wait: Wait },
    /// There is no such place now. Where the order names a UID, there was one.
    Absent,
    /// Proof of end: nothing of the attempt runs any more.
    Ended(End),
    /// It cannot be told; nothing is decided on this alone.
    Unknown(String),
}

/// Why a place waits, and for how long it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    pub cause: WaitCause,
    /// The scheduler's, or the kubelet's.
    pub words: String,
    /// Where it was put, if it was.
    pub node: Option<String>,
    pub waited: Duration,
    pub limit: Duration,
}

/// What a place waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitCause {
    /// No node has room for it, or none suits.
    Unschedulable,
    /// Its image cannot be had.
    Image,
    /// Its container cannot be made, with the kubelet's reason: a secret that is not there, for instance.
    Container(String),
    /// It is being set up.
    Creating,
}

/// What is left of a place that has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct End {
    /// How the supervisor ended, where its parent saw it.
    pub exit: Option<SupervisorExit>,
    /// It is the last start of the place that was seen to end; there may have been an earlier one that nobody has seen end. A kubelet that has lost
    /// its record of a container starts another.
    pub last_start: bool,
    /// What stands in its termination log.
    pub message: Vec<u8>,
    /// Where it was.
    pub node: Option<String>,
    /// What the cluster did to it, if it did.
    pub cause: Option<EndCause>,
    /// What was seen, each with its source.
    pub evidence: Vec<String>,
}

/// What a cluster does to a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndCause {
    /// The kernel, by the container's memory limit.
    OutOfMemory,
    /// The node was short of something, or is being emptied.
    Evicted,
    /// Another Pod had a higher priority.
    Preempted,
    /// Its node is gone.
    NodeLost,
    /// Somebody deleted it.
    Deleted,
    /// It was older than its kind may become.
    TooOld,
    /// The container could not be run.
    NotStarted(String),
}

/// A supervisor's end as its parent saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SupervisorExit {
    Code(i32),
    Signal(i32),
}

impl LaunchError {
    /// Another time, and nothing is wrong with the cluster's load.
    pub fn away(why: impl Into<String>) -> Self {
        Self::NotNow { why: why.into(), hindrance: Hindrance::Away, retry_after: None }
    }
}
