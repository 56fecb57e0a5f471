//! Networks that fail: the ways to the API server, the database, SQS, and the supervisors' to us. What cannot be known is not decided, what
//! was asked is asked again, and nothing is lost or there twice.

use super::{dispatcher::pod, scene::Scene};
use crate::env::{
    elasticmq::{EMPTY, elasticmq},
    ledgers::Database,
    toxiproxy::{Link, Way},
    wait_for,
};
use serde_json::json;
use std::time::Duration;

/// Names of so many jobs.
fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("j{number:03}")).collect()
}

/// Each job succeeds, with one attempt.
fn all_succeed(scene: &Scene, jobs: &[String]) {
    wait_for("all jobs to succeed", || {
        (scene.rows("SELECT id FROM jobs WHERE phase = 'succeeded'").len() == jobs.len()).then_some(())
    });
    let expected: Vec<_> = jobs.iter().map(|id| (id, "succeeded", 1)).collect();
    scene.audit(&expected);
}

/// Does something, and waits until the program has said this once more.
#[track_caller]
fn until_it_says(scene: &Scene, words: &str, act: impl FnOnce()) {
    let count = || scene.dispatcher.log().matches(words).count();
    let before = count();
    act();
    wait_for(&format!("another `{words}`"), || (count() > before).then_some(()));
}

#[test]
fn an_api_server_that_is_out_of_reach_during_launches_costs_no_job_and_makes_no_pod_twice() {
    let scene = Scene::new(Database::Sqlite);
    let jobs = names(8);
    // First the answers are lost on the way, then the requests.
    for (some, way) in jobs.chunks(4).zip([Way::Answers, Way::Requests]) {
        until_it_says(&scene, "cannot be launched now", || {
            scene.api.reset(way);
            for id in some {
                scene.open(id);
                scene.send(&scene.job(id));
            }
        });
        scene.api.renew();
    }
    all_succeed(&scene, &jobs);
}

#[test]
fn an_api_server_that_says_nothing_decides_nothing() {
    let scene = Scene::on(crate::env::kubernetes::cluster(), Database::Sqlite, "watch_limit = \"5s\"");
    for id in ["ends", "dies", "stays"] {
        scene.execute(id);
    }
    // The connections stay, and nothing comes any more.
    scene.api.swallow(Way::Answers);
    scene.open("ends");
    scene.dispatcher.wait("ends", "succeeded");
    scene.agent.kill_init(&pod("dies", 1));
    scene.dispatcher.namespace.wait_for_phase(&pod("dies", 1), "Failed");
    scene.dispatcher.submit(&scene.job("new"));
    scene.dispatcher.wait_for_log("cannot be seen; nothing is decided");
    for id in ["dies", "stays"] {
        assert_eq!(scene.dispatcher.json(&["show", id])["phase"], "executing", "it is unknown, not gone");
    }
    scene.api.renew();
    for id in ["stays", "new"] {
        scene.open(id);
        scene.dispatcher.wait(id, "succeeded");
    }
    // What was true all the time is seen now.
    scene.dispatcher.wait("dies", "failed");
    let all = [("dies", "failed", 1), ("ends", "succeeded", 1), ("new", "succeeded", 1), ("stays", "succeeded", 1)];
    scene.audit(&all);
}

fn dropped_in_a_spike(database: Database) {
    let scene = Scene::new(database);
    let link: &Link = scene.database.as_ref().unwrap();
    let jobs = names(100);
    for id in &jobs {
        scene.open(id);
        scene.send(&scene.job(id));
    }
    for (part, way) in [(10, Way::Answers), (30, Way::Requests), (60, Way::Answers), (90, Way::Requests)] {
        wait_for(&format!("{part} jobs to be over"), || {
            (scene.rows("SELECT id FROM jobs WHERE phase = 'succeeded'").len() >= part).then_some(())
        });
        until_it_says(&scene, "the ledger's verb is tried again", || link.reset(way));
        link.renew();
    }
    all_succeed(&scene, &jobs);
    elasticmq().wait_depth(&scene.queue.url, EMPTY);
}

#[test]
fn a_postgresql_that_drops_its_connections_in_a_spike_loses_and_doubles_nothing() {
    dropped_in_a_spike(Database::Postgresql);
}

#[test]
fn a_mariadb_that_drops_its_connections_in_a_spike_loses_and_doubles_nothing() {
    dropped_in_a_spike(Database::Mariadb);
}

#[test]
fn an_sqs_that_drops_its_connections_loses_and_doubles_nothing() {
    let scene = Scene::new(Database::Sqlite);
    let jobs = names(60);
    // Received and nobody hears of it; deleted and nobody hears of it, or never asked.
    for (some, way) in jobs.chunks(20).zip([Way::Answers, Way::Requests, Way::Answers]) {
        until_it_says(&scene, "dispatch failure", || {
            scene.mail.reset(way);
            for id in some {
                let mut job = scene.job(id);
                job["not_before"] = json!("2100-01-01T00:00:00Z");
                scene.send(&job);
            }
        });
        scene.mail.renew();
    }
    wait_for("all jobs", || (scene.rows("SELECT id FROM jobs").len() == jobs.len()).then_some(()));
    elasticmq().wait_depth(&scene.queue.url, EMPTY);
    assert_eq!(scene.rows("SELECT job_id FROM transitions").len(), jobs.len(), "each was accepted once");
}

#[test]
fn where_everything_is_slow_jobs_still_run() {
    let scene = Scene::new(Database::Postgresql);
    for link in [&scene.api, &scene.workers, &scene.mail, scene.database.as_ref().unwrap()] {
        link.slow(Duration::from_millis(300));
    }
    let jobs = names(3);
    for id in &jobs {
        scene.open(id);
        scene.send(&scene.job(id));
    }
    all_succeed(&scene, &jobs);
    elasticmq().wait_depth(&scene.queue.url, EMPTY);
}
