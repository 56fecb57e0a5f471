//! `sendo submit`.

use crate::{
    console::{
        client::{Client, Common},
        exit, follow, format,
    },
    intake::{
        http::Taken,
        message, schema,
        sqs::{
            client::Queue,
            send::{self, Letter},
            settings::Settings,
        },
    },
};
use anyhow::{Context as _, bail};
use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

#[derive(clap::Args)]
pub struct Args {
    /// The jobs as JSON, a file each; - for stdin
    #[arg(required_unless_present = "schema")]
    files: Vec<PathBuf>,
    /// Watch the job to its end; its end is the exit code
    #[arg(long, conflicts_with = "queue")]
    follow: bool,
    /// Send to this queue of SQS instead of the server; region and credentials are the AWS SDK's
    #[arg(long, value_name = "URL")]
    queue: Option<String>,
    /// Print the JSON Schema of a job, for editors and programs; hand in nothing
    #[arg(long, conflicts_with_all = ["files", "follow", "queue"])]
    schema: bool,
    #[command(flatten)]
    common: Common,
}

pub async fn run(args: Args) -> anyhow::Result<u8> {
    if args.schema {
        format::json(&schema::job())?;
        return Ok(exit::OK);
    }
    if let Some(url) = &args.queue {
        return send(url, &args.files, args.common.json).await;
    }
    let client = Client::new(&args.common)?;
    if let ([file], true) = (args.files.as_slice(), args.follow) {
        return followed(&client, &take(&client, file).await?, args.common.json).await;
    }
    if args.follow {
        bail!("--follow watches one job; there are {} files", args.files.len());
    }
    for file in &args.files {
        let taken = take(&client, file).await?;
        if args.common.json {
            format::json(&taken)?;
        } else {
            format::out(&format!("{}\n", taken.id))?;
        }
    }
    Ok(exit::OK)
}

async fn take(client: &Client, file: &Path) -> anyhow::Result<Taken> {
    let taken: Taken = client.post_text(&["v1", "jobs"], read(file)?).await?;
    if taken.known {
        eprintln!("sendo: {} was submitted before, with the same content; it is the same job", taken.id);
    }
    Ok(taken)
}

async fn followed(client: &Client, taken: &Taken, json: bool) -> anyhow::Result<u8> {
    let job = follow::follow(client, &taken.id).await?;
    if json {
        format::json(&job)?;
    } else {
        format::out(&format!("{} {}\n", job.summary.id, job.summary.phase))?;
    }
    if let Some(verdict) = follow::verdict(&job) {
        eprint!("{verdict}");
    }
    Ok(follow::exit_code(&job))
}

/// All of them are checked before the first is sent.
async fn send(url: &str, files: &[PathBuf], json: bool) -> anyhow::Result<u8> {
    let letters = files.iter().map(|file| letter(file)).collect::<anyhow::Result<Vec<_>>>()?;
    let queue = Queue::open(&Settings::of(url)).await?;
    let sent = send::send(&queue, &letters).await?;
    if json {
        format::json(&sent)?;
    }
    for sent in &sent {
        match &sent.error {
            Some(why) => eprintln!("sendo: {} is not sent: {why}", sent.id),
            None if !json => format::out(&format!("{}\n", sent.id))?,
            None => {}
        }
    }
    Ok(if sent.iter().all(|sent| sent.error.is_none()) { exit::OK } else { exit::ERROR })
}

fn letter(file: &Path) -> anyhow::Result<Letter> {
    let body = read(file)?;
    let checked = message::check(&body);
    let checked = checked.map_err(|refusal| anyhow::anyhow!("{}: the job is refused: {refusal}", file.display()))?;
    let body = String::from_utf8(body).with_context(|| format!("{} is not UTF-8", file.display()))?;
    Ok(Letter { checked, body })
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    if file.as_os_str() == "-" {
        let mut body = Vec::new();
        std::io::stdin().read_to_end(&mut body).context("read the job from stdin")?;
        return Ok(body);
    }
    std::fs::read(file).with_context(|| format!("read {}", file.display()))
}
