//! What people ask of a job: cancel it, try it again.

use super::{Error, Ledger, rows::text, transact::Again};
use crate::record::phase::{Phase, Writer};

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

impl Ledger {
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
        let last = crate::record::wire::AttemptId { job: id.to_owned(), attempt: row.attempt };
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
