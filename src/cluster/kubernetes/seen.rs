//! What is kept of a Pod: what its status is judged by, and nothing else. Fifty thousand of them fit into memory.

use super::name;
use crate::record::{Millis, wire::AttemptId};
use k8s_openapi::{
    api::core::v1::{ContainerStatus, Pod, PodCondition, PodSpec, PodStatus},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use serde::Deserialize;
use std::collections::BTreeMap;

/// A Pod as the API server tells of it, but for what nobody here looks at: its containers and managed fields are most of its bytes, and reading them
/// was most of the work of a watch.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "Read")]
pub struct Trimmed(pub Pod);

#[derive(Deserialize)]
struct Read {
    metadata: ReadMeta,
    spec: Option<ReadSpec>,
    status: Option<PodStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadMeta {
    name: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
    finalizers: Option<Vec<String>>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadSpec {
    node_name: Option<String>,
}

impl From<Read> for Trimmed {
    fn from(Read { metadata, spec, status }: Read) -> Self {
        let metadata = ObjectMeta {
            name: metadata.name,
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            creation_timestamp: metadata.creation_timestamp,
            deletion_timestamp: metadata.deletion_timestamp,
            deletion_grace_period_seconds: metadata.deletion_grace_period_seconds,
            ..ObjectMeta::default()
        };
        let spec = spec.map(|spec| PodSpec { node_name: spec.node_name, ..PodSpec::default() });
        Self(Pod { metadata, spec, status })
    }
}

/// A Pod, trimmed.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub id: AttemptId,
    pub uid: String,
    pub node: Option<String>,
    pub created: Millis,
    /// Since when a node has it.
    pub scheduled: Option<Millis>,
    pub deletion: Option<Deletion>,
    /// Our finalizer is on it.
    pub held: bool,
    /// Kubernetes' own phase.
    pub phase: String,
    pub reason: Option<Words>,
    /// The scheduler found no node.
    pub unschedulable: Option<String>,
    /// Kubernetes ends it for a reason of its own.
    pub disruption: Option<Words>,
    pub worker: Container,
    /// An init container that waits with a reason, or has failed.
    pub init: Option<Words>,
}

/// It is asked to go.
#[derive(Debug, Clone, PartialEq)]
pub struct Deletion {
    /// The API server's clock: when its grace is over.
    pub by: Millis,
    pub grace_seconds: i64,
}

/// A stable word and a sentence.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Words {
    pub reason: String,
    pub message: String,
}

/// The worker's container.
#[derive(Debug, Clone, PartialEq)]
pub enum Container {
    /// The kubelet has said nothing of it.
    Unmentioned,
    Waiting(Words),
    Running,
    Terminated(Box<Terminated>),
}

/// The kubelet saw it end.
#[derive(Debug, Clone, PartialEq)]
pub struct Terminated {
    pub exit_code: i32,
    pub signal: Option<i32>,
    pub reason: String,
    pub message: String,
    pub finished: Option<Millis>,
}

impl Words {
    fn of(reason: Option<String>, message: Option<String>) -> Option<Self> {
        let words = Self { reason: reason.unwrap_or_default(), message: message.unwrap_or_default() };
        Some(words).filter(|words| !words.reason.is_empty() || !words.message.is_empty())
    }
}

impl std::fmt::Display for Words {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.reason.as_str(), self.message.as_str()) {
            (reason, "") => out.write_str(reason),
            ("", message) => out.write_str(message),
            (reason, message) => write!(out, "{reason}: {message}"),
        }
    }
}

