//! An end under way and its times: TERM when it must begin to stop, KILL when it must be gone. Pure, as all of `phase`.

use super::{Action, Plan, Reason, SIGKILL, SIGTERM, State};
use crate::record::job::OnTerm;
use std::time::{Duration, Instant};

/// From TERM to KILL where no grace says otherwise: a cancel, a deadline, a stall, and what a transfer leaves behind.
const STOP_MARGIN: Duration = Duration::from_secs(10);
/// Kept free at the end of a grace for the last reports; never more than a tenth of the grace.
pub(super) const RESERVE: Duration = Duration::from_secs(5);

/// An end under way.
#[derive(Debug, Clone, PartialEq)]
pub struct Drain {
    pub reason: Reason,
    /// TERM and INT that came from outside so far; the second is a KILL.
    pub terms: u32,
    pub term_at: Option<Instant>,
    pub kill_at: Option<Instant>,
    /// What we have sent for this reason: nothing, TERM, or KILL.
    pub sent: Option<i32>,
    /// When the place must be empty.
    pub gone_by: Option<Instant>,
    /// What the transfer leaves behind gets no time to stop in.
    pub at_once: bool,
    /// The transfer's own deadline goes on.
    pub deadline: Option<Instant>,
}

impl Drain {
    pub(super) fn for_reason(reason: Reason) -> Self {
        Self {
            reason,
            terms: 0,
            term_at: None,
            kill_at: None,
            sent: None,
            gone_by: None,
            at_once: false,
            deadline: None,
        }
    }

    /// The earlier of both plans.
    pub(super) fn hasten(&mut self, other: Self) {
        let earlier = |ours: Option<Instant>, theirs: Option<Instant>| ours.into_iter().chain(theirs).min();
        self.term_at = earlier(self.term_at, other.term_at);
        self.kill_at = earlier(self.kill_at, other.kill_at);
        self.gone_by = earlier(self.gone_by, other.gone_by);
        self.at_once |= other.at_once;
    }

    /// A stronger reason than the one so far.
    pub(super) fn turn_into(&mut self, other: Self) {
        self.reason = other.reason;
        self.hasten(other);
    }
}

/// The first SIGTERM starts the clock: TERM so late that the transfer may finish, KILL before the end of the grace.
pub(super) fn asked_to_go(plan: &Plan, now: Instant) -> Drain {
    let drain = match plan.grace.or(plan.deadline) {
        Some(grace) => leave_by(plan.on_term, now + grace, now),
        None if plan.on_term == OnTerm::Stop => stop_now(Reason::AskedToGo, now),
        None => Drain::for_reason(Reason::AskedToGo),
    };
    Drain { terms: 1, ..drain }
}

pub(super) fn leave_by(on_term: OnTerm, gone_by: Instant, now: Instant) -> Drain {
    let grace = gone_by.saturating_duration_since(now);
    let kill_at = now + grace.saturating_sub(RESERVE.min(grace / 10));
    let term_at = match on_term {
        OnTerm::Stop => now,
        OnTerm::Finish => now + kill_at.saturating_duration_since(now).saturating_sub(STOP_MARGIN.min(grace / 4)),
    };
    let drain = Drain::for_reason(Reason::AskedToGo);
    Drain { term_at: Some(term_at), kill_at: Some(kill_at), gone_by: Some(gone_by), ..drain }
}

pub(super) fn stop_now(reason: Reason, now: Instant) -> Drain {
    Drain { term_at: Some(now), kill_at: Some(now + STOP_MARGIN), ..Drain::for_reason(reason) }
}

/// No time to stop in: another attempt counts, or may count soon.
pub(super) fn kill_now(reason: Reason, now: Instant) -> Drain {
    Drain { kill_at: Some(now), at_once: true, ..Drain::for_reason(reason) }
}

/// Sends what is due and not yet sent.
pub(super) fn due(mut drain: Drain, mut actions: Vec<Action>, now: Instant) -> (State, Vec<Action>) {
    let is_due = |at: Option<Instant>| at.is_some_and(|at| now >= at);
    if is_due(drain.kill_at) && drain.sent != Some(SIGKILL) {
        drain.sent = Some(SIGKILL);
        actions.push(Action::Send(SIGKILL));
    } else if is_due(drain.term_at) && drain.sent.is_none() {
        drain.sent = Some(SIGTERM);
        actions.push(Action::Send(SIGTERM));
    }
    (State::Draining(drain), actions)
}
