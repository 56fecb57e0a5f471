//! Real loads between real databases: Embulk's JDBC plugins under `sendo dev`, MariaDB on the one side and PostgreSQL on the other.

use crate::{
    embulk::{self, Orders, assert_asks, command_line, half_way, ledger_holds},
    env::{
        self,
        databases::{DATABASE, Databases, PASSWORD, Server, USER, databases},
        dev::Dev,
        is_alive, kill, stdout, wait_for,
    },
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;

const ROWS: usize = 40_000;

/// A `sendo dev` whose Embulk has the database plugins, orders in files, and the servers.
fn start() -> (Dev, Orders, &'static Databases) {
    let list = fs::read_to_string(env::embulk().join("home/embulk.properties")).unwrap();
    for plugin in ["input.mysql", "output.postgresql"] {
        assert!(
            list.contains(&format!("plugins.{plugin}=")),
            "the composed Embulk lacks the plugin {plugin}: `make embulk` fetches it where Maven reaches Maven Central, or takes it from \
             EMBULK_PLUGINS=FOLDER, in which FOLDER/repository has Maven's layout"
        );
    }
    let (dev, orders) = embulk::start(ROWS);
    fs::write(dev.home.path().join("password"), PASSWORD).unwrap();
    (dev, orders, databases())
}

/// How Embulk logs in: the password by reference.
fn login(kind: &str, server: &Server, table: &str) -> Value {
    json!({"type": kind, "host": "127.0.0.1", "port": server.port, "user": USER, "password": "${secret:lab}",
        "database": DATABASE, "table": table})
}

fn from_mysql(databases: &Databases, table: &str) -> Value {
    let mut login = login("mysql", &databases.mysql, table);
    login["options"] = json!({"useSSL": false});
    login
}

fn to_postgresql(databases: &Databases, table: &str) -> Value {
    let mut login = login("postgresql", &databases.postgresql, table);
    login["mode"] = json!("insert");
    login
}

fn job(dev: &Dev, id: &str, from: Value, to: Value) -> Value {
    json!({"version": 1, "id": id, "embulk": {"config": {"in": from, "out": to}},
        "secrets": {"lab": {"file": dev.home.path().join("password")}}, "env": {"TZ": "UTC"}})
}

/// An attempt's output, both streams.
fn output(dev: &Dev, id: &str) -> String {
    let stream = |name| stdout(&dev.run(&["logs", id, "--stream", name]));
    stream("stdout") + &stream("stderr")
}

#[test]
fn mysql_to_postgresql_brings_every_row_over() {
    let (dev, _, databases) = start();
    databases.mysql(
        "CREATE TABLE mixed (id BIGINT PRIMARY KEY, price DECIMAL(12,2), ratio DOUBLE, name VARCHAR(100), at DATETIME, note TEXT);
         INSERT INTO mixed SELECT seq, (seq * 7919 % 1000000) / 100, IF(seq % 5 = 0, NULL, seq / 8),
           ELT(1 + seq % 4, 'plain', '至急', 'naïve, \"quoted\"', '🚢|\\\\'), IF(seq % 7 = 0, NULL, '2026-01-01' + INTERVAL seq * 13 SECOND),
           IF(seq % 3 = 0, NULL, CONCAT('n', seq)) FROM seq_1_to_100000",
    );
    databases.postgresql(
        "CREATE TABLE mixed (id BIGINT, price NUMERIC(12,2), ratio DOUBLE PRECISION, name TEXT, at TIMESTAMP, note TEXT)",
    );
    dev.accepted(&job(&dev, "mixed", from_mysql(databases, "mixed"), to_postgresql(databases, "mixed")));
    dev.wait("mixed", &["succeeded"]);
    let there = databases.mysql(
        "SELECT COUNT(*), SUM(CAST(CONV(LEFT(MD5(CONCAT_WS('|', id, price, COALESCE(CAST(ratio * 8 AS SIGNED), '-'), name,
         COALESCE(DATE_FORMAT(at, '%Y-%m-%d %H:%i:%s'), '-'), COALESCE(note, '-'))), 8), 16, 10) AS UNSIGNED)) FROM mixed",
    );
    let here = databases.postgresql(
        "SELECT count(*), sum(('x' || left(md5(concat_ws('|', id, price, coalesce((ratio * 8)::bigint::text, '-'), name,
         coalesce(to_char(at, 'YYYY-MM-DD HH24:MI:SS'), '-'), coalesce(note, '-'))), 8))::bit(32)::bigint) FROM mixed",
    );
    assert!(there[0].starts_with("100000\t"), "{there:?}");
    assert_eq!(there[0].replace('\t', "|"), here[0]);
    let beats = dev.json(&["heartbeats", "mixed"]);
    let last = beats["heartbeats"].as_array().unwrap().last().unwrap();
    assert_eq!(last["transferred_rows"], 100_000, "{last:#}");

    let output = output(&dev, "mixed");
    assert!(output.contains("Committed.") && !output.contains(PASSWORD));
    assert!(ledger_holds(&dev, "${secret:lab}") && !ledger_holds(&dev, PASSWORD));
}

