//! Sendo runs bulk-data transfers (Embulk) on Kubernetes, one Pod a job.
//!
//! Two programs come out of these rooms. `sendo-supervisor` is PID 1 of every worker Pod: [`record`], [`telemetry`],
//! [`supervisor`]. `sendo` is everything else, behind the one feature `control`.
//!
//! What is built without that feature is PID 1, and must not panic: `make lint` checks it so.
#![cfg_attr(
    not(feature = "control"),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::unreachable)
)]

/// The words that both programs speak: jobs, phases, outcomes, readings, and the wire between worker and ledger. No I/O.
pub mod record;

/// Inside the Pod: launches the transfer, reaps, forwards signals, drains, reports, leaves evidence.
pub mod supervisor;

/// Messages and the panic hook.
pub mod telemetry;

/// The truth: a SQL database with every job, attempt, transition and reading.
#[cfg(feature = "control")]
pub mod ledger;

/// Where attempts run: one trait, the `local` cluster of detached processes, and Kubernetes with a Pod an attempt.
#[cfg(feature = "control")]
pub mod cluster;

/// From the queue to attempts and back to their ends: admit, launch, reconcile.
#[cfg(feature = "control")]
pub mod dispatch;

/// Errors of the HTTP doors as problem details.
#[cfg(feature = "control")]
pub mod problem;

/// How jobs come in: parsed, checked, accepted once.
#[cfg(feature = "control")]
pub mod intake;

/// The control program at work: HTTP, and the stages behind it.
#[cfg(feature = "control")]
pub mod serve;

/// What a person types and reads.
#[cfg(feature = "control")]
pub mod console;
