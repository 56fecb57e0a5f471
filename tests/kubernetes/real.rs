//! The whole way: from a queue to a Pod that the real kubelet runs in the worker image, real Embulk between databases, and what is told of it.

use super::dispatcher::{Dispatcher, Setup, attempt, pod, script};
use crate::env::{
    databases::{DATABASE, Lock, PASSWORD, USER, databases},
    elasticmq::{CREDENTIALS, EMPTY, Queue, elasticmq},
    kubernetes::{
        Namespace,
        node::{Node, PAUSE, real},
    },
    ledgers::{Database, Place},
    sendo, stderr, stdout, wait_for,
};
use serde_json::{Value, json};
use std::{fs, io::Read as _, net::TcpListener, ops::RangeInclusive, time::SystemTime};

/// Rows of the file, and of the table in MariaDB.
const LINES: usize = 2_000;
const ROWS: usize = 100_000;
const MEMORY: u64 = 768 << 20;

/// Where the template below puts the file.
const TEMPLATE: &str = "volumes: [{name: orders, configMap: {name: orders}}]
containers: [{name: worker, volumeMounts: [{name: orders, mountPath: /data}]}]";

/// What the jobs name: a password and a file.
fn supply(namespace: &Namespace) {
    let (secret, file) = (json!({"password": PASSWORD}), (1..=LINES).map(|line| format!("{line},order {line}\n")));
    let metadata = |name: &str| json!({"name": name});
    namespace.apply(&json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata("lab"), "stringData": secret},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("orders"), "data": {"orders.csv": file.collect::<String>()}},
    ]}));
}

fn job(id: &str, from: Value, to: Value) -> Value {
    json!({"version": 1, "id": id, "tenant": "acme", "embulk": {"config": {"in": from, "out": to}},
        "resources": {"cpu": "600m", "memory": MEMORY.to_string()}, "retry": {"infrastructure_limit": 0}})
}

/// The file.
fn from_csv() -> Value {
    let columns = json!([{"name": "id", "type": "long"}, {"name": "text", "type": "string"}]);
    json!({"type": "file", "path_prefix": "/data/orders", "parser": {"type": "csv", "columns": columns}})
}

/// How Embulk logs in from a Pod.
fn login(kind: &str, node: &Node, port: u16, table: &str) -> Value {
    json!({"type": kind, "host": node.address, "port": node.way_to(port), "user": USER, "password": "${secret:lab}",
        "database": DATABASE, "table": table})
}

fn to_postgresql(node: &Node, table: &str) -> Value {
    let mut login = login("postgresql", node, databases().postgresql.port, table);
    login["mode"] = json!("insert");
    login
}

/// From the file into a table of PostgreSQL's.
fn csv_to_postgresql(id: &str, node: &Node, table: &str) -> Value {
    let mut job = job(id, from_csv(), to_postgresql(node, table));
    job["secrets"] = json!({"lab": {"name": "lab", "key": "password"}});
    job
}

/// From one database to the other.
fn mysql_to_postgresql(id: &str, node: &Node, table: &str) -> Value {
    let mut from = login("mysql", node, databases().mysql.port, table);
    from["options"] = json!({"useSSL": false});
    let mut job = job(id, from, to_postgresql(node, table));
    job["secrets"] = json!({"lab": {"name": "lab", "key": "password"}});
    job
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// `sendo submit --queue`; gives back between which moments it was sent.
fn send(queue: &Queue, job: &Value) -> RangeInclusive<i64> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), job.to_string()).unwrap();
    let mut submit = sendo();
    submit.args(["submit", "--queue", &queue.url]).arg(file.path()).envs(CREDENTIALS);
    let before = now();
    let output = submit.env("AWS_ENDPOINT_URL_SQS", elasticmq().endpoint()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    before..=now()
}

