//! Inside the Pod: PID 1, and the transfer's only parent.
//!
//! One loop receives [`Event`]s, asks [`phase::step`] and carries out the [`Action`]s. It waits in one `poll` for signals, for the
//! relay's pipes, for the reporter's bell and for the lease's alarm, and wakes for nothing else. The reporter's thread (`report`) does all that may block.
//! The other half of the conversation is `serve::workers`.

mod child;
pub mod config;
mod descent;
mod embulk;
mod foreign;
mod grant;
mod lease;
mod outcome;
mod phase;
mod relay;
mod report;
mod senders;
mod signals;
mod termination_log;
mod transfer;
mod usage;
mod user;

use crate::record::{Millis, hexadecimal, wire::Grant};
use anyhow::Context as _;
use child::{Child, Reaped};
use config::{Asked, Config};
use grant::Prepared;
use lease::Alarm;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use phase::{Action, Event, Exit, Plan, State};
use relay::{Relay, Seen};
use report::{News, Note, Reporter};
use senders::Senders;
use signals::Signals;
use std::{
    collections::{HashSet, VecDeque},
    os::fd::AsFd as _,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// Exit codes of ours, from sysexits.h: bad usage, and a failure that is neither the user's nor the transfer's.
const EX_USAGE: u8 = 64;
const EX_OSERR: u8 = 71;
/// What we give the reporter to put down its pen once the ledger has everything, or will not have it.
const FAREWELL: Duration = Duration::from_millis(500);
/// Read in one go at the most: a storm of signals must not keep us from all else.
const SIGNALS_A_TURN: usize = 256;

/// The program.
pub fn main() -> u8 {
    // Before anything else: nothing of ours is to be read by the transfer, not even at start-up.
    let hidden = nix::sys::prctl::set_dumpable(false);
    crate::telemetry::start("sendo-supervisor");
    if let Err(errno) = hidden {
        tracing::warn!(%errno, "our memory stays readable to our own user");
    }
    match config::read(std::env::args_os().skip(1), std::env::vars_os()) {
        Err(problem) => {
            tracing::error!("{problem}");
            EX_USAGE
        }
        Ok(Asked::Help(text)) => print(&text),
        Ok(Asked::Version) => print(concat!("sendo-supervisor ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Asked::Run(config)) => match Supervisor::new(*config) {
            Ok(supervisor) => supervisor.run(),
            Err(error) => {
                tracing::error!("{error:#}");
                EX_OSERR
            }
        },
    }
}

fn print(text: &str) -> u8 {
    use std::io::Write as _;
    u8::from(std::io::stdout().write_all(text.as_bytes()).is_err())
}

/// Everything that the loop owns.
struct Supervisor {
    config: Config,
    plan: Plan,
    signals: Signals,
    seen: Arc<Seen>,
    /// Only with a job.
    reporter: Option<Reporter>,
    /// Our own and not the reporter's: whatever that thread hangs in, a strict transfer ends in time.
    alarm: Alarm,
    senders: Senders,
    relay: Option<Relay>,
    child: Option<Child>,
    grant: Option<Box<Grant>>,
    prepared: Prepared,
    trouble: Option<String>,
    oom_kills_before: Option<u64>,
    /// The last child that SIGKILL ended before we sent one.
    victim: Option<i32>,
    has_killed: bool,
    /// Leftovers that have had their TERM.
    asked: HashSet<i32>,
}

impl Supervisor {
    fn new(config: Config) -> anyhow::Result<Self> {
        let signals = Signals::block().context("take over the signals")?;
        child::become_reaper()?;
        let job = config.job.as_ref();
        let plan = Plan {
            job: job.is_some(),
            on_term: job.map(|job| job.on_term).unwrap_or_default(),
            grace: config.grace,
            deadline: job.and_then(|job| job.deadline),
            grant_wait: job.map_or(Duration::ZERO, |job| job.grant_wait),
            linger: job.map_or(Duration::ZERO, |job| job.linger),
        };
        let seen = Arc::new(Seen::default());
        let reporter = job.map(|job| {
            child::close_inherited_on_exec()?;
            Reporter::start(job, &random()?, Arc::clone(&seen))
        });
        Ok(Self {
            plan,
            signals,
            reporter: reporter.transpose()?,
            alarm: Alarm::new().context("make a timer")?,
            senders: Senders::default(),
            seen,
            relay: None,
            child: None,
            grant: None,
            prepared: Prepared::default(),
            trouble: None,
            oom_kills_before: job.and_then(|_| usage::group().oom_kills),
            victim: None,
            has_killed: false,
            asked: HashSet::new(),
            config,
        })
    }

    fn run(mut self) -> u8 {
        let mut state = State::New;
        let mut events = VecDeque::from([Event::Begin]);
        loop {
            while let Some(event) = events.pop_front() {
                let (next, actions) = phase::step(&self.plan, state, event, Instant::now());
                state = next;
                for action in actions {
                    // Before all that came together with its cause: a start is told before the drain that is due already.
                    self.act(action).into_iter().rev().for_each(|event| events.push_front(event));
                }
            }
            if let State::Done { code } = state {
                self.flush(phase::FLUSH_LIMIT);
                if let Some(reporter) = self.reporter.take() {
                    reporter.stop(FAREWELL);
                }
                return code;
            }
            if matches!(state, State::Sweeping(_)) {
                // All of them, and then one look for their children: a look goes through all of /proc.
                let mut reaped = self.reap_leftover();
                let any = matches!(reaped, Reaped::One(..));
                while matches!(reaped, Reaped::One(..)) {
                    reaped = self.reap_leftover();
                }
                match reaped {
                    Reaped::NothingLeft => events.push_back(Event::NothingLeft),
                    _ => events.extend(any.then_some(Event::Reaped)),
                }
            }
            if events.is_empty() {
                self.wait(state.wake_at());
                self.gather(&mut events);
                events.push_back(Event::Tick);
            }
        }
    }

    /// Its number may come again.
    fn reap_leftover(&mut self) -> Reaped {
        let reaped = child::reap();
        if let Reaped::One(pid, _) = reaped {
            self.asked.remove(&pid);
        }
        reaped
    }

    /// Sleeps until something happens.
    fn wait(&self, until: Option<Instant>) {
        let mut sources = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        sources.push(PollFd::new(self.alarm.as_fd(), PollFlags::POLLIN));
        sources.extend(self.reporter.as_ref().map(|reporter| PollFd::new(reporter.bell.as_fd(), PollFlags::POLLIN)));
        sources.extend(self.relay.iter().flat_map(Relay::interests));
        let timeout = until.map_or(PollTimeout::NONE, |until| {
            // Rounded up: woken a moment early, we would spin.
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        // An interruption, or an error that comes again: the loop looks at all sources in any case.
        let _ = poll(&mut sources, timeout);
    }

    /// Turns all that has happened into events.
    fn gather(&mut self, events: &mut VecDeque<Event>) {
        let ours = nix::unistd::getpid().as_raw();
        let mut signals = vec![];
        for _ in 0..SIGNALS_A_TURN {
            let Ok(Some(arrived)) = self.signals.next() else { break };
            // Blocked, SIGPIPE is queued even where it is ignored (kernel/signal.c, `sig_ignored`): our own output went away, not the transfer's.
            let our_own_pipe = arrived.signal == libc::SIGPIPE && arrived.sender == Some(ours);
            if arrived.signal == libc::SIGCHLD || our_own_pipe {
                continue;
            }
            // Asked of /proc, so only where the answer counts.
            let asks_to_go = self.plan.job && matches!(arrived.signal, phase::SIGTERM | phase::SIGINT);
            let sender = arrived.sender.filter(|sender| asks_to_go && *sender > 1);
            let descends = sender.is_some_and(descent::is_descendant);
            tracing::debug!(signal = arrived.signal, sender = arrived.sender, descends, "signal");
            if asks_to_go {
                self.senders.heard(arrived, descends);
            }
            if descends {
                tracing::warn!(signal = arrived.signal, sender, "the transfer signalled us; not obeyed");
            }
            signals.push(Event::Signal { signal: arrived.signal, ours: descends });
        }
        // After the signals, or a SIGCHLD for a later end would be taken with theirs.
        while let Reaped::One(pid, exit) = child::reap() {
            self.asked.remove(&pid);
            if exit == Exit::Signal(phase::SIGKILL) && !self.has_killed {
                self.victim = Some(pid);
            }
            if self.child.as_ref().is_some_and(|child| child.pid() == pid) {
                self.child = None;
                events.push_back(Event::Exited(exit));
            } else if events.back() != Some(&Event::Reaped) {
                events.push_back(Event::Reaped);
            }
        }
        // Behind the transfer's end: who is reaped already cannot be sent anything, and did not end by what we would have sent.
        events.extend(signals);
        if let Some(relay) = &mut self.relay {
            relay.turn();
        }
        events.extend(self.news());
        // After the news: it may have been renewed while we slept.
        if self.alarm.rings() {
            events.push_back(Event::LeaseOver);
        }
    }

    fn news(&mut self) -> Vec<Event> {
        let news = self.reporter.as_ref().map(Reporter::news).unwrap_or_default();
        news.into_iter().filter_map(|news| self.understand(news)).collect()
    }

    fn understand(&mut self, news: News) -> Option<Event> {
        match news {
            News::Granted(grant) => {
                self.grant = Some(grant);
                Some(Event::Granted)
            }
            News::Refused(why) => Some(Event::Refused(why)),
            News::Told(directive) => Some(Event::Told(directive)),
            News::StopBy(at) => Some(Event::StopBy(at)),
            News::Lease(lease) => self.alarm.set(lease).err().map(|errno| {
                tracing::error!(%errno, "the lease's end cannot be waited for");
                Event::LeaseOver
            }),
            News::Silent(seconds) => {
                let limit = self.config.job.as_ref()?.stall_after?;
                (seconds >= limit.as_secs_f64()).then_some(Event::Stalled)
            }
            News::Receipt => Some(Event::Receipt),
        }
    }

    /// Carries out one action; what follows from it at once comes back as events.
    fn act(&mut self, action: Action) -> Vec<Event> {
        let at = Millis::from_system(SystemTime::now());
        self.has_killed |= matches!(action, Action::Send(phase::SIGKILL) | Action::Sweep(phase::SIGKILL));
        match action {
            Action::AskGrant => self.tell(Note::AskGrant),
            Action::Spawn => return self.spawn(),
            Action::Send(signal) => self.child.iter().for_each(|child| child.signal_group(signal)),
            Action::Sweep(phase::SIGTERM) => child::signal_children(phase::SIGTERM, |pid| self.asked.insert(pid)),
            Action::Sweep(signal) => child::signal_children(signal, |_| true),
            Action::Report(phase, reason) => {
                tracing::info!(job = self.job(), phase = phase.as_str(), reason);
                self.tell(Note::Phase { at, phase, reason });
            }
            Action::Conclude { exit, reason, incomplete, flush } => {
                self.flush(flush);
                let ending = self.conclude(exit, reason, incomplete);
                tracing::info!(job = self.job(), outcome = ending.outcome.code(), "ended");
                self.prepared.clean_up();
                self.tell(Note::Ended { at, ending: Box::new(ending) });
            }
            Action::Hint(why) => {
                tracing::error!(job = self.job(), "{why}");
                self.tell(Note::Hint(why));
            }
        }
        vec![]
    }

    /// What the transfer wrote last is still in the pipes.
    fn flush(&mut self, limit: Duration) {
        if let Some(mut relay) = self.relay.take() {
            relay.finish(limit);
        }
    }

    fn tell(&self, note: Note) {
        if let Some(reporter) = &self.reporter {
            reporter.note(note);
        }
    }

    fn job(&self) -> Option<&str> {
        Some(self.config.job.as_ref()?.id.job.as_str())
    }
}

/// A name that nobody guesses.
fn random() -> anyhow::Result<String> {
    let mut random = [0_u8; 16];
    let filled = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random);
    filled.ok().context("read random bytes from the kernel")?;
    Ok(hexadecimal(&random))
}
