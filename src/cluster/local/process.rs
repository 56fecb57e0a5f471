//! A supervisor as a process of this machine: its identity, its life, its end.
//!
//! A pid alone says nothing after a restart; (boot id, pid, start time) names one process for ever.
#![allow(unsafe_code)] // one system call between fork and exec, and signals by pid; each argues its case

use anyhow::Context as _;
use nix::sys::resource::{Resource, rlim_t, setrlimit};
use std::{fs, path::Path, sync::OnceLock};

/// How much our processes may have open, softly and at most, where we may have more.
static DESCRIPTORS: OnceLock<(rlim_t, rlim_t)> = OnceLock::new();

/// One process, for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub boot_id: String,
    pub pid: i32,
    /// Clock ticks after the boot: field 22 of `/proc/PID/stat` (proc_pid_stat(5)).
    pub start_time: u64,
}

/// The fields of `/proc/PID/stat` that matter here.
struct Stat {
    state: String,
    /// Field 6: of the supervisor's own, made at its start.
    session: i32,
    start_time: u64,
}

impl Identity {
    /// Reads what the launch left in the lock file: the boot's id, and the `stat` line that the child wrote of itself before it became the
    /// supervisor. `None` if there never was a child.
    pub fn read(lock_file: &Path) -> anyhow::Result<Option<Self>> {
        let text = fs::read_to_string(lock_file).with_context(|| format!("read {}", lock_file.display()))?;
        let Some((boot_id, stat)) = text.split_once('\n') else { return Ok(None) };
        let Some((pid, _)) = stat.split_once(' ') else { return Ok(None) };
        let Some(start_time) = parse(stat).map(|stat| stat.start_time) else { return Ok(None) };
        let pid = pid.parse().with_context(|| format!("{} holds no pid", lock_file.display()))?;
        Ok(Some(Self { boot_id: boot_id.to_owned(), pid, start_time }))
    }

    /// Whether this very process lives; one that is dead and not yet reaped does not.
    pub fn is_alive(&self) -> anyhow::Result<bool> {
        Ok(self.boot_id == boot_id()?
            && stat(self.pid).is_some_and(|stat| stat.start_time == self.start_time && stat.state != "Z"))
    }

    /// Sends a signal, if this very process lives.
    pub fn signal(&self, signal: i32) -> anyhow::Result<()> {
        // SAFETY: a descriptor for the pid, checked below to be the process that we mean; it cannot be reused while the descriptor is open.
        let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid, 0) };
        if !self.is_alive()? {
            if descriptor >= 0 {
                // SAFETY: closes the descriptor that we just opened.
                unsafe { libc::close(i32::try_from(descriptor)?) };
            }
            return Ok(());
        }
        if descriptor < 0 {
            // SAFETY: Linux before 5.3; the process was alive a moment ago.
            unsafe { libc::kill(self.pid, signal) };
            return Ok(());
        }
        // SAFETY: signals through the descriptor, then closes it.
        unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, descriptor, signal, std::ptr::null::<libc::siginfo_t>(), 0);
            libc::close(i32::try_from(descriptor)?);
        }
        Ok(())
    }
}

/// Kills every process that carries the mark in its environment; says whether any was there.
///
/// The transfer itself dies with its supervisor (PR_SET_PDEATHSIG); its children may be left, in whatever group or session. The
/// environment is what a process inherits from its first instruction on, and a mark is never used twice. A process that the kernel is
/// taking down has lost its environment and may still hold its connections: it is known by the supervisor's session.
pub fn kill_marked(mark: &str, session: i32) -> anyhow::Result<bool> {
    let mut found = false;
    for entry in fs::read_dir("/proc").context("list processes")? {
        let name = entry.context("list processes")?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // None, by an error or by emptiness: gone, on its way, or another user's.
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let marked = environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes());
        if !marked && !environment.is_empty() {
            continue;
        }
        if let Some(stat) = stat(pid).filter(|stat| stat.state != "Z" && (marked || stat.session == session)) {
            found = true;
            Identity { boot_id: boot_id()?, pid, start_time: stat.start_time }.signal(libc::SIGKILL)?;
        }
    }
    Ok(found)
}

/// Of this boot of the kernel.
pub fn boot_id() -> anyhow::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id").context("read the boot's id")?.trim().to_owned())
}

fn stat(pid: i32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(stat: &str) -> Option<Stat> {
    // The name stands in brackets and may hold anything; the fields behind it begin with number 3.
    let (_, behind_name) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = behind_name.split_whitespace().collect();
    let (session, start_time) = (fields.get(3)?.parse().ok()?, fields.get(19)?.parse().ok()?);
    Some(Stat { state: (*fields.first()?).to_owned(), session, start_time })
}

/// Whatever our own limit of open descriptors becomes, what we start has this one.
pub fn hand_down_descriptors(soft: rlim_t, hard: rlim_t) {
    let _ = DESCRIPTORS.set((soft, hard)); // a second start in one process finds what the first one made of it
}

/// Has the command's process [introduce] itself through the lock file's descriptor.
pub fn introduce_before_exec(command: &mut tokio::process::Command, lock_file: i32) {
    // SAFETY: `introduce` makes system calls only; the descriptor is open until the spawn returns, which is after the exec.
    unsafe { command.pre_exec(move || introduce(lock_file)) };
}

/// In the child, between fork and exec: becomes the leader of a session of its own and writes its `stat` line into the lock file, so
/// that whoever finds the file knows whom it means, however early the launcher died.
fn introduce(lock_file: i32) -> std::io::Result<()> {
    nix::unistd::setsid()?;
    let mut line = [0_u8; 1024];
    // SAFETY: system calls on a buffer of our own; nothing here allocates.
    unsafe {
        let stat = libc::open(c"/proc/self/stat".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        let count = libc::read(stat, line.as_mut_ptr().cast(), line.len());
        libc::close(stat);
        if count <= 0 || libc::write(lock_file, line.as_ptr().cast(), usize::try_from(count).unwrap_or(0)) != count {
            return Err(std::io::Error::last_os_error());
        }
        // The lock lives as long as the supervisor: it inherits the descriptor, and keeps it from the transfer.
        if libc::fcntl(lock_file, libc::F_SETFD, 0) != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    // Last: what is open may be more than this.
    if let Some((soft, hard)) = DESCRIPTORS.get() {
        setrlimit(Resource::RLIMIT_NOFILE, *soft, *hard)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_stat_line_with_a_hostile_name() {
        let line = "42 (a) S 1 2 3) R 7 42 41 0 -1 4194304 0 0 0 0 1 2 0 0 20 0 1 0 98765 0 0";
        let stat = parse(line).unwrap();
        assert_eq!((stat.state.as_str(), stat.session, stat.start_time), ("R", 41, 98765));
    }

    #[test]
    fn the_same_pid_with_another_start_is_another_process() {
        let ours = i32::try_from(std::process::id()).unwrap();
        let start_time = stat(ours).unwrap().start_time;
        let us = Identity { boot_id: boot_id().unwrap(), pid: ours, start_time };
        assert!(us.is_alive().unwrap());
        assert!(!Identity { start_time: start_time + 1, ..us.clone() }.is_alive().unwrap());
        assert!(!Identity { boot_id: "another boot".into(), ..us }.is_alive().unwrap());
    }
}
