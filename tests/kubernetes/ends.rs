//! Pods that end without a report of their supervisor: what the kubelet and the node say, and what it has left with them.

use super::{
    dispatcher::{Dispatcher, Setup, attempt, pod, script},
    identity::{ask, token},
};
use crate::env::{
    free_port,
    kubernetes::{agent::Agent, cluster},
    scratch,
    toxiproxy::{Link, Way},
    wait_for,
};
use serde_json::json;
use std::fs;

fn fate(annotations: &str) -> String {
    format!("metadata: {{annotations: {{{annotations}}}}}\nspec: {{}}")
}

/// Starts one whose Pods meet this fate on a node of kwok's, and a job on it.
fn started(keys: &str, annotations: &str) -> (Dispatcher, String) {
    let dispatcher = Dispatcher::with(keys, &fate(annotations));
    let node = dispatcher.namespace.fake_nodes(1, "8", "32Gi").remove(0);
    dispatcher.submit(&script("a", "true"));
    (dispatcher, node)
}

#[track_caller]
fn ended(dispatcher: &Dispatcher, outcome: &str) {
    let shown = dispatcher.wait("a", "failed");
    assert_eq!(attempt(&shown)["outcome"], outcome, "{shown:#}");
    dispatcher
        .namespace
        .wait_for_pod(&pod("a", 1), "released or gone", |pod| pod["metadata"]["finalizers"].is_null().then_some(()));
}

#[test]
fn an_oom_kill_that_took_the_supervisor_too_is_told_by_the_kubelet() {
    let (dispatcher, _) =
        started("", "sendo.test/duration: 100ms, sendo.test/exit-code: '137', sendo.test/reason: OOMKilled");
    ended(&dispatcher, "out_of_memory");
}

#[test]
fn an_unsigned_message_is_no_success() {
    let (dispatcher, _) = started("", "sendo.test/duration: 100ms, sendo.test/message: 'succeeded, believe me'");
    let shown = dispatcher.wait("a", "held");
    assert_eq!(attempt(&shown)["outcome"], "lost", "{shown:#}");
    assert!(attempt(&shown)["verdict"].to_string().contains("entry point"), "{shown:#}");
}

#[test]
fn a_signed_message_is_believed_before_the_exit_code_and_a_forged_one_is_not() {
    let heard = free_port();
    let reports = Link::to(heard);
    let way = format!("http://127.0.0.1:{}", reports.port);
    let dispatcher = Setup::on(cluster(), "", "").workers(heard, way).start();
    let agent = Agent::start(&dispatcher.namespace, 1);
    let place = scratch();
    let go = place.path().join("go");
    for (id, code) in [("told", 0), ("forged", 3)] {
        let words = format!("until [ -e {} ]; do sleep 0.1; done; exit {code}", go.display());
        dispatcher.submit(&script(id, &words));
        dispatcher.wait(id, "executing");
    }
    // How they end nobody hears but by their Pods.
    reports.hold(Way::Requests);
    fs::write(&go, "").unwrap();
    let message = |id: &str| agent.folder(&pod(id, 1)).join("termination-log");
    let [told, own] = ["told", "forged"].map(|id| {
        let whole = |text: &String| text.contains("\"ending\"");
        wait_for("the last word", || fs::read_to_string(message(id)).ok().filter(whole))
    });
    // What another attempt has rightly signed, under this one's name.
    let forged = told.replace("\"job\":\"told\"", "\"job\":\"forged\"");
    assert!(forged != told && !own.contains("\"succeeded\""), "{told}\n{own}");
    fs::write(message("forged"), forged).unwrap();
    for id in ["told", "forged"] {
        assert_eq!(dispatcher.json(&["show", id])["phase"], "executing");
        agent.kill_init(&pod(id, 1));
    }
    let shown = dispatcher.wait("told", "succeeded");
    let one = attempt(&shown);
    let told = (&one["outcome"], &one["evidence"], &one["exit_code"]);
    assert_eq!(told, (&json!("succeeded"), &json!(3), &json!(0)), "{shown:#}");
    let ended = dispatcher.wait_for_pod("told", "released", |pod| pod["metadata"]["finalizers"].is_null());
    let code = &ended["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"];
    assert_eq!(*code, 137, "what the kubelet says by itself");
    // The negative control: of the forged one nothing counts but that.
    let shown = dispatcher.wait("forged", "failed");
    let one = attempt(&shown);
    assert_eq!((&one["outcome"], &one["evidence"]), (&json!("killed"), &json!(2)), "{shown:#}");
}

#[test]
fn an_end_without_leave_says_so() {
    let (dispatcher, _) = started("", "sendo.test/duration: 100ms, sendo.test/exit-code: '75'");
    ended(&dispatcher, "never_granted");
}

#[test]
fn an_evicted_pod_says_so() {
    let (dispatcher, _) = started("", "sendo.test/term-delay: 200ms, sendo.test/term-exit-code: '137'");
    let name = pod("a", 1);
    dispatcher.namespace.wait_for_phase(&name, "Running");
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    let path = format!("/api/v1/namespaces/{}/pods/{name}/eviction", dispatcher.namespace.name);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), eviction.to_string()).unwrap();
    dispatcher.namespace.kubectl(&["create", "--raw", &path, "-f", file.path().to_str().unwrap()]);
    let shown = dispatcher.wait("a", "failed");
    assert_eq!(attempt(&shown)["outcome"], "evicted", "{shown:#}");
    assert!(shown.to_string().contains("EvictionByEvictionAPI"), "{shown:#}");
    dispatcher.namespace.wait_until_gone(&name);
}

