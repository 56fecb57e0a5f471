use super::super::seen::Trimmed;
use super::*;
use crate::record::wire::AttemptId;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

fn seen(meta: Value, node: Option<&str>, status: Value) -> Seen {
    let id = AttemptId { job: "a".into(), attempt: 1 };
    let mut metadata = json!({
        "name": name::pod(&id), "uid": "u", "creationTimestamp": "1970-01-01T00:00:00Z",
        "annotations": {name::JOB: "a", name::ATTEMPT: "1"}, "finalizers": [name::FINALIZER],
    });
    metadata.as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
    let pod = json!({"metadata": metadata, "spec": {"nodeName": node, "containers": []}, "status": status});
    Seen::of(serde_json::from_value::<Trimmed>(pod).unwrap().0).unwrap()
}

fn worker(state: Value) -> Value {
    json!({"phase": "Running", "containerStatuses": [
        {"name": "side", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}},
        {"name": "worker", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state},
    ]})
}

fn with(mut status: Value, more: Value) -> Value {
    status.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    status
}

fn deleted() -> Value {
    json!({"deletionTimestamp": "1970-01-01T00:10:00Z", "deletionGracePeriodSeconds": 300})
}

fn look(seen: &Seen, node: Node) -> Observation {
    observation(seen, &node, &Settings::default(), Millis(60_000))
}

#[test]
fn a_terminated_worker_is_an_end_whatever_else_runs() {
    let state = json!({"terminated": {"exitCode": 7, "reason": "Error", "message": "signed"}});
    let Observation::Ended(end) = look(&seen(json!({}), Some("n"), worker(state)), Node::Fine) else { panic!() };
    assert_eq!((end.exit, end.message, end.cause), (Some(SupervisorExit::Code(7)), b"signed".to_vec(), None));
}

#[test]
fn a_failed_phase_alone_proves_nothing() {
    let lost = json!({"phase": "Failed", "reason": "NodeLost"});
    let seen = seen(deleted(), Some("n"), with(worker(json!({"running": {}})), lost));
    assert_eq!(asks_for_node(&seen), Some("n"));
    let alive = Observation::Alive { uid: "u".into() };
    assert_eq!(look(&seen, Node::Fine), alive);
    // Not without the setting that trusts it.
    assert_eq!(look(&seen, Node::Gone), alive);
    assert!(matches!(look(&seen, Node::OutOfService), Observation::Ended(End { cause: Some(EndCause::NodeLost), .. })));
    let trusting = Settings { trust_node_deletion: true, ..Settings::default() };
    let ended = observation(&seen, &Node::Gone, &trusting, Millis(0));
    assert!(matches!(ended, Observation::Ended(End { cause: Some(EndCause::NodeLost), .. })));
}

#[test]
fn a_pod_that_was_deleted_before_it_had_a_node_has_ended() {
    let pending = json!({"phase": "Pending"});
    assert!(matches!(look(&seen(deleted(), None, pending.clone()), Node::Fine), Observation::Ended(_)));
    // Bound, its kubelet may be starting it right now.
    assert!(matches!(look(&seen(deleted(), Some("n"), pending), Node::Fine), Observation::Waiting { .. }));
}

#[test]
fn each_way_to_wait_has_its_cause_and_its_words() {
    let unschedulable = json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]});
    let waiting = |reason: &str| {
        with(worker(json!({"waiting": {"reason": reason, "message": "m"}})), json!({"phase": "Pending"}))
    };
    let init = json!({"phase": "Pending", "initContainerStatuses": [
        {"name": "i", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "ErrImagePull", "message": "m"}}}]});
    let refused = json!({"phase": "Failed", "reason": "OutOfcpu", "message": "Node didn't have enough resource: cpu"});
    for (node, status, cause, words) in [
        (None, unschedulable, WaitCause::Unschedulable, "0/3 nodes"),
        (Some("n"), waiting("ImagePullBackOff"), WaitCause::Image, "ImagePullBackOff: m"),
        (
            Some("n"),
            waiting("CreateContainerConfigError"),
            WaitCause::Container("CreateContainerConfigError".into()),
            "m",
        ),
        (Some("n"), waiting("ContainerCreating"), WaitCause::Creating, "m"),
        (Some("n"), init, WaitCause::Image, "ErrImagePull: m"),
        (Some("n"), refused, WaitCause::Container("OutOfcpu".into()), "enough resource"),
        (None, json!({}), WaitCause::Creating, "scheduler"),
    ] {
        let Observation::Waiting { wait, .. } = look(&seen(json!({}), node, status), Node::Fine) else {
            panic!("{cause:?}")
        };
        assert_eq!((&wait.cause, wait.waited), (&cause, Duration::from_secs(60)));
        assert!(wait.words.contains(words), "{}", wait.words);
    }
}

#[test]
fn what_kubernetes_did_is_read_from_where_it_says_so() {
    let ended = |reason: &str, meta: Value, more: Value| {
        let status = with(worker(json!({"terminated": {"exitCode": 137, "reason": reason}})), more);
        match look(&seen(meta, Some("n"), status), Node::Fine) {
            Observation::Ended(end) => end.cause,
            other => panic!("{other:?}"),
        }
    };
    let disrupted =
        |reason: &str| json!({"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": reason}]});
    assert_eq!(ended("OOMKilled", json!({}), json!({})), Some(EndCause::OutOfMemory));
    assert_eq!(ended("StartError", json!({}), json!({})), Some(EndCause::NotStarted("StartError".into())));
    assert_eq!(ended("Error", deleted(), json!({})), Some(EndCause::Deleted));
    assert_eq!(ended("Error", deleted(), disrupted("EvictionByEvictionAPI")), Some(EndCause::Evicted));
    assert_eq!(ended("Error", deleted(), disrupted("PreemptionByScheduler")), Some(EndCause::Preempted));
    assert_eq!(ended("Error", deleted(), disrupted("DeletionByPodGC")), Some(EndCause::NodeLost));
    assert_eq!(ended("Error", json!({}), json!({"phase": "Failed", "reason": "Evicted"})), Some(EndCause::Evicted));
    assert_eq!(
        ended("Error", json!({}), json!({"phase": "Failed", "reason": "DeadlineExceeded"})),
        Some(EndCause::TooOld)
    );
    assert_eq!(ended("Error", json!({}), json!({})), None);
}

#[test]
fn a_made_up_exit_code_is_none() {
    let state = json!({"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}});
    let Observation::Ended(end) = look(&seen(json!({}), Some("n"), worker(state)), Node::Fine) else { panic!() };
    assert_eq!(end.exit, None);
}

#[test]
fn how_soon_it_will_be_gone_is_never_more_than_its_grace() {
    let seen = seen(deleted(), Some("n"), worker(json!({"running": {}})));
    assert_eq!(gone_within(&seen, Millis(540_000)), Some(Duration::from_secs(60)));
    // Our clock is behind the API server's.
    assert_eq!(gone_within(&seen, Millis(0)), Some(Duration::from_secs(300)));
    assert_eq!(gone_within(&seen, Millis(700_000)), Some(Duration::ZERO));
}

#[test]
fn annotations_that_do_not_fit_the_name_are_nobodys() {
    let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "x", "uid": "u",
        "annotations": {name::JOB: "a", name::ATTEMPT: "1"}}}))
    .unwrap();
    assert!(Seen::of(pod.clone()).is_none());
    pod.metadata.name = Some(name::pod(&AttemptId { job: "a".into(), attempt: 1 }));
    assert!(Seen::of(pod).is_some());
}
