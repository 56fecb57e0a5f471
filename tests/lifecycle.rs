//! A job's life under `sendo dev`: taken once, run once, ended once, whatever is killed in between.

use crate::env::{
    self,
    dev::{Dev, script},
    is_alive, kill, stderr, stdout, wait_for,
};
use nix::sys::signal::Signal;
use serde_json::json;

const LIFE: [&str; 4] = ["queued", "setting_up", "executing", "succeeded"];

#[test]
fn a_job_goes_its_way_and_every_witness_tells_the_same() {
    let dev = Dev::start(&[]);
    dev.accepted(&script("a", "echo '{done:  1 / 2, running: 1}'; echo out; echo err >&2"));
    let job = dev.wait("a", &["succeeded"]);
    assert_eq!(dev.phases("a"), LIFE);
    let listed = dev.json(&["jobs"])["jobs"][0].clone();
    for (column, value) in
        dev.sql("SELECT id, phase, attempt, outcome, queued_at_ms, ended_at_ms FROM jobs")[0].as_object().unwrap()
    {
        assert_eq!(&job[column], value, "show: {column}");
        assert_eq!(&listed[column], value, "jobs: {column}");
    }
    let steps = dev.sql("SELECT number, attempt, from_phase, to_phase, at_ms, recorded_at_ms, writer, reason FROM transitions ORDER BY number");
    assert_eq!(job["transitions"].as_array().unwrap(), &steps);
    let beats = dev.json(&["heartbeats", "a"])["heartbeats"].as_array().unwrap().clone();
    let rows = dev.sql("SELECT seq, at_ms, rss_bytes, tree_cpu_seconds, tasks_done, tasks_total, output_bytes FROM heartbeats ORDER BY at_ms, seq");
    assert_eq!(beats.len(), rows.len());
    for (beat, row) in beats.iter().zip(&rows) {
        for (column, value) in row.as_object().unwrap() {
            assert_eq!(&beat[column], value, "heartbeats: {column}");
        }
    }
    assert!(rows.len() >= 2, "one reading at the start and one at the end");
    assert_eq!(rows.last().unwrap()["output_bytes"], json!(35));
    assert_eq!(stdout(&dev.run(&["logs", "a"])), "{done:  1 / 2, running: 1}\nout\n");
    assert!(stdout(&dev.run(&["logs", "a", "--stream", "stderr"])).lines().any(|line| line == "err"));
}

#[test]
fn the_same_job_again_is_the_same_job_and_another_content_is_refused() {
    let dev = Dev::start(&[]);
    let job = script("a", "true");
    dev.accepted(&job);
    dev.accepted(&job);
    dev.wait("a", &["succeeded"]);
    dev.accepted(&job);
    let other = dev.submit(&script("a", "false"));
    assert_eq!(other.status.code(), Some(1));
    assert!(stderr(&other).contains("`a`") && stderr(&other).contains("id of its own"), "{}", stderr(&other));
    assert_eq!(dev.sql("SELECT COUNT(*) AS n FROM attempts")[0]["n"], 1);
    assert_eq!(
        dev.sql("SELECT queue, job_id, times FROM refusals"),
        [json!({"queue": "http", "job_id": "a", "times": 1})]
    );
}

#[test]
fn never_more_than_the_limit_runs_and_a_higher_priority_goes_first() {
    let dev = Dev::start(&["--max-running", "1"]);
    let gate = dev.home.path().join("gate");
    let wait = format!("until [ -e {} ]; do sleep 0.05; done", gate.display());
    dev.accepted(&script("first", &wait));
    dev.wait("first", &["executing"]);
    for (id, priority) in [("low", 0), ("high", 7)] {
        dev.accepted(&json!({"version": 1, "id": id, "command": ["true"], "priority": priority}));
    }
    assert_eq!(dev.phases("high"), ["queued"]);
    std::fs::write(&gate, "").unwrap();
    dev.wait("low", &["succeeded"]);
    let order = dev.sql("SELECT job_id FROM attempts ORDER BY launching_at_ms");
    assert_eq!(order, [json!({"job_id": "first"}), json!({"job_id": "high"}), json!({"job_id": "low"})]);
    let overlaps = "SELECT COUNT(*) AS n FROM attempts a JOIN attempts b ON a.job_id < b.job_id AND a.launching_at_ms < b.ended_at_ms \
                    AND b.launching_at_ms < a.ended_at_ms";
    assert_eq!(dev.sql(overlaps)[0]["n"], 0);
}

