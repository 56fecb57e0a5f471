//! A dispatcher whose ways to everybody can be spoiled, nodes on which its Pods really run, and a witness of all Pods that ever were.

use super::dispatcher::{Dispatcher, Setup};
use crate::env::{
    elasticmq::{Queue, elasticmq},
    free_port,
    kubernetes::{Cluster, agent::Agent, cluster},
    ledgers::{Database, Place},
    scratch,
    sqs_proxy::Proxy,
    toxiproxy::Link,
    wait_for,
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::Mutex,
};
use tempfile::TempDir;

/// Gone when dropped.
pub struct Scene {
    pub agent: Agent,
    pub dispatcher: Dispatcher,
    /// To the API server.
    pub api: Link,
    /// The supervisors' to the dispatcher.
    pub workers: Link,
    /// To the database, where that is a server.
    pub database: Option<Link>,
    /// To SQS, by way of a proxy that knows its requests.
    pub mail: Link,
    pub sqs: Proxy,
    pub queue: Queue,
    pub place: Place,
    witness: Mutex<Child>,
    folder: TempDir,
    runtime: tokio::runtime::Runtime,
}

/// A Pod that nobody runs.
const LAST: &str = "the-last-one";

impl Scene {
    pub fn new(database: Database) -> Self {
        Self::on(cluster(), database, "")
    }

