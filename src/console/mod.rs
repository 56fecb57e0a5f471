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

/// Runs bulk-data transfers (Embulk), one Pod a job.
#[derive(Parser)]
#[command(
    name = "sendo",
    version,
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 ok, 1 error, 2 usage, 3 cancelled, 4 not allowed, 5 the job failed."
)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Take in jobs, run them, keep the ledger.
    Serve(verbs::serve::Args),
    /// The same on a laptop: SQLite and local processes, no cluster.
    Dev(verbs::dev::Args),
    /// Ask for jobs: files, or - for stdin; of the server, or by a queue.
    Submit(verbs::submit::Args),
    /// List jobs, newest first.
    Jobs(verbs::jobs::Args),
    /// Show one job: verdict, timeline, attempts.
    Show(verbs::show::Args),
    /// Show what an attempt used over time.
    Heartbeats(verbs::heartbeats::Args),
    /// Print an attempt's output.
    Logs(verbs::logs::Args),
    /// Cancel a job.
    Cancel(verbs::cancel::Args),
    /// Try a job again.
    Retry(verbs::retry::Args),
    /// Say that nothing of an attempt runs any more, where the cluster cannot tell. Its job goes on: only say what you have made sure of.
    ConfirmDead(verbs::confirm_dead::Args),
    /// Look into a dead-letter queue, and send its messages back.
    Dlq(verbs::dlq::Args),
    /// Let a tenant's or a definition's jobs wait; or list what is paused.
    Pause(verbs::pause::Args),
    /// Let them go on.
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
