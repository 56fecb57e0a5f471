//! The ledger's promises on each database that it speaks: one suite, run on SQLite, PostgreSQL and MariaDB.

#[macro_use]
pub mod fresh;
mod accept;
mod faults;
mod fences;
mod ingest;
mod lease;
mod migrations;
mod operations;
mod promises;
mod races;
mod retention;
mod texts;
