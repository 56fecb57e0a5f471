//! The only place that starts, signals and reaps processes.
//!
//! The transfer is our child and leads a process group of its own; everything it leaves behind is adopted by us (PID 1, or
//! subreaper), so `ECHILD` from `waitpid` means that nothing is left. Only children of our own are ever signalled by pid: a pid
//! that we alone may reap cannot belong to anybody else.
#![allow(unsafe_code)] // fork and exec with a reset in between; each use argues its case

use super::{phase::Exit, user::User};
use anyhow::Context as _;
use nix::{errno::Errno, unistd::Pid};
use std::{
    collections::BTreeMap,
    ffi::{CString, OsString},
    os::{
        fd::OwnedFd,
        unix::{
            ffi::{OsStrExt as _, OsStringExt as _},
            process::CommandExt as _,
        },
    },
    process::{Command, Stdio},
};

/// What to run.
pub struct Transfer<'a> {
    pub command: &'a [OsString],
    /// More variables for it; ours (`SENDO_…`) are taken away.
    pub env: &'a [(String, OsString)],
    /// Whom it runs as; as we do if absent.
    pub user: Option<User>,
    /// Where its stdout and stderr go; ours if absent.
    pub output: Option<(OwnedFd, OwnedFd)>,
}

/// A started transfer that is not yet reaped.
pub struct Child {
    pid: Pid,
    /// We gave it the terminal.
    has_terminal: bool,
}

/// No pid is higher (kernel: `PID_MAX_LIMIT`).
const PID_LIMIT: i32 = 4 << 20;

/// What [`reap`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Reaped {
    /// This child ended.
    One(i32, Exit),
    /// Children are alive, none has ended.
    NoneYet,
    /// We have no children.
    NothingLeft,
}

/// Makes orphans ours where we are not PID 1, and keeps SIGCHLD coming.
pub fn become_reaper() -> anyhow::Result<()> {
    nix::sys::prctl::set_child_subreaper(true).context("become the subreaper")?;
    // SAFETY: no handler is installed; SIGCHLD ignored by whoever started us would let the kernel reap in our place.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    Ok(())
}