/// What people, programs and SQL are told of a job that went well.
fn assert_told(dispatcher: &Dispatcher, node: &Node, job: &str, sent: &RangeInclusive<i64>) {
    wait_for("the queue's job to be in the ledger", || dispatcher.run(&["show", job]).status.success().then_some(()));
    let shown = dispatcher.wait(job, "succeeded");
    let place = dispatcher.namespace.get("pod", &pod(job, 1)).unwrap();
    let [one] = shown["attempts"].as_array().unwrap().as_slice() else { panic!("{shown:#}") };
    assert_eq!((&one["outcome"], &one["evidence"], &one["exit_code"]), (&json!("succeeded"), &json!(4), &json!(0)));
    assert_eq!((&one["node"], &one["uid"]), (&json!(node.name), &place["metadata"]["uid"]), "{shown:#}");
    assert!(one["verdict"]["summary"].is_string(), "{shown:#}");
    assert!(sent.contains(&shown["queued_at_ms"].as_i64().unwrap()), "{sent:?}: {shown:#}");

    let transitions = shown["transitions"].as_array().unwrap();
    let column = |name: &str| transitions.iter().map(|one| one[name].clone()).collect::<Vec<_>>();
    assert_eq!(column("to_phase"), ["queued", "setting_up", "executing", "succeeded"]);
    assert!(column("at_ms").is_sorted_by_key(|at| at.as_i64()), "{shown:#}");
    assert_eq!(transitions[0]["at_ms"], shown["queued_at_ms"]);

    let beats = dispatcher.json(&["heartbeats", job])["heartbeats"].as_array().unwrap().clone();
    let last = beats.last().unwrap();
    assert_eq!(last["memory_limit_bytes"], MEMORY, "{last:#}");
    let is_more =
        |name: &str, least: f64| assert!(last[name].as_f64().is_some_and(|value| value > least), "{name}: {last:#}");
    is_more("memory_peak_bytes", 50e6);
    is_more("cpu_seconds", 0.5);
    assert!(beats.iter().any(|beat| beat["memory_working_set_bytes"].as_u64().is_some_and(|bytes| bytes > 50_000_000)));
    assert!(beats.iter().any(|beat| beat["jvm_heap_used_bytes"].is_number()), "{last:#}");

    let listed = dispatcher.json(&["jobs", "--phase", "succeeded", "--tenant", "acme"]);
    assert!(listed["jobs"].as_array().unwrap().iter().any(|one| one["id"] == job), "{listed:#}");
    assert!(stdout(&dispatcher.run(&["show", job])).contains(&node.name));
    let row = dispatcher.sql(&format!(
        "SELECT j.phase, a.outcome, a.node, a.uid, (SELECT COUNT(*) FROM heartbeats h WHERE h.job_id = j.id) AS beats, \
         (SELECT COUNT(*) FROM transitions t WHERE t.job_id = j.id) AS transitions \
         FROM jobs j JOIN attempts a ON a.job_id = j.id WHERE j.id = '{job}'"
    ));
    let told = json!({"phase": "succeeded", "outcome": "succeeded", "node": node.name, "uid": one["uid"], "beats": beats.len(), "transitions": 4});
    assert_eq!(row, [told]);
}