#[test]
fn a_pod_that_somebody_deletes_has_ended_when_the_kubelet_says_so() {
    let (dispatcher, _) = started("", "sendo.test/term-delay: 200ms, sendo.test/term-exit-code: '137'");
    let name = pod("a", 1);
    dispatcher.namespace.wait_for_phase(&name, "Running");
    dispatcher.namespace.kubectl(&["delete", "pod", &name, "--wait=false"]);
    let shown = dispatcher.wait("a", "failed");
    assert_eq!(attempt(&shown)["outcome"], "deleted", "{shown:#}");
    dispatcher.namespace.wait_until_gone(&name);
}

#[test]
fn a_node_that_is_vouched_to_be_off_ends_its_pods_and_a_deletion_alone_does_not() {
    let (dispatcher, node) = started("", "sendo.test/term-delay: 1h");
    let name = pod("a", 1);
    dispatcher.namespace.wait_for_phase(&name, "Running");
    dispatcher.namespace.kubectl(&["delete", "pod", &name, "--wait=false", "--grace-period=1"]);
    // The negative control: it is asked to go, its grace is over, and nobody says that it is gone.
    dispatcher.submit(&script("b", "true"));
    dispatcher.namespace.wait_for_phase(&pod("b", 1), "Running");
    assert_eq!(dispatcher.json(&["show", "a"])["phase"], "setting_up");
    dispatcher.namespace.kubectl(&[
        "taint",
        "node",
        &node,
        "node.kubernetes.io/out-of-service=nodeshutdown:NoSchedule",
    ]);
    let shown = dispatcher.wait("a", "failed");
    assert_eq!(attempt(&shown)["outcome"], "node_lost", "{shown:#}");
    assert!(shown.to_string().contains("out-of-service"), "{shown:#}");
}

#[test]
fn a_node_that_is_gone_is_an_end_only_where_the_settings_trust_that() {
    let end = |trust: bool| {
        let (dispatcher, node) = started(&format!("trust_node_deletion = {trust}"), "sendo.test/term-delay: 1h");
        let name = pod("a", 1);
        dispatcher.namespace.wait_for_phase(&name, "Running");
        dispatcher.namespace.kubectl(&["delete", "pod", &name, "--wait=false"]);
        dispatcher.namespace.kubectl(&["delete", "node", &node]);
        dispatcher
    };
    let (trusting, doubting) = (end(true), end(false));
    let shown = trusting.wait("a", "failed");
    assert_eq!(attempt(&shown)["outcome"], "node_lost", "{shown:#}");
    assert_eq!(doubting.json(&["show", "a"])["phase"], "setting_up");
}

#[test]
fn a_pod_that_is_asked_to_go_while_its_grant_is_on_the_way_has_run_nothing_and_is_tried_again() {
    let heard = free_port();
    let reports = Link::to(heard);
    let way = format!("http://127.0.0.1:{}", reports.port);
    let dispatcher = Setup::on(cluster(), "", "").workers(heard, way).start();
    let _agent = Agent::start(&dispatcher.namespace, 1);
    reports.hold(Way::Answers);
    let mut job = script("a", "true");
    job["retry"] = json!({"infrastructure_limit": 1, "backoff": "100ms"});
    dispatcher.submit(&job);
    let granted = "SELECT 1 AS yes FROM attempts WHERE granted_at_ms IS NOT NULL";
    wait_for("the grant to be committed", || (!dispatcher.sql(granted).is_empty()).then_some(()));
    dispatcher.namespace.kubectl(&["delete", "pod", &pod("a", 1), "--wait=false"]);
    // Only the process that was granted says so, and nobody has to look: it may be run again although it may not be repeated.
    let ended = wait_for("its end", || {
        let shown = dispatcher.json(&["show", "a"]);
        (!shown["attempts"][0]["outcome"].is_null()).then(|| shown["attempts"][0].clone())
    });
    assert_eq!((&ended["outcome"], &ended["evidence"]), (&json!("never_granted"), &json!(2)), "{ended:#}");
    reports.renew();
    dispatcher.wait("a", "succeeded");
}

#[test]
fn an_attempt_whose_end_is_in_doubt_waits_until_somebody_cancels_it() {
    let (dispatcher, _) = started("", "");
    let name = pod("a", 1);
    dispatcher.namespace.wait_for_phase(&name, "Running");
    assert_eq!(ask(&dispatcher, "a", "n", &token(&dispatcher, &name, "sendo")).1["answer"], "granted");
    // What a kubelet says of a second start, which was turned away.
    let ended = json!({"name": "worker", "image": "worker", "imageID": "", "ready": false, "restartCount": 1,
        "state": {"terminated": {"exitCode": 75, "reason": "Error"}}});
    let patch = json!({"status": {"phase": "Failed", "containerStatuses": [ended]}}).to_string();
    dispatcher.namespace.kubectl(&["patch", "pod", &name, "--subresource=status", "--type=merge", "-p", &patch]);
    dispatcher.wait_for_log("its container was started twice");
    assert_eq!(dispatcher.json(&["show", "a"])["phase"], "setting_up");
    assert!(dispatcher.run(&["cancel", "a"]).status.success());
    dispatcher.wait("a", "cancelled");
    // Whatever may still run there goes with its Pod.
    dispatcher.namespace.wait_until_gone(&name);
}
