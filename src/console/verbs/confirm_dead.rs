//! `sendo confirm-dead`.

use crate::{
    console::{
        client::{Client, Common},
        exit,
    },
    serve::api::{ConfirmDeadBody, Done},
};

#[derive(clap::Args)]
pub struct Args {
    /// The job's id
    id: String,
    /// The attempt that you have looked at
    #[arg(long, value_name = "N")]
    attempt: u32,
    /// How you know: "node-7 is switched off"; kept with its verdict
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    common: Common,
}

pub async fn run(args: Args) -> anyhow::Result<u8> {
    let body = ConfirmDeadBody { attempt: args.attempt, reason: args.reason };
    let done: Done = Client::new(&args.common)?.post(&["v1", "jobs", &args.id, "confirm-dead"], &body).await?;
    super::cancel::say(&done, &args.id, args.common.json)?;
    Ok(exit::OK)
}
