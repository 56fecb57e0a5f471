//! Attempts that may be alive, and those whose place is still to be released.

use super::{
    Error, Ledger, Tx,
    batch::{Batch, LazyBatch},
    launch::Order,
    rows::{bytes, job, number, phase},
};
use crate::record::{Millis, phase::Phase, wire::AttemptId};
use futures::TryStreamExt as _;
use sqlx::{Row as _, any::AnyRow};
use std::collections::{HashMap, HashSet};

/// An attempt whose place stands, as far as the ledger knows.
#[derive(Debug, Clone)]
pub struct LiveAttempt {
    pub order: Order,
    pub phase: Phase,
    /// It is committed, and nobody has said that its place exists.
    pub launching: bool,
    /// A process may have leave: by a grant of this ledger's, or by one that it has lost.
    pub granted: bool,
    /// Its supervisor has said that the transfer runs.
    pub executing: bool,
    pub nonce: Option<String>,
    /// Under `fencing: strict`, once granted: nothing of it runs after this moment of the ledger's clock.
    pub lease_until: Option<Millis>,
    pub cancel_requested: Option<Millis>,
    /// Rank of the evidence that its end stands on; 0 before.
    pub evidence: i64,
}

/// As much of a live attempt as counts for admission: fifty thousand of these are read in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub id: AttemptId,
    pub cluster: String,
    pub launching: bool,
    pub tenant: String,
    pub definition: String,
    pub incremental: bool,
}

/// Attempts with their jobs.
macro_rules! attempts_where {
    ($condition:literal) => {
        concat!(
            "SELECT a.job_id, a.attempt, a.cluster, a.uid, a.state, a.nonce, a.granted_at_ms, a.adopted_ms, a.executing_at_ms, a.lease_until_ms, a.memory_bytes, a.evidence, ",
            "a.avoid_node, j.spec, j.phase, j.cancel_requested_ms FROM attempts a JOIN jobs j ON j.id = a.job_id WHERE ",
            $condition
        )
    };
}

static LIVE: LazyBatch =
    LazyBatch::new(|| Batch::new(attempts_where!("a.state <> 'ended' AND a.job_id IN ({rows})"), "?", ", "));

static GONE: LazyBatch = LazyBatch::new(|| {
    Batch::new(
        attempts_where!("a.state = 'ended' AND a.released_at_ms IS NOT NULL AND a.job_id IN ({rows})"),
        "?",
        ", ",
    )
});

static RELEASED: LazyBatch = LazyBatch::new(|| {
    Batch::new("UPDATE attempts SET released_at_ms = ? WHERE {rows}", "(job_id = ? AND attempt = ?)", " OR ")
});

impl Ledger {
    /// Every attempt that has not ended, on whatever cluster, narrowly.
    pub async fn running(&self) -> Result<Vec<Running>, Error> {
        let statement = "SELECT a.job_id, a.attempt, a.state, a.cluster, j.tenant, j.definition, j.incremental FROM attempts a \
                         JOIN jobs j ON j.id = a.job_id WHERE a.state IN ('launching', 'launched')";
        // Row by row: a driver's row is many times as large as what we keep of it.
        let mut rows = self.sql(statement).fetch(&self.pool);
        let mut running = Vec::new();
        while let Some(row) = rows.try_next().await? {
            running.push(Running {
                id: AttemptId { job: row.try_get("job_id")?, attempt: number(&row, "attempt")? },
                cluster: row.try_get("cluster")?,
                launching: row.try_get::<String, _>("state")? == "launching",
                tenant: row.try_get("tenant")?,
                definition: row.try_get("definition")?,
                incremental: row.try_get::<i64, _>("incremental")? != 0,
            });
        }
        Ok(running)
    }

    /// How many attempts on the cluster have no grant yet: their places wait for a node, an image, a start.
    pub async fn pending(&self, cluster: &str) -> Result<usize, Error> {
        let statement = "SELECT COUNT(*) AS n FROM attempts WHERE cluster = ? AND released_at_ms IS NULL \
                         AND state IN ('launching', 'launched') AND granted_at_ms IS NULL";
        let row = self.sql(statement).bind(cluster.to_owned()).fetch_one(&self.pool).await?;
        Ok(usize::try_from(row.try_get::<i64, _>("n")?).unwrap_or_default())
    }