fn a_job_from_the_queue_runs_embulk_in_a_pod(database: Database) {
    let (node, mq, servers) = (real(), elasticmq(), databases());
    let table = format!("real_{database:?}").to_lowercase();
    servers.mysql(&format!(
        "CREATE TABLE {table} (id BIGINT PRIMARY KEY, name VARCHAR(100));
        INSERT INTO {table} SELECT seq, CONCAT('至急 ', seq) FROM seq_1_to_{ROWS}"
    ));
    let queue = mq.queue("", 30, 5);
    // One waits for the program, the program waits for the other.
    let early = send(&queue, &csv_to_postgresql("csv", node, &format!("{table}_csv")));
    let setup = Setup::real(node, "", TEMPLATE).queue(&queue.url).ledger(Place::new(database));
    let dispatcher = setup.start_with(supply);
    let sent = send(&queue, &mysql_to_postgresql("mysql", node, &table));
    assert_told(&dispatcher, node, "csv", &early);
    let received = dispatcher.json(&["show", "csv"])["received_at_ms"].as_i64();
    assert!(received > Some(*early.end()), "the queue's moment, and not ours");
    assert_told(&dispatcher, node, "mysql", &sent);

    let said = dispatcher.namespace.kubectl(&["logs", &pod("csv", 1)]);
    assert!(said.contains("): Committed.\n"), "{said}");
    let whole = "count(*), count(DISTINCT id), count(*) FILTER (WHERE text = 'order ' || id)";
    let loaded = servers.postgresql(&format!("SELECT {whole} FROM {table}_csv"));
    assert_eq!(loaded, [format!("{LINES}|{LINES}|{LINES}")]);
    let loaded = servers.postgresql(&format!("SELECT count(*), count(DISTINCT id), min(name), max(id) FROM {table}"));
    assert_eq!(loaded, [format!("{ROWS}|{ROWS}|至急 1|{ROWS}")]);
    let beats = dispatcher.json(&["heartbeats", "mysql"]);
    assert_eq!(beats["heartbeats"].as_array().unwrap().last().unwrap()["transferred_rows"], ROWS, "{beats:#}");
    mq.wait_depth(&queue.url, EMPTY);
    let told = dispatcher.sql("SELECT spec FROM jobs WHERE id = 'mysql'")[0].to_string();
    assert!(told.contains("${secret:lab}") && !told.contains(PASSWORD) && !dispatcher.log().contains(PASSWORD));
}

#[test]
fn a_job_from_the_queue_runs_embulk_in_a_pod_with_a_ledger_on_postgresql() {
    a_job_from_the_queue_runs_embulk_in_a_pod(Database::Postgresql);
}

#[test]
fn a_job_from_the_queue_runs_embulk_in_a_pod_with_a_ledger_on_mariadb() {
    a_job_from_the_queue_runs_embulk_in_a_pod(Database::Mariadb);
}

/// A job whose load waits in its commit, for the table that the test holds: a `sendo serve`, and the lock.
fn held_in_its_commit(table: &str) -> (Dispatcher, Lock) {
    let (node, servers) = (real(), databases());
    servers.postgresql(&format!("CREATE TABLE {table} (id BIGINT, text TEXT)"));
    let dispatcher = Setup::real(node, "", TEMPLATE).start_with(supply);
    let lock = servers.postgresql_lock(table);
    dispatcher.submit(&csv_to_postgresql("a", node, table));
    wait_for("the load's commit to wait for the lock", || {
        let waiting = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO%{table}%'"
        );
        (servers.postgresql(&waiting) == ["1"]).then_some(())
    });
    dispatcher.wait("a", "executing");
    (dispatcher, lock)
}

#[test]
fn a_transfer_whose_pod_is_deleted_may_finish() {
    let (dispatcher, lock) = held_in_its_commit("real_drained");
    dispatcher.namespace.kubectl(&["delete", "pod", &pod("a", 1), "--wait=false"]);
    dispatcher.wait("a", "stopping");
    drop(lock);
    let shown = dispatcher.wait("a", "succeeded");
    let phases: Vec<_> = shown["transitions"].as_array().unwrap().iter().map(|one| one["to_phase"].clone()).collect();
    assert_eq!(phases, ["queued", "setting_up", "executing", "stopping", "succeeded"]);
    assert_eq!(databases().postgresql("SELECT count(*) FROM real_drained"), [LINES.to_string()]);
    dispatcher.namespace.wait_until_gone(&pod("a", 1));
}

