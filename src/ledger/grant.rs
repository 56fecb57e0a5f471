//! Leave to start: binds an attempt to one process for good.
//!
//! Two bindings, each made once and never changed. The **place's UID**, by whatever names it first: the answer to its making, a look at the cluster, or the
//! first request for a grant; a Pod that is made again under the same name has another one. The **nonce** of the first process that asks from that place; a
//! container that is started again has another one. And an attempt that has no grant can be closed so that it never gets one, which is as good
//! as a proof that nothing of it will run: every process asks here first.

use super::{AttemptEnd, Error, Ledger, Tx, rows::JobRow};
use crate::record::{
    job::Fencing,
    wire::{AttemptId, Cursor, Grant, GrantAnswer, GrantRequest},
};
use sqlx::Row as _;
use std::time::Duration;

/// What the column holds; it is also the source of the records.
pub const NONCE_LENGTH: usize = 64;

/// What a grant says besides the job's own: settings of the control program.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    pub report_every_ms: u64,
    /// For `fencing: strict`; an attempt keeps the one that it was granted with.
    pub lease: Duration,
}

/// The place that a supervisor speaks from, as its cluster vouches for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Speaker {
    pub uid: String,
    /// The node that it is on, where the cluster has nodes and says so.
    pub node: Option<String>,
}

impl From<&str> for Speaker {
    fn from(uid: &str) -> Self {
        Self { uid: uid.to_owned(), node: None }
    }
}

impl Ledger {
    /// Answers a supervisor that asks to start. `key` signs its termination message.
    ///
    /// The first process to ask is bound; the same one may ask again and gets the same answer; every other is superseded.
    pub async fn grant(
        &self,
        request: &GrantRequest,
        speaker: impl Into<Speaker>,
        key: String,
        terms: Terms,
    ) -> Result<GrantAnswer, Error> {
        let speaker = speaker.into();
        self.transact(|_| self.grant_once(request, &speaker, &key, terms)).await
    }

    async fn grant_once(
        &self,
        request: &GrantRequest,
        speaker: &Speaker,
        key: &str,
        terms: Terms,
    ) -> Result<GrantAnswer, Error> {
        let no = |reason: &str| Ok(GrantAnswer::Superseded { reason: reason.to_owned() });
        if request.nonce.len() > NONCE_LENGTH {
            return no("a nonce of more than 64 bytes");
        }
        let mut tx = self.begin().await?;
        let row = self.job_row(&mut tx, &request.id.job).await?;
        let Some(row) = row.filter(|row| row.attempt >= request.id.attempt) else {
            return Err(Error::NotKnownYet(request.id.clone()));
        };
        let Some(attempt) = self.attempt_row(&mut tx, &request.id).await? else {
            return no("the ledger knows no such attempt");
        };
        if row.attempt != request.id.attempt {
            return no("a later attempt counts");
        }
        if attempt.ended || row.phase.is_ended() {
            return no("the attempt is over");
        }
        // Its Pod is from before the ledger's backup, and says by which rules it goes, not what it loads.
        if row.awaits_content && row.job.embulk.is_some() && attempt.nonce.is_none() {
            let reason = "the ledger was restored and does not know what this job loads; it waits to be sent again";
            return Ok(GrantAnswer::Wait { reason: reason.into() });
        }
        // First, so that two that ask at once see each other.
        if !self.bind_uid(&mut tx, &request.id, &speaker.uid).await? {
            return no("another place has this attempt");
        }
        match attempt.nonce {
            Some(nonce) if nonce != request.nonce => return no("another process has this attempt's grant"),
            Some(_) => {}
            None if row.cancel_requested => return no("the job was cancelled"),
            None => self.bind(&mut tx, request, speaker).await?,
        }
        let lease_ms = match row.job.fencing {
            Fencing::Patient => None,
            Fencing::Strict => Some(self.hold_lease(&mut tx, &request.id, terms.lease).await?),
        };
        let cursor = self.cursor(&mut tx, &row, &request.id).await?;
        self.commit(tx).await?;
        Ok(GrantAnswer::Granted(Box::new(Grant {
            key: key.to_owned(),
            report_every_ms: terms.report_every_ms,
            lease_ms,
            memory_limit_bytes: row.job.resources.memory.map(|bytes| bytes.0),
            embulk_config: row.job.embulk.map(|embulk| embulk.config),
            cursor,
        })))
    }

