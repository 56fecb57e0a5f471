//! Readings of many attempts in one transaction.
//!
//! Fifty thousand attempts send five thousand small batches a second, and a commit for each would be what the database does all day. Batches that bring
//! readings alone, nearly all of them, wait in a bounded queue while the ones before them are written, and go together: no timer, so an idle
//! ledger answers at once. Whatever needs more than that (phases, endings, a process without the grant, an attempt that has ended) goes by itself: `append`.

use super::{
    Error, Ledger, Statement, Tx,
    usage::{Reading, readings},
};
use crate::record::wire::{Body, Directive, RecordBatch};
use sqlx::Row as _;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Readings that wait at the most, an empty batch for one: what a database writes in two seconds, so that whoever asked is still there when it is his turn.
/// Behind that the answer is [`Error::Busy`], and supervisors keep their readings.
const QUEUE: usize = 30_000;

/// An attempt that somebody has locked is waited for, without a connection: another writer's group is gone in a moment, a dead program's lock is not.
const LOCKED_FOR: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Batches of one transaction at the most, as a power of two.
const LARGEST: usize = 8;

/// One writes while the other gathers.
const WRITERS: usize = 2;

/// A batch that waits.
pub struct Waiting {
    batch: Arc<RecordBatch>,
    answer: oneshot::Sender<Told>,
    _room: OwnedSemaphorePermit,
}

/// What became of a batch.
enum Told {
    Kept(Directive),
    /// It is not for a group.
    Alone,
    /// Somebody else has its attempt locked.
    Locked,
    Failed(Error),
}

/// An attempt under our hand that has not ended.
struct Live {
    attempt: i64,
    nonce: Option<String>,
}

/// Where batches go in.
#[derive(Clone)]
pub struct Queue {
    waiting: mpsc::UnboundedSender<Waiting>,
    room: Arc<Semaphore>,
}

impl Queue {
    async fn ask(&self, batch: &Arc<RecordBatch>) -> Result<Told, Error> {
        let weight = u32::try_from(batch.records.len().clamp(1, QUEUE)).unwrap_or(1);
        let room = Arc::clone(&self.room).try_acquire_many_owned(weight).map_err(|_| Error::Busy)?;
        let (answer, told) = oneshot::channel();
        let gone = || Error::Unavailable(sqlx::Error::PoolClosed);
        self.waiting.send(Waiting { batch: Arc::clone(batch), answer, _room: room }).map_err(|_| gone())?;
        told.await.map_err(|_| gone())
    }
}

/// Starts the writers, which end with the last queue.
pub fn start(ledger: &Ledger) -> Queue {
    let (queue, waiting) = mpsc::unbounded_channel();
    let waiting = Arc::new(Mutex::new(waiting));
    for _ in 0..WRITERS {
        tokio::spawn(write(ledger.clone(), Arc::clone(&waiting)));
    }
    Queue { waiting: queue, room: Arc::new(Semaphore::new(QUEUE)) }
}

async fn write(ledger: Ledger, waiting: Arc<Mutex<mpsc::UnboundedReceiver<Waiting>>>) {
    loop {
        let mut group = Vec::new();
        if waiting.lock().await.recv_many(&mut group, 1 << LARGEST).await == 0 {
            return;
        }
        // Who has given up asks again, with the same readings.
        group.retain(|waiting| !waiting.answer.is_closed());
        if group.is_empty() {
            continue;
        }
        let batches: Vec<_> = group.iter().map(|waiting| Arc::clone(&waiting.batch)).collect();
        let told: Vec<Told> = match ledger.transact(|_| ledger.append_group(&batches)).await {
            Ok(told) => told,
            // Something in one of them that the database will not have: each finds out for itself.
            Err(Error::Unavailable(error)) if matches!(error, sqlx::Error::Database(_)) => {
                tracing::warn!("readings of {} batches go one by one: {error}", group.len());
                group.iter().map(|_| Told::Alone).collect()
            }
            Err(error) => {
                let why = error.to_string();
                let same = || Error::Unavailable(sqlx::Error::Io(std::io::Error::other(why.clone())));
                group.iter().map(|_| Told::Failed(same())).collect()
            }
        };
        for (waiting, told) in group.into_iter().zip(told) {
            let _ = waiting.answer.send(told); // who asked may be gone
        }
    }
}

impl Ledger {
    /// How often supervisors are to report: up to six times less often the fuller the queue is, long before anything is refused.
    pub(super) fn report_every(&self, report_every_ms: u64) -> u64 {
        let waiting = self.queue.as_ref().map_or(0, |queue| QUEUE - queue.room.available_permits());
        report_every_ms + report_every_ms.saturating_mul(5 * waiting as u64) / QUEUE as u64
    }

    /// Keeps a batch of readings alone together with others'; `None` if it must go by itself.
    pub(super) async fn append_with_others(&self, batch: &RecordBatch) -> Result<Option<Directive>, Error> {
        let Some(queue) = &self.queue else { return Ok(None) };
        if !batch.records.iter().all(|record| matches!(record.body, Body::Usage { .. })) {
            return Ok(None);
        }
        let batch = Arc::new(batch.clone());
        let until = Instant::now() + LOCKED_FOR;
        loop {
            match queue.ask(&batch).await? {
                Told::Kept(directive) => return Ok(Some(directive)),
                Told::Alone => return Ok(None),
                Told::Failed(error) => return Err(error),
                Told::Locked if Instant::now() < until => tokio::time::sleep(LOOK_EVERY).await,
                Told::Locked => return Err(Error::Busy),
            }
        }
    }

