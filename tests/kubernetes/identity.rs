//! Who may ask for an attempt: its own Pod, with a token of its own, for our audience.

use super::dispatcher::{Dispatcher, pod, script};
use serde_json::Value;
use std::process::Command;

/// A token of a service account, bound to a Pod.
pub fn token(dispatcher: &Dispatcher, pod: &str, audience: &str) -> String {
    let words = ["create", "token", "sendo-worker", "--bound-object-kind", "Pod", "--bound-object-name", pod];
    dispatcher.namespace.kubectl(&[&words[..], &["--audience", audience]].concat()).trim().to_owned()
}

/// What the ledger answers to a request for leave: its status, and the body.
pub fn ask(dispatcher: &Dispatcher, job: &str, nonce: &str, token: &str) -> (u16, Value) {
    let body = format!("{{\"job\": \"{job}\", \"attempt\": 1, \"nonce\": \"{nonce}\"}}");
    let output = Command::new("curl")
        .args(["-s", "-w", "\n%{http_code}", "-H", "Content-Type: application/json", "-d", &body])
        .arg("-H")
        .arg(format!("Authorization: Bearer {token}"))
        .arg(format!("{}/v1/grants", dispatcher.workers))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), serde_json::from_str(body).unwrap_or_default())
}

#[test]
fn only_the_attempts_own_pod_is_granted_and_only_once() {
    let dispatcher = Dispatcher::start();
    // Nothing runs on these: the test speaks for the Pods.
    dispatcher.namespace.fake_nodes(1, "8", "32Gi");
    for id in ["a", "b"] {
        dispatcher.submit(&script(id, "true"));
        dispatcher.wait_for_pod(id, "running", |pod| pod["status"]["phase"] == "Running");
    }
    let (a, b) = (pod("a", 1), pod("b", 1));
    assert_eq!(ask(&dispatcher, "a", "n1", "").0, 401, "no token");
    assert_eq!(ask(&dispatcher, "a", "n1", "nonsense").0, 401);
    let other_audience = token(&dispatcher, &a, "https://kubernetes.default.svc");
    assert_eq!(ask(&dispatcher, "a", "n1", &other_audience).0, 401, "another audience");
    let unbound = dispatcher.namespace.kubectl(&["create", "token", "sendo-worker", "--audience", "sendo"]);
    assert_eq!(ask(&dispatcher, "a", "n1", unbound.trim()).0, 401, "bound to no Pod");
    assert_eq!(ask(&dispatcher, "a", "n1", &token(&dispatcher, &b, "sendo")).0, 403, "another Pod");
    // None of them has taken anything.
    assert_eq!(dispatcher.sql("SELECT nonce FROM attempts WHERE nonce IS NOT NULL").len(), 0);

    let good = token(&dispatcher, &a, "sendo");
    let answers = std::thread::scope(|scope| {
        let both = ["n1", "n2"].map(|nonce| scope.spawn(|| ask(&dispatcher, "a", nonce, &good)));
        both.map(|one| one.join().unwrap())
    });
    let granted: Vec<_> = answers.iter().filter(|(_, answer)| answer["answer"] == "granted").collect();
    assert_eq!(granted.len(), 1, "two at once: {answers:?}");
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    // The same one may ask again.
    let nonce = dispatcher.sql("SELECT nonce FROM attempts WHERE job_id = 'a'")[0]["nonce"].clone();
    assert_eq!(ask(&dispatcher, "a", nonce.as_str().unwrap(), &good).1["answer"], "granted");
}
