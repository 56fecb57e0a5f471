//! Pods that never begin: each cause has its time, and then its words.

use super::dispatcher::{Dispatcher, attempt, pod, script};
use serde_json::json;

/// The job's end, and its attempt's verdict as one text.
fn failed(dispatcher: &Dispatcher, job: &str) -> (String, String) {
    let shown = dispatcher.wait(job, "failed");
    let attempt = attempt(&shown);
    (attempt["outcome"].as_str().unwrap().to_owned(), attempt["verdict"].to_string())
}

#[test]
fn a_pod_without_a_node_fails_with_the_schedulers_words() {
    let dispatcher = Dispatcher::with("schedule_within = \"1s\"\nended_ttl = \"1s\"", "nodeSelector: {no: where}");
    dispatcher.namespace.fake_nodes(1, "8", "32Gi");
    dispatcher.submit(&script("a", "true"));
    let (outcome, verdict) = failed(&dispatcher, "a");
    assert_eq!(outcome, "unschedulable");
    assert!(verdict.contains("nodes are available"), "{verdict}");
    dispatcher.namespace.wait_until_gone(&pod("a", 1));
}

#[test]
fn an_image_that_cannot_be_had_fails_with_the_kubelets_words() {
    let template = "metadata: {annotations: {sendo.test/wait-reason: ImagePullBackOff, sendo.test/message: no such tag}}\nspec: {}";
    let dispatcher = Dispatcher::with("pull_within = \"1s\"", template);
    dispatcher.namespace.fake_nodes(1, "8", "32Gi");
    dispatcher.submit(&script("a", "true"));
    let (outcome, verdict) = failed(&dispatcher, "a");
    assert_eq!(outcome, "image_unavailable");
    assert!(verdict.contains("no such tag"), "{verdict}");
    dispatcher.namespace.wait_until_gone(&pod("a", 1));
}

#[test]
fn a_container_that_cannot_be_made_is_the_infrastructures_fault() {
    let template = "metadata: {annotations: {sendo.test/wait-reason: CreateContainerConfigError, sendo.test/message: 'secret \"x\" not found'}}\nspec: {}";
    let dispatcher = Dispatcher::with("start_within = \"1s\"", template);
    let node = dispatcher.namespace.fake_nodes(1, "8", "32Gi").remove(0);
    let mut job = script("a", "true");
    job["retry"] = json!({"infrastructure_limit": 1, "backoff": "10ms"});
    dispatcher.submit(&job);
    let (outcome, verdict) = failed(&dispatcher, "a");
    assert_eq!(outcome, "container_not_started");
    assert!(verdict.contains("not found"), "{verdict}");
    // The second try would rather have gone to another node.
    let tries = dispatcher.sql("SELECT node, avoid_node FROM attempts ORDER BY attempt");
    assert_eq!(tries, [json!({"node": node, "avoid_node": null}), json!({"node": node, "avoid_node": node})]);
}

#[test]
fn a_pending_job_is_cancelled_at_once() {
    let dispatcher = Dispatcher::with("", "nodeSelector: {no: where}");
    dispatcher.submit(&script("a", "true"));
    dispatcher.wait("a", "setting_up");
    assert!(dispatcher.run(&["cancel", "a"]).status.success());
    let shown = dispatcher.wait("a", "cancelled");
    assert_eq!(attempt(&shown)["outcome"], "cancelled");
    dispatcher.namespace.wait_until_gone(&pod("a", 1));
}
