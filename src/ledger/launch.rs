//! Attempts from permit to place, many in one transaction: committed as launching, then marked as launched.

use super::{
    Error, Fence, Ledger, Tx,
    batch::{Batch, LazyBatch},
    rows::{bytes, job, number},
    transact::Again,
};
use crate::record::{
    job::Job,
    outcome::Verdict,
    phase::{Phase, Writer, may_move},
    quantity::Bytes,
    wire::AttemptId,
};
use sqlx::Row as _;
use std::{collections::HashMap, time::Duration};

/// An attempt that is committed to be launched.
#[derive(Debug, Clone)]
pub struct Order {
    pub id: AttemptId,
    pub uid: String,
    /// With the memory that this attempt gets.
    pub job: Job,
    /// Where the infrastructure ended the attempt before: better not there again.
    pub avoid_node: Option<String>,
}

/// A job that may be launched, and the UID of its place, where that is ours to choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    pub job: String,
    pub uid: String,
}

/// An attempt whose place exists, and the UID that the place brought along.
pub type Place = (AttemptId, Option<String>);

/// A job that cannot be read is let be for so long.
const LET_BE: Duration = Duration::from_secs(60);

/// What nobody may run here: the last word before an attempt is made.
pub type Fits<'a> = &'a (dyn Fn(&Job) -> Result<(), Verdict> + Sync);

/// A job as the launch finds it.
struct Queued {
    id: AttemptId,
    uid: String,
    job: Job,
    memory: Option<Bytes>,
    avoid_node: Option<String>,
}

static LOCK: LazyBatch =
    LazyBatch::new(|| Batch::new("SELECT id FROM jobs WHERE id IN ({rows}) ORDER BY id{for_update}", "?", ", "));

/// Those of the jobs that may be launched. Here and below the phase is wrapped, or SQLite would take an index of all that is queued for the
/// better way to sixty-four ids.
static QUEUED: LazyBatch = LazyBatch::new(|| {
    let text = "SELECT j.id, j.spec, j.attempt, j.memory_bytes, a.node, a.avoid_node, a.outcome FROM jobs j LEFT JOIN attempts a \
                ON a.job_id = j.id AND a.attempt = j.attempt WHERE COALESCE(j.phase, '') = 'queued' AND j.cancel_requested_ms IS NULL AND j.digest <> '' \
                AND (a.state IS NULL OR a.state = 'ended') AND j.id IN ({rows})";
    Batch::new(text, "?", ", ")
});

static INSERT: LazyBatch = LazyBatch::new(|| {
    let text = "INSERT INTO attempts (job_id, attempt, state, cluster, uid, launching_at_ms, memory_bytes, avoid_node, evidence, conflicts) \
                VALUES {rows}";
    Batch::new(text, "(?, ?, 'launching', ?, ?, ?, ?, ?, 0, 0)", ", ")
});

static COUNT_UP: LazyBatch =
    LazyBatch::new(|| Batch::new("UPDATE jobs SET attempt = attempt + 1 WHERE id IN ({rows})", "?", ", "));

/// The state last: MySQL goes from left to right, and looks at what it has just set.
static LAUNCHED: LazyBatch = LazyBatch::new(|| {
    let text = "UPDATE attempts SET launched_at_ms = CASE state WHEN 'launching' THEN ? ELSE launched_at_ms END, \
                uid = CASE uid WHEN '' THEN CASE job_id {rows} ELSE uid END ELSE uid END, \
                state = CASE state WHEN 'launching' THEN 'launched' ELSE state END WHERE (state = 'launching' OR uid = '') AND ";
    let rows = Batch::new(text, "WHEN ? THEN ?", " ");
    let which = Batch::new("({rows})", "(job_id = ? AND attempt = ?)", " OR ");
    rows.followed_by(&which)
});

/// Jobs that are still queued for the attempt that was marked a moment ago. The supervisor may have been faster: then the job is executing
/// already, or its attempt even over and the job queued again. A value and no EXISTS: of that PostgreSQL makes a join, and as long as it has counted
/// nothing, the join begins with every attempt that is launched.
const STILL: &str = "COALESCE(j.phase, '') = 'queued' AND (SELECT a.state FROM attempts a WHERE a.job_id = j.id AND a.attempt = j.attempt) \
                     = 'launched' AND ({rows})";

static SET_UP: LazyBatch = LazyBatch::new(|| {
    let text = "INSERT INTO transitions (job_id, number, attempt, from_phase, to_phase, at_ms, recorded_at_ms, writer, reason) \
                SELECT j.id, COALESCE(MAX(t.number), 0) + 1, j.attempt, j.phase, 'setting_up', \
                CASE WHEN j.phase_since_ms > ? THEN j.phase_since_ms ELSE ? END, ?, ?, 'its place exists' FROM jobs j \
                LEFT JOIN transitions t ON t.job_id = j.id WHERE ";
    let text = format!("{text}{STILL} GROUP BY j.id, j.attempt, j.phase, j.phase_since_ms");
    Batch::new(&text, "(j.id = ? AND j.attempt = ?)", " OR ")
});