impl Seen {
    /// `None` if it is no attempt's Pod: our labels alone make none.
    pub fn of(pod: Pod) -> Option<Self> {
        let meta = pod.metadata;
        let annotations = meta.annotations.unwrap_or_default();
        let attempt = annotations.get(name::ATTEMPT)?.parse().ok()?;
        let id = AttemptId { job: annotations.get(name::JOB)?.clone(), attempt };
        // What bears another's annotations is nobody's.
        if meta.name.as_deref() != Some(name::pod(&id).as_str()) {
            return None;
        }
        let mut status = pod.status.unwrap_or_default();
        let worker = take(&mut status.container_statuses, name::WORKER).map_or(Container::Unmentioned, container);
        let (scheduled, unschedulable) = scheduling(&status);
        let disrupted = condition(&status, "DisruptionTarget").filter(|found| found.status == "True").cloned();
        Some(Self {
            id,
            uid: meta.uid?,
            node: pod.spec.and_then(|spec| spec.node_name).filter(|node| !node.is_empty()),
            created: meta.creation_timestamp.map_or(Millis(0), millis),
            scheduled,
            deletion: meta
                .deletion_timestamp
                .map(|by| Deletion { by: millis(by), grace_seconds: meta.deletion_grace_period_seconds.unwrap_or(0) }),
            held: meta.finalizers.unwrap_or_default().iter().any(|finalizer| finalizer == name::FINALIZER),
            init: init(&mut status),
            phase: status.phase.unwrap_or_default(),
            reason: Words::of(status.reason, status.message),
            unschedulable,
            disruption: disrupted.and_then(|found| Words::of(found.reason, found.message)),
            worker,
        })
    }

    /// The worker's container runs, says the kubelet.
    pub fn runs(&self) -> bool {
        matches!(self.worker, Container::Running)
    }

    /// Every container of it has ended, says the kubelet.
    pub fn is_over(&self) -> bool {
        matches!(self.phase.as_str(), "Succeeded" | "Failed") || matches!(self.worker, Container::Terminated(_))
    }
}

fn millis(time: Time) -> Millis {
    Millis(time.0.as_millisecond())
}

fn condition<'a>(status: &'a PodStatus, kind: &str) -> Option<&'a PodCondition> {
    status.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

fn scheduling(status: &PodStatus) -> (Option<Millis>, Option<String>) {
    let Some(found) = condition(status, "PodScheduled") else { return (None, None) };
    if found.status == "True" {
        return (found.last_transition_time.clone().map(millis), None);
    }
    let words = Words::of(found.reason.clone(), found.message.clone());
    (None, words.filter(|words| words.reason == "Unschedulable").map(|words| words.message))
}

fn take(statuses: &mut Option<Vec<ContainerStatus>>, name: &str) -> Option<ContainerStatus> {
    let statuses = statuses.as_mut()?;
    let at = statuses.iter().position(|status| status.name == name)?;
    Some(statuses.swap_remove(at))
}

fn container(status: ContainerStatus) -> Container {
    let Some(state) = status.state else { return Container::Unmentioned };
    if let Some(ended) = state.terminated {
        return Container::Terminated(Box::new(Terminated {
            exit_code: ended.exit_code,
            signal: ended.signal.filter(|signal| *signal != 0),
            reason: ended.reason.unwrap_or_default(),
            message: ended.message.unwrap_or_default(),
            finished: ended.finished_at.map(millis),
        }));
    }
    if state.running.is_some() {
        return Container::Running;
    }
    let waiting = state.waiting.and_then(|waiting| Words::of(waiting.reason, waiting.message));
    Container::Waiting(waiting.unwrap_or_default())
}

fn init(status: &mut PodStatus) -> Option<Words> {
    let statuses = status.init_container_statuses.take()?;
    statuses.into_iter().find_map(|status| {
        let name = status.name.clone();
        match container(status) {
            Container::Waiting(words)
                if !matches!(words.reason.as_str(), "" | "PodInitializing" | "ContainerCreating") =>
            {
                Some(words)
            }
            Container::Terminated(ended) if ended.exit_code != 0 => Some(Words {
                reason: "InitContainerFailed".into(),
                message: format!("the init container {name} ended with exit code {}", ended.exit_code),
            }),
            _ => None,
        }
    })
}
