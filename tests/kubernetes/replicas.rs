//! Several control programs on one ledger and one cluster: all take in and serve, one dispatches, and another when that one goes.

use super::{
    dispatcher::{Dispatcher, Setup, pod, script},
    identity::{ask, token},
};
use crate::env::{
    free_port,
    kubernetes::{agent::Agent, cluster},
    ledgers::{Database, Place},
    scratch, wait_for,
};
use std::fs;

/// The first of them, which dispatches. Supervisors go by a port that is its own or another's: in a cluster it would be a Service's.
fn first(database: Database, heard: u16, way: u16, program: &str) -> Dispatcher {
    let setup = Setup::on(cluster(), "", "").ledger(Place::new(database)).program(program);
    let first = setup.workers(heard, format!("http://127.0.0.1:{way}/")).start();
    wait_for("an owner", || (owner(&first)?.0 == first.pid()).then_some(()));
    first
}

/// The owner's pid and its fencing number.
fn owner(any: &Dispatcher) -> Option<(i32, i64)> {
    let row = any.sql("SELECT holder, fence FROM leases WHERE name = 'dispatch k'").pop()?;
    let pid = row["holder"].as_str()?.split(' ').nth(1)?.parse().ok()?;
    Some((pid, row["fence"].as_i64()?))
}

#[test]
fn all_take_in_and_one_dispatches() {
    let workers = free_port();
    let first = first(Database::Postgresql, workers, workers, "");
    let replicas = [Setup::replica_of(&first, free_port()).start(), first];
    let _agent = Agent::start(&replicas[0].namespace, 1);
    let ids: Vec<String> = (0..12).map(|number| format!("j{number}")).collect();
    for (number, id) in ids.iter().enumerate() {
        replicas[number % 2].submit(&script(id, "exit 0"));
    }
    for (number, id) in ids.iter().enumerate() {
        // Each knows of the other's.
        replicas[(number + 1) % 2].wait(id, "succeeded");
    }
    let attempts = replicas[0].sql("SELECT job_id, attempt, uid FROM attempts");
    assert_eq!(attempts.len(), ids.len(), "{attempts:?}");
    assert!(attempts.iter().all(|attempt| attempt["attempt"] == 1 && !attempt["uid"].as_str().unwrap().is_empty()));
    // Of both one alone has ever launched.
    assert_eq!(owner(&replicas[0]), Some((replicas[1].pid(), 1)));
    let launched = replicas.each_ref().map(|replica| replica.log().contains("its place exists"));
    assert_eq!(launched, [false, true]);
}

fn of_two_that_ask_two_replicas_at_once_one_is_granted(database: Database) {
    let workers = free_port();
    let first = first(database, workers, workers, "");
    let other = Setup::replica_of(&first, free_port()).start();
    // Nothing runs on it: the test speaks for the Pods.
    first.namespace.fake_nodes(1, "8", "32Gi");
    let ids: Vec<String> = (0..8).map(|number| format!("j{number}")).collect();
    ids.iter().for_each(|id| first.submit(&script(id, "true")));
    for id in &ids {
        first.wait_for_pod(id, "running", |pod| pod["status"]["phase"] == "Running");
        let good = &token(&first, &pod(id, 1), "sendo");
        let answers = std::thread::scope(|scope| {
            let both = [(&first, "n1"), (&other, "n2")];
            let both = both.map(|(replica, nonce)| scope.spawn(move || ask(replica, id, nonce, good)));
            both.map(|one| one.join().unwrap())
        });
        assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
        let granted = answers.each_ref().map(|(_, answer)| answer["answer"] == "granted");
        let [winner, loser] = match granted {
            [true, false] => ["n1", "n2"],
            [false, true] => ["n2", "n1"],
            _ => panic!("not one alone: {answers:?}"),
        };
        // Whichever of the replicas is asked again says the same.
        for replica in [&first, &other] {
            assert_eq!(ask(replica, id, winner, good).1["answer"], "granted");
            assert_eq!(ask(replica, id, loser, good).1["answer"], "superseded");
        }
    }
}

#[test]
fn of_two_that_ask_two_replicas_at_once_one_is_granted_with_a_ledger_on_postgresql() {
    of_two_that_ask_two_replicas_at_once_one_is_granted(Database::Postgresql);
}

#[test]
fn of_two_that_ask_two_replicas_at_once_one_is_granted_with_a_ledger_on_mariadb() {
    of_two_that_ask_two_replicas_at_once_one_is_granted(Database::Mariadb);
}

#[test]
fn when_the_owner_is_killed_another_goes_on() {
    let workers = free_port();
    let mut killed = first(Database::Mariadb, free_port(), workers, "");
    let other = Setup::replica_of(&killed, workers).start();
    let _agent = Agent::start(&other.namespace, 1);
    let place = scratch();
    let (ran, go) = (place.path().join("ran"), place.path().join("go"));
    let words = format!("echo x >> {}; while [ ! -e {} ]; do sleep 0.1; done", ran.display(), go.display());
    killed.submit(&script("running", &words));
    wait_for("the transfer", || (fs::read_to_string(&ran).ok()? == "x\n").then_some(()));
    let uid = other.namespace.get("pod", &pod("running", 1)).unwrap()["metadata"]["uid"].clone();
    killed.kill();
    // Taken in meanwhile, and launched by whoever follows.
    other.submit(&script("waiting", "exit 0"));
    other.wait("waiting", "succeeded");
    assert_eq!(owner(&other), Some((other.pid(), 2)));
    // What ran was neither ended nor started again.
    assert_eq!(other.json(&["show", "running"])["phase"], "executing");
    fs::write(&go, "").unwrap();
    let shown = other.wait("running", "succeeded");
    assert_eq!((&shown["attempts"][0]["uid"], shown["attempts"].as_array().unwrap().len()), (&uid, 1));
    assert_eq!(fs::read_to_string(&ran).unwrap(), "x\n");
}

#[test]
fn an_owner_that_stops_hands_over_and_who_stands_by_knows_why_jobs_wait() {
    let workers = free_port();
    let mut stopped = first(Database::Postgresql, free_port(), workers, "[limits]\nper_tenant = 1");
    let other = Setup::replica_of(&stopped, workers).start();
    other.submit(&script("one", "exit 0"));
    other.wait("one", "setting_up");
    other.submit(&script("another", "exit 0"));
    wait_for("the other to say why", || {
        let shown = other.json(&["show", "another"]);
        assert_eq!(shown["phase"], "queued");
        shown["waits_for"].as_str()?.contains("jobs without a tenant have reached their limit").then_some(())
    });
    stopped.stop();
    wait_for("the other to be the owner", || (owner(&other)? == (other.pid(), 2)).then_some(()));
    let _agent = Agent::start(&other.namespace, 1);
    other.wait("another", "succeeded");
}

#[test]
fn who_stands_by_knows_what_the_cluster_said() {
    let workers = free_port();
    let first = first(Database::Mariadb, free_port(), workers, "");
    let other = Setup::replica_of(&first, workers).start();
    first.namespace.kubectl(&["create", "quota", "closed", "--hard=pods=0"]);
    other.submit(&script("a", "exit 0"));
    wait_for("the other to say why", || {
        let shown = other.json(&["show", "a"]);
        shown["waits_for"].as_str()?.contains("exceeded quota: closed").then_some(())
    });
    assert_eq!(owner(&other), Some((first.pid(), 1)));
    first.namespace.kubectl(&["delete", "quota", "closed"]);
    let _agent = Agent::start(&other.namespace, 1);
    other.wait("a", "succeeded");
}
