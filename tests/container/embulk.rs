//! A real Embulk within a memory limit that the kernel holds it to.

use super::attempt::{Attempt, place};
use crate::env::{
    self,
    container::{MIB, Root, Spec, java_home},
    wrong_ledger::{Reply, WrongLedger, grant},
};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt as _};

const FILES: usize = 4;

/// From CSV files of these rows to files, with these options for the JVM.
fn start(limit: u64, java_options: &str, rows: &[String]) -> Attempt {
    let columns = json!([{"name": "id", "type": "long"}, {"name": "text", "type": "string"}]);
    let config = json!({
        "in": {"type": "file", "path_prefix": "/data/in/", "parser": {"type": "csv", "columns": columns}},
        "out": {"type": "file", "path_prefix": "/data/out/", "file_ext": "csv", "formatter": {"type": "csv"}},
    });
    let ledger = WrongLedger::start(move |asked| {
        let mut grant = grant();
        grant["embulk_config"] = config.clone();
        if asked.is_grant() { Reply::Well(grant) } else { Reply::go_on() }
    });
    let mut spec = with_embulk(place(Root::Host, &ledger)).env("EMBULK_JAVA_OPTS", java_options);
    spec.memory_limit = limit;
    let data = spec.file("data");
    fs::create_dir_all(data.join("in")).unwrap();
    fs::create_dir(data.join("out")).unwrap();
    fs::set_permissions(data.join("out"), fs::Permissions::from_mode(0o777)).unwrap();
    for file in 0..FILES {
        let rows = rows.iter().enumerate().map(|(number, text)| format!("{number},{text}\n"));
        fs::write(data.join(format!("in/{file}.csv")), rows.collect::<String>()).unwrap();
    }
    let spec = spec.bind(&data, "/data", "rw");
    let embulk = env::embulk().join("bin/embulk");
    Attempt::run(ledger, spec, &[embulk.to_str().unwrap(), "run"])
}

/// Where they lie on the host, or the class-data archive would not fit.
fn with_embulk(spec: Spec) -> Spec {
    let (embulk, java) = (fs::canonicalize(env::embulk()).unwrap(), java_home());
    let spec = spec.bind(&embulk, env::embulk().to_str().unwrap(), "ro").env("JAVA_HOME", java.to_str().unwrap());
    if java.starts_with("/usr") { spec } else { spec.bind(&java, java.to_str().unwrap(), "ro") }
}

fn kind(ending: &Value) -> (&str, Option<i64>) {
    (ending["outcome"]["kind"].as_str().unwrap(), ending["exit_code"].as_i64())
}

#[test]
fn it_succeeds_within_a_limit_and_the_heap_follows_the_limit() {
    let mut attempt = start(512 * MIB, "", &["ordinary".into(), "words".into()]);
    assert_eq!(attempt.end(), 0, "{}{}", attempt.text("stdout"), attempt.text("stderr"));
    assert_eq!(attempt.oom_kills(), 0);
    assert_eq!(kind(&attempt.ending()), ("succeeded", Some(0)));
    assert_eq!(attempt.phases(), ["executing"]);
    let written: usize = fs::read_dir(attempt.file("data/out"))
        .unwrap()
        .map(|file| fs::read_to_string(file.unwrap().path()).unwrap().lines().count())
        .sum();
    assert_eq!(written, 3 * FILES, "the rows, and a header a file");
    let readings = attempt.readings();
    let last = readings.last().unwrap();
    assert_eq!((&last["tasks_done"], &last["tasks_total"]), (&json!(FILES), &json!(FILES)), "{last:#}");
    assert!(readings.iter().all(|reading| reading["memory_limit_bytes"] == json!(512 * MIB)), "{last:#}");
    let heap =
        readings.iter().find_map(|reading| reading["jvm_heap_max_bytes"].as_u64()).expect("a reading of the JVM");
    // What `entrypoint/embulk` leaves for the heap; serial GC keeps a part of a survivor space out of what it tells.
    assert!((300 * MIB..=320 * MIB).contains(&heap), "{heap}");
}

#[test]
fn a_heap_that_is_too_small_is_the_jvms_own_end() {
    // With the entrypoint's own option it exits at once; without, Embulk says it and exits with 1.
    let larger_than_that = ["x".repeat(24 << 20)];
    for (options, code) in [("-Xmx32m", 3), ("-Xmx32m -XX:-ExitOnOutOfMemoryError", 1)] {
        let mut attempt = start(512 * MIB, options, &larger_than_that);
        assert_eq!(attempt.end(), code, "{}{}", attempt.text("stdout"), attempt.text("stderr"));
        assert_eq!(attempt.oom_kills(), 0);
        let ending = attempt.ending();
        assert_eq!(kind(&ending), ("out_of_memory", Some(i64::from(code))), "{ending:#}");
        assert_eq!(ending["verdict"]["summary"], "The transfer's JVM ran out of heap.");
        let lines = ending["last_lines"].as_array().unwrap();
        assert!(lines.iter().any(|line| line.as_str().unwrap().contains("OutOfMemoryError")), "{ending:#}");
    }
}

#[test]
fn a_heap_beyond_the_limit_is_the_kernels_kill() {
    let mut attempt = start(96 * MIB, "-Xms400m -Xmx400m -XX:+AlwaysPreTouch", &[]);
    assert_eq!(attempt.end(), 137, "{}{}", attempt.text("stdout"), attempt.text("stderr"));
    assert!(attempt.oom_kills() > 0);
    let ending = attempt.ending();
    assert_eq!((kind(&ending), &ending["signal"]), (("out_of_memory", None), &json!(9)), "{ending:#}");
    assert!(ending["verdict"]["summary"].as_str().unwrap().starts_with("The kernel killed"), "{ending:#}");
}
