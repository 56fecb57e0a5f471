//! The ledger's tables: forward-only migrations, a statement each, embedded in the program.
//!
//! What is done is recorded in sqlx's table, so that ledgers of the first release go on. The order of things is ours: sqlx's own lock is none
//! on MariaDB, and a step that MySQL did and could not record any more would stop it for ever.

use super::{
    Error,
    dialect::{Dialect, Fault, fault},
};
use sqlx::{
    AnyConnection, Connection as _, Executor as _, Row as _,
    migrate::{Migrate as _, MigrateError, Migration, MigrationType},
};
use std::time::Duration;

/// What this release can read. A migration that older releases cannot live with raises `ledger_format.oldest_reader`.
pub const FORMAT: i64 = 1;

/// How often a step is tried again that finds its table in use, and when.
const TRIES: u32 = 20;
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// From here on the ledger says who can read it.
const FORMAT_STEP: &str = "0013_ledger_format_1";

/// Where sqlx keeps what was done.
const DONE: &str = "_sqlx_migrations";

macro_rules! steps {
    ($($file:literal),* $(,)?) => { [$(($file, include_str!(concat!($file, ".sql")))),*] };
}

const STEPS: [(&str, &str); 33] = steps!(
    "0001_jobs",
    "0002_jobs_by_phase",
    "0003_jobs_by_age",
    "0004_attempts",
    "0005_attempts_by_state",
    "0006_transitions",
    "0007_heartbeats",
    "0008_records",
    "0009_refusals",
    "0010_cursors",
    "0011_lingering",
    "0012_ledger_format",
    "0013_ledger_format_1",
    "0014_jobs_by_definition",
    "0015_attempts_lease",
    "0016_attempts_lease_until",
    "0017_leases",
    "0018_ledger_key",
    "0019_attempts_readings",
    "0020_attempts_by_readings",
    "0021_heartbeats_5m",
    "0022_jobs_waiting",
    "0023_jobs_by_cancel",
    "0024_attempts_open",
    "0025_jobs_memory",
    "0026_attempts_memory",
    "0027_attempts_node",
    "0028_attempts_avoid_node",
    "0029_pauses",
    "0030_attempts_confirmed_dead",
    "0031_attempts_adopted",
    "0032_leases_trouble",
    "0033_attempts_retry_budget",
);

/// Brings the schema up to this release's, unless a newer release has made it unreadable for us. Control programs that start at once take turns.
pub async fn migrate(connection: &mut AnyConnection, dialect: Dialect) -> Result<(), Error> {
    refuse_newer(oldest_reader(connection).await?)?;
    let Some(unlock) = dialect.migration_unlock() else {
        let mut tx = connection.begin_with(dialect.begin()).await?;
        take_steps(&mut tx, dialect).await?;
        return Ok(tx.commit().await?);
    };
    let [before, behind] = dialect.migration_patience();
    if let Some(patience) = before {
        connection.execute(patience).await?;
    }
    lock(connection, dialect).await?;
    if let Some(patience) = behind {
        connection.execute(patience).await?;
    }
    // Where it fails the caller gives the connection up, and the lock with it. Each step is a transaction of its own, or what serves meanwhile would wait for
    // the last of them, and they for it.
    take_steps(connection, dialect).await?;
    connection.execute(unlock).await?;
    for greeting in dialect.greeting() {
        connection.execute(*greeting).await?;
    }
    Ok(())
}

async fn lock(connection: &mut AnyConnection, dialect: Dialect) -> Result<(), Error> {
    if let Some(lock) = dialect.migration_lock()
        && connection.fetch_one(lock).await?.try_get::<Option<i64>, _>(0)? != Some(1)
    {
        return Err(Error::MigrationLocked);
    }
    Ok(())
}

/// Under the lock: what is not done yet. Steps of a newer release that we can still read are passed over.
async fn take_steps(connection: &mut AnyConnection, dialect: Dialect) -> Result<(), Error> {
    connection.ensure_migrations_table(DONE).await.map_err(Error::Migrate)?;
    let mut unsure = None;
    if !dialect.has_transactional_schema() {
        unsure = connection.dirty_version(DONE).await.map_err(Error::Migrate)?;
        forget_unsure(connection).await?;
    }
    let done = connection.list_applied_migrations(DONE).await.map_err(Error::Migrate)?;
    for (name, template) in STEPS {
        let (version, what) = name.split_once('_').unwrap_or((name, ""));
        let version = version.parse().expect("the file's name begins with its number");
        let sql = sqlx::SqlSafeStr::into_sql_str(sqlx::AssertSqlSafe(dialect.schema(template)));
        let step = Migration::new(version, what.replace('_', " ").into(), MigrationType::Simple, sql, false);
        match done.iter().find(|done| done.version == version) {
            Some(done) if done.checksum != step.checksum => return Err(Error::OtherBuild(version)),
            Some(_) => {}
            None => take_step(connection, &step, unsure == Some(version)).await?,
        }
        // Another release may have been before us in the queue for the lock.
        if name == FORMAT_STEP {
            refuse_newer(oldest_reader(connection).await?)?;
        }
    }
    Ok(())
}

/// Takes one step. One that an earlier control program began, and could not record any more, may be done: each is a statement that is whole or nothing.
async fn take_step(connection: &mut AnyConnection, step: &Migration, unsure: bool) -> Result<(), Error> {
    let mut taken = connection.apply(DONE, step).await;
    for _ in 0..TRIES {
        match &taken {
            // Somebody reads the table for long: a backup, say.
            Err(MigrateError::ExecuteMigration(error, _)) if fault(error) == Fault::Conflict => {
                tracing::warn!(
                    step = &*step.description,
                    "{error}; the ledger's tables are brought up to date a little later"
                );
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            _ => break,
        }
        taken = connection.apply(DONE, step).await;
    }
    match taken {
        Err(MigrateError::ExecuteMigration(error, _)) if unsure && Dialect::is_done_already(&error) => {
            forget_unsure(connection).await?;
            connection.skip(DONE, step).await.map_err(Error::Migrate)
        }
        taken => taken.map(drop).map_err(Error::Migrate),
    }
}

async fn forget_unsure(connection: &mut AnyConnection) -> Result<(), Error> {
    connection.execute("DELETE FROM _sqlx_migrations WHERE success = FALSE").await?;
    Ok(())
}

fn refuse_newer(oldest_reader: Option<i64>) -> Result<(), Error> {
    match oldest_reader {
        Some(oldest_reader) if oldest_reader > FORMAT => Err(Error::Newer { oldest_reader, ours: FORMAT }),
        _ => Ok(()),
    }
}

/// `None` in a database without our tables.
async fn oldest_reader(connection: &mut AnyConnection) -> Result<Option<i64>, Error> {
    connection.ping().await?;
    match connection.fetch_one("SELECT MAX(oldest_reader) FROM ledger_format").await {
        Ok(row) => Ok(row.try_get::<Option<i64>, _>(0)?),
        // Only a missing table is answered like this on a connection that works.
        Err(sqlx::Error::Database(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
