//! Who is measured.

use std::{
    fs,
    process::{Command, Stdio},
};

/// One way to run a command.
pub struct Peer {
    pub name: &'static str,
    pub prefix: Vec<String>,
}

/// Those that are here, and the names of those that are not.
pub fn peers() -> (Vec<Peer>, Vec<&'static str>) {
    let ours = crate::env::supervisor().display().to_string();
    let mut peers =
        vec![Peer { name: "bare", prefix: vec![] }, Peer { name: "sendo-supervisor", prefix: vec![ours, "--".into()] }];
    let mut absent = vec![];
    for (name, flags) in
        [("tini-static", &["-s", "--"][..]), ("dumb-init", &["--"]), ("catatonit", &["--"]), ("pid1", &["--"])]
    {
        let path = std::env::var_os("PATH").unwrap_or_default();
        match std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.exists()) {
            Some(file) => {
                let prefix = [file.display().to_string()]
                    .into_iter()
                    .chain(flags.iter().map(|flag| (*flag).to_owned()))
                    .collect();
                peers.push(Peer { name, prefix });
            }
            None => absent.push(name),
        }
    }
    (peers, absent)
}

pub fn command(peer: &Peer, words: &[&str]) -> Command {
    let all: Vec<&str> = peer.prefix.iter().map(String::as_str).chain(words.iter().copied()).collect();
    let mut command = Command::new(all[0]);
    command.args(&all[1..]).stdin(Stdio::null());
    command
}

pub fn only_child(pid: i32) -> i32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its children");
    children.trim().parse().expect("one child")
}
