//! The supervisor's other thread: asks for the grant, takes the readings, delivers the records, leaves the last word.
//!
//! It owns everything that may wait for a network or a disk, so that the main loop never does. The main loop tells it what happened
//! ([`Note`]); it answers with [`News`] and rings an eventfd.

mod outbox;
mod post;

use super::{
    config::JobConfig,
    relay::Seen,
    termination_log,
    usage::{Sampler, pace},
};
use crate::record::{
    Millis,
    outcome::Ending,
    phase::Phase,
    termination::Story,
    usage::Usage,
    wire::{Body, Directive, Grant, GrantAnswer, GrantRequest, RecordBatch, RecordsAnswer},
};
use anyhow::Context as _;
use nix::sys::eventfd::{EfdFlags, EventFd};
use outbox::Outbox;
use post::{Answer, Ledger};
use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::mpsc as notes;

/// Between two tries while the ledger does not answer: doubled from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// Whatever Retry-After says: the ending must be delivered while we linger.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Whatever the ledger says: it is not to be flooded.
const SHORTEST_REPORT: Duration = Duration::from_millis(100);
/// A request that hangs when the ending comes is given up after this: less than a grace's reserve (`phase`), which is less than a
/// request's own limit (`post`).
const PATIENCE_AT_THE_END: Duration = Duration::from_secs(1);
/// The share of an interval by which it may vary, so that a fleet does not beat in step.
const JITTER: f64 = 0.1;

/// What the main loop tells the reporter.
pub enum Note {
    AskGrant,
    /// The transfer's process exists: take readings from now on.
    Started {
        work_dir: std::path::PathBuf,
    },
    Phase {
        at: Millis,
        phase: Phase,
        reason: &'static str,
    },
    Ended {
        at: Millis,
        ending: Box<Ending>,
    },
    Hint(String),
    /// Nothing more will come; leave when what is under way is done.
    Stop,
}

/// What the reporter tells the main loop.
pub enum News {
    Granted(Box<Grant>),
    Refused(String),
    Told(Directive),
    StopBy(Millis),
    /// So many seconds without output, I/O and CPU.
    Silent(f64),
    /// The ledger has everything, the ending included.
    Receipt,
}

/// The main loop's end of the line.
pub struct Reporter {
    notes: notes::UnboundedSender<Message>,
    news: mpsc::Receiver<News>,
    pub bell: Arc<EventFd>,
}

enum Message {
    Note(Note),
    Grant(Answer<GrantAnswer>),
    Records { up_to: u64, answer: Answer<RecordsAnswer> },
}

impl Reporter {
    /// Starts the thread. Signals are blocked by now, so it takes none.
    pub fn start(config: &JobConfig, nonce: &str, seen: Arc<Seen>) -> anyhow::Result<Self> {
        let ledger = Ledger::new(config)?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let bell = Arc::new(EventFd::from_flags(flags).context("make an eventfd")?);
        let (notes, inbox) = notes::unbounded_channel();
        let (tell, news) = mpsc::channel();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the reporter")?;
        let desk = Desk {
            config: config.clone(),
            nonce: nonce.to_owned(),
            seen,
            ledger,
            outbox: Outbox::default(),
            tell,
            bell: Arc::clone(&bell),
            loopback: notes.downgrade(),
            sampler: None,
            key: None,
            phase: Phase::SettingUp,
            report_every: config.heartbeat,
            next_beat: None,
            next_ship: None,
            in_flight: None,
            give_up_at: None,
            failures: 0,
            ended: false,
        };
        std::thread::Builder::new()
            .name("reporter".into())
            .spawn(move || runtime.block_on(desk.work(inbox)))
            .context("start the reporter's thread")?;
        Ok(Self { notes, news, bell })
    }

    pub fn note(&self, note: Note) {
        // A reporter that is gone has panicked and taken the process with it (panic = "abort").
        let _ = self.notes.send(Message::Note(note));
    }

    /// All that the reporter has said since the last call.
    pub fn news(&self) -> Vec<News> {
        let _ = self.bell.read(); // empty: rung for news that an earlier call took
        self.news.try_iter().collect()
    }

    /// Ends the thread. A disk or a name server that hangs does not keep us: the process exits anyway.
    pub fn stop(self, patience: Duration) {
        self.note(Note::Stop);
        let until = Instant::now() + patience;
        // The thread's end closes the line.
        while self.news.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok() {}
    }
}

/// The reporter's state; one owner.
struct Desk {
    config: JobConfig,
    nonce: String,
    seen: Arc<Seen>,
    ledger: Ledger,
    outbox: Outbox,
    tell: mpsc::Sender<News>,
    bell: Arc<EventFd>,
    loopback: notes::WeakUnboundedSender<Message>,
    sampler: Option<Sampler>,
    key: Option<ring::hmac::Key>,
    phase: Phase,
    report_every: Duration,
    next_beat: Option<Instant>,
    next_ship: Option<Instant>,
    in_flight: Option<tokio::task::AbortHandle>,
    give_up_at: Option<Instant>,
    failures: u32,
    ended: bool,
}

