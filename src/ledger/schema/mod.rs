//! The ledger's tables: forward-only migrations, a statement each, embedded in the program.

use super::{Error, dialect::Dialect};
use sqlx::{
    AnyConnection, Connection as _, Executor as _,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};

/// What this release can read. A migration that older releases cannot live with raises `ledger_format.oldest_reader`.
pub const FORMAT: i64 = 1;

macro_rules! steps {
    ($($file:literal),* $(,)?) => { [$(($file, include_str!(concat!($file, ".sql")))),*] };
}

const STEPS: [(&str, &str); 24] = steps!(
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
    "0041_jobs_waiting",
    "0042_jobs_by_cancel",
    "0043_attempts_open",
    "0044_jobs_memory",
    "0045_attempts_memory",
    "0046_attempts_node",
    "0047_attempts_avoid_node",
    "0048_pauses",
);

/// Brings the schema up to this release's, unless a newer release has made it unreadable for us.
pub async fn migrate(connection: &mut AnyConnection, dialect: Dialect) -> Result<(), Error> {
    if let Some(oldest_reader) = oldest_reader(connection).await?
        && oldest_reader > FORMAT
    {
        return Err(Error::Newer { oldest_reader, ours: FORMAT });
    }
    let steps = STEPS.iter().map(|(name, template)| {
        let (version, what) = name.split_once('_').unwrap_or((name, ""));
        let sql = sqlx::AssertSqlSafe(dialect.schema(template));
        let version = version.parse().expect("the file's name begins with its number");
        Migration::new(
            version,
            what.replace('_', " ").into(),
            MigrationType::Simple,
            sqlx::SqlSafeStr::into_sql_str(sql),
            false,
        )
    });
    let mut migrator = Migrator::with_migrations(steps.collect());
    // A newer release that we can still read has steps that we do not know.
    migrator.set_ignore_missing(true);
    migrator.run_direct(None, connection, false).await.map_err(|error| match error {
        MigrateError::VersionMismatch(step) => Error::OtherBuild(step),
        other => Error::Migrate(other),
    })
}

/// `None` in a database without our tables.
async fn oldest_reader(connection: &mut AnyConnection) -> Result<Option<i64>, Error> {
    connection.ping().await?;
    match connection.fetch_one("SELECT MAX(oldest_reader) FROM ledger_format").await {
        Ok(row) => Ok(sqlx::Row::try_get::<Option<i64>, _>(&row, 0)?),
        // Only a missing table is answered like this on a connection that works.
        Err(sqlx::Error::Database(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
