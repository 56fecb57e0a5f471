//! From a Pod to what it means: pure.
//!
//! **Proof of end** is one of: the kubelet says that the worker's container has terminated; the Pod was deleted and never had a node, and will not get one
//! (the API server binds no Pod that is being deleted); its node carries the out-of-service taint, by which a person or a cloud's controller vouches that
//! the machine is off; its node's object is gone, where the settings trust that. PodPhase `Failed` proves nothing: a control plane that has lost sight of a node
//! writes it while the container runs on.

use super::{
    name,
    seen::{Container, Seen, Terminated, Words},
    settings::Settings,
};
use crate::{
    cluster::{End, EndCause, Observation, SupervisorExit, Wait, WaitCause},
    record::Millis,
};
use std::time::Duration;

/// What is known of a Pod's node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// There was no reason to look, or it is there.
    Fine,
    /// It carries `node.kubernetes.io/out-of-service`.
    OutOfService,
    /// There is no such node any more.
    Gone,
}

/// Reasons of the kubelet for an image that cannot be had
/// (<https://github.com/kubernetes/kubernetes/blob/master/pkg/kubelet/images/types.go>).
const IMAGE: [&str; 8] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
    "ErrImageRuntimeUnavailable",
];
/// An image that waiting does not mend.
const NEVER: [&str; 2] = ["InvalidImageName", "ErrImageNeverPull"];
/// While everything goes its way.
const ON_ITS_WAY: [&str; 3] = ["", "ContainerCreating", "PodInitializing"];
/// The container could not be run: its process never was.
const NOT_RUN: [&str; 3] = ["StartError", "ContainerCannotRun", "RunContainerError"];
/// The kubelet found no container where one had been, and made the exit code up.
const NOT_FOUND: &str = "ContainerStatusUnknown";

/// Whether its node has to be looked at: somebody wants the Pod gone, and the kubelet does not say that it is.
pub fn asks_for_node(seen: &Seen) -> Option<&str> {
    let leaving =
        seen.deletion.is_some() || seen.disruption.is_some() || !matches!(seen.phase.as_str(), "Pending" | "Running");
    let node = seen.node.as_deref()?;
    (leaving && !matches!(seen.worker, Container::Terminated(_))).then_some(node)
}

/// Whether anything can be decided by it at once. Of a Pod that waits or runs the timer sees what is due.
pub fn calls_for_a_look(seen: &Seen) -> bool {
    let never = matches!(&seen.worker, Container::Waiting(words) if NEVER.contains(&words.reason.as_str()));
    never || seen.is_over() || seen.deletion.is_some() || seen.disruption.is_some()
}

/// What the Pod means.
pub fn observation(seen: &Seen, node: &Node, settings: &Settings, now: Millis) -> Observation {
    let pod = name::pod(&seen.id);
    if let Container::Terminated(ended) = &seen.worker {
        return Observation::Ended(terminated(seen, ended, &pod));
    }
    if seen.deletion.is_some() && seen.node.is_none() {
        let evidence = vec![format!("the Pod {pod} was deleted before it had a node")];
        return Observation::Ended(End { cause: Some(EndCause::Deleted), evidence, ..End::default() });
    }
    let named = seen.node.as_deref().unwrap_or_default();
    let lost = match node {
        Node::OutOfService => Some(format!("the node {named} carries the taint node.kubernetes.io/out-of-service")),
        Node::Gone if settings.trust_node_deletion => Some(format!("the node {named} is gone from the API")),
        Node::Gone | Node::Fine => None,
    };
    if let Some(evidence) = lost {
        let cause = Some(EndCause::NodeLost);
        let node = seen.node.clone();
        return Observation::Ended(End { cause, node, evidence: vec![evidence], ..End::default() });
    }
    let uid = seen.uid.clone();
    match &seen.worker {
        Container::Waiting(words) => Observation::Waiting { uid, wait: waiting(seen, words, settings, now) },
        Container::Unmentioned if seen.node.is_none() || seen.phase == "Pending" || seen.phase == "Failed" => {
            Observation::Waiting { uid, wait: waiting(seen, &Words::default(), settings, now) }
        }
        Container::Running | Container::Unmentioned | Container::Terminated(_) => Observation::Alive { uid },
    }
}

