//! The only file that knows that databases differ.
//!
//! Every statement is written once, in the common part of SQL with `?` for parameters, and passes through here. Columns are texts,
//! 64-bit integers and doubles alone; moments are milliseconds since 1970 (UTC). Where databases have different words for one thing, the
//! statement has the word in braces, and [`Dialect::word`] has what each database says. Texts compare bytewise everywhere.

use super::Error;
use sqlx::{SqlSafeStr as _, SqlStr, mysql::MySqlDatabaseError};
use std::{
    collections::HashMap,
    sync::{LazyLock, RwLock},
};

/// A database that the ledger speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    Sqlite,
    Postgres,
    MySql,
    /// MySQL's protocol, and other names for its collations.
    MariaDb,
}

/// What a database's error says about the transaction that met it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Another transaction was in the way, and this one was rolled back.
    Conflict,
    /// The connection is of no use any more: lost, or to a server that has become read-only, or with plans for tables that have changed since.
    Connection,
    /// It has no room for us at the moment.
    Crowded,
    /// No space left.
    DiskFull,
    Other,
}

/// A statement of the program: whose, and where it stands.
type Place = (Dialect, usize, usize);

/// Statements as a database wants them: made once.
static STATEMENTS: LazyLock<RwLock<HashMap<Place, &'static str>>> = LazyLock::new(RwLock::default);

impl Dialect {
    /// By the scheme of the address. MySQL and MariaDB share theirs: see [`Dialect::refine`].
    pub fn of(url: &str) -> Result<Self, Error> {
        match url.split_once(':') {
            Some(("sqlite", _)) => Ok(Self::Sqlite),
            Some(("postgres" | "postgresql", _)) => Ok(Self::Postgres),
            Some(("mysql" | "mariadb", _)) => Ok(Self::MySql),
            // Whatever stands behind the scheme may be a password.
            _ => Err(Error::UnknownDatabase(url.split(':').next().unwrap_or_default().into())),
        }
    }

    /// Asks the server which of the two it is.
    pub const WHICH_MYSQL: &'static str = "SELECT CAST(VERSION() AS CHAR)";

    /// By the answer to [`Dialect::WHICH_MYSQL`].
    pub fn refine(self, version: &str) -> Self {
        if self == Self::MySql && version.contains("MariaDB") { Self::MariaDb } else { self }
    }

    /// Whether there is a server, which other control programs may use at the same time.
    pub fn is_server(self) -> bool {
        self != Self::Sqlite
    }

    /// The statement with this database's words and parameters.
    pub fn sql(self, statement: &'static str) -> SqlStr {
        let place = (self, statement.as_ptr() as usize, statement.len());
        if let Some(known) = STATEMENTS.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(&place) {
            return known.into_sql_str();
        }
        let mut statements = STATEMENTS.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Leaked on purpose: as many as there are statements in the program.
        statements.entry(place).or_insert_with(|| self.render(statement).leak()).into_sql_str()
    }

    /// A piece of the schema with this database's types.
    pub fn schema(self, template: &str) -> String {
        let template = match self {
            // SQLite compares bytewise, and MySQL's tables say it for all their columns.
            Self::Postgres => collated(template),
            _ => template.to_owned(),
        };
        self.words(&template)
    }

    /// The statement with words and parameters, made now: for those that are put together by the program.
    pub fn render(self, statement: &str) -> String {
        let statement = self.words(statement);
        if self != Self::Postgres {
            return statement;
        }
        let mut numbered = String::with_capacity(statement.len() + 64);
        let (mut count, mut quoted) = (0, false);
        for letter in statement.chars() {
            quoted ^= letter == '\'';
            if letter == '?' && !quoted {
                count += 1;
                numbered.push('$');
                numbered.push_str(&count.to_string());
            } else {
                numbered.push(letter);
            }
        }
        numbered
    }

    fn words(self, template: &str) -> String {
        let mut done = String::with_capacity(template.len());
        let mut rest = template;
        while let Some((before, (word, after))) =
            rest.split_once('{').and_then(|(before, after)| Some((before, after.split_once('}')?)))
        {
            done.push_str(before);
            done.push_str(self.word(word));
            rest = after;
        }
        done + rest
    }

