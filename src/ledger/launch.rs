//! Attempts from permit to place: what waits, what is launching, what may still be alive.

use super::{
    Error, Ledger,
    rows::{job, number, phase},
};
use crate::record::{
    Millis,
    job::Job,
    phase::{Phase, Writer},
    wire::AttemptId,
};
use sqlx::{Row as _, any::AnyRow};

/// A job that waits for admission.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub id: String,
    pub tenant: String,
    pub definition: String,
    pub priority: i32,
    pub incremental: bool,
    pub queued_at: Millis,
    pub not_before: Millis,
}

/// An attempt that is committed to be launched.
#[derive(Debug, Clone)]
pub struct Order {
    pub id: AttemptId,
    /// The place's; empty until the place has told it, for one that brings its own.
    pub uid: String,
    pub job: Job,
}

/// An attempt that has not ended, as far as the ledger knows.
#[derive(Debug, Clone)]
pub struct LiveAttempt {
    pub order: Order,
    pub phase: Phase,
    /// It is committed, and nobody has said that its place exists.
    pub launching: bool,
    pub granted: bool,
    /// Its supervisor has said that the transfer runs.
    pub executing: bool,
    pub nonce: Option<String>,
    /// Under `fencing: strict`, once granted: nothing of it runs after this moment of the ledger's clock.
    pub lease_until: Option<Millis>,
    pub cancel_requested: Option<Millis>,
}

/// Attempts with their jobs.
macro_rules! attempts_where {
    ($condition:literal) => {
        concat!(
            "SELECT a.job_id, a.attempt, a.uid, a.state, a.nonce, a.granted_at_ms, a.executing_at_ms, a.lease_until_ms, j.spec, j.phase, ",
            "j.cancel_requested_ms FROM attempts a JOIN jobs j ON j.id = a.job_id WHERE ",
            $condition
        )
    };
}

