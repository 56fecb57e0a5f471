//! The read models that console, CLI and API share. Field names are the tables' where a table has the thing.

use super::{
    Error, Ledger,
    adopt::NO_CONTENT,
    rows::{job, number},
};
use crate::record::{job::Job, outcome::Verdict, wire::AttemptId};
use serde::{Deserialize, Serialize};
use sqlx::{Row as _, any::AnyRow};

/// A page of jobs, newest first.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    pub phase: Option<String>,
    pub tenant: Option<String>,
    pub definition: Option<String>,
    /// Only what stands behind this job in the list.
    pub after: Option<String>,
    pub limit: u32,
}

/// A job in a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobSummary {
    pub id: String,
    pub tenant: String,
    pub definition: String,
    pub phase: String,
    pub phase_since_ms: i64,
    pub attempt: u32,
    /// When it was asked for: the moment at which its queue took it.
    pub queued_at_ms: i64,
    /// When the ledger took it.
    pub received_at_ms: i64,
    pub ended_at_ms: Option<i64>,
    pub outcome: Option<String>,
    pub verdict: Option<Verdict>,
    pub cancel_requested_ms: Option<i64>,
    /// When the last attempt began to execute.
    pub executing_at_ms: Option<i64>,
    /// Not before then does it leave the queue.
    pub not_before_ms: i64,
    pub incremental: bool,
    /// Of the last attempt: `launching`, `launched` or `ended`.
    pub attempt_state: Option<String>,
    /// Its attempt was found by a ledger that had been restored, and nobody has sent again what it loads.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub awaits_content: bool,
    /// Why it waits in the queue, where more than its turn stands in its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
}

/// A job with all that happened to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobView {
    #[serde(flatten)]
    pub summary: JobSummary,
    pub spec: Job,
    pub attempts: Vec<AttemptView>,
    pub transitions: Vec<Transition>,
    pub last_heartbeat: Option<Heartbeat>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AttemptView {
    pub attempt: u32,
    pub state: String,
    pub cluster: String,
    pub uid: String,
    pub launching_at_ms: i64,
    pub launched_at_ms: Option<i64>,
    pub granted_at_ms: Option<i64>,
    pub executing_at_ms: Option<i64>,
    pub last_record_ms: Option<i64>,
    /// Under `fencing: strict`, once granted.
    pub lease_until_ms: Option<i64>,
    pub ended_at_ms: Option<i64>,
    pub outcome: Option<String>,
    pub evidence: i64,
    pub verdict: Option<Verdict>,
    pub exit_code: Option<i64>,
    pub killed_by_signal: Option<i64>,
    pub last_lines: Vec<String>,
    pub conflicts: i64,
    /// What it may use; more than the job asked for after an end for want of memory.
    pub memory_bytes: Option<i64>,
    pub node: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Transition {
    pub number: i64,
    pub attempt: u32,
    pub from_phase: Option<String>,
    pub to_phase: String,
    pub at_ms: i64,
    pub recorded_at_ms: i64,
    pub writer: String,
    pub reason: String,
}

/// A reading as the table holds it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Heartbeat {
    pub attempt: u32,
    pub seq: i64,
    pub at_ms: i64,
    pub memory_current_bytes: Option<i64>,
    pub memory_working_set_bytes: Option<i64>,
    pub memory_peak_bytes: Option<i64>,
    pub memory_limit_bytes: Option<i64>,
    pub oom_kills: Option<i64>,
    pub cpu_seconds: Option<f64>,
    pub cpu_throttled_seconds: Option<f64>,
    pub psi_memory_seconds: Option<f64>,
    pub psi_cpu_seconds: Option<f64>,
    pub psi_io_seconds: Option<f64>,
    pub processes: Option<i64>,
    pub rss_bytes: Option<i64>,
    pub tree_cpu_seconds: Option<f64>,
    pub disk_read_bytes: Option<i64>,
    pub disk_written_bytes: Option<i64>,
    pub jvm_heap_used_bytes: Option<i64>,
    pub jvm_heap_committed_bytes: Option<i64>,
    pub jvm_heap_max_bytes: Option<i64>,
    pub jvm_gc_count: Option<i64>,
    pub jvm_gc_seconds: Option<f64>,
    pub network_received_bytes: Option<i64>,
    pub network_sent_bytes: Option<i64>,
    pub tasks_done: Option<i64>,
    pub tasks_total: Option<i64>,
    pub tasks_running: Option<i64>,
    pub transferred_rows: Option<i64>,
    pub transferred_bytes: Option<i64>,
    pub output_lines: Option<i64>,
    pub output_bytes: Option<i64>,
    pub disk_free_bytes: Option<i64>,
    pub silent_seconds: Option<f64>,
}

impl Heartbeat {
    /// The memory that a person means: the container's working set, or else the tree's resident memory.
    pub fn memory_bytes(&self) -> Option<i64> {
        self.memory_working_set_bytes.or(self.rss_bytes)
    }

    /// The CPU time that a person means: the container's, or else the tree's.
    pub fn cpu_time_seconds(&self) -> Option<f64> {
        self.cpu_seconds.or(self.tree_cpu_seconds)
    }
}

