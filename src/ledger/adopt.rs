//! What a ledger that was restored from a backup takes over from the cluster: attempts that were begun after the backup.
//!
//! Their places say which job and which try they are, and by which rules the job goes. What runs is neither ended nor started again: the
//! first process that reports from the place is bound to the attempt, as a grant would have bound it; until then everybody who asks for it is told to
//! ask again. What the job loads is not in its place: the submitter who sends the job again fills it in, and until then it is not tried again.

use super::{
    Error, Incoming, Ledger, Speaker,
    batch::{Batch, LazyBatch},
    rows::{number, text},
    transact::Again,
};
use crate::record::{
    job::Job,
    outcome::Evidence,
    phase::{Phase, Writer},
    wire::{AttemptId, GrantRequest},
};
use sqlx::Row as _;
use std::collections::HashMap;

/// An attempt that has a place and is not in the ledger.
#[derive(Debug, Clone)]
pub struct Foundling {
    pub id: AttemptId,
    /// Its place's.
    pub uid: String,
    /// The job's rules.
    pub job: Job,
}

/// Instead of the digest of a job's content, while nobody has sent that.
pub(super) const NO_CONTENT: &str = "";

const REASON: &str = "its place was found; the ledger was restored to a time before it";

static LAST: LazyBatch = LazyBatch::new(|| Batch::new("SELECT id, attempt FROM jobs WHERE id IN ({rows})", "?", ", "));

impl Ledger {
    /// Which of these attempts the ledger has never heard of.
    pub async fn unknown(&self, mut ids: Vec<AttemptId>) -> Result<Vec<AttemptId>, Error> {
        let jobs: Vec<&str> = ids.iter().map(|id| &*id.job).collect();
        let mut last: HashMap<String, u32> = HashMap::with_capacity(jobs.len());
        for (statement, jobs) in LAST.pieces(&jobs) {
            let query = jobs.iter().fold(self.sql(statement), |query, job| query.bind((*job).to_owned()));
            for row in query.fetch_all(&self.pool).await? {
                last.insert(row.try_get("id")?, number(&row, "attempt")?);
            }
        }
        ids.retain(|id| last.get(&id.job).is_none_or(|last| *last < id.attempt));
        Ok(ids)
    }

    /// Takes the attempt in; false if the ledger has it, or its job has succeeded without it.
    pub async fn adopt(&self, found: &Foundling, cluster: &str) -> Result<bool, Error> {
        self.transact(|_: Again| self.adopt_once(found, cluster)).await
    }

    async fn adopt_once(&self, found: &Foundling, cluster: &str) -> Result<bool, Error> {
        let (id, now) = (&found.id, super::now());
        let mut tx = self.begin().await?;
        if self.job_row(&mut tx, &id.job).await?.is_none() {
            let mut job = found.job.clone();
            (job.retry.limit, job.retry.infrastructure_limit) = (0, 0);
            let incoming = Incoming { job: &job, digest: NO_CONTENT, not_before_ms: 0, queued_at: now };
            self.insert(&mut tx, &[incoming]).await?;
        }
        let Some(mut job) = self.job_row(&mut tx, &id.job).await? else { return Ok(false) };
        if job.attempt >= id.attempt || job.phase == Phase::Succeeded {
            return Ok(false);
        }
        // There is a later attempt because this one is proved to have ended, and it was tried again.
        self.sql(
            "UPDATE attempts SET state = 'ended', ended_at_ms = ?, outcome = 'lost', evidence = ?, released_at_ms = ? \
             WHERE job_id = ? AND state <> 'ended'",
        )
        .bind(now.0)
        .bind(Evidence::Inference.rank())
        .bind(now.0)
        .bind(id.job.clone())
        .execute(&mut *tx)
        .await?;
        let writer = if job.phase.is_ended() || job.phase == Phase::Held { Writer::Operator } else { Writer::Fold };
        self.move_job(&mut tx, &mut job, Phase::Queued, writer, REASON, now).await?;
        self.sql(
            "INSERT INTO attempts (job_id, attempt, state, cluster, uid, launching_at_ms, launched_at_ms, adopted_ms, evidence, conflicts) \
             VALUES (?, ?, 'launched', ?, ?, ?, ?, ?, 0, 0)",
        )
        .bind(id.job.clone())
        .bind(i64::from(id.attempt))
        .bind(cluster.to_owned())
        .bind(found.uid.clone())
        .bind(now.0)
        .bind(now.0)
        .bind(now.0)
        .execute(&mut *tx)
        .await?;
        // Somebody who had cancelled it has tried it again since, or there would be no later attempt.
        let query =
            self.sql("UPDATE jobs SET attempt = ?, cancel_requested_ms = NULL, cancel_reason = NULL WHERE id = ?");
        query.bind(i64::from(id.attempt)).bind(id.job.clone()).execute(&mut *tx).await?;
        job.attempt = id.attempt;
        self.move_job(&mut tx, &mut job, Phase::SettingUp, Writer::Launch, REASON, now).await?;
        self.commit(tx).await?;
        Ok(true)
    }

    /// The attempt's process had leave that the ledger does not know of: what is left of it says so. False if the attempt is over.
    pub async fn has_had_leave(&self, id: &AttemptId) -> Result<bool, Error> {
        let mark = async |_: Again| {
            let statement = "UPDATE attempts SET adopted_ms = ? WHERE job_id = ? AND attempt = ? AND state <> 'ended'";
            let query = self.sql(statement).bind(super::now().0).bind(id.job.clone()).bind(i64::from(id.attempt));
            Ok(query.execute(&self.pool).await?.rows_affected() == 1)
        };
        self.transact(mark).await
    }

    /// Binds an attempt to the process that reports from its place: another ledger has given that one leave. False if there is nothing
    /// to bind.
    pub async fn adopt_process(&self, id: &AttemptId, source: &str, speaker: &Speaker) -> Result<bool, Error> {
        self.transact(|_: Again| self.adopt_process_once(id, source, speaker)).await
    }

    async fn adopt_process_once(&self, id: &AttemptId, source: &str, speaker: &Speaker) -> Result<bool, Error> {
        let mut tx = self.begin().await?;
        let (Some(mut job), Some(attempt)) =
            (self.job_row(&mut tx, &id.job).await?, self.attempt_row(&mut tx, id).await?)
        else {
            return Ok(false);
        };
        let is_open = attempt.awaits_its_process() && job.attempt == id.attempt;
        if !is_open || !self.bind_uid(&mut tx, id, &speaker.uid).await? {
            return Ok(false);
        }
        let now = super::now();
        self.bind(&mut tx, &GrantRequest { id: id.clone(), nonce: text(source) }, speaker).await?;
        self.sql("UPDATE attempts SET executing_at_ms = ?, adopted_ms = ? WHERE job_id = ? AND attempt = ?")
            .bind(now.0)
            .bind(now.0)
            .bind(id.job.clone())
            .bind(i64::from(id.attempt))
            .execute(&mut *tx)
            .await?;
        self.move_job(&mut tx, &mut job, Phase::Executing, Writer::Supervisor, "it reports", now).await?;
        self.commit(tx).await?;
        Ok(true)
    }
}
