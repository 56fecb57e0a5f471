//! One control program on one folder and one ledger: a lock that ends with the process, however it ends.

use anyhow::Context as _;
use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Write as _},
    path::Path,
    time::{Duration, Instant},
};

/// From fork to exec, on a machine that is busy.
const CHILD_LIMIT: Duration = Duration::from_secs(10);
const AGAIN_AFTER: Duration = Duration::from_millis(20);

/// Takes the lock, and leaves our pid in it for whoever comes second.
pub fn take(file: &Path) -> anyhow::Result<File> {
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(file);
    let mut lock =
        opened.with_context(|| format!("write {}; choose a folder that you may write to", file.display()))?;
    // Whoever died while it started a process has a child that is about to become another program, and has our lock until then.
    let until = Instant::now() + CHILD_LIMIT;
    let mut locked = lock.try_lock();
    while matches!(locked, Err(TryLockError::WouldBlock)) && !is_held_by_the_living(file) && Instant::now() < until {
        std::thread::sleep(AGAIN_AFTER);
        locked = lock.try_lock();
    }
    match locked {
        Ok(()) => {
            lock.set_len(0)
                .and_then(|()| write!(lock, "{}", std::process::id()))
                .with_context(|| format!("write {}", file.display()))?;
            Ok(lock)
        }
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            lock.read_to_string(&mut pid).with_context(|| format!("read {}", file.display()))?;
            let folder = file.parent().unwrap_or(file).display();
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            anyhow::bail!(
                "another sendo (pid {pid}) has the ledger in {folder} ({name}); use that one, stop it, or choose another folder"
            );
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", file.display())),
    }
}

/// Whether the process that left its pid in the lock lives. One that has taken it and not yet written lives, too.
fn is_held_by_the_living(file: &Path) -> bool {
    let pid = std::fs::read_to_string(file).unwrap_or_default();
    pid.is_empty() || Path::new("/proc").join(pid).exists()
}
