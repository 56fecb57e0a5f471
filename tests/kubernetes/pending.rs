//! Pods that never begin: each cause has its time, and then its words.

use super::dispatcher::{Dispatcher, attempt, pod, script};
use crate::env::{kubernetes::agent::Agent, scratch, wait_for};
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

#[test]
fn on_a_full_cluster_no_more_pods_wait_than_may_and_jobs_say_so() {
    let dispatcher = Dispatcher::with("[limits]\nmax_pending = 2", "");
    // Room for two.
    let _agent = Agent::with_room(&dispatcher.namespace, 1, "250m", "8Gi");
    let place = scratch();
    let words = format!("until [ -e {} ]; do sleep 0.1; done", place.path().join("go").display());
    let jobs: Vec<_> = (0..7).map(|number| format!("j{number}")).collect();
    jobs.iter().for_each(|id| dispatcher.submit(&script(id, &words)));
    let phases = || jobs.iter().map(|id| dispatcher.json(&["show", id])).collect::<Vec<_>>();
    wait_for("two that run, two whose Pod waits, and three that say why they have none", || {
        let shown = phases();
        let count = |phase: &str| shown.iter().filter(|job| job["phase"] == phase).count();
        let said = |job: &&serde_json::Value| job["waits_for"].as_str().is_some_and(|why| why.contains("max_pending"));
        let counts = (count("executing"), count("setting_up"), shown.iter().filter(said).count());
        (counts == (2, 2, 3)).then_some(())
    });
    assert_eq!(dispatcher.namespace.list("pods").len(), 4);
    std::fs::write(place.path().join("go"), "").unwrap();
    jobs.iter().for_each(|id| {
        dispatcher.wait(id, "succeeded");
    });
}