    /// Of these jobs, each with the UID that its launch chose, those whose attempt is committed to be launched on the cluster under it.
    pub(super) async fn committed(
        &self,
        tx: &mut Tx,
        cluster: &str,
        ids: &[&str],
        uids: &HashMap<&str, &str>,
    ) -> Result<Vec<Order>, Error> {
        let mut orders = Vec::new();
        for (statement, ids) in LIVE.pieces(ids) {
            let query = ids.iter().fold(self.sql(statement), |query, id| query.bind((*id).to_owned()));
            let mut rows = query.fetch_all(&mut **tx).await?;
            rows.retain(|row| row.try_get::<String, _>("cluster").is_ok_and(|found| found == cluster));
            let live = readable(&rows, live_attempt).into_iter();
            // Where the cluster chooses the UID there is none yet; and under the fence nobody but us can have committed it.
            let chosen = |order: &Order| uids.get(&*order.id.job).is_some_and(|uid| *uid == order.uid);
            orders.extend(live.filter(|live| live.launching).map(|live| live.order).filter(chosen));
        }
        Ok(orders)
    }

    /// Those of the attempts on the cluster that have not ended, as they stand now.
    pub async fn live_attempts(&self, cluster: &str, ids: &[AttemptId]) -> Result<Vec<LiveAttempt>, Error> {
        let mut live = Vec::with_capacity(ids.len());
        for (statement, ids) in LIVE.pieces(ids) {
            let query = ids.iter().fold(self.sql(statement), |query, id| query.bind(id.job.clone()));
            // By the jobs alone, so that no database takes the long way by the cluster.
            let mut rows = query.fetch_all(&self.pool).await?;
            rows.retain(|row| row.try_get::<String, _>("cluster").is_ok_and(|found| found == cluster));
            let found = readable(&rows, live_attempt);
            live.extend(found.into_iter().filter(|attempt| ids.contains(&attempt.order.id)));
        }
        Ok(live)
    }

    /// One attempt as it stands now, if it has not ended.
    pub async fn live_attempt(&self, id: &AttemptId) -> Result<Option<LiveAttempt>, Error> {
        let query = self.sql(attempts_where!("a.state <> 'ended' AND a.job_id = ? AND a.attempt = ?"));
        let query = query.bind(id.job.clone()).bind(i64::from(id.attempt));
        query.fetch_optional(&self.pool).await?.as_ref().map(live_attempt).transpose()
    }

    /// Attempts that may be alive and whose job somebody asked to cancel since then.
    pub async fn cancelled_since(&self, since: Millis) -> Result<Vec<AttemptId>, Error> {
        // One condition, so that no database takes the long way by the phase; and with two ends, or a PostgreSQL that has counted nothing yet
        // takes a third of all jobs for cancelled, and reads them all.
        let statement = "SELECT id AS job_id, attempt, phase FROM jobs WHERE cancel_requested_ms BETWEEN ? AND ?";
        let rows = self.sql(statement).bind(since.0).bind(i64::MAX).fetch_all(&self.pool).await?;
        let mut ids = Vec::new();
        for row in &rows {
            if phase(row.try_get("phase")?)?.is_ended() {
                continue;
            }
            ids.push(AttemptId { job: row.try_get("job_id")?, attempt: number(row, "attempt")? });
        }
        Ok(ids)
    }

