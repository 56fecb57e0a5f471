//! The schema of a job as it is shipped: a file, and what the program prints. What it takes and refuses stands beside `intake::schema`.

use crate::env::{sendo, stderr, stdout};

#[test]
fn the_file_is_what_the_program_prints() {
    // A server that is named is not asked.
    let output = sendo().args(["submit", "--schema"]).env("SENDO_SERVER", "http://127.0.0.1:9").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let remedy = "sendo submit --schema > docs/job.schema.json";
    assert!(stdout(&output) == include_str!("../docs/job.schema.json"), "docs/job.schema.json is old; {remedy}");
}

#[test]
fn it_is_printed_or_a_job_is_handed_in() {
    for arguments in [&["submit"][..], &["submit", "--schema", "job.json"], &["submit", "--schema", "--follow"]] {
        assert_eq!(sendo().args(arguments).output().unwrap().status.code(), Some(2), "{arguments:?}");
    }
}
