//! Messages on stderr, for both programs, and the panic hook. Knows no jobs.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::{
    io::{self, Write},
    os::fd::AsFd as _,
};

/// A pipe that polls as writable takes this much without blocking (pipe(7), `PIPE_BUF`).
const NEVER_BLOCKS: usize = 4096;

/// Shows `info` and above, or the level in `SENDO_LOG` (`error`, `warn`, `info`, `debug`, `trace`).
pub fn start(program: &'static str) {
    let level = std::env::var("SENDO_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(tracing::Level::INFO);
    let messages = tracing_subscriber::fmt().with_max_level(level).with_target(false).with_ansi(false);
    // A second call finds the first one's subscriber and leaves it.
    let _ = messages.with_writer(|| Stderr).try_init();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(program, place, "{panic}; this is a bug in Sendo, please report it");
    }));
}

/// stderr that never makes us wait: where nobody reads it, a message is dropped, and no signal is missed for it.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        let mut ready = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        if poll(&mut ready, PollTimeout::ZERO).is_ok_and(|count| count > 0) {
            // In one call, so that lines of the two programs that share a log do not mix. Nobody could be told of a failure.
            let _ = nix::unistd::write(stderr.as_fd(), message.get(..NEVER_BLOCKS).unwrap_or(message));
        }
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
