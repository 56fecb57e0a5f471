//! What an attempt's end means for its job: evidence by rank, then the retry policy, then one transition.

use super::{
    Error, Ledger, Tx,
    rows::{AttemptRow, JobRow},
};
use crate::record::{
    Millis,
    job::Job,
    outcome::{Commit, Confidence, Ending, Evidence, Outcome, Verdict},
    phase::{Phase, Writer, may_move},
    quantity::Bytes,
    wire::AttemptId,
};
use std::time::Duration;

/// An attempt's end, as somebody saw it.
#[derive(Debug, Clone)]
pub struct AttemptEnd {
    pub ending: Ending,
    pub evidence: Evidence,
    /// The clock of whoever saw it.
    pub at: Millis,
}

/// What the retry policy is asked.
#[derive(Debug)]
pub struct RetryCase<'a> {
    pub job: &'a Job,
    pub outcome: &'a Outcome,
    /// The transfer's process may have run, so something may have been written.
    pub may_have_run: bool,
    /// How far its commit had come, if its own lines said so.
    pub commit: Option<&'a Commit>,
    pub own_retries: u32,
    pub infrastructure_retries: u32,
    pub cancel_requested: bool,
}

/// What the retry policy answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextStep {
    Succeed,
    Fail,
    Cancel,
    /// The cluster will not have it.
    Reject,
    /// A person decides.
    Hold {
        question: String,
    },
    Retry {
        after: Duration,
        budget: Budget,
        /// What the next attempt gets, where that is more than the last one had.
        memory: Option<Bytes>,
    },
}

/// Whose retries are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    Own,
    Infrastructure,
    /// Nobody's: the job lets its memory grow, and the growth ends at its own cap.
    Memory,
}

impl Budget {
    /// The word in the ledger's column.
    fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Infrastructure => "infrastructure",
            Self::Memory => "memory",
        }
    }

    /// The budget of that word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Own, Self::Infrastructure, Self::Memory].into_iter().find(|budget| budget.as_str() == word)
    }
}

impl Ledger {
    /// Ends an attempt on evidence that does not come from its supervisor's records.
    pub async fn end_attempt(&self, id: &AttemptId, end: AttemptEnd) -> Result<(), Error> {
        self.transact(|_| self.end_attempt_once(id, end.clone())).await
    }

    async fn end_attempt_once(&self, id: &AttemptId, end: AttemptEnd) -> Result<(), Error> {
        let mut tx = self.begin().await?;
        let job = self.job_row(&mut tx, &id.job).await?;
        let attempt = self.attempt_row(&mut tx, id).await?;
        if let (Some(mut job), Some(attempt)) = (job, attempt) {
            self.conclude(&mut tx, &mut job, id, &attempt, end).await?;
        }
        self.commit(tx).await
    }

    /// Folds an end into attempt and job. Lower or equal evidence than what is known changes nothing; evidence that comes after a
    /// successor attempt exists is counted as a conflict and changes nothing else.
    pub(super) async fn conclude(
        &self,
        tx: &mut Tx,
        job: &mut JobRow,
        id: &AttemptId,
        attempt: &AttemptRow,
        mut end: AttemptEnd,
    ) -> Result<(), Error> {
        if attempt.ended && (job.attempt != id.attempt || end.evidence.rank() <= attempt.evidence) {
            return if job.attempt == id.attempt {
                Ok(())
            } else {
                self.count_conflict(tx, id, "evidence after a successor").await
            };
        }
        // Nobody has cancelled the job: its process was told that it had ended, and stopped for that. It says nothing of the job.
        if attempt.ended && end.ending.outcome == Outcome::Cancelled && !job.cancel_requested {
            return self.count_conflict(tx, id, "it ran on after its end, and stopped when it was told").await;
        }
        let cancel_requested = job.cancel_requested;
        let policy = |job: &Job, own_retries, infrastructure_retries| {
            (self.retry)(&RetryCase {
                job,
                outcome: &end.ending.outcome,
                may_have_run: attempt.may_have_run() && !end.ending.outcome.never_ran(),
                commit: end.ending.commit.as_ref(),
                own_retries,
                infrastructure_retries,
                cancel_requested,
            })
        };
        let mut next = policy(&job.job, job.own_retries, job.infrastructure_retries);
        // The retry that the first evidence paid for is not taken back for want of another.
        if attempt.ended && job.phase == Phase::Queued && next == NextStep::Fail {
            let paid = |budget| u32::from(attempt.retry_budget == Some(budget));
            let mut had = job.job.clone();
            had.resources.memory = attempt.memory.or(had.resources.memory);
            next = policy(
                &had,
                job.own_retries.saturating_sub(paid(Budget::Own)),
                job.infrastructure_retries.saturating_sub(paid(Budget::Infrastructure)),
            );
        }
        // A job that has succeeded has moved its cursor, and one that is over moves none any more.
        let may_succeed = !attempt.ended || may_move(Some(job.phase), Phase::Succeeded, Writer::HigherEvidence);
        if next == NextStep::Succeed
            && job.phase != Phase::Succeeded
            && may_succeed
            && let Some(verdict) = self.carry_cursor(tx, job, attempt, &end.ending).await?
        {
            next = NextStep::Hold { question: verdict.next_action.clone() };
            end.ending.verdict = verdict;
        }
        if let NextStep::Hold { question } = &next {
            end.ending.verdict.next_action.clone_from(question);
        }
        self.close_attempt(tx, id, &end).await?;
        if attempt.ended {
            self.correct(tx, job, id, attempt, &next, &end).await
        } else {
            self.follow(tx, job, id, &next, &end).await
        }
    }

