//! Databases for ledgers: a file, or one of its own on the servers of this run.

use super::databases::{PASSWORD, Server, USER, databases};
use sendo::ledger::{Fence, Ledger};
use serde_json::Value;
use sqlx::{
    AnyConnection, Column as _, Connection as _, Executor as _, Row as _,
    any::{AnyRow, AnyTypeInfoKind},
};
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use tempfile::TempDir;

/// What the ledger speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    Sqlite,
    Postgresql,
    Mariadb,
}

impl Database {
    /// The address of a database on a server.
    pub fn url(self, server: &Server, name: &str) -> String {
        let scheme = if self == Self::Postgresql { "postgres" } else { "mysql" };
        format!("{scheme}://{USER}:{PASSWORD}@127.0.0.1:{}/{name}", server.port)
    }
}

/// An empty database.
pub struct Place {
    pub database: Database,
    pub url: String,
    _folder: Option<TempDir>,
}

impl Place {
    pub fn new(database: Database) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(1);
        let name = format!("ledger_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let create = format!("CREATE DATABASE {name}");
        match database {
            Database::Sqlite => {
                let folder = super::scratch();
                let url = format!("sqlite://{}?mode=rwc", folder.path().join("ledger.db").display());
                Self { database, url, _folder: Some(folder) }
            }
            Database::Postgresql => {
                databases().postgresql(&create);
                Self { database, url: database.url(&databases().postgresql, &name), _folder: None }
            }
            Database::Mariadb => {
                databases().mysql(&create);
                Self { database, url: database.url(&databases().mysql, &name), _folder: None }
            }
        }
    }

    /// One that is there already.
    pub fn on(database: Database, url: String) -> Self {
        Self { database, url, _folder: None }
    }

    pub fn is_file(&self) -> bool {
        self.database == Database::Sqlite
    }

    /// A session of the test's own.
    pub async fn session(&self) -> AnyConnection {
        self.try_session().await.unwrap()
    }

    /// The same where the server may refuse it.
    pub async fn try_session(&self) -> sqlx::Result<AnyConnection> {
        sqlx::any::install_default_drivers();
        AnyConnection::connect(&self.url).await
    }

    /// Runs statements.
    pub async fn execute(&self, sql: &str) {
        self.session().await.execute(sqlx::AssertSqlSafe(sql.to_owned())).await.unwrap();
    }

    /// The number that a query says.
    pub async fn count(&self, sql: &str) -> i64 {
        self.try_count(sql).await.unwrap()
    }

    /// Rows of a query as the API would say them.
    pub async fn rows(&self, sql: &str) -> Vec<Value> {
        let rows = self.session().await.fetch_all(sqlx::AssertSqlSafe(sql.to_owned())).await.unwrap();
        let cell = |row: &AnyRow, column: &<sqlx::Any as sqlx::Database>::Column| match column.type_info().kind() {
            AnyTypeInfoKind::Text => row.try_get::<Option<String>, _>(column.ordinal()).map(Value::from),
            AnyTypeInfoKind::Double => row.try_get::<Option<f64>, _>(column.ordinal()).map(Value::from),
            _ => row.try_get::<Option<i64>, _>(column.ordinal()).map(Value::from),
        };
        let object = |row: &AnyRow| {
            let cells = row.columns().iter().map(|column| (column.name().to_owned(), cell(row, column).unwrap()));
            Value::Object(cells.collect())
        };
        rows.iter().map(object).collect()
    }

    /// The same where there may be no such table yet.
    pub async fn try_count(&self, sql: &str) -> sqlx::Result<i64> {
        self.session().await.fetch_one(sqlx::AssertSqlSafe(sql.to_owned())).await?.try_get(0)
    }
}

/// Leave to launch, as the one control program has it.
pub async fn owner(ledger: &Ledger) -> Fence {
    let fence = ledger.acquire_lease("dispatch", "a test", Duration::from_secs(3600)).await.unwrap();
    fence.expect("nobody else launches here")
}