    /// One transaction: locks the attempts, keeps the readings, renews what is to be renewed.
    async fn append_group(&self, batches: &[Arc<RecordBatch>]) -> Result<Vec<Told>, Error> {
        let mut tx = self.begin().await?;
        let jobs: BTreeSet<&str> = batches.iter().map(|batch| batch.id.job.as_str()).collect();
        let query = self.of_jobs(Of::Lock, &jobs);
        let mut live = HashMap::new();
        for row in query.fetch_all(&mut *tx).await? {
            let found = Live { attempt: row.try_get("attempt")?, nonce: row.try_get("nonce")? };
            live.insert(row.try_get::<String, _>("job_id")?, found);
        }
        // Only the process with the grant of a living attempt is in a group: what it is told holds until our commit.
        let counts = |batch: &RecordBatch| {
            live.get(&batch.id.job).is_some_and(|live| {
                live.attempt == i64::from(batch.id.attempt) && live.nonce.as_deref() == Some(batch.source.as_str())
            })
        };
        let counting: Vec<&RecordBatch> = batches.iter().map(|batch| &**batch).filter(|batch| counts(batch)).collect();
        let missing: BTreeSet<&str> = jobs.iter().copied().filter(|job| !live.contains_key(*job)).collect();
        let locked = self.locked(&mut tx, &missing).await?;
        let alone = |batch: &RecordBatch| {
            if locked.contains(&batch.id.job) { Told::Locked } else { Told::Alone }
        };
        if counting.is_empty() {
            return Ok(batches.iter().map(|batch| alone(batch)).collect());
        }
        let jobs: BTreeSet<&str> = counting.iter().map(|batch| batch.id.job.as_str()).collect();
        let mut cancelled = HashSet::new();
        for row in self.of_jobs(Of::Cancelled, &jobs).fetch_all(&mut *tx).await? {
            cancelled.insert(row.try_get::<String, _>("id")?);
        }
        let kept: Vec<Reading<'_>> = counting.iter().flat_map(|batch| readings(batch)).collect();
        self.keep_usage(&mut tx, &kept).await?;
        self.of_jobs(Of::Renew, &jobs).execute(&mut *tx).await?;
        self.commit(tx).await?;
        let told = |batch: &RecordBatch| match () {
            () if !counts(batch) => alone(batch),
            () if cancelled.contains(&batch.id.job) => Told::Kept(Directive::Cancel),
            () => Told::Kept(Directive::Continue),
        };
        Ok(batches.iter().map(|batch| told(batch)).collect())
    }

    /// Those of the jobs whose attempt lives, and which somebody else has locked: a program that died with it, perhaps. To wait for that in the database
    /// would take a connection each, and there are few.
    async fn locked(&self, tx: &mut Tx, missing: &BTreeSet<&str>) -> Result<HashSet<String>, Error> {
        if missing.is_empty() || !self.dialect.locks_rows() {
            return Ok(HashSet::new());
        }
        let rows = self.of_jobs(Of::Alive, missing).fetch_all(&mut **tx).await?;
        rows.iter().map(|row| Ok(row.try_get("job_id")?)).collect()
    }

    /// A statement on up to 2^[`LARGEST`] jobs.
    fn of_jobs(&self, of: Of, jobs: &BTreeSet<&str>) -> Statement<'static> {
        let power = jobs.len().next_power_of_two().ilog2() as usize;
        let mut query = self.sql(statement(of, power));
        if matches!(of, Of::Renew) {
            query = query.bind(super::now().0);
        }
        // The places that are left say the last one again.
        let last = jobs.last().copied().unwrap_or_default();
        let places = jobs.iter().copied().chain(std::iter::repeat(last)).take(1 << power);
        places.fold(query, |query, job| query.bind(job.to_owned()))
    }
}

#[derive(Clone, Copy)]
enum Of {
    /// The attempts that live, in one order for all that lock them, but for those that somebody has locked already: they must not hold up the others.
    Lock,
    Alive,
    Cancelled,
    Renew,
}

/// The statement for 2^`power` jobs: few texts, so that connections keep them prepared.
fn statement(of: Of, power: usize) -> &'static str {
    static STATEMENTS: [[OnceLock<String>; LARGEST + 1]; 4] = [const { [const { OnceLock::new() }; LARGEST + 1] }; 4];
    STATEMENTS[of as usize][power].get_or_init(|| {
        let jobs = ["?"].repeat(1 << power).join(", ");
        match of {
            Of::Lock => format!(
                "SELECT job_id, attempt, nonce FROM attempts WHERE job_id IN ({jobs}) AND state <> 'ended' ORDER BY job_id{{for_update_free}}"
            ),
            Of::Alive => format!("SELECT job_id FROM attempts WHERE job_id IN ({jobs}) AND state <> 'ended'"),
            Of::Cancelled => format!("SELECT id FROM jobs WHERE id IN ({jobs}) AND cancel_requested_ms IS NOT NULL"),
            Of::Renew => format!(
                "UPDATE attempts SET last_record_ms = ?, lease_until_ms = CASE WHEN lease_ms IS NULL THEN lease_until_ms \
                 ELSE {{clock}} + lease_ms END WHERE job_id IN ({jobs}) AND state <> 'ended'"
            ),
        }
    })
}
