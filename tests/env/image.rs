//! A container `FROM scratch`: the shipped supervisor, a static shell, and what a kubelet mounts. No C library, no NSS.

use super::{scratch, supervisor, wait_for};
use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

/// Its root file system, and whom the command runs as.
pub struct Image {
    root: TempDir,
    user: u32,
    /// That user's, at most.
    threads: Option<u32>,
}

/// A running one: processes, mounts and root of its own, the network of its caller. Ends with the test.
pub struct Container {
    process: Child,
    image: Image,
}

impl Image {
    pub fn new(resolv_conf: &str) -> Self {
        let image = Self { root: scratch(), user: 0, threads: None };
        for folder in ["bin", "dev", "etc", "proc", "tmp"] {
            fs::create_dir(image.path(folder)).unwrap();
        }
        for (folder, mode) in [("", 0o755), ("tmp", 0o1777)] {
            fs::set_permissions(image.path(folder), fs::Permissions::from_mode(mode)).unwrap();
        }
        image.program("sendo-supervisor", &supervisor());
        let path = std::env::var_os("PATH").unwrap();
        let mut busybox = std::env::split_paths(&path).map(|folder| folder.join("busybox"));
        let busybox = busybox.find(|file| file.exists()).expect("no busybox; run `make test`, which installs it");
        image.program("bin/busybox", &busybox);
        image.file("etc/resolv.conf", resolv_conf)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// One more file.
    pub fn file(self, name: &str, content: &str) -> Self {
        fs::write(self.path(name), content).unwrap();
        self
    }

    /// Runs as that user, whom nobody else is, with so many threads at most: a limit that does not bind root.
    pub fn limited(self, user: u32, threads: u32) -> Self {
        Self { user, threads: Some(threads), ..self }
    }

    /// By a process of its own: a program that we had open for writing when another test forks could not be started.
    fn program(&self, name: &str, file: &Path) {
        assert!(Command::new("cp").arg(file).arg(self.path(name)).status().unwrap().success());
    }

    /// The command runs as PID 1 there.
    pub fn run(self, words: &[&str], variables: &[(&str, &str)]) -> Container {
        let output = |name: &str| File::create(self.path(name)).unwrap();
        let mut command = Command::new(if self.threads.is_some() { "prlimit" } else { "unshare" });
        if let Some(threads) = self.threads {
            command.args([&format!("--nproc={threads}:"), "unshare"]);
        }
        let process = command
            .args(["--fork", "--pid", "--mount-proc", "--kill-child", "--root"])
            .arg(self.root.path())
            .args(["--wd", "/", "--setuid", &self.user.to_string(), "--setgid", &self.user.to_string(), "--"])
            .args(words)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(output("stdout"))
            .stderr(output("stderr"))
            .spawn();
        Container { process: process.unwrap(), image: self }
    }

    /// A job under the supervisor, with a beat every tenth of a second; `script` is its transfer.
    pub fn run_job(self, ledger: &str, script: &str, variables: &[(&str, &str)]) -> Container {
        let supervisor = ["/sendo-supervisor", "--job", "a", "--attempt", "1"];
        let files = ["--token-file", "/token", "--termination-log", "/tmp/word", "--work-dir", "/tmp"];
        let command = ["--ledger-url", ledger, "--", "/bin/busybox", "sh", "-c", script];
        self.file("token", "first")
            .run(&[&supervisor[..], &files, &command].concat(), &[&[("SENDO_HEARTBEAT", "100ms")], variables].concat())
    }
}

impl Container {
    /// What one of its files holds.
    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.image.path(name)).unwrap_or_default()
    }

    /// Waits for words of the supervisor's.
    #[track_caller]
    pub fn logs(&self, words: &str) {
        wait_for(&format!("`{words}` on stderr"), || self.text("stderr").contains(words).then_some(()));
    }

    /// Waits for a line of the command's.
    #[track_caller]
    pub fn says(&self, line: &str) {
        wait_for(&format!("`{line}` on stdout"), || self.text("stdout").lines().any(|said| said == line).then_some(()));
    }

    /// The pid, seen from here, of its PID 1.
    #[track_caller]
    pub fn init(&self) -> i32 {
        only_child(self.process.id())
    }

    /// The pid, seen from here, of what its PID 1 runs.
    #[track_caller]
    pub fn transfer(&self) -> i32 {
        only_child(self.init().try_into().unwrap())
    }

    /// Waits for its end; gives back the exit code.
    #[track_caller]
    pub fn end(&mut self) -> Option<i32> {
        wait_for("the end of the container", || self.process.try_wait().unwrap()).code()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.process.kill(); // and `--kill-child` does the rest
        let _ = self.process.wait();
    }
}

#[track_caller]
fn only_child(pid: u32) -> i32 {
    let children = format!("/proc/{pid}/task/{pid}/children");
    wait_for("its child", || fs::read_to_string(&children).ok()?.trim().parse().ok())
}
