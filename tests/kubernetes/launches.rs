//! Creates that the API server answers with something else than yes.

use super::dispatcher::{Dispatcher, Setup, attempt, pod, refused, script};
use crate::env::{
    kubernetes::{agent::Agent, cluster},
    wait_for,
};
use serde_json::json;
use std::process::{Child, Command, Stdio};

#[test]
fn what_the_api_server_will_not_have_is_rejected_with_its_words() {
    let dispatcher =
        Dispatcher::with("max_memory = \"1Ti\"\nallow_images = [\"worker*\"]\n[limits]\nimages = [\"worker*\"]", "");
    let mut job = script("a", "true");
    job["image"] = json!("worker:1 ");
    dispatcher.submit(&job);
    let shown = dispatcher.wait("a", "rejected");
    assert_eq!(attempt(&shown)["outcome"], "create_failed");
    assert!(shown.to_string().contains("leading or trailing whitespace"), "{shown:#}");
    let mut job = script("b", "true");
    job["resources"]["memory"] = json!("2Ti");
    dispatcher.submit(&job);
    assert!(dispatcher.wait("b", "rejected").to_string().contains("resources.memory"));
    assert!(dispatcher.namespace.list("pods").is_empty());
}

#[test]
fn what_a_limit_range_forbids_is_rejected_with_its_words() {
    let most = json!({"type": "Container", "max": {"memory": "1Gi"}});
    let limits =
        json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "most"}, "spec": {"limits": [most]}});
    // There before the program, whose rehearsal it has room for: the API server has heard of it when the job comes.
    let dispatcher = Setup::on(cluster(), "", "").start_with(|namespace| namespace.apply(&limits));
    let mut job = script("a", "true");
    job["resources"]["memory"] = json!("1025Mi");
    dispatcher.submit(&job);
    let shown = dispatcher.wait("a", "rejected");
    assert_eq!(attempt(&shown)["outcome"], "create_failed");
    assert!(shown.to_string().contains("maximum memory usage per Container is 1Gi"), "{shown:#}");
    // The negative control: no more than may be.
    (job["id"], job["resources"]["memory"]) = (json!("b"), json!("1Gi"));
    dispatcher.submit(&job);
    dispatcher.wait_for_pod("b", "there", |_| true);
    assert_eq!(dispatcher.namespace.list("pods").len(), 1);
}

#[test]
fn a_full_quota_waits_and_says_so_and_one_that_never_fits_is_rejected() {
    let dispatcher = Dispatcher::start();
    dispatcher.namespace.fake_nodes(1, "8", "32Gi");
    dispatcher.namespace.apply(&json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
        "spec": {"hard": {"limits.memory": "100Mi"}}}));
    dispatcher.submit(&script("a", "true"));
    dispatcher.wait_for_pod("a", "there", |_| true);
    dispatcher.submit(&script("b", "true"));
    dispatcher.wait_for_log("exceeded quota: q");
    assert_eq!(dispatcher.json(&["show", "b"])["phase"], "queued");
    let mut job = script("c", "true");
    job["resources"]["memory"] = json!("101Mi");
    dispatcher.submit(&job);
    let shown = dispatcher.wait("c", "rejected");
    assert!(shown.to_string().contains("exceeded quota"), "{shown:#}");
    // Room for the other.
    dispatcher.run(&["cancel", "a"]);
    dispatcher.wait_for_pod("b", "there", |_| true);
}

#[test]
fn a_full_quota_lets_the_most_urgent_in_next_and_then_anothers_first() {
    let dispatcher = Dispatcher::start();
    let namespace = &dispatcher.namespace;
    namespace.fake_nodes(1, "8", "32Gi");
    namespace.kubectl(&["create", "quota", "two", "--hard=pods=2"]);
    let of = |id: &str, tenant: &str, priority: i32| {
        let mut job = script(id, "true");
        (job["tenant"], job["priority"]) = (json!(tenant), json!(priority));
        job
    };
    let flood: Vec<_> = (0..300).map(|number| of(&format!("a-{number:03}"), "a", 0)).collect();
    dispatcher.submit_all(&flood);
    let standing = || -> Vec<String> {
        let jobs = namespace.list("pods").into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let mut jobs: Vec<_> =
            jobs.map(|pod| pod["metadata"]["annotations"]["sendo.dev/job"].as_str().unwrap().to_owned()).collect();
        jobs.sort();
        jobs
    };
    let committed = || dispatcher.sql("SELECT COUNT(*) AS n FROM attempts")[0]["n"].as_i64().unwrap();
    wait_for("the quota to be full, and as many at the door as may be", || {
        (standing().len() == 2 && committed() > 128).then_some(())
    });
    let before = standing();
    dispatcher.submit(&of("urgent", "a", 9));
    dispatcher.submit(&of("b", "b", 0));
    for job in ["urgent", "b"] {
        dispatcher.wait_for_log(&format!("job=\"{job}\" attempt=1 why="));
    }
    // One place each time: had one of the two hundred and ninety-eight others got it, there would be none. Not more is said, for Kubernetes
    // may count a Pod too little for a moment, and let another in behind.
    dispatcher.run(&["cancel", &before[0]]);
    wait_for("the next to be the urgent one", || (standing().contains(&"urgent".to_owned())).then_some(()));
    dispatcher.run(&["cancel", &before[1]]);
    wait_for("the next to be the other tenant's", || (standing().contains(&"b".to_owned())).then_some(()));
}

