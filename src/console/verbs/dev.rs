//! `sendo dev`: everything on a laptop.

use crate::{
    console::client::ADDRESS_FILE,
    record::span::Span,
    serve::{
        Ready,
        settings::{LEASE, LISTEN, Local, Place, Settings},
    },
};
use anyhow::Context as _;
use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

#[derive(clap::Args)]
pub struct Args {
    /// Folder of the ledger, the key and the attempts
    #[arg(long, default_value = ".sendo", value_name = "DIR")]
    dir: PathBuf,
    /// Address of the API [default: the last one in this folder, else 127.0.0.1:8920, else a free port]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// The supervisor [default: the one beside this program, or of `make build`]
    #[arg(long, value_name = "FILE")]
    supervisor: Option<PathBuf>,
    /// Embulk, as `embulk/compose` makes it [default: of `make demo`]
    #[arg(long, value_name = "DIR")]
    embulk: Option<PathBuf>,
    /// How often to read and report what a transfer uses
    #[arg(long, default_value = "1s", value_name = "SPAN")]
    heartbeat: Span,
    /// How long a job with `"fencing": "strict"` may go on while we are away
    #[arg(long, default_value_t = LEASE, value_name = "SPAN")]
    lease: Span,
    /// Transfers at the same time [default: one a core]
    #[arg(long, value_name = "N")]
    max_running: Option<usize>,
}

pub async fn run(args: Args) -> anyhow::Result<u8> {
    let mut settings = Settings {
        state_dir: args.dir.clone(),
        heartbeat: args.heartbeat,
        report_every: args.heartbeat,
        lease: args.lease,
        ..Settings::default()
    };
    settings.max_running = args.max_running.unwrap_or(settings.max_running);
    let mut cluster = Local::default();
    cluster.supervisor = args.supervisor.unwrap_or(cluster.supervisor);
    cluster.tools = args.embulk.map(|dir| dir.join("bin")).or(cluster.tools);
    let has_tools = cluster.tools.is_some();
    settings.cluster = vec![Place::Local(cluster)];
    let address_file = args.dir.join(ADDRESS_FILE);
    settings.listen = args.listen.or_else(|| last_address(&address_file)).unwrap_or_else(free_address);
    let ready = Ready::new(&settings).await?;
    let address = format!("http://{}", ready.address);
    // Supervisors that outlive us know this address: the next start takes it again.
    fs::write(&address_file, &address).with_context(|| format!("write {}", address_file.display()))?;
    eprintln!("sendo dev: {address}, ledger in {}", settings.state_dir.join("ledger.db").display());
    if !has_tools {
        eprintln!(
            "sendo dev: no Embulk found; name one with --embulk DIR (made by embulk/compose DIR), or give jobs a `command`"
        );
    }
    eprintln!("sendo dev: try `sendo submit --server {address} --follow JOB.json`; stop with Ctrl-C, transfers go on");
    super::serve::until_told(ready).await
}

fn last_address(file: &Path) -> Option<SocketAddr> {
    fs::read_to_string(file).ok()?.trim().strip_prefix("http://")?.parse().ok()
}

/// The usual address, or a free one if another program has it.
fn free_address() -> SocketAddr {
    match TcpListener::bind(LISTEN) {
        Ok(_) => LISTEN,
        Err(_) => SocketAddr::new(LISTEN.ip(), 0),
    }
}
