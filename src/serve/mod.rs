//! The control program at work: assembles the rooms and runs them until it is told to stop.
//!
//! ```text
//!   SQS, POST /v1/jobs ──> intake ──> ledger <── dispatch ──> cluster
//!   /v1/grants, /v1/records ───────────^  │                      │
//!        ^                                └──> api, console      v
//!        └───────────────────────────────────────────────── supervisors
//! ```

pub mod api;
mod clusters;
mod descriptors;
mod guard;
pub mod limits;
mod listener;
mod lock;
pub mod pauses;
mod retention;
pub mod settings;
mod workers;

use crate::{
    cluster::{Cluster, key::Key},
    dispatch::{Dispatcher, Rules, bell::Bell, retry, wait::Waits},
    intake,
    ledger::{self, Ledger, Terms},
};
use anyhow::Context as _;
use axum::Router;
use listener::Listener;
use settings::Settings;
use std::{fs, net::SocketAddr, os::unix::fs::DirBuilderExt as _, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// Requests under way may take so long at the end.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

/// What the handlers share.
pub struct Service {
    pub ledger: Ledger,
    pub key: Arc<Key>,
    pub cluster: Arc<dyn Cluster>,
    pub wake: Arc<Notify>,
    pub terms: Terms,
    /// Why jobs wait.
    pub waits: Arc<Waits>,
    /// For what supervisors say at the same time.
    pub room: Arc<Semaphore>,
}

/// A control program that has everything it needs, and only has to run.
pub struct Ready {
    service: Arc<Service>,
    dispatcher: Dispatcher,
    queues: intake::sqs::Intake,
    listener: TcpListener,
    worker_listener: Option<TcpListener>,
    /// Held as long as we live: one control program on one folder and one ledger file.
    _locks: Vec<fs::File>,
    /// Names this program in this life, among those that share the ledger.
    holder: String,
    retention: settings::Retention,
    pub address: SocketAddr,
}

impl Ready {
    /// Checks and opens everything; nothing runs yet.
    pub async fn new(settings: &Settings) -> anyhow::Result<Self> {
        settings.check()?;
        descriptors::raise();
        let given = &settings.state_dir;
        let made =
            fs::DirBuilder::new().recursive(true).mode(0o700).create(given).and_then(|()| fs::canonicalize(given));
        let dir = made.with_context(|| format!("create {}; choose a folder that you may write to", given.display()))?;
        let url = settings.database_url(&dir);
        let locks = [Some(dir.join("lock")), settings::database_lock(&url)].into_iter().flatten();
        let locks = locks.map(|file| lock::take(&file)).collect::<anyhow::Result<_>>()?;
        let listener = listen("listen", settings.listen).await?;
        let worker_listener = match settings.worker_listen {
            Some(address) => Some(listen("worker_listen", address).await?),
            None => None,
        };
        let address = listener.local_addr().context("ask for our own address")?;
        let workers = worker_listener.as_ref().unwrap_or(&listener).local_addr().context("ask for our own address")?;
        let options = ledger::Options { connections: settings.database_connections };
        let ledger = Ledger::open_with(&url, options, retry::next_step)
            .await
            .with_context(|| format!("open the ledger {}", settings::shown(&url)))?;
        let key = match &settings.key_file {
            Some(file) => Key::load(file).context("key_file")?,
            None => Key::load_or_create(&dir.join("key"))?,
        };
        ledger
            .same_key(&key.fingerprint())
            .await
            .with_context(|| format!("use the ledger {}", settings::shown(&url)))?;
        let key = Arc::new(key);
        let bell = Arc::new(Bell::default());
        let wake = bell.notify();
        let cluster = clusters::open(settings, settings.cluster()?, &dir, workers, &key, &bell).await?;
        let waits = Arc::new(Waits::default());
        let rules = Rules { limits: settings.admission(), caps: settings.limits.caps() };
        let dispatcher =
            Dispatcher::new(ledger.clone(), Arc::clone(&cluster), Arc::clone(&key), rules, bell, Arc::clone(&waits));
        let report_every_ms = u64::try_from(settings.report_every.0.as_millis()).unwrap_or(u64::MAX);
        let terms = Terms { report_every_ms, lease: settings.lease.0 };
        let queues = intake::sqs::Intake::open(&settings.queue).await?;
        let service = Arc::new(Service { ledger, key, cluster, wake, terms, waits, room: workers::room() });
        let holder = holder();
        let retention = settings.retention.clone();
        Ok(Self { service, dispatcher, queues, listener, worker_listener, _locks: locks, holder, retention, address })
    }

    /// Serves until `shutdown` says so. Running transfers are left running.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let door = intake::http::Door { ledger: self.service.ledger.clone(), wake: Arc::clone(&self.service.wake) };
        let people = api::routes()
            .merge(pauses::routes())
            .with_state(Arc::clone(&self.service))
            .merge(intake::http::routes(door));
        let (people, workers) = match self.worker_listener {
            Some(listener) => (people, Some((listener, workers::routes().with_state(Arc::clone(&self.service))))),
            None => (people.merge(workers::routes().with_state(Arc::clone(&self.service))), None),
        };
        let people = guard::loopback_only(guard::problems(people));
        let mut stages = JoinSet::new();
        let (dispatcher, holder) = (self.dispatcher, self.holder.clone());
        let until = shutdown.clone();
        stages.spawn(async move {
            dispatcher.run(&holder, until).await;
            Ok(())
        });
        let (ledger, wake) = (self.service.ledger.clone(), Arc::clone(&self.service.wake));
        stages.spawn(self.queues.run(ledger, wake, shutdown.clone()));
        stages.spawn(serve(self.listener, people, shutdown.clone()));
        let retention = retention::run(self.service.ledger.clone(), self.holder, self.retention, shutdown.clone());
        stages.spawn(async move {
            retention.await;
            Ok(())
        });
        if let Some((listener, routes)) = workers {
            stages.spawn(serve(listener, guard::problems(routes), shutdown.clone()));
        }
        let all = async {
            while let Some(ended) = stages.join_next().await {
                ended.context("a stage of the program broke down")??;
                anyhow::ensure!(shutdown.is_cancelled(), "a stage of the program ended by itself");
            }
            self.service.ledger.close().await;
            Ok(())
        };
        // At the end nobody waits for ever: what is under way is committed, or is found again at the next start.
        let late = async {
            shutdown.cancelled().await;
            tokio::time::sleep(2 * LAST_REQUESTS).await;
        };
        tokio::select! {
            ended = all => ended,
            () = late => Ok(()),
        }
    }
}

/// Says who owns a task, to a person who reads the ledger, and is never the same twice.
fn holder() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    // The ledger has room for 128 characters.
    let host: String = host.trim().chars().take(64).collect();
    format!("{host} {} {}", std::process::id(), uuid::Uuid::new_v4())
}

async fn serve(listener: TcpListener, routes: Router, shutdown: CancellationToken) -> anyhow::Result<()> {
    let serving =
        axum::serve(Listener::from(listener), routes).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let late = async {
        shutdown.cancelled().await;
        tokio::time::sleep(LAST_REQUESTS).await;
    };
    tokio::select! {
        served = serving.into_future() => served.context("serve HTTP"),
        () = late => Ok(()),
    }
}

/// `key` is the setting that names the address.
async fn listen(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let flag = if key == "listen" { " or --listen" } else { "" };
    TcpListener::bind(address).await.with_context(|| {
        format!("listen on {address}; if another program has that port, stop it, or choose another address with `{key}`{flag}")
    })
}
