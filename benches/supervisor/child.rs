//! What runs under the inits.
#![allow(unsafe_code)] // forks in a program of one thread

use nix::{
    sys::{
        signal::{SigSet, Signal, kill},
        wait::waitpid,
    },
    unistd::{ForkResult, Pid, fork, pipe, read, write},
};
use std::{
    fs::File,
    io::{Read as _, Write as _},
    time::{Duration, Instant},
};

/// Says a byte when ready, a byte at each USR1, and ends at TERM.
pub fn signals() {
    let mut set = SigSet::empty();
    set.add(Signal::SIGUSR1);
    set.add(Signal::SIGTERM);
    set.thread_block().expect("block");
    let mut stdout = std::io::stdout();
    loop {
        stdout.write_all(b".").and_then(|()| stdout.flush()).expect("answer");
        if set.wait() != Ok(Signal::SIGUSR1) {
            return;
        }
    }
}

/// Hands ended children over to the init, all at once, and tells how many microseconds passed until the last was reaped.
///
/// They have ended before the clock starts: what is measured is the reaping, not the kernel's work on ten thousand exits.
pub fn orphans(count: usize) {
    let (hears, says) = pipe().expect("a pipe");
    let (waits, lets_go) = pipe().expect("a pipe");
    // SAFETY: this process has one thread.
    if let ForkResult::Child = unsafe { fork() }.expect("fork") {
        drop((hears, lets_go));
        let (all_gone, alive) = pipe().expect("a pipe");
        let mut pids = Vec::with_capacity(count);
        for _ in 0..count {
            // SAFETY: as above.
            match unsafe { fork() }.expect("fork") {
                ForkResult::Child => std::process::exit(0),
                ForkResult::Parent { child } => pids.extend(child.as_raw().to_ne_bytes()),
            }
        }
        drop(alive);
        let _ = read(&all_gone, &mut [0]); // its end is the end of the last of them
        File::from(says).write_all(&pids).expect("tell");
        let _ = read(&waits, &mut [0]); // until we are let go
        std::process::exit(0);
    }
    drop((says, waits));
    let mut pids = Vec::new();
    File::from(hears).read_to_end(&mut pids).expect("hear");
    let pids: Vec<Pid> = pids
        .chunks_exact(4)
        .map(|bytes| Pid::from_raw(i32::from_ne_bytes(bytes.try_into().expect("four bytes"))))
        .collect();
    assert_eq!(pids.len(), count);
    let start = Instant::now();
    write(&lets_go, b".").expect("let go");
    waitpid(None, None).expect("the parent of the orphans");
    for pid in pids {
        while kill(pid, None).is_ok() {
            assert!(start.elapsed() < Duration::from_secs(60), "not reaped within a minute");
            std::thread::yield_now();
        }
    }
    println!("{}", start.elapsed().as_micros());
}