impl Ledger {
    /// Jobs in the queue whose time has come and that have no live attempt, best first. An incremental definition waits while one of its
    /// jobs is held or waits for its next attempt: its cursor does not stand where the next run may begin.
    pub async fn waiting(&self, limit: u32) -> Result<Vec<Waiting>, Error> {
        let statement = "SELECT j.id, j.tenant, j.definition, j.priority, j.incremental, j.queued_at_ms, j.not_before_ms FROM jobs j \
                         WHERE j.phase = 'queued' AND j.not_before_ms <= ? AND j.cancel_requested_ms IS NULL AND NOT EXISTS \
                         (SELECT 1 FROM attempts a WHERE a.job_id = j.id AND a.attempt = j.attempt AND a.state <> 'ended') AND NOT \
                         (j.incremental = 1 AND EXISTS (SELECT 1 FROM jobs k WHERE k.tenant = j.tenant AND k.definition = j.definition \
                         AND k.incremental = 1 AND k.id <> j.id AND (k.phase = 'held' OR (k.phase = 'queued' AND k.attempt > 0 AND \
                         (j.attempt = 0 OR k.queued_at_ms < j.queued_at_ms OR (k.queued_at_ms = j.queued_at_ms AND k.id < j.id)))))) \
                         ORDER BY j.priority DESC, j.queued_at_ms, j.id LIMIT ?";
        let rows = self.sql(statement).bind(super::now().0).bind(i64::from(limit)).fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| {
                Ok(Waiting {
                    id: row.try_get("id")?,
                    tenant: row.try_get("tenant")?,
                    definition: row.try_get("definition")?,
                    priority: i32::try_from(row.try_get::<i64, _>("priority")?).unwrap_or_default(),
                    incremental: row.try_get::<i64, _>("incremental")? != 0,
                    queued_at: Millis(row.try_get("queued_at_ms")?),
                    not_before: Millis(row.try_get("not_before_ms")?),
                })
            })
            .collect()
    }

    /// Commits the next attempt of a queued job; `None` if the job is no longer to be launched.
    pub async fn begin_launch(&self, job: &str, cluster: &str, uid: String) -> Result<Option<Order>, Error> {
        let mut tx = self.begin().await?;
        let Some(row) = self.job_row(&mut tx, job).await? else { return Ok(None) };
        let id = AttemptId { job: job.to_owned(), attempt: row.attempt + 1 };
        let last = AttemptId { job: job.to_owned(), attempt: row.attempt };
        let alive = self.attempt_row(&mut tx, &last).await?.is_some_and(|last| !last.ended);
        if row.phase != Phase::Queued || row.cancel_requested || alive {
            return Ok(None);
        }
        let statement = "INSERT INTO attempts (job_id, attempt, state, cluster, uid, launching_at_ms, evidence, conflicts) \
                         VALUES (?, ?, 'launching', ?, ?, ?, 0, 0)";
        self.sql(statement)
            .bind(id.job.clone())
            .bind(i64::from(id.attempt))
            .bind(cluster.to_owned())
            .bind(uid.clone())
            .bind(super::now().0)
            .execute(&mut *tx)
            .await?;
        self.sql("UPDATE jobs SET attempt = ? WHERE id = ?")
            .bind(i64::from(id.attempt))
            .bind(job.to_owned())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(Some(Order { id, uid, job: row.job }))
    }

    /// The attempt's place exists, under this UID.
    pub async fn launched(&self, id: &AttemptId, uid: &str) -> Result<(), Error> {
        let mut tx = self.begin().await?;
        let now = super::now();
        self.bind_uid(&mut tx, id, uid).await?;
        let statement = "UPDATE attempts SET state = 'launched', launched_at_ms = ? WHERE job_id = ? AND attempt = ? AND state = 'launching'";
        let query = self.sql(statement).bind(now.0).bind(id.job.clone()).bind(i64::from(id.attempt));
        let first = query.execute(&mut *tx).await?.rows_affected() == 1;
        // The supervisor may have been faster: then the job is executing already, or the attempt even over and the job queued again.
        if first
            && let Some(mut row) = self.job_row(&mut tx, &id.job).await?
            && (row.phase, row.attempt) == (Phase::Queued, id.attempt)
        {
            self.move_job(&mut tx, &mut row, Phase::SettingUp, Writer::Launch, "its place exists", now).await?;
        }
        Ok(tx.commit().await?)
    }

    /// Every attempt on the cluster that has not ended.
    pub async fn live_attempts(&self, cluster: &str) -> Result<Vec<LiveAttempt>, Error> {
        let query =
            self.sql(attempts_where!("a.state <> 'ended' AND a.cluster = ? ORDER BY a.launching_at_ms, a.job_id"));
        Ok(readable(&query.bind(cluster.to_owned()).fetch_all(&self.pool).await?, live_attempt))
    }

    /// One attempt as it stands now, if it has not ended.
    pub async fn live_attempt(&self, id: &AttemptId) -> Result<Option<LiveAttempt>, Error> {
        let query = self.sql(attempts_where!("a.state <> 'ended' AND a.job_id = ? AND a.attempt = ?"));
        let query = query.bind(id.job.clone()).bind(i64::from(id.attempt));
        query.fetch_optional(&self.pool).await?.as_ref().map(live_attempt).transpose()
    }

    /// Ended attempts whose place still holds what only the running needed.
    pub async fn unreleased(&self, cluster: &str) -> Result<Vec<Order>, Error> {
        let query = self.sql(attempts_where!("a.state = 'ended' AND a.released_at_ms IS NULL AND a.cluster = ?"));
        Ok(readable(&query.bind(cluster.to_owned()).fetch_all(&self.pool).await?, order))
    }

    /// Whether the attempt is one of ours that has ended, and whose place was released.
    pub async fn is_released(&self, id: &AttemptId) -> Result<bool, Error> {
        let statement = "SELECT released_at_ms FROM attempts WHERE job_id = ? AND attempt = ? AND state = 'ended'";
        let query = self.sql(statement).bind(id.job.clone()).bind(i64::from(id.attempt));
        let row = query.fetch_optional(&self.pool).await?;
        Ok(row.map(|row| row.try_get::<Option<i64>, _>("released_at_ms")).transpose()?.flatten().is_some())
    }

    /// The place of an ended attempt holds nothing any more.
    pub async fn released(&self, id: &AttemptId) -> Result<(), Error> {
        let query =
            self.sql("UPDATE attempts SET released_at_ms = ? WHERE job_id = ? AND attempt = ?").bind(super::now().0);
        query.bind(id.job.clone()).bind(i64::from(id.attempt)).execute(&self.pool).await?;
        Ok(())
    }
}

/// A job that a newer release wrote waits for that release; the others go on.
fn readable<T>(rows: &[AnyRow], read: fn(&AnyRow) -> Result<T, Error>) -> Vec<T> {
    rows.iter().filter_map(|row| read(row).inspect_err(|error| tracing::error!("{error}")).ok()).collect()
}

fn order(row: &AnyRow) -> Result<Order, Error> {
    let id = AttemptId { job: row.try_get("job_id")?, attempt: number(row, "attempt")? };
    Ok(Order { id, uid: row.try_get("uid")?, job: job(row.try_get("spec")?)? })
}

fn live_attempt(row: &AnyRow) -> Result<LiveAttempt, Error> {
    Ok(LiveAttempt {
        order: order(row)?,
        phase: phase(row.try_get("phase")?)?,
        launching: row.try_get::<String, _>("state")? == "launching",
        granted: row.try_get::<Option<i64>, _>("granted_at_ms")?.is_some(),
        executing: row.try_get::<Option<i64>, _>("executing_at_ms")?.is_some(),
        nonce: row.try_get("nonce")?,
        lease_until: row.try_get::<Option<i64>, _>("lease_until_ms")?.map(Millis),
        cancel_requested: row.try_get::<Option<i64>, _>("cancel_requested_ms")?.map(Millis),
    })
}
