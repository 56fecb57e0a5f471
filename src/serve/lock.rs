//! One control program on one folder and one ledger: a lock that ends with the process, however it ends.

use anyhow::Context as _;
use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Write as _},
    path::Path,
};

/// Takes the lock, and leaves our pid in it for whoever comes second.
pub fn take(file: &Path) -> anyhow::Result<File> {
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(file);
    let mut lock =
        opened.with_context(|| format!("write {}; choose a folder that you may write to", file.display()))?;
    match lock.try_lock() {
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