#[test]
fn a_killed_server_finds_its_running_transfers_again_and_loses_or_doubles_nothing() {
    let mut dev = Dev::start(&[]);
    let gate = dev.home.path().join("gate");
    dev.accepted(&script(
        "a",
        &format!("echo began; until [ -e {} ]; do sleep 0.05; done; echo ended", gate.display()),
    ));
    dev.wait("a", &["executing"]);
    let (supervisor, transfer) = (dev.supervisor_pid("a", 1), dev.transfer_pid("a", 1));
    dev.restart_after_kill();
    assert!(is_alive(supervisor) && is_alive(transfer));
    dev.wait("a", &["executing"]);
    std::fs::write(gate, "").unwrap();
    dev.wait("a", &["succeeded"]);
    assert_eq!(dev.phases("a"), LIFE);
    assert_eq!(dev.sql("SELECT attempt, outcome FROM attempts"), [json!({"attempt": 1, "outcome": "succeeded"})]);
    assert_eq!(stdout(&dev.run(&["logs", "a"])), "began\nended\n");
}

#[test]
fn an_end_that_nobody_saw_is_found_by_the_signed_last_word() {
    let mut dev = Dev::start(&[]);
    let gate = dev.home.path().join("gate");
    dev.accepted(&script("a", &format!("until [ -e {} ]; do sleep 0.05; done; exit 3", gate.display())));
    dev.wait("a", &["executing"]);
    let supervisor = dev.supervisor_pid("a", 1);
    dev.kill();
    std::fs::write(gate, "").unwrap();
    let message = dev.attempt("a", 1).join("termination-log");
    wait_for("the last word", || std::fs::read_to_string(&message).ok()?.contains("\"failed\"").then_some(()));
    kill(supervisor, Signal::SIGKILL);
    wait_for("the supervisor to die", || (!is_alive(supervisor)).then_some(()));
    dev.restart_after_kill();
    let job = dev.wait("a", &["failed"]);
    assert_eq!((&job["outcome"], &job["attempts"][0]["exit_code"]), (&json!("failed"), &json!(3)));
    assert_eq!(job["attempts"][0]["evidence"], json!(3), "the termination message's rank");
}

#[test]
fn a_forged_last_word_is_not_believed() {
    let mut dev = Dev::start(&[]);
    dev.accepted(&script("a", "exec sleep 600"));
    dev.wait("a", &["executing"]);
    let supervisor = dev.supervisor_pid("a", 1);
    let message = dev.attempt("a", 1).join("termination-log");
    let signed =
        wait_for("a first word", || std::fs::read_to_string(&message).ok().filter(|text| text.contains("hmac")));
    dev.kill();
    kill(supervisor, Signal::SIGKILL);
    wait_for("the supervisor to die", || (!is_alive(supervisor)).then_some(()));
    let ending = r#""ending":{"outcome":{"kind":"succeeded"},"verdict":{"code":"succeeded","summary":"","confidence":"certain"}}"#;
    let forged = signed.trim_end().strip_suffix("}}").unwrap().to_owned() + "," + ending + "}}";
    std::fs::write(&message, forged).unwrap();
    dev.restart_after_kill();
    let job = dev.wait("a", &["held"]);
    assert_eq!(job["outcome"], json!("lost"), "nothing that can be believed says how it ended");
}

