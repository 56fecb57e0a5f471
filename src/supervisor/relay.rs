//! The transfer's output on its way: to our stdout and stderr unchanged, with each line seen in passing.
//!
//! Nothing is copied to disk. We read only what we have already passed on, so back-pressure is the transfer's own; and we never
//! block on our stdout, because a signal may be waiting.

use super::embulk::{self, LINE_LIMIT};
use crate::{
    record::{outcome::Commit, usage::Progress},
    telemetry::write_without_waiting,
};
use nix::{
    errno::Errno,
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use std::{
    collections::VecDeque,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// One read: what a pipe of the usual size holds.
const CHUNK: usize = 64 * 1024;
/// Passed on in one go at the most before signals and reports have their turn again.
const CHUNKS_A_TURN: usize = 16;
/// How many of the last lines travel with a failure.
const LAST_LINES: usize = 30;

/// What went by, shared with the reporter's thread.
#[derive(Default)]
pub struct Seen {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    lines: u64,
    bytes: u64,
    embulk: embulk::Lines,
    last: VecDeque<Vec<u8>>,
    /// The end came before all of it was read.
    cut_short: bool,
}

/// Our stdout or stderr.
enum Output {
    /// Opened anew for us alone, so that our not waiting is nobody else's: a write takes what fits.
    Ours(OwnedFd),
    /// Shared with whoever gave it to us: written in pieces that never wait.
    Shared(OwnedFd),
}

/// Both streams.
pub struct Relay {
    streams: Vec<Stream>,
    seen: std::sync::Arc<Seen>,
}

struct Stream {
    from: Option<OwnedFd>,
    to: Output,
    buffer: Box<[u8]>,
    /// Read into the buffer up to here, passed on up to there.
    read: usize,
    passed: usize,
    line: Vec<u8>,
    /// Our own stdout is gone; the transfer does not notice.
    lost: bool,
}

impl Seen {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far the transfer's lines say that it is.
    pub fn progress(&self) -> Progress {
        let inner = self.lock();
        Progress { output_lines: Some(inner.lines), output_bytes: Some(inner.bytes), ..inner.embulk.progress() }
    }

    /// The transfer's own word on why it failed.
    pub fn error(&self) -> Option<String> {
        self.lock().embulk.error().map(str::to_owned)
    }

    /// How far its commit had come: told only if no line was missed, for the missing one may say more.
    pub fn commit(&self) -> Option<Commit> {
        let inner = self.lock();
        inner.embulk.commit().filter(|_| !inner.cut_short).cloned()
    }

    /// Temporary tables that the transfer named.
    pub fn temporary_tables(&self) -> Vec<String> {
        self.lock().embulk.temporary_tables()
    }

    /// The last lines, oldest first.
    pub fn last_lines(&self) -> Vec<String> {
        self.lock().last.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect()
    }
}

impl Relay {
    /// The relay, and what the transfer is to have as stdout and stderr.
    pub fn new(seen: std::sync::Arc<Seen>) -> anyhow::Result<(Self, (OwnedFd, OwnedFd))> {
        let stream = |to: BorrowedFd<'_>| -> anyhow::Result<(Stream, OwnedFd)> {
            let (from, into) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
            nix::fcntl::fcntl(&from, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            let buffer = vec![0; CHUNK].into_boxed_slice();
            let to = Output::open(to)?;
            Ok((Stream { from: Some(from), to, buffer, read: 0, passed: 0, line: vec![], lost: false }, into))
        };
        let (out, out_into) = stream(std::io::stdout().as_fd())?;
        let (err, err_into) = stream(std::io::stderr().as_fd())?;
        Ok((Self { streams: vec![out, err], seen }, (out_into, err_into)))
    }

    /// What to wait for.
    pub fn interests(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.streams.iter().filter_map(|stream| {
            if stream.has_pending() {
                return Some(PollFd::new(stream.to.as_fd(), PollFlags::POLLOUT));
            }
            Some(PollFd::new(stream.from.as_ref()?.as_fd(), PollFlags::POLLIN))
        })
    }

    /// Passes on what can be passed on without waiting; says whether anything moved.
    pub fn turn(&mut self) -> bool {
        let seen = &self.seen;
        let moved = |stream: &mut Stream| (0..CHUNKS_A_TURN).take_while(|_| stream.turn(seen)).count() > 0;
        self.streams.iter_mut().fold(false, |any, stream| moved(stream) | any)
    }

    /// After the end: passes on what is still in the pipes, also if a stray process keeps them open.
    pub fn finish(&mut self, limit: Duration) {
        let give_up = Instant::now() + limit;
        loop {
            while self.turn() {
                // Somebody writes without end, or there is no time for another look.
                if Instant::now() >= give_up {
                    self.seen.lock().cut_short = true;
                    return;
                }
            }
            for stream in self.streams.iter_mut().filter(|stream| !stream.has_pending()) {
                stream.from = None;
                stream.end_line(&self.seen);
            }
            let mut waiting: Vec<_> = self.interests().collect();
            let left = give_up.saturating_duration_since(Instant::now());
            if waiting.is_empty() {
                return;
            }
            let poll_limit = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            if left.is_zero() || poll(&mut waiting, poll_limit).is_err_and(|errno| errno != Errno::EINTR) {
                self.seen.lock().cut_short = true;
                return;
            }
        }
    }
}

impl Output {
    fn open(given: BorrowedFd<'_>) -> anyhow::Result<Self> {
        // A pipe or a terminal can be opened again by its name; a socket cannot, and a file would begin at its start.
        let is_file = nix::sys::stat::fstat(given).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFREG);
        let name = format!("/proc/self/fd/{}", given.as_raw_fd());
        let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        match nix::fcntl::open(name.as_str(), flags, nix::sys::stat::Mode::empty()) {
            Ok(ours) if !is_file => Ok(Self::Ours(ours)),
            // A closed stdout is /dev/null by now: Rust's runtime opens it before main.
            _ => Ok(Self::Shared(given.try_clone_to_owned()?)),
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Ours(fd) | Self::Shared(fd) => fd.as_fd(),
        }
    }

    /// Writes what can be written without waiting.
    fn write(&self, bytes: &[u8]) -> nix::Result<usize> {
        match self {
            Self::Ours(fd) => nix::unistd::write(fd, bytes),
            Self::Shared(fd) => write_without_waiting(fd.as_fd(), bytes),
        }
    }
}

impl Stream {
    fn has_pending(&self) -> bool {
        self.passed < self.read
    }

    fn turn(&mut self, seen: &Seen) -> bool {
        if self.has_pending() {
            return self.pass_on();
        }
        let Some(from) = &self.from else { return false };
        (self.read, self.passed) = (0, 0);
        match nix::unistd::read(from, &mut self.buffer) {
            Ok(0) => {
                self.from = None;
                self.end_line(seen);
                false
            }
            Ok(count) => {
                self.read = count;
                self.see(seen);
                self.pass_on();
                true
            }
            Err(Errno::EINTR) => true,
            Err(Errno::EAGAIN) => false,
            Err(errno) => {
                tracing::warn!(%errno, "the transfer's output cannot be read");
                seen.lock().cut_short = true;
                self.from = None;
                false
            }
        }
    }

    fn pass_on(&mut self) -> bool {
        let rest = self.buffer.get(self.passed..self.read).unwrap_or_default();
        if self.lost {
            self.passed = self.read;
            return true;
        }
        match self.to.write(rest) {
            Ok(count) => self.passed += count,
            Err(Errno::EAGAIN | Errno::EINTR) => return false,
            // A full disk may have room again; what does not fit now is dropped, and the transfer goes on.
            Err(Errno::ENOSPC | Errno::EDQUOT) => self.passed = self.read,
            Err(errno) => {
                tracing::warn!(%errno, "our output is gone; the transfer goes on");
                self.lost = true;
            }
        }
        true
    }

    fn see(&mut self, seen: &Seen) {
        let mut inner = seen.lock();
        let mut text = self.buffer.get(..self.read).unwrap_or_default();
        inner.bytes = inner.bytes.saturating_add(text.len() as u64);
        if !self.line.is_empty()
            && let Some(end) = memchr::memchr(b'\n', text)
        {
            let (rest_of_line, behind) = text.split_at(end);
            keep(&mut self.line, rest_of_line);
            if self.line.len() >= LINE_LIMIT {
                inner.embulk.doubt("a line too long to be read");
            }
            self.line.push(b'\n');
            inner.lines(&self.line);
            self.line.clear();
            text = behind.get(1..).unwrap_or_default();
        }
        let (whole, begun) = text.split_at(memchr::memrchr(b'\n', text).map_or(0, |end| end + 1));
        inner.lines(whole);
        keep(&mut self.line, begun);
    }

    fn end_line(&mut self, seen: &Seen) {
        if !self.line.is_empty() {
            self.line.push(b'\n');
            seen.lock().lines(&self.line);
            self.line.clear();
        }
    }
}

fn keep(line: &mut Vec<u8>, more: &[u8]) {
    let room = LINE_LIMIT.saturating_sub(line.len());
    line.extend_from_slice(more.get(..room).unwrap_or(more));
}

impl Inner {
    /// Takes whole lines, each with its end.
    fn lines(&mut self, text: &[u8]) {
        self.lines = self.lines.saturating_add(memchr::memchr_iter(b'\n', text).count() as u64);
        self.embulk.see(text);
        // Of a flood, only the last lines are ever looked at one by one.
        let mut ends = memchr::memrchr_iter(b'\n', text).skip(LAST_LINES);
        let last = text.get(ends.next().map_or(0, |end| end + 1)..).unwrap_or_default();
        for line in last.split_inclusive(|byte| *byte == b'\n') {
            self.keep(line.trim_ascii_end());
        }
    }

    fn keep(&mut self, line: &[u8]) {
        // The oldest line's memory serves the newest.
        let mut kept = if self.last.len() == LAST_LINES { self.last.pop_front() } else { None }.unwrap_or_default();
        kept.clear();
        kept.extend_from_slice(line.get(..LINE_LIMIT).unwrap_or(line));
        self.last.push_back(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const LINES: [&str; 2] = [
        r#"(0001:transaction): SQL: CREATE TABLE "t_0000018f3c5a2b10_embulk000" ("id" BIGINT)"#,
        "2026-11-23 10:00:00.000 +0000 [INFO] (0001:transaction): {done:  0 / 1, running: 1}",
    ];

    /// A relay of one stream, the transfer's end of it, and the reader's.
    fn relay(from: OwnedFd) -> (Relay, Arc<Seen>, OwnedFd) {
        let (reader, to) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        let seen = Arc::new(Seen::default());
        let buffer = vec![0; CHUNK].into_boxed_slice();
        let to = Output::Ours(to);
        let stream = Stream { from: Some(from), to, buffer, read: 0, passed: 0, line: vec![], lost: false };
        (Relay { streams: vec![stream], seen: Arc::clone(&seen) }, seen, reader)
    }

    fn said(seen: &Seen) -> (bool, bool) {
        (seen.commit().is_some(), seen.lock().cut_short)
    }

    #[test]
    fn what_is_read_to_its_end_says_how_far_the_commit_had_come() {
        let (from, into) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        nix::unistd::write(&into, format!("{}\n{}\n", LINES[0], LINES[1]).as_bytes()).unwrap();
        let (mut relay, seen, _reader) = relay(from);
        relay.finish(Duration::from_secs(60));
        assert_eq!(said(&seen), (true, false));
    }

    #[test]
    fn a_reader_that_is_stuck_is_given_up_at_the_limit_and_nothing_is_said_of_the_commit() {
        let (from, into) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        nix::unistd::write(&into, format!("{}\n{}\n", LINES[0], LINES[1]).as_bytes()).unwrap();
        let (mut relay, seen, _reader) = relay(from);
        let Output::Ours(to) = &relay.streams[0].to else { unreachable!() };
        while nix::unistd::write(to, &[b'x'; CHUNK]).is_ok() {}
        relay.finish(Duration::ZERO);
        assert_eq!(said(&seen), (false, true));
    }

    #[test]
    fn a_writer_without_end_is_given_up_at_the_limit() {
        let (mut relay, seen, _reader) = relay(std::fs::File::open("/dev/zero").unwrap().into());
        relay.streams[0].lost = true;
        relay.finish(Duration::ZERO);
        assert_eq!(said(&seen), (false, true));
    }

    #[test]
    fn what_cannot_be_read_is_a_line_missed() {
        // Reading a folder is EISDIR.
        let (mut relay, seen, _reader) = relay(std::fs::File::open("/").unwrap().into());
        relay.finish(Duration::from_secs(60));
        assert_eq!(said(&seen), (false, true));
    }
}
