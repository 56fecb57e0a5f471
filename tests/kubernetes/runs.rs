//! Pods that really run: the supervisor asks, is granted, reports, and the Pod goes.

use super::dispatcher::{Dispatcher, attempt, pod, script};
use crate::env::{
    kubernetes::{Cluster, agent::Agent},
    scratch, wait_for,
};
use serde_json::{Value, json};

#[test]
fn a_job_runs_in_its_pod_and_leaves_nothing_behind() {
    let dispatcher = Dispatcher::with("ended_ttl = \"1s\"", "");
    let agent = Agent::start(&dispatcher.namespace, 1);
    dispatcher.namespace.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "acme-dwh"},
        "stringData": {"password": "hunter2"}}));
    let mut job = script("acme:orders.1", "echo the price is '$(PRICE)'; sleep 0.5");
    job["secrets"] = json!({"dwh": {"name": "acme-dwh", "key": "password"}});
    dispatcher.submit(&job);
    let name = pod("acme:orders.1", 1);
    // It is kept until its end is in the ledger, and its output is as the job had it.
    dispatcher
        .wait_for_pod("acme:orders.1", "held", |pod| pod["metadata"]["finalizers"] == json!(["sendo.dev/ledger"]));
    let secret = agent.folder(&name).join("volumes/sendo-secrets/dwh");
    wait_for("the secret", || (std::fs::read_to_string(&secret).ok()? == "hunter2").then_some(()));
    wait_for("the output", || agent.output(&name).contains("the price is $(PRICE)").then_some(()));
    let shown = dispatcher.wait("acme:orders.1", "succeeded");
    assert_eq!(attempt(&shown)["outcome"], "succeeded");
    let phases: Vec<_> = shown["transitions"].as_array().unwrap().iter().map(|one| one["to_phase"].clone()).collect();
    assert_eq!(phases, ["queued", "setting_up", "executing", "succeeded"]);
    dispatcher.namespace.wait_until_gone(&name);
    let row =
        &dispatcher.sql("SELECT uid, evidence, conflicts, released_at_ms - ended_at_ms AS held_ms FROM attempts")[0];
    assert_eq!((row["evidence"].as_i64(), row["conflicts"].as_i64()), (Some(4), Some(0)));
    assert!(row["uid"].as_str().unwrap().len() == 36, "{row}");
    assert!(!row["held_ms"].is_null());
}

#[test]
fn a_container_that_is_started_twice_runs_once() {
    let dispatcher = Dispatcher::start();
    let agent = Agent::start(&dispatcher.namespace, 1);
    let place = scratch();
    let (ran, go) = (place.path().join("ran"), place.path().join("go"));
    let words = format!("echo x >> {}; while [ ! -e {} ]; do sleep 0.1; done", ran.display(), go.display());
    dispatcher.submit(&script("a", &words));
    dispatcher.wait("a", "executing");
    let runs = || std::fs::read_to_string(&ran).unwrap_or_default();
    wait_for("the transfer", || (runs() == "x\n").then_some(()));
    agent.start_again(&pod("a", 1));
    // It asks, and is told that another has it.
    let name = pod("a", 1);
    wait_for("the second to be turned away", || {
        let output = agent.output(&name);
        output.contains("superseded").then_some(())
    });
    // The kubelet shows the end of the second, and that is no end of the first.
    wait_for("a look at that", || {
        assert_eq!(dispatcher.json(&["show", "a"])["phase"], "executing");
        dispatcher.log().contains("its container was started twice").then_some(())
    });
    std::fs::write(&go, "").unwrap();
    dispatcher.wait("a", "succeeded");
    assert_eq!(runs(), "x\n");
}

