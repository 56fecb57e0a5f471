//! The only file that knows that databases differ.
//!
//! Every statement is written once, in the common part of SQL with `?` for parameters, and passes through here. Columns are texts,
//! 64-bit integers and doubles alone; moments are milliseconds since 1970 (UTC). PostgreSQL and MySQL join by filling
//! in their arms below and switching on their drivers.

use super::Error;
use sqlx::{SqlSafeStr as _, SqlStr};

/// A database that the ledger speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Sqlite,
}

impl Dialect {
    /// By the scheme of the address.
    pub fn of(url: &str) -> Result<Self, Error> {
        match url.split_once(':') {
            Some(("sqlite", _)) => Ok(Self::Sqlite),
            _ => Err(Error::UnknownDatabase(url.split("://").next().unwrap_or_default().into())),
        }
    }

    /// The statement with this database's parameters.
    pub fn sql(self, statement: &'static str) -> SqlStr {
        match self {
            Self::Sqlite => statement.into_sql_str(),
        }
    }

    /// A piece of the schema with this database's types.
    pub fn schema(self, template: &str) -> String {
        let (text, double, table, now_ms) = match self {
            Self::Sqlite => ("TEXT", "DOUBLE", "", "CAST(unixepoch('subsec') * 1000 AS BIGINT)"),
        };
        template
            .replace("{text}", text)
            .replace("{double}", double)
            .replace("{table}", table)
            .replace("{now_ms}", now_ms)
    }

    /// Begins a transaction that will write. SQLite takes its one write lock here and not half-way through, where waiting for it
    /// would be a deadlock.
    pub fn begin(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
        }
    }

    /// Said once on each new connection.
    pub fn greeting(self) -> &'static [&'static str] {
        match self {
            Self::Sqlite => &["PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "PRAGMA busy_timeout = 10000"],
        }
    }

    /// Connections at the most.
    pub fn connections(self) -> u32 {
        match self {
            Self::Sqlite => 4,
        }
    }
}

/// Whether an error's code says that a value is not taken: SQLSTATE classes 22 (data), 23 (constraint) and 54 (limits) of the servers,
/// SQLite's TOOBIG, CONSTRAINT and MISMATCH (<https://sqlite.org/rescode.html>), whose extended codes keep them in the low byte.
pub fn is_of_the_value(code: &str) -> bool {
    match (code.len(), code.parse::<u32>()) {
        (5, _) => ["22", "23", "54"].iter().any(|class| code.starts_with(class)),
        (_, Ok(code)) => matches!(code & 0xff, 18..=20),
        _ => false,
    }
}