#[test]
fn a_killed_supervisor_takes_its_transfer_along_and_a_person_is_asked() {
    let dev = Dev::start(&[]);
    // A child of the transfer's too: it must not go on writing.
    dev.accepted(&script("a", "setsid sleep 600 & echo $! > child; wait"));
    dev.wait("a", &["executing"]);
    let transfer = dev.transfer_pid("a", 1);
    let child = dev.attempt("a", 1).join("work/child");
    let child: i32 = wait_for("the transfer's child", || std::fs::read_to_string(&child).ok()?.trim().parse().ok());
    kill(dev.supervisor_pid("a", 1), Signal::SIGKILL);
    let job = dev.wait("a", &["held"]);
    assert!(!is_alive(transfer) && !is_alive(child), "proof of end comes after the end");
    assert_eq!(job["outcome"], json!("killed"));
    assert_eq!(dev.sql("SELECT id, phase FROM lingering"), [json!({"id": "a", "phase": "held"})]);
    let question = job["verdict"]["next_action"].as_str().unwrap();
    assert!(question.contains("sendo retry a") && question.contains("sendo cancel a"), "{question}");
    assert_eq!(dev.run(&["retry", "a", "--after-attempt", "1"]).status.code(), Some(0));
    assert_eq!(dev.run(&["retry", "a", "--after-attempt", "1"]).status.code(), Some(0));
    dev.wait("a", &["executing"]);
    assert_eq!(dev.sql("SELECT COUNT(*) AS n FROM attempts")[0]["n"], 2, "said twice, run once");
    assert_eq!(dev.run(&["cancel", "a"]).status.code(), Some(0));
    dev.wait("a", &["cancelled"]);
}

#[test]
fn a_load_that_may_be_repeated_is_tried_again_on_the_infrastructures_budget() {
    let dev = Dev::start(&[]);
    let mut job = script("a", "[ -e ../../once ] && exit 0; touch ../../once; exec sleep 600");
    job["retry"] = json!({"idempotent": true, "backoff": "100ms"});
    dev.accepted(&job);
    dev.wait("a", &["executing"]);
    wait_for("the first attempt to be in the middle", || dev.state_dir().join("attempts/once").exists().then_some(()));
    kill(dev.supervisor_pid("a", 1), Signal::SIGKILL);
    wait_for("the second attempt to succeed", || (dev.json(&["show", "a"])["phase"] == "succeeded").then_some(()));
    assert_eq!(
        dev.phases("a"),
        ["queued", "setting_up", "executing", "queued", "setting_up", "executing", "succeeded"]
    );
    let row = dev.sql("SELECT own_retries, infrastructure_retries FROM jobs")[0].clone();
    assert_eq!(row, json!({"own_retries": 0, "infrastructure_retries": 1}));
}

#[test]
fn attempts_that_end_at_once_leave_no_job_behind() {
    let dev = Dev::start(&["--max-running", "20"]);
    let ids: Vec<String> = (0..20).map(|number| format!("job-{number}")).collect();
    for id in &ids {
        dev.accepted(&json!({"version": 1, "id": id, "command": ["false"], "retry": {"limit": 3, "idempotent": true, "backoff": "1ms"}}));
    }
    for id in &ids {
        wait_for("the last attempt to fail", || (dev.json(&["show", id])["phase"] == "failed").then_some(()));
    }
    assert_eq!(dev.sql("SELECT DISTINCT attempt, own_retries FROM jobs"), [json!({"attempt": 4, "own_retries": 3})]);
}

#[test]
fn an_incremental_definition_waits_for_the_person_who_is_asked() {
    let dev = Dev::start(&[]);
    let job = |id: &str| {
        let embulk = json!({"config": {"in": {}, "out": {}}, "incremental": true});
        json!({"version": 1, "id": id, "tenant": "t", "definition": "d", "command": ["true"], "embulk": embulk})
    };
    dev.accepted(&job("first"));
    // It succeeds and leaves no cursor: nobody can say where the next run should begin.
    let held = dev.wait("first", &["held"]);
    assert_eq!(held["verdict"]["code"], json!("cursor_missing"));
    dev.accepted(&job("second"));
    dev.accepted(&script("other", "true"));
    dev.wait("other", &["succeeded"]);
    assert_eq!(dev.phases("second"), ["queued"], "admission has passed it over");
    assert_eq!(dev.run(&["cancel", "first"]).status.code(), Some(0));
    dev.wait("second", &["held"]);
}

