//! Where a job stands, and who may move it: one table, enforced by the ledger for every writer.
//!
//! ```text
//!   queued ──> setting_up ──> executing ──> stopping
//!      │            │             │            │
//!      └────────────┴──────┬──────┴────────────┘
//!                          v
//!     succeeded   failed   cancelled   rejected      (ended)
//!     held                                           (waits for a person)
//! ```

use serde::{Deserialize, Serialize};
use std::fmt;

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Queued,
    SettingUp,
    Executing,
    Stopping,
    Succeeded,
    Failed,
    Cancelled,
    Rejected,
    Held,
}

/// Who moves a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Writer {
    Intake,
    Launch,
    Supervisor,
    /// The fold of an attempt's outcome and the retry policy.
    Fold,
    /// The same, on higher evidence than what had decided before, while no successor attempt exists.
    HigherEvidence,
    Reconcile,
    Operator,
}

impl Phase {
    pub const ALL: [Self; 9] = [
        Self::Queued,
        Self::SettingUp,
        Self::Executing,
        Self::Stopping,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Rejected,
        Self::Held,
    ];

    /// The word on the wire, in the tables and on the screen.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::SettingUp => "setting_up",
            Self::Executing => "executing",
            Self::Stopping => "stopping",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Rejected => "rejected",
            Self::Held => "held",
        }
    }

    /// The phase of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == text)
    }

    /// Nothing more happens by itself, and nobody is asked.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Rejected)
    }

    /// An attempt of the job may exist and be alive.
    pub fn is_running(self) -> bool {
        matches!(self, Self::SettingUp | Self::Executing | Self::Stopping)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.as_str())
    }
}

impl Writer {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Intake => "intake",
            Self::Launch => "launch",
            Self::Supervisor => "supervisor",
            Self::Fold => "fold",
            Self::HigherEvidence => "higher_evidence",
            Self::Reconcile => "reconcile",
            Self::Operator => "operator",
        }
    }
}

/// Whether `writer` may move a job from `from` (`None`: it does not exist yet) to `to`. The table of the design, row by row.
pub fn may_move(from: Option<Phase>, to: Phase, writer: Writer) -> bool {
    use Phase::{Cancelled, Executing, Failed, Held, Queued, Rejected, SettingUp, Stopping, Succeeded};
    let Some(from) = from else { return to == Queued && writer == Writer::Intake };
    match writer {
        Writer::Intake => false,
        Writer::Launch => {
            matches!((from, to), (Queued, SettingUp) | (Queued | SettingUp, Failed | Cancelled | Rejected | Held))
        }
        Writer::Supervisor => matches!((from, to), (Queued | SettingUp, Executing) | (Executing, Stopping)),
        Writer::Fold => {
            matches!(from, SettingUp | Executing | Stopping)
                && matches!(to, Succeeded | Failed | Cancelled | Held | Queued)
        }
        Writer::HigherEvidence => {
            matches!(from, Failed | Held | Queued) && matches!(to, Succeeded | Failed | Cancelled | Held)
        }
        Writer::Reconcile => matches!((from, to), (Queued | SettingUp, Failed | Cancelled | Rejected | Held)),
        Writer::Operator => matches!(
            (from, to),
            (Queued | SettingUp, Failed | Cancelled | Rejected | Held)
                | (Held, Queued | Failed | Cancelled)
                | (Failed | Cancelled | Rejected, Queued)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITERS: [Writer; 7] = [
        Writer::Intake,
        Writer::Launch,
        Writer::Supervisor,
        Writer::Fold,
        Writer::HigherEvidence,
        Writer::Reconcile,
        Writer::Operator,
    ];

    #[test]
    fn names_read_back() {
        for phase in Phase::ALL {
            assert_eq!(Phase::parse(phase.as_str()), Some(phase));
            assert_eq!(serde_json::to_value(phase).unwrap(), phase.as_str());
        }
        assert_eq!(Phase::parse("done"), None);
    }

    #[test]
    fn success_is_final_for_everybody() {
        for to in Phase::ALL {
            for writer in WRITERS {
                assert!(!may_move(Some(Phase::Succeeded), to, writer), "{to} by {writer:?}");
            }
        }
    }

    #[test]
    fn only_the_supervisor_says_executing() {
        for from in Phase::ALL {
            for writer in WRITERS {
                if may_move(Some(from), Phase::Executing, writer) {
                    assert_eq!(writer, Writer::Supervisor);
                    assert!(matches!(from, Phase::Queued | Phase::SettingUp));
                }
            }
        }
    }

    #[test]
    fn a_job_begins_at_intake_and_is_never_thrown_away() {
        for to in Phase::ALL {
            for writer in WRITERS {
                assert_eq!(may_move(None, to, writer), to == Phase::Queued && writer == Writer::Intake);
            }
        }
        for from in Phase::ALL.into_iter().filter(|phase| *phase != Phase::Succeeded) {
            let ways_out = Phase::ALL.into_iter().flat_map(|to| WRITERS.map(|writer| may_move(Some(from), to, writer)));
            assert!(ways_out.into_iter().any(|possible| possible), "no way out of {from}");
        }
    }
}