/// Jobs with their last attempt.
macro_rules! jobs_where {
    ($condition:literal $(,)?) => {
        concat!(
            "SELECT j.id, j.digest, j.tenant, j.definition, j.phase, j.phase_since_ms, j.attempt, j.queued_at_ms, j.received_at_ms, j.ended_at_ms, j.outcome, ",
            "j.verdict, j.cancel_requested_ms, j.spec, j.not_before_ms, j.incremental, a.state, a.executing_at_ms FROM jobs j LEFT JOIN attempts a ",
            "ON a.job_id = j.id AND a.attempt = j.attempt WHERE ",
            $condition
        )
    };
}

impl Ledger {
    /// A page of jobs, newest first.
    pub async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobSummary>, Error> {
        self.transact(|_| self.jobs_once(filter)).await
    }

    async fn jobs_once(&self, filter: &JobFilter) -> Result<Vec<JobSummary>, Error> {
        let statement = jobs_where!(
            "(? = '' OR j.phase = ?) AND (? = '' OR j.tenant = ?) AND (? = '' OR j.definition = ?) AND (? = '' OR EXISTS \
             (SELECT 1 FROM jobs k WHERE k.id = ? AND (j.queued_at_ms < k.queued_at_ms OR (j.queued_at_ms = k.queued_at_ms AND j.id < k.id)))) \
             ORDER BY j.queued_at_ms DESC, j.id DESC LIMIT ?",
        );
        let mut query = self.sql(statement);
        for value in [&filter.phase, &filter.tenant, &filter.definition, &filter.after] {
            let value = value.clone().unwrap_or_default();
            query = query.bind(value.clone()).bind(value);
        }
        let rows = query.bind(i64::from(filter.limit)).fetch_all(&self.pool).await?;
        rows.iter().map(summary).collect()
    }

    /// All about one job.
    pub async fn job(&self, id: &str) -> Result<JobView, Error> {
        self.transact(|_| self.job_once(id)).await
    }

    async fn job_once(&self, id: &str) -> Result<JobView, Error> {
        let query = self.sql(jobs_where!("j.id = ?")).bind(id.to_owned());
        let row = query.fetch_optional(&self.pool).await?.ok_or_else(|| Error::NoSuchJob(id.to_owned()))?;
        let summary = summary(&row)?;
        let attempts = self.sql("SELECT * FROM attempts WHERE job_id = ? ORDER BY attempt").bind(id.to_owned());
        let transitions = self.sql("SELECT * FROM transitions WHERE job_id = ? ORDER BY number").bind(id.to_owned());
        let last = "SELECT * FROM heartbeats WHERE job_id = ? AND attempt = ? ORDER BY at_ms DESC, seq DESC LIMIT 1";
        let last = self.sql(last).bind(id.to_owned()).bind(i64::from(summary.attempt));
        Ok(JobView {
            spec: job(row.try_get("spec")?)?,
            attempts: attempts.fetch_all(&self.pool).await?.iter().map(attempt).collect::<Result<_, _>>()?,
            transitions: transitions.fetch_all(&self.pool).await?.iter().map(transition).collect::<Result<_, _>>()?,
            last_heartbeat: last.fetch_optional(&self.pool).await?.as_ref().map(heartbeat).transpose()?,
            summary,
        })
    }

    /// An attempt's readings in order, from behind `after` (moment and number); of the last attempt if none is named.
    pub async fn heartbeats(
        &self,
        id: &str,
        attempt: Option<u32>,
        after: (i64, i64),
        limit: u32,
    ) -> Result<Vec<Heartbeat>, Error> {
        self.transact(|_| self.heartbeats_once(id, attempt, after, limit)).await
    }

    async fn heartbeats_once(
        &self,
        id: &str,
        attempt: Option<u32>,
        after: (i64, i64),
        limit: u32,
    ) -> Result<Vec<Heartbeat>, Error> {
        let attempt = attempt.unwrap_or(self.job_once(id).await?.summary.attempt);
        let statement = "SELECT * FROM heartbeats WHERE job_id = ? AND attempt = ? AND (at_ms > ? OR (at_ms = ? AND seq > ?)) \
                         ORDER BY at_ms, seq LIMIT ?";
        let query = self.sql(statement).bind(id.to_owned()).bind(i64::from(attempt));
        let query = query.bind(after.0).bind(after.0).bind(after.1).bind(i64::from(limit));
        let raw = query.fetch_all(&self.pool).await?;
        if raw.is_empty() {
            let id = AttemptId { job: id.to_owned(), attempt };
            return self.rolled_up(&id, after, limit).await;
        }
        raw.iter().map(heartbeat).collect()
    }
}