#[test]
fn an_incremental_definition_goes_on_where_the_last_success_ended() {
    let (dev, _, databases) = start();
    databases.mysql("CREATE TABLE events (id BIGINT PRIMARY KEY); INSERT INTO events SELECT seq FROM seq_1_to_1000");
    let mut from = from_mysql(databases, "events");
    from["incremental"] = json!(true);
    from["incremental_columns"] = json!(["id"]);
    let job = |id: &str| {
        let mut job = job(&dev, id, from.clone(), to_postgresql(databases, "events"));
        job["embulk"]["incremental"] = json!(true);
        (job["tenant"], job["definition"]) = (json!("acme"), json!("events"));
        job
    };
    let loaded = || databases.postgresql("SELECT count(*), count(DISTINCT id), max(id) FROM events").remove(0);
    let cursor = || {
        let cursors = dev.sql("SELECT * FROM cursors");
        assert_eq!(
            (cursors.len(), &cursors[0]["tenant"], &cursors[0]["definition"]),
            (1, &json!("acme"), &json!("events"))
        );
        (cursors[0]["generation"].as_i64().unwrap(), cursors[0]["diff"].as_str().unwrap().to_owned())
    };

    for (id, more, expected) in [
        ("first", "SELECT 1", "1000|1000|1000"),
        ("second", "INSERT INTO events SELECT seq FROM seq_1001_to_1003", "1003|1003|1003"),
        ("third", "SELECT 1", "1003|1003|1003"),
    ] {
        databases.mysql(more);
        dev.accepted(&job(id));
        dev.wait(id, &["succeeded"]);
        assert_eq!(loaded(), expected, "after the {id} job");
    }
    let (generation, diff) = cursor();
    assert!(generation == 3 && diff.contains("1003"), "{generation}: {diff}");

    databases.mysql("INSERT INTO events SELECT seq FROM seq_1004_to_1005");
    let mut failing = job("failing");
    failing["embulk"]["config"]["out"]["database"] = json!("no_such_database");
    dev.accepted(&failing);
    dev.wait("failing", &["failed"]);
    assert_eq!(cursor(), (3, diff));

    ["one", "other"].iter().for_each(|id| dev.accepted(&job(id)));
    ["one", "other"].iter().for_each(|id| drop(dev.wait(id, &["succeeded"])));
    assert_eq!(loaded(), "1005|1005|1005");
    assert_eq!(cursor().0, 5);
    let runs = dev.sql("SELECT launching_at_ms, ended_at_ms FROM attempts ORDER BY launching_at_ms");
    let one_by_one = runs.windows(2).all(|two| two[0]["ended_at_ms"].as_i64() <= two[1]["launching_at_ms"].as_i64());
    assert!(runs.len() == 6 && one_by_one, "{runs:?}");
}

#[test]
fn a_wrong_password_fails_with_the_databases_own_words() {
    const WRONG: &str = "Zs3-wrong";
    let (dev, _, databases) = start();
    databases.mysql("CREATE TABLE few (id BIGINT); INSERT INTO few VALUES (1)");
    fs::write(dev.home.path().join("wrong"), WRONG).unwrap();
    for (id, part, words) in [
        ("no-source", "in", "Access denied for user 'sendo'"),
        ("no-target", "out", "password authentication failed for user \"sendo\""),
    ] {
        let mut job = job(&dev, id, from_mysql(databases, "few"), to_postgresql(databases, "few"));
        job["embulk"]["config"][part]["password"] = json!("${secret:wrong}");
        job["secrets"]["wrong"] = json!({"file": dev.home.path().join("wrong")});
        dev.accepted(&job);
        let show = dev.wait(id, &["failed"]);
        assert!(show["verdict"]["summary"].as_str().unwrap().contains(words), "{show:#}");
        assert!(!output(&dev, id).contains(WRONG));
    }
    assert!(!ledger_holds(&dev, WRONG) && !ledger_holds(&dev, PASSWORD));
}

