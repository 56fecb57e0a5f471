//! A node that nobody hears of, and the word of a person who has looked.

use super::dispatcher::{Dispatcher, Setup, pod, script};
use crate::env::{
    free_port, is_alive, kill,
    kubernetes::{agent::Agent, cluster},
    scratch, stderr,
    toxiproxy::{Link, Way},
    wait_for,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;

#[test]
fn a_strict_attempt_on_a_node_that_nobody_hears_of_ends_with_its_lease() {
    let dispatcher = Setup::on(cluster(), "", "").program("lease = \"8s\"").start();
    // More than can be lost.
    let agent = Agent::start(&dispatcher.namespace, 3);
    let place = scratch();
    let ran = place.path().join("ran");
    let words = format!("echo x >> {0}; [ $(wc -l < {0}) = 2 ] || exec sleep 600", ran.display());
    for (id, words) in [("strict", words.as_str()), ("patient", "exec sleep 600")] {
        let mut job = script(id, words);
        job["fencing"] = json!(id);
        job["retry"] = json!({"idempotent": true, "infrastructure_limit": 1, "backoff": "100ms"});
        dispatcher.submit(&job);
        dispatcher.wait(id, "executing");
    }
    // Both machines lose their power: nobody says so, and the Pods stand as if they ran.
    for id in ["strict", "patient"] {
        let standing = dispatcher.namespace.get("pod", &pod(id, 1)).unwrap();
        agent.lose(standing["spec"]["nodeName"].as_str().unwrap());
        kill(agent.init(&pod(id, 1)), Signal::SIGKILL);
    }
    let shown = dispatcher.wait("strict", "succeeded");
    let ended = &shown["attempts"][0];
    assert_eq!(ended["outcome"], "lost", "{shown:#}");
    assert!(ended["verdict"].to_string().contains("its lease"), "{shown:#}");
    assert_eq!(dispatcher.namespace.get("pod", &pod("strict", 1)).unwrap()["status"]["phase"], "Running");
    // The negative control: without a lease nothing is concluded.
    let patient = dispatcher.json(&["show", "patient"]);
    assert!(patient["attempts"][0]["outcome"].is_null(), "{patient:#}");
}

#[test]
fn what_the_node_of_an_attempt_that_ended_with_its_lease_has_to_say_is_heard_when_it_is_back() {
    let heard = free_port();
    let workers = Link::to(heard);
    let setup = Setup::on(cluster(), "", "").program("lease = \"8s\"\nlinger = \"1s\"");
    let dispatcher = setup.workers(heard, format!("http://127.0.0.1:{}", workers.port)).start();
    let agent = Agent::start(&dispatcher.namespace, 2);
    let mut job = script("a", "exec sleep 600");
    job["fencing"] = json!("strict");
    dispatcher.submit(&job);
    dispatcher.wait("a", "executing");
    let node = dispatcher.namespace.get("pod", &pod("a", 1)).unwrap()["spec"]["nodeName"].as_str().unwrap().to_owned();
    // Its network is cut off, both ways.
    agent.lose(&node);
    workers.hold(Way::Requests);
    let shown = dispatcher.wait("a", "held");
    assert_eq!(shown["attempts"][0]["outcome"], "lost", "{shown:#}");
    agent.find(&node);
    let shown = wait_for("its supervisor's last word", || {
        let shown = dispatcher.json(&["show", "a"]);
        (shown["attempts"][0]["outcome"] == "fenced").then_some(shown)
    });
    assert_eq!(
        shown["attempts"][0]["evidence"], 3,
        "by the Pod's status, for the other way is still cut off: {shown:#}"
    );
    wait_for("its Pod to be let go", || {
        let pod = dispatcher.namespace.get("pod", &pod("a", 1));
        pod.is_none_or(|pod| pod["metadata"]["finalizers"].is_null()).then_some(())
    });
}

#[test]
fn an_attempt_on_a_node_that_nobody_hears_of_ends_by_a_persons_word() {
    let dispatcher = Dispatcher::start();
    let agent = Agent::start(&dispatcher.namespace, 2);
    let place = scratch();
    let (ran, go) = (place.path().join("ran"), place.path().join("go"));
    let words = format!("echo x >> {}; while [ ! -e {} ]; do sleep 0.1; done", ran.display(), go.display());
    let mut job = script("a", &words);
    job["retry"] = json!({"idempotent": true, "infrastructure_limit": 1, "backoff": "100ms"});
    dispatcher.submit(&job);
    dispatcher.wait("a", "executing");
    let runs = || fs::read_to_string(&ran).unwrap_or_default();
    wait_for("the transfer", || (runs() == "x\n").then_some(()));
    let (first, init) = (pod("a", 1), agent.init(&pod("a", 1)));
    let node = dispatcher.namespace.get("pod", &first).unwrap()["spec"]["nodeName"].as_str().unwrap().to_owned();
    agent.lose(&node);
    // The scheduler knows it by the taint, which comes behind the condition.
    let is_lost = |node: &Value| {
        let taints = node["spec"]["taints"].as_array()?;
        taints
            .iter()
            .find(|one| one["key"] == "node.kubernetes.io/unreachable" && one["effect"] == "NoSchedule")
            .map(|_| ())
    };
    wait_for("the node to be known as lost", || is_lost(&dispatcher.namespace.get("node", &node)?));
    // The negative control: whatever Kubernetes makes of that, it proves nothing.
    dispatcher.namespace.kubectl(&["delete", "pod", &first, "--wait=false", "--grace-period=1"]);
    let shown = dispatcher.json(&["show", "a"]);
    assert_eq!(shown["attempts"].as_array().unwrap().len(), 1, "{shown:#}\n{}", dispatcher.log());
    // Not the one that the person has looked at.
    let another = dispatcher.run(&["confirm-dead", "a", "--attempt", "2", "--reason", "it is off"]);
    assert!(!another.status.success() && stderr(&another).contains("living attempt is 1"), "{}", stderr(&another));
    let silent = dispatcher.run(&["confirm-dead", "a", "--attempt", "1", "--reason", " "]);
    assert!(!silent.status.success() && stderr(&silent).contains("`reason`"), "{}", stderr(&silent));
    let said = dispatcher.json(&["confirm-dead", "a", "--attempt", "1", "--reason", "its machine is off"]);
    assert_eq!(said["result"], "ended");
    dispatcher.namespace.wait_for_pod(&pod("a", 2), "a node", |pod| (!pod["spec"]["nodeName"].is_null()).then_some(()));
    wait_for("the second to run", || (runs() == "x\nx\n").then_some(()));
    // The person was wrong, for all that this test knows: what still runs is told so at its next report, and stops.
    wait_for("the first to stop", || (!is_alive(init)).then_some(()));
    wait_for("its Pod to be let go", || {
        let pod = dispatcher.namespace.get("pod", &first);
        pod.is_none_or(|pod| pod["metadata"]["finalizers"].is_null()).then_some(())
    });
    fs::write(&go, "").unwrap();
    let shown = dispatcher.wait("a", "succeeded");
    let ended = &shown["attempts"][0];
    assert_eq!(ended["outcome"], "lost", "{shown:#}");
    assert!(ended["verdict"].to_string().contains("its machine is off"), "{shown:#}");
    let late = dispatcher.run(&["confirm-dead", "a", "--attempt", "2", "--reason", "it is off"]);
    assert!(!late.status.success() && stderr(&late).contains("no living attempt"), "{}", stderr(&late));
}
