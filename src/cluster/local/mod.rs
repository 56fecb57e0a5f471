//! The `local` cluster: attempts as detached processes of this machine, each under the very same supervisor as in a Pod.
//!
//! ```text
//!   attempts/JOB.N/lock              held as long as the supervisor lives; says which process that is
//!                  token, secrets/   0600, gone when the end is in the ledger
//!                  termination-log   the last word
//!                  stdout.log, stderr.log
//!                  work/             where the transfer runs
//! ```
//! Detached, so that a `sendo dev` that dies or restarts harms no transfer; it finds them again by the lock.

mod process;

use super::{
    Cluster, End, LaunchError, Observation, Stranger, SupervisorExit, Witness,
    key::{Bearer, Key},
};
use crate::{
    ledger::{Order, Speaker},
    record::{
        job::{Fencing, OnTerm, SecretRef},
        span::Span,
        wire::AttemptId,
    },
};
use anyhow::Context as _;
use futures::future::BoxFuture;
use process::Identity;
pub use process::hand_down_descriptors;
use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{Seek as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::{
            fs::{DirBuilderExt as _, OpenOptionsExt as _},
            process::ExitStatusExt as _,
        },
    },
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::{sync::Notify, task::block_in_place};

/// Added to an attempt's longest life: its token must outlive the last report.
const TOKEN_MARGIN: Duration = Duration::from_secs(24 * 3600);
/// What a transfer on a laptop gets of our environment; a Pod would get none of it.
const PASSED_ON: [&str; 4] = ["HOME", "LANG", "TZ", "JAVA_HOME"];

/// Marks every process of an attempt by its UID; systemd's name for the same thing (systemd.exec(5)).
const MARK: &str = "INVOCATION_ID";
/// Begins the name of the folder that a supervisor renders its configuration into (`supervisor::grant`).
const RENDERED: &[u8] = b"sendo-";
/// A secret is a password or a key, not a file system.
const SECRET_LIMIT: u64 = 64 * 1024;

/// What the local cluster is made of.
pub struct Settings {
    pub name: String,
    /// Holds `attempts/`.
    pub dir: PathBuf,
    pub supervisor: PathBuf,
    /// In front of the transfer's PATH: where `embulk` is found.
    pub tools: Option<PathBuf>,
    pub ledger_url: String,
    pub heartbeat: Duration,
    pub linger: Duration,
}

/// The cluster.
pub struct Local {
    settings: Settings,
    key: Arc<Key>,
    /// Our own children and how they ended, once they have; those of an earlier `sendo dev` had another parent.
    exits: Arc<Mutex<HashMap<AttemptId, Option<SupervisorExit>>>>,
    /// Rung when one of our children ends.
    wake: Arc<Notify>,
}

impl Local {
    pub fn new(settings: Settings, key: Arc<Key>, wake: Arc<Notify>) -> anyhow::Result<Self> {
        let attempts = settings.dir.join("attempts");
        fs::create_dir_all(&attempts).with_context(|| format!("create {}", attempts.display()))?;
        let found = fs::metadata(&settings.supervisor).is_ok_and(|found| found.is_file());
        anyhow::ensure!(
            found,
            "there is no supervisor at {}; build it with `make build`, or name it: `sendo dev --supervisor FILE`, or `supervisor` of [[cluster]]",
            settings.supervisor.display()
        );
        Ok(Self { settings, key, exits: Arc::default(), wake })
    }

    fn exits(&self) -> MutexGuard<'_, HashMap<AttemptId, Option<SupervisorExit>>> {
        self.exits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folder(&self, id: &AttemptId) -> PathBuf {
        self.settings.dir.join("attempts").join(format!("{}.{}", id.job, id.attempt))
    }

