//! What the supervisor does next: state and event in, state and actions out. No clock, no process, no file.
//!
//! ```text
//!              job                        spawned                 asked to end
//!   New ─────────────> Asking ──granted──> Running ──────────────────> Draining
//!    └──plain──────────────────────────────^  │ exited                    │ exited
//!                         refused, late       v                           v
//!                            │             Sweeping <─────────────────────┘
//!                            v                │ nothing left
//!                          Done <── receipt ── Lingering (with a job)
//! ```
//!
//! Time arrives with the event, and [`State::wake_at`] says when the next one is due without any. The loop in `supervisor`
//! carries out the [`Action`]s in order.

mod drain;

use crate::record::{job::OnTerm, phase::Phase, wire::Directive};
pub use drain::Drain;
use drain::{RESERVE, asked_to_go, due, kill_now, leave_by, stop_now};
use std::time::{Duration, Instant};

/// Leftovers of an ended transfer get this long after TERM.
const SWEEP_MARGIN: Duration = Duration::from_secs(2);
/// From their KILL until we end without them: in an uninterruptible sleep, or not ours to kill.
const SWEEP_LIMIT: Duration = Duration::from_secs(10);
/// What is killed needs a moment to be gone, even where there is no time left.
const KILL_MARGIN: Duration = Duration::from_secs(1);
/// At the end, how long a stuck reader of our output may keep us.
pub const FLUSH_LIMIT: Duration = Duration::from_secs(5);

pub const SIGINT: i32 = libc::SIGINT;
pub const SIGKILL: i32 = libc::SIGKILL;
pub const SIGTERM: i32 = libc::SIGTERM;
/// Exit code of an attempt without leave: superseded or never granted (EX_TEMPFAIL).
pub const NO_LEAVE: u8 = 75;

/// What stays the same over the supervisor's life.
#[derive(Debug, Clone)]
pub struct Plan {
    /// With a job there are grants, reports and drains; without one this is a plain init.
    pub job: bool,
    pub on_term: OnTerm,
    pub grace: Option<Duration>,
    pub deadline: Option<Duration>,
    pub grant_wait: Duration,
    pub linger: Duration,
}

/// Why we end the transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    AskedToGo,
    Deadline,
    Stalled,
    Cancelled,
    Superseded,
    /// The ledger could not be reached for so long that it may soon think that nothing of us runs any more.
    LeaseLost,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AskedToGo => "the Pod was asked to go",
            Self::Deadline => "the deadline passed",
            Self::Stalled => "no output, no disk I/O and no CPU for the stall limit",
            Self::Cancelled => "cancelled",
            Self::Superseded => "superseded: another attempt counts",
            Self::LeaseLost => "its lease ran out while the ledger could not be reached",
        }
    }

    /// Another attempt counts, or may count soon.
    fn is_about_another(self) -> bool {
        matches!(self, Self::Superseded | Self::LeaseLost)
    }
}

/// Where the supervisor stands.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    New,
    /// Asking for leave to start.
    Asking {
        until: Instant,
    },
    /// The transfer runs and nobody wants it to end.
    Running {
        deadline: Option<Instant>,
    },
    /// The transfer runs and is to end.
    Draining(Drain),
    /// The transfer has ended; what it left behind is ending.
    Sweeping(Sweep),
    /// All is over; the ledger has yet to say that it knows.
    Lingering {
        code: u8,
        until: Instant,
    },
    Done {
        code: u8,
    },
}

/// What is known of an ended transfer while its leftovers end.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    pub exit: Exit,
    /// Why we ended it, if we did.
    pub reason: Option<Reason>,
    pub kill_at: Instant,
    pub killed: bool,
    /// They do not end, and we go without them.
    pub give_up_at: Instant,
    /// When the place must be empty.
    pub gone_by: Option<Instant>,
}

/// How the transfer's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// It was never executed: errno.
    NotStarted(i32),
}

impl Exit {
    /// The code that we exit with in its place.
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
            Self::Signal(signal) => u8::try_from(128_i32.saturating_add(signal)).unwrap_or(u8::MAX),
            Self::NotStarted(libc::ENOENT) => 127,
            Self::NotStarted(_) => 126,
        }
    }
}