#[test]
fn a_job_whose_place_has_vanished_can_be_cancelled() {
    let dev = Dev::start(&["--max-running", "1"]);
    dev.accepted(&script("a", "exec sleep 600"));
    dev.wait("a", &["executing"]);
    let supervisor = dev.supervisor_pid("a", 1);
    std::fs::rename(dev.attempt("a", 1), dev.home.path().join("elsewhere")).unwrap();
    kill(supervisor, Signal::SIGKILL);
    assert_eq!(dev.run(&["cancel", "a"]).status.code(), Some(0));
    dev.wait("a", &["cancelled"]);
    dev.accepted(&script("b", "true"));
    dev.wait("b", &["succeeded"]);
}

#[test]
fn the_next_job_of_an_incremental_definition_does_not_start_beside_one_that_has_vanished() {
    let dev = Dev::start(&[]);
    let job = |id: &str, command: &str| {
        let embulk = json!({"config": {"in": {}, "out": {}}, "incremental": true});
        json!({"version": 1, "id": id, "tenant": "t", "definition": "d", "command": ["sh", "-c", command], "embulk": embulk})
    };
    dev.accepted(&job("first", "exec sleep 600"));
    dev.wait("first", &["executing"]);
    let supervisor = dev.supervisor_pid("first", 1);
    std::fs::rename(dev.attempt("first", 1), dev.home.path().join("elsewhere")).unwrap();
    kill(supervisor, Signal::SIGKILL);
    dev.accepted(&job("second", "true"));
    assert_eq!(dev.run(&["cancel", "first"]).status.code(), Some(0));
    let log = || std::fs::read_to_string(dev.home.path().join("dev.log")).unwrap();
    wait_for("the program to say what it needs", || log().contains("its place has vanished").then_some(()));
    assert_eq!((dev.phases("first").last().unwrap().as_str(), dev.phases("second").len()), ("executing", 1));
    let said = ["confirm-dead", "first", "--attempt", "1", "--reason", "its process is gone"];
    assert_eq!(dev.run(&said).status.code(), Some(0));
    dev.wait("first", &["cancelled"]);
    dev.wait("second", &["held"]);
}

#[test]
fn what_never_had_a_place_is_released_all_the_same() {
    let dev = Dev::start(&[]);
    dev.accepted(&json!({"version": 1, "id": "a", "image": "worker:1"}));
    dev.wait("a", &["rejected"]);
    let open = "SELECT COUNT(*) AS open FROM attempts WHERE released_at_ms IS NULL";
    wait_for("nothing to be left of it", || (dev.sql(open) == [json!({"open": 0})]).then_some(()));
}

