//! `sendo serve`.

use crate::serve::{Ready, settings::Settings};
use anyhow::Context as _;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[derive(clap::Args)]
pub struct Args {
    /// Settings (TOML); docs/sendo.example.toml has every key
    #[arg(long, env = "SENDO_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// Address of the API [default: the file's, else 127.0.0.1:8920]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<std::net::SocketAddr>,
}

pub async fn run(args: Args) -> anyhow::Result<u8> {
    let mut settings = Settings::read(&args.config)?;
    settings.listen = args.listen.unwrap_or(settings.listen);
    let ready = Ready::new(&settings).await?;
    tracing::info!(address = %ready.address, "serving");
    until_told(ready).await
}

/// Runs until SIGTERM or SIGINT.
pub async fn until_told(ready: Ready) -> anyhow::Result<u8> {
    // A transfer of the same user must not read the key out of our memory, nor our environment.
    nix::sys::prctl::set_dumpable(false).context("hide our memory")?;
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let mut term = signal(SignalKind::terminate()).context("take SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("take SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        tracing::info!("stopping; running transfers go on, and are found again at the next start");
        stop.cancel();
    });
    ready.run(shutdown).await?;
    Ok(super::super::exit::OK)
}
