//! Messages on stderr, for both programs, and the panic hook. Knows no jobs.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::{
    io::{self, Write},
    os::fd::{AsFd as _, BorrowedFd},
};
use tracing_subscriber::fmt::{MakeWriter, writer::OptionalWriter};

/// A pipe that polls as writable takes this much without blocking (pipe(7), `PIPE_BUF`).
const NEVER_BLOCKS: usize = 4096;

/// Shows `info` and above, or the level in `SENDO_LOG` (`error`, `warn`, `info`, `debug`, `trace`).
pub fn start(program: &'static str) {
    let level = std::env::var("SENDO_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(tracing::Level::INFO);
    let messages = tracing_subscriber::fmt().with_max_level(level).with_target(false).with_ansi(false);
    // A second call finds the first one's subscriber and leaves it.
    let _ = messages.with_writer(Ours { all: level >= tracing::Level::DEBUG }).try_init();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(program, place, "{panic}; this is a bug in Sendo, please report it");
    }));
}

/// Writes a piece to a descriptor that we share, and so may not set to non-blocking; `EAGAIN` where that would have to wait.
pub fn write_without_waiting(to: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<usize> {
    let mut ready = [PollFd::new(to, PollFlags::POLLOUT)];
    match poll(&mut ready, PollTimeout::ZERO)? {
        0 => Err(nix::errno::Errno::EAGAIN),
        _ => nix::unistd::write(to, bytes.get(..NEVER_BLOCKS).unwrap_or(bytes)),
    }
}

/// Kubernetes' client says of each request that failed that one did, and neither which nor where; whoever made it says that better.
const NOISE: &str = "kube_client";

/// Everything, or all but the noise.
struct Ours {
    all: bool,
}

impl MakeWriter<'_> for Ours {
    type Writer = OptionalWriter<Stderr>;

    fn make_writer(&self) -> Self::Writer {
        OptionalWriter::some(Stderr)
    }

    fn make_writer_for(&self, message: &tracing::Metadata<'_>) -> Self::Writer {
        let is_noise = !self.all && message.target().starts_with(NOISE);
        if is_noise { OptionalWriter::none() } else { OptionalWriter::some(Stderr) }
    }
}

/// stderr that never makes us wait: where nobody reads it, a message is dropped, and no signal is missed for it.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        // In one call, so that lines of the two programs that share a log do not mix. Nobody could be told of a failure.
        let _ = write_without_waiting(io::stderr().as_fd(), message);
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
