//! The reporter's thread: one owner of all that is to be told, and of when. `Reporter` is the main loop's end of the line.

use super::{
    super::{
        config::JobConfig,
        lease::{Lease, Sent},
        relay::Seen,
        termination_log,
        usage::{Sampler, pace},
    },
    Line, Message, News, Note,
    backoff::{Backoff, jittered},
    outbox::{Outbox, Refused, is_usage},
    post::{Answer, Ledger},
};
use crate::record::{
    Millis,
    job::Fencing,
    outcome::Ending,
    phase::Phase,
    termination::Story,
    usage::Usage,
    wire::{Body, Directive, Grant, GrantAnswer, GrantRequest, RecordBatch, RecordsAnswer},
};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::mpsc as notes;

/// Whatever the ledger says: it is not to be flooded.
const SHORTEST_REPORT: Duration = Duration::from_millis(100);
/// A request that hangs when the ending comes is given up after this: less than a grace's reserve (`phase`), which is less than a
/// request's own limit (`post`).
const PATIENCE_AT_THE_END: Duration = Duration::from_secs(1);

/// The reporter's state; one owner.
pub struct Desk {
    config: JobConfig,
    nonce: String,
    seen: Arc<Seen>,
    ledger: Ledger,
    outbox: Outbox,
    line: Line,
    sampler: Option<Sampler>,
    key: Option<ring::hmac::Key>,
    phase: Phase,
    report_every: Duration,
    next_beat: Option<Instant>,
    next_ship: Option<Instant>,
    in_flight: Option<tokio::task::AbortHandle>,
    give_up_at: Option<Instant>,
    backoff: Backoff,
    /// Under `fencing: strict`.
    lease: Option<Lease>,
    /// Readings that the ledger would not take.
    refused: u64,
    ended: bool,
}

impl Desk {
    pub fn new(config: JobConfig, nonce: String, seen: Arc<Seen>, ledger: Ledger, line: Line) -> Self {
        Self {
            report_every: config.heartbeat,
            config,
            nonce,
            seen,
            ledger,
            outbox: Outbox::default(),
            line,
            sampler: None,
            key: None,
            phase: Phase::SettingUp,
            next_beat: None,
            next_ship: None,
            in_flight: None,
            give_up_at: None,
            backoff: Backoff::default(),
            lease: None,
            refused: 0,
            ended: false,
        }
    }

