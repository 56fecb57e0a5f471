//! What `sendo serve` is told: file, else `SENDO_…` variable, else flag, the later the stronger; all of it checked before anything starts.

use super::limits::Limits;
use crate::{
    cluster::kubernetes,
    intake::{
        message::{nearest, suggestion},
        sqs,
    },
    ledger,
    record::span::Span,
};
use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

/// Where `listen` points where nobody says anything.
pub const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8920);

/// Where nobody says anything: short enough that a person waits for a successor, and long enough for a restart of the control program. The
/// supervisor kills a quarter of it before the end.
pub const LEASE: Span = Span(Duration::from_secs(60));

/// Below this an ordinary pause of a machine would kill transfers; supervisors refuse it.
const SHORTEST_LEASE: Duration = Duration::from_secs(1);

/// Readings are written by two, and the rest must not wait for them.
const FEWEST_CONNECTIONS: u32 = 4;

/// Keys of the file that a variable may set too.
const VARIABLES: [&str; 11] = [
    "listen",
    "worker_listen",
    "state_dir",
    "key_file",
    "database_url",
    "database_connections",
    "max_running",
    "heartbeat",
    "report_every",
    "linger",
    "lease",
];

/// The whole of `sendo.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// API for people and schedulers.
    pub listen: SocketAddr,
    /// `/v1/grants` and `/v1/records`; beside the API on `listen` where absent.
    pub worker_listen: Option<SocketAddr>,
    /// Lock, key and the `local` cluster's attempts. Each control program has its own.
    pub state_dir: PathBuf,
    /// The key that signs for attempts: `key` in `state_dir` where absent. All control programs of one ledger share it.
    pub key_file: Option<PathBuf>,
    /// `sqlite:FILE`, `postgres://…` or `mysql://…`; `ledger.db` in `state_dir` where absent.
    pub database_url: Option<String>,
    /// At the most; what suits the database where absent.
    pub database_connections: Option<u32>,
    pub retention: Retention,
    /// Attempts alive at the same time.
    pub max_running: usize,
    /// How often a supervisor reads what its transfer uses.
    pub heartbeat: Span,
    /// How often it ships its readings.
    pub report_every: Span,
    /// How long it stays for its last report's receipt.
    pub linger: Span,
    /// How long a job that says `fencing: strict` may go on without the ledger.
    pub lease: Span,
    /// `[[queue]]`: where jobs come from beside HTTP.
    pub queue: Vec<sqs::settings::Settings>,
    /// `[limits]`: what one tenant, definition or job may have.
    pub limits: Limits,
    /// `[[cluster]]`: where attempts run.
    pub cluster: Vec<Place>,
}

/// `[retention]`: how long readings are kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// As they came, from the end of their attempt.
    pub heartbeats: Span,
    /// Rolled up to five minutes, from the same moment.
    pub rolled_up: Span,
}

impl Default for Retention {
    fn default() -> Self {
        let days = |days: u64| Span(Duration::from_secs(days * 24 * 3600));
        Self { heartbeats: days(7), rolled_up: days(90) }
    }
}

/// One `[[cluster]]`; its `kind` is `local` where nothing is said.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "serde_json::Value", untagged)]
pub enum Place {
    Local(Local),
    Kubernetes(Box<kubernetes::Settings>),
}

impl TryFrom<serde_json::Value> for Place {
    type Error = String;

    fn try_from(mut value: serde_json::Value) -> Result<Self, String> {
        let kind = value.as_object_mut().and_then(|keys| keys.remove("kind"));
        let is_said = kind.is_some();
        let kind = kind.unwrap_or("local".into());
        match kind.as_str() {
            Some("local") => place(value).map(Self::Local).map_err(|why| {
                let hint = if is_said { "" } else { "; this is a local cluster: for Pods say kind = \"kubernetes\"" };
                format!("{why}{hint}")
            }),
            Some("kubernetes") => place(value).map(Self::Kubernetes),
            _ => Err(format!("cluster.kind: {kind} is neither \"local\" nor \"kubernetes\"")),
        }
    }
}