    /// On a cluster of its own, perhaps, with more keys for it.
    pub fn on(cluster: &'static Cluster, database: Database, keys: &str) -> Self {
        let (folder, sqs) = (scratch(), Proxy::start());
        let queue = elasticmq().queue("", 2, 1000);
        let mail = Link::to(port_of(&sqs.endpoint));
        let api = Link::to(port_of(&cluster.url));
        let heard = free_port();
        let workers = Link::to(heard);
        let mut place = Place::new(database);
        let (link, program) = match database {
            Database::Sqlite => (None, String::new()),
            _ => {
                let port = port_of(place.url.rsplit_once('/').unwrap().0);
                let link = Link::to(port);
                let url = place.url.replace(&format!(":{port}/"), &format!(":{}/", link.port));
                (Some(link), format!("database_url = \"{url}\"\n"))
            }
        };
        // A key of the file's top must stand before its tables.
        let program =
            format!("{program}[[queue]]\nurl = {:?}\nendpoint = \"http://127.0.0.1:{}\"", queue.url, mail.port);
        let [api_way, workers_way] =
            [format!("https://127.0.0.1:{}", api.port), format!("http://127.0.0.1:{}", workers.port)];
        let setup = Setup::on(cluster, keys, "").program(&program).by_way_of(api_way);
        let dispatcher = setup.workers(heard, workers_way).start();
        if place.is_file() {
            place = Place::on(database, dispatcher.ledger());
        }
        let witness = Mutex::new(witness(&dispatcher, folder.path()));
        let agent = Agent::start(&dispatcher.namespace, 1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { agent, dispatcher, api, workers, database: link, mail, sqs, queue, place, witness, folder, runtime }
    }

    /// A job that notes its start, waits for its gate, and notes its end.
    pub fn job(&self, id: &str) -> Value {
        let (runs, gate) = (self.folder.path().join("runs"), self.gate(id));
        let (runs, gate) = (runs.display(), gate.display());
        let script = format!("echo {id} >> {runs}; until [ -e {gate} ]; do sleep 0.1; done; echo {id} over >> {runs}");
        super::dispatcher::script(id, &script)
    }

    /// The same, but that its first attempt fails, and may be repeated soon.
    pub fn job_that_fails_first(&self, id: &str) -> Value {
        let mut job = self.job(id);
        let (note, rest) = job["command"][2].as_str().unwrap().split_once(';').unwrap();
        let runs = self.folder.path().join("runs");
        let script = format!("{note}; [ $(grep -cx {id} {}) = 2 ] || exit 1; {rest}", runs.display());
        job["command"][2] = json!(script);
        job["retry"] = json!({"limit": 1, "infrastructure_limit": 0, "idempotent": true, "backoff": "2s"});
        job
    }

    fn gate(&self, id: &str) -> PathBuf {
        self.folder.path().join(format!("{id}.gate"))
    }

    /// Lets a job's transfer end.
    pub fn open(&self, id: &str) {
        fs::write(self.gate(id), "").unwrap();
    }

    /// Sends a job by the queue.
    pub fn send(&self, job: &Value) {
        elasticmq().send(&self.queue.url, &job.to_string());
    }

    /// Submits a job, and waits until it executes.
    #[track_caller]
    pub fn execute(&self, id: &str) {
        self.dispatcher.submit(&self.job(id));
        self.dispatcher.wait(id, "executing");
    }

    /// What the transfers noted.
    pub fn runs(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join("runs")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits until the job's transfer has noted its end.
    pub fn wait_until_over(&self, id: &str) {
        let line = format!("{id} over");
        wait_for(&format!("the end of {id}'s transfer"), || self.runs().contains(&line).then_some(()));
    }

    /// Rows of the ledger, by a session of our own.
    pub fn rows(&self, sql: &str) -> Vec<Value> {
        self.runtime.block_on(self.place.rows(sql))
    }

    /// A number for each job.
    fn counts(&self, sql: &str) -> BTreeMap<String, i64> {
        let count = |row: &Value| (row["job_id"].as_str().unwrap().to_owned(), row["n"].as_i64().unwrap());
        self.rows(sql).iter().map(count).collect()
    }

    /// Waits until the ledger has the row.
    #[track_caller]
    pub fn wait_for_row(&self, sql: &str) {
        wait_for(sql, || (!self.rows(sql).is_empty()).then_some(()));
    }

    /// Runs what is given while nobody else may write to that job's attempt.
    pub fn while_locked(&mut self, job: &str, act: impl FnOnce(&mut Self)) {
        use sqlx::Executor as _;
        let mut session = self.runtime.block_on(self.place.session());
        let begin = if self.place.is_file() { "BEGIN IMMEDIATE" } else { "BEGIN" };
        let lock = format!("UPDATE attempts SET conflicts = conflicts WHERE job_id = '{job}'");
        self.runtime.block_on(async {
            session.execute(begin).await.unwrap();
            session.execute(sqlx::AssertSqlSafe(lock)).await.unwrap();
        });
        act(self);
        self.runtime.block_on(session.execute("ROLLBACK")).unwrap();
    }

    /// The UIDs of each Pod that ever was, by its name.
    #[track_caller]
    pub fn pods(&self) -> BTreeMap<String, BTreeSet<String>> {
        // The witness may lag behind: one of our own is the last that it has to see.
        let secure = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
        let spec = json!({"schedulerName": "nobody", "containers": [{"name": "none", "image": "none", "securityContext": secure}],
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}});
        let namespace = &self.dispatcher.namespace;
        namespace.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": LAST}, "spec": spec}));
        wait_for("the witness to have seen all", || {
            let mut running = self.witness.lock().unwrap();
            // An API server ends the watch of whoever is too slow for it. What ended stays listed for minutes.
            if running.try_wait().unwrap().is_some() {
                *running = witness(&self.dispatcher, self.folder.path());
            }
            self.witnessed().contains_key(LAST).then_some(())
        });
        namespace.kubectl(&["delete", "pod", LAST, "--wait=false"]);
        let mut pods = self.witnessed();
        pods.remove(LAST);
        pods
    }

    fn witnessed(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut pods: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let seen = fs::read_to_string(self.folder.path().join("pods")).unwrap();
        for (name, uid) in seen.lines().filter_map(|line| line.split_once(' ')) {
            pods.entry(name.to_owned()).or_default().insert(uid.trim().to_owned());
        }
        pods
    }

    /// Nothing was lost, nothing was there twice: each job ended once, in that phase and after so many attempts, each of which had one Pod
    /// and one transfer, and is released.
    #[track_caller]
    pub fn audit(&self, expected: &[(impl AsRef<str> + serde::Serialize, &str, usize)]) {
        wait_for("all attempts to be released", || {
            self.rows("SELECT job_id FROM attempts WHERE released_at_ms IS NULL").is_empty().then_some(())
        });
        let ends = "SELECT job_id, COUNT(*) AS n FROM transitions \
                    WHERE to_phase IN ('succeeded', 'failed', 'cancelled', 'rejected', 'held') GROUP BY job_id";
        let (attempts, ends) =
            (self.counts("SELECT job_id, COUNT(*) AS n FROM attempts GROUP BY job_id"), self.counts(ends));
        let runs = self.runs();
        let mut found: Vec<_> = self.rows("SELECT id, phase FROM jobs");
        found.iter_mut().for_each(|job| {
            let id = job["id"].as_str().unwrap();
            let starts = runs.iter().filter(|line| *line == id).count();
            *job = json!([id, job["phase"], attempts.get(id), ends.get(id), starts]);
        });
        found.sort_by_key(|job| job[0].as_str().unwrap().to_owned());
        let mut wanted: Vec<_> =
            expected.iter().map(|(id, phase, attempts)| json!([id, phase, attempts, 1, attempts])).collect();
        wanted.sort_by_key(|job| job[0].as_str().unwrap().to_owned());
        assert_eq!(found, wanted, "id, phase, attempts, ends, transfers");
        assert!(self.rows("SELECT job_id FROM attempts WHERE conflicts > 0").is_empty());
        let pods = self.pods();
        let attempts: usize = expected.iter().map(|(_, _, attempts)| attempts).sum();
        assert_eq!((pods.len(), pods.values().map(BTreeSet::len).sum()), (attempts, attempts), "{pods:#?}");
        assert!(
            self.dispatcher.namespace.list("pods").iter().all(|pod| pod["metadata"]["finalizers"].is_null()),
            "what is released is not held"
        );
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let witness = self.witness.get_mut().unwrap();
        let _ = witness.kill();
        let _ = witness.wait();
    }
}

/// Notes each Pod, those that are there first.
fn witness(dispatcher: &Dispatcher, folder: &Path) -> Child {
    let seen = File::options().create(true).append(true).open(folder.join("pods")).unwrap();
    let mut witness = dispatcher.namespace.cluster.kubectl();
    witness.args(["--request-timeout", "0", "--namespace", &dispatcher.namespace.name, "get", "pods", "--watch"]);
    witness.args(["--no-headers", "-o", "custom-columns=NAME:.metadata.name,UID:.metadata.uid"]);
    witness.stdout(seen).stderr(Stdio::null()).spawn().unwrap()
}

fn port_of(url: &str) -> u16 {
    url.trim_end_matches('/').rsplit_once(':').unwrap().1.parse().unwrap()
}
