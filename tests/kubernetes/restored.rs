//! A ledger that was restored from a backup: what runs goes on, and nothing of it is started again.

use super::dispatcher::{Dispatcher, pod, script};
use crate::env::{is_alive, kubernetes::agent::Agent, scratch, stderr, wait_for};
use serde_json::json;
use std::{fs, path::Path};

/// The ledger's files, out of one folder into another.
fn copy_ledger(from: &Path, to: &Path) {
    for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
        let _ = fs::remove_file(to.join(name));
        if from.join(name).exists() {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

#[test]
fn what_began_after_the_backup_is_adopted_and_goes_on() {
    let mut dispatcher = Dispatcher::start();
    let agent = Agent::with_room(&dispatcher.namespace, 1, "10", "8Gi");
    let (place, backup) = (scratch(), scratch());
    let (go, state) = (place.path().join("go"), dispatcher.state());
    let file = |name: &str| place.path().join(name);
    let runs = |name: &str| fs::read_to_string(file(name)).unwrap_or_default();
    let waits =
        |name: &str| format!("echo x >> {}; while [ ! -e {} ]; do sleep 0.1; done", file(name).display(), go.display());
    // In the backup one job has not begun, another has a Pod that waits for its node, and a third runs.
    let paused = dispatcher.run(&["pause", "tenant", "late"]);
    assert!(paused.status.success(), "{}", stderr(&paused));
    let mut queued = script(
        "queued",
        &format!("[ -e {0} ] || {{ touch {0}; exit 1; }}; {1}", file("once").display(), waits("queued")),
    );
    queued["tenant"] = json!("late");
    queued["retry"] = json!({"limit": 1, "idempotent": true, "backoff": "100ms"});
    dispatcher.submit(&queued);
    let mut early = script("early", &waits("early"));
    early["resources"]["cpu"] = json!("20");
    dispatcher.submit(&early);
    dispatcher.submit(&script("old", &waits("old")));
    dispatcher.wait("early", "setting_up");
    dispatcher.wait("old", "executing");
    dispatcher.kill();
    copy_ledger(&state, backup.path());
    dispatcher.restart();
    // After it that one comes to its second attempt, the waiting one begins, another begins too, and one more begins and ends.
    let large = Agent::with_room(&dispatcher.namespace, 1, "40", "8Gi");
    let new = script("new", &waits("new"));
    dispatcher.submit(&new);
    dispatcher.submit(&script("done", &format!("echo x >> {}", file("done").display())));
    assert!(dispatcher.run(&["resume", "tenant", "late"]).status.success());
    const RUNNING: [(&str, u32); 4] = [("old", 1), ("early", 1), ("new", 1), ("queued", 2)];
    wait_for("all to run", || RUNNING.iter().all(|(name, _)| runs(name) == "x\n").then_some(()));
    RUNNING.iter().for_each(|(job, _)| drop(dispatcher.wait(job, "executing")));
    dispatcher.wait("done", "succeeded");
    let pods = RUNNING.map(|(job, attempt)| pod(job, attempt));
    let uid = |name: &String| dispatcher.namespace.get("pod", name).unwrap()["metadata"]["uid"].clone();
    let uids = pods.each_ref().map(uid);
    let init = |name: &String| agent.inits(name).into_iter().chain(large.inits(name)).last().unwrap();
    let inits = pods.each_ref().map(init);
    dispatcher.kill();
    copy_ledger(backup.path(), &state);
    dispatcher.restart();
    wait_for("all to be known", || (dispatcher.sql("SELECT id FROM jobs").len() == 5).then_some(()));
    for ((job, attempt), uid) in RUNNING.iter().zip(&uids) {
        let shown = dispatcher.wait(job, "executing");
        let last = shown["attempts"].as_array().unwrap().last().unwrap();
        assert_eq!((&last["attempt"], &last["uid"]), (&json!(attempt), uid), "{shown:#}");
    }
    // Who sends it again fills in what no Pod could tell, and gets no second job.
    dispatcher.submit(&new);
    let spec = dispatcher.sql("SELECT spec, digest FROM jobs WHERE id = 'new'");
    assert!(spec[0]["spec"].as_str().unwrap().contains("echo x") && spec[0]["digest"] != "", "{spec:?}");
    assert!(inits.iter().all(|init| is_alive(*init)), "nothing was ended");
    fs::write(&go, "").unwrap();
    // What had ended is judged by its Pod, and not run again.
    for job in ["old", "early", "new", "queued", "done"] {
        dispatcher.wait(job, "succeeded");
        assert_eq!(runs(job), "x\n", "{job} ran once");
    }
    for name in &pods {
        dispatcher.namespace.wait_for_pod(name, "let go", |pod| pod["metadata"]["finalizers"].is_null().then_some(()));
    }
    let rows = dispatcher.sql("SELECT job_id, attempt FROM attempts WHERE adopted_ms IS NOT NULL ORDER BY job_id");
    let adopted = [("done", 1), ("early", 1), ("new", 1), ("queued", 2)];
    assert_eq!(rows, adopted.map(|(job, attempt)| json!({"job_id": job, "attempt": attempt})));
}
