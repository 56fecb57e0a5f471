//! `sendo submit`.

use crate::{
    console::{
        client::{Client, Common},
        follow, format,
    },
    intake::http::Taken,
};
use anyhow::Context as _;
use std::{io::Read as _, path::PathBuf};

#[derive(clap::Args)]
pub struct Args {
    /// The job as JSON, - for stdin
    file: PathBuf,
    /// Watch it to its end
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    common: Common,
}

pub async fn run(args: Args) -> anyhow::Result<u8> {
    let client = Client::new(&args.common)?;
    let mut body = Vec::new();
    if args.file.as_os_str() == "-" {
        std::io::stdin().read_to_end(&mut body).context("read the job from stdin")?;
    } else {
        body = std::fs::read(&args.file).with_context(|| format!("read {}", args.file.display()))?;
    }
    let taken: Taken = client.post_text(&["v1", "jobs"], body).await?;
    if taken.known {
        eprintln!("sendo: {} was submitted before, with the same content; it is the same job", taken.id);
    }
    if !args.follow {
        if args.common.json {
            format::json(&taken)?;
        } else {
            format::out(&format!("{}\n", taken.id))?;
        }
        return Ok(crate::console::exit::OK);
    }
    let job = follow::follow(&client, &taken.id).await?;
    if args.common.json {
        format::json(&job)?;
    } else {
        format::out(&format!("{} {}\n", job.summary.id, job.summary.phase))?;
    }
    if let Some(verdict) = follow::verdict(&job) {
        eprint!("{verdict}");
    }
    Ok(follow::exit_code(&job))
}
