//! `sendo retry`.

use crate::{
    console::{
        client::{Client, Common},
        exit,
    },
    serve::api::{Done, RetryBody},
};

#[derive(clap::Args)]
pub struct Args {
    /// The job's id
    id: String,
    /// Only if this is still the last attempt: said twice, it runs once
    #[arg(long, value_name = "N")]
    after_attempt: Option<u32>,
    /// Kept with the job, for whoever asks later
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    common: Common,
}

pub async fn run(args: Args) -> anyhow::Result<u8> {
    let body = RetryBody { after_attempt: args.after_attempt, reason: args.reason };
    let done: Done = Client::new(&args.common)?.post(&["v1", "jobs", &args.id, "retry"], &body).await?;
    super::cancel::say(&done, &args.id, args.common.json)?;
    Ok(exit::OK)
}
