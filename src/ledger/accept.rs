//! Taking jobs in, and keeping what was not taken.

use super::{Error, Ledger, Tx, rows::text, transact::Again};
use crate::record::{
    job::Job,
    phase::{Phase, Writer},
};
use sqlx::Row as _;

/// What the column holds; a longer one is no id of ours.
const ID_LENGTH: usize = 128;

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
        self.transact(|_| self.accept_once(job, digest, not_before_ms)).await
    }

    async fn accept_once(&self, job: &Job, digest: &str, not_before_ms: i64) -> Result<Accepted, Error> {
        let mut tx = self.begin().await?;
        if let Some(known) = self.known(&mut tx, &job.id, digest).await? {
            return Ok(known);
        }
        let now = super::now();
        let spec =
            serde_json::to_string(job).map_err(|why| Error::Unreadable { table: "jobs", why: why.to_string() })?;
        let statement = "{insert} INTO jobs (id, tenant, definition, spec, digest, traceparent, priority, incremental, phase, \
                         phase_since_ms, attempt, queued_at_ms, not_before_ms, own_retries, infrastructure_retries) \
                         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, 0, 0) {once}";
        let inserted = self
            .sql(statement)
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
            .bind(not_before_ms)
            .execute(&mut *tx)
            .await?;
        if inserted.rows_affected() == 0 {
            // Another control program was faster by a moment.
            let known = self.known(&mut tx, &job.id, digest).await?;
            return known.ok_or_else(|| Error::Unreadable { table: "jobs", why: format!("`{}` is not taken", job.id) });
        }
        self.append_transition(&mut tx, &job.id, 0, None, Phase::Queued, Writer::Intake, "accepted", now).await?;
        self.commit(tx).await?;
        tracing::info!(job = job.id, phase = Phase::Queued.as_str());
        Ok(Accepted::New)
    }

    async fn known(&self, tx: &mut Tx, id: &str, digest: &str) -> Result<Option<Accepted>, Error> {
        let known =
            self.sql("SELECT digest FROM jobs WHERE id = ?").bind(id.to_owned()).fetch_optional(&mut **tx).await?;
        let Some(known) = known else { return Ok(None) };
        let same = known.try_get::<String, _>("digest")? == digest;
        Ok(Some(if same { Accepted::Known } else { Accepted::OtherContent }))
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
        let now = super::now().0;
        let message = [queue, message_id, reason, digest].map(text);
        let job = job.map(|job| text(job).chars().take(ID_LENGTH).collect());
        self.transact(|again| self.refuse_once(&message, &job, now, again)).await?;
        tracing::warn!(queue, message_id, job, reason, "refused");
        Ok(())
    }

    async fn refuse_once(
        &self,
        [queue, message_id, reason, digest]: &[String; 4],
        job: &Option<String>,
        now: i64,
        again: Again,
    ) -> Result<(), Error> {
        let mut tx = self.begin().await?;
        let statement = "{insert} INTO refusals (queue, message_id, job_id, reason, digest, first_at_ms, last_at_ms, times) \
                         VALUES (?, ?, ?, ?, ?, ?, ?, 1) {once}";
        let first = self
            .sql(statement)
            .bind(queue.clone())
            .bind(message_id.clone())
            .bind(job.clone())
            .bind(reason.clone())
            .bind(digest.clone())
            .bind(now)
            .bind(now)
            .execute(&mut *tx)
            .await?;
        if first.rows_affected() == 0 {
            // Counted by a try whose answer was lost, if it is of this very moment.
            let counted = if again == Again::MayBeDone { now } else { i64::MIN };
            self.sql("UPDATE refusals SET times = times + 1, last_at_ms = ?, reason = ? WHERE queue = ? AND message_id = ? AND last_at_ms <> ?")
                .bind(now)
                .bind(reason.clone())
                .bind(queue.clone())
                .bind(message_id.clone())
                .bind(counted)
                .execute(&mut *tx)
                .await?;
        }
        self.commit(tx).await
    }
}