/// What can happen.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Begin,
    Granted,
    /// No leave, for good.
    Refused(String),
    Spawned,
    /// Our leave was over when the transfer was to be started: it was not.
    TooLate,
    /// A signal to us; `ours` if one of our own descendants sent it.
    Signal {
        signal: i32,
        ours: bool,
    },
    /// The transfer's own process has ended.
    Exited(Exit),
    /// Some other child of ours has ended.
    Reaped,
    /// We have no child left.
    NothingLeft,
    Told(Directive),
    /// The place must be empty by then.
    StopBy(Instant),
    Stalled,
    /// Under `fencing: strict`: by the margin before our lease's end the ledger has not renewed it.
    LeaseOver,
    /// The ledger has acknowledged the ending, or will never take it.
    Receipt,
    /// Time passed; see [`State::wake_at`].
    Tick,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    AskGrant,
    Spawn,
    /// To the transfer's process group.
    Send(i32),
    /// To whatever the transfer left behind; TERM to each once.
    Sweep(i32),
    Report(Phase, &'static str),
    /// Gather the evidence, report the ending, leave the last word.
    Conclude {
        exit: Exit,
        reason: Option<Reason>,
        /// Some of what it left behind did not end.
        incomplete: bool,
        /// What the transfer wrote last may take this long to pass on.
        flush: Duration,
    },
    /// Leave a hint of why nothing ran.
    Hint(String),
}

impl State {
    /// When [`Event::Tick`] is due, if nothing happens before.
    pub fn wake_at(&self) -> Option<Instant> {
        match self {
            Self::New | Self::Done { .. } => None,
            Self::Asking { until } | Self::Lingering { until, .. } => Some(*until),
            Self::Running { deadline } => *deadline,
            Self::Draining(drain) => {
                let term_at = drain.term_at.filter(|_| drain.sent.is_none());
                let kill_at = drain.kill_at.filter(|_| drain.sent != Some(SIGKILL));
                let deadline = drain.deadline.filter(|_| drain.sent.is_none());
                term_at.into_iter().chain(kill_at).chain(deadline).min()
            }
            Self::Sweeping(sweep) => Some(if sweep.killed { sweep.give_up_at } else { sweep.kill_at }),
        }
    }
}

/// The one decision.
pub fn step(plan: &Plan, state: State, event: Event, now: Instant) -> (State, Vec<Action>) {
    match state {
        State::New => match event {
            Event::Begin if plan.job => (State::Asking { until: now + plan.grant_wait }, vec![Action::AskGrant]),
            Event::Begin => (State::Running { deadline: None }, vec![Action::Spawn]),
            _ => (State::New, vec![]),
        },
        State::Asking { until } => asking(plan, until, event, now),
        State::Running { deadline } => running(plan, deadline, event, now),
        State::Draining(drain) => draining(plan, drain, event, now),
        State::Sweeping(sweep) => sweeping(plan, sweep, event, now),
        State::Lingering { code, until } => match event {
            Event::Receipt => (State::Done { code }, vec![]),
            Event::Tick if now >= until => (State::Done { code }, vec![]),
            Event::Told(Directive::Superseded) => (State::Lingering { code: NO_LEAVE, until }, vec![]),
            Event::Signal { signal: SIGTERM | SIGINT, ours: false } => {
                (State::Lingering { code, until: until.min(now + RESERVE) }, vec![])
            }
            _ => (State::Lingering { code, until }, vec![]),
        },
        State::Done { code } => (State::Done { code }, vec![]),
    }
}

fn nothing_ran(why: String) -> (State, Vec<Action>) {
    (State::Done { code: NO_LEAVE }, vec![Action::Hint(why)])
}