/// The keys of a cluster, or which of them is wrong.
fn place<T: serde::de::DeserializeOwned>(keys: serde_json::Value) -> Result<T, String> {
    serde_path_to_error::deserialize(keys).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { String::new() } else { format!(".{path}") };
        format!("cluster{path}: {}", suggestion(&error.into_inner().to_string()))
    })
}

/// A `local` cluster: processes of this machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Local {
    pub name: String,
    pub supervisor: PathBuf,
    /// Folder in front of the transfer's PATH: where `embulk` is found.
    pub tools: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: LISTEN,
            worker_listen: None,
            state_dir: ".sendo".into(),
            key_file: None,
            database_url: None,
            database_connections: None,
            retention: Retention::default(),
            max_running: default_running(),
            heartbeat: Span(Duration::from_secs(10)),
            report_every: Span(Duration::from_secs(10)),
            linger: Span(Duration::from_secs(600)),
            lease: LEASE,
            queue: vec![],
            limits: Limits::default(),
            cluster: vec![Place::Local(Local::default())],
        }
    }
}

impl Default for Local {
    fn default() -> Self {
        let beside = |name: &str| std::env::current_exe().ok()?.parent().map(|folder| folder.join(name));
        let first = |names: &[&str]| names.iter().filter_map(|name| beside(name)).find(|file| file.exists());
        Self {
            name: "local".into(),
            // Installed beside us, or as `make build` leaves it.
            supervisor: first(&["sendo-supervisor", "../pid1/sendo-supervisor"])
                .unwrap_or_else(|| "sendo-supervisor".into()),
            tools: first(&["../embulk/bin"]),
        }
    }
}

/// One transfer a core: a laptop has no autoscaler.
fn default_running() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

impl Settings {
    /// Reads the file and the variables.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        misspelt(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()))?;
        let variables =
            VARIABLES.iter().filter_map(|key| Some(((*key).to_owned(), std::env::var(variable(key)).ok()?)));
        let mut builder =
            config::Config::builder().add_source(config::File::from(file).format(config::FileFormat::Toml));
        for (key, value) in variables {
            builder = builder.set_override(key, value).context("take a SENDO_… variable")?;
        }
        let built = builder.build().with_context(|| format!("read {}", file.display()))?;
        let settings = built.try_deserialize::<Self>();
        settings
            .map_err(|why| anyhow::anyhow!(words(&why.to_string())))
            .with_context(|| format!("understand {}", file.display()))
    }

    /// The ledger's address; its default lies in `dir`.
    pub fn database_url(&self, dir: &Path) -> String {
        let default = || format!("sqlite://{}?mode=rwc", dir.join("ledger.db").display());
        self.database_url.clone().unwrap_or_else(default)
    }

    /// What admission goes by.
    pub fn admission(&self) -> crate::dispatch::admit::Limits {
        self.limits.admission(self.max_running)
    }

    /// The one cluster that this release has.
    pub fn cluster(&self) -> anyhow::Result<&Place> {
        match self.cluster.as_slice() {
            [cluster] => Ok(cluster),
            clusters => bail!("cluster: this release runs exactly one [[cluster]]; there are {}", clusters.len()),
        }
    }

    /// What can be seen to be wrong before anything is opened.
    pub fn check(&self) -> anyhow::Result<()> {
        sqs::settings::check(&self.queue)?;
        if let Place::Kubernetes(settings) = self.cluster()? {
            settings.check()?;
        }
        if !self.listen.ip().is_loopback() {
            bail!(
                "listen: {} is open to the network, and this release has no authentication for people; \
                 use a loopback address and put an authenticating proxy in front",
                self.listen
            );
        }
        self.limits.check()?;
        if self.max_running == 0 {
            bail!("max_running: 0 would run nothing; give at least 1");
        }
        if self.heartbeat.0 < Duration::from_millis(100) || self.report_every.0 < Duration::from_millis(100) {
            bail!("heartbeat and report_every: at least 100ms");
        }
        if self.lease.0 < SHORTEST_LEASE {
            bail!("lease: {} is too short; at least 1s, and 60s are usual", self.lease);
        }
        if let Some(url) = &self.database_url {
            ledger::speaks(url).context("database_url")?;
            if let Some(file) = sqlite_file(url) {
                let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
                if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
                    bail!("database_url: there is no folder {}; make it first", folder.display());
                }
                if !file.exists() && !url.contains("mode=") {
                    bail!("database_url: there is no file {}; for a new one write {url}?mode=rwc", file.display());
                }
            }
        }
        if self.database_connections.is_some_and(|connections| connections < FEWEST_CONNECTIONS) {
            bail!("database_connections: at least {FEWEST_CONNECTIONS}");
        }
        if self.retention.rolled_up < self.retention.heartbeats {
            bail!("retention: rolled_up must not be shorter than heartbeats, which come before it");
        }
        Ok(())
    }
}

