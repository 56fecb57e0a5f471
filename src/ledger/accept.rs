//! Taking jobs in, and keeping what was not taken.

use super::{Error, Ledger};
use crate::record::{
    job::Job,
    phase::{Phase, Writer},
};
use sqlx::Row as _;

/// What became of a job that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    New,
    /// The same id with the same content: the same job.
    Known,
    /// The same id with another content.
    OtherContent,
}

impl Ledger {
    /// Takes the job in, once for its id. `digest` is of its content, trace context aside; `not_before_ms` of the job in milliseconds.
    pub async fn accept(&self, job: &Job, digest: &str, not_before_ms: i64) -> Result<Accepted, Error> {
        let mut tx = self.begin().await?;
        let known =
            self.sql("SELECT digest FROM jobs WHERE id = ?").bind(job.id.clone()).fetch_optional(&mut *tx).await?;
        if let Some(known) = known {
            let same = known.try_get::<String, _>("digest")? == digest;
            return Ok(if same { Accepted::Known } else { Accepted::OtherContent });
        }
        let now = super::now();
        let spec =
            serde_json::to_string(job).map_err(|why| Error::Unreadable { table: "jobs", why: why.to_string() })?;
        let statement = "INSERT INTO jobs (id, tenant, definition, spec, digest, traceparent, priority, incremental, phase, \
                         phase_since_ms, attempt, queued_at_ms, not_before_ms, own_retries, infrastructure_retries) \
                         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, 0, 0)";
        self.sql(statement)
            .bind(job.id.clone())
            .bind(job.tenant.clone().unwrap_or_default())
            .bind(job.definition.clone().unwrap_or_default())
            .bind(spec)
            .bind(digest.to_owned())
            .bind(job.traceparent.clone())
            .bind(i64::from(job.priority))
            .bind(i64::from(job.is_incremental()))
            .bind(Phase::Queued.as_str().to_owned())
            .bind(now.0)
            .bind(now.0)
            // From then on it waits: a tenant's jobs go in this order.
            .bind(not_before_ms.max(now.0))
            .execute(&mut *tx)
            .await?;
        self.append_transition(&mut tx, &job.id, 0, None, Phase::Queued, Writer::Intake, "accepted", now).await?;
        tx.commit().await?;
        tracing::info!(job = job.id, phase = Phase::Queued.as_str());
        Ok(Accepted::New)
    }

    /// Keeps a message that was not taken, with the reason; the same message again only counts up.
    pub async fn refuse(
        &self,
        queue: &str,
        message_id: &str,
        job: Option<&str>,
        reason: &str,
        digest: &str,
    ) -> Result<(), Error> {
        let mut tx = self.begin().await?;
        let now = super::now().0;
        let again = self
            .sql("UPDATE refusals SET times = times + 1, last_at_ms = ?, reason = ? WHERE queue = ? AND message_id = ?")
            .bind(now)
            .bind(reason.to_owned())
            .bind(queue.to_owned())
            .bind(message_id.to_owned())
            .execute(&mut *tx)
            .await?;
        if again.rows_affected() == 0 {
            let statement = "INSERT INTO refusals (queue, message_id, job_id, reason, digest, first_at_ms, last_at_ms, times) \
                             VALUES (?, ?, ?, ?, ?, ?, ?, 1)";
            self.sql(statement)
                .bind(queue.to_owned())
                .bind(message_id.to_owned())
                .bind(job.map(str::to_owned))
                .bind(reason.to_owned())
                .bind(digest.to_owned())
                .bind(now)
                .bind(now)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        tracing::warn!(queue, message_id, job, reason, "refused");
        Ok(())
    }
}