fn summary(row: &AnyRow) -> Result<JobSummary, Error> {
    Ok(JobSummary {
        id: row.try_get("id")?,
        tenant: row.try_get("tenant")?,
        definition: row.try_get("definition")?,
        phase: row.try_get("phase")?,
        phase_since_ms: row.try_get("phase_since_ms")?,
        attempt: number(row, "attempt")?,
        queued_at_ms: row.try_get("queued_at_ms")?,
        received_at_ms: row.try_get("received_at_ms")?,
        ended_at_ms: row.try_get("ended_at_ms")?,
        outcome: row.try_get("outcome")?,
        verdict: json(row, "verdict")?,
        cancel_requested_ms: row.try_get("cancel_requested_ms")?,
        executing_at_ms: row.try_get("executing_at_ms")?,
        not_before_ms: row.try_get("not_before_ms")?,
        incremental: row.try_get::<i64, _>("incremental")? != 0,
        attempt_state: row.try_get("state")?,
        awaits_content: row.try_get::<String, _>("digest")? == NO_CONTENT,
        waits_for: None,
    })
}

fn attempt(row: &AnyRow) -> Result<AttemptView, Error> {
    Ok(AttemptView {
        attempt: number(row, "attempt")?,
        state: row.try_get("state")?,
        cluster: row.try_get("cluster")?,
        uid: row.try_get("uid")?,
        launching_at_ms: row.try_get("launching_at_ms")?,
        launched_at_ms: row.try_get("launched_at_ms")?,
        granted_at_ms: row.try_get("granted_at_ms")?,
        executing_at_ms: row.try_get("executing_at_ms")?,
        last_record_ms: row.try_get("last_record_ms")?,
        lease_until_ms: row.try_get("lease_until_ms")?,
        ended_at_ms: row.try_get("ended_at_ms")?,
        outcome: row.try_get("outcome")?,
        evidence: row.try_get("evidence")?,
        verdict: json(row, "verdict")?,
        exit_code: row.try_get("exit_code")?,
        killed_by_signal: row.try_get("killed_by_signal")?,
        last_lines: json(row, "last_lines")?.unwrap_or_default(),
        conflicts: row.try_get("conflicts")?,
        memory_bytes: row.try_get("memory_bytes")?,
        node: row.try_get("node")?,
    })
}

fn transition(row: &AnyRow) -> Result<Transition, Error> {
    Ok(Transition {
        number: row.try_get("number")?,
        attempt: number(row, "attempt")?,
        from_phase: row.try_get("from_phase")?,
        to_phase: row.try_get("to_phase")?,
        at_ms: row.try_get("at_ms")?,
        recorded_at_ms: row.try_get("recorded_at_ms")?,
        writer: row.try_get("writer")?,
        reason: row.try_get("reason")?,
    })
}

fn heartbeat(row: &AnyRow) -> Result<Heartbeat, Error> {
    Ok(Heartbeat {
        attempt: number(row, "attempt")?,
        seq: row.try_get("seq")?,
        at_ms: row.try_get("at_ms")?,
        memory_current_bytes: row.try_get("memory_current_bytes")?,
        memory_working_set_bytes: row.try_get("memory_working_set_bytes")?,
        memory_peak_bytes: row.try_get("memory_peak_bytes")?,
        memory_limit_bytes: row.try_get("memory_limit_bytes")?,
        oom_kills: row.try_get("oom_kills")?,
        cpu_seconds: row.try_get("cpu_seconds")?,
        cpu_throttled_seconds: row.try_get("cpu_throttled_seconds")?,
        psi_memory_seconds: row.try_get("psi_memory_seconds")?,
        psi_cpu_seconds: row.try_get("psi_cpu_seconds")?,
        psi_io_seconds: row.try_get("psi_io_seconds")?,
        processes: row.try_get("processes")?,
        rss_bytes: row.try_get("rss_bytes")?,
        tree_cpu_seconds: row.try_get("tree_cpu_seconds")?,
        disk_read_bytes: row.try_get("disk_read_bytes")?,
        disk_written_bytes: row.try_get("disk_written_bytes")?,
        jvm_heap_used_bytes: row.try_get("jvm_heap_used_bytes")?,
        jvm_heap_committed_bytes: row.try_get("jvm_heap_committed_bytes")?,
        jvm_heap_max_bytes: row.try_get("jvm_heap_max_bytes")?,
        jvm_gc_count: row.try_get("jvm_gc_count")?,
        jvm_gc_seconds: row.try_get("jvm_gc_seconds")?,
        network_received_bytes: row.try_get("network_received_bytes")?,
        network_sent_bytes: row.try_get("network_sent_bytes")?,
        tasks_done: row.try_get("tasks_done")?,
        tasks_total: row.try_get("tasks_total")?,
        tasks_running: row.try_get("tasks_running")?,
        transferred_rows: row.try_get("transferred_rows")?,
        transferred_bytes: row.try_get("transferred_bytes")?,
        output_lines: row.try_get("output_lines")?,
        output_bytes: row.try_get("output_bytes")?,
        disk_free_bytes: row.try_get("disk_free_bytes")?,
        silent_seconds: row.try_get("silent_seconds")?,
    })
}

/// A column of JSON text.
fn json<T: serde::de::DeserializeOwned>(row: &AnyRow, column: &'static str) -> Result<Option<T>, Error> {
    let Some(text) = row.try_get::<Option<String>, _>(column)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|why| Error::Unreadable { table: column, why: why.to_string() })
}
