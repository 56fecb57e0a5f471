//! Admission and launch under `sendo serve`: whose turn it is, what waits and says why, what is cancelled wherever it stands.

mod batches;
mod cancel;
mod kills;
mod limits;
mod sick;

use crate::env::{self, dev::Dev, wait_for};
use serde_json::{Value, json};
use std::path::Path;

/// Runs until its attempt's folder has a file `go`.
const UNTIL_GO: &str = "until [ -e ../go ]; do sleep 0.05; done";

fn serve(settings: &str) -> Dev {
    Dev::serve(settings, &env::supervisor())
}

/// A job of a tenant.
fn job(id: &str, tenant: &str, script: &str) -> Value {
    json!({"version": 1, "id": id, "tenant": tenant, "command": ["sh", "-c", script]})
}

/// Submits many at once: a process for each would be the slowest part of the test.
fn submit_all(dev: &Dev, jobs: &[Value]) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = reqwest::Client::builder().tls_certs_only([]).no_proxy().build().unwrap();
        for job in jobs {
            let request = client.post(format!("{}/v1/jobs", dev.url)).header("content-type", "application/json");
            let status = request.body(job.to_string()).send().await.unwrap().status();
            assert!(status.is_success(), "{status} for {job}");
        }
    });
}

fn go(dev: &Dev, id: &str) {
    std::fs::write(dev.attempt(id, 1).join("go"), "").unwrap();
}

/// The jobs that have an attempt, in the order in which they were launched.
fn launched(dev: &Dev) -> Vec<String> {
    let rows = dev.sql("SELECT job_id FROM attempts ORDER BY launching_at_ms, rowid");
    rows.iter().map(|row| row["job_id"].as_str().unwrap().to_owned()).collect()
}

/// Waits until `show` says why the job waits.
#[track_caller]
fn waits_for(dev: &Dev, id: &str, why: &str) {
    wait_for(&format!("{id} to wait for: {why}"), || {
        dev.json(&["show", id])["waits_for"].as_str()?.contains(why).then_some(())
    });
}

fn lines(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}
