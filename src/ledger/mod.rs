//! The truth: a SQL database with every job, attempt, transition and reading. The only room with SQL.
//!
//! Callers get verbs, never a connection. Whatever arrives is appended idempotently, and the job's row is its fold, made in the same
//! transaction: `accept` takes jobs in, `refuse` keeps what was not taken, `launch` and `grant` bind attempts, `lease` fences strict
//! attempts, `append` takes the supervisors' records, `fold` decides
//! what an end means, `operate` obeys people, `query` reads.

mod accept;
mod append;
mod dialect;
mod fold;
mod grant;
mod launch;
mod lease;
mod operate;
mod query;
mod refuse;
mod rows;
mod schema;

pub use accept::{Accepted, Incoming};
pub use fold::{AttemptEnd, Budget, NextStep, RetryCase};
pub use grant::Terms;
pub use launch::{LiveAttempt, Order, Waiting};
pub use operate::{Cancelled, Retried};
pub use query::{AttemptView, Heartbeat, JobFilter, JobSummary, JobView, Transition};
pub use refuse::{Refusal, RefusalFilter};

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

impl Error {
    /// The database answered, and what it does not take is the value: the same statement fails whenever it is tried.
    pub fn is_of_the_value(&self) -> bool {
        let Self::Unavailable(sqlx::Error::Database(why)) = self else { return false };
        !why.is_unique_violation() && why.code().is_some_and(|code| dialect::is_of_the_value(&code))
    }

    /// The database answered, with a refusal that is none of the disk's.
    pub fn is_answered(&self) -> bool {
        !matches!(self, Self::DiskFull)
            && !matches!(self, Self::Unavailable(why) if !matches!(why, sqlx::Error::Database(_)))
    }
}

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
        let options = options.after_connect(move |connection, _| {
            Box::pin(async move {
                for greeting in dialect.greeting() {
                    connection.execute(*greeting).await?;
                }
                Ok(())
            })
        });
        // SQLite ends a transaction by itself when its disk is full; sqlx's rollback then fails, and it would take the connection to be
        // inside of one for ever.
        let options =
            options.before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }));
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
        sqlx::query(self.dialect.sql(statement))
    }
}

/// The ledger's clock.
pub fn now() -> Millis {
    Millis::from_system(SystemTime::now())
}

#[cfg(test)]
mod tests;