/// The intermediate tables of loads into `table`, by PostgreSQL's own word.
fn temporary_tables(databases: &Databases, table: &str) -> Vec<String> {
    databases.postgresql(&format!("SELECT tablename FROM pg_tables WHERE tablename ~ '^{table}_.*embulk'"))
}

#[test]
fn a_load_killed_half_way_is_held_and_its_retry_loads_each_row_once() {
    let (dev, orders, databases) = start();
    let held = orders.hold();
    let job = job(&dev, "half-way", orders.input(), to_postgresql(databases, "half_way"));
    let (_reading, transfer) = half_way(&dev, &job, &held);
    assert!(command_line(transfer).iter().all(|argument| !argument.contains(PASSWORD)));
    kill(dev.supervisor_pid("half-way", 1), Signal::SIGKILL);
    let show = dev.wait("half-way", &["held"]);
    assert!(!is_alive(transfer));
    assert_asks(&show);
    assert!(!temporary_tables(databases, "half_way").is_empty(), "the load was in its middle");

    held.restore();
    assert_eq!(dev.json(&["retry", "half-way", "--after-attempt", "1"])["result"], "queued");
    dev.wait("half-way", &["succeeded"]);
    let loaded = databases.postgresql("SELECT count(*), count(DISTINCT id) FROM half_way");
    assert_eq!(loaded, [format!("{ROWS}|{ROWS}")]);
}

/// How an attempt ended, in words.
fn evidence(show: &Value, attempt: usize) -> String {
    show["attempts"][attempt - 1]["verdict"]["evidence"].to_string()
}

#[test]
fn a_load_drained_before_its_commit_names_its_tables_and_runs_again_by_itself() {
    let (dev, orders, databases) = start();
    let held = orders.hold();
    let mut job = job(&dev, "drained", orders.input(), to_postgresql(databases, "drained"));
    job["on_term"] = json!("stop");
    job["retry"] = json!({"backoff": "100ms"});
    let (_reading, _) = half_way(&dev, &job, &held);
    held.restore();
    let left = temporary_tables(databases, "drained");
    assert!(!left.is_empty(), "the load was in its middle");
    kill(dev.supervisor_pid("drained", 1), Signal::SIGTERM);
    let show = dev.wait("drained", &["succeeded"]);
    let evidence = evidence(&show, 1);
    assert_eq!(show["attempts"][0]["outcome"], "drained");
    assert!(left.iter().all(|table| evidence.contains(table.as_str())), "{left:?} against {evidence}");
    assert!(evidence.contains("its commit had not begun") && evidence.contains("{done: "), "{evidence}");
    let loaded = databases.postgresql("SELECT count(*), count(DISTINCT id) FROM drained");
    assert_eq!(loaded, [format!("{ROWS}|{ROWS}")]);
}

#[test]
fn a_load_drained_in_its_commit_is_held_with_the_line_that_says_so() {
    let (dev, orders, databases) = start();
    databases.postgresql("CREATE TABLE committing (id BIGINT)");
    let mut job = job(&dev, "committing", orders.input(), to_postgresql(databases, "committing"));
    job["on_term"] = json!("stop");
    let lock = databases.postgresql_lock("committing");
    dev.accepted(&job);
    wait_for("the load's commit to wait for the lock", || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO%committing%'";
        (databases.postgresql(waiting) == ["1"]).then_some(())
    });
    kill(dev.supervisor_pid("committing", 1), Signal::SIGTERM);
    let show = dev.wait("committing", &["held"]);
    drop(lock);
    assert_asks(&show);
    let evidence = evidence(&show, 1);
    assert!(evidence.contains("its commit may have begun"), "{evidence}");
    assert!(show["verdict"]["next_action"].as_str().unwrap().contains("SQL: INSERT INTO"), "{show:#}");
}
