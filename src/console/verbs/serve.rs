//! `sendo serve`.

use crate::serve::{
    Ready,
    settings::{self, Settings},
};
use anyhow::Context as _;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What a person has to know who has nothing but the program.
const MANUAL: &str = "\
Settings:
  One TOML file. An empty one is valid: SQLite, and processes of this machine.
  sendo.example.toml, at the root of the repository, has every key with its
  default. A key that is not known is an error. A variable wins over the file,
  a flag over both. The variables are SENDO_ and the key in capitals:
    SENDO_LISTEN SENDO_WORKER_LISTEN SENDO_STATE_DIR SENDO_KEY_FILE
    SENDO_DATABASE_URL SENDO_DATABASE_CONNECTIONS SENDO_MAX_RUNNING
    SENDO_HEARTBEAT SENDO_REPORT_EVERY SENDO_LINGER SENDO_LEASE
  SENDO_DATABASE_URL is the place for a database's password. SENDO_LOG is the
  least level of the messages on stderr: error, warn, info (default), debug,
  trace. AWS_... and KUBECONFIG are read as by AWS's SDK and kubectl.

State:
  database_url  the ledger: all that must not be lost
  key_file      signs for attempts; without it none that runs is believed.
                Keep a copy beside the ledger's backups
  state_dir     [.sendo] a lock, and the attempts of a local cluster; the
                ledger and the key, too, where the two above are not said

Addresses:
  listen         [127.0.0.1:8920] people, schedulers, the verbs; loopback only.
                 /healthz: the program runs. /readyz: the ledger answers
  worker_listen  supervisors, with the token of their attempt. Plain HTTP: TLS
                 is for what stands in front

Signals:
  SIGTERM, SIGINT  take in nothing more, finish what is being written, exit
                   within 10 s. Running transfers go on, and are found again
                   by the next start or by another replica

Exit codes:
  0 told to stop, 1 could not start or broke down (stderr says why), 2 usage

Example:
  echo 'max_running = 4' > sendo.toml
  sendo serve --config sendo.toml
  SENDO_SERVER=http://127.0.0.1:8920 sendo jobs        # in another terminal

docs/operations.md says what to run where, and what to do at night.";

#[derive(clap::Args)]
#[command(after_help = MANUAL)]
pub struct Args {
    /// The settings (TOML)
    #[arg(long, env = "SENDO_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// Address of the API, in place of `listen` [default: 127.0.0.1:8920]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<std::net::SocketAddr>,
}

pub async fn run(args: Args) -> anyhow::Result<u8> {
    let mut settings = Settings::read(&args.config)?;
    settings.listen = args.listen.unwrap_or(settings.listen);
    settings.check().with_context(|| format!("understand {}", args.config.display()))?;
    let ready = Ready::new(&settings).await?;
    let ledger = settings::shown(&settings.database_url(&settings.state_dir));
    tracing::info!(address = %ready.address, ledger, "serving");
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
