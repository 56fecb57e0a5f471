//! Where attempts run. One trait, level-triggered: the same order may be given again, and what cannot be seen is unknown, never gone.

pub mod key;
pub mod local;

use crate::{ledger::Order, record::wire::AttemptId};
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

    /// Where the attempt's `stdout` or `stderr` lies, if it lies on this machine.
    fn output_file(&self, id: &AttemptId, stream: &str) -> Option<PathBuf>;
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

/// What can be seen of an attempt's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// Its supervisor lives.
    Alive,
    /// There is no such place, and there never was.
    NeverExisted,
    /// Proof of end: nothing of the attempt runs any more.
    Ended {
        /// How the supervisor ended, where its parent saw it.
        exit: Option<SupervisorExit>,
        /// What stands in its termination log.
        message: Vec<u8>,
    },
    /// It cannot be told; nothing is decided on this alone.
    Unknown(String),
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
