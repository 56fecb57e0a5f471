//! The statements of docs/operations.md, on every database: a document that nobody runs rots.

use super::fresh::{Fresh, job};
use crate::env::ledgers::Database;

const OPERATIONS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md"));

/// Each statement of the document's blocks of SQL.
fn statements() -> Vec<String> {
    let mut statements = Vec::new();
    let mut rest = OPERATIONS;
    while let Some((_, block)) = rest.split_once("```sql\n") {
        let (block, after) = block.split_once("```").unwrap();
        let code = block.lines().map(|line| line.split_once("--").map_or(line, |(code, _)| code));
        let code = code.collect::<Vec<_>>().join("\n");
        statements.extend(code.split(';').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned));
        rest = after;
    }
    statements
}

/// What stands for NOW_MS on this database, by the document's own table.
fn now_ms(database: Database) -> &'static str {
    let name = match database {
        Database::Sqlite => "SQLite",
        Database::Postgresql => "PostgreSQL",
        Database::Mariadb => "MySQL, MariaDB",
    };
    let (_, table) = OPERATIONS.split_once("| NOW_MS |").unwrap();
    let row = table.lines().find_map(|line| line.strip_prefix(&format!("| {name} | `"))).unwrap();
    row.split('`').next().unwrap()
}

on_each_database! {
    /// They share one syntax, so that nobody has to choose at night.
    async fn the_statements_of_the_operations_manual_run(fresh: Fresh) {
        fresh.executing(&job("orders", false)).await;
        let now_ms = now_ms(fresh.place.database);
        let drift = fresh.place.count(&format!("SELECT {now_ms}")).await - sendo::ledger::now().0;
        assert!(drift.abs() < 60_000, "{now_ms} is off by {drift} ms");
        let statements = statements();
        assert!(statements.len() >= 10, "{}", statements.len());
        for statement in statements {
            let mut statement = statement.replace("NOW_MS", now_ms);
            if statement.starts_with("SELECT") {
                // Averages are of types that the tests' driver cannot read.
                statement = format!("SELECT COUNT(*) FROM ({statement}) AS found");
            }
            let mut session = fresh.place.session().await;
            let run = sqlx::Executor::execute(&mut session, sqlx::AssertSqlSafe(statement.clone())).await;
            run.unwrap_or_else(|why| panic!("{why}: {statement}"));
        }
    }
}