#[test]
fn a_pod_that_is_made_again_under_the_same_name_runs_nothing() {
    let dispatcher = Dispatcher::start();
    let agent = Agent::start(&dispatcher.namespace, 1);
    let place = scratch();
    let ran = place.path().join("ran");
    dispatcher.submit(&script("a", &format!("echo x >> {}; sleep 600", ran.display())));
    dispatcher.wait("a", "executing");
    let name = pod("a", 1);
    let first = dispatcher.namespace.get("pod", &name).unwrap();
    // Somebody takes it away by force, and a late request makes it again.
    dispatcher.namespace.kubectl(&["patch", "pod", &name, "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#]);
    dispatcher.namespace.kubectl(&["delete", "pod", &name, "--grace-period=0", "--force"]);
    dispatcher.namespace.wait_until_gone(&name);
    dispatcher.namespace.apply(&again(&first));
    dispatcher.namespace.wait_for_phase(&name, "Failed");
    assert_eq!(std::fs::read_to_string(&ran).unwrap(), "x\n");
    let bound = dispatcher.sql("SELECT uid FROM attempts")[0]["uid"].clone();
    assert_eq!(bound, first["metadata"]["uid"]);
    assert!(agent.output(&name).contains("another place has this attempt"), "{}", agent.output(&name));
}

/// What a create would have sent.
fn again(pod: &Value) -> Value {
    let mut spec = pod["spec"].clone();
    spec.as_object_mut().unwrap().remove("nodeName");
    let meta = &pod["metadata"];
    json!({"apiVersion": "v1", "kind": "Pod", "spec": spec,
        "metadata": {"name": meta["name"], "labels": meta["labels"], "annotations": meta["annotations"]}})
}

#[test]
fn a_running_job_is_cancelled_through_its_pod() {
    let dispatcher = Dispatcher::start();
    let _agent = Agent::start(&dispatcher.namespace, 1);
    dispatcher.submit(&script("a", "sleep 600"));
    dispatcher.wait("a", "executing");
    assert!(dispatcher.run(&["cancel", "a"]).status.success());
    let shown = dispatcher.wait("a", "cancelled");
    assert_eq!(attempt(&shown)["outcome"], "cancelled");
    dispatcher.namespace.wait_until_gone(&pod("a", 1));
}

#[test]
fn an_evicted_pod_drains_within_what_is_left_of_its_grace() {
    let dispatcher = Dispatcher::start();
    let _agent = Agent::start(&dispatcher.namespace, 1);
    let mut job = script("a", "sleep 600");
    job["grace"] = json!("5h");
    dispatcher.submit(&job);
    dispatcher.wait("a", "executing");
    // The autoscaler caps the grace; the supervisor knows the job's alone, until the ledger tells it.
    dispatcher.namespace.kubectl(&["delete", "pod", &pod("a", 1), "--wait=false", "--grace-period=3"]);
    let shown = wait_for("the end", || {
        let shown = dispatcher.json(&["show", "a"]);
        (!attempt(&shown)["outcome"].is_null()).then_some(shown)
    });
    assert_eq!(attempt(&shown)["outcome"], "drained", "{shown:#}");
    assert_eq!(
        dispatcher.sql("SELECT evidence FROM attempts")[0]["evidence"],
        4,
        "by its own record, and not by the kubelet's KILL"
    );
}

#[test]
fn a_dispatcher_that_is_killed_finds_its_pods_again() {
    let mut dispatcher = Dispatcher::start();
    let _agent = Agent::start(&dispatcher.namespace, 1);
    let place = scratch();
    let go = place.path().join("go");
    for id in ["a", "b", "c"] {
        dispatcher.submit(&script(id, &format!("while [ ! -e {} ]; do sleep 0.1; done", go.display())));
    }
    dispatcher.wait_for_pod("a", "there", |_| true);
    dispatcher.kill();
    std::fs::write(&go, "").unwrap();
    dispatcher.restart();
    for id in ["a", "b", "c"] {
        let shown = dispatcher.wait(id, "succeeded");
        assert_eq!(shown["attempts"].as_array().unwrap().len(), 1, "{shown:#}");
        dispatcher.wait_for_pod(id, "released", |pod| pod["metadata"]["finalizers"].is_null());
    }
}

#[test]
fn while_the_api_server_is_away_nothing_is_decided_and_jobs_run_on() {
    // Its own: the others' must not be broken. It goes with the test run.
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::start()));
    let dispatcher = Dispatcher::on(cluster, "watch_limit = \"5s\"", "");
    let _agent = Agent::start(&dispatcher.namespace, 1);
    let place = scratch();
    let go = place.path().join("go");
    dispatcher.submit(&script("a", &format!("while [ ! -e {} ]; do sleep 0.1; done", go.display())));
    dispatcher.wait("a", "executing");
    cluster.kill_api_server();
    dispatcher.wait_for_log("cannot be seen; nothing is decided");
    assert_eq!(dispatcher.json(&["show", "a"])["phase"], "executing");
    // Its supervisor is known by keys that were read before.
    std::fs::write(&go, "").unwrap();
    dispatcher.wait("a", "succeeded");
    dispatcher.submit(&script("b", "true"));
    dispatcher.wait_for_log("cannot be launched now");
    cluster.return_api_server();
    dispatcher.wait("b", "succeeded");
    dispatcher.wait_for_pod("a", "released", |pod| pod["metadata"]["finalizers"].is_null());
}