#[test]
fn a_cancel_reaches_a_job_wherever_it_stands() {
    let dev = Dev::start(&["--max-running", "1"]);
    dev.accepted(&script("running", "trap 'exit 9' TERM; while :; do sleep 0.05; done"));
    dev.accepted(&script("waiting", "true"));
    dev.wait("running", &["executing"]);
    assert!(stdout(&dev.run(&["cancel", "waiting", "--reason", "not needed"])).contains("cancelled"));
    assert_eq!(dev.phases("waiting"), ["queued", "cancelled"]);
    assert!(stdout(&dev.run(&["cancel", "running"])).contains("cancelling"));
    let job = dev.wait("running", &["cancelled"]);
    assert_eq!(dev.phases("running"), ["queued", "setting_up", "executing", "stopping", "cancelled"]);
    assert_eq!(job["attempts"][0]["exit_code"], json!(9), "it was asked, not killed");
    let again = dev.run(&["cancel", "running"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("cancelled already"));
}

#[test]
fn what_only_the_running_needs_goes_with_the_end() {
    let dev = Dev::start(&[]);
    let secret = dev.home.path().join("secret");
    std::fs::write(&secret, "hunter2\n").unwrap();
    let mut job = script("a", "until [ -e gate ]; do sleep 0.05; done");
    job["secrets"] = json!({"dwh": {"file": secret}});
    dev.accepted(&job);
    dev.wait("a", &["executing"]);
    let place = dev.attempt("a", 1);
    assert_eq!(std::fs::read_to_string(place.join("secrets/dwh")).unwrap(), "hunter2\n");
    std::fs::write(place.join("work/gate"), "").unwrap();
    dev.wait("a", &["succeeded"]);
    wait_for("token and secrets to go", || {
        (!place.join("token").exists() && !place.join("secrets").exists()).then_some(())
    });
    let ledger = std::fs::read(dev.state_dir().join("ledger.db")).unwrap();
    assert!(!ledger.windows(7).any(|bytes| bytes == b"hunter2"));
}

#[test]
fn stopping_the_server_stops_no_transfer() {
    let mut dev = Dev::start(&[]);
    dev.accepted(&script("a", "exec sleep 600"));
    dev.wait("a", &["executing"]);
    let transfer = dev.transfer_pid("a", 1);
    assert_eq!(dev.stop(), Some(0));
    assert!(is_alive(transfer));
    dev.restart_after_stop();
    dev.wait("a", &["executing"]);
    assert!(is_alive(transfer));
}

#[test]
fn following_a_job_ends_with_its_end() {
    let dev = Dev::start(&[]);
    let file = dev.home.path().join("job.json");
    for (id, code, exit) in [("good", 0, 0), ("bad", 3, 5)] {
        std::fs::write(
            &file,
            script(id, &format!("echo '{{done:  1 / 2, running: 1}}'; sleep 0.3; exit {code}")).to_string(),
        )
        .unwrap();
        let output = dev.run(&["submit", "--follow", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(exit), "{}", stderr(&output));
        for part in ["queued", "setting_up", "executing", "reading", "memory", "1 of 2 tasks"] {
            assert!(stderr(&output).contains(part), "{part}: {}", stderr(&output));
        }
    }
}

#[test]
fn serve_runs_from_a_file_with_a_listener_for_workers_of_its_own() {
    let home = env::scratch();
    let config = home.path().join("sendo.toml");
    let state = home.path().join("state");
    let text = format!(
        "listen = \"127.0.0.1:0\"\nworker_listen = \"127.0.0.1:0\"\nstate_dir = {state:?}\nheartbeat = \"200ms\"\n[[cluster]]\nsupervisor = {:?}\n",
        env::supervisor()
    );
    std::fs::write(&config, text).unwrap();
    let log = home.path().join("log");
    let mut serve = env::sendo()
        .args(["serve", "--config"])
        .arg(&config)
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let address = wait_for("sendo serve to say its address", || {
        let text = std::fs::read_to_string(&log).unwrap();
        Some(text.split_once("address=")?.1.split_whitespace().next()?.to_owned())
    });
    let file = home.path().join("job.json");
    std::fs::write(&file, script("a", "true").to_string()).unwrap();
    let url = format!("http://{address}");
    let output = env::sendo().args(["submit", "--follow", "--server", &url]).arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    // Attempt tokens only, and only on their own address.
    let client = reqwest_get(&format!("{url}/v1/records"));
    assert_eq!(client, 404);
    kill(i32::try_from(serve.id()).unwrap(), Signal::SIGTERM);
    assert_eq!(serve.wait().unwrap().code(), Some(0));
}

/// The status of a GET.
fn reqwest_get(url: &str) -> u16 {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        reqwest::Client::builder().tls_certs_only([]).build().unwrap().get(url).send().await.unwrap().status().as_u16()
    })
}