    /// Ended attempts whose place still holds what only the running needed: a page, from behind `after`, and behind which the next one is.
    pub async fn unreleased(
        &self,
        cluster: &str,
        after: Option<&AttemptId>,
        limit: usize,
    ) -> Result<(Vec<LiveAttempt>, Option<AttemptId>), Error> {
        let query = self.sql(attempts_where!(
            "a.cluster = ? AND a.released_at_ms IS NULL AND a.state = 'ended' AND a.job_id >= ? AND (a.job_id > ? OR a.attempt > ?) \
             ORDER BY a.job_id, a.attempt LIMIT ?"
        ));
        let (job, attempt) = after.map_or(("", 0), |after| (&*after.job, after.attempt));
        let query = query.bind(cluster.to_owned()).bind(job.to_owned()).bind(job.to_owned()).bind(i64::from(attempt));
        let rows = query.bind(i64::try_from(limit).unwrap_or(i64::MAX)).fetch_all(&self.pool).await?;
        let last = rows.last().filter(|_| rows.len() == limit);
        let last =
            last.map(|row| Ok::<_, Error>(AttemptId { job: row.try_get("job_id")?, attempt: number(row, "attempt")? }));
        Ok((readable(&rows, live_attempt), last.transpose()?))
    }

    /// Whether the attempt ever had leave to start.
    pub async fn was_granted(&self, id: &AttemptId) -> Result<bool, Error> {
        let statement = "SELECT granted_at_ms FROM attempts WHERE job_id = ? AND attempt = ?";
        let query = self.sql(statement).bind(id.job.clone()).bind(i64::from(id.attempt));
        let row = query.fetch_optional(&self.pool).await?;
        Ok(row.map(|row| row.try_get::<Option<i64>, _>("granted_at_ms")).transpose()?.flatten().is_some())
    }

    /// Those of the attempts that have ended, and whose places were released.
    pub async fn released_of(&self, ids: &[AttemptId]) -> Result<Vec<Order>, Error> {
        let mut orders = Vec::new();
        for (statement, ids) in GONE.pieces(ids) {
            let query = ids.iter().fold(self.sql(statement), |query, id| query.bind(id.job.clone()));
            orders.extend(readable(&query.fetch_all(&self.pool).await?, order));
        }
        let asked: HashSet<&AttemptId> = ids.iter().collect();
        orders.retain(|order| asked.contains(&order.id));
        Ok(orders)
    }

    /// The places of ended attempts hold nothing any more.
    pub async fn released(&self, ids: &[AttemptId]) -> Result<(), Error> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut tx = self.begin().await?;
        for (statement, ids) in RELEASED.pieces(ids) {
            let query = self.sql(statement).bind(super::now().0);
            let query = ids.iter().fold(query, |query, id| query.bind(id.job.clone()).bind(i64::from(id.attempt)));
            query.execute(&mut *tx).await?;
        }
        Ok(tx.commit().await?)
    }
}

/// A job that a newer release wrote waits for that release; the others go on.
fn readable<T>(rows: &[AnyRow], read: fn(&AnyRow) -> Result<T, Error>) -> Vec<T> {
    rows.iter().filter_map(|row| read(row).inspect_err(|error| tracing::error!("{error}")).ok()).collect()
}

fn order(row: &AnyRow) -> Result<Order, Error> {
    let id = AttemptId { job: row.try_get("job_id")?, attempt: number(row, "attempt")? };
    let mut job = job(row.try_get("spec")?)?;
    job.resources.memory = bytes(row, "memory_bytes")?.or(job.resources.memory);
    Ok(Order { id, uid: row.try_get("uid")?, job, avoid_node: row.try_get("avoid_node")? })
}

fn live_attempt(row: &AnyRow) -> Result<LiveAttempt, Error> {
    Ok(LiveAttempt {
        order: order(row)?,
        phase: phase(row.try_get("phase")?)?,
        launching: row.try_get::<String, _>("state")? == "launching",
        granted: row.try_get::<Option<i64>, _>("granted_at_ms")?.or(row.try_get("adopted_ms")?).is_some(),
        executing: row.try_get::<Option<i64>, _>("executing_at_ms")?.is_some(),
        nonce: row.try_get("nonce")?,
        lease_until: row.try_get::<Option<i64>, _>("lease_until_ms")?.map(Millis),
        cancel_requested: row.try_get::<Option<i64>, _>("cancel_requested_ms")?.map(Millis),
        evidence: row.try_get("evidence")?,
    })
}