fn asking(plan: &Plan, until: Instant, event: Event, now: Instant) -> (State, Vec<Action>) {
    match event {
        Event::Granted => (State::Running { deadline: plan.deadline.map(|span| now + span) }, vec![Action::Spawn]),
        Event::Refused(why) => nothing_ran(format!("{why}; nothing was run")),
        Event::Signal { signal: SIGTERM | SIGINT, .. } => {
            nothing_ran("asked to go before the grant; nothing was run".into())
        }
        // The grant is on its way from the reporter, and came too late.
        Event::LeaseOver => nothing_ran("the lease was over before anything could start; nothing was run".into()),
        Event::Tick if now >= until => nothing_ran("no grant within the waiting time; nothing was run".into()),
        _ => (State::Asking { until }, vec![]),
    }
}

fn running(plan: &Plan, deadline: Option<Instant>, event: Event, now: Instant) -> (State, Vec<Action>) {
    let goes_on = State::Running { deadline };
    let drain = match event {
        Event::Spawned if plan.job => return (goes_on, vec![Action::Report(Phase::Executing, "started")]),
        Event::TooLate => return nothing_ran("its leave was over before it could be started; nothing was run".into()),
        Event::Exited(exit) => return ended(exit, None, None, false, now),
        Event::Signal { signal, .. } if !plan.job => {
            let kill_at = plan.grace.map(|grace| now + grace);
            let drain = Drain { kill_at, sent: Some(SIGTERM), ..Drain::for_reason(Reason::AskedToGo) };
            let state = if signal == SIGTERM { State::Draining(drain) } else { goes_on };
            return (state, vec![Action::Send(signal)]);
        }
        Event::Signal { signal: SIGTERM | SIGINT, ours: true } => return (goes_on, vec![]),
        Event::Signal { signal: SIGTERM | SIGINT, ours: false } => asked_to_go(plan, now),
        Event::Signal { signal, .. } => return (goes_on, vec![Action::Send(signal)]),
        Event::StopBy(gone_by) => leave_by(plan.on_term, gone_by, now),
        Event::Told(Directive::Cancel) => stop_now(Reason::Cancelled, now),
        Event::Told(Directive::Superseded) => kill_now(Reason::Superseded, now),
        Event::LeaseOver => kill_now(Reason::LeaseLost, now),
        Event::Stalled => stop_now(Reason::Stalled, now),
        Event::Tick if deadline.is_some_and(|deadline| now >= deadline) => stop_now(Reason::Deadline, now),
        _ => return (goes_on, vec![]),
    };
    let report = Action::Report(Phase::Stopping, drain.reason.as_str());
    let (state, mut actions) = due(Drain { deadline, ..drain }, vec![], now);
    // A signal that is due waits for no log.
    actions.push(report);
    (state, actions)
}

fn draining(plan: &Plan, mut drain: Drain, event: Event, now: Instant) -> (State, Vec<Action>) {
    let mut actions = vec![];
    match event {
        // An end that we did not bring about has its own reason.
        Event::Exited(exit) => {
            let reason = drain.sent.filter(|_| plan.job).and(Some(drain.reason));
            // Asked to go without a word of how long: there is nothing left to finish, only the last reports need time.
            let gone_by = drain.gone_by.or((drain.terms > 0).then_some(now + RESERVE));
            return ended(exit, reason, gone_by, drain.at_once, now);
        }
        Event::Signal { signal, .. } if !plan.job => actions.push(Action::Send(signal)),
        Event::Signal { signal: SIGTERM | SIGINT, ours: true } => {}
        Event::Signal { signal: SIGTERM | SIGINT, ours: false } => {
            drain.terms += 1;
            if drain.terms >= 2 {
                drain.kill_at = Some(now);
            } else {
                // A drain that something else began: the place's grace begins with this one.
                drain.hasten(asked_to_go(plan, now));
            }
        }
        Event::Signal { signal, .. } => actions.push(Action::Send(signal)),
        Event::StopBy(gone_by) if plan.job => drain.hasten(leave_by(plan.on_term, gone_by, now)),
        Event::Told(Directive::Cancel) if !drain.reason.is_about_another() => {
            drain.turn_into(stop_now(Reason::Cancelled, now))
        }
        Event::Told(Directive::Superseded) => drain.turn_into(kill_now(Reason::Superseded, now)),
        // What is killed already keeps the reason that it was killed for.
        Event::LeaseOver if drain.sent == Some(SIGKILL) => drain.at_once = true,
        Event::LeaseOver => drain.turn_into(kill_now(Reason::LeaseLost, now)),
        Event::Stalled if drain.sent.is_none() => drain.turn_into(stop_now(Reason::Stalled, now)),
        Event::Tick if drain.sent.is_none() && drain.deadline.is_some_and(|deadline| now >= deadline) => {
            drain.turn_into(stop_now(Reason::Deadline, now));
        }
        _ => {}
    }
    due(drain, actions, now)
}