    fn launch_now(&self, order: &Order) -> Result<(), LaunchError> {
        if order.job.image.is_some() {
            let why = "`image`: this cluster is `local` and runs processes of this machine; leave `image` out, and give a `command` if need be";
            return Err(LaunchError::Refused(why.into()));
        }
        let folder = self.folder(&order.id);
        let not_now = |error: anyhow::Error| LaunchError::away(format!("{error:#}"));
        let work = folder.join("work");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&work)
            .with_context(|| format!("create {}", work.display()))
            .map_err(not_now)?;
        let Some(mut lock) = lock(&folder.join("lock")).map_err(not_now)? else { return Ok(()) };
        if Identity::read(&folder.join("lock")).map_err(not_now)?.is_some() {
            return Ok(());
        }
        self.furnish(order, &folder)?;
        let boot_id = process::boot_id().map_err(not_now)?;
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{boot_id}"))
            .context("write the lock file")
            .map_err(not_now)?;
        self.spawn(order, &folder, &lock).map_err(not_now)?;
        // On the disk before the ledger says that the place exists: a power cut must not turn it into one that never was.
        lock.sync_all().and_then(|()| File::open(&folder)?.sync_all()).context("write the lock file").map_err(not_now)
    }

    /// Token and secrets: what the kubelet would mount.
    fn furnish(&self, order: &Order, folder: &Path) -> Result<(), LaunchError> {
        let secrets = folder.join("secrets");
        let written = fs::DirBuilder::new().recursive(true).mode(0o700).create(&secrets);
        written
            .with_context(|| format!("create {}", secrets.display()))
            .map_err(|error| LaunchError::away(format!("{error:#}")))?;
        for (name, reference) in &order.job.secrets {
            let value = resolve(reference).map_err(|why| LaunchError::Refused(format!("secret `{name}`: {why}")))?;
            private(&secrets.join(name), value.as_bytes())?;
        }
        let life = order.job.deadline() + order.job.grace() + self.settings.linger + TOKEN_MARGIN;
        let expires = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() + life;
        let bearer = Bearer { id: order.id.clone(), uid: order.uid.clone() };
        let token =
            self.key.token(bearer, expires.as_secs()).map_err(|error| LaunchError::away(format!("{error:#}")))?;
        private(&folder.join("token"), token.as_bytes())
    }

    fn spawn(&self, order: &Order, folder: &Path, lock: &File) -> anyhow::Result<()> {
        let output = |name: &str| {
            let file = folder.join(name);
            let opened = OpenOptions::new().create(true).append(true).open(&file);
            opened.map(Stdio::from).with_context(|| format!("open {}", file.display()))
        };
        let mut command = tokio::process::Command::new(&self.settings.supervisor);
        command.env_clear().envs(self.environment(order, folder)).current_dir(folder.join("work"));
        command.stdin(Stdio::null()).stdout(output("stdout.log")?).stderr(output("stderr.log")?);
        command.arg("--").args(order.job.command.clone().unwrap_or_else(|| vec!["embulk".into(), "run".into()]));
        let descriptor = lock.as_raw_fd();
        process::introduce_before_exec(&mut command, descriptor);
        let program = self.settings.supervisor.display();
        let mut child = command.spawn().with_context(|| format!("start {program}"))?;
        let (id, exits, wake) = (order.id.clone(), Arc::clone(&self.exits), Arc::clone(&self.wake));
        self.exits().insert(id.clone(), None);
        tokio::spawn(async move {
            if let Ok(status) = child.wait().await {
                let exit = status.signal().map(SupervisorExit::Signal).or(status.code().map(SupervisorExit::Code));
                if let Some(known) = exits.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&id) {
                    *known = exit;
                }
            }
            wake.notify_one();
        });
        Ok(())
    }

    /// What a Pod's template would set, and a Pod's image.
    fn environment(&self, order: &Order, folder: &Path) -> Vec<(String, std::ffi::OsString)> {
        let job = &order.job;
        let mut env: Vec<(String, std::ffi::OsString)> = Vec::new();
        env.extend(PASSED_ON.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var_os(name)?))));
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let paths = self.settings.tools.iter().cloned().chain(std::env::split_paths(&inherited));
        env.push(("PATH".into(), std::env::join_paths(paths).unwrap_or(inherited.clone())));
        env.extend(job.env.iter().map(|(name, value)| (name.clone(), value.into())));
        env.push((MARK.into(), order.uid.clone().into()));
        let mut set = |name: &str, value: std::ffi::OsString| env.push((format!("SENDO_{name}"), value));
        set("JOB", order.id.job.clone().into());
        set("ATTEMPT", order.id.attempt.to_string().into());
        set("LEDGER_URL", self.settings.ledger_url.clone().into());
        set("TOKEN_FILE", folder.join("token").into());
        set("TERMINATION_LOG", folder.join("termination-log").into());
        set("WORK_DIR", folder.join("work").into());
        set("SECRETS_DIR", folder.join("secrets").into());
        set("HEARTBEAT", Span(self.settings.heartbeat).to_string().into());
        set("LINGER", Span(self.settings.linger).to_string().into());
        set("DEADLINE", Span(job.deadline()).to_string().into());
        set("GRACE", Span(job.grace()).to_string().into());
        set("ON_TERM", if job.on_term == OnTerm::Stop { "stop".into() } else { "finish".into() });
        set("FENCING", if job.fencing == Fencing::Strict { "strict".into() } else { "patient".into() });
        if let Some(span) = job.stall_after {
            set("STALL_AFTER", span.to_string().into());
        }
        env
    }

    fn observe_now(&self, order: &Order) -> anyhow::Result<Observation> {
        let folder = self.folder(&order.id);
        let file = folder.join("lock");
        let alive = || Observation::Alive { uid: order.uid.clone() };
        if !file.exists() {
            return Ok(Observation::Absent);
        }
        let Some(_held) = lock(&file)? else { return Ok(alive()) };
        let Some(identity) = Identity::read(&file)? else { return Ok(Observation::Absent) };
        // What still carries its mark is not over; it is killed here, and looked at again.
        if identity.is_alive()? || process::kill_marked(&mark(&order.uid), identity.pid)? {
            return Ok(alive());
        }
        let exit = match self.exits().get(&order.id) {
            // Our child, and not yet waited for: in a moment we know more.
            Some(None) => return Ok(alive()),
            Some(Some(exit)) => Some(*exit),
            None => None,
        };
        let message = match fs::read(folder.join("termination-log")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context("read the termination log");
            }
            read => read.unwrap_or_default(),
        };
        Ok(Observation::Ended(End { exit, message, ..End::default() }))
    }

    fn stop_now(&self, order: &Order, grace: Duration) -> anyhow::Result<()> {
        let folder = self.folder(&order.id);
        let Some(identity) = Identity::read(&folder.join("lock"))? else { return Ok(()) };
        // The file outlives us: a second TERM after a restart would be a KILL to the transfer.
        let asked = folder.join("asked-to-stop");
        match fs::metadata(&asked).and_then(|asked| asked.modified()) {
            Ok(at) if at.elapsed().is_ok_and(|age| age > grace) => identity.signal(libc::SIGKILL),
            Ok(_) => Ok(()),
            Err(_) => {
                // Said before it is done: if we die in between, the KILL after the grace is still to come.
                fs::write(&asked, "").with_context(|| format!("write {}", asked.display()))?;
                identity.signal(libc::SIGTERM)
            }
        }
    }

    fn release_now(&self, id: &AttemptId) -> anyhow::Result<()> {
        let folder = self.folder(id);
        self.exits().remove(id);
        // What still runs has ended by a person's word. Without its token it could not even be told so.
        let lock = folder.join("lock");
        if lock.exists()
            && let Some(identity) = Identity::read(&lock)?
        {
            identity.signal(libc::SIGKILL)?;
        }
        // A supervisor that was killed could not take its rendered configuration away.
        let rendered = fs::read_dir(folder.join("work")).into_iter().flatten().flatten();
        let rendered = rendered.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(RENDERED));
        let mut gone: Vec<_> = rendered.map(|entry| fs::remove_dir_all(entry.path())).collect();
        gone.extend([fs::remove_dir_all(folder.join("secrets")), fs::remove_file(folder.join("token"))]);
        for gone in gone {
            if let Err(error) = gone
                && error.kind() != std::io::ErrorKind::NotFound
            {
                return Err(error).with_context(|| format!("take the secrets out of {}", folder.display()));
            }
        }
        Ok(())
    }
}

