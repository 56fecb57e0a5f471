//! Messages wait, and `sendo serve` starts.

use crate::{
    env::{
        databases::Server,
        elasticmq::{Queue, elasticmq},
        kubernetes::Cluster,
        ledgers::{Database, Place},
        wait_for,
    },
    plane::{self, LIMIT, Way},
    program::{Program, Site},
    source,
};
use serde_json::Value;
use sqlx::Executor as _;
use std::{
    collections::HashSet,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// What is the same for all parts: ElasticMQ, which warms up once, and a PostgreSQL that counts statements.
pub struct Surroundings {
    pub runtime: Runtime,
    server: Server,
    ledgers: AtomicUsize,
}

impl Surroundings {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let mut server = Server::postgresql();
        let lab = Place::on(Database::Postgresql, Database::Postgresql.url(&server, "lab"));
        runtime.block_on(lab.execute("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'"));
        server.crash(0);
        let is_counting = async || {
            let mut session = lab.try_session().await?;
            session.fetch_one("SELECT 1 FROM pg_settings WHERE name = 'pg_stat_statements.track'").await
        };
        wait_for("PostgreSQL to count statements", || runtime.block_on(is_counting()).ok());
        elasticmq();
        Self { runtime, server, ledgers: AtomicUsize::new(0) }
    }

    /// An empty database.
    pub fn ledger(&self) -> Place {
        let name = format!("ledger_{}", self.ledgers.fetch_add(1, Ordering::Relaxed));
        let on = |name: &str| Place::on(Database::Postgresql, Database::Postgresql.url(&self.server, name));
        self.runtime.block_on(on("lab").execute(&format!("CREATE DATABASE {name}")));
        let plans = format!("ALTER DATABASE {name} SET pg_stat_statements.track_planning = on");
        self.runtime.block_on(on("lab").execute(&plans));
        let place = on(&name);
        self.runtime.block_on(place.execute("CREATE EXTENSION pg_stat_statements"));
        place
    }
}

/// A spike that is over.
pub struct Spike {
    jobs: usize,
    pub first: Duration,
    took: Duration,
    cpu: Duration,
    statements: f64,
    /// PostgreSQL's, by its own clock.
    database_ms: f64,
    requests: f64,
    /// The first job's.
    pub pod: Value,
}

impl Spike {
    pub fn run(surroundings: &Surroundings, jobs: usize) -> Self {
        let runtime = &surroundings.runtime;
        let cluster = Cluster::without_scheduler();
        let namespace = cluster.namespace();
        let site = Site::unmanned(&namespace);
        let way = Way::new(&namespace, &site.kubeconfig);
        let (ledger, queue) = (surroundings.ledger(), source::queue());
        runtime.block_on(source::filled(&queue, jobs));
        let before = plane::requests(&cluster);
        let started = Instant::now();
        let program = Program::start(&queue, &ledger.url, &site, usize::try_from(i32::MAX).expect("32 bits"));
        let (first, count, took) = runtime.block_on(way.watch_pods(started, jobs, LIMIT));
        assert_eq!(count, jobs, "after {took:?}: {}", program.log());
        let first = first.expect("a Pod");
        // What the ledger still has to be told belongs to what a job costs.
        let written = "SELECT COUNT(*) FROM jobs WHERE phase = 'setting_up'";
        let said = i64::try_from(jobs).expect("a count");
        wait_for("the ledger to say so", || (runtime.block_on(ledger.count(written)) == said).then_some(()));
        let cpu = program.cpu();
        let sum = |what: &str| {
            let counted = format!(
                "SELECT CAST(SUM({what}) AS BIGINT) FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid \
                 WHERE d.datname = current_database()"
            );
            runtime.block_on(ledger.count(&counted)) as f64
        };
        let (statements, database_ms) = (sum("calls"), sum("total_exec_time + total_plan_time"));
        let after = plane::requests(&cluster);
        assert!(
            (after.0 - before.0 - 1.0 - said as f64).abs() < 0.5,
            "a create for each job, and the rehearsal: {after:?}"
        );
        empty(&queue);
        let pods = runtime.block_on(way.get("pods"));
        let pods = pods["items"].as_array().expect("items");
        check(pods, jobs);
        let pod = pods.iter().find(|pod| job(pod) == source::id(0)).expect("the first job's Pod").clone();
        let requests = after.0 + after.1 - before.0 - before.1;
        Self { jobs, first, took, cpu, statements, database_ms, requests, pod }
    }

    pub fn rate(&self) -> f64 {
        self.jobs as f64 / self.took.as_secs_f64()
    }

    /// What each job has cost, as a row.
    pub fn cost(&self) -> String {
        let each = |whole: f64| whole / self.jobs as f64;
        let cpu = each(self.cpu.as_secs_f64() * 1e3);
        let (statements, database, requests) = (each(self.statements), each(self.database_ms), each(self.requests));
        format!("| {} | {statements:.2} | {database:.2} | {requests:.3} | {cpu:.2} |\n", self.jobs)
    }
}

/// Messages a second that come into the ledger while nothing is launched.
pub fn intake(surroundings: &Surroundings, messages: usize) -> f64 {
    let runtime = &surroundings.runtime;
    let cluster = Cluster::without_scheduler();
    let namespace = cluster.namespace();
    let (ledger, queue) = (surroundings.ledger(), source::queue());
    runtime.block_on(source::filled(&queue, messages));
    let started = Instant::now();
    let program = Program::start(&queue, &ledger.url, &Site::unmanned(&namespace), 1);
    let all = i64::try_from(messages).expect("a count");
    loop {
        // Until the tables are there, there are no jobs.
        let taken = runtime.block_on(ledger.try_count("SELECT COUNT(*) FROM jobs")).unwrap_or(0);
        if taken == all {
            break;
        }
        assert!(started.elapsed() < LIMIT, "{taken} of {messages} were taken in: {}", program.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let took = started.elapsed();
    empty(&queue);
    messages as f64 / took.as_secs_f64()
}

/// Nothing lies in the queue, nothing is in anybody's hands, and nothing was refused.
fn empty(queue: &Queue) {
    elasticmq().wait_depth(&queue.url, crate::env::elasticmq::EMPTY);
    assert_eq!(elasticmq().depth(queue.dead.as_deref().expect("a dead-letter queue")), crate::env::elasticmq::EMPTY);
}

fn job(pod: &Value) -> &str {
    let env = pod["spec"]["containers"][0]["env"].as_array().expect("an environment");
    env.iter().find(|one| one["name"] == "SENDO_JOB").and_then(|one| one["value"].as_str()).expect("a job's id")
}

/// A Pod for each job, and each job's once.
fn check(pods: &[Value], jobs: usize) {
    let found: HashSet<&str> = pods.iter().map(job).collect();
    let expected: Vec<String> = (0..jobs).map(source::id).collect();
    assert_eq!((pods.len(), found.len()), (jobs, jobs), "a Pod for each job, and each job's once");
    assert!(expected.iter().all(|id| found.contains(id.as_str())), "the Pods are those of the jobs that were sent");
}
