//! Signals as events: all are blocked before anything is spawned and read from one signalfd, each with its sender.
//!
//! A signalfd and not handlers: nothing runs between fork and exec in the child, nothing must be async-signal-safe, the
//! sender's pid comes with each signal, and PID 1 receives what the kernel would discard for want of a handler
//! (a blocked signal is never discarded: kernel/signal.c, `sig_ignored`).

use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};
use std::os::fd::{AsFd, BorrowedFd};

/// Made by the kernel for a fault of our own: blocked, they would hang us.
const FAULTS: [Signal; 7] =
    [Signal::SIGABRT, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGSEGV, Signal::SIGSYS, Signal::SIGTRAP];

/// Where signals arrive from now on.
pub struct Signals {
    source: SignalFd,
}

/// One that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived {
    pub signal: i32,
    /// Who sent it; 0 is somebody outside our PID namespace, `None` the kernel.
    pub sender: Option<i32>,
}

impl Signals {
    /// Blocks every signal that can wait, in this thread and in all that it will start.
    pub fn block() -> nix::Result<Self> {
        let mut set = SigSet::all();
        for fault in FAULTS {
            set.remove(fault);
        }
        set.thread_block()?;
        Ok(Self { source: SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)? })
    }

    /// The next one, if there is one.
    pub fn next(&self) -> nix::Result<Option<Arrived>> {
        loop {
            match self.source.read_signal() {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
                Ok(None) => return Ok(None),
                Ok(Some(info)) => {
                    let sent = matches!(info.ssi_code, libc::SI_USER | libc::SI_QUEUE | libc::SI_TKILL);
                    let sender = sent.then(|| i32::try_from(info.ssi_pid).unwrap_or(0));
                    return Ok(Some(Arrived { signal: i32::try_from(info.ssi_signo).unwrap_or(0), sender }));
                }
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}
