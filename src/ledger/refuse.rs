//! What was not taken in, and why: the table `refusals`.

use super::{Error, Ledger, transact::Again};
use serde::{Deserialize, Serialize};
use sqlx::Row as _;

/// As much of a reason as a person reads.
const REASON_LIMIT: usize = 4000;

/// The column's width.
const ID_LIMIT: usize = 128;

/// A message that was not taken.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refusal {
    /// The door it came through: a queue's address, or `http`.
    pub queue: String,
    pub message_id: String,
    /// Where the message has one that can be read.
    pub job_id: Option<String>,
    pub reason: String,
    /// SHA-256 of the message.
    pub digest: String,
    pub first_at_ms: i64,
    pub last_at_ms: i64,
    /// How often it came.
    pub times: i64,
}

/// A page of refusals, the latest first.
#[derive(Debug, Clone, Default)]
pub struct RefusalFilter {
    pub queue: Option<String>,
    pub message_id: Option<String>,
    /// Only what came last before this moment, and at it only what stands behind `before_id` in the list.
    pub before_ms: Option<i64>,
    pub before_id: Option<String>,
    pub limit: u32,
}

impl Ledger {
    /// Keeps a message that was not taken, with the reason; the same message again only counts up.
    pub async fn refuse(
        &self,
        queue: &str,
        message_id: &str,
        job: Option<&str>,
        reason: &str,
        digest: &str,
    ) -> Result<(), Error> {
        let now = super::now().0;
        let refusal = [queue, message_id, reason, digest].map(storable);
        let job = job.map(storable).filter(|job| job.len() <= ID_LIMIT);
        self.transact(|again| self.refuse_once(&refusal, &job, now, again)).await?;
        tracing::warn!(queue, message_id, job, reason, "refused");
        Ok(())
    }

    async fn refuse_once(
        &self,
        [queue, message_id, reason, digest]: &[String; 4],
        job: &Option<String>,
        now: i64,
        again: Again,
    ) -> Result<(), Error> {
        let mut tx = self.begin().await?;
        let statement = "{insert} INTO refusals (queue, message_id, job_id, reason, digest, first_at_ms, last_at_ms, times) \
                         VALUES (?, ?, ?, ?, ?, ?, ?, 1) {once}";
        let first = self
            .sql(statement)
            .bind(queue.clone())
            .bind(message_id.clone())
            .bind(job.clone())
            .bind(reason.clone())
            .bind(digest.clone())
            .bind(now)
            .bind(now)
            .execute(&mut *tx)
            .await?;
        if first.rows_affected() == 0 {
            // Counted by a try whose answer was lost, if it is of this very moment.
            let counted = if again == Again::MayBeDone { now } else { i64::MIN };
            self.sql("UPDATE refusals SET times = times + 1, last_at_ms = ?, reason = ? WHERE queue = ? AND message_id = ? AND last_at_ms <> ?")
                .bind(now)
                .bind(reason.clone())
                .bind(queue.clone())
                .bind(message_id.clone())
                .bind(counted)
                .execute(&mut *tx)
                .await?;
        }
        self.commit(tx).await
    }

    /// What was refused, the latest first.
    pub async fn refusals(&self, filter: &RefusalFilter) -> Result<Vec<Refusal>, Error> {
        let statement = "SELECT * FROM refusals WHERE (? = '' OR queue = ?) AND (? = '' OR message_id = ?) \
                         AND (last_at_ms < ? OR (last_at_ms = ? AND message_id < ?)) \
                         ORDER BY last_at_ms DESC, message_id DESC LIMIT ?";
        let mut query = self.sql(statement);
        for value in [&filter.queue, &filter.message_id] {
            let value = value.clone().unwrap_or_default();
            query = query.bind(value.clone()).bind(value);
        }
        let before = filter.before_ms.unwrap_or(i64::MAX);
        let query = query.bind(before).bind(before).bind(filter.before_id.clone().unwrap_or_default());
        let rows = query.bind(i64::from(filter.limit)).fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| {
                Ok(Refusal {
                    queue: row.try_get("queue")?,
                    message_id: row.try_get("message_id")?,
                    job_id: row.try_get("job_id")?,
                    reason: row.try_get("reason")?,
                    digest: row.try_get("digest")?,
                    first_at_ms: row.try_get("first_at_ms")?,
                    last_at_ms: row.try_get("last_at_ms")?,
                    times: row.try_get("times")?,
                })
            })
            .collect()
    }
}

/// A stranger's text as every database takes it: no U+0000, and no megabyte of it.
fn storable(text: &str) -> String {
    text.chars().take(REASON_LIMIT).collect::<String>().replace('\0', "\\u0000")
}
