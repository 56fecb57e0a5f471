//! What people get wrong, and what breaks under them: one clear error that names the thing and the mend, and nothing lost.

use crate::env::{
    self,
    dev::{Dev, script},
    sendo, stderr, stdout, supervisor,
};
use serde_json::{Value, json};
use std::{
    path::Path,
    process::{Command, Output},
};

#[track_caller]
fn says(output: &Output, code: i32, parts: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    assert!(!text.contains("panicked") && !text.contains("RUST_BACKTRACE"), "{text}");
}

/// `sendo dev` that is to fail at its start.
fn dev_in(dir: &Path, more: &[&str]) -> Output {
    let mut command = sendo();
    command.arg("dev").arg("--dir").arg(dir).arg("--supervisor").arg(supervisor()).args(more).output().unwrap()
}

#[test]
fn a_job_that_is_wrong_is_refused_by_field_and_kept_as_a_refusal() {
    let dev = Dev::start(&[]);
    let submit = |body: &str| {
        let file = dev.home.path().join("job.json");
        std::fs::write(&file, body).unwrap();
        dev.run(&["submit", file.to_str().unwrap()])
    };
    says(&submit("{\"version\": 1"), 1, &["is not JSON", "line 1"]);
    says(
        &submit(r#"{"version": 1, "id": "a", "command": ["true"], "priorty": 1}"#),
        1,
        &["priorty", "did you mean `priority`?"],
    );
    says(&submit(r#"{"version": 1, "id": "a"}"#), 1, &["nothing to run", "`command`"]);
    let config = json!({"in": {"type": "file"}, "out": {"type": "postgresql", "password": "hunter2"}});
    let literal = submit(&json!({"version": 1, "id": "a", "embulk": {"config": config}}).to_string());
    says(&literal, 1, &["embulk.config.out.password", "${secret:NAME}"]);
    assert!(!stderr(&literal).contains("hunter2"));
    assert_eq!(dev.json(&["jobs"])["jobs"], json!([]));
    assert_eq!(dev.sql("SELECT COUNT(*) AS n FROM refusals")[0]["n"], 4);
    assert!(!format!("{:?}", dev.sql("SELECT * FROM refusals")).contains("hunter2"));
}

#[test]
fn verbs_say_what_is_wrong() {
    let dev = Dev::start(&[]);
    for verb in ["show", "heartbeats", "logs", "cancel", "retry"] {
        says(&dev.run(&[verb, "nobody"]), 1, &["no job `nobody`"]);
    }
    says(&dev.run(&["jobs", "--phase", "done"]), 1, &["`done`", "succeeded"]);
    says(&dev.run(&["submit", "no-such-file"]), 1, &["no-such-file", "No such file"]);
    says(&dev.run(&["sumbit"]), 2, &["sumbit", "submit"]);
    let nobody = sendo().args(["jobs", "--server", "http://127.0.0.1:9"]).output().unwrap();
    says(&nobody, 1, &["127.0.0.1:9", "is it running?"]);
    let empty = env::scratch();
    says(&sendo().arg("jobs").current_dir(empty.path()).output().unwrap(), 1, &["sendo dev", "--server"]);
}

#[test]
fn a_command_that_does_not_exist_is_not_started_and_not_tried_again() {
    let dev = Dev::start(&[]);
    dev.accepted(
        &json!({"version": 1, "id": "a", "command": ["no-such-program"], "retry": {"limit": 3, "idempotent": true}}),
    );
    let job = dev.wait("a", &["failed"]);
    assert_eq!((&job["outcome"], job["attempts"].as_array().unwrap().len()), (&json!("not_started"), 1));
    let summary = job["verdict"]["summary"].as_str().unwrap();
    assert!(summary.contains("no-such-program") && summary.contains("No such file"), "{summary}");
}

#[test]
fn a_secret_that_is_not_there_rejects_the_job_and_a_retry_takes_it() {
    let dev = Dev::start(&[]);
    let secret = dev.home.path().join("secret");
    let mut job = script("a", "true");
    job["secrets"] = json!({"dwh": {"file": secret}});
    dev.accepted(&job);
    let rejected = dev.wait("a", &["rejected"]);
    let summary = rejected["verdict"]["summary"].as_str().unwrap();
    assert!(summary.contains("`dwh`") && summary.contains("secret"), "{summary}");
    std::fs::write(secret, "x").unwrap();
    assert_eq!(dev.run(&["retry", "a"]).status.code(), Some(0));
    env::wait_for("the retry to succeed", || (dev.json(&["show", "a"])["phase"] == "succeeded").then_some(()));
}

#[test]
fn a_secret_that_is_no_file_rejects_the_job_and_stops_nobody_else() {
    let dev = Dev::start(&[]);
    let pipe = dev.home.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut job = script("a", "true");
    job["secrets"] = json!({"dwh": {"file": pipe}});
    dev.accepted(&job);
    let rejected = dev.wait("a", &["rejected"]);
    assert!(rejected["verdict"]["summary"].as_str().unwrap().contains("no ordinary file"));
    dev.accepted(&script("b", "true"));
    dev.wait("b", &["succeeded"]);
}

#[test]
fn an_image_on_a_cluster_without_images_is_rejected() {
    let dev = Dev::start(&[]);
    dev.accepted(&json!({"version": 1, "id": "a", "image": "example/worker:1"}));
    let rejected = dev.wait("a", &["rejected"]);
    assert!(rejected["verdict"]["summary"].as_str().unwrap().contains("`image`"));
}

#[test]
fn two_programs_on_one_ledger_from_two_folders_are_one_too_many() {
    let dev = Dev::start(&[]);
    let home = env::scratch();
    let config = home.path().join("sendo.toml");
    let ledger = dev.state_dir().canonicalize().unwrap().join("ledger.db");
    let text = format!(
        "listen = \"127.0.0.1:0\"\nstate_dir = {:?}\ndatabase_url = \"sqlite://{}\"\n[[cluster]]\nsupervisor = {:?}\n",
        home.path().join("state"),
        ledger.display(),
        supervisor()
    );
    std::fs::write(&config, text).unwrap();
    says(
        &sendo().args(["serve", "--config"]).arg(&config).output().unwrap(),
        1,
        &["another sendo (pid ", "ledger.db.lock"],
    );
}

#[test]
fn the_api_answers_in_one_shape_and_not_to_pages_from_elsewhere() {
    let dev = Dev::start(&[]);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = reqwest::Client::builder().tls_certs_only([]).build().unwrap();
    let ask = |method: &str, path: &str, headers: &[(&str, &str)], body: &str| {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = client.request(method, format!("{}{path}", dev.url)).body(body.to_owned());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        runtime.block_on(async {
            let answer = request.send().await.unwrap();
            let kind = answer.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
            let status = answer.status().as_u16();
            (status, kind.unwrap_or_default(), answer.text().await.unwrap())
        })
    };
    let json = ("content-type", "application/json");
    let job = script("a", "true").to_string();
    for (status, answer) in [
        (404, ask("GET", "/v1/nothing", &[], "")),
        (404, ask("GET", "/v1/jobs/nobody/heartbeats?attempt=1", &[], "")),
        (405, ask("DELETE", "/v1/jobs", &[], "")),
        (400, ask("GET", "/v1/jobs?limit=many", &[], "")),
        (415, ask("POST", "/v1/jobs", &[("content-type", "text/plain")], &job)),
        (422, ask("POST", "/v1/jobs/nobody/cancel", &[json], "{\"resaon\": 1}")),
        (401, ask("POST", "/v1/records", &[json], "{\"job\":\"a\",\"attempt\":1,\"source\":\"x\",\"records\":[]}")),
        (403, ask("POST", "/v1/jobs", &[json, ("host", "evil.example:8920")], &job)),
        (403, ask("POST", "/v1/jobs", &[json, ("origin", "http://evil.example")], &job)),
    ] {
        assert_eq!((answer.0, answer.1.as_str()), (status, "application/problem+json"), "{}", answer.2);
        let problem: Value = serde_json::from_str(&answer.2).unwrap();
        assert!(problem["detail"].as_str().unwrap().len() > 10, "{problem}");
    }
    assert_eq!(dev.sql("SELECT COUNT(*) AS n FROM jobs")[0]["n"], 0);
    assert_eq!(
        ask("POST", "/v1/jobs", &[json, ("origin", &dev.url)], &job).0,
        201,
        "the control: a page of our own may"
    );
}

#[test]
fn a_second_sendo_dev_on_one_ledger_says_so_and_exits() {
    let dev = Dev::start(&[]);
    says(&dev_in(&dev.state_dir(), &[]), 1, &["another sendo (pid ", ".sendo", "stop it"]);
    dev.accepted(&script("a", "true"));
    dev.wait("a", &["succeeded"]);
}

#[test]
fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let home = env::scratch();
    says(&dev_in(home.path(), &["--listen", &address]), 1, &[&address, "in use", "--listen"]);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let home = env::scratch();
    let file = home.path().join("file");
    std::fs::write(&file, "").unwrap();
    says(&dev_in(&file.join("below"), &[]), 1, &["below", "choose a folder"]);
    says(&dev_in(Path::new("/proc/sendo"), &[]), 1, &["/proc/sendo", "choose a folder"]);
}

#[test]
fn flags_that_make_no_sense_are_told_before_anything_starts() {
    let home = env::scratch();
    says(&dev_in(home.path(), &["--heartbeat", "5"]), 2, &["--heartbeat", "30s"]);
    says(&dev_in(home.path(), &["--lease", "10ms"]), 1, &["lease", "at least 1s"]);
    says(&dev_in(home.path(), &["--max-running", "0"]), 1, &["max_running", "at least 1"]);
    says(&dev_in(home.path(), &["--listen", "0.0.0.0:0"]), 1, &["0.0.0.0", "loopback"]);
    let mut command = sendo();
    let output = command.args(["dev", "--supervisor", "/no/such"]).arg("--dir").arg(home.path()).output().unwrap();
    says(&output, 1, &["/no/such", "make build"]);
    let config = home.path().join("sendo.toml");
    std::fs::write(&config, "max_runing = 3\n").unwrap();
    says(
        &sendo().args(["serve", "--config"]).arg(&config).output().unwrap(),
        1,
        &["sendo.toml", "did you mean `max_running`?"],
    );
}

/// `sendo serve` with these settings, which are to be refused.
fn serve_with(home: &Path, settings: &str) -> Output {
    let config = home.join("sendo.toml");
    std::fs::write(&config, settings).unwrap();
    sendo().args(["serve", "--config"]).arg(&config).env("HOME", home).output().unwrap()
}

#[test]
fn settings_that_are_wrong_are_told_by_file_and_key_with_the_mend() {
    let home = env::scratch();
    let queue = |keys: &str| format!("[[queue]]\nurl = \"https://sqs.eu-west-1.amazonaws.com/1/jobs\"\n{keys}");
    let kubernetes = |keys: &str| format!("[[cluster]]\nkind = \"kubernetes\"\n{keys}");
    let whole = "namespace = \"n\"\nimage = \"r/w\"\n";
    for (settings, parts) in [
        ("heartbeat = 10".into(), ["`heartbeat`", "30s"]),
        ("linger = \"10 moons\"".into(), ["`linger`", "moons"]),
        ("listen = \"localhost:8920\"".into(), ["`listen`", "127.0.0.1:8920"]),
        ("listen = \"0.0.0.0:8920\"".into(), ["listen", "proxy in front"]),
        ("max_running = \"many\"".into(), ["`max_running`", "many"]),
        ("max_running = 0".into(), ["max_running", "at least 1"]),
        ("database_url = \"oracle://x\"".into(), ["database_url", "postgres:"]),
        ("[limits]\nper_tenent = 1".into(), ["per_tenent", "did you mean `per_tenant`?"]),
        ("[limits]\nper_tenant = 0".into(), ["limits.per_tenant", "leave it out"]),
        ("[limits]\nmax_memory = \"16 gigs\"".into(), ["`limits.max_memory`", "8Gi"]),
        (
            "[limits.tenant.acme]\nmax_running = 0".into(),
            ["limits.tenant.\"acme\".max_running", "sendo pause tenant acme"],
        ),
        (
            "[limits.definition.\"acme/x\"]\nmax_running = 0".into(),
            ["limits.definition.\"acme/x\".max_running", "sendo pause definition acme/x"],
        ),
        ("[retention]\nheartbeats = \"100days\"".into(), ["retention", "rolled_up"]),
        ("[[queue]]\npollers = 4".into(), ["queue[0].url", "is missing"]),
        ("[[queue]]\nurl = \"jobs\"".into(), ["`jobs`", "looks like https://sqs."]),
        (queue("reject = \"drop\""), ["`queue[0].reject`", "neither redrive nor delete"]),
        ("[queue]\nurl = \"jobs\"".into(), ["[[queue]]", "double brackets"]),
        ("[[cluster]]\nkind = \"nomad\"".into(), ["cluster.kind", "nomad"]),
        ("[[cluster]]\ntool = \"x\"".into(), ["cluster", "did you mean `tools`?"]),
        ("[[cluster]]\nname = \"a\"\n[[cluster]]\nname = \"b\"".into(), ["exactly one [[cluster]]", "2"]),
        (kubernetes("namspace = \"n\""), ["namspace", "did you mean `namespace`?"]),
        (kubernetes("image = \"r/w\""), ["`namespace`", "where the Pods go"]),
        (kubernetes("namespace = \"n\"\nimage = \"r/w:1\""), ["`image`", "`default_tag`"]),
        (kubernetes(&format!("{whole}ledger_url = \"http://\"")), ["`ledger_url`", "https://sendo.example:8921/"]),
        (kubernetes("max_grace = \"6 moons\""), ["cluster.max_grace", "moons"]),
        (kubernetes("max_cpu = 4"), ["cluster.max_cpu", "expected CPU in quotes: \"500m\""]),
        (kubernetes("schedule_within = 3600"), ["cluster.schedule_within", "a duration in quotes: \"30s\""]),
        (
            kubernetes(&format!("{whole}ledger_url = \"http://l:1/\"\nmax_memory = \"16\"")),
            ["`max_memory`", "16 bytes"],
        ),
        ("[limits]\nmax_memory = 16".into(), ["limits.max_memory", "16 bytes"]),
        ("[limits]\nper_tenent = 3".into(), ["`per_tenent` for key `limits`", "did you mean `per_tenant`?"]),
        ("[[cluster]]\nimage = \"r/w\"".into(), ["unknown field `image`", "kind = \"kubernetes\""]),
        ("database_url = \"postgres://u:p#w@h/db\"".into(), ["database_url", "%23"]),
        ("database_url = \"sqlite:/no/such/folder/x.db\"".into(), ["database_url", "/no/such/folder"]),
    ] {
        says(&serve_with(home.path(), &settings), 1, &["sendo.toml", parts[0], parts[1]]);
    }
    let mut command = sendo();
    command.args(["serve", "--config"]).arg(home.path().join("sendo.toml"));
    std::fs::write(home.path().join("sendo.toml"), "").unwrap();
    let misspelt =
        sendo().args(["serve", "--config"]).arg(home.path().join("sendo.toml")).env("SENDO_DATABSE_URL", "x").output();
    says(&misspelt.unwrap(), 1, &["SENDO_DATABSE_URL", "did you mean SENDO_DATABASE_URL?"]);
    says(&command.env("SENDO_LEASE", "5").output().unwrap(), 1, &["`lease`", "the variable SENDO_LEASE", "30s"]);
}

#[test]
fn files_that_the_settings_name_are_told_by_key_and_path() {
    let home = env::scratch();
    let in_home = |name: &str, text: &str| {
        let file = home.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let state_dir = format!("listen = \"127.0.0.1:0\"\nstate_dir = {:?}\n", home.path().join("state"));
    let kubernetes = |keys: String| {
        let whole =
            "[[cluster]]\nkind = \"kubernetes\"\nnamespace = \"n\"\nimage = \"r/w\"\nledger_url = \"http://l:1/\"\n";
        format!("{state_dir}{whole}{keys}\n")
    };
    let no_ca = "apiVersion: v1\nkind: Config\nclusters: [{name: a, cluster: {server: 'https://127.0.0.1:9', certificate-authority: /no/such/ca.crt}}]\n\
                 users: [{name: a, user: {token: x}}]\ncontexts: [{name: a, context: {cluster: a, user: a}}]\ncurrent-context: a\n";
    let no_ca = in_home("no-ca", no_ca);
    let ours = in_home("pod.yaml", "hostPID: true");
    let short = in_home("short", "x");
    for (settings, parts) in [
        (kubernetes("kubeconfig = \"/no/such\"".into()), ["`kubeconfig` /no/such", "No such file"]),
        (kubernetes(format!("kubeconfig = {no_ca:?}")), ["`kubeconfig`", "/no/such/ca.crt"]),
        (kubernetes(format!("kubeconfig = {no_ca:?}\ncontext = \"b\"")), ["`kubeconfig`", "context: b"]),
        (kubernetes("template = \"/no/such.yaml\"".into()), ["template /no/such.yaml", "No such file"]),
        (kubernetes(format!("template = {ours:?}")), ["pod.yaml", "`spec.hostPID` is Sendo's own"]),
        (format!("{state_dir}key_file = \"/no/such\""), ["key_file: read /no/such", "No such file"]),
        (format!("{state_dir}key_file = {short:?}"), ["key_file", "32 bytes"]),
        (format!("{state_dir}[[cluster]]\nsupervisor = \"/no/such\""), ["/no/such", "`supervisor` of [[cluster]]"]),
        (format!("{state_dir}worker_listen = \"192.0.2.1:8921\""), ["192.0.2.1:8921", "`worker_listen`"]),
    ] {
        let refused = serve_with(home.path(), &settings);
        says(&refused, 1, &parts);
        assert!(stderr(&refused).matches("No such file").count() < 2, "said once: {}", stderr(&refused));
    }
    says(&sendo().args(["serve", "--config", "/no/such.toml"]).output().unwrap(), 1, &["/no/such.toml", "not found"]);
}

#[test]
fn a_ledger_of_a_newer_release_is_left_alone() {
    let mut dev = Dev::start(&[]);
    dev.accepted(&script("a", "true"));
    dev.wait("a", &["succeeded"]);
    dev.stop();
    let ledger = dev.state_dir().join("ledger.db");
    dev.sql("UPDATE ledger_format SET oldest_reader = 99");
    let before = std::fs::read(&ledger).unwrap();
    says(&dev_in(&dev.state_dir(), &[]), 1, &["newer release", "99", "another ledger"]);
    assert!(std::fs::read(&ledger).unwrap() == before, "not a byte of it was changed");
    dev.sql("UPDATE ledger_format SET oldest_reader = 1");
    dev.sql("CREATE TABLE kept AS SELECT checksum FROM _sqlx_migrations WHERE version = 7");
    dev.sql("UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 7");
    says(&dev_in(&dev.state_dir(), &[]), 1, &["another build", "step 7", "another ledger"]);
    dev.sql("UPDATE _sqlx_migrations SET checksum = (SELECT checksum FROM kept) WHERE version = 7");
    // A newer release that this one can live with: steps that it does not know, and the same oldest reader.
    dev.sql("UPDATE ledger_format SET oldest_reader = 1");
    let later = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'later', 1, x'00', 0)";
    dev.sql(later);
    dev.restart_after_stop();
    assert_eq!(dev.json(&["show", "a"])["phase"], json!("succeeded"));
}

#[test]
fn a_ledger_that_is_no_database_is_named() {
    let home = env::scratch();
    std::fs::write(home.path().join("ledger.db"), "this is a letter, not a database. ".repeat(100)).unwrap();
    says(&dev_in(home.path(), &["--listen", "127.0.0.1:0"]), 1, &["ledger.db", "not a database"]);
}

/// Runs in a mount namespace of its own, which ends with the script and takes its small disk along.
#[test]
fn a_full_disk_is_named_and_loses_nothing() {
    let home = env::scratch();
    let script = r#"
        set -eu
        mount -t tmpfs -o size=6m tmpfs "$1"
        cd "$1"
        "$2" dev --dir s --listen 127.0.0.1:0 --supervisor "$3" --heartbeat 10s 2>log & server=$!
        until SENDO_SERVER=$(cat s/address 2>/dev/null) && export SENDO_SERVER && "$2" jobs >/dev/null 2>&1; do kill -0 $server; done
        submit() { printf '{"version":1,"id":"%s","command":["true"],"labels":{"pad":"%032768d"},"not_before":"2100-01-01T00:00:00Z"}' "$1" 0 | "$2" submit -; }
        submit kept "$2"
        dd if=/dev/zero of=fill bs=4k 2>/dev/null || true
        n=0
        while error=$(submit "full$n" "$2" 2>&1); do n=$((n+1)); [ $n -lt 1000 ]; done
        echo "$error" >&2
        kill -0 $server
        "$2" show kept >/dev/null
        rm fill
        submit after "$2"
        "$2" jobs --json
        kill $server; wait $server
    "#;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(home.path())
        .arg(env!("CARGO_BIN_EXE_sendo"))
        .arg(supervisor());
    let output = command.output().unwrap();
    says(&output, 0, &["disk is full", "Make room"]);
    let jobs = stdout(&output);
    let jobs: Value = serde_json::from_str(&jobs[jobs.find('{').unwrap()..]).unwrap();
    let ids: Vec<_> = jobs["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect();
    assert!(ids.contains(&"kept") && ids.contains(&"after"), "{ids:?}");
}
