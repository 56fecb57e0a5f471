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

/// Whether `pid` descends from us.
pub fn is_descendant(pid: i32) -> bool {
    let ours = nix::unistd::getpid().as_raw();
    if !is_ours() {
        return ours == 1; // as below
    }
    let ancestors = std::iter::successors(Some(pid), |pid| parent(*pid).filter(|parent| *parent > 0));
    // In a PID namespace of our own, who is gone already was ours too: senders from outside have no pid here, but for a command that
    // somebody ran in our container (`kubectl exec`); while that is there, its parent is 0 and not we.
    let gone = parent(pid).is_none();
    ancestors.skip(1).take(64).any(|ancestor| ancestor == ours) || (ours == 1 && gone)
}
