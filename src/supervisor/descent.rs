//! Who descends from whom, by `/proc`.

/// Whether `/proc` is there and shows our own PID namespace: its numbers are ours.
pub fn is_ours() -> bool {
    std::fs::read_link("/proc/self").is_ok_and(|pid| pid.as_os_str() == nix::unistd::getpid().to_string().as_str())
}

/// Every process that `/proc` shows.
pub fn pids() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The parent of `pid`: field 4 of `/proc/PID/stat`, counted behind the name, which may hold anything (proc_pid_stat(5)).
pub fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, behind_name) = stat.rsplit_once(") ")?;
    behind_name.split(' ').nth(1)?.parse().ok()
}

/// Who ends while we climb breaks the way up, and its children have another parent by then: so often we begin anew.
const CLIMBS: usize = 8;
/// No way up is longer than there are pids (kernel: `PID_MAX_LIMIT`).
const LONGEST_CLIMB: usize = 4 << 20;

/// Whether `pid` descends from us.
pub fn is_descendant(pid: i32) -> bool {
    let ours = nix::unistd::getpid().as_raw();
    if !is_ours() {
        return ours == 1; // as below
    }
    let known = (0..CLIMBS).find_map(|_| climb(pid, ours));
    // In a PID namespace of our own, who is gone already was ours too: senders from outside have no pid here, but for a command that
    // somebody ran in our container (`kubectl exec`); while that is there, its parent is 0 and not we.
    known.unwrap_or(ours == 1)
}

/// Whether the way up from `pid` comes by us; nothing where it breaks off.
fn climb(pid: i32, ours: i32) -> Option<bool> {
    let mut at = pid;
    for _ in 0..LONGEST_CLIMB {
        at = parent(at)?;
        if at == ours || at <= 0 {
            return Some(at == ours);
        }
    }
    None
}
