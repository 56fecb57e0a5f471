//! Readings as rows of `heartbeats`: many in one statement.

use super::{Error, Ledger, Statement, Tx, grant::NONCE_LENGTH};
use crate::record::{
    usage::Usage,
    wire::{AttemptId, Body, Record, RecordBatch},
};
use std::sync::OnceLock;

/// A reading with its name.
pub struct Reading<'a> {
    pub id: &'a AttemptId,
    pub source: &'a str,
    pub record: &'a Record,
    pub usage: &'a Usage,
}

/// Rows of one statement at the most, as a power of two: 36 parameters a row, of the 32,766 that SQLite takes.
const LARGEST: usize = 6;

const COLUMNS: &str = "job_id, attempt, source, seq, at_ms, memory_current_bytes, memory_working_set_bytes, memory_peak_bytes, \
                       memory_limit_bytes, oom_kills, cpu_seconds, cpu_throttled_seconds, psi_memory_seconds, psi_cpu_seconds, \
                       psi_io_seconds, processes, rss_bytes, tree_cpu_seconds, disk_read_bytes, disk_written_bytes, jvm_heap_used_bytes, \
                       jvm_heap_committed_bytes, jvm_heap_max_bytes, jvm_gc_count, jvm_gc_seconds, network_received_bytes, \
                       network_sent_bytes, tasks_done, tasks_total, tasks_running, transferred_rows, transferred_bytes, output_lines, \
                       output_bytes, disk_free_bytes, silent_seconds";

const ROW: &str = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, {f64}, {f64}, {f64}, {f64}, {f64}, ?, ?, {f64}, ?, ?, ?, ?, ?, ?, {f64}, ?, ?, ?, ?, ?, ?, ?, \
                   ?, ?, ?, {f64})";

/// The statement for 2^`power` rows: few texts, so that connections keep them prepared.
fn statement(power: usize) -> &'static str {
    static STATEMENTS: [OnceLock<String>; LARGEST + 1] = [const { OnceLock::new() }; LARGEST + 1];
    STATEMENTS[power].get_or_init(|| {
        format!("{{insert}} INTO heartbeats ({COLUMNS}) VALUES {} {{once}}", [ROW].repeat(1 << power).join(", "))
    })
}

/// The batch's readings. A source that no grant can have is no history either.
pub fn readings(batch: &RecordBatch) -> impl Iterator<Item = Reading<'_>> {
    batch.records.iter().filter_map(|record| match &record.body {
        Body::Usage { usage } if batch.source.len() <= NONCE_LENGTH => {
            Some(Reading { id: &batch.id, source: &batch.source, record, usage })
        }
        _ => None,
    })
}

impl Ledger {
    /// Keeps readings; gives back how many were not known yet.
    pub(super) async fn keep_usage(&self, tx: &mut Tx, mut readings: &[Reading<'_>]) -> Result<u64, Error> {
        let mut fresh = 0;
        while !readings.is_empty() {
            let power = (readings.len().ilog2() as usize).min(LARGEST);
            let (now, later) = readings.split_at(1 << power);
            let query = now.iter().fold(self.sql(statement(power)), |query, reading| self.bind_reading(query, reading));
            fresh += query.execute(&mut **tx).await?.rows_affected();
            readings = later;
        }
        Ok(fresh)
    }

    fn bind_reading<'q>(&self, query: Statement<'q>, reading: &Reading<'_>) -> Statement<'q> {
        let (group, tree, progress) = (&reading.usage.cgroup, &reading.usage.tree, &reading.usage.progress);
        let (jvm, network) = (&reading.usage.jvm, &reading.usage.network);
        let double = |query, value| self.dialect.double(query, value);
        let query = bind_name(query, reading.id, reading.source, reading.record)
            .bind(reading.record.at.0)
            .bind(count(group.memory_current_bytes))
            .bind(count(group.memory_working_set_bytes))
            .bind(count(group.memory_peak_bytes))
            .bind(count(group.memory_limit_bytes))
            .bind(count(group.oom_kills));
        let query = double(query, group.cpu_seconds);
        let query = double(query, group.cpu_throttled_seconds);
        let query = double(query, group.psi_memory_seconds);
        let query = double(query, group.psi_cpu_seconds);
        let query = double(query, group.psi_io_seconds);
        let query = query.bind(tree.processes.map(i64::from)).bind(count(tree.rss_bytes));
        let query = double(query, tree.tree_cpu_seconds)
            .bind(count(tree.disk_read_bytes))
            .bind(count(tree.disk_written_bytes))
            .bind(count(jvm.jvm_heap_used_bytes))
            .bind(count(jvm.jvm_heap_committed_bytes))
            .bind(count(jvm.jvm_heap_max_bytes))
            .bind(count(jvm.jvm_gc_count));
        let query = double(query, jvm.jvm_gc_seconds)
            .bind(count(network.network_received_bytes))
            .bind(count(network.network_sent_bytes))
            .bind(count(progress.tasks_done))
            .bind(count(progress.tasks_total))
            .bind(count(progress.tasks_running))
            .bind(count(progress.rows))
            .bind(count(progress.bytes))
            .bind(count(progress.output_lines))
            .bind(count(progress.output_bytes))
            .bind(count(reading.usage.disk_free_bytes));
        double(query, reading.usage.silent_seconds)
    }
}

/// What names a record for ever, in the order of the tables' keys.
pub fn bind_name<'q>(query: Statement<'q>, id: &AttemptId, source: &str, record: &Record) -> Statement<'q> {
    let seq = i64::try_from(record.seq).unwrap_or(i64::MAX);
    query.bind(id.job.clone()).bind(i64::from(id.attempt)).bind(source.to_owned()).bind(seq)
}

/// A count in a signed column; more than that is more than any machine has.
fn count(value: Option<u64>) -> Option<i64> {
    value.map(|value| i64::try_from(value).unwrap_or(i64::MAX))
}
