//! The transfer's output on its way through the supervisor, beside the same through `cat`.

use crate::env;
use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

const ROUNDS: usize = 5;
/// The goal: this share of what `cat` does in the same place.
const GOAL: f64 = 0.8;

/// The table.
pub fn report() -> String {
    let folder = env::scratch();
    let (lines, long) = (folder.path().join("lines"), folder.path().join("long"));
    let line = "2026-11-23 03:04:09.129 +0000 [INFO] (0016:task-0000): a line like any other\n";
    fs::write(&lines, line.repeat(3_500_000)).expect("write lines");
    fs::write(&long, format!("{}\n", "x".repeat(100_000_000)).repeat(3)).expect("write long lines");
    let cat = |file: &Path| format!("cat {}", file.display());
    let mut report = format!(
        "\n## The relay\n\nOutput through `sendo-supervisor --relay on` beside the same through `cat`; the best of {ROUNDS} rounds in turn. \
         Goal: at least {GOAL} of `cat`.\n\n| | relay | cat | relay's share of cat's speed |\n| --- | --- | --- | --- |\n",
    );
    for (name, source) in [
        ("2 GB of zeros", "head -c 2000000000 /dev/zero".to_owned()),
        ("273 MB of lines like Embulk's", cat(&lines)),
        ("three lines of 100 MB", cat(&long)),
    ] {
        let relayed = format!("{} --relay on -- {source} | cat >/dev/null", env::supervisor().display());
        let plain = format!("{source} | cat | cat >/dev/null");
        let mut best = [Duration::MAX; 2];
        for _ in 0..ROUNDS {
            for (script, best) in [&relayed, &plain].into_iter().zip(&mut best) {
                let start = Instant::now();
                assert!(Command::new("sh").args(["-c", script]).status().expect("sh").success());
                *best = start.elapsed().min(*best);
            }
        }
        let [relay, cat] = best.map(|time| time.as_secs_f64());
        report.push_str(&format!("| {name} | {relay:.2} s | {cat:.2} s | {:.2} |\n", cat / relay));
    }
    report
}
