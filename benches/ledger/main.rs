//! How many readings the ledger takes, through the verb that `POST /v1/records` calls: `make bench`, which adds a section to `docs/benchmarks.md`.
//!
//! Fifty thousand attempts that report every ten seconds send five thousand batches of one reading a second. Here fewer attempts send theirs as fast as
//! they are answered.

#[path = "../../tests/env/mod.rs"]
#[allow(dead_code)] // the tests use the rest
mod env;
#[path = "../section.rs"]
mod section;

use env::ledgers::{Database, Place, owner};
use sendo::{
    ledger::{Budget, Ledger, NextStep, RetryCase, Terms, now},
    record::{
        job::Job,
        usage::Usage,
        wire::{AttemptId, Body, GrantRequest, Record, RecordBatch},
    },
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const TITLE: &str = "The ledger";
const ATTEMPTS: usize = 2000;
/// Senders at the same time, as `sendo serve` has requests.
const AT_ONCE: usize = 1000;
const SPAN: Duration = Duration::from_secs(8);
const GOAL: usize = 5000;
const NONCE: &str = "5d0cbb8e-8c1b-4d2e-9d33-0a6f6d1f9c55";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut report = format!(
        "Readings through the verb of `POST /v1/records`, batches of one, {AT_ONCE} at once from {ATTEMPTS} attempts for {} s; the program \
         is built without optimization, database and program share the machine, the servers write without fsync.\n\n\
         | | readings/s | answer p50 | p99 | our CPU for a reading | goal |\n| --- | --- | --- | --- | --- | --- |\n",
        SPAN.as_secs()
    );
    for (database, name, goal) in [
        (Database::Postgresql, "PostgreSQL", format!("≥ {GOAL} readings/s")),
        (Database::Mariadb, "MariaDB", "-".to_owned()),
        (Database::Sqlite, "SQLite, with fsync", "-".to_owned()),
    ] {
        let figures = runtime.block_on(measure(database));
        let row = format!("| {name} | {figures} | {goal} |\n");
        print!("{row}");
        report.push_str(&row);
    }
    section::put(TITLE, &report);
}

async fn measure(database: Database) -> String {
    let place = Place::new(database);
    let ledger = Ledger::open(&place.url, policy).await.expect("a ledger");
    let mut attempts = Vec::new();
    for n in 0..ATTEMPTS {
        attempts.push(executing(&ledger, &format!("job-{n:05}.2026-11-23T10:00")).await);
    }
    let attempts = Arc::new(attempts);
    let (started, cpu) = (Instant::now(), cpu());
    let senders: Vec<_> = (0..AT_ONCE)
        .map(|sender| {
            let (ledger, attempts) = (ledger.clone(), Arc::clone(&attempts));
            tokio::spawn(async move {
                let mut times = Vec::new();
                for round in 0.. {
                    let id = &attempts[(sender + round * AT_ONCE) % ATTEMPTS];
                    let batch = batch(id, round as u64 + 10);
                    let asked = Instant::now();
                    ledger.append(&batch, 1000).await.expect("taken");
                    times.push(asked.elapsed());
                    if started.elapsed() > SPAN {
                        break;
                    }
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for sender in senders {
        times.extend(sender.await.expect("a sender"));
    }
    let (elapsed, cpu) = (started.elapsed(), self::cpu() - cpu);
    times.sort_unstable();
    let kept = usize::try_from(place.count("SELECT COUNT(*) FROM heartbeats").await).expect("a count");
    assert_eq!(kept, times.len(), "each is kept once");
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_millis();
    let rate = kept as f64 / elapsed.as_secs_f64();
    let each = cpu.as_micros() as f64 / kept as f64;
    format!("{rate:.0} | {} ms | {} ms | {each:.0} µs", at(50), at(99))
}

/// An attempt that has its grant.
async fn executing(ledger: &Ledger, id: &str) -> AttemptId {
    let job: Job = serde_json::from_str(&format!(r#"{{"version":1,"id":"{id}","command":["true"]}}"#)).expect("a job");
    ledger.accept(&job, "digest", 0).await.expect("taken");
    let order = ledger
        .begin_launch(&owner(ledger).await, id, "here", format!("uid {id}"))
        .await
        .expect("launched")
        .expect("an order");
    let request = GrantRequest { id: order.id.clone(), nonce: NONCE.into() };
    let terms = Terms { report_every_ms: 1000, lease: Duration::from_secs(60) };
    ledger.grant(&request, order.uid.as_str(), "00".into(), terms).await.expect("granted");
    order.id
}

/// A reading as a Pod with a JVM makes it.
fn batch(id: &AttemptId, seq: u64) -> RecordBatch {
    let mut usage = Usage { disk_free_bytes: Some(10_000_000_000), silent_seconds: Some(0.3), ..Usage::default() };
    usage.cgroup.memory_current_bytes = Some(700_000_000 + seq);
    usage.cgroup.memory_working_set_bytes = Some(600_000_000 + seq);
    usage.cgroup.memory_peak_bytes = Some(900_000_000);
    usage.cgroup.memory_limit_bytes = Some(1 << 30);
    usage.cgroup.oom_kills = Some(0);
    usage.cgroup.cpu_seconds = Some(12.345 + seq as f64);
    usage.cgroup.cpu_throttled_seconds = Some(0.25);
    usage.tree.processes = Some(2);
    usage.tree.rss_bytes = Some(580_000_000);
    usage.tree.tree_cpu_seconds = Some(12.3 + seq as f64);
    usage.jvm.jvm_heap_used_bytes = Some(200_000_000);
    usage.jvm.jvm_heap_max_bytes = Some(512 << 20);
    usage.jvm.jvm_gc_seconds = Some(0.5);
    usage.network.network_received_bytes = Some(seq * 1000);
    usage.network.network_sent_bytes = Some(seq * 1000);
    usage.progress.rows = Some(seq * 500);
    let record = Record { seq, at: now(), body: Body::Usage { usage: Box::new(usage) } };
    RecordBatch { id: id.clone(), source: NONCE.into(), records: vec![record] }
}

/// CPU time of this program, databases not included.
fn cpu() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).expect("our usage");
    let time = |value: nix::sys::time::TimeVal| {
        Duration::from_micros(u64::try_from(value.tv_sec() * 1_000_000 + value.tv_usec()).expect("a time"))
    };
    time(usage.user_time()) + time(usage.system_time())
}

fn policy(_: &RetryCase<'_>) -> NextStep {
    NextStep::Retry { after: Duration::ZERO, budget: Budget::Infrastructure, memory: None }
}
