//! The supervisor beside its peers, in one run on one machine: `make bench`, which writes `docs/benchmarks.md`.
//!
//! Rounds go from one to the next in turn, so that a busy moment hits all alike. Figures of different runs do not compare.

mod attempt;
mod child;
mod figures;
mod init;
mod peers;
mod relay;

#[path = "../../tests/env/mod.rs"]
#[allow(dead_code)] // the tests use the rest
mod env;

use std::{fs, path::PathBuf, process::Command};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("child-signals") => return child::signals(),
        Some("child-orphans") => return child::orphans(arguments[2].parse().expect("a count")),
        _ => {}
    }
    let (peers, absent) = peers::peers();
    let mut report = head(&absent);
    report.push_str(&init::report(&peers));
    report.push_str(&attempt::report());
    report.push_str(&relay::report());
    print!("{report}");
    fs::write(root().join("docs/benchmarks.md"), report).expect("write docs/benchmarks.md");
}

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

fn head(absent: &[&str]) -> String {
    let output = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&output).trim().to_owned()
    };
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let mut head = String::from(
        "# Benchmarks\n\nWritten by `make bench`; all rows of a table are of one run, a round each in turn.\n\n",
    );
    head.push_str(&format!(
        "{}, {} × {model}, Linux {}.\n",
        output("date", &["-u", "+%Y-%m-%d"]),
        output("nproc", &[]),
        output("uname", &["-r"]).split('-').next().unwrap_or_default()
    ));
    if !absent.is_empty() {
        head.push_str(&format!("Not measured, because not installed: {}.\n", absent.join(", ")));
    }
    head
}