    /// Better evidence on an attempt that has ended already, and has no successor.
    async fn correct(
        &self,
        tx: &mut Tx,
        job: &mut JobRow,
        id: &AttemptId,
        attempt: &AttemptRow,
        next: &NextStep,
        end: &AttemptEnd,
    ) -> Result<(), Error> {
        let to = next.phase();
        // A person has queued it again, and knew what was to know of this attempt; that it had succeeded all the same they did not.
        let by_person = job.phase == Phase::Queued && attempt.retry_budget.is_none() && to != Phase::Succeeded;
        if by_person || job.phase == to {
            return self.show_verdict(tx, job, end).await;
        }
        // The first evidence has decided for a retry or against one; better evidence of the same kind does not add another.
        if matches!(next, NextStep::Retry { .. }) {
            return Ok(());
        }
        if !may_move(Some(job.phase), to, Writer::HigherEvidence) {
            return self.count_conflict(tx, id, "better evidence against an end that is final").await;
        }
        self.show_verdict(tx, job, end).await?;
        self.move_job(tx, job, to, Writer::HigherEvidence, &reason(next, end), end.at).await
    }

    /// The first evidence of an attempt's end: the next step goes into the job's row.
    async fn follow(
        &self,
        tx: &mut Tx,
        job: &mut JobRow,
        id: &AttemptId,
        next: &NextStep,
        end: &AttemptEnd,
    ) -> Result<(), Error> {
        self.show_verdict(tx, job, end).await?;
        if let NextStep::Retry { after, budget, memory } = next {
            job.job.resources.memory = memory.or(job.job.resources.memory);
            self.use_budget(tx, job, *budget, *memory, super::now().plus(*after)).await?;
            self.sql("UPDATE attempts SET retry_budget = ? WHERE job_id = ? AND attempt = ?")
                .bind(budget.as_str())
                .bind(id.job.clone())
                .bind(i64::from(id.attempt))
                .execute(&mut **tx)
                .await?;
        }
        let to = next.phase();
        if job.phase == Phase::Queued && to == Phase::Succeeded {
            // Its place was never recorded as existing, and yet it ran: the ending implies the phases before it.
            self.move_job(tx, job, Phase::Executing, Writer::Supervisor, "implied by its ending", end.at).await?;
        }
        let writer = match job.phase {
            _ if to == Phase::Rejected => Writer::Launch,
            Phase::Queued => Writer::Reconcile,
            _ => Writer::Fold,
        };
        self.move_job(tx, job, to, writer, &reason(next, end), end.at).await
    }

    async fn show_verdict(&self, tx: &mut Tx, job: &JobRow, end: &AttemptEnd) -> Result<(), Error> {
        let query = self.sql("UPDATE jobs SET outcome = ?, verdict = ? WHERE id = ?");
        let query = query.bind(end.ending.outcome.code().to_owned()).bind(text(&end.ending.verdict)?);
        query.bind(job.job.id.clone()).execute(&mut **tx).await?;
        Ok(())
    }

