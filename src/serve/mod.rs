//! The control program at work: assembles the rooms and runs them until it is told to stop.
//!
//! ```text
//!   POST /v1/jobs ──> intake ──> ledger <── dispatch ──> cluster
//!   /v1/grants, /v1/records ──────^  │                      │
//!        ^                           └──> api, console      v
//!        └──────────────────────────────────────────── supervisors
//! ```

pub mod api;
pub mod settings;
mod workers;

use crate::{
    cluster::{Cluster, key::Key, local},
    dispatch::{Dispatcher, admit::Limits, retry},
    intake,
    ledger::Ledger,
};
use anyhow::Context as _;
use axum::Router;
use settings::Settings;
use std::{
    fs::{self, OpenOptions, TryLockError},
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
};

/// Requests under way may take so long at the end.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

/// What the handlers share.
pub struct Service {
    pub ledger: Ledger,
    pub key: Arc<Key>,
    pub cluster: Arc<dyn Cluster>,
    pub wake: Arc<Notify>,
    pub report_every_ms: u64,
}

/// A control program that has everything it needs, and only has to run.
pub struct Ready {
    service: Arc<Service>,
    dispatcher: Dispatcher,
    listener: TcpListener,
    worker_listener: Option<TcpListener>,
    /// Held as long as we live: one control program on one folder.
    _lock: fs::File,
    pub address: SocketAddr,
}

impl Ready {
    /// Checks and opens everything; nothing runs yet.
    pub async fn new(settings: &Settings) -> anyhow::Result<Self> {
        settings.check()?;
        let given = &settings.state_dir;
        let made =
            fs::DirBuilder::new().recursive(true).mode(0o700).create(given).and_then(|()| fs::canonicalize(given));
        let dir = made.with_context(|| format!("create {}; choose a folder that you may write to", given.display()))?;
        let lock = take_lock(&dir.join("lock"))?;
        let listener = listen(settings.listen).await?;
        let worker_listener = match settings.worker_listen {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let address = listener.local_addr().context("ask for our own address")?;
        let workers = worker_listener.as_ref().unwrap_or(&listener).local_addr().context("ask for our own address")?;
        let url = settings.database_url(&dir);
        let ledger = Ledger::open(&url, retry::next_step).await.with_context(|| format!("open the ledger {url}"))?;
        let key = Arc::new(Key::load_or_create(&dir.join("key"))?);
        let wake = Arc::new(Notify::new());
        let cluster = &settings.cluster;
        let cluster: Arc<dyn Cluster> = Arc::new(local::Local::new(
            local::Settings {
                name: cluster.name.clone(),
                dir,
                supervisor: std::path::absolute(&cluster.supervisor).context("find the supervisor")?,
                tools: cluster.tools.as_ref().map(std::path::absolute).transpose().context("find Embulk")?,
                ledger_url: format!("http://{workers}/"),
                heartbeat: settings.heartbeat.0,
                linger: settings.linger.0,
            },
            Arc::clone(&key),
            Arc::clone(&wake),
        )?);
        let dispatcher = Dispatcher {
            ledger: ledger.clone(),
            cluster: Arc::clone(&cluster),
            key: Arc::clone(&key),
            limits: Limits { max_running: settings.max_running },
            wake: Arc::clone(&wake),
        };
        let report_every_ms = u64::try_from(settings.report_every.0.as_millis()).unwrap_or(u64::MAX);
        let service = Arc::new(Service { ledger, key, cluster, wake, report_every_ms });
        Ok(Self { service, dispatcher, listener, worker_listener, _lock: lock, address })
    }

    /// Serves until `shutdown` says so. Running transfers are left running.
    pub async fn run(self, shutdown: watch::Receiver<bool>) -> anyhow::Result<()> {
        let door = intake::http::Door { ledger: self.service.ledger.clone(), wake: Arc::clone(&self.service.wake) };
        let people = api::routes().with_state(Arc::clone(&self.service)).merge(intake::http::routes(door));
        let (people, workers) = match self.worker_listener {
            Some(listener) => (people, Some((listener, workers::routes().with_state(Arc::clone(&self.service))))),
            None => (people.merge(workers::routes().with_state(Arc::clone(&self.service))), None),
        };
        let dispatch = tokio::spawn(self.dispatcher.run(shutdown.clone()));
        let people = tokio::spawn(serve(self.listener, people, shutdown.clone()));
        if let Some((listener, routes)) = workers {
            serve(listener, routes, shutdown).await?;
        }
        people.await.context("serve")??;
        dispatch.await.context("dispatch")?;
        self.service.ledger.close().await;
        Ok(())
    }
}

async fn serve(listener: TcpListener, routes: Router, shutdown: watch::Receiver<bool>) -> anyhow::Result<()> {
    let stopped = |mut shutdown: watch::Receiver<bool>| async move {
        // An error means that the sender is gone: that is a shutdown too.
        let _ = shutdown.wait_for(|stop| *stop).await;
    };
    let serving = axum::serve(listener, routes).with_graceful_shutdown(stopped(shutdown.clone()));
    let late = async {
        stopped(shutdown).await;
        tokio::time::sleep(LAST_REQUESTS).await;
    };
    tokio::select! {
        served = serving.into_future() => served.context("serve HTTP"),
        () = late => Ok(()),
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "listen on {address}; if another program has that port, stop it or choose another address with --listen"
        )
    })
}

fn take_lock(file: &Path) -> anyhow::Result<fs::File> {
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(file);
    let mut lock =
        opened.with_context(|| format!("write {}; choose a folder that you may write to", file.display()))?;
    match lock.try_lock() {
        Ok(()) => {
            lock.set_len(0)
                .and_then(|()| write!(lock, "{}", std::process::id()))
                .with_context(|| format!("write {}", file.display()))?;
            Ok(lock)
        }
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            lock.read_to_string(&mut pid).with_context(|| format!("read {}", file.display()))?;
            let folder = file.parent().unwrap_or(file).display();
            anyhow::bail!(
                "another sendo (pid {pid}) has the ledger in {folder}; use that one, stop it, or choose another folder"
            );
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", file.display())),
    }
}
