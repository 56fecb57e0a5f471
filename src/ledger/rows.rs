//! Rows of `jobs` and `attempts` as the other files need them: read under the lock of a writing transaction, the job's before its attempt's, so that
//! two transactions on one job wait for each other and never in a circle.

use super::{Error, Ledger, Tx, adopt::NO_CONTENT, fold::Budget};
use crate::record::{
    Millis,
    job::Job,
    phase::{Phase, Writer, may_move},
    quantity::Bytes,
    wire::AttemptId,
};
use sqlx::{Row as _, any::AnyRow};

/// A job under our hand.
pub struct JobRow {
    /// With the memory that its last retry has grown to.
    pub job: Job,
    pub phase: Phase,
    pub phase_since: Millis,
    pub attempt: u32,
    pub cancel_requested: bool,
    pub own_retries: u32,
    pub infrastructure_retries: u32,
    /// It was adopted, and nobody has sent again what it loads.
    pub awaits_content: bool,
}

/// One of its attempts.
pub struct AttemptRow {
    pub ended: bool,
    pub nonce: Option<String>,
    pub cursor_generation: Option<i64>,
    pub granted: bool,
    pub executing: bool,
    /// Under `fencing: strict`: nothing of it runs after this moment of the ledger's clock.
    pub lease_until: Option<Millis>,
    /// What it had, if that was said.
    pub memory: Option<Bytes>,
    /// What paid for the retry that followed its end, if one did.
    pub retry_budget: Option<Budget>,
    /// Rank of the evidence that its end stands on; 0 before.
    pub evidence: i64,
    /// Found on the cluster by a ledger that was restored to a time before it.
    pub adopted: bool,
}

impl AttemptRow {
    /// No process is known to have leave. One that reports all the same has it by a ledger that was restored since: before its grant a
    /// supervisor has nothing to report.
    pub fn awaits_its_process(&self) -> bool {
        self.nonce.is_none() && !self.ended
    }

    /// A process may have leave.
    pub fn may_have_run(&self) -> bool {
        self.granted || self.adopted
    }
}

impl Ledger {
    pub(super) async fn job_row(&self, tx: &mut Tx, id: &str) -> Result<Option<JobRow>, Error> {
        let statement = "SELECT spec, phase, phase_since_ms, attempt, cancel_requested_ms, own_retries, \
                         infrastructure_retries, memory_bytes, digest FROM jobs WHERE id = ?{for_update}";
        let row = self.sql(statement).bind(id.to_owned()).fetch_optional(&mut **tx).await?;
        row.map(|row| {
            let mut job = job(row.try_get("spec")?)?;
            job.resources.memory = bytes(&row, "memory_bytes")?.or(job.resources.memory);
            Ok(JobRow {
                job,
                phase: phase(row.try_get("phase")?)?,
                phase_since: Millis(row.try_get("phase_since_ms")?),
                attempt: number(&row, "attempt")?,
                cancel_requested: row.try_get::<Option<i64>, _>("cancel_requested_ms")?.is_some(),
                own_retries: number(&row, "own_retries")?,
                infrastructure_retries: number(&row, "infrastructure_retries")?,
                awaits_content: row.try_get::<String, _>("digest")? == NO_CONTENT,
            })
        })
        .transpose()
    }

    pub(super) async fn attempt_row(&self, tx: &mut Tx, id: &AttemptId) -> Result<Option<AttemptRow>, Error> {
        let statement = "SELECT state, nonce, cursor_generation, granted_at_ms, executing_at_ms, lease_until_ms, memory_bytes, retry_budget, \
                         evidence, adopted_ms FROM attempts \
                         WHERE job_id = ? AND attempt = ?{for_update}";
        let query = self.sql(statement).bind(id.job.clone()).bind(i64::from(id.attempt));
        let row = query.fetch_optional(&mut **tx).await?;
        row.map(|row| {
            Ok(AttemptRow {
                ended: row.try_get::<String, _>("state")? == "ended",
                nonce: row.try_get("nonce")?,
                cursor_generation: row.try_get("cursor_generation")?,
                granted: row.try_get::<Option<i64>, _>("granted_at_ms")?.is_some(),
                executing: row.try_get::<Option<i64>, _>("executing_at_ms")?.is_some(),
                lease_until: row.try_get::<Option<i64>, _>("lease_until_ms")?.map(Millis),
                memory: bytes(&row, "memory_bytes")?,
                retry_budget: row.try_get::<Option<String>, _>("retry_budget")?.as_deref().and_then(Budget::parse),
                evidence: row.try_get("evidence")?,
                adopted: row.try_get::<Option<i64>, _>("adopted_ms")?.is_some(),
            })
        })
        .transpose()
    }