    /// Until it is told to stop.
    pub async fn work(mut self, mut inbox: notes::UnboundedReceiver<Message>) {
        loop {
            let ship = self.next_ship.filter(|_| self.in_flight.is_none());
            let next = self.next_beat.into_iter().chain(ship).chain(self.give_up_at).min();
            let sleep = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = inbox.recv() => match message {
                    None | Some(Message::Note(Note::Stop)) => return,
                    Some(Message::Note(note)) => self.take(note),
                    Some(Message::Grant { sent, answer }) => self.take_grant(sent, answer),
                    Some(Message::Records { sent, seqs, answer }) => self.take_receipt(sent, &seqs, answer),
                },
                () = sleep => {}
            }
            let now = Instant::now();
            if self.next_beat.is_some_and(|at| now >= at) {
                self.beat(now);
            }
            if self.give_up_at.is_some_and(|at| now >= at) {
                self.give_up_at = None;
                // Its answer may wait in the inbox; it is as good as ever.
                self.in_flight.take().inspect(tokio::task::AbortHandle::abort);
            }
            if self.in_flight.is_none() && self.next_ship.is_some_and(|at| now >= at) {
                self.ship(now);
            }
        }
    }

    fn take(&mut self, note: Note) {
        let now = Instant::now();
        match note {
            Note::AskGrant => self.ask(Duration::ZERO),
            Note::Started { work_dir } => {
                self.sampler = Some(Sampler::new(Arc::clone(&self.seen), work_dir, now));
                self.next_beat = Some(now);
            }
            Note::Phase { at, phase, reason } => {
                self.phase = phase;
                self.outbox.push(at, Body::Phase { phase, reason: reason.into() });
                self.next_ship = Some(now);
            }
            Note::Ended { at, ending } => {
                let usage = self.sampler.as_mut().map(|sampler| sampler.read(now));
                self.next_beat = None;
                if let Some(usage) = usage.clone() {
                    // Read now, and perhaps after a beat that came between the end and this note.
                    let at = Millis::from_system(SystemTime::now());
                    self.outbox.push(at, Body::Usage { usage: Box::new(usage) });
                }
                let seq = self.outbox.push(at, Body::Ending { ending: ending.clone() });
                self.ended = true;
                self.backoff.reset();
                self.next_ship = Some(now);
                self.give_up_at = Some(now + PATIENCE_AT_THE_END);
                self.leave(seq, at, usage, Some(*ending));
            }
            Note::Hint(why) => {
                if let Err(error) = termination_log::hint(&self.config.termination_log, &self.nonce, &why) {
                    tracing::warn!(%error, "no hint left");
                }
            }
            Note::Stop => {}
        }
    }

    fn beat(&mut self, now: Instant) {
        let Some(sampler) = &mut self.sampler else { return };
        let usage = sampler.read(now);
        let (beat, at_once) = pace::next(&usage.cgroup, self.config.heartbeat);
        self.next_beat = Some(now + jittered(beat));
        if let Some(silent) = usage.silent_seconds {
            self.say(News::Silent(silent));
        }
        let at = Millis::from_system(SystemTime::now());
        let seq = self.outbox.push(at, Body::Usage { usage: Box::new(usage.clone()) });
        self.leave(seq, at, Some(usage), None);
        // A ledger that does not answer is asked again in its own time.
        if at_once && self.backoff.is_new() {
            self.next_ship = Some(now);
        } else if self.next_ship.is_none() {
            self.next_ship = Some(now + self.report_every.saturating_sub(self.config.heartbeat));
        }
    }

    /// The story so far, for whoever finds us dead.
    fn leave(&self, seq: u64, at: Millis, usage: Option<Usage>, ending: Option<Ending>) {
        let Some(key) = &self.key else { return };
        let story = Story { id: self.config.id.clone(), seq, at, phase: self.phase, usage, ending };
        if let Err(error) = termination_log::write(&self.config.termination_log, key, story) {
            tracing::warn!(error = format!("{error:#}"), "no last word left");
        }
    }

    fn ask(&self, after: Duration) {
        let request = GrantRequest { id: self.config.id.clone(), nonce: self.nonce.clone() };
        let ledger = self.ledger.clone();
        self.answer_later(async move {
            tokio::time::sleep(after).await;
            let sent = Sent::now();
            Message::Grant { sent, answer: ledger.post("v1/grants", &request).await }
        });
    }

    fn ship(&mut self, now: Instant) {
        self.next_ship = None;
        let records = self.outbox.batch();
        // An empty batch renews a lease; without one it says nothing.
        if records.is_empty() && (self.lease.is_none() || self.ended) {
            return;
        }
        let seqs = records.iter().map(|record| record.seq).collect();
        let batch = RecordBatch { id: self.config.id.clone(), source: self.nonce.clone(), records };
        let ledger = self.ledger.clone();
        let patience = self.lease.map(|lease| lease.patience());
        self.next_ship =
            Some(now + self.lease.map_or(self.report_every, |lease| lease.renew_every().min(self.report_every)));
        let sent = Sent::now();
        self.in_flight = Some(self.answer_later(async move {
            let answer = ledger.post("v1/records", &batch);
            let answer = match patience {
                None => answer.await,
                Some(patience) => {
                    tokio::time::timeout(patience, answer).await.unwrap_or_else(|_| Answer::Unreachable {
                        why: format!("no answer within {patience:?}, a share of the lease"),
                        retry_after: None,
                    })
                }
            };
            Message::Records { sent, seqs, answer }
        }));
    }

    fn answer_later(&self, work: impl Future<Output = Message> + Send + 'static) -> tokio::task::AbortHandle {
        let loopback = self.line.loopback.clone();
        let task = tokio::spawn(async move {
            let message = work.await;
            if let Some(loopback) = loopback.upgrade() {
                let _ = loopback.send(message); // the desk is closed: nobody waits for this answer
            }
        });
        task.abort_handle()
    }

    fn take_grant(&mut self, sent: Sent, answer: Answer<GrantAnswer>) {
        let why = match answer {
            Answer::Given(GrantAnswer::Granted(grant)) => match termination_log::key(&grant.key) {
                Ok(key) => {
                    let lease = match self.leased(&grant, sent) {
                        Ok(lease) => lease,
                        Err(why) => return self.say(News::Refused(why)),
                    };
                    if lease.is_none_or(|lease| !lease.is_over()) {
                        self.key = Some(key);
                        return self.begin(grant, lease);
                    }
                    "its lease was over when the grant came".into()
                }
                Err(error) => format!("{error:#}"),
            },
            Answer::Given(GrantAnswer::Superseded { reason }) => {
                return self.say(News::Refused(format!("superseded: {reason}")));
            }
            Answer::Given(GrantAnswer::Wait { reason }) => reason,
            Answer::Unacceptable(why) => return self.say(News::Refused(why)),
            Answer::Unreachable { why, retry_after } => {
                tracing::warn!(why, "no grant yet");
                let wait = self.backoff.next(retry_after);
                return self.ask(wait);
            }
        };
        tracing::info!(why, "the ledger lets us wait");
        let wait = self.backoff.next(None);
        self.ask(wait);
    }

    /// The lease that goes with a grant.
    ///
    /// A grant with a lease is held to it though our order says `patient`: the ledger will take the lease's end for ours, and only one of us can be
    /// wrong without harm. An order that says `strict` is not run without one: nobody would fence it.
    fn leased(&self, grant: &Grant, sent: Sent) -> Result<Option<Lease>, String> {
        match (grant.lease_ms, self.config.fencing) {
            (Some(span), _) => Lease::new(Duration::from_millis(span), sent).map(Some),
            (None, Fencing::Strict) => {
                Err("the job says `fencing: strict`, and the ledger's grant brings no lease".into())
            }
            (None, Fencing::Patient) => Ok(None),
        }
    }

    fn begin(&mut self, grant: Box<Grant>, lease: Option<Lease>) {
        self.report_every = Duration::from_millis(grant.report_every_ms).max(SHORTEST_REPORT);
        self.backoff.reset();
        if let Some(lease) = lease {
            self.lease = Some(lease);
            self.backoff.longest = Some(lease.longest_backoff());
            self.next_ship = Some(Instant::now() + lease.renew_every());
            // First of all: nothing may run before the alarm is set.
            self.say(News::Lease(lease));
        }
        self.say(News::Granted(grant));
    }

    fn take_receipt(&mut self, sent: Sent, seqs: &[u64], answer: Answer<RecordsAnswer>) {
        self.in_flight = None;
        let now = Instant::now();
        match answer {
            Answer::Given(answer) => {
                self.outbox.acknowledge(seqs);
                self.backoff.reset();
                if answer.directive != Directive::Superseded
                    && let Some(lease) = &mut self.lease
                {
                    *lease = lease.renewed(sent);
                    let lease = *lease;
                    self.say(News::Lease(lease));
                }
                self.report_every = Duration::from_millis(answer.report_every_ms).max(SHORTEST_REPORT);
                if answer.directive != Directive::Continue {
                    self.say(News::Told(answer.directive));
                }
                if let Some(span) = answer.stop_within_ms {
                    // From the sending: the ledger's answer may have been long on its way.
                    let stop_by = sent.at.checked_add(Duration::from_millis(span));
                    stop_by.into_iter().for_each(|at| self.say(News::StopBy(at)));
                }
                // The ending is worth no interval, nor is what waits behind a refusal.
                if self.outbox.is_urgent() || (self.ended && !self.outbox.is_empty()) {
                    self.next_ship = Some(now);
                }
                self.settle();
            }
            Answer::Unacceptable(why) => {
                let wait = self.part_with(seqs, &why);
                self.next_ship = Some(now + wait);
                self.settle();
            }
            Answer::Unreachable { why, retry_after } => {
                if self.backoff.is_new() {
                    tracing::warn!(why, "the ledger does not answer; records are kept");
                }
                self.next_ship = Some(now + self.backoff.next(retry_after));
            }
        }
    }

    /// The ledger will never take these records as one batch: on the way to the one that it does not take. Gives back when to go on.
    fn part_with(&mut self, seqs: &[u64], why: &str) -> Duration {
        match self.outbox.refuse(seqs) {
            Refused::Narrowed => {
                tracing::warn!(records = seqs.len(), why, "the ledger refuses a batch; tried again in smaller ones");
                Duration::ZERO
            }
            Refused::Dropped(record) if is_usage(&record) => {
                self.refused += 1;
                tracing::warn!(seq = record.seq, dropped = self.refused, why, "the ledger refuses a reading; dropped");
                SHORTEST_REPORT
            }
            Refused::Dropped(record) => {
                let what = if let Body::Phase { phase, .. } = record.body { phase.as_str() } else { "ending" };
                tracing::error!(
                    seq = record.seq,
                    what,
                    why,
                    "the ledger refuses a record; it stays in the termination log alone"
                );
                Duration::ZERO
            }
            Refused::Empty => self.backoff.next(None),
        }
    }

    /// Whether the ending is settled: in the ledger, or refused for good, which no lingering mends.
    fn settle(&self) {
        if self.ended && self.outbox.is_empty() {
            self.say(News::Receipt);
        }
    }

    fn say(&self, news: News) {
        let _ = self.line.tell.send(news); // the main loop is gone: so are we, soon
        let _ = self.line.bell.write(1); // full means that it rings already
    }
}