fn waiting(seen: &Seen, worker: &Words, settings: &Settings, now: Millis) -> Wait {
    let words = seen.init.as_ref().unwrap_or(worker);
    let reason = words.reason.as_str();
    // Since the scheduler let go of it, or since it was made.
    let waited = now.since(seen.scheduled.unwrap_or(seen.created));
    let node = seen.node.clone();
    let wait = |cause, words: String, limit: Duration| Wait { cause, words, node, waited, limit };
    if seen.phase == "Failed" {
        // The kubelet has refused it (OutOfcpu, NodeAffinity), or it was evicted before it began: it will not begin any more.
        let said = seen.reason.clone().or_else(|| seen.disruption.clone()).unwrap_or_else(|| words.clone());
        let reason = if said.reason.is_empty() { "Failed".to_owned() } else { said.reason.clone() };
        return wait(WaitCause::Container(reason), said.to_string(), Duration::ZERO);
    }
    if seen.node.is_none() {
        return match &seen.unschedulable {
            Some(why) => wait(WaitCause::Unschedulable, why.clone(), settings.schedule_within.0),
            None => wait(WaitCause::Creating, "no scheduler has looked at it yet".into(), settings.schedule_within.0),
        };
    }
    match reason {
        _ if ON_ITS_WAY.contains(&reason) => wait(WaitCause::Creating, words.to_string(), settings.create_within.0),
        _ if NEVER.contains(&reason) => wait(WaitCause::Image, words.to_string(), Duration::ZERO),
        _ if IMAGE.contains(&reason) => wait(WaitCause::Image, words.to_string(), settings.pull_within.0),
        _ => wait(WaitCause::Container(reason.to_owned()), words.to_string(), settings.start_within.0),
    }
}

fn terminated(seen: &Seen, ended: &Terminated, pod: &str) -> End {
    let exit = match ended.signal {
        _ if ended.reason == NOT_FOUND => None,
        Some(signal) => Some(SupervisorExit::Signal(signal)),
        None => Some(SupervisorExit::Code(ended.exit_code)),
    };
    let mut said = format!("the kubelet says of the Pod {pod}: {}, exit code {}", ended.reason, ended.exit_code);
    if ended.reason.is_empty() {
        said = format!("the kubelet says of the Pod {pod}: exit code {}", ended.exit_code);
    }
    let more = [("the Pod's reason", &seen.reason), ("its condition DisruptionTarget", &seen.disruption)];
    let more = more.into_iter().filter_map(|(source, words)| Some(format!("{source}: {}", words.as_ref()?)));
    let evidence = std::iter::once(said).chain(more).collect();
    let message = ended.message.clone().into_bytes();
    End { exit, last_start: true, message, node: seen.node.clone(), cause: cause(seen, ended), evidence }
}

fn cause(seen: &Seen, ended: &Terminated) -> Option<EndCause> {
    if ended.reason == "OOMKilled" {
        return Some(EndCause::OutOfMemory);
    }
    if NOT_RUN.contains(&ended.reason.as_str()) {
        return Some(EndCause::NotStarted(ended.reason.clone()));
    }
    // <https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions>
    let disruption = seen.disruption.as_ref().map(|words| words.reason.as_str());
    let reason = seen.reason.as_ref().map(|words| words.reason.as_str());
    match (disruption, reason) {
        (Some("PreemptionByScheduler"), _) | (_, Some("Preempting")) => Some(EndCause::Preempted),
        (Some("DeletionByPodGC"), _) | (_, Some("NodeLost")) => Some(EndCause::NodeLost),
        (_, Some("DeadlineExceeded")) => Some(EndCause::TooOld),
        (Some(_), _) | (_, Some("Evicted" | "Terminated" | "NodeShutdown")) => Some(EndCause::Evicted),
        _ => seen.deletion.as_ref().map(|_| EndCause::Deleted),
    }
}

/// How soon the Pod will be emptied: what is left until its deletion's moment, by our clock, and never more than its whole grace.
pub fn gone_within(seen: &Seen, now: Millis) -> Option<Duration> {
    let deletion = seen.deletion.as_ref()?;
    let whole = Duration::from_secs(u64::try_from(deletion.grace_seconds).unwrap_or(0));
    Some(deletion.by.since(now).min(whole))
}

#[cfg(test)]
mod tests;