#[test]
fn a_transfer_that_is_cancelled_is_gone_with_its_pod_and_loads_nothing() {
    let (dispatcher, lock) = held_in_its_commit("real_cancelled");
    assert!(dispatcher.run(&["cancel", "a"]).status.success());
    let shown = dispatcher.wait("a", "cancelled");
    assert_eq!(
        (&attempt(&shown)["outcome"], &attempt(&shown)["evidence"]),
        (&json!("cancelled"), &json!(4)),
        "{shown:#}"
    );
    dispatcher.namespace.wait_until_gone(&pod("a", 1));
    drop(lock);
    let clients =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%real_cancelled%' AND pid <> pg_backend_pid()";
    wait_for("its session to end", || (databases().postgresql(clients) == ["0"]).then_some(()));
    assert_eq!(databases().postgresql("SELECT count(*) FROM real_cancelled"), ["0"]);
}

#[test]
fn a_jvm_that_the_kernel_kills_for_memory_gets_more_in_the_next_attempt() {
    let node = real();
    let dispatcher = Setup::real(node, "", TEMPLATE).start_with(supply);
    let mut job = job("a", from_csv(), json!({"type": "stdout"}));
    // A heap that the first limit has no room for, touched from the start.
    job["env"] = json!({"EMBULK_JAVA_OPTS": "-Xms160m -Xmx160m -XX:+AlwaysPreTouch"});
    job["resources"] = json!({"cpu": "600m", "memory": "160Mi", "memory_max": "400Mi"});
    job["retry"] = json!({"idempotent": true, "backoff": "100ms", "limit": 0, "infrastructure_limit": 0});
    dispatcher.submit(&job);
    // The negative control: it may not grow.
    (job["id"], job["resources"]["memory_max"]) = (json!("b"), json!("160Mi"));
    dispatcher.submit(&job);
    let shown = dispatcher.wait("b", "failed");
    assert_eq!((attempt(&shown)["attempt"].as_i64(), &attempt(&shown)["outcome"]), (Some(1), &json!("out_of_memory")));
    let shown = dispatcher.wait("a", "succeeded");
    let told = |one: &Value| (one["outcome"].clone(), one["memory_bytes"].clone(), one["node"].clone());
    let attempts: Vec<_> = shown["attempts"].as_array().unwrap().iter().map(told).collect();
    let expected = [("out_of_memory", 160_u64 << 20), ("succeeded", 320 << 20)];
    assert_eq!(
        attempts,
        expected.map(|(outcome, memory)| (json!(outcome), json!(memory), json!(node.name))),
        "{shown:#}"
    );
    assert!(shown["attempts"][0]["verdict"]["summary"].as_str().unwrap().contains("kill"), "{shown:#}");
}

#[test]
fn an_image_tag_that_does_not_exist_fails_in_time_with_the_kubelets_words() {
    let node = real();
    let dispatcher = Setup::real(node, "pull_within = \"1s\"", "").start();
    let mut job = script("a", "true");
    job["image_tag"] = json!("no-such-tag");
    dispatcher.submit(&job);
    let shown = dispatcher.wait("a", "failed");
    let attempt = attempt(&shown);
    assert_eq!((&attempt["outcome"], &attempt["node"]), (&json!("image_unavailable"), &json!(node.name)), "{shown:#}");
    let verdict = attempt["verdict"].to_string();
    assert!(verdict.contains("sendo-worker:no-such-tag") && verdict.contains("ImagePull"), "{verdict}");
    dispatcher.namespace.wait_until_gone(&pod("a", 1));
}