/// Keeps what we inherited beyond stdin, stdout and stderr from the transfer.
pub fn close_inherited_on_exec() -> anyhow::Result<()> {
    // SAFETY: marks descriptors, touches no memory. Missing before Linux 5.11, where the loop does the same.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if marked == 0 {
        return Ok(());
    }
    for entry in std::fs::read_dir("/proc/self/fd").context("list our descriptors")? {
        let name = entry.context("list our descriptors")?.file_name();
        if let Some(number) = name.to_str().and_then(|name| name.parse::<i32>().ok()).filter(|number| *number > 2) {
            // SAFETY: sets a flag on a descriptor number; one that is gone by now gives EBADF.
            unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

impl Child {
    /// Starts the transfer. All signals are blocked here (`signals`), so none is lost between fork and exec; the group exists when
    /// this returns, because std waits for the exec.
    pub fn spawn(transfer: Transfer<'_>) -> anyhow::Result<Self> {
        let [program, arguments @ ..] = transfer.command else {
            return Err(std::io::Error::from_raw_os_error(libc::ENOENT).into());
        };
        let image = Image::new(program, arguments, transfer.env)?;
        let mut command = Command::new(program);
        command.process_group(0);
        if let Some((stdout, stderr)) = transfer.output {
            command.stdout(Stdio::from(stdout)).stderr(Stdio::from(stderr));
        }
        let supervisor = nix::unistd::getpid();
        let has_terminal = nix::unistd::tcgetpgrp(std::io::stdin()).is_ok_and(|group| group == nix::unistd::getpgrp());
        let user = transfer.user;
        // SAFETY: between fork and exec the closure makes system calls only, and allocates nothing.
        unsafe { command.pre_exec(move || prepare(supervisor, has_terminal, user).and_then(|()| Err(image.exec()))) };
        match command.spawn() {
            Ok(child) => Ok(Self { pid: Pid::from_raw(i32::try_from(child.id())?), has_terminal }),
            Err(error) => {
                if has_terminal {
                    take_terminal();
                }
                let mend = mend(&error);
                let error = anyhow::Error::new(error);
                Err(match mend {
                    Some(mend) => error.context(mend),
                    None => error,
                })
            }
        }
    }

    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// To the transfer's process group, and to the transfer where it has left that for another; real-time signals too.
    pub fn signal_group(&self, signal: i32) {
        let pid = self.pid.as_raw();
        if pid > 1 {
            let elsewhere = nix::unistd::getpgid(Some(self.pid)).is_ok_and(|group| group != self.pid);
            // SAFETY: until it is reaped, which takes `self`'s owner, neither its pid nor a group of that number is anybody else's.
            unsafe {
                libc::killpg(pid, signal);
                if elsewhere {
                    libc::kill(pid, signal);
                }
            }
        }
    }
}

impl Drop for Child {
    /// Who comes after us in a script reads from the terminal too. A shell that has taken it already keeps it.
    fn drop(&mut self) {
        if self.has_terminal && nix::unistd::tcgetpgrp(std::io::stdin()).is_ok_and(|group| group == self.pid) {
            take_terminal();
        }
    }
}

/// SIGTTOU is blocked, so this cannot stop us.
fn take_terminal() {
    let _ = nix::unistd::tcsetpgrp(std::io::stdin(), nix::unistd::getpgrp()); // a terminal that has hung up
}

/// What to do where the error's own words say too little.
fn mend(error: &std::io::Error) -> Option<&'static str> {
    match error.raw_os_error()? {
        libc::EAGAIN => Some(
            "no more processes are allowed; raise the limit of the control group (pids.max) or of the user (ulimit -u)",
        ),
        libc::ENOMEM => Some("no memory for one more process; give the container or the machine more"),
        _ => None,
    }
}

/// What to exec, laid out before the fork.
///
/// Not by the C library's `execvp`, which std uses: a file that is no program goes to `/bin/sh` there (exec(3), ENOEXEC), and an
/// empty one would be a transfer that succeeded.
struct Image {
    /// The program's path, or where it may be along PATH.
    paths: Vec<CString>,
    arguments: Strings,
    environment: Strings,
}

/// Strings as exec takes them.
struct Strings {
    _owned: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

// SAFETY: the pointers are into strings that go along and never change.
unsafe impl Send for Strings {}
// SAFETY: as above.
unsafe impl Sync for Strings {}

impl Strings {
    fn new(owned: Vec<CString>) -> Self {
        let pointers = owned.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
        Self { _owned: owned, pointers }
    }
}

impl Image {
    fn new(program: &OsString, arguments: &[OsString], env: &[(String, OsString)]) -> Result<Self, std::io::Error> {
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/bin:/usr/bin".into());
        let paths = if program.as_bytes().contains(&b'/') {
            vec![CString::new(program.as_bytes())?]
        } else {
            let folders = std::env::split_paths(&path).filter(|_| !program.is_empty());
            folders
                .map(|folder| Ok(CString::new(folder.join(program).into_os_string().into_vec())?))
                .collect::<Result<_, std::io::Error>>()?
        };
        let arguments = [program].into_iter().chain(arguments).map(|argument| CString::new(argument.as_bytes()));
        let mut variables: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        variables.retain(|key, _| !key.as_bytes().starts_with(b"SENDO_"));
        variables.extend(env.iter().map(|(key, value)| (key.into(), value.clone())));
        let variables =
            variables.iter().map(|(key, value)| CString::new([key.as_bytes(), b"=", value.as_bytes()].concat()));
        Ok(Self {
            paths,
            arguments: Strings::new(arguments.collect::<Result<_, _>>()?),
            environment: Strings::new(variables.collect::<Result<_, _>>()?),
        })
    }

    /// Becomes the program, or says why not. A file along PATH that may not be executed is worth more than one that is not there.
    fn exec(&self) -> std::io::Error {
        let mut found = libc::ENOENT;
        for path in &self.paths {
            // SAFETY: both arrays end with a null pointer and hold strings that end with a null byte.
            unsafe {
                libc::execve(path.as_ptr(), self.arguments.pointers.as_ptr(), self.environment.pointers.as_ptr())
            };
            match Errno::last_raw() {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => found = libc::EACCES,
                errno => return std::io::Error::from_raw_os_error(errno),
            }
        }
        std::io::Error::from_raw_os_error(found)
    }
}

/// In the child, just before exec.
fn prepare(supervisor: Pid, has_terminal: bool, user: Option<User>) -> std::io::Result<()> {
    nix::sys::signal::SigSet::all().thread_block()?;
    if has_terminal {
        // The terminal goes to the transfer only if it was ours; SIGTTOU is blocked, so this cannot stop us.
        let _ = nix::unistd::tcsetpgrp(std::io::stdin(), nix::unistd::getpid()); // not our terminal after all: go on without
    }
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the default disposition is always valid; the numbers that may not be set give EINVAL.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    if let Some(user) = user {
        nix::unistd::setgroups(&[])?;
        nix::unistd::setgid(user.gid.into())?;
        nix::unistd::setuid(user.uid.into())?;
    }
    // After the change of user, which would undo it. The transfer dies with its supervisor; where that is PID 1 the kernel sees to it in any case.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    if nix::unistd::getppid() != supervisor {
        return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
    }
    nix::sys::signal::SigSet::empty().thread_set_mask()?;
    Ok(())
}

/// Takes one ended child from the kernel. Call until it says [`Reaped::NoneYet`] or [`Reaped::NothingLeft`].
///
/// The C library's call and not nix's: a death by a real-time signal is an error there, after the child is reaped.
pub fn reap() -> Reaped {
    loop {
        let mut status = 0;
        // SAFETY: writes one integer of ours.
        match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
            0 => return Reaped::NoneYet,
            -1 if Errno::last() == Errno::EINTR => {}
            -1 => return Reaped::NothingLeft,
            pid if libc::WIFEXITED(status) => return Reaped::One(pid, Exit::Code(libc::WEXITSTATUS(status))),
            pid if libc::WIFSIGNALED(status) => return Reaped::One(pid, Exit::Signal(libc::WTERMSIG(status))),
            _ => {}
        }
    }
}

