//! The supervisors' records: each kept once, folded in order, answered with what the attempt is to do.

use super::{AttemptEnd, Error, Ledger, Statement, Tx, rows::JobRow};
use crate::record::{
    outcome::Evidence,
    phase::{Phase, Writer, may_move},
    usage::Usage,
    wire::{AttemptId, Body, Directive, Record, RecordBatch, RecordsAnswer},
};

impl Ledger {
    /// Appends a batch. (job, attempt, source, seq) names a record for ever: what is known already is passed over.
    ///
    /// Records of a process without the grant are kept as history and folded into nothing. A batch of the process that has it renews its
    /// lease, an empty one too.
    pub async fn append(&self, batch: &RecordBatch, report_every_ms: u64) -> Result<RecordsAnswer, Error> {
        let answer = |directive| RecordsAnswer { directive, stop_within_ms: None, report_every_ms };
        let mut tx = self.begin().await?;
        let (Some(mut job), Some(attempt)) =
            (self.job_row(&mut tx, &batch.id.job).await?, self.attempt_row(&mut tx, &batch.id).await?)
        else {
            return Ok(answer(Directive::Superseded));
        };
        let bound = attempt.nonce.as_deref() == Some(batch.source.as_str());
        let mut fresh = false;
        for record in &batch.records {
            if self.keep(&mut tx, &batch.id, &batch.source, record).await? {
                fresh = true;
                // Readings are the most by far, and fold into nothing.
                if bound && !matches!(record.body, Body::Usage { .. }) {
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
        tx.commit().await?;
        Ok(answer(match () {
            () if ended == Evidence::Record.rank() && bound => Directive::Continue,
            () if !counts || ended > 0 => Directive::Superseded,
            () if job.cancel_requested => Directive::Cancel,
            () => Directive::Continue,
        }))
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

    /// Keeps a record; false if it is known.
    async fn keep(&self, tx: &mut Tx, id: &AttemptId, source: &str, record: &Record) -> Result<bool, Error> {
        match &record.body {
            Body::Usage { usage } => self.keep_usage(tx, id, source, record, usage).await,
            _ => {
                let body = serde_json::to_string(&record.body);
                let body = body.map_err(|why| Error::Unreadable { table: "records", why: why.to_string() })?;
                let statement = "INSERT INTO records (job_id, attempt, source, seq, at_ms, recorded_at_ms, body) SELECT ?, ?, ?, ?, ?, ?, ? \
                                 WHERE NOT EXISTS (SELECT 1 FROM records WHERE job_id = ? AND attempt = ? AND source = ? AND seq = ?)";
                let query = bind_name(self.sql(statement), id, source, record);
                let query = bind_name(query.bind(record.at.0).bind(super::now().0).bind(body), id, source, record);
                Ok(query.execute(&mut **tx).await?.rows_affected() == 1)
            }
        }
    }

    async fn keep_usage(
        &self,
        tx: &mut Tx,
        id: &AttemptId,
        source: &str,
        record: &Record,
        usage: &Usage,
    ) -> Result<bool, Error> {
        let statement = "INSERT INTO heartbeats (job_id, attempt, source, seq, at_ms, memory_current_bytes, memory_working_set_bytes, \
                         memory_peak_bytes, memory_limit_bytes, oom_kills, cpu_seconds, cpu_throttled_seconds, psi_memory_seconds, \
                         psi_cpu_seconds, psi_io_seconds, processes, rss_bytes, tree_cpu_seconds, disk_read_bytes, disk_written_bytes, \
                         jvm_heap_used_bytes, jvm_heap_committed_bytes, jvm_heap_max_bytes, jvm_gc_count, jvm_gc_seconds, \
                         network_received_bytes, network_sent_bytes, tasks_done, tasks_total, tasks_running, transferred_rows, \
                         transferred_bytes, output_lines, output_bytes, disk_free_bytes, silent_seconds) \
                         SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? \
                         WHERE NOT EXISTS (SELECT 1 FROM heartbeats WHERE job_id = ? AND attempt = ? AND source = ? AND seq = ?)";
        let (group, tree, progress) = (&usage.cgroup, &usage.tree, &usage.progress);
        let (jvm, network) = (&usage.jvm, &usage.network);
        let query = bind_name(self.sql(statement), id, source, record)
            .bind(record.at.0)
            .bind(count(group.memory_current_bytes))
            .bind(count(group.memory_working_set_bytes))
            .bind(count(group.memory_peak_bytes))
            .bind(count(group.memory_limit_bytes))
            .bind(count(group.oom_kills))
            .bind(group.cpu_seconds)
            .bind(group.cpu_throttled_seconds)
            .bind(group.psi_memory_seconds)
            .bind(group.psi_cpu_seconds)
            .bind(group.psi_io_seconds)
            .bind(tree.processes.map(i64::from))
            .bind(count(tree.rss_bytes))
            .bind(tree.tree_cpu_seconds)
            .bind(count(tree.disk_read_bytes))
            .bind(count(tree.disk_written_bytes))
            .bind(count(jvm.jvm_heap_used_bytes))
            .bind(count(jvm.jvm_heap_committed_bytes))
            .bind(count(jvm.jvm_heap_max_bytes))
            .bind(count(jvm.jvm_gc_count))
            .bind(jvm.jvm_gc_seconds)
            .bind(count(network.network_received_bytes))
            .bind(count(network.network_sent_bytes))
            .bind(count(progress.tasks_done))
            .bind(count(progress.tasks_total))
            .bind(count(progress.tasks_running))
            .bind(count(progress.rows))
            .bind(count(progress.bytes))
            .bind(count(progress.output_lines))
            .bind(count(progress.output_bytes))
            .bind(count(usage.disk_free_bytes))
            .bind(usage.silent_seconds);
        Ok(bind_name(query, id, source, record).execute(&mut **tx).await?.rows_affected() == 1)
    }
}

/// What names a record for ever, in the order of the tables' keys.
fn bind_name<'q>(query: Statement<'q>, id: &AttemptId, source: &str, record: &Record) -> Statement<'q> {
    let seq = i64::try_from(record.seq).unwrap_or(i64::MAX);
    query.bind(id.job.clone()).bind(i64::from(id.attempt)).bind(source.to_owned()).bind(seq)
}

/// A count in a signed column; more than that is more than any machine has.
fn count(value: Option<u64>) -> Option<i64> {
    value.map(|value| i64::try_from(value).unwrap_or(i64::MAX))
}
