//! What the dispatcher costs: per job, per pass, per look at a long queue: `make bench`, which adds a section to `docs/benchmarks.md`. Statements and
//! calls are exact; times are of this machine and of an unoptimised build, and compare only with each other.

#[path = "../support/mod.rs"]
mod support;

mod cluster;
mod meter;
#[path = "../section.rs"]
mod section;
mod tables;

use cluster::AtOnce;
use meter::Meter;
use sendo::{
    cluster::{Cluster, key::Key},
    dispatch::{Dispatcher, Rules, admit::Limits, bell::Bell, caps::Caps, retry, wait::Waits},
    ledger::{Ledger, statements},
    record::job::Job,
};
use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use support::owner;
use tables::{multiply, sqlite};
use tokio_util::sync::CancellationToken;

const LIVE: u32 = 50_000;
const WAITING: u32 = 250_000;
const TICKS: u32 = 5;

#[tokio::main]
async fn main() {
    let mut text = String::from(
        "SQLite, a cluster that answers at once (a fake), an unoptimised build.\n\n\
         | jobs | statements a job | calls a job | CPU ms a job | jobs/s |\n| --- | --- | --- | --- | --- |\n",
    );
    for jobs in [1_000, 10_000] {
        text.push_str(&flood(jobs).await);
    }
    text.push_str(&format!("\n| {LIVE} live attempts | statements | calls | CPU ms |\n| --- | --- | --- | --- |\n"));
    text.push_str(&passes().await);
    text.push_str(&format!("\n| {WAITING} waiting jobs | ms |\n| --- | --- |\n"));
    text.push_str(&queue().await);
    print!("{text}");
    section::put("The dispatcher alone", &text);
}

/// A ledger with its first job, which the others are copies of.
async fn ledger(folder: &Path) -> Ledger {
    let url = format!("sqlite://{}?mode=rwc", folder.join("ledger.db").display());
    let ledger = Ledger::open(&url, retry::next_step).await.expect("open the ledger");
    let job: Job =
        serde_json::from_str(r#"{"version": 1, "id": "first", "tenant": "t", "command": ["true"]}"#).unwrap();
    ledger.accept(&job, "0", 0).await.expect("take a job in");
    ledger
}

/// A dispatcher at work, until what it gives back is dropped or sent.
fn start(ledger: &Ledger, folder: &Path, cluster: &Arc<AtOnce>) -> (CancellationToken, tokio::task::JoinHandle<()>) {
    let key = Arc::new(Key::load_or_create(&folder.join("key")).expect("make a key"));
    let limits = Limits { max_running: usize::MAX, ..Limits::default() };
    let rules = Rules { limits, caps: Caps::default() };
    let cluster: Arc<dyn Cluster> = Arc::<AtOnce>::clone(cluster);
    let dispatcher =
        Dispatcher::new(ledger.clone(), cluster, key, rules, Arc::new(Bell::default()), Arc::new(Waits::default()));
    let stop = CancellationToken::new();
    let shutdown = stop.clone();
    (stop, tokio::spawn(async move { dispatcher.run("a bench", shutdown).await }))
}

/// Jobs that wait, until each has its place and the ledger says so.
async fn flood(jobs: u32) -> String {
    let folder = tempfile::tempdir().unwrap();
    let ledger = ledger(folder.path()).await;
    multiply(folder.path(), "jobs", "id", jobs - 1);
    let cluster = Arc::new(AtOnce::default());
    let (meter, before) = (Meter::start(), statements());
    let (stop, ended) = start(&ledger, folder.path(), &cluster);
    // Another reader would keep SQLite from tidying up: it comes when there is little left to do.
    while cluster.calls.load(Ordering::Relaxed) < jobs.into()
        || sqlite(folder.path(), "SELECT COUNT(*) FROM jobs WHERE phase = 'setting_up'") != jobs.to_string()
    {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (cpu, took) = meter.stop();
    let each = |count: f64| count / f64::from(jobs);
    let row = format!(
        "| {jobs} | {:.2} | {:.2} | {:.2} | {:.0} |\n",
        each(as_f64(statements() - before)),
        each(as_f64(cluster.calls.load(Ordering::Relaxed))),
        each(cpu.as_secs_f64() * 1e3),
        f64::from(jobs) / took.as_secs_f64()
    );
    stop.cancel();
    ended.await.unwrap();
    row
}

/// Nothing to do but to look.
async fn passes() -> String {
    let folder = tempfile::tempdir().unwrap();
    let ledger = ledger(folder.path()).await;
    let order = ledger.begin_launch(&owner(&ledger).await, "first", "at-once", "u".into()).await.unwrap().unwrap();
    ledger.launched(&order.id, "u").await.unwrap();
    multiply(folder.path(), "jobs", "id", LIVE - 1);
    multiply(folder.path(), "attempts", "job_id", LIVE - 1);
    let meter = Meter::start();
    assert_eq!(ledger.running().await.unwrap().len(), LIVE as usize);
    let mut rows = format!("| take-over | 1 | 0 | {:.0} |\n", meter.stop().0.as_secs_f64() * 1e3);
    let cluster = Arc::new(AtOnce::default());
    let (stop, ended) = start(&ledger, folder.path(), &cluster);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (meter, before, called) = (Meter::start(), statements(), cluster.calls.load(Ordering::Relaxed));
    tokio::time::sleep(Duration::from_secs(TICKS.into())).await;
    let (cpu, _) = meter.stop();
    let each = |count: f64| count / f64::from(TICKS);
    rows.push_str(&format!(
        "| a second at rest | {:.1} | {:.0} | {:.0} |\n",
        each(as_f64(statements() - before)),
        each(as_f64(cluster.calls.load(Ordering::Relaxed) - called)),
        each(cpu.as_secs_f64() * 1e3)
    ));
    stop.cancel();
    ended.await.unwrap();
    rows
}

/// One tenant's flood, and two thousand others with ten jobs each.
async fn queue() -> String {
    let folder = tempfile::tempdir().unwrap();
    let ledger = ledger(folder.path()).await;
    multiply(folder.path(), "jobs", "id", WAITING - 1);
    let others = "UPDATE jobs SET tenant = 'o' || (rowid % 2000) WHERE rowid <= 20000; ANALYZE";
    sqlite(folder.path(), others);
    let started = Instant::now();
    assert_eq!(ledger.next_priority(i64::MAX).await.unwrap(), Some(0));
    let lines = ledger.lines(0).await.unwrap();
    assert_eq!(lines.len(), 2001);
    let mut rows = format!("| find 2,001 tenants | {:.1} |\n", started.elapsed().as_secs_f64() * 1e3);
    for (tenant, what) in [("t", "the flood's"), ("o7", "another's")] {
        let started = Instant::now();
        assert!(!ledger.heads(0, tenant, None, 64).await.unwrap().is_empty());
        rows.push_str(&format!("| {what} first jobs | {:.1} |\n", started.elapsed().as_secs_f64() * 1e3));
    }
    rows
}

#[allow(clippy::cast_precision_loss)] // figures for people
fn as_f64(value: u64) -> f64 {
    value as f64
}
