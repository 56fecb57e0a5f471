//! What people ask of a job, or say of it: cancel it, try it again, nothing of it runs any more.

use super::{AttemptEnd, Error, Ledger, rows::text, transact::Again};
use crate::record::{
    phase::{Phase, Writer},
    wire::AttemptId,
};

/// What became of a request to cancel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancelled {
    /// Nothing of it ran or runs: it is over.
    AtOnce,
    /// An attempt is alive; reconcile and its own reports will end it.
    UnderWay,
    /// It had ended before.
    AlreadyEnded(Phase),
}

/// What became of a request to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retried {
    Queued,
    /// Another attempt exists than the one the request was about, or it is queued already.
    AlreadyDone {
        attempt: u32,
    },
    /// Only what has failed, or waits for a person, is tried again.
    NotNow(Phase),
}

/// What became of a person's word that nothing of an attempt runs any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfirmedDead {
    /// It has ended by that word; this is its job's phase now.
    Ended(Phase),
    /// It was not, or not any more, the job's living attempt: that is this one.
    Another { attempt: u32 },
    /// The job has none.
    NoneAlive(Phase),
}

impl Ledger {
    /// Ends the job's living attempt on a person's word. Its number makes sure that it is the one that the person has looked at.
    pub async fn confirm_dead(&self, id: &AttemptId, end: &AttemptEnd) -> Result<ConfirmedDead, Error> {
        self.transact(|again| self.confirm_dead_once(id, end, again)).await
    }

    async fn confirm_dead_once(&self, id: &AttemptId, end: &AttemptEnd, again: Again) -> Result<ConfirmedDead, Error> {
        let mut tx = self.begin().await?;
        let mut job = self.job_row(&mut tx, &id.job).await?.ok_or_else(|| Error::NoSuchJob(id.job.clone()))?;
        if again == Again::MayBeDone && self.is_confirmed_dead(id).await? {
            return Ok(ConfirmedDead::Ended(job.phase));
        }
        let last = AttemptId { job: id.job.clone(), attempt: job.attempt };
        let Some(attempt) = self.attempt_row(&mut tx, &last).await?.filter(|attempt| !attempt.ended) else {
            return Ok(ConfirmedDead::NoneAlive(job.phase));
        };
        if last != *id {
            return Ok(ConfirmedDead::Another { attempt: last.attempt });
        }
        self.conclude(&mut tx, &mut job, id, &attempt, end.clone()).await?;
        self.sql("UPDATE attempts SET confirmed_dead_ms = ? WHERE job_id = ? AND attempt = ?")
            .bind(super::now().0)
            .bind(id.job.clone())
            .bind(i64::from(id.attempt))
            .execute(&mut *tx)
            .await?;
        self.commit(tx).await?;
        Ok(ConfirmedDead::Ended(job.phase))
    }

    /// Whether a person has said so of the attempt.
    pub async fn is_confirmed_dead(&self, id: &AttemptId) -> Result<bool, Error> {
        let statement = "SELECT 1 FROM attempts WHERE job_id = ? AND attempt = ? AND confirmed_dead_ms IS NOT NULL";
        let query = self.sql(statement).bind(id.job.clone()).bind(i64::from(id.attempt));
        Ok(query.fetch_optional(&self.pool).await?.is_some())
    }

    /// Cancels a job, by a person or the scheduler.
    pub async fn cancel(&self, id: &str, reason: &str) -> Result<Cancelled, Error> {
        self.transact(|again| self.cancel_once(id, reason, again)).await
    }

    async fn cancel_once(&self, id: &str, reason: &str, again: Again) -> Result<Cancelled, Error> {
        let mut tx = self.begin().await?;
        let mut row = self.job_row(&mut tx, id).await?.ok_or_else(|| Error::NoSuchJob(id.to_owned()))?;
        if row.phase.is_ended() {
            let by_us = again == Again::MayBeDone && row.phase == Phase::Cancelled;
            return Ok(if by_us { Cancelled::AtOnce } else { Cancelled::AlreadyEnded(row.phase) });
        }
        let last = AttemptId { job: id.to_owned(), attempt: row.attempt };
        let alive = self.attempt_row(&mut tx, &last).await?.is_some_and(|attempt| !attempt.ended);
        if !row.cancel_requested {
            self.sql("UPDATE jobs SET cancel_requested_ms = ?, cancel_reason = ? WHERE id = ?")
                .bind(super::now().0)
                .bind(text(reason))
                .bind(id.to_owned())
                .execute(&mut *tx)
                .await?;
        }
        if !alive {
            self.move_job(&mut tx, &mut row, Phase::Cancelled, Writer::Operator, reason, super::now()).await?;
        }
        self.commit(tx).await?;
        Ok(if alive { Cancelled::UnderWay } else { Cancelled::AtOnce })
    }

    /// Queues a job again. With `after_attempt` only if that is still the last one: a double click runs one.
    pub async fn retry(&self, id: &str, after_attempt: Option<u32>, reason: &str) -> Result<Retried, Error> {
        self.transact(|again| self.retry_once(id, after_attempt, reason, again)).await
    }

    async fn retry_once(
        &self,
        id: &str,
        after_attempt: Option<u32>,
        reason: &str,
        again: Again,
    ) -> Result<Retried, Error> {
        let mut tx = self.begin().await?;
        let mut row = self.job_row(&mut tx, id).await?.ok_or_else(|| Error::NoSuchJob(id.to_owned()))?;
        if again == Again::MayBeDone && row.phase == Phase::Queued {
            return Ok(Retried::Queued);
        }
        if after_attempt.is_some_and(|attempt| attempt != row.attempt || row.phase == Phase::Queued) {
            return Ok(Retried::AlreadyDone { attempt: row.attempt });
        }
        if !matches!(row.phase, Phase::Failed | Phase::Cancelled | Phase::Rejected | Phase::Held) {
            return Ok(Retried::NotNow(row.phase));
        }
        let statement = "UPDATE jobs SET cancel_requested_ms = NULL, cancel_reason = NULL, not_before_ms = 0, own_retries = 0, \
                         infrastructure_retries = 0 WHERE id = ?";
        self.sql(statement).bind(id.to_owned()).execute(&mut *tx).await?;
        self.move_job(&mut tx, &mut row, Phase::Queued, Writer::Operator, reason, super::now()).await?;
        self.commit(tx).await?;
        Ok(Retried::Queued)
    }
}
