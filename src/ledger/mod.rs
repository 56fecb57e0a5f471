//! The truth: a SQL database with every job, attempt, transition and reading. The only room with SQL.
//!
//! Callers get verbs, never a connection. Whatever arrives is appended idempotently, and the job's row is its fold, made in the same
//! transaction: `accept` takes jobs in, `queue` and `live` say who waits and who runs, `launch` and `grant` bind attempts, `lease` fences strict
//! attempts, `append` takes the supervisors' records, `fold` decides
//! what an end means, `operate` obeys people, `query` reads.

mod accept;
mod append;
mod batch;
mod count;
mod dialect;
mod fold;
mod grant;
mod launch;
mod lease;
mod live;
mod operate;
mod pause;
mod query;
mod queue;
mod rows;
mod schema;

pub use accept::Accepted;
pub use count::statements;
pub use fold::{AttemptEnd, Budget, NextStep, RetryCase};
pub use grant::Terms;
pub use launch::{Launch, Order, Place};
pub use live::{LiveAttempt, Running};
pub use operate::{Cancelled, Retried};
pub use pause::{Pause, PauseKind};
pub use query::{AttemptView, Heartbeat, JobFilter, JobSummary, JobView, Transition};
pub use queue::{Line, Standing, Waiting};

use crate::record::Millis;
use dialect::Dialect;
use sqlx::{Any, AnyPool, Connection as _, Executor as _, any::AnyPoolOptions};
use std::time::{Duration, SystemTime};

/// How long a caller waits for a connection before the ledger counts as away.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(15);

/// Decides what follows an attempt's end: pure, `dispatch::retry` in the product.
pub type RetryPolicy = fn(&RetryCase<'_>) -> NextStep;

/// The ledger, open.
#[derive(Clone)]
pub struct Ledger {
    pool: AnyPool,
    dialect: Dialect,
    retry: RetryPolicy,
}

/// What can go wrong with a ledger.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{0}` is not a database that this release of Sendo speaks; use sqlite:")]
    UnknownDatabase(String),
    #[error(
        "the ledger was made by a newer release of Sendo (its tables need format {oldest_reader}, this release reads up to {ours}); \
         use that release, or another ledger"
    )]
    Newer { oldest_reader: i64, ours: i64 },
    #[error("the ledger's disk is full; nothing that was acknowledged is lost. Make room, and it goes on by itself")]
    DiskFull,
    #[error(
        "the ledger's tables were made by another build of Sendo (step {0} differs); use that build, or another ledger"
    )]
    OtherBuild(i64),
    #[error("bring the ledger's tables up to date: {0}")]
    Migrate(sqlx::migrate::MigrateError),
    #[error("the ledger's {table} hold what this release cannot read: {why}")]
    Unreadable { table: &'static str, why: String },
    #[error("job {job} may not go from {from} to {to} by {writer}")]
    IllegalMove { job: String, from: &'static str, to: &'static str, writer: &'static str },
    #[error("there is no job `{0}`")]
    NoSuchJob(String),
    #[error("the ledger cannot be used: {0}")]
    Unavailable(sqlx::Error),
}

/// SQLite's code for a full disk (<https://sqlite.org/rescode.html#full>), as sqlx gives it.
const SQLITE_FULL: &str = "13";

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(inner) if inner.code().as_deref() == Some(SQLITE_FULL) => Self::DiskFull,
            _ => Self::Unavailable(error),
        }
    }
}

/// A statement that takes its parameters.
type Statement<'q> = sqlx::query::Query<'q, Any, sqlx::any::AnyArguments>;

/// A transaction that writes.
type Tx = sqlx::Transaction<'static, Any>;

impl Ledger {
    /// Opens the database at `url`, makes or updates its tables.
    pub async fn open(url: &str, retry: RetryPolicy) -> Result<Self, Error> {
        sqlx::any::install_default_drivers();
        let dialect = Dialect::of(url)?;
        let options = AnyPoolOptions::new().max_connections(dialect.connections()).acquire_timeout(ACQUIRE_LIMIT);
        // A full disk at a COMMIT ends SQLite's transaction, and the driver believes that it is still in it: such a connection begins no other.
        let options = options.before_acquire(|connection, _| {
            let usable = !connection.is_in_transaction();
            Box::pin(async move { Ok(usable) })
        });
        let options = options.after_connect(move |connection, _| {
            Box::pin(async move {
                for greeting in dialect.greeting() {
                    connection.execute(*greeting).await?;
                }
                Ok(())
            })
        });
        let pool = options.connect(url).await?;
        schema::migrate(&mut *pool.acquire().await?, dialect).await?;
        Ok(Self { pool, dialect, retry })
    }

    /// Whether it answers.
    pub async fn ping(&self) -> Result<(), Error> {
        self.pool.execute("SELECT 1").await?;
        Ok(())
    }

    /// Lets go of the database after what is under way.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    async fn begin(&self) -> Result<Tx, Error> {
        Ok(self.pool.begin_with(self.dialect.begin()).await?)
    }

    /// A statement with its parameters' places.
    fn sql(&self, statement: &'static str) -> Statement<'static> {
        count::one();
        sqlx::query(self.dialect.sql(statement))
    }
}

/// The ledger's clock.
pub fn now() -> Millis {
    Millis::from_system(SystemTime::now())
}

#[cfg(test)]
mod tests;
