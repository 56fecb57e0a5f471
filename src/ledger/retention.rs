//! Readings grow old: raw, then rolled up to five minutes, then gone. By attempts, from the end of each, in slices: no scan of the big table, no long lock,
//! and the same on every database.

use super::{Error, Ledger, query::Heartbeat};
use crate::record::wire::AttemptId;
use sqlx::{Row as _, any::AnyRow};
use std::time::Duration;

impl Ledger {
    // The clock stands in a statement of its own: PostgreSQL's may tick between two rows, and no index is asked for what may change.

    /// Rolls up the readings of up to `limit` attempts that ended longer ago than `age`; gives back of how many.
    pub async fn roll_up_readings(&self, age: Duration, limit: u32) -> Result<usize, Error> {
        let old = "SELECT job_id, attempt FROM attempts WHERE readings_rolled_up_ms IS NULL AND ended_at_ms < (SELECT {clock} - ?) \
                   ORDER BY ended_at_ms LIMIT ?";
        let old = self.old(old, age, limit).await?;
        for id in &old {
            self.transact(|_| self.roll_up_one(id)).await?;
        }
        Ok(old.len())
    }

    async fn roll_up_one(&self, id: &AttemptId) -> Result<(), Error> {
        let mut tx = self.begin().await?;
        self.attempt_row(&mut tx, id).await?;
        // Counters at their last, levels at their average and their worst.
        let roll_up = "{insert} INTO heartbeats_5m (job_id, attempt, at_ms, readings, memory_working_set_bytes_avg, \
             memory_working_set_bytes_max, memory_peak_bytes, memory_limit_bytes, oom_kills, cpu_seconds, cpu_throttled_seconds, \
             psi_memory_seconds, psi_cpu_seconds, psi_io_seconds, processes_max, rss_bytes_avg, rss_bytes_max, tree_cpu_seconds, \
             disk_read_bytes, disk_written_bytes, jvm_heap_used_bytes_avg, jvm_heap_used_bytes_max, jvm_heap_max_bytes, \
             jvm_gc_seconds, network_received_bytes, network_sent_bytes, tasks_done, transferred_rows, transferred_bytes, \
             disk_free_bytes_min, silent_seconds_max) \
             SELECT job_id, attempt, at_ms {div} 300000 * 300000, COUNT(*), AVG(memory_working_set_bytes), \
             MAX(memory_working_set_bytes), MAX(memory_peak_bytes), MAX(memory_limit_bytes), MAX(oom_kills), MAX(cpu_seconds), \
             MAX(cpu_throttled_seconds), MAX(psi_memory_seconds), MAX(psi_cpu_seconds), MAX(psi_io_seconds), MAX(processes), \
             AVG(rss_bytes), MAX(rss_bytes), MAX(tree_cpu_seconds), MAX(disk_read_bytes), MAX(disk_written_bytes), \
             AVG(jvm_heap_used_bytes), MAX(jvm_heap_used_bytes), MAX(jvm_heap_max_bytes), MAX(jvm_gc_seconds), \
             MAX(network_received_bytes), MAX(network_sent_bytes), MAX(tasks_done), MAX(transferred_rows), MAX(transferred_bytes), \
             MIN(disk_free_bytes), MAX(silent_seconds) FROM heartbeats WHERE job_id = ? AND attempt = ? \
             GROUP BY job_id, attempt, at_ms {div} 300000 * 300000 {once}";
        for statement in [
            roll_up,
            "DELETE FROM heartbeats WHERE job_id = ? AND attempt = ?",
            "UPDATE attempts SET readings_rolled_up_ms = {clock} WHERE job_id = ? AND attempt = ?",
        ] {
            let query = self.sql(statement).bind(id.job.clone()).bind(i64::from(id.attempt));
            query.execute(&mut *tx).await?;
        }
        self.commit(tx).await
    }

