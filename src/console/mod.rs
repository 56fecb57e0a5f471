//! What a person types: `sendo VERB`. Data on stdout, messages on stderr; a table by default, `--json` for programs.

mod client;
mod follow;
mod format;
mod plot;
mod verbs;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Exit codes of the verbs; clap takes 2 for bad usage.
pub mod exit {
    pub const OK: u8 = 0;
    pub const ERROR: u8 = 1;
    pub const CANCELLED: u8 = 3;
    pub const NOT_ALLOWED: u8 = 4;
    pub const JOB_FAILED: u8 = 5;
}

const MANUAL: &str = "\
A job is one transfer, asked for by a file of JSON (`sendo submit --schema`
prints its schema). An attempt is one try of it, in a Pod or process of its
own. A job is queued, setting_up, executing or
stopping, and ends succeeded, failed, cancelled or rejected. One that is held
waits for an answer: `sendo show` has the question, `sendo retry` and
`sendo cancel` are the answers.

On a laptop:
  sendo dev                         in one terminal
  sendo submit --follow job.json    in another, in the same folder
Against a `sendo serve`:
  export SENDO_SERVER=http://127.0.0.1:8920, and the same verbs

Exit codes:
  0 ok, 1 error, 2 usage, 4 not allowed; of `submit --follow` also 3 the job
  was cancelled, 5 it failed, was rejected or is held";

/// Runs bulk-data transfers (Embulk), one Pod a job.
#[derive(Parser)]
#[command(
    name = "sendo",
    version,
    disable_help_subcommand = true,
    after_help = MANUAL
)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the service: take in jobs, run them, keep the ledger.
    Serve(verbs::serve::Args),
    /// Run the service on a laptop: SQLite and local processes, no settings, no cluster.
    Dev(verbs::dev::Args),
    /// Hand in jobs: to the server, or through a queue of SQS.
    Submit(verbs::submit::Args),
    /// List jobs, newest first.
    Jobs(verbs::jobs::Args),
    /// Show one job: why it waits or how it ended, its timeline, its attempts.
    Show(verbs::show::Args),
    /// Show what an attempt used over time: memory, CPU, rows.
    Heartbeats(verbs::heartbeats::Args),
    /// Print an attempt's output (local cluster; for a Pod, `kubectl logs`).
    Logs(verbs::logs::Args),
    /// Cancel a job, whatever it is doing.
    Cancel(verbs::cancel::Args),
    /// Queue a job again that has failed, was cancelled or rejected, or is held.
    Retry(verbs::retry::Args),
    /// Say that nothing of an attempt runs any more, where the cluster cannot tell. Its job goes on: only say what you have made sure of.
    ConfirmDead(verbs::confirm_dead::Args),
    /// Look into a dead-letter queue, and send its messages back.
    Dlq(verbs::dlq::Args),
    /// Let the jobs of a tenant, of a definition, or all of them wait; without arguments, list what is paused.
    Pause(verbs::pause::Args),
    /// Let what was paused go on.
    Resume(verbs::pause::ResumeArgs),
}

/// The program.
pub async fn run(cli: Cli) -> ExitCode {
    let done = match cli.verb {
        Verb::Serve(args) => verbs::serve::run(args).await,
        Verb::Dev(args) => verbs::dev::run(args).await,
        Verb::Submit(args) => verbs::submit::run(args).await,
        Verb::Jobs(args) => verbs::jobs::run(args).await,
        Verb::Show(args) => verbs::show::run(args).await,
        Verb::Heartbeats(args) => verbs::heartbeats::run(args).await,
        Verb::Logs(args) => verbs::logs::run(args).await,
        Verb::Cancel(args) => verbs::cancel::run(args).await,
        Verb::Retry(args) => verbs::retry::run(args).await,
        Verb::ConfirmDead(args) => verbs::confirm_dead::run(args).await,
        Verb::Dlq(args) => verbs::dlq::run(args).await,
        Verb::Pause(args) => verbs::pause::run(args).await,
        Verb::Resume(args) => verbs::pause::resume(args).await,
    };
    match done {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("sendo: {error:#}");
            let not_allowed = error.downcast_ref::<client::NotAllowed>().is_some();
            if not_allowed { exit::NOT_ALLOWED.into() } else { exit::ERROR.into() }
        }
    }
}