static MOVE: LazyBatch = LazyBatch::new(|| {
    let text = "UPDATE jobs SET phase = 'setting_up', ended_at_ms = NULL, \
                phase_since_ms = CASE WHEN phase_since_ms > ? THEN phase_since_ms ELSE ? END WHERE ";
    let text = format!("{text}{}", STILL.replace("j.", "jobs."));
    Batch::new(&text, "(jobs.id = ? AND jobs.attempt = ?)", " OR ")
});

impl Ledger {
    /// Commits the next attempts of queued jobs in one transaction, each looked at again under its lock: what is no longer to be launched
    /// (cancelled, launched by somebody else) is left out. A job that does not fit is rejected, with the verdict that says why.
    ///
    /// `fence` is of whoever launches on the cluster: [`Error::Deposed`] if that is somebody else by now. Where the answer to a
    /// commit was lost, the next try finds its attempts again.
    pub async fn begin_launches(
        &self,
        fence: &Fence,
        launches: &[Launch],
        cluster: &str,
        fits: Fits<'_>,
    ) -> Result<Vec<Order>, Error> {
        self.transact(|again| self.begin_launches_once(fence, launches, cluster, fits, again)).await
    }

    async fn begin_launches_once(
        &self,
        fence: &Fence,
        launches: &[Launch],
        cluster: &str,
        fits: Fits<'_>,
        again: Again,
    ) -> Result<Vec<Order>, Error> {
        let uids: HashMap<&str, &str> = launches.iter().map(|launch| (&*launch.job, &*launch.uid)).collect();
        let mut ids: Vec<&str> = uids.keys().copied().collect();
        ids.sort_unstable();
        let mut tx = self.begin().await?;
        self.check_fence(&mut tx, fence).await?;
        self.lock_jobs(&mut tx, &ids).await?;
        let done =
            if again == Again::MayBeDone { self.committed(&mut tx, cluster, &ids, &uids).await? } else { vec![] };
        let mut orders = Vec::new();
        for (statement, ids) in QUEUED.pieces(&ids) {
            let query = ids.iter().fold(self.sql(statement), |query, id| query.bind((*id).to_owned()));
            for row in query.fetch_all(&mut *tx).await? {
                match queued(&row, &uids) {
                    Ok(queued) => orders.push(queued),
                    Err(error) => self.let_be(&mut tx, row.try_get("id")?, &error).await?,
                }
            }
        }
        let mut fitting = Vec::with_capacity(orders.len());
        for queued in orders {
            match fits(&queued.job) {
                Ok(()) => fitting.push(queued),
                Err(verdict) => self.reject(&mut tx, &queued.job.id, &verdict).await?,
            }
        }
        let now = super::now();
        for (statement, queued) in INSERT.pieces(&fitting) {
            let mut query = self.sql(statement);
            for queued in queued {
                query = query.bind(queued.id.job.clone()).bind(i64::from(queued.id.attempt)).bind(cluster.to_owned());
                query = query.bind(queued.uid.clone()).bind(now.0);
                query = query.bind(queued.memory.map(|bytes| i64::try_from(bytes.0).unwrap_or(i64::MAX)));
                query = query.bind(queued.avoid_node.clone());
            }
            query.execute(&mut *tx).await?;
        }
        for (statement, queued) in COUNT_UP.pieces(&fitting) {
            let query = queued.iter().fold(self.sql(statement), |query, queued| query.bind(queued.id.job.clone()));
            query.execute(&mut *tx).await?;
        }
        self.commit(tx).await?;
        let order = |queued: Queued| {
            let Queued { id, uid, job, avoid_node, .. } = queued;
            Order { id, uid, job, avoid_node }
        };
        Ok(done.into_iter().chain(fitting.into_iter().map(order)).collect())
    }

    /// Commits the next attempt of one queued job; `None` if the job is no longer to be launched.
    pub async fn begin_launch(
        &self,
        fence: &Fence,
        job: &str,
        cluster: &str,
        uid: String,
    ) -> Result<Option<Order>, Error> {
        let launch = Launch { job: job.to_owned(), uid };
        Ok(self.begin_launches(fence, &[launch], cluster, &|_| Ok(())).await?.pop())
    }

    /// The attempts' places exist, each with the UID that it brought along, if it was not ours to choose. A UID is bound once.
    pub async fn launched_all(&self, places: &[Place]) -> Result<(), Error> {
        self.transact(|_| self.launched_once(places)).await
    }

