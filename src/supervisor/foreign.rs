//! Files that the transfer owns and may have put something else in the place of: opened as hostile input.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{Error, ErrorKind, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

/// Opens a plain file of this user's and nothing else: a pipe would keep us for ever, a link lead us to what only we may read.
pub fn open(path: &Path, owner: u32) -> Result<(File, Metadata), Error> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let about = file.metadata()?;
    // A second name of somebody else's file would have that one's owner.
    if !about.is_file() || about.uid() != owner {
        return Err(Error::new(ErrorKind::PermissionDenied, "it is no plain file of the transfer's user"));
    }
    Ok((file, about))
}

/// What such a file holds: at most `limit` bytes, whatever it grows to meanwhile.
pub fn read(path: &Path, owner: u32, limit: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    open(path, owner)?.0.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(Error::new(ErrorKind::FileTooLarge, format!("it is longer than {limit} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::{sys::stat::Mode, unistd};

    #[test]
    fn only_a_plain_file_of_the_user_is_read_and_only_to_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let us = unistd::geteuid().as_raw();
        std::fs::write(path("plain"), "text").unwrap();
        assert_eq!(read(&path("plain"), us, 4).unwrap(), b"text");
        assert!(read(&path("plain"), us, 3).unwrap_err().to_string().contains("longer than 3 bytes"));
        assert!(read(&path("plain"), us + 1, 4).is_err());
        unistd::mkfifo(&path("pipe"), Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink(path("plain"), path("link")).unwrap();
        for name in ["pipe", "link", "missing"] {
            assert!(read(&path(name), us, 4).is_err(), "{name}");
        }
        assert!(read("/dev/zero".as_ref(), 0, 4).is_err());
    }
}
