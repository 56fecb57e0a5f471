//! `kill -9` of `sendo serve` at chosen steps of a job's way: each job is there once, runs once, ends once.
//!
//! A step is held where it is (the network keeps a request or its answer back, or a lock keeps a commit back) until it has been seen from
//! outside; then comes the kill, what the network had is lost, and the program is started again.

use super::{dispatcher::pod, scene::Scene};
use crate::env::{
    elasticmq::{EMPTY, elasticmq},
    ledgers::Database,
    sqs_proxy::Fate,
    toxiproxy::Way,
    wait_for,
};
use serde_json::json;

/// A step's name, how it is brought about and left by a kill for the job of that id, and how the job ends.
type Step = (&'static str, fn(&mut Scene, &str), &'static str, usize);

const STEPS: [Step; 11] = [
    ("taken-in", taken_in_and_not_deleted, "succeeded", 1),
    ("committed", committed_and_not_created, "succeeded", 1),
    ("created", created_and_not_heard, "succeeded", 1),
    ("unmarked", there_and_not_marked, "succeeded", 1),
    ("asking", there_and_not_granted, "succeeded", 1),
    ("granted", granted_and_not_heard, "succeeded", 1),
    ("executing", executing, "succeeded", 1),
    ("ended", ended_and_not_released, "succeeded", 1),
    ("let-go", let_go_and_not_marked, "succeeded", 1),
    ("cancelled", cancelled_and_not_told, "cancelled", 1),
    ("retried", waiting_for_its_retry, "succeeded", 2),
];

fn killed_at_each(database: Database) {
    let mut scene = Scene::new(database);
    // One that runs through all of it.
    scene.execute("bystander");
    let mut expected = vec![("bystander", "succeeded", 1)];
    for (id, step, phase, attempts) in STEPS {
        step(&mut scene, id);
        for link in [&scene.api, &scene.workers] {
            link.renew();
        }
        scene.dispatcher.restart();
        if phase == "succeeded" {
            scene.open(id);
        }
        scene.dispatcher.wait(id, phase);
        // What is under way for it must not stand in the next one's way.
        scene.wait_for_row(&format!("SELECT id FROM jobs WHERE id = '{id}' AND NOT EXISTS (SELECT 1 FROM attempts WHERE job_id = '{id}' AND released_at_ms IS NULL)"));
        expected.push((id, phase, attempts));
    }
    assert_eq!(scene.dispatcher.json(&["show", "bystander"])["phase"], "executing");
    scene.open("bystander");
    scene.dispatcher.wait("bystander", "succeeded");
    elasticmq().wait_depth(&scene.queue.url, EMPTY);
    scene.audit(&expected);
}

#[test]
fn nothing_is_lost_or_doubled_with_a_ledger_in_a_file() {
    killed_at_each(Database::Sqlite);
}

#[test]
fn nothing_is_lost_or_doubled_with_a_ledger_on_postgresql() {
    killed_at_each(Database::Postgresql);
}

#[test]
fn nothing_is_lost_or_doubled_with_a_ledger_on_mariadb() {
    killed_at_each(Database::Mariadb);
}

fn taken_in_and_not_deleted(scene: &mut Scene, id: &str) {
    let delete = "DeleteMessageBatch";
    let before = scene.sqs.seen(delete, Fate::Hang);
    scene.sqs.rule(delete, Fate::Hang, u32::MAX);
    scene.send(&scene.job(id));
    wait_for("a delete to be asked for", || (scene.sqs.seen(delete, Fate::Hang) > before).then_some(()));
    scene.dispatcher.kill();
    scene.wait_for_row(&format!("SELECT id FROM jobs WHERE id = '{id}'"));
    scene.sqs.rule(delete, Fate::Pass, 0);
    assert_ne!(elasticmq().depth(&scene.queue.url), EMPTY, "it is still there, and will come again");
}

/// The create is on its way, or about to be, and does not arrive before the kill.
fn commit(scene: &Scene, id: &str) {
    scene.api.hold(Way::Requests);
    scene.dispatcher.submit(&scene.job(id));
    scene.wait_for_row(&format!("SELECT attempt FROM attempts WHERE job_id = '{id}' AND state = 'launching'"));
}

