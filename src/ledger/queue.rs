//! What waits for admission, read so that neither a quarter of a million jobs nor one tenant's ten thousand cost more than what is asked
//! for: the queue is walked along one index, from priority to priority, from tenant to tenant, and only the heads are read.

use super::{Error, Ledger};
use crate::record::Millis;
use sqlx::Row as _;

/// Tenants that one statement finds; MySQL and MariaDB stop a recursion at a thousand.
const TENANTS: usize = 500;

/// A job that waits for admission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub id: String,
    pub tenant: String,
    pub definition: String,
    pub priority: i32,
    pub incremental: bool,
    pub queued_at: Millis,
    pub not_before: Millis,
}

/// A tenant with jobs in the queue of one priority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub tenant: String,
    /// When the first of them may go.
    pub ready_at: Millis,
}

/// Where a job stands in its line: when it is ready, and its id.
pub type Standing = (Millis, String);

/// From tenant to tenant, a jump in the index each.
macro_rules! tenants {
    ($after:literal) => {
        concat!(
            "WITH RECURSIVE line (tenant, n) AS (SELECT MIN(j.tenant), 1 FROM jobs j WHERE j.phase = 'queued' AND j.priority = ? ",
            $after,
            " UNION ALL SELECT (SELECT MIN(j.tenant) FROM jobs j WHERE j.phase = 'queued' AND j.priority = ? AND j.tenant > line.tenant), ",
            "line.n + 1 FROM line WHERE line.tenant IS NOT NULL AND line.n < 500) SELECT line.tenant AS tenant, (SELECT MIN(k.not_before_ms) ",
            "FROM jobs k WHERE k.phase = 'queued' AND k.priority = ? AND k.tenant = line.tenant) AS ready_at_ms FROM line ",
            "WHERE line.tenant IS NOT NULL"
        )
    };
}

impl Ledger {
    /// The highest priority below `below` that any job in the queue has.
    pub async fn next_priority(&self, below: i64) -> Result<Option<i32>, Error> {
        let statement = "SELECT MAX(priority) AS priority FROM jobs WHERE phase = 'queued' AND priority < ?";
        let row = self.sql(statement).bind(below).fetch_one(&self.pool).await?;
        let priority = row.try_get::<Option<i64>, _>("priority")?;
        Ok(priority.and_then(|priority| i32::try_from(priority).ok()))
    }

    /// Every tenant with a job in the queue of this priority.
    pub async fn lines(&self, priority: i32) -> Result<Vec<Line>, Error> {
        let priority = i64::from(priority);
        let mut lines: Vec<Line> = Vec::new();
        loop {
            let query = match lines.last() {
                None => self.sql(tenants!("")).bind(priority),
                Some(last) => self.sql(tenants!("AND j.tenant > ?")).bind(priority).bind(last.tenant.clone()),
            };
            let rows = query.bind(priority).bind(priority).fetch_all(&self.pool).await?;
            for row in &rows {
                let ready_at = row.try_get::<Option<i64>, _>("ready_at_ms")?;
                // Gone between the two halves of the statement's work, where the database allows that.
                let Some(ready_at) = ready_at.map(Millis) else { continue };
                lines.push(Line { tenant: row.try_get("tenant")?, ready_at });
            }
            if rows.len() < TENANTS {
                return Ok(lines);
            }
        }
    }

    /// The first of a tenant's jobs of one priority whose time has come and that have no live attempt, the longest ready first, from behind
    /// `after`. An incremental definition goes in order, one job at a time, and waits while one of its jobs is held or waits for its next
    /// attempt: its cursor does not stand where the next run may begin.
    pub async fn heads(
        &self,
        priority: i32,
        tenant: &str,
        after: Option<&Standing>,
        limit: usize,
    ) -> Result<Vec<Waiting>, Error> {
        let statement = "SELECT j.id, j.definition, j.incremental, j.queued_at_ms, j.not_before_ms FROM jobs j \
                         WHERE j.phase = 'queued' AND j.priority = ? AND j.tenant = ? AND j.not_before_ms <= ? \
                         AND (j.not_before_ms > ? OR (j.not_before_ms = ? AND j.id > ?)) AND j.cancel_requested_ms IS NULL AND j.digest <> '' AND NOT EXISTS \
                         (SELECT 1 FROM attempts a WHERE a.job_id = j.id AND a.attempt = j.attempt AND a.state <> 'ended') AND NOT \
                         (j.incremental = 1 AND EXISTS (SELECT 1 FROM jobs k WHERE k.tenant = j.tenant AND k.definition = j.definition \
                         AND k.incremental = 1 AND k.id <> j.id AND (k.phase IN ('held', 'setting_up', 'executing', 'stopping') OR (k.phase = 'queued' AND k.attempt > 0 AND \
                         (j.attempt = 0 OR k.queued_at_ms < j.queued_at_ms OR (k.queued_at_ms = j.queued_at_ms AND k.id < j.id))) OR \
                         (k.phase = 'queued' AND k.attempt = 0 AND j.attempt = 0 AND k.priority >= j.priority AND \
                         (k.not_before_ms < j.not_before_ms OR (k.not_before_ms = j.not_before_ms AND k.id < j.id)))))) \
                         ORDER BY j.not_before_ms, j.id LIMIT ?";
        let (ready_at, id) = after.cloned().unwrap_or((Millis(i64::MIN), String::new()));
        let query = self.sql(statement).bind(i64::from(priority)).bind(tenant.to_owned()).bind(super::now().0);
        let query = query.bind(ready_at.0).bind(ready_at.0).bind(id);
        let rows = query.bind(i64::try_from(limit).unwrap_or(i64::MAX)).fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| {
                Ok(Waiting {
                    id: row.try_get("id")?,
                    tenant: tenant.to_owned(),
                    definition: row.try_get("definition")?,
                    priority,
                    incremental: row.try_get::<i64, _>("incremental")? != 0,
                    queued_at: Millis(row.try_get("queued_at_ms")?),
                    not_before: Millis(row.try_get("not_before_ms")?),
                })
            })
            .collect()
    }
}