    /// Drops what was rolled up longer ago than `age`, of up to `limit` attempts; gives back of how many.
    pub async fn drop_rolled_up(&self, age: Duration, limit: u32) -> Result<usize, Error> {
        let old = "SELECT job_id, attempt FROM attempts WHERE readings_rolled_up_ms > 0 AND readings_rolled_up_ms < (SELECT {clock} - ?) \
                   ORDER BY readings_rolled_up_ms LIMIT ?";
        let old = self.old(old, age, limit).await?;
        for id in &old {
            self.transact(|_| self.drop_one(id)).await?;
        }
        Ok(old.len())
    }

    async fn drop_one(&self, id: &AttemptId) -> Result<(), Error> {
        let mut tx = self.begin().await?;
        for statement in [
            "DELETE FROM heartbeats_5m WHERE job_id = ? AND attempt = ?",
            "UPDATE attempts SET readings_rolled_up_ms = 0 WHERE job_id = ? AND attempt = ?",
        ] {
            let query = self.sql(statement).bind(id.job.clone()).bind(i64::from(id.attempt));
            query.execute(&mut *tx).await?;
        }
        self.commit(tx).await
    }

    async fn old(&self, statement: &'static str, age: Duration, limit: u32) -> Result<Vec<AttemptId>, Error> {
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let rows = self.sql(statement).bind(age).bind(i64::from(limit)).fetch_all(&self.pool).await?;
        let attempt =
            |row: &AnyRow| Ok(AttemptId { job: row.try_get("job_id")?, attempt: super::rows::number(row, "attempt")? });
        rows.iter().map(attempt).collect()
    }

    /// What is left of an attempt's readings once they are rolled up: each five minutes at their worst.
    pub(super) async fn rolled_up(
        &self,
        id: &AttemptId,
        after: (i64, i64),
        limit: u32,
    ) -> Result<Vec<Heartbeat>, Error> {
        let statement =
            "SELECT * FROM heartbeats_5m WHERE job_id = ? AND attempt = ? AND at_ms > ? ORDER BY at_ms LIMIT ?";
        let query = self.sql(statement).bind(id.job.clone()).bind(i64::from(id.attempt)).bind(after.0);
        let rows = query.bind(i64::from(limit)).fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| {
                Ok(Heartbeat {
                    attempt: id.attempt,
                    at_ms: row.try_get("at_ms")?,
                    memory_working_set_bytes: row.try_get("memory_working_set_bytes_max")?,
                    memory_peak_bytes: row.try_get("memory_peak_bytes")?,
                    memory_limit_bytes: row.try_get("memory_limit_bytes")?,
                    oom_kills: row.try_get("oom_kills")?,
                    cpu_seconds: row.try_get("cpu_seconds")?,
                    cpu_throttled_seconds: row.try_get("cpu_throttled_seconds")?,
                    psi_memory_seconds: row.try_get("psi_memory_seconds")?,
                    psi_cpu_seconds: row.try_get("psi_cpu_seconds")?,
                    psi_io_seconds: row.try_get("psi_io_seconds")?,
                    processes: row.try_get("processes_max")?,
                    rss_bytes: row.try_get("rss_bytes_max")?,
                    tree_cpu_seconds: row.try_get("tree_cpu_seconds")?,
                    disk_read_bytes: row.try_get("disk_read_bytes")?,
                    disk_written_bytes: row.try_get("disk_written_bytes")?,
                    jvm_heap_used_bytes: row.try_get("jvm_heap_used_bytes_max")?,
                    jvm_heap_max_bytes: row.try_get("jvm_heap_max_bytes")?,
                    jvm_gc_seconds: row.try_get("jvm_gc_seconds")?,
                    network_received_bytes: row.try_get("network_received_bytes")?,
                    network_sent_bytes: row.try_get("network_sent_bytes")?,
                    tasks_done: row.try_get("tasks_done")?,
                    transferred_rows: row.try_get("transferred_rows")?,
                    transferred_bytes: row.try_get("transferred_bytes")?,
                    disk_free_bytes: row.try_get("disk_free_bytes_min")?,
                    silent_seconds: row.try_get("silent_seconds_max")?,
                    ..Heartbeat::default()
                })
            })
            .collect()
    }
}