#[test]
fn a_secret_that_does_not_exist_fails_in_time_with_the_kubelets_words() {
    let node = real();
    let mut dispatcher = Setup::real(node, "create_within = \"5s\"", "").start();
    let mut job = script("a", "true");
    job["secrets"] = json!({"lab": {"name": "no-such-secret", "key": "password"}});
    dispatcher.submit(&job);
    dispatcher.wait_for_pod("a", "there", |_| true);
    // Nobody is to decide before a slow kubelet has spoken. The Pod's status says nothing: its words stand in its events alone.
    dispatcher.kill();
    let says = |event: &Value| {
        event["reason"] == "FailedMount" && event["message"].as_str().is_some_and(|why| why.contains("no-such-secret"))
    };
    wait_for("the kubelet's words", || dispatcher.namespace.list("events").iter().any(says).then_some(()));
    dispatcher.wait_for_pod("a", "waiting without a word", |pod| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"] == json!({"reason": "ContainerCreating"})
    });
    dispatcher.restart();
    let shown = dispatcher.wait("a", "failed");
    let attempt = attempt(&shown);
    assert_eq!(
        (&attempt["outcome"], &attempt["node"]),
        (&json!("container_not_started"), &json!(node.name)),
        "{shown:#}"
    );
    let verdict = attempt["verdict"].to_string();
    assert!(verdict.contains("FailedMount") && verdict.contains("no-such-secret"), "{verdict}");
    dispatcher.namespace.wait_until_gone(&pod("a", 1));
}

#[test]
fn a_side_container_that_runs_on_keeps_neither_the_job_nor_the_pod() {
    // It hears no TERM, so it is there until the grace of its Pod's deletion is over.
    let template = format!(
        "containers: [{{name: side, image: '{PAUSE}', \
         securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}}}]"
    );
    let dispatcher = Setup::real(real(), "ended_ttl = \"1s\"", &template).start();
    dispatcher.submit(&script("a", "true"));
    let shown = dispatcher.wait("a", "succeeded");
    assert_eq!((&attempt(&shown)["outcome"], &attempt(&shown)["exit_code"]), (&json!("succeeded"), &json!(0)));
    dispatcher.wait_for_pod("a", "let go while its side container runs", |pod| {
        let is = |name: &str, state: &str| {
            let mut containers = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
            containers.any(|one| one["name"] == name && one["state"][state].is_object())
        };
        pod["metadata"]["finalizers"].is_null() && is("worker", "terminated") && is("side", "running")
    });
    dispatcher.namespace.wait_until_gone(&pod("a", 1));
}

#[test]
fn a_container_that_the_kubelet_has_lost_has_no_successor_until_its_pod_is_deleted() {
    let node = real();
    let dispatcher = Setup::real(node, "", "").start();
    let transfers = TcpListener::bind((node.address.as_str(), 0)).unwrap();
    transfers.set_nonblocking(true).unwrap();
    let port = transfers.local_addr().unwrap().port();
    let mut job = script("a", "");
    job["command"] = json!(["bash", "-c", format!("exec 3<>/dev/tcp/{}/{port}; read -r <&3", node.address)]);
    job["retry"] = json!({"idempotent": true, "limit": 1, "infrastructure_limit": 1, "backoff": "10ms"});
    dispatcher.submit(&job);
    let (mut first, _) = wait_for("the transfer", || transfers.accept().ok());
    dispatcher.wait("a", "executing");
    let container = dispatcher.wait_for_pod("a", "running", |pod| pod["status"]["phase"] == "Running");
    let container = container["status"]["containerStatuses"][0]["containerID"].as_str().unwrap().to_owned();
    node.forget_container(container.strip_prefix("containerd://").unwrap());
    dispatcher.wait_for_log("the kubelet has lost its container");
    assert_eq!(dispatcher.json(&["show", "a"])["phase"], "executing");
    assert!(transfers.accept().is_err(), "a second transfer beside the first, for all that anybody knows");
    // A deletion has the kubelet end what is left of the Pod.
    dispatcher.namespace.kubectl(&["delete", "pod", &pod("a", 1), "--wait=false"]);
    let _second = wait_for("the next attempt's transfer", || transfers.accept().ok());
    assert_eq!(first.read(&mut [0]).unwrap(), 0, "the first has gone");
    let shown = dispatcher.wait("a", "executing");
    assert_eq!(
        (&shown["attempts"][0]["outcome"], &shown["attempts"][1]["node"]),
        (&json!("deleted"), &json!(node.name))
    );
}