    /// Binds the attempt to its place, unless it is bound; false if it is bound to another one.
    pub(super) async fn bind_uid(&self, tx: &mut Tx, id: &AttemptId, uid: &str) -> Result<bool, Error> {
        if !uid.is_empty() {
            let query = self.sql("UPDATE attempts SET uid = ? WHERE job_id = ? AND attempt = ? AND uid = ''");
            let query = query.bind(uid.to_owned()).bind(id.job.clone()).bind(i64::from(id.attempt));
            query.execute(&mut **tx).await?;
        }
        let query = self.sql("SELECT uid FROM attempts WHERE job_id = ? AND attempt = ?").bind(id.job.clone());
        let row = query.bind(i64::from(id.attempt)).fetch_optional(&mut **tx).await?;
        let bound = row.map(|row| row.try_get::<String, _>("uid")).transpose()?;
        Ok(!uid.is_empty() && bound.as_deref() == Some(uid))
    }

    /// Ends an attempt that has no grant, and so never gets one; false if it has one, or has ended: then nothing is changed.
    pub async fn end_ungranted(&self, id: &AttemptId, end: AttemptEnd) -> Result<bool, Error> {
        self.transact(|_| self.end_ungranted_once(id, end.clone())).await
    }

    async fn end_ungranted_once(&self, id: &AttemptId, end: AttemptEnd) -> Result<bool, Error> {
        let mut tx = self.begin().await?;
        let (Some(mut job), Some(attempt)) =
            (self.job_row(&mut tx, &id.job).await?, self.attempt_row(&mut tx, id).await?)
        else {
            return Ok(false);
        };
        if attempt.ended || attempt.granted {
            return Ok(false);
        }
        self.conclude(&mut tx, &mut job, id, &attempt, end).await?;
        self.commit(tx).await?;
        Ok(true)
    }

    pub(super) async fn bind(&self, tx: &mut Tx, request: &GrantRequest, speaker: &Speaker) -> Result<(), Error> {
        let statement = "UPDATE attempts SET nonce = ?, granted_at_ms = ?, node = COALESCE(?, node) WHERE job_id = ? AND attempt = ?";
        self.sql(statement)
            .bind(request.nonce.clone())
            .bind(super::now().0)
            .bind(speaker.node.clone())
            .bind(request.id.job.clone())
            .bind(i64::from(request.id.attempt))
            .execute(&mut **tx)
            .await?;
        tracing::info!(job = request.id.job, attempt = request.id.attempt, "granted");
        Ok(())
    }

    /// From where an incremental definition goes on; the generation is noted with the attempt.
    async fn cursor(&self, tx: &mut Tx, row: &JobRow, id: &AttemptId) -> Result<Option<Cursor>, Error> {
        if !row.job.is_incremental() {
            return Ok(None);
        }
        let (tenant, definition) = definition(row);
        let query = self
            .sql("SELECT generation, diff FROM cursors WHERE tenant = ? AND definition = ?")
            .bind(tenant)
            .bind(definition);
        let cursor = match query.fetch_optional(&mut **tx).await? {
            Some(found) => Cursor { generation: found.try_get("generation")?, diff: found.try_get("diff")? },
            None => Cursor { generation: 0, diff: String::new() },
        };
        self.sql("UPDATE attempts SET cursor_generation = ? WHERE job_id = ? AND attempt = ?")
            .bind(cursor.generation)
            .bind(id.job.clone())
            .bind(i64::from(id.attempt))
            .execute(&mut **tx)
            .await?;
        Ok(Some(cursor))
    }

    /// Moves a definition's cursor on, if it still stands where this attempt found it.
    pub(super) async fn move_cursor(
        &self,
        tx: &mut Tx,
        row: &JobRow,
        generation: i64,
        diff: &str,
    ) -> Result<bool, Error> {
        let (tenant, definition) = definition(row);
        let now = super::now().0;
        let statement = if generation == 0 {
            "{insert} INTO cursors (diff, moved_at_ms, moved_by_job, tenant, definition, generation) \
             VALUES (?, ?, ?, ?, ?, ? + 1) {once}"
        } else {
            "UPDATE cursors SET diff = ?, moved_at_ms = ?, moved_by_job = ?, generation = generation + 1 \
             WHERE tenant = ? AND definition = ? AND generation = ?"
        };
        let query = self.sql(statement).bind(diff.to_owned()).bind(now).bind(row.job.id.clone());
        let query = query.bind(tenant).bind(definition).bind(generation);
        Ok(query.execute(&mut **tx).await?.rows_affected() == 1)
    }
}

fn definition(row: &JobRow) -> (String, String) {
    (row.job.tenant.clone().unwrap_or_default(), row.job.definition.clone().unwrap_or_default())
}