/// A variable whose name nearly is one of ours. Others are left alone: Kubernetes itself names some after a Service `sendo`.
fn misspelt(names: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let ours: Vec<String> = VARIABLES.iter().map(|key| variable(key)).collect();
    for name in names.filter(|name| !ours.contains(name)) {
        if let Some(meant) = nearest(&name, ours.iter().map(String::as_str)) {
            bail!("{name}: there is no such variable; did you mean {meant}?");
        }
    }
    Ok(())
}

/// What the reader of the file says, in words that mend it.
fn words(why: &str) -> String {
    let mut words = String::new();
    for letter in suggestion(why).chars() {
        // Paths come as `queue[0]url`.
        if words.ends_with(']') && letter.is_ascii_lowercase() {
            words.push('.');
        }
        words.push(letter);
    }
    words = words.replace("invalid socket address syntax", "it is no address with a port; write it as 127.0.0.1:8920");
    if let Some(key) = words.strip_prefix("missing configuration field ") {
        words = format!("`{}` is missing", key.trim_matches('"'));
    }
    for list in ["queue", "cluster"] {
        if words == format!("invalid type: map, expected a sequence for key `{list}`") {
            words = format!("there may be several of [{list}]: write [[{list}]], in double brackets");
        }
    }
    let of_a_variable = VARIABLES.iter().find(|key| words.ends_with(&format!("for key `{key}`")));
    if let Some(name) = of_a_variable.map(|key| variable(key)).filter(|name| std::env::var_os(name).is_some()) {
        words.push_str(&format!(", as the variable {name} has it"));
    }
    words
}

/// The variable that overrides a key.
fn variable(key: &str) -> String {
    format!("SENDO_{}", key.to_ascii_uppercase())
}

/// The ledger, if it is a file.
fn sqlite_file(url: &str) -> Option<&Path> {
    url.strip_prefix("sqlite:")?.trim_start_matches("//").split('?').next().map(Path::new)
}

/// The lock of a ledger that is a file: beside it.
pub fn database_lock(url: &str) -> Option<PathBuf> {
    let path = sqlite_file(url)?;
    Some(path.with_file_name(format!("{}.lock", path.file_name()?.to_str()?)))
}

/// The address without what only the database may know: a password stands before the `@`, or among the options.
pub fn shown(url: &str) -> String {
    let (address, options) = url.split_once('?').unwrap_or((url, ""));
    let options = if options.is_empty() { "" } else { "?…" };
    match (address.split_once("://"), address.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => format!("{scheme}://…@{place}{options}"),
        _ if address.starts_with("sqlite:") => url.to_owned(),
        _ => format!("{address}{options}"),
    }
}

#[cfg(test)]
mod tests;
