//! Sendo runs bulk-data transfers (Embulk) on Kubernetes, one Pod a job.
//!
//! Two programs come out of these rooms. `sendo-supervisor` is PID 1 of every worker Pod: [`record`], [`telemetry`],
//! [`supervisor`]. `sendo` is everything else, behind the one feature `control`.

/// The words that both programs speak: jobs, phases, outcomes, readings, and the wire between worker and ledger. No I/O.
pub mod record;

/// Inside the Pod: launches the transfer, reaps, forwards signals, drains, reports, leaves evidence.
#[cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::unreachable)
)]
pub mod supervisor;

/// Messages and the panic hook.
pub mod telemetry;
