//! CPU time of this process, and time.

use nix::sys::resource::{UsageWho, getrusage};
use std::time::{Duration, Instant};

pub struct Meter {
    cpu: Duration,
    started: Instant,
}

impl Meter {
    pub fn start() -> Self {
        Self { cpu: cpu(), started: Instant::now() }
    }

    /// CPU time, and time, since the start.
    pub fn stop(self) -> (Duration, Duration) {
        (cpu() - self.cpu, self.started.elapsed())
    }
}

fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("ask for our own usage");
    let span = |time: nix::sys::time::TimeVal| {
        let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
        Duration::from_micros(u64::try_from(micros).unwrap_or_default())
    };
    span(usage.user_time()) + span(usage.system_time())
}
