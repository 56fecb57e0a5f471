//! The supervisor with a job and a folder of its own, as its place would start it.

use crate::env::{
    self, wait_for,
    wrong_ledger::{Asked, KEY},
};
use ring::hmac;
use sendo::record::termination::{Signed, Story};
use serde_json::Value;
use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

/// Says that it is ready and waits for `Worker::open`.
pub const READY: &str = "echo ready; until [ -e gate ]; do sleep 0.05; done";

/// Ends with the test, and its transfer with it.
pub struct Worker {
    process: Child,
    folder: TempDir,
}

impl Worker {
    /// `script` is the transfer; it runs in the folder.
    pub fn start(ledger: &str, script: &str, more: &[(&str, &str)]) -> Self {
        Self::start_by(Command::new(env::supervisor()), ledger, script, more)
    }

    /// With a stdout that is open and that nobody reads.
    pub fn start_unread(ledger: &str, script: &str, more: &[(&str, &str)]) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "mkfifo unread; exec 9<>unread; exec \"$@\" >unread", "sh"]).arg(env::supervisor());
        Self::start_by(command, ledger, script, more)
    }

    /// As root who may not signal the processes of others.
    pub fn start_powerless(ledger: &str, script: &str, more: &[(&str, &str)]) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-kill", "--"]).arg(env::supervisor());
        Self::start_by(command, ledger, script, more)
    }

    /// As PID 1 of a PID namespace of its own.
    pub fn start_as_init(ledger: &str, script: &str, more: &[(&str, &str)]) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--fork", "--pid", "--mount-proc", "--kill-child", "--"]).arg(env::supervisor());
        Self::start_by(command, ledger, script, more)
    }

    fn start_by(mut command: Command, ledger: &str, script: &str, more: &[(&str, &str)]) -> Self {
        let folder = env::scratch();
        fs::write(folder.path().join("token"), "first\n").unwrap();
        let file = |name: &str| folder.path().join(name);
        command
            .args(["--job", "a", "--attempt", "1", "--ledger-url", ledger, "--token-file"])
            .arg(file("token"))
            .arg("--termination-log")
            .arg(file("word"))
            .arg("--work-dir")
            .arg(folder.path())
            .args(["--", "sh", "-c", script])
            .env("SENDO_HEARTBEAT", "100ms")
            .envs(more.iter().copied())
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(File::create(file("stdout")).unwrap())
            .stderr(File::create(file("stderr")).unwrap());
        Self { process: command.spawn().unwrap(), folder }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).unwrap()
    }

    /// The supervisor's pid, seen from here, where it is PID 1 of a namespace.
    pub fn init_pid(&self) -> i32 {
        let pid = self.pid();
        wait_for("PID 1", || {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
            children.split_whitespace().next()?.parse().ok()
        })
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What one of the files holds.
    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    /// Waits for a line of the transfer that begins so; gives back the rest of it.
    #[track_caller]
    pub fn says(&self, beginning: &str) -> String {
        wait_for(&format!("`{beginning}` on stdout"), || {
            let said = self.text("stdout");
            let (whole, _) = said.rsplit_once('\n')?;
            whole.lines().find_map(|line| line.strip_prefix(beginning)).map(|rest| rest.trim().to_owned())
        })
    }

    /// Waits for words of the supervisor's.
    #[track_caller]
    pub fn logs(&self, words: &str) {
        wait_for(&format!("`{words}` on stderr"), || self.text("stderr").contains(words).then_some(()));
    }

    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Lets a transfer go on that is [`READY`].
    pub fn open(&self) {
        fs::write(self.file("gate"), "").unwrap();
    }

    /// Waits for its end; gives back the exit code.
    #[track_caller]
    pub fn end(&mut self) -> Option<i32> {
        wait_for("the end of the supervisor", || self.process.try_wait().unwrap()).code()
    }

    /// The last word, if it is signed with the grant's key.
    pub fn last_word(&self) -> Option<Story> {
        self.word_under(&KEY)
    }

    /// The last word, if it is signed with that key.
    pub fn word_under(&self, key: &[u8]) -> Option<Story> {
        believed(self.text("word").as_bytes(), key)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The story in a termination log, if it is signed with that key.
pub fn believed(text: &[u8], key: &[u8]) -> Option<Story> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    Signed::believe(text, |story, tag| {
        let tag: Vec<u8> =
            (0..tag.len() / 2).map(|at| u8::from_str_radix(&tag[2 * at..2 * at + 2], 16).unwrap()).collect();
        hmac::verify(&key, story, &tag).is_ok()
    })
}

/// The ending that the ledger took.
#[track_caller]
pub fn ending(asked: &[Asked]) -> Value {
    let batch = asked.iter().find(|asked| asked.taken && asked.brings("ending")).expect("no ending was taken");
    batch.records().iter().find(|record| record["record"] == "ending").unwrap()["ending"].clone()
}
