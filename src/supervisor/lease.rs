//! The lease of a strict attempt as its supervisor counts it, and the alarm that ends it. The other half is `ledger::lease`.
//!
//! The ledger may start a successor once the lease has run out by its own clock, counted from when it *handled* the last request that
//! it acknowledged. We count from when that request was *sent*, which is earlier, on a clock that runs while the machine sleeps, and kill a
//! [`margin`](Lease::margin) before the end. So everything is gone in time even if our clock runs slower than the ledger's by up to the
//! margin's share, if the kernel is late to run us, and if leftovers have to be swept generation by generation.
//!
//! Nothing here can end what the kernel does not end: a process in an uninterruptible sleep (a dead NFS server), or a transfer beside a supervisor
//! that somebody has stopped (SIGSTOP) without stopping the transfer too. And a virtual machine that its hypervisor pauses, with a clock that
//! does not learn of it, takes up its transfer again where it was, until the ledger answers its next request with `superseded`.

use nix::{
    sys::{
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
    time::clock_gettime,
};
use std::{
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant, SystemTime},
};

/// The share of the lease that is kept for killing and for clocks that differ: a quarter.
const MARGIN: u32 = 4;
/// The longest silence of ours, new records or none: a sixth of the lease, so that a request may be lost without harm.
const RENEW: u32 = 6;
/// A request without an answer is given up after a quarter of the lease: one that hangs is followed by another in time.
const PATIENCE: u32 = 4;
/// While the ledger does not answer, it is asked again after an eighth of the lease at the latest.
const BACKOFF: u32 = 8;
/// With less, an ordinary pause of a machine would kill a transfer.
const SHORTEST: Duration = Duration::from_secs(1);

/// When a request went out, on the three clocks that anybody asks for.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// CLOCK_BOOTTIME: counts the lease.
    boot: Duration,
    /// For spans that the ledger names in its answer.
    pub at: Instant,
    /// For people.
    wall: SystemTime,
}

/// A lease as the last acknowledged request left it.
#[derive(Debug, Clone, Copy)]
pub struct Lease {
    span: Duration,
    sent: Sent,
}

impl Sent {
    /// Read before the request is made: whatever delays it counts against us.
    pub fn now() -> Self {
        Self { boot: boottime(), at: Instant::now(), wall: SystemTime::now() }
    }
}

impl Lease {
    /// The lease of a grant that was asked for then. Says why where it is none to live with.
    pub fn new(span: Duration, sent: Sent) -> Result<Self, String> {
        if span < SHORTEST {
            return Err(format!("the grant's lease of {span:?} is shorter than {SHORTEST:?}"));
        }
        Ok(Self { span, sent })
    }

    /// The ledger has acknowledged a request that went out then.
    pub fn renewed(self, sent: Sent) -> Self {
        let later = if sent.boot > self.sent.boot { sent } else { self.sent };
        Self { sent: later, ..self }
    }

    pub fn margin(&self) -> Duration {
        self.span / MARGIN
    }

    pub fn renew_every(&self) -> Duration {
        self.span / RENEW
    }

    pub fn patience(&self) -> Duration {
        self.span / PATIENCE
    }

    pub fn longest_backoff(&self) -> Duration {
        self.span / BACKOFF
    }

    /// Whether nothing of the attempt may run any more.
    pub fn is_over(&self) -> bool {
        boottime() >= self.kill_at()
    }

    /// On CLOCK_BOOTTIME.
    fn kill_at(&self) -> Duration {
        self.sent.boot.saturating_add(self.span - self.margin())
    }

    /// What the verdict says of it.
    pub fn evidence(&self) -> String {
        format!(
            "the last request that the ledger acknowledged was sent at {}; lease {}, margin {}",
            humantime::format_rfc3339_millis(self.sent.wall),
            humantime::format_duration(self.span),
            humantime::format_duration(self.margin()),
        )
    }
}

/// Wakes the main loop when the lease is over, whatever the reporter's thread is doing.
pub struct Alarm {
    timer: TimerFd,
    lease: Option<Lease>,
    rung: bool,
}

impl Alarm {
    pub fn new() -> nix::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        Ok(Self { timer: TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?, lease: None, rung: false })
    }

    /// The lease as it stands now; an earlier alarm goes.
    pub fn set(&mut self, lease: Lease) -> nix::Result<()> {
        (self.lease, self.rung) = (Some(lease), false);
        // An all-zero moment would mean no alarm (timerfd_settime(2)); a moment that is past rings at once.
        let at = Expiration::OneShot(TimeSpec::from_duration(lease.kill_at().max(Duration::from_nanos(1))));
        self.timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME)
    }

    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Whether the lease is over; said once for each lease.
    pub fn rings(&mut self) -> bool {
        let rings = !self.rung && self.lease.is_some_and(|lease| lease.is_over());
        if rings {
            self.rung = true;
            let _ = self.timer.unset(); // it stays readable: the loop turns more often than it needs, and ends soon
        }
        rings
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

/// The clock that counts suspended time too. It is there since Linux 2.6.39; a kernel without it has failed [`Alarm::new`].
fn boottime() -> Duration {
    clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn sent(ago: Duration) -> Sent {
        let now = Sent::now();
        Sent { boot: now.boot.saturating_sub(ago), ..now }
    }

    #[test]
    fn it_is_over_a_margin_before_its_end_counted_from_the_sending() {
        let lease = |ago| Lease::new(MINUTE, sent(Duration::from_secs(ago))).unwrap();
        assert!(!lease(0).is_over() && !lease(44).is_over() && lease(46).is_over());
        assert!(!lease(46).renewed(Sent::now()).is_over());
        assert!(!lease(0).renewed(sent(MINUTE)).is_over(), "an older answer takes nothing back");
    }

    #[test]
    fn a_request_may_be_lost_before_it_is_over() {
        let lease = Lease::new(MINUTE, Sent::now()).unwrap();
        assert!(lease.renew_every() <= MINUTE / 3);
        assert!(lease.renew_every() + lease.patience() + lease.longest_backoff() < MINUTE - lease.margin());
    }

    #[test]
    fn the_alarm_rings_once_for_each_lease() {
        let mut alarm = Alarm::new().unwrap();
        assert!(!alarm.rings());
        for _ in 0..2 {
            alarm.set(Lease::new(MINUTE, sent(MINUTE)).unwrap()).unwrap();
            assert!(alarm.rings() && !alarm.rings());
        }
        alarm.set(Lease::new(MINUTE, Sent::now()).unwrap()).unwrap();
        assert!(!alarm.rings());
    }

    #[test]
    fn a_lease_of_no_length_or_of_ages_is_no_trouble() {
        assert!(Lease::new(Duration::from_millis(1), Sent::now()).is_err());
        let ages = Lease::new(Duration::from_millis(u64::MAX), Sent::now()).unwrap();
        let mut alarm = Alarm::new().unwrap();
        alarm.set(ages).unwrap();
        assert!(!alarm.rings());
    }
}
