//! Taking jobs in, a batch in one transaction.

use super::{Error, Ledger, Tx, adopt::NO_CONTENT};
use crate::record::{
    Millis,
    job::Job,
    phase::{Phase, Writer},
};
use sqlx::Row as _;
use std::{collections::HashMap, sync::LazyLock};

/// Jobs in one statement: what a queue hands out at once.
const ROWS: usize = 10;

/// Looks again after another replica took the same job between our look and our insert. One is enough for one job.
const RACES: usize = 5;

/// What became of a job that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    New,
    /// The same id with the same content: the same job.
    Known,
    /// The same id with another content.
    OtherContent,
}

/// A job that was checked and asks to be taken in.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    pub job: &'a Job,
    /// Of its content, trace context aside.
    pub digest: &'a str,
    /// The job's `not_before`; 0 where it has none.
    pub not_before_ms: i64,
    /// When it was asked for, by the clock of whatever kept it until now.
    pub queued_at: Millis,
}

/// Every number of rows of a statement, made once; the first is for one row.
struct Rows([&'static str; ROWS]);

impl Rows {
    fn new(head: &str, row: &str) -> Self {
        // Never given back: ten short texts for the program's life, since statements live as long.
        Self(std::array::from_fn(|index| &*String::leak(format!("{head} VALUES {}", vec![row; index + 1].join(", ")))))
    }

    fn of(&self, rows: usize) -> &'static str {
        self.0[rows - 1]
    }
}

static INSERT_JOBS: LazyLock<Rows> = LazyLock::new(|| {
    Rows::new(
        "INSERT INTO jobs (id, tenant, definition, spec, digest, traceparent, priority, incremental, phase, phase_since_ms, attempt, \
         queued_at_ms, received_at_ms, not_before_ms, own_retries, infrastructure_retries)",
        "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, 0, 0)",
    )
});

static INSERT_TRANSITIONS: LazyLock<Rows> = LazyLock::new(|| {
    Rows::new(
        "INSERT INTO transitions (job_id, number, attempt, from_phase, to_phase, at_ms, recorded_at_ms, writer, reason)",
        "(?, 1, 0, NULL, ?, ?, ?, ?, 'accepted')",
    )
});

impl Ledger {
    /// Takes one job in, once for its id, as asked for now.
    pub async fn accept(&self, job: &Job, digest: &str, not_before_ms: i64) -> Result<Accepted, Error> {
        let incoming = Incoming { job, digest, not_before_ms, queued_at: super::now() };
        let accepted = self.accept_batch(&[incoming]).await?;
        Ok(accepted.first().copied().unwrap_or(Accepted::Known))
    }

    /// Takes jobs in, each once for its id, all of them or none; tells of each what became of it, in the same order.
    pub async fn accept_batch(&self, jobs: &[Incoming<'_>]) -> Result<Vec<Accepted>, Error> {
        for _ in 1..RACES {
            match self.transact(|_| self.try_batch(jobs)).await {
                Err(Error::Unavailable(sqlx::Error::Database(why))) if why.is_unique_violation() => {}
                tried => return tried,
            }
        }
        self.transact(|_| self.try_batch(jobs)).await
    }

    async fn try_batch(&self, jobs: &[Incoming<'_>]) -> Result<Vec<Accepted>, Error> {
        let mut order: Vec<usize> = (0..jobs.len()).collect();
        // Two replicas that take the same jobs lock their rows in the same order. Stable: of two with one id the first counts.
        order.sort_by_key(|index| &jobs[*index].job.id);
        let mut accepted = vec![Accepted::Known; jobs.len()];
        let mut tx = self.begin().await?;
        for indices in order.chunks(ROWS) {
            let mut known = self.digests(&mut tx, indices.iter().map(|index| jobs[*index].job.id.as_str())).await?;
            let mut new = Vec::new();
            for index in indices {
                let incoming = jobs[*index];
                accepted[*index] = match known.get(&incoming.job.id) {
                    Some(digest) if digest == incoming.digest => Accepted::Known,
                    Some(digest) if digest == NO_CONTENT => {
                        self.fill_in(&mut tx, &incoming).await?;
                        known.insert(incoming.job.id.clone(), incoming.digest.to_owned());
                        Accepted::Known
                    }
                    Some(_) => Accepted::OtherContent,
                    None => {
                        known.insert(incoming.job.id.clone(), incoming.digest.to_owned());
                        new.push(incoming);
                        Accepted::New
                    }
                };
            }
            if !new.is_empty() {
                self.insert(&mut tx, &new).await?;
            }
        }
        self.commit(tx).await?;
        for (incoming, _) in jobs.iter().zip(&accepted).filter(|(_, accepted)| **accepted == Accepted::New) {
            tracing::info!(job = incoming.job.id, phase = Phase::Queued.as_str());
        }
        Ok(accepted)
    }

    /// The digests of those ids (at most [`ROWS`]) that are taken.
    async fn digests<'a>(
        &self,
        tx: &mut Tx,
        ids: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<HashMap<String, String>, Error> {
        // One statement for any number: the last id fills up.
        let last = ids.clone().last().unwrap_or_default();
        let mut query = self.sql("SELECT id, digest FROM jobs WHERE id IN (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
        for id in ids.chain(std::iter::repeat(last)).take(ROWS) {
            query = query.bind(id.to_owned());
        }
        let rows = query.fetch_all(&mut **tx).await?;
        rows.iter().map(|row| Ok((row.try_get("id")?, row.try_get("digest")?))).collect()
    }

    /// The content of a job that was adopted without any; of two that bring it at once the first counts.
    async fn fill_in(&self, tx: &mut Tx, incoming: &Incoming<'_>) -> Result<(), Error> {
        let query = self.sql("UPDATE jobs SET spec = ?, digest = ?, traceparent = ? WHERE id = ? AND digest = ?");
        let query = query.bind(spec(incoming.job)?).bind(incoming.digest.to_owned());
        let query = query.bind(incoming.job.traceparent.clone()).bind(incoming.job.id.clone()).bind(NO_CONTENT);
        query.execute(&mut **tx).await?;
        Ok(())
    }

    pub(super) async fn insert(&self, tx: &mut Tx, new: &[Incoming<'_>]) -> Result<(), Error> {
        let now = super::now();
        // What kept the message may have a clock that is ahead of ours.
        let queued_at = |incoming: &Incoming<'_>| incoming.queued_at.min(now).0;
        let mut query = self.sql(INSERT_JOBS.of(new.len()));
        for incoming in new {
            let job = incoming.job;
            query = query
                .bind(job.id.clone())
                .bind(job.tenant.clone().unwrap_or_default())
                .bind(job.definition.clone().unwrap_or_default())
                .bind(spec(job)?)
                .bind(incoming.digest.to_owned())
                .bind(job.traceparent.clone())
                .bind(i64::from(job.priority))
                .bind(i64::from(job.is_incremental()))
                .bind(Phase::Queued.as_str().to_owned())
                .bind(queued_at(incoming))
                .bind(queued_at(incoming))
                .bind(now.0)
                // From then on it waits: a tenant's jobs go in this order.
                .bind(incoming.not_before_ms.max(queued_at(incoming)));
        }
        query.execute(&mut **tx).await?;
        let mut query = self.sql(INSERT_TRANSITIONS.of(new.len()));
        for incoming in new {
            query = query
                .bind(incoming.job.id.clone())
                .bind(Phase::Queued.as_str().to_owned())
                .bind(queued_at(incoming))
                .bind(now.0)
                .bind(Writer::Intake.as_str().to_owned());
        }
        query.execute(&mut **tx).await?;
        Ok(())
    }
}

/// The column `spec`.
fn spec(job: &Job) -> Result<String, Error> {
    serde_json::to_string(job).map_err(|why| Error::Unreadable { table: "jobs", why: why.to_string() })
}
