//! The truth: a SQL database with every job, attempt, transition and reading. The only room with SQL.
//!
//! Callers get verbs, never a connection. Whatever arrives is appended idempotently, and the job's row is its fold, made in the same
//! transaction: `accept` takes jobs in, `refuse` keeps what was not taken, `queue` and `live` say who waits and who runs, `launch` and `grant` bind attempts, `lease` fences strict
//! attempts, `append` takes the supervisors' records (`ingest` the readings of many at once), `fold` decides
//! what an end means, `operate` obeys people, `query` reads. `fence` says which of several control programs owns a task, `retention` lets readings grow old, `transact` tries a verb
//! again where the database was in the way.

mod accept;
mod adopt;
mod append;
mod batch;
mod count;
mod dialect;
mod fence;
mod fold;
mod grant;
mod ingest;
mod launch;
mod lease;
mod live;
mod operate;
mod pause;
mod query;
mod queue;
mod refuse;
mod retention;
mod rows;
mod schema;
mod transact;
mod usage;

pub use accept::{Accepted, Incoming};
pub use adopt::Foundling;
pub use batch::PIECE;
pub use count::statements;
pub use fence::Fence;
pub use fold::{AttemptEnd, Budget, NextStep, RetryCase};
pub use grant::{Speaker, Terms};
pub use launch::{Launch, Order, Place};
pub use live::{LiveAttempt, Running};
pub use operate::{Cancelled, ConfirmedDead, Retried};
pub use pause::{Pause, PauseKind};
pub use query::{AttemptView, Heartbeat, JobFilter, JobSummary, JobView, Transition};
pub use queue::{Line, Standing, Waiting};
pub use refuse::{Refusal, RefusalFilter};

use crate::record::{Millis, wire::AttemptId};
use dialect::{Dialect, Fault};
use sqlx::{Any, AnyPool, Connection as _, Executor as _, Row as _, any::AnyPoolOptions};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

/// How long one try waits for a connection. A server that lets no more of ours in gets no more: the next try finds one that another has finished with.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(5);

/// Decides what follows an attempt's end: pure, `dispatch::retry` in the product.
pub type RetryPolicy = fn(&RetryCase<'_>) -> NextStep;

/// The ledger, open.
#[derive(Clone)]
pub struct Ledger {
    pool: AnyPool,
    dialect: Dialect,
    retry: RetryPolicy,
    staleness: Arc<transact::Staleness>,
    /// Where readings wait for each other; the writers of these have none.
    queue: Option<ingest::Queue>,
}

/// How the ledger is to be opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// At the most; `None`: what suits the database.
    pub connections: Option<u32>,
}

/// What can go wrong with a ledger.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{0}` is not a database that this release of Sendo speaks; use sqlite:, postgres: or mysql:")]
    UnknownDatabase(String),
    #[error("it is no address ({0}); in a user's name or password @ : / # ? % are written as %40 %3A %2F %23 %3F %25")]
    NoAddress(String),
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
    #[error(
        "another control program has been bringing the ledger's tables up to date for a minute; start again when it is done"
    )]
    MigrationLocked,
    #[error("the ledger does not know {0} yet: it may have been restored to a time before it; ask again")]
    NotKnownYet(AttemptId),
    #[error("another control program owns `{0}` by now")]
    Deposed(String),
    #[error(
        "the ledger was signed with another key than ours: attempts that run would not be believed. Give every `sendo serve` of one ledger the \
         same `key_file`; if that key is lost for good, end what runs and delete the row of the ledger's table `ledger_key`"
    )]
    OtherKey,
    #[error("the ledger has more to write than it can; ask again in a moment")]
    Busy,
    #[error("the ledger cannot be used: {0}")]
    Unavailable(sqlx::Error),
    /// The connection was lost while the transaction was being committed.
    #[error("the ledger cannot be used: {0}; whether it took what was asked is not known")]
    Uncertain(sqlx::Error),
}

impl Error {
    /// The database answered, and what it does not take is the value: the same statement fails whenever it is tried.
    pub fn is_of_the_value(&self) -> bool {
        let Self::Unavailable(sqlx::Error::Database(why)) = self else { return false };
        !why.is_unique_violation() && why.code().is_some_and(|code| dialect::is_of_the_value(&code))
    }