impl Desk {
    async fn work(mut self, mut inbox: notes::UnboundedReceiver<Message>) {
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
                    Some(Message::Grant(answer)) => self.take_grant(answer),
                    Some(Message::Records { up_to, answer }) => self.take_receipt(up_to, answer),
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
                    self.outbox.push(at, Body::Usage { usage: Box::new(usage) });
                }
                let seq = self.outbox.push(at, Body::Ending { ending: ending.clone() });
                self.ended = true;
                self.failures = 0;
                self.next_ship = Some(now);
                self.give_up_at = Some(now + PATIENCE_AT_THE_END);
                self.leave(seq, at, usage, Some(*ending));
            }
            Note::Hint(why) => {
                if let Err(error) = termination_log::hint(&self.config.termination_log, &why) {
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
        if at_once && self.failures == 0 {
            self.next_ship = Some(now);
        } else if self.next_ship.is_none() {
            self.next_ship = Some(now + self.report_every.saturating_sub(self.config.heartbeat));
        }
    }

    /// The story so far, for whoever finds us dead.
    fn leave(&self, seq: u64, at: Millis, usage: Option<Usage>, ending: Option<Ending>) {
        let Some(key) = &self.key else { return };
        let story =
            Story { id: self.config.id.clone(), source: self.nonce.clone(), seq, at, phase: self.phase, usage, ending };
        if let Err(error) = termination_log::write(&self.config.termination_log, key, story) {
            tracing::warn!(error = format!("{error:#}"), "no last word left");
        }
    }

    fn ask(&self, after: Duration) {
        let request = GrantRequest { id: self.config.id.clone(), nonce: self.nonce.clone() };
        let ledger = self.ledger.clone();
        self.answer_later(async move {
            tokio::time::sleep(after).await;
            Message::Grant(ledger.post("v1/grants", &request).await)
        });
    }

    fn ship(&mut self, now: Instant) {
        self.next_ship = None;
        let records = self.outbox.batch();
        let Some(last) = records.last() else { return };
        let up_to = last.seq;
        let batch = RecordBatch { id: self.config.id.clone(), source: self.nonce.clone(), records };
        let ledger = self.ledger.clone();
        self.next_ship = Some(now + self.report_every);
        let request = async move { Message::Records { up_to, answer: ledger.post("v1/records", &batch).await } };
        self.in_flight = Some(self.answer_later(request));
    }

    fn answer_later(&self, work: impl Future<Output = Message> + Send + 'static) -> tokio::task::AbortHandle {
        let loopback = self.loopback.clone();
        let task = tokio::spawn(async move {
            let message = work.await;
            if let Some(loopback) = loopback.upgrade() {
                let _ = loopback.send(message); // the desk is closed: nobody waits for this answer
            }
        });
        task.abort_handle()
    }

    fn take_grant(&mut self, answer: Answer<GrantAnswer>) {
        let why = match answer {
            Answer::Given(GrantAnswer::Granted(grant)) => match termination_log::key(&grant.key) {
                Ok(key) => {
                    self.key = Some(key);
                    self.report_every = Duration::from_millis(grant.report_every_ms).max(SHORTEST_REPORT);
                    self.failures = 0;
                    return self.say(News::Granted(grant));
                }
                Err(error) => format!("{error:#}"),
            },
            Answer::Given(GrantAnswer::Superseded { reason }) => return self.say(News::Refused(reason)),
            Answer::Given(GrantAnswer::Wait { reason }) => reason,
            Answer::Unacceptable(why) => return self.say(News::Refused(why)),
            Answer::Unreachable { why, retry_after } => {
                tracing::warn!(why, "no grant yet");
                self.failures = self.failures.saturating_add(1);
                return self.ask(self.backoff(retry_after));
            }
        };
        tracing::info!(why, "the ledger lets us wait");
        self.failures = self.failures.saturating_add(1);
        self.ask(self.backoff(None));
    }

    fn take_receipt(&mut self, up_to: u64, answer: Answer<RecordsAnswer>) {
        self.in_flight = None;
        let now = Instant::now();
        match answer {
            Answer::Given(answer) => {
                self.outbox.acknowledge(up_to);
                self.failures = 0;
                self.report_every = Duration::from_millis(answer.report_every_ms).max(SHORTEST_REPORT);
                if answer.directive != Directive::Continue {
                    self.say(News::Told(answer.directive));
                }
                if let Some(stop_by) = answer.stop_by {
                    self.say(News::StopBy(stop_by));
                }
                if self.outbox.is_urgent() {
                    self.next_ship = Some(now);
                }
                if self.ended && self.outbox.is_empty() {
                    self.say(News::Receipt);
                }
            }
            Answer::Unacceptable(why) => {
                tracing::error!(why, "the ledger refuses a batch");
                self.failures += 1;
                let retry = if self.outbox.drop_readings(up_to) { Duration::ZERO } else { self.backoff(None) };
                self.next_ship = Some(now + retry);
            }
            Answer::Unreachable { why, retry_after } => {
                if self.failures == 0 {
                    tracing::warn!(why, "the ledger does not answer; records are kept");
                }
                self.failures = self.failures.saturating_add(1);
                self.next_ship = Some(now + self.backoff(retry_after));
            }
        }
    }

    fn backoff(&self, retry_after: Option<Duration>) -> Duration {
        let (first, last) = BACKOFF;
        let grown = first.saturating_mul(2_u32.saturating_pow(self.failures.min(16)));
        jittered(grown.min(last).max(retry_after.unwrap_or_default().min(LONGEST_WAIT)))
    }

    fn say(&self, news: News) {
        let _ = self.tell.send(news); // the main loop is gone: so are we, soon
        let _ = self.bell.write(1); // full means that it rings already
    }
}

/// The span, a little shorter or longer each time.
fn jittered(span: Duration) -> Duration {
    let mut random = [0_u8; 2];
    if ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random).is_err() {
        return span;
    }
    let share = f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX);
    span.mul_f64(1.0 + JITTER * (2.0 * share - 1.0))
}
