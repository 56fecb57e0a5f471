//! A container in the guest as a node makes one: the supervisor is PID 1 of a PID namespace, alone in a control group with limits, which
//! is the root of its control group namespace and read-only.

use crate::{
    env::{
        self,
        guest::{Guest, HOST},
        wait_for,
        wrong_ledger::{KEY, WrongLedger},
    },
    reports::worker::believed,
};
use sendo::record::{
    Millis,
    termination::Story,
    usage::Usage,
    wire::{Body, Record},
};
use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};
use tempfile::TempDir;

/// What is kept of the group when its container has gone.
const KEPT: [&str; 10] = [
    "memory.events",
    "memory.peak",
    "memory.max",
    "memory.current",
    "memory.stat",
    "cpu.stat",
    "cpu.pressure",
    "memory.pressure",
    "io.pressure",
    "io.stat",
];

/// How a container is to be.
#[derive(Default)]
pub struct Order<'a> {
    /// Files of the control group and what is written to them.
    pub group: &'a [(&'a str, &'a str)],
    /// Runs in the container, before its PID 1 becomes the supervisor.
    pub before: &'a str,
    pub flags: &'a [&'a str],
    /// The transfer.
    pub script: &'a str,
}

/// A container; gone with its guest.
pub struct Pod {
    guest: Arc<Guest>,
    folder: TempDir,
}

impl Pod {
    pub fn start(guest: &Arc<Guest>, ledger: &WrongLedger, order: &Order) -> Self {
        let folder = tempfile::Builder::new().prefix("pod-").tempdir_in(guest.folder()).unwrap();
        let path = folder.path().to_str().unwrap();
        let group = format!("/sys/fs/cgroup/{}", folder.path().file_name().unwrap().to_str().unwrap());
        let limits: String =
            order.group.iter().map(|(file, value)| format!("echo '{value}' >{group}/{file} || exit 1\n")).collect();
        let supervisor = env::supervisor();
        let url = ledger.url.replace("127.0.0.1", HOST);
        let mut words = vec![supervisor.to_str().unwrap(), "--job", "a", "--attempt", "1", "--ledger-url", &url];
        words.extend(["--token-file", "token", "--termination-log", "word", "--work-dir", path]);
        words.extend(order.flags);
        words.extend(["--", "sh", "-c", order.script]);
        let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        let kept = KEPT.join(" ");
        // The second `unshare` becomes PID 1; the first stays outside the group and tells how PID 1 ended.
        let outside = format!(
            "cd {path} && exec >stdout 2>stderr
            mkdir {group}
            {limits}
            unshare --pid --fork --kill-child -- \\
                sh -c 'echo 0 >{group}/cgroup.procs && exec unshare --cgroup --mount -- sh inside'
            code=$?
            for file in {kept}; do cat {group}/$file >group.$file; done
            rmdir {group}
            echo $code >code.new && mv code.new code\n"
        );
        let (before, words) = (order.before, words.join(" "));
        let inside = format!(
            "mount -t proc proc /proc && umount /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit 1
            mount -o remount,bind,ro /sys/fs/cgroup || exit 1
            {before}
            exec {words}\n"
        );
        for (name, text) in [("token", "first"), ("outside", &outside), ("inside", &inside)] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        guest.start(&folder.path().join("outside"));
        Self { guest: Arc::clone(guest), folder }
    }

    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What one of the files holds.
    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    /// Makes a file that the transfer waits for.
    pub fn open(&self, gate: &str) {
        fs::write(self.file(gate), "").unwrap();
    }

    /// Waits for the container's end; gives back its exit code.
    #[track_caller]
    pub fn end(&self) -> i32 {
        self.wait("the container's end", || self.text("code").trim().parse().ok())
    }

    /// Waits for something that cannot come any more once the container has ended, and tells what was said where it does not come.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let _told = Told { pod: self };
        wait_for(what, || {
            let ended = self.file("code").exists();
            let found = look();
            assert!(found.is_some() || !ended, "the container ended before {what}");
            found
        })
    }

    /// A number in a file of one number, or in the first line or field of a name.
    #[track_caller]
    pub fn number(&self, file: &str, name: &str) -> u64 {
        let text = self.text(file);
        let mut words = text.split([' ', '\n', '=']);
        let found = if name.is_empty() { words.next() } else { words.skip_while(|word| *word != name).nth(1) };
        found.and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no {name} in {file}: {text:?}"))
    }

    /// A number of the control group, as it was when the container had gone.
    #[track_caller]
    pub fn kept(&self, file: &str, name: &str) -> u64 {
        self.number(&format!("group.{file}"), name)
    }

    /// The last word, if it is signed.
    pub fn word(&self) -> Option<Story> {
        believed(&fs::read(self.file("word")).ok()?, &KEY)
    }
}

/// One of the programs that misbehave on purpose.
pub fn program(name: &str) -> &'static str {
    format!("{}/tests/programs/{name}", env!("CARGO_MANIFEST_DIR")).leak()
}

/// All readings that the ledger took, in order, each once.
pub fn readings(ledger: &WrongLedger) -> Vec<(Millis, Usage)> {
    let taken = ledger.asked().into_iter().filter(|asked| asked.taken);
    let records = taken.flat_map(|asked| asked.records().to_vec());
    let records = records.map(|record| serde_json::from_value::<Record>(record).unwrap());
    let readings = records.filter_map(|record| match record.body {
        Body::Usage { usage } => Some((record.seq, (record.at, *usage))),
        _ => None,
    });
    BTreeMap::from_iter(readings).into_values().collect()
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// On a panic, what there is to know.
struct Told<'a> {
    pod: &'a Pod,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["stdout", "stderr", "word"] {
                eprintln!("{name}: {}", self.pod.text(name));
            }
            eprintln!("console: {}", self.pod.guest.console());
        }
    }
}