fn committed_and_not_created(scene: &mut Scene, id: &str) {
    commit(scene, id);
    scene.dispatcher.kill();
    assert_eq!(scene.dispatcher.namespace.get("pod", &pod(id, 1)), None);
}

fn created_and_not_heard(scene: &mut Scene, id: &str) {
    scene.api.hold(Way::Answers);
    scene.dispatcher.submit(&scene.job(id));
    scene.dispatcher.wait_for_pod(id, "there", |_| true);
    scene.dispatcher.kill();
    scene.wait_for_row(&format!("SELECT attempt FROM attempts WHERE job_id = '{id}' AND state = 'launching'"));
}

fn there_and_not_marked(scene: &mut Scene, id: &str) {
    commit(scene, id);
    scene.while_locked(id, |scene| {
        scene.api.heal();
        scene.dispatcher.wait_for_pod(id, "there", |_| true);
        scene.dispatcher.kill();
    });
    scene.wait_for_row(&format!("SELECT attempt FROM attempts WHERE job_id = '{id}' AND state = 'launching'"));
}

const UNGRANTED: &str = "state = 'launched' AND granted_at_ms IS NULL";

fn there_and_not_granted(scene: &mut Scene, id: &str) {
    scene.workers.hold(Way::Requests);
    scene.dispatcher.submit(&scene.job(id));
    scene.dispatcher.namespace.wait_for_phase(&pod(id, 1), "Running");
    scene.wait_for_row(&format!("SELECT attempt FROM attempts WHERE job_id = '{id}' AND {UNGRANTED}"));
    scene.dispatcher.kill();
}

fn granted_and_not_heard(scene: &mut Scene, id: &str) {
    scene.workers.hold(Way::Answers);
    scene.dispatcher.submit(&scene.job(id));
    scene.wait_for_row(&format!("SELECT attempt FROM attempts WHERE job_id = '{id}' AND granted_at_ms IS NOT NULL"));
    scene.dispatcher.kill();
    assert!(!scene.runs().contains(&id.to_owned()), "without the answer nothing starts");
}

fn executing(scene: &mut Scene, id: &str) {
    scene.execute(id);
    scene.dispatcher.kill();
    // It ends while nobody is there to be told.
    scene.open(id);
    scene.wait_until_over(id);
}

/// It ends, and the ledger knows it; its Pod cannot be let go.
fn end(scene: &Scene, id: &str) {
    scene.execute(id);
    scene.api.hold(Way::Requests);
    scene.open(id);
    scene.wait_for_row(&format!("SELECT attempt FROM attempts WHERE job_id = '{id}' AND state = 'ended'"));
}

fn ended_and_not_released(scene: &mut Scene, id: &str) {
    end(scene, id);
    scene.dispatcher.kill();
    let pod = scene.dispatcher.namespace.get("pod", &pod(id, 1)).unwrap();
    assert_eq!(pod["metadata"]["finalizers"], json!(["sendo.dev/ledger"]));
}

fn let_go_and_not_marked(scene: &mut Scene, id: &str) {
    end(scene, id);
    scene.while_locked(id, |scene| {
        scene.api.heal();
        scene.dispatcher.wait_for_pod(id, "let go", |pod| pod["metadata"]["finalizers"].is_null());
        scene.dispatcher.kill();
    });
    scene.wait_for_row(&format!("SELECT attempt FROM attempts WHERE job_id = '{id}' AND released_at_ms IS NULL"));
}

fn cancelled_and_not_told(scene: &mut Scene, id: &str) {
    scene.execute(id);
    scene.api.hold(Way::Requests);
    scene.workers.hold(Way::Requests);
    assert!(scene.dispatcher.run(&["cancel", id]).status.success());
    scene.dispatcher.kill();
    scene.wait_for_row(&format!(
        "SELECT id FROM jobs WHERE id = '{id}' AND phase = 'executing' AND cancel_requested_ms > 0"
    ));
}

fn waiting_for_its_retry(scene: &mut Scene, id: &str) {
    scene.dispatcher.submit(&scene.job_that_fails_first(id));
    scene.wait_for_row(&format!("SELECT id FROM jobs WHERE id = '{id}' AND phase = 'queued' AND own_retries = 1"));
    scene.dispatcher.kill();
}