    async fn launched_once(&self, places: &[Place]) -> Result<(), Error> {
        let mut places: Vec<&Place> = places.iter().collect();
        places.sort_unstable();
        // Of a job's attempts the last is the one that counts: the others have ended.
        places.dedup_by(|next, last| {
            let is_same_job = next.0.job == last.0.job;
            if is_same_job {
                *last = *next;
            }
            is_same_job
        });
        let ids: Vec<&str> = places.iter().map(|(id, _)| &*id.job).collect();
        let (now, writer) = (super::now().0, Writer::Launch);
        debug_assert!(may_move(Some(Phase::Queued), Phase::SettingUp, writer));
        let mut tx = self.begin().await?;
        self.lock_jobs(&mut tx, &ids).await?;
        let mut first = 0;
        for (statement, places) in LAUNCHED.pieces(&places) {
            let query = places.iter().fold(self.sql(statement).bind(now), |query, (id, uid)| {
                query.bind(id.job.clone()).bind(uid.clone().unwrap_or_default())
            });
            first += bind_ids(query, places).execute(&mut *tx).await?.rows_affected();
        }
        // Said before, by reconcile or by an earlier life of ours.
        if first > 0 {
            for (statement, places) in SET_UP.pieces(&places) {
                let query = self.sql(statement).bind(now).bind(now).bind(now).bind(writer.as_str().to_owned());
                bind_ids(query, places).execute(&mut *tx).await?;
            }
            for (statement, places) in MOVE.pieces(&places) {
                bind_ids(self.sql(statement).bind(now).bind(now), places).execute(&mut *tx).await?;
            }
        }
        self.commit(tx).await?;
        for (id, _) in places {
            tracing::info!(job = id.job, attempt = id.attempt, phase = Phase::SettingUp.as_str(), "its place exists");
        }
        Ok(())
    }

    /// One attempt's place exists.
    pub async fn launched(&self, id: &AttemptId, uid: &str) -> Result<(), Error> {
        self.launched_all(&[(id.clone(), Some(uid.to_owned()).filter(|uid| !uid.is_empty()))]).await
    }

    /// The node that the attempt's place was put on.
    pub async fn on_node(&self, id: &AttemptId, node: &str) -> Result<(), Error> {
        let query = self.sql("UPDATE attempts SET node = ? WHERE job_id = ? AND attempt = ?").bind(node.to_owned());
        query.bind(id.job.clone()).bind(i64::from(id.attempt)).execute(&self.pool).await?;
        Ok(())
    }

    /// Locks the jobs' rows, in one order for everybody.
    async fn lock_jobs(&self, tx: &mut Tx, ids: &[&str]) -> Result<(), Error> {
        if !self.dialect.locks_rows() {
            return Ok(());
        }
        for (statement, ids) in LOCK.pieces(ids) {
            let query = ids.iter().fold(self.sql(statement), |query, id| query.bind((*id).to_owned()));
            query.fetch_all(&mut **tx).await?;
        }
        Ok(())
    }

    /// A job that a newer release wrote waits for that release, and stands in nobody's way meanwhile.
    async fn let_be(&self, tx: &mut Tx, job: String, why: &Error) -> Result<(), Error> {
        tracing::error!(job, "{why}; asked again in {} s", LET_BE.as_secs());
        let until = super::now().0.saturating_add(i64::try_from(LET_BE.as_millis()).unwrap_or(i64::MAX));
        let query = self.sql("UPDATE jobs SET not_before_ms = ? WHERE id = ?").bind(until).bind(job);
        query.execute(&mut **tx).await?;
        Ok(())
    }

    /// Ends a job that nobody may run here, before there is an attempt.
    async fn reject(&self, tx: &mut Tx, id: &str, verdict: &Verdict) -> Result<(), Error> {
        let Some(mut row) = self.job_row(tx, id).await? else { return Ok(()) };
        let text = serde_json::to_string(verdict);
        let text = text.map_err(|why| Error::Unreadable { table: "jobs", why: why.to_string() })?;
        self.sql("UPDATE jobs SET outcome = ?, verdict = ? WHERE id = ?")
            .bind(verdict.code.clone())
            .bind(text)
            .bind(id.to_owned())
            .execute(&mut **tx)
            .await?;
        self.move_job(tx, &mut row, Phase::Rejected, Writer::Launch, &verdict.summary, super::now()).await
    }
}

fn bind_ids<'q>(query: super::Statement<'q>, places: &[&Place]) -> super::Statement<'q> {
    places.iter().fold(query, |query, (id, _)| query.bind(id.job.clone()).bind(i64::from(id.attempt)))
}

fn queued(row: &sqlx::any::AnyRow, uids: &HashMap<&str, &str>) -> Result<Queued, Error> {
    let id: String = row.try_get("id")?;
    let mut job = job(row.try_get("spec")?)?;
    job.resources.memory = bytes(row, "memory_bytes")?.or(job.resources.memory);
    let outcome: Option<String> = row.try_get("outcome")?;
    // The hint lasts until an attempt has run on another node.
    let node: Option<String> = row.try_get("node")?;
    let bad_node = outcome.as_deref().is_some_and(|outcome| NODE_OUTCOMES.contains(&outcome)).then_some(node).flatten();
    Ok(Queued {
        uid: uids.get(&*id).copied().unwrap_or_default().to_owned(),
        id: AttemptId { attempt: number(row, "attempt")? + 1, job: id },
        memory: job.resources.memory,
        avoid_node: bad_node.or(row.try_get("avoid_node")?),
        job,
    })
}

/// Ends that speak against the node.
const NODE_OUTCOMES: [&str; 8] =
    ["killed", "drained", "evicted", "preempted", "node_lost", "lost", "never_granted", "container_not_started"];