fn ended(
    exit: Exit,
    reason: Option<Reason>,
    gone_by: Option<Instant>,
    at_once: bool,
    now: Instant,
) -> (State, Vec<Action>) {
    let kill_at = if at_once { now } else { now + SWEEP_MARGIN };
    let mut sweep = Sweep { exit, reason, kill_at, killed: at_once, give_up_at: kill_at + SWEEP_LIMIT, gone_by };
    sweep.hasten(now);
    (State::Sweeping(sweep), vec![Action::Sweep(if at_once { SIGKILL } else { SIGTERM })])
}

fn sweeping(plan: &Plan, mut sweep: Sweep, event: Event, now: Instant) -> (State, Vec<Action>) {
    let mut actions = vec![];
    match event {
        Event::NothingLeft => return swept(plan, &sweep, false, now),
        Event::Tick if sweep.killed && now >= sweep.give_up_at => return swept(plan, &sweep, true, now),
        Event::Tick if now >= sweep.kill_at && !sweep.killed => sweep.kill(&mut actions, now),
        // A leftover's child became ours when its parent died: it goes the same way.
        Event::Reaped => actions.push(Action::Sweep(if sweep.killed { SIGKILL } else { SIGTERM })),
        // The grace runs from this moment, and there is nothing left to finish: only the last reports need time.
        Event::Signal { signal: SIGTERM | SIGINT, ours: false } => {
            sweep.gone_by = sweep.gone_by.into_iter().chain([now + RESERVE]).min();
            sweep.hasten(now);
        }
        Event::Told(Directive::Superseded) => {
            sweep.reason = Some(Reason::Superseded);
            sweep.kill(&mut actions, now);
        }
        // The transfer itself has ended in time; how, stays as it is.
        Event::LeaseOver => sweep.kill(&mut actions, now),
        _ => {}
    }
    (State::Sweeping(sweep), actions)
}

impl Sweep {
    fn kill(&mut self, actions: &mut Vec<Action>, now: Instant) {
        if !self.killed {
            self.give_up_at = self.give_up_at.clamp(now + KILL_MARGIN, now + SWEEP_LIMIT);
        }
        self.killed = true;
        actions.push(Action::Sweep(SIGKILL));
    }

    /// Half of what is left is for the ending: what is still in the pipes, and the reports.
    fn hasten(&mut self, now: Instant) {
        if let Some(left) = self.gone_by.map(|gone_by| gone_by.saturating_duration_since(now)) {
            self.kill_at = self.kill_at.min(now + left / 4);
            self.give_up_at = self.give_up_at.min(now + KILL_MARGIN.max(left / 2));
        }
    }
}

fn swept(plan: &Plan, sweep: &Sweep, incomplete: bool, now: Instant) -> (State, Vec<Action>) {
    let code = if sweep.reason == Some(Reason::Superseded) { NO_LEAVE } else { sweep.exit.code() };
    if !plan.job {
        let hint = incomplete.then(|| Action::Hint("what the command left behind could not be ended".into()));
        return (State::Done { code }, hint.into_iter().collect());
    }
    let until = now + plan.linger;
    let until = sweep.gone_by.map_or(until, |gone_by| until.min(gone_by.max(now)));
    // The other half is for the reports.
    let flush =
        sweep.gone_by.map_or(FLUSH_LIMIT, |gone_by| FLUSH_LIMIT.min(gone_by.saturating_duration_since(now) / 2));
    (
        State::Lingering { code, until },
        vec![Action::Conclude { exit: sweep.exit, reason: sweep.reason, incomplete, flush }],
    )
}

#[cfg(test)]
mod tests;