    /// What this database says for a word in braces.
    fn word(self, word: &str) -> &'static str {
        use Dialect::{MariaDb, MySql, Postgres, Sqlite};
        match (word, self) {
            // Types and tables.
            ("text", Sqlite) => "TEXT",
            ("text", Postgres) => "TEXT COLLATE \"C\"",
            ("text", MySql | MariaDb) => "LONGTEXT",
            ("double", Sqlite | MySql | MariaDb) => "DOUBLE",
            ("double", Postgres) => "DOUBLE PRECISION",
            // sqlx's `Any` cannot read PostgreSQL's CHAR.
            ("digest", Postgres) => "VARCHAR(64) COLLATE \"C\"",
            ("digest", _) => "CHAR(64)",
            ("table", Sqlite | Postgres) => "",
            // Room for updates in place: each report touches its attempt's row.
            ("busy_table", Postgres) => " WITH (fillfactor = 70)",
            ("busy_table", Sqlite) => "",
            // The collations that compare bytes *and* see a space at the end.
            ("table" | "busy_table", MySql) => " ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_0900_bin",
            ("table" | "busy_table", MariaDb) => {
                " ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_nopad_bin"
            }
            // The database's clock. SQLite's fractions come as a double: the views' way was published before that was seen.
            ("now_ms", Sqlite) => "CAST(unixepoch('subsec') * 1000 AS BIGINT)",
            ("clock", Sqlite) => "CAST(ROUND(unixepoch('subsec') * 1000) AS BIGINT)",
            ("now_ms" | "clock", Postgres) => "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
            ("now_ms" | "clock", MySql | MariaDb) => {
                "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000)"
            }
            // Division of integers.
            ("div", MySql | MariaDb) => "DIV",
            ("div", _) => "/",
            // `{insert} INTO … {once}` passes over what its key knows already.
            ("insert", MySql | MariaDb) => "INSERT IGNORE",
            ("insert", _) => "INSERT",
            ("once", MySql | MariaDb) => "",
            ("once", _) => "ON CONFLICT DO NOTHING",
            // Row locks; SQLite's writer has the whole file.
            ("for_update" | "for_share", Sqlite) => "",
            ("for_update", _) => " FOR UPDATE",
            ("for_update_free", Sqlite) => "",
            ("for_update_free", _) => " FOR UPDATE SKIP LOCKED",
            ("for_share", Postgres) => " FOR SHARE",
            ("for_share", MySql | MariaDb) => " LOCK IN SHARE MODE",
            // A double as a parameter: see `double`.
            ("f64", Postgres) => "CAST(? AS DOUBLE PRECISION)",
            ("f64", _) => "?",
            _ => panic!("no database knows the word {word}"),
        }
    }

    /// Binds a double to `{f64}`. On PostgreSQL it goes as a text, the shortest that reads back as the same double: sqlx's `Any` says FLOAT4 for
    /// one that is absent, and a prepared statement keeps the types that it met first.
    pub fn double<'q>(self, query: super::Statement<'q>, value: Option<f64>) -> super::Statement<'q> {
        match self {
            Self::Postgres => query.bind(value.map(|value| value.to_string())),
            _ => query.bind(value),
        }
    }

    /// Begins a transaction that will write. SQLite takes its one write lock here and not half-way through, where waiting for it
    /// would be a deadlock.
    pub fn begin(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            _ => "BEGIN",
        }
    }

    /// Said once on each new connection: what a server's owner may have set otherwise and our statements count on, and limits, so that no
    /// transaction of ours waits, or holds others up, for ever: a program whose machine died says nothing, and its locks must not outlast a lease.
    pub fn greeting(self) -> &'static [&'static str] {
        match self {
            Self::Sqlite => &["PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "PRAGMA busy_timeout = 10000"],
            // Plans are made for the tables as they are: one that was cached for an empty ledger reads every row of a full one, until somebody
            // happens to analyze the table. A plan costs less than half a millisecond, and most are for dozens of jobs.
            Self::Postgres => {
                &["SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED; SET TIME ZONE 'UTC'; \
                 SET lock_timeout = '10s'; SET statement_timeout = '60s'; SET idle_in_transaction_session_timeout = '10s'; \
                 SET plan_cache_mode = force_custom_plan"]
            }
            Self::MariaDb => &[Self::MYSQL[0], Self::MYSQL[1], "SET SESSION idle_transaction_timeout = 10"],
            // It knows no limit for idle transactions alone; an idle connection is made anew.
            Self::MySql => &[Self::MYSQL[0], Self::MYSQL[1], "SET SESSION wait_timeout = 30"],
        }
    }

    /// What both say.
    const MYSQL: [&str; 2] = [
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "SET SESSION innodb_lock_wait_timeout = 10, time_zone = '+00:00', \
         sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'",
    ];

    /// Connections at the most, where nobody says anything.
    pub fn connections(self) -> u32 {
        match self {
            Self::Sqlite => 4,
            _ => 16,
        }
    }

    /// Said before and behind the migrations' lock: whoever is before us in its queue takes as long as a long ledger's index does; but a step that waits for a
    /// table keeps everybody else from it.
    pub fn migration_patience(self) -> [Option<&'static str>; 2] {
        match self {
            Self::Postgres => {
                [Some("SET statement_timeout = 0; SET lock_timeout = '60s'"), Some("SET lock_timeout = '3s'")]
            }
            Self::Sqlite | Self::MySql | Self::MariaDb => [None, None],
        }
    }

    /// Keeps other control programs from the tables' steps until the session ends: one row with 1.
    pub fn migration_lock(self) -> Option<&'static str> {
        match self {
            // The file's write lock is taken by the transaction.
            Self::Sqlite => None,
            Self::Postgres => Some("SELECT CAST(1 AS BIGINT) FROM (SELECT pg_advisory_lock(7236837)) AS taken"),
            // The name is the server's; an endless wait (-1) is refused by MariaDB.
            Self::MySql | Self::MariaDb => {
                Some("SELECT CAST(GET_LOCK(CONCAT('sendo.', MD5(DATABASE())), 60) AS SIGNED)")
            }
        }
    }

    /// Gives the lock back; where there is none, the steps are one transaction.
    pub fn migration_unlock(self) -> Option<&'static str> {
        match self {
            Self::Sqlite => None,
            Self::Postgres => Some("SELECT pg_advisory_unlock(7236837)"),
            Self::MySql | Self::MariaDb => Some("DO RELEASE_LOCK(CONCAT('sendo.', MD5(DATABASE())))"),
        }
    }

    /// Whether rows are locked one by one: SQLite's writer has the whole file.
    pub fn locks_rows(self) -> bool {
        self != Self::Sqlite
    }

    /// Whether changes of tables belong to a transaction. Where they do not, each is whole by itself, and may be done without being recorded.
    pub fn has_transactional_schema(self) -> bool {
        matches!(self, Self::Sqlite | Self::Postgres)
    }

    /// Whether a change of the tables was refused because it is there already.
    pub fn is_done_already(error: &sqlx::Error) -> bool {
        // A table or view, a column, an index, a row.
        mysql_number(error).is_some_and(|number| matches!(number, 1050 | 1060 | 1061 | 1062))
    }
}