    /// Moves the definition's cursor with a success. A verdict comes back if it cannot be moved: then the load is done, but the next
    /// run would not know it, and a person decides.
    async fn carry_cursor(
        &self,
        tx: &mut Tx,
        job: &JobRow,
        attempt: &AttemptRow,
        ending: &Ending,
    ) -> Result<Option<Verdict>, Error> {
        if !job.job.is_incremental() {
            return Ok(None);
        }
        let moved = match (&ending.cursor, attempt.cursor_generation) {
            // An adopted attempt had its cursor from another ledger; moving it compares all the same.
            (Some(cursor), generation) if generation.is_none_or(|generation| generation == cursor.from_generation) => {
                self.move_cursor(tx, job, cursor.from_generation, &cursor.diff).await?
            }
            _ => false,
        };
        let code = if ending.cursor.is_none() { "cursor_missing" } else { "cursor_conflict" };
        Ok((!moved).then(|| Verdict {
            code: code.into(),
            summary: "The load succeeded, but its definition's cursor could not be moved on.".into(),
            evidence: ending.verdict.evidence.clone(),
            confidence: Confidence::Certain,
            next_action: "The next run would load the same rows again. Compare the cursor with the target, then cancel this job, or retry it \
                          if loading twice does no harm."
                .into(),
        }))
    }

    async fn close_attempt(&self, tx: &mut Tx, id: &AttemptId, end: &AttemptEnd) -> Result<(), Error> {
        let statement = "UPDATE attempts SET state = 'ended', ended_at_ms = ?, outcome = ?, evidence = ?, verdict = ?, exit_code = ?, \
                         killed_by_signal = ?, last_lines = ? WHERE job_id = ? AND attempt = ?";
        self.sql(statement)
            .bind(end.at.min(super::now()).0)
            .bind(end.ending.outcome.code().to_owned())
            .bind(end.evidence.rank())
            .bind(text(&end.ending.verdict)?)
            .bind(end.ending.exit_code.map(i64::from))
            .bind(end.ending.signal.map(i64::from))
            .bind(text(&end.ending.last_lines)?)
            .bind(id.job.clone())
            .bind(i64::from(id.attempt))
            .execute(&mut **tx)
            .await?;
        Ok(())
    }

    async fn use_budget(
        &self,
        tx: &mut Tx,
        job: &mut JobRow,
        budget: Budget,
        memory: Option<Bytes>,
        not_before: Millis,
    ) -> Result<(), Error> {
        match budget {
            Budget::Own => job.own_retries += 1,
            Budget::Infrastructure => job.infrastructure_retries += 1,
            Budget::Memory => {}
        }
        let statement = "UPDATE jobs SET own_retries = ?, infrastructure_retries = ?, not_before_ms = ?, \
                         memory_bytes = COALESCE(?, memory_bytes) WHERE id = ?";
        self.sql(statement)
            .bind(i64::from(job.own_retries))
            .bind(i64::from(job.infrastructure_retries))
            .bind(not_before.0)
            .bind(memory.map(|bytes| i64::try_from(bytes.0).unwrap_or(i64::MAX)))
            .bind(job.job.id.clone())
            .execute(&mut **tx)
            .await?;
        Ok(())
    }

    /// Something spoke for an attempt that does not count: kept, counted, shown.
    pub(super) async fn count_conflict(&self, tx: &mut Tx, id: &AttemptId, what: &'static str) -> Result<(), Error> {
        tracing::warn!(job = id.job, attempt = id.attempt, what, "conflict");
        self.sql("UPDATE attempts SET conflicts = conflicts + 1 WHERE job_id = ? AND attempt = ?")
            .bind(id.job.clone())
            .bind(i64::from(id.attempt))
            .execute(&mut **tx)
            .await?;
        Ok(())
    }
}

impl NextStep {
    /// Where the job goes.
    fn phase(&self) -> Phase {
        match self {
            Self::Succeed => Phase::Succeeded,
            Self::Fail => Phase::Failed,
            Self::Cancel => Phase::Cancelled,
            Self::Reject => Phase::Rejected,
            Self::Hold { .. } => Phase::Held,
            Self::Retry { .. } => Phase::Queued,
        }
    }
}

fn reason(next: &NextStep, end: &AttemptEnd) -> String {
    let reason = format!("{}, by {}", end.ending.outcome.code(), end.evidence);
    match next {
        NextStep::Retry { after, memory, .. } => {
            let with = memory.map(|memory| format!(" with {memory} of memory")).unwrap_or_default();
            format!("{reason}; next attempt{with} in {}", crate::record::span::Span(*after))
        }
        _ => reason,
    }
}

fn text(value: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|why| Error::Unreadable { table: "attempts", why: why.to_string() })
}
