//! The programs as people run them: real processes, a real Embulk, real databases. `make test` makes ready what they need.
//!
//! One file a subject; `env` starts the surroundings, `programs` holds children that misbehave on purpose.

mod env;

mod admission;
mod artifact;
mod attempt;
mod bad_input;
mod connections;
mod container;
mod databases;
mod embulk;
mod fencing;
mod guest;
mod init;
mod kubernetes;
mod kubernetes_env;
mod ledger;
mod lifecycle;
mod reports;
mod schema;
mod servers;
mod sqs;