/// What an error says, by the codes of the database that it came from.
pub fn fault(error: &sqlx::Error) -> Fault {
    let sqlx::Error::Database(database) = error else {
        return match error {
            sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => Fault::Connection,
            sqlx::Error::PoolTimedOut => Fault::Crowded,
            _ => Fault::Other,
        };
    };
    if let Some(number) = mysql_number(error) {
        // <https://mariadb.com/kb/en/mariadb-error-code-reference/>
        return match number {
            1205 | 1213 | 1020 => Fault::Conflict,
            1053 | 1077 | 1079 | 1290 | 1792 | 1836 | 1927 | 3169 | 4031 => Fault::Connection,
            1040 | 1203 | 1226 => Fault::Crowded,
            1021 | 1114 => Fault::DiskFull,
            _ => Fault::Other,
        };
    }
    match database.code().as_deref() {
        // SQLite (<https://sqlite.org/rescode.html>).
        Some("13") => Fault::DiskFull,
        // PostgreSQL (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
        Some("40001" | "40P01" | "55P03") => Fault::Conflict,
        Some("25006" | "25P03" | "57P01" | "57P02" | "57P03" | "57P05") => Fault::Connection,
        // "cached plan must not change result type": a newer release has widened a table under our statements.
        Some("0A000") if database.message().contains("cached plan") => Fault::Connection,
        Some(code) if code.len() == 5 && code.starts_with("08") => Fault::Connection,
        Some("53300") => Fault::Crowded,
        Some("53100") => Fault::DiskFull,
        _ => Fault::Other,
    }
}

fn mysql_number(error: &sqlx::Error) -> Option<u16> {
    Some(error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>()?.number())
}

/// Every `VARCHAR(n)` with the collation of bytes, whatever the database's own is.
fn collated(template: &str) -> String {
    let mut pieces = template.split("VARCHAR(");
    let mut done = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (length, rest) = piece.split_once(')').unwrap_or((piece, ""));
        done.push_str(&format!("VARCHAR({length}) COLLATE \"C\"{rest}"));
    }
    done
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_database_gets_its_own_words_and_places() {
        let text = "{insert} INTO t (a, b) VALUES (?, 'what?') {once}";
        assert_eq!(Dialect::Postgres.render(text), "INSERT INTO t (a, b) VALUES ($1, 'what?') ON CONFLICT DO NOTHING");
        assert_eq!(Dialect::MariaDb.render(text), "INSERT IGNORE INTO t (a, b) VALUES (?, 'what?') ");
        let column = Dialect::Postgres.schema("id VARCHAR(128) NOT NULL, spec {text}");
        assert_eq!(column, "id VARCHAR(128) COLLATE \"C\" NOT NULL, spec TEXT COLLATE \"C\"");
    }

    #[test]
    fn an_address_that_is_not_understood_is_not_shown() {
        let error = Dialect::of("oracle:sendo/secret@host").unwrap_err().to_string();
        assert!(error.contains("oracle") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn the_two_mysqls_are_told_apart() {
        assert_eq!(Dialect::MySql.refine("10.11.6-MariaDB-0+deb12u1"), Dialect::MariaDb);
        assert_eq!(Dialect::MySql.refine("8.4.0"), Dialect::MySql);
    }
}