    /// Moves a job along the table of `record::phase`, and appends the transition. Staying is no move.
    ///
    /// `at` is the writer's clock, `now` ours; the later of `at` and the last transition counts, so that a worker's clock that is behind
    /// cannot turn a timeline round.
    pub(super) async fn move_job(
        &self,
        tx: &mut Tx,
        row: &mut JobRow,
        to: Phase,
        writer: Writer,
        reason: &str,
        at: Millis,
    ) -> Result<(), Error> {
        if row.phase == to {
            return Ok(());
        }
        if !may_move(Some(row.phase), to, writer) {
            let (from, to) = (row.phase.as_str(), to.as_str());
            return Err(Error::IllegalMove { job: row.job.id.clone(), from, to, writer: writer.as_str() });
        }
        let now = super::now();
        let at = at.min(now).max(row.phase_since);
        self.append_transition(tx, &row.job.id, row.attempt, Some(row.phase), to, writer, reason, at).await?;
        (row.phase, row.phase_since) = (to, at);
        let ended = (to.is_ended()).then_some(at.0);
        self.sql("UPDATE jobs SET phase = ?, phase_since_ms = ?, ended_at_ms = ? WHERE id = ?")
            .bind(to.as_str().to_owned())
            .bind(at.0)
            .bind(ended)
            .bind(row.job.id.clone())
            .execute(&mut **tx)
            .await?;
        tracing::info!(job = row.job.id, attempt = row.attempt, phase = to.as_str(), writer = writer.as_str(), reason);
        Ok(())
    }

    #[allow(clippy::too_many_arguments)] // the columns of one table
    pub(super) async fn append_transition(
        &self,
        tx: &mut Tx,
        job: &str,
        attempt: u32,
        from: Option<Phase>,
        to: Phase,
        writer: Writer,
        reason: &str,
        at: Millis,
    ) -> Result<(), Error> {
        let statement = "INSERT INTO transitions (job_id, number, attempt, from_phase, to_phase, at_ms, recorded_at_ms, writer, reason) \
                         SELECT ?, COALESCE(MAX(number), 0) + 1, ?, ?, ?, ?, ?, ?, ? FROM transitions WHERE job_id = ?";
        self.sql(statement)
            .bind(job.to_owned())
            .bind(i64::from(attempt))
            .bind(from.map(|from| from.as_str().to_owned()))
            .bind(to.as_str().to_owned())
            .bind(at.0)
            .bind(super::now().0)
            .bind(writer.as_str().to_owned())
            .bind(text(reason))
            .bind(job.to_owned())
            .execute(&mut **tx)
            .await?;
        Ok(())
    }
}

/// A text from outside for a column: PostgreSQL has no U+0000.
pub fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// The job that a `spec` column holds.
pub fn job(spec: String) -> Result<Job, Error> {
    serde_json::from_str(&spec).map_err(|why| Error::Unreadable { table: "jobs", why: why.to_string() })
}

/// The phase that a column names.
pub fn phase(text: String) -> Result<Phase, Error> {
    Phase::parse(&text).ok_or_else(|| Error::Unreadable { table: "jobs", why: format!("no phase is called `{text}`") })
}

/// A count in a column.
pub fn number(row: &AnyRow, column: &'static str) -> Result<u32, Error> {
    let number: i64 = row.try_get(column)?;
    u32::try_from(number).map_err(|why| Error::Unreadable { table: column, why: why.to_string() })
}

/// An amount in a column.
pub fn bytes(row: &AnyRow, column: &'static str) -> Result<Option<Bytes>, Error> {
    Ok(row.try_get::<Option<i64>, _>(column)?.and_then(|bytes| u64::try_from(bytes).ok()).map(Bytes))
}