#[test]
fn a_pod_that_exists_counts_and_a_strangers_does_not() {
    let dispatcher = Dispatcher::start();
    let namespace = &dispatcher.namespace;
    let (ours, strangers) = (pod("a", 1), pod("b", 1));
    let make = |name: &str, annotations: serde_json::Value| {
        namespace.apply(
            &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "annotations": annotations}, "spec": {
            "automountServiceAccountToken": false, "restartPolicy": "Never", "nodeSelector": {"no": "where"},
            "securityContext": {"runAsNonRoot": true, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "worker", "image": "x",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}}),
        );
        namespace.get("pod", name).unwrap()["metadata"]["uid"].clone()
    };
    // As if an earlier dispatcher had died before it heard the answer.
    let uid = make(&ours, json!({"sendo.dev/job": "a", "sendo.dev/attempt": "1"}));
    make(&strangers, json!({}));
    dispatcher.submit(&script("a", "true"));
    dispatcher.submit(&script("b", "true"));
    dispatcher.wait("a", "setting_up");
    assert_eq!(dispatcher.sql("SELECT uid FROM attempts WHERE job_id = 'a'")[0]["uid"], uid);
    let shown = dispatcher.wait("b", "rejected");
    assert!(shown.to_string().contains("not Sendo's"), "{shown:#}");
}

#[test]
fn an_api_server_that_asks_for_fewer_requests_is_heard_and_nothing_is_lost() {
    let dispatcher = Dispatcher::start();
    let _agent = Agent::start(&dispatcher.namespace, 1);
    let (namespace, cluster) = (&dispatcher.namespace, dispatcher.namespace.cluster);
    let name = format!("{}-nothing", namespace.name);
    // Its own priority and fairness lets one create of ours in, and turns away what comes meanwhile.
    let group = "flowcontrol.apiserver.k8s.io/v1";
    let one = json!({"nominalConcurrencyShares": 0, "lendablePercent": 0, "limitResponse": {"type": "Reject"}});
    cluster.apply(&json!({"apiVersion": group, "kind": "PriorityLevelConfiguration", "metadata": {"name": name},
        "spec": {"type": "Limited", "limited": one}}));
    let ours = json!({"kind": "ServiceAccount", "serviceAccount": {"name": "sendo", "namespace": namespace.name}});
    let creates = json!({"verbs": ["create"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["*"]});
    cluster.apply(&json!({"apiVersion": group, "kind": "FlowSchema", "metadata": {"name": name}, "spec": {
        "priorityLevelConfiguration": {"name": name}, "matchingPrecedence": 50,
        "rules": [{"subjects": [ours], "resourceRules": [creates]}]}}));
    // One whose body does not come to its end.
    let token = namespace.kubectl(&["create", "token", "sendo"]);
    let mut endless = Command::new("curl");
    endless.args(["-sk", "-X", "POST", "-T", "-", "-H", "Content-Type: application/json", "-H"]);
    endless.arg(format!("Authorization: Bearer {}", token.trim()));
    endless.arg(format!("{}/api/v1/namespaces/{}/pods", cluster.url, namespace.name));
    let mut endless = Held(endless.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap());
    wait_for("it to be in", || {
        let levels = cluster.run(&["get", "--raw", "/debug/api_priority_and_fairness/dump_priority_levels"]);
        let level = levels.lines().find(|line| line.starts_with(&name))?.split(',').nth(5)?;
        (level.trim() == "1").then_some(())
    });
    let jobs: Vec<_> = (0..6).map(|number| format!("j{number}")).collect();
    jobs.iter().for_each(|id| dispatcher.submit(&script(id, "true")));
    wait_for("each to say why it waits", || {
        let why = |id: &String| dispatcher.json(&["show", id])["waits_for"].as_str().unwrap_or_default().to_lowercase();
        jobs.iter().all(|id| why(id).contains("too many requests")).then_some(())
    });
    assert!(namespace.list("pods").is_empty());
    drop(endless.0.stdin.take());
    for id in &jobs {
        let shown = dispatcher.wait(id, "succeeded");
        assert_eq!(shown["attempts"].as_array().unwrap().len(), 1, "{shown:#}");
    }
    cluster.run(&["delete", "flowschema,prioritylevelconfiguration", &name]);
}

/// Ends with the test.
struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_template_that_would_fail_each_job_fails_the_start() {
    let said = refused("", "restartPolicy: Always\nnodeSelektor: {a: b}");
    assert!(said.contains("`spec.restartPolicy` is Sendo's own") && said.contains("no `spec.nodeSelektor`"), "{said}");
    // Only the API server knows this one.
    let said = refused("", "containers: [{name: side, image: x, securityContext: {privileged: true}}]");
    assert!(said.contains("violates PodSecurity"), "{said}");
    let said = refused("imago = \"x\"", "");
    assert!(said.contains("imago"), "{said}");
}