    /// What stands in the way of one job, and of no other.
    pub fn is_of_one_job(&self) -> bool {
        matches!(self, Self::IllegalMove { .. } | Self::Unreadable { .. }) || self.is_of_the_value()
    }

    /// The database answered, with a refusal that is none of its room's.
    pub fn is_answered(&self) -> bool {
        match self {
            Self::DiskFull | Self::Busy | Self::Uncertain(_) => false,
            Self::Unavailable(why) => matches!(why, sqlx::Error::Database(_)),
            _ => true,
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match dialect::fault(&error) {
            Fault::DiskFull => Self::DiskFull,
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
        Self::open_with(url, Options::default(), retry).await
    }

    /// The same, with settings.
    pub async fn open_with(url: &str, options: Options, retry: RetryPolicy) -> Result<Self, Error> {
        sqlx::any::install_default_drivers();
        let mut dialect = Dialect::of(url)?;
        if dialect == Dialect::MySql {
            let mut connection = sqlx::AnyConnection::connect(url).await?;
            let version: String = connection.fetch_one(Dialect::WHICH_MYSQL).await?.try_get(0)?;
            dialect = dialect.refine(&version);
            connection.close().await?;
        }
        let staleness = Arc::new(transact::Staleness::new());
        let seen = Arc::clone(&staleness);
        let pool = AnyPoolOptions::new()
            .max_connections(options.connections.unwrap_or(dialect.connections()))
            .acquire_timeout(ACQUIRE_LIMIT)
            .before_acquire(move |connection, about| {
                // A full disk at a COMMIT ends SQLite's transaction, and the driver believes that it is still in it: such a connection begins no other.
                let usable = seen.is_fresh(about.age) && !connection.is_in_transaction();
                Box::pin(async move { Ok(usable) })
            })
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    for greeting in dialect.greeting() {
                        connection.execute(*greeting).await?;
                    }
                    Ok(())
                })
            })
            .connect(url)
            .await;
        let pool = match pool {
            // The pool tries for as long as it may, and keeps the reason to itself.
            Err(sqlx::Error::PoolTimedOut) => {
                let why = sqlx::AnyConnection::connect(url).await.err().unwrap_or(sqlx::Error::PoolTimedOut);
                return Err(why.into());
            }
            opened => opened?,
        };
        schema::migrate(&mut *pool.acquire().await?, dialect).await?;
        let mut ledger = Self { pool, dialect, retry, staleness, queue: None };
        ledger.queue = Some(ingest::start(&ledger));
        Ok(ledger)
    }

    /// Notes the fingerprint of the key that signs for this ledger's attempts, or compares it: [`Error::OtherKey`].
    pub async fn same_key(&self, fingerprint: &str) -> Result<(), Error> {
        let noted = async |_| {
            let note = self.sql("{insert} INTO ledger_key (id, fingerprint) VALUES (1, ?) {once}");
            note.bind(fingerprint.to_owned()).execute(&self.pool).await?;
            let row = self.sql("SELECT fingerprint FROM ledger_key WHERE id = 1").fetch_one(&self.pool).await?;
            Ok(row.try_get::<String, _>("fingerprint")?)
        };
        if self.transact(noted).await? == fingerprint { Ok(()) } else { Err(Error::OtherKey) }
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

    /// Ends a transaction. A connection that is lost meanwhile may have taken the answer with it, or the request.
    async fn commit(&self, tx: Tx) -> Result<(), Error> {
        tx.commit().await.map_err(|error| match dialect::fault(&error) {
            Fault::Connection => Error::Uncertain(error),
            _ => error.into(),
        })
    }

    /// A statement with its parameters' places.
    fn sql(&self, statement: &'static str) -> Statement<'static> {
        count::one();
        sqlx::query(self.dialect.sql(statement))
    }
}

/// Whether an address is of a database that the ledger speaks.
pub fn speaks(url: &str) -> Result<(), Error> {
    if Dialect::of(url)?.is_server() {
        reqwest::Url::parse(url).map_err(|why| Error::NoAddress(why.to_string()))?;
    }
    Ok(())
}

/// The ledger's clock.
pub fn now() -> Millis {
    Millis::from_system(SystemTime::now())
}
