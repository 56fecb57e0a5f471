//! `sendo cancel`.

use crate::{
    console::{
        client::{Client, Common},
        exit, format,
    },
    serve::api::{CancelBody, Done},
};

#[derive(clap::Args)]
pub struct Args {
    /// The job's id
    id: String,
    /// Kept with the job, for whoever asks later
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    common: Common,
}

pub async fn run(args: Args) -> anyhow::Result<u8> {
    let body = CancelBody { reason: args.reason };
    let done: Done = Client::new(&args.common)?.post(&["v1", "jobs", &args.id, "cancel"], &body).await?;
    say(&done, &args.id, args.common.json)?;
    Ok(exit::OK)
}

/// What became of a request.
pub fn say(done: &Done, id: &str, json: bool) -> anyhow::Result<()> {
    if json { format::json(done) } else { format::out(&format!("{id} {}: {}\n", done.result, done.detail)) }
}
