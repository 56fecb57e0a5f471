//! Whom the transfer runs as, where the image starts as root: `--user NAME`, `UID` or `UID:GID`.
//!
//! Names are looked up in `/etc/passwd` of the image and nowhere else: a static program has no other sources of names.

use std::path::Path;

/// What it takes to start a command as somebody else and to end it again: bits and names (capabilities(7)). Containers often drop them.
const NEEDED: [(u32, &str); 3] = [(5, "CAP_KILL"), (6, "CAP_SETGID"), (7, "CAP_SETUID")];

/// A user and a group by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

/// Why a text names no user.
#[derive(Debug, thiserror::Error)]
pub enum Unknown {
    #[error("`{0}` is no user of {1}; write a UID, UID:GID, or a name that stands there")]
    Name(String, String),
    #[error("read {file}: {why}")]
    Unreadable { file: String, why: std::io::Error },
}

impl User {
    /// Finds the user. A bare UID has the group that `passwd` gives it, or the one of the same number.
    pub fn find(text: &str, passwd: &Path) -> Result<Self, Unknown> {
        let numbers = |text: &str| {
            let (uid, gid) = text.split_once(':')?;
            Some(Self { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
        };
        if let Some(user) = numbers(text) {
            return Ok(user);
        }
        let uid: Option<u32> = text.parse().ok();
        let lines = match (std::fs::read_to_string(passwd), uid) {
            (Ok(lines), _) => lines,
            (Err(_), Some(_)) => String::new(),
            (Err(why), None) => return Err(Unknown::Unreadable { file: passwd.display().to_string(), why }),
        };
        // name:password:UID:GID:comment:home:shell (passwd(5))
        let known = lines.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let user = Self { uid: fields.nth(1)?.parse().ok()?, gid: fields.next()?.parse().ok()? };
            (name == text || Some(user.uid) == uid).then_some(user)
        });
        let by_number = || uid.map(|uid| Self { uid, gid: uid });
        known.or_else(by_number).ok_or_else(|| Unknown::Name(text.into(), passwd.display().to_string()))
    }
}

/// What we lack of it. Without `/proc` nothing is known, and the kernel will say no by itself.
pub fn lacking() -> Option<&'static str> {
    lacking_in(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn lacking_in(status: &str) -> Option<&'static str> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let effective = u64::from_str_radix(effective.trim(), 16).ok()?;
    NEEDED.iter().find(|(bit, _)| effective >> bit & 1 == 0).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_names_numbers_and_pairs() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("passwd");
        std::fs::write(&file, "root:x:0:0::/root:/bin/sh\nembulk:x:10001:10002::/:/bin/false\n").unwrap();
        let find = |text: &str| User::find(text, &file);
        assert_eq!(find("embulk").unwrap(), User { uid: 10001, gid: 10002 });
        assert_eq!(find("10001").unwrap(), User { uid: 10001, gid: 10002 });
        assert_eq!(find("7").unwrap(), User { uid: 7, gid: 7 });
        assert_eq!(find("7:8").unwrap(), User { uid: 7, gid: 8 });
        assert!(find("nobody-here").unwrap_err().to_string().contains("UID:GID"));
        let nowhere = folder.path().join("missing");
        assert_eq!(User::find("7", &nowhere).unwrap(), User { uid: 7, gid: 7 });
        assert!(User::find("embulk", &nowhere).is_err());
    }
    #[test]
    fn a_lacking_capability_is_named() {
        assert_eq!(lacking_in("CapPrm:\t00000000000000e0\nCapEff:\t00000000000000e0\n"), None);
        assert_eq!(lacking_in("CapEff:\t00000000000000c0\n"), Some("CAP_KILL"));
        assert_eq!(lacking_in("CapEff:\t0000000000000000\n"), Some("CAP_KILL"));
        assert_eq!(lacking_in("CapEff:\t0000000000000060\n"), Some("CAP_SETUID"));
        assert_eq!(lacking_in(""), None);
    }
}
