//! A cancel wherever a job stands on its way through a Pod; each with a grace that is its own, and not the job's hours.

use super::{
    dispatcher::{Dispatcher, attempt, pod, script},
    scene::Scene,
};
use crate::env::{kubernetes::agent::Agent, ledgers::Database, toxiproxy::Way};
use serde_json::{Value, json};

/// A job that would have hours to end in.
fn patient(id: &str, words: &str) -> Value {
    let mut job = script(id, words);
    job["grace"] = json!("5h");
    job
}

/// How long its Pod has from the cancel to KILL.
fn grace(dispatcher: &Dispatcher, id: &str, at_most: u64) {
    dispatcher.wait_for_pod(id, "asked to go", |pod| {
        pod["metadata"]["deletionGracePeriodSeconds"].as_u64().is_some_and(|seconds| seconds <= at_most)
    });
}

#[test]
fn before_its_pod_exists_though_the_api_server_is_out_of_reach() {
    let scene = Scene::new(Database::Sqlite);
    scene.api.reset(Way::Requests);
    for id in ["a", "b"] {
        scene.open(id);
        scene.dispatcher.submit(&scene.job(id));
    }
    scene.dispatcher.wait_for_log("cannot be launched now");
    assert!(scene.dispatcher.run(&["cancel", "a"]).status.success());
    let shown = scene.dispatcher.wait("a", "cancelled");
    assert_eq!(attempt(&shown)["outcome"], "cancelled");
    scene.api.renew();
    // The other one was only late.
    scene.dispatcher.wait("b", "succeeded");
    assert_eq!(scene.dispatcher.namespace.get("pod", &pod("a", 1)), None);
    assert_eq!(scene.runs(), ["b", "b over"]);
}

#[test]
fn while_its_pod_waits_for_its_image() {
    let template = "metadata: {annotations: {sendo.test/wait-reason: ImagePullBackOff}}\nspec: {}";
    let dispatcher = Dispatcher::with("", template);
    dispatcher.namespace.fake_nodes(1, "8", "32Gi");
    dispatcher.submit(&patient("a", "true"));
    dispatcher.wait_for_pod("a", "waiting", |pod| !pod["status"]["containerStatuses"].is_null());
    let before = dispatcher.namespace.get("pod", &pod("a", 1)).unwrap();
    assert_eq!(before["spec"]["terminationGracePeriodSeconds"], 5 * 3600 + 10, "the control: it has hours");
    assert!(dispatcher.run(&["cancel", "a"]).status.success());
    let shown = dispatcher.wait("a", "cancelled");
    assert_eq!(attempt(&shown)["outcome"], "cancelled");
    dispatcher.namespace.wait_until_gone(&pod("a", 1));
}

#[test]
fn while_it_executes_and_will_not_hear() {
    let dispatcher = Dispatcher::start();
    let _agent = Agent::start(&dispatcher.namespace, 1);
    dispatcher.submit(&patient("a", "trap '' TERM; while :; do sleep 0.1; done"));
    dispatcher.wait("a", "executing");
    assert!(dispatcher.run(&["cancel", "a"]).status.success());
    grace(&dispatcher, "a", 20);
    let shown = dispatcher.wait("a", "cancelled");
    assert_eq!((&attempt(&shown)["outcome"], &attempt(&shown)["evidence"]), (&json!("cancelled"), &json!(4)));
    dispatcher.namespace.wait_until_gone(&pod("a", 1));
}

#[test]
fn while_it_is_stopping_and_may_finish_for_hours() {
    let dispatcher = Dispatcher::start();
    let _agent = Agent::start(&dispatcher.namespace, 1);
    dispatcher.submit(&patient("a", "sleep 600"));
    dispatcher.wait("a", "executing");
    dispatcher.namespace.kubectl(&["delete", "pod", &pod("a", 1), "--wait=false"]);
    dispatcher.wait("a", "stopping");
    assert!(dispatcher.run(&["cancel", "a"]).status.success());
    let shown = dispatcher.wait("a", "cancelled");
    let phases: Vec<_> = shown["transitions"].as_array().unwrap().iter().map(|one| one["to_phase"].clone()).collect();
    assert_eq!(phases, ["queued", "setting_up", "executing", "stopping", "cancelled"]);
    dispatcher.namespace.wait_until_gone(&pod("a", 1));
}
