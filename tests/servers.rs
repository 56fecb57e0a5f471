//! `sendo serve` with its ledger on a database server: one job's life, and several control programs on one ledger.

use crate::{
    env::{
        self,
        databases::PASSWORD,
        dev::{Dev, script, serving},
        ledgers::{Database, Place},
        stdout,
    },
    ledger::fresh::runtime,
};
use serde_json::{Value, json};
use std::{fs, path::Path};

const LIFE: [&str; 4] = ["queued", "setting_up", "executing", "succeeded"];

fn rows(place: &Place, sql: &str) -> Vec<Value> {
    runtime().block_on(place.rows(sql))
}

fn log(dev: &Dev) -> String {
    fs::read_to_string(dev.home.path().join("dev.log")).unwrap()
}

/// A key that several share.
fn key(folder: &Path) -> String {
    let file = folder.join("shared-key");
    fs::write(&file, [7; 32]).unwrap();
    format!("key_file = {file:?}")
}

fn a_job_goes_its_way(database: Database) {
    let place = Place::new(database);
    let dev = Dev::serve_on(&place.url, "");
    dev.accepted(&script("a", "echo '{done:  1 / 2, running: 1}'; echo out; echo err >&2"));
    let job = dev.wait("a", &["succeeded"]);
    assert_eq!(dev.phases("a"), LIFE);
    let listed = dev.json(&["jobs"])["jobs"][0].clone();
    let sql = "SELECT id, phase, attempt, outcome, queued_at_ms, ended_at_ms FROM jobs";
    for (column, value) in rows(&place, sql)[0].as_object().unwrap() {
        assert_eq!((&job[column], &listed[column]), (value, value), "{column}");
    }
    let sql = "SELECT number, attempt, from_phase, to_phase, at_ms, recorded_at_ms, writer, reason FROM transitions ORDER BY number";
    assert_eq!(job["transitions"].as_array().unwrap(), &rows(&place, sql));
    let beats = dev.json(&["heartbeats", "a"])["heartbeats"].as_array().unwrap().clone();
    let sql = "SELECT seq, at_ms, rss_bytes, tree_cpu_seconds, tasks_done, tasks_total, output_bytes FROM heartbeats ORDER BY at_ms, seq";
    let told = rows(&place, sql);
    assert!(beats.len() == told.len() && told.len() >= 2, "one reading at the start and one at the end");
    for (beat, row) in beats.iter().zip(&told) {
        for (column, value) in row.as_object().unwrap() {
            assert_eq!(&beat[column], value, "heartbeats: {column}");
        }
    }
    assert_eq!(told.last().unwrap()["output_bytes"], json!(35));
    dev.accepted(&script("b", "exit 3"));
    assert_eq!(dev.wait("b", &["failed"])["attempts"][0]["exit_code"], 3);
    assert!(!log(&dev).contains(PASSWORD));
}

#[test]
fn a_job_goes_its_way_with_its_ledger_on_postgresql() {
    a_job_goes_its_way(Database::Postgresql);
}

#[test]
fn a_job_goes_its_way_with_its_ledger_on_mariadb() {
    a_job_goes_its_way(Database::Mariadb);
}

#[test]
fn several_control_programs_share_a_ledger_and_a_key() {
    for database in [Database::Postgresql, Database::Mariadb] {
        let (place, shared) = (Place::new(database), env::scratch());
        let mut one = Dev::serve_on(&place.url, &key(shared.path()));
        let other = Dev::serve_on(&place.url, &key(shared.path()));
        for n in 0..6 {
            let dev = if n % 2 == 0 { &one } else { &other };
            dev.accepted(&script(&format!("j{n}"), "true"));
        }
        for n in 0..6 {
            assert_eq!(other.wait(&format!("j{n}"), &["succeeded"]), one.json(&["show", &format!("j{n}")]));
        }
        assert_eq!(rows(&place, "SELECT COUNT(*) AS n FROM attempts"), [json!({"n": 6})], "each ran once");
        // The control: what is submitted to one that is gone is not taken, and the other goes on.
        one.kill();
        assert_eq!(one.submit(&script("lost", "true")).status.code(), Some(1));
        other.accepted(&script("after", "true"));
        other.wait("after", &["succeeded"]);
    }
}

#[test]
fn a_control_program_with_another_key_is_refused() {
    for database in [Database::Postgresql, Database::Mariadb] {
        let place = Place::new(database);
        let _first = Dev::serve_on(&place.url, "");
        let home = env::scratch();
        let status = serving(home.path(), &place.url, "").status().unwrap();
        let log = fs::read_to_string(home.path().join("dev.log")).unwrap();
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.contains("another key") && log.contains("key_file") && !log.contains(PASSWORD), "{log}");
    }
}

#[test]
fn a_ledger_that_cannot_be_reached_is_named_without_its_password() {
    let wrong = |database: Database| Place::new(database).url.replace(PASSWORD, "Zs3-wrong");
    let url = wrong(Database::Postgresql);
    for (url, words) in [
        (wrong(Database::Mariadb), "Access denied"),
        (format!("{url}?password=Zs3-other"), "password authentication failed"),
        ("oracle:sendo/Zs3-secret@host".to_owned(), "not a database that this release"),
    ] {
        let home = env::scratch();
        let status = serving(home.path(), &url, "").status().unwrap();
        let log = fs::read_to_string(home.path().join("dev.log")).unwrap();
        assert!(status.code() == Some(1) && log.contains(words) && !log.contains("Zs3-"), "{log}");
    }
    assert!(stdout(&env::sendo().args(["serve", "--help"]).output().unwrap()).contains("--config"));
}
