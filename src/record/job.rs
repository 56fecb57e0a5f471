//! A job as it is asked for: the body of an SQS message and of `POST /v1/jobs`, wire version 1.
//!
//! Shape alone. What makes a well-shaped job acceptable is `intake::message`'s business. The comments of types and fields are the words
//! of the JSON Schema (`intake::schema`).

use super::{
    quantity::{Bytes, MilliCpu},
    span::Span,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// The one version of the wire that this release speaks.
pub const WIRE_VERSION: u32 = 1;

/// How long a transfer may run where its job does not say: the longest that the field runs, and an hour.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(6 * 3600);

/// One requested transfer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// The wire's version.
    pub version: u32,
    /// The idempotency key: 1 to 128 of `A-Z a-z 0-9 . _ : -`.
    pub id: String,
    /// Whose job it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The named transfer that a schedule runs again and again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<String>,
    /// Tag of the cluster's worker image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_tag: Option<String>,
    /// A whole image reference, where the allow-list permits one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What to run; the image's own command where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// An Embulk transfer's configuration, appended to the command as a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embulk: Option<Embulk>,
    /// What `${secret:NAME}` in the configuration stands for: references, never values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, SecretRef>,
    #[serde(default)]
    pub resources: Resources,
    /// Higher goes first.
    #[serde(default)]
    pub priority: i32,
    /// How long one attempt's transfer may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Span>,
    /// No output, no disk I/O and no CPU for this long ends the attempt as stalled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_after: Option<Span>,
    /// RFC 3339; the job waits in the queue until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<String>,
    #[serde(default)]
    pub on_term: OnTerm,
    /// How long a drain may last; the deadline where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<Span>,
    #[serde(default)]
    pub fencing: Fencing,
    #[serde(default)]
    pub retry: Retry,
    /// Environment of the transfer; names beginning with `SENDO_` are ours.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Words of your own, for everybody to read.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// W3C trace context; not part of what makes two messages the same job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// An Embulk transfer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Embulk {
    /// What would stand in `config.yml`: an object with `in` and `out`.
    pub config: serde_json::Value,
    /// Carry Embulk's config diff from one job of the definition to the next; needs a `definition`.
    #[serde(default)]
    pub incremental: bool,
}

/// Where a secret's value lies. `name` and `key` on Kubernetes, `env` or `file` on the `local` cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(schemars::JsonSchema))]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "a secret is {\"name\": …, \"key\": …}, {\"env\": …} or {\"file\": …}"
)]
pub enum SecretRef {
    Kubernetes { name: String, key: String },
    Env { env: String },
    File { file: String },
}

/// What one attempt may use; requests and limits in a Pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Resources {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<MilliCpu>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// The cap up to which a retry after an out-of-memory end may grow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_max: Option<Bytes>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Bytes>,
}

/// What the first SIGTERM means to the transfer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnTerm {
    /// Let it go on as long as the grace allows.
    #[default]
    Finish,
    /// Pass TERM on at once.
    Stop,
}

/// What a transfer does while its ledger is away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Fencing {
    /// A granted transfer runs through any ledger outage.
    #[default]
    Patient,
    /// It kills itself before its lease runs out.
    Strict,
}

/// The job's own budget of attempts, beside that for the infrastructure's faults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "control", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// How often a transfer that failed by itself is tried again.
    pub limit: u32,
    /// Waiting time before the first retry; doubled each time, an hour at most.
    pub backoff: Span,
    /// Only these exit codes are tried again; all where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on_exit_codes: Vec<i32>,
    /// How often an attempt that the infrastructure ended is tried again.
    pub infrastructure_limit: u32,
    /// The load may be repeated without harm.
    pub idempotent: bool,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            limit: 0,
            backoff: Span(Duration::from_secs(30)),
            on_exit_codes: Vec::new(),
            infrastructure_limit: 5,
            idempotent: false,
        }
    }
}

/// Plugins of the JDBC family (<https://github.com/embulk/embulk-input-jdbc>, <https://github.com/embulk/embulk-output-jdbc>).
const JDBC: [&str; 7] = ["db2", "jdbc", "mysql", "oracle", "postgresql", "redshift", "sqlserver"];
/// Inputs that read and do nothing else.
const READERS: [&str; 4] = ["file", "gcs", "s3", "sftp"];
/// Filters that see rows and nothing else.
const PURE_FILTERS: [&str; 2] = ["remove_columns", "rename"];

impl Job {
    /// Whether running the whole load again does no harm: the job says so, or Embulk's output mode is known to be so.
    ///
    /// `replace`, `truncate_insert` and `merge` leave the same table however often they run
    /// (<https://github.com/embulk/embulk-output-jdbc>, "Modes").
    pub fn is_idempotent(&self) -> bool {
        let mode = self.embulk.as_ref().and_then(|embulk| embulk.config.pointer("/out/mode")?.as_str());
        self.retry.idempotent || matches!(mode, Some("replace" | "truncate_insert" | "merge" | "merge_direct"))
    }

    /// Whether nothing can have been written before the commit: rows go into temporary tables first, and nothing on their way there
    /// leaves a trace. Only what is known to be so counts: a plugin that is not named here may write as it goes.
    ///
    /// Of the JDBC output's modes `insert` does so (<https://github.com/embulk/embulk-output-jdbc>, "Modes"); the JDBC input's SQL
    /// around its SELECT may write.
    pub fn writes_at_its_commit(&self) -> bool {
        let Some(embulk) = self.embulk.as_ref().filter(|_| self.command.is_none()) else { return false };
        let at = |place: &str| embulk.config.pointer(place).filter(|value| !value.is_null());
        // `type: mysql`, or `type: {source: maven, name: mysql, …}`.
        let plugin = |value: &serde_json::Value| {
            value.as_str().or_else(|| value.get("name")?.as_str()).map(str::to_owned).unwrap_or_default()
        };
        let is_one_of =
            |place, known: &[&[&str]]| at(place).map(plugin).is_some_and(|name| known.concat().contains(&&*name));
        let filters =
            at("/filters").map(|filters| filters.as_array().cloned().unwrap_or_else(|| vec![filters.clone()]));
        let pure =
            |filter: &serde_json::Value| filter.get("type").is_some_and(|kind| PURE_FILTERS.contains(&&*plugin(kind)));
        at("/out/mode").and_then(serde_json::Value::as_str) == Some("insert")
            && is_one_of("/out/type", &[&JDBC])
            && is_one_of("/in/type", &[&JDBC, &READERS])
            && ["/in/before_setup", "/in/before_select", "/in/after_select", "/exec/type"]
                .iter()
                .all(|place| at(place).is_none())
            && filters.unwrap_or_default().iter().all(pure)
    }

    /// Whether the definition's cursor goes through this job.
    pub fn is_incremental(&self) -> bool {
        self.embulk.as_ref().is_some_and(|embulk| embulk.incremental)
    }

    /// How long one attempt's transfer may run.
    pub fn deadline(&self) -> Duration {
        self.deadline.map_or(DEFAULT_DEADLINE, |span| span.0)
    }

    /// How long a drain may last: a five-hour transfer that may finish is the point.
    pub fn grace(&self) -> Duration {
        self.grace.map_or(self.deadline(), |span| span.0)
    }
}
