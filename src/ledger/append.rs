//! The supervisors' records: each kept once, folded in order, answered with what the attempt is to do.

use super::{
    AttemptEnd, Error, Ledger, Tx,
    grant::NONCE_LENGTH,
    rows::JobRow,
    usage::{bind_name, readings},
};
use crate::record::{
    outcome::Evidence,
    phase::{Phase, Writer, may_move},
    wire::{AttemptId, Body, Directive, Record, RecordBatch, RecordsAnswer},
};

impl Ledger {
    /// Appends a batch. (job, attempt, source, seq) names a record for ever: what is known already is passed over.
    ///
    /// Records of a process without the grant are kept as history and folded into nothing. A batch of the process that has it renews its
    /// lease, an empty one too.
    pub async fn append(&self, batch: &RecordBatch, report_every_ms: u64) -> Result<RecordsAnswer, Error> {
        let report_every_ms = self.report_every(report_every_ms);
        let directive = match self.append_with_others(batch).await? {
            Some(directive) => directive,
            None => self.transact(|_| self.append_alone(batch)).await?,
        };
        Ok(RecordsAnswer { directive, stop_within_ms: None, report_every_ms })
    }

    async fn append_alone(&self, batch: &RecordBatch) -> Result<Directive, Error> {
        if batch.source.len() > NONCE_LENGTH {
            return Ok(Directive::Superseded);
        }
        let mut tx = self.begin().await?;
        let job = self.job_row(&mut tx, &batch.id.job).await?;
        let Some(mut job) = job.filter(|job| job.attempt >= batch.id.attempt) else {
            return Err(Error::NotKnownYet(batch.id.clone()));
        };
        let Some(attempt) = self.attempt_row(&mut tx, &batch.id).await? else { return Ok(Directive::Superseded) };
        if attempt.awaits_its_process() {
            return Err(Error::NotKnownYet(batch.id.clone()));
        }
        let bound = attempt.nonce.as_deref() == Some(batch.source.as_str());
        // Readings fold into nothing.
        let mut fresh = self.keep_usage(&mut tx, &readings(batch).collect::<Vec<_>>()).await? > 0;
        for record in batch.records.iter().filter(|record| !matches!(record.body, Body::Usage { .. })) {
            if self.keep(&mut tx, &batch.id, &batch.source, record).await? {
                fresh = true;
                if bound {
                    self.fold(&mut tx, &mut job, &batch.id, record).await?;
                }
            }
        }
        if fresh && !bound {
            self.count_conflict(&mut tx, &batch.id, "records of a process without the grant").await?;
        }
        let counts = bound && job.attempt == batch.id.attempt;
        if counts {
            self.sql("UPDATE attempts SET last_record_ms = ? WHERE job_id = ? AND attempt = ?")
                .bind(super::now().0)
                .bind(batch.id.job.clone())
                .bind(i64::from(batch.id.attempt))
                .execute(&mut *tx)
                .await?;
            self.renew_lease(&mut tx, &batch.id).await?;
        }
        let ended = self.attempt_row(&mut tx, &batch.id).await?.map_or(0, |attempt| attempt.evidence);
        self.commit(tx).await?;
        Ok(match () {
            () if ended == Evidence::Record.rank() && bound => Directive::Continue,
            () if !counts || ended > 0 => Directive::Superseded,
            () if job.cancel_requested => Directive::Cancel,
            () => Directive::Continue,
        })
    }

    async fn fold(&self, tx: &mut Tx, job: &mut JobRow, id: &AttemptId, record: &Record) -> Result<(), Error> {
        // Read again for each: a record before this one may have changed it.
        let Some(attempt) = self.attempt_row(tx, id).await? else { return Ok(()) };
        match &record.body {
            Body::Usage { .. } => Ok(()),
            Body::Phase { .. } if attempt.ended || job.attempt != id.attempt => Ok(()),
            Body::Phase { phase: to @ (Phase::Executing | Phase::Stopping), reason } => {
                if *to == Phase::Executing && !attempt.executing {
                    let statement = "UPDATE attempts SET executing_at_ms = ? WHERE job_id = ? AND attempt = ?";
                    let query = self.sql(statement).bind(record.at.0).bind(id.job.clone()).bind(i64::from(id.attempt));
                    query.execute(&mut **tx).await?;
                }
                if *to == Phase::Executing && job.phase == Phase::Queued {
                    self.move_job(tx, job, Phase::SettingUp, Writer::Launch, "implied by its start", record.at).await?;
                }
                if job.phase != *to && !may_move(Some(job.phase), *to, Writer::Supervisor) {
                    return self.count_conflict(tx, id, "a phase that does not follow").await;
                }
                self.move_job(tx, job, *to, Writer::Supervisor, reason, record.at).await
            }
            Body::Phase { phase, .. } => {
                tracing::warn!(
                    job = id.job,
                    phase = phase.as_str(),
                    "a supervisor may not say this phase; kept, not folded"
                );
                Ok(())
            }
            Body::Ending { ending } => {
                let end = AttemptEnd { ending: (**ending).clone(), evidence: Evidence::Record, at: record.at };
                self.conclude(tx, job, id, &attempt, end).await
            }
        }
    }

    /// Keeps a phase or an ending; false if it is known.
    async fn keep(&self, tx: &mut Tx, id: &AttemptId, source: &str, record: &Record) -> Result<bool, Error> {
        let body = serde_json::to_string(&record.body);
        let body = body.map_err(|why| Error::Unreadable { table: "records", why: why.to_string() })?;
        let statement = "{insert} INTO records (job_id, attempt, source, seq, at_ms, recorded_at_ms, body) \
                         VALUES (?, ?, ?, ?, ?, ?, ?) {once}";
        let query = bind_name(self.sql(statement), id, source, record);
        let query = query.bind(record.at.0).bind(super::now().0).bind(body);
        Ok(query.execute(&mut **tx).await?.rows_affected() == 1)
    }
}