/// Whether we have such a child, alive or not yet reaped.
fn have_child(kind: libc::idtype_t, pid: libc::id_t) -> bool {
    // SAFETY: an all-zero siginfo is valid; the call fills it and reaps nothing.
    let found = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(kind, pid, &raw mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)
    };
    found == 0 || Errno::last() != Errno::ECHILD
}

/// How many children we have; 0 where they cannot be counted.
pub fn left() -> usize {
    children().map_or(0, Iterator::count)
}

/// Signals each child that we have and that is `meant`: what an ended transfer left behind. Mostly there is none, and nobody is looked for.
pub fn signal_children(signal: i32, mut meant: impl FnMut(i32) -> bool) {
    if !have_child(libc::P_ALL, 0) {
        return;
    }
    let Some(children) = children() else {
        if meant(-1) {
            // SAFETY: to everybody in our namespace but us, who are its PID 1.
            unsafe { libc::kill(-1, signal) };
        }
        return;
    };
    for pid in children.filter(|pid| meant(*pid)) {
        // SAFETY: our own unreaped child: the pid cannot have passed to anybody else.
        unsafe { libc::kill(pid, signal) };
    }
}

/// Our children, each asked for when it is reached.
///
/// `/proc` only proposes, the kernel says who is ours. Where `/proc` is missing or another namespace's, every number is proposed,
/// but nothing to PID 1: all of its namespace is below it, or was let in from outside and ends with it.
fn children() -> Option<impl Iterator<Item = i32>> {
    let proposed: Box<dyn Iterator<Item = i32>> = if super::descent::is_ours() {
        Box::new(super::descent::pids())
    } else if nix::unistd::getpid().as_raw() == 1 {
        return None;
    } else {
        let limit = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok().and_then(|max| max.trim().parse().ok());
        Box::new(2..=limit.unwrap_or(PID_LIMIT))
    };
    let is_ours = |pid: &i32| *pid > 1 && libc::id_t::try_from(*pid).is_ok_and(|id| have_child(libc::P_PID, id));
    Some(proposed.filter(is_ours))
}
