//! What ends the servers of a test run, however that ends.
//!
//! A shell stands between them and us. When its stdin ends, because we dropped it, finished, panicked or were killed, it kills what it
//! started, the last first, runs what each left to be done, and takes the folder away.

use super::{LIMIT, wait_for};
use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::Mutex,
};

/// Each line names a program: what `NAME.start` in the folder becomes, with `NAME.stop` to clean up after it.
const SHELL: &str = r#"folder=$1 names=
while read -r name; do
  [ -e "$folder/$name.start" ] || continue
  rm -f "$folder/$name.pid"
  sh "$folder/$name.start" </dev/null >>"$folder/$name.log" 2>&1 &
  echo $! >"$folder/$name.new" && mv "$folder/$name.new" "$folder/$name.pid"
  names="$name $names"
done
for name in $names; do
  [ ! -e "$folder/$name.stop" ] || sh "$folder/$name.stop" >>"$folder/$name.log" 2>&1
  kill -KILL "$(cat "$folder/$name.pid")" 2>/dev/null
done
wait
rm -rf --one-file-system "$folder""#;

/// A folder with programs that end with it.
pub struct Keeper {
    folder: PathBuf,
    shell: Child,
    line: Mutex<Option<ChildStdin>>,
}

impl Keeper {
    pub fn new() -> Self {
        let folder = super::scratch().keep();
        let mut shell = Command::new("sh");
        shell.args(["-c", SHELL, "keeper"]).arg(&folder).current_dir("/").stdin(Stdio::piped());
        // A group of its own: an interrupt from the terminal goes to the test run alone, and comes here as the end of stdin.
        let mut shell = shell.process_group(0).spawn().unwrap();
        let line = Mutex::new(shell.stdin.take());
        Self { folder, shell, line }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Starts a program; `stop` is what a shell does before it is killed.
    pub fn start(&self, name: &str, command: &Command, stop: Option<&str>) {
        let words = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted);
        let set = command.get_envs().filter_map(|(key, value)| Some((key, value?)));
        let set: String = set.map(|(key, value)| format!("export {}={}\n", key.display(), quoted(value))).collect();
        let words: Vec<_> = words.collect();
        fs::write(self.file(&format!("{name}.start")), format!("{set}exec {}\n", words.join(" "))).unwrap();
        if let Some(stop) = stop {
            fs::write(self.file(&format!("{name}.stop")), stop).unwrap();
        }
        self.again(name);
    }

    /// Starts it once more, as it was started before; the one before must have ended.
    pub fn again(&self, name: &str) {
        let _ = fs::remove_file(self.file(&format!("{name}.pid"))); // of the one before, if there was one
        writeln!(self.line.lock().unwrap().as_mut().unwrap(), "{name}").unwrap();
    }

    /// The pid of a program.
    pub fn pid_of(&self, name: &str) -> i32 {
        let file = self.file(&format!("{name}.pid"));
        wait_for(&format!("{name} to be started"), || fs::read_to_string(&file).ok()?.trim().parse().ok())
    }

    /// What it said.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.file(&format!("{name}.log"))).unwrap_or_default()
    }

    /// Waits until it is ready; one that ends before that is told with its log's end.
    #[track_caller]
    pub fn ready(&self, name: &str, mut is_ready: impl FnMut() -> bool) {
        let pid = self.pid_of(name);
        wait_for(&format!("{name} to be ready within {LIMIT:?}; its log is {}", self.file("").display()), || {
            let is_alive = super::is_alive(pid);
            let ready = is_ready();
            let log = self.log(name);
            let end: Vec<_> = log.lines().rev().take(20).collect();
            assert!(ready || is_alive, "{name} has ended: {}", end.into_iter().rev().collect::<Vec<_>>().join("\n"));
            ready.then_some(())
        });
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.line.lock().unwrap().take());
        let _ = self.shell.wait(); // nothing to do about a keeper that is gone
    }
}

fn quoted(word: &OsStr) -> String {
    format!("'{}'", word.to_str().unwrap().replace('\'', r"'\''"))
}
