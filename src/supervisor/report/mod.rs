//! The supervisor's other thread: asks for the grant, takes the readings, delivers the records, leaves the last word.
//!
//! It owns everything that may wait for a network or a disk, so that the main loop never does. The main loop tells it what happened
//! ([`Note`]); it answers with [`News`] and rings an eventfd.

mod backoff;
mod desk;
mod outbox;
mod post;

use super::{
    config::JobConfig,
    lease::{Lease, Sent},
    relay::Seen,
};
use crate::record::{
    Millis,
    outcome::Ending,
    phase::Phase,
    wire::{Directive, Grant, GrantAnswer, RecordsAnswer},
};
use anyhow::Context as _;
use desk::Desk;
use nix::sys::eventfd::{EfdFlags, EventFd};
use post::{Answer, Ledger};
use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};
use tokio::sync::mpsc as notes;

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
    StopBy(Instant),
    /// The lease as it stands from now on; before the grant, and after each request that was acknowledged.
    Lease(Lease),
    /// So many seconds without output, I/O and CPU.
    Silent(f64),
    /// The ledger has everything, the ending included, or will never take what is left.
    Receipt,
}

/// The main loop's end of the line.
pub struct Reporter {
    notes: notes::UnboundedSender<Message>,
    news: mpsc::Receiver<News>,
    pub bell: Arc<EventFd>,
}

/// The reporter's end of the line.
struct Line {
    tell: mpsc::Sender<News>,
    bell: Arc<EventFd>,
    /// Where the answers to its requests come back.
    loopback: notes::WeakUnboundedSender<Message>,
}

enum Message {
    Note(Note),
    Grant { sent: Sent, answer: Answer<GrantAnswer> },
    Records { sent: Sent, seqs: Vec<u64>, answer: Answer<RecordsAnswer> },
}

impl Reporter {
    /// Starts the thread. Signals are blocked by now, so it takes none.
    ///
    /// `nonce` tells this process from every other that may ever run the same attempt. With the attempt's token it opens the key of
    /// the last word, so the transfer must not see it.
    pub fn start(config: &JobConfig, nonce: &str, seen: Arc<Seen>) -> anyhow::Result<Self> {
        let ledger = Ledger::new(config)?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let bell = Arc::new(EventFd::from_flags(flags).context("make an eventfd")?);
        let (notes, inbox) = notes::unbounded_channel();
        let (tell, news) = mpsc::channel();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the reporter")?;
        let line = Line { tell, bell: Arc::clone(&bell), loopback: notes.downgrade() };
        let desk = Desk::new(config.clone(), nonce.to_owned(), seen, ledger, line);
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