// All of it is work on this machine's disk and processes: the threads that serve are told.
impl Cluster for Local {
    fn name(&self) -> &str {
        &self.settings.name
    }

    fn choose_uid(&self) -> String {
        uuid::Uuid::new_v4().to_string()
    }

    fn launch<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Result<String, LaunchError>> {
        Box::pin(async move { block_in_place(|| self.launch_now(order)).map(|()| order.uid.clone()) })
    }

    fn observe<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Observation> {
        Box::pin(async move {
            block_in_place(|| self.observe_now(order))
                .unwrap_or_else(|error| Observation::Unknown(format!("{error:#}")))
        })
    }

    fn stop<'a>(&'a self, order: &'a Order, grace: Duration) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move { block_in_place(|| self.stop_now(order, grace)) })
    }

    fn release<'a>(&'a self, id: &'a AttemptId) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move { block_in_place(|| self.release_now(id)) })
    }

    fn vouch<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Witness, Stranger>> {
        Box::pin(async move {
            let bearer = self.key.vouch(token);
            let bearer = bearer.ok_or_else(|| Stranger::Unknown("it is not one of ours, or no longer good".into()))?;
            let speaker = Speaker { uid: bearer.uid, node: None };
            Ok(Witness { speaker, place: bearer.id.to_string(), place_of: AttemptId::to_string })
        })
    }

    fn output_file(&self, id: &AttemptId, stream: &str) -> Option<PathBuf> {
        Some(self.folder(id).join(format!("{stream}.log")))
    }
}

/// What stands in the environment of every process of the attempt.
fn mark(uid: &str) -> String {
    format!("{MARK}={uid}")
}

/// Takes the lock; `None` if somebody has it.
fn lock(file: &Path) -> anyhow::Result<Option<File>> {
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(file);
    let opened = opened.with_context(|| format!("open {}", file.display()))?;
    match opened.try_lock() {
        Ok(()) => Ok(Some(opened)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", file.display())),
    }
}

/// The value behind a reference, for this one attempt's folder.
fn resolve(reference: &SecretRef) -> Result<String, String> {
    match reference {
        SecretRef::Env { env } => {
            std::env::var(env).map_err(|_| format!("the variable {env} is not set for `sendo`; set it and start again"))
        }
        SecretRef::File { file } => {
            let found = fs::metadata(file).map_err(|why| format!("read {file}: {why}"))?;
            if !found.is_file() || found.len() > SECRET_LIMIT {
                return Err(format!("{file} is no ordinary file of at most {SECRET_LIMIT} bytes"));
            }
            fs::read_to_string(file).map_err(|why| format!("read {file}: {why}"))
        }
        SecretRef::Kubernetes { .. } => Err("this cluster is `local`: refer to {\"env\": …} or {\"file\": …}".into()),
    }
}

fn private(file: &Path, content: &[u8]) -> Result<(), LaunchError> {
    let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file);
    let written = opened.and_then(|mut opened| opened.write_all(content));
    written.map_err(|why| LaunchError::away(format!("write {}: {why}", file.display())))
}
