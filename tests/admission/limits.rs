//! Turns, limits, pauses, caps, and retries that grow.

use super::{UNTIL_GO, go, job, launched, lines, serve, submit_all, waits_for};
use crate::env::{stderr, stdout, wait_for};
use serde_json::{Value, json};

#[test]
fn a_flood_of_one_tenant_delays_anothers_job_by_one_slot_at_the_most() {
    let dev = serve("max_running = 2");
    let flood: Vec<Value> = (0..300).map(|number| job(&format!("a-{number:03}"), "a", UNTIL_GO)).collect();
    submit_all(&dev, &flood);
    for id in ["a-000", "a-001"] {
        dev.wait(id, &["executing"]);
    }
    submit_all(&dev, &[job("a-last", "a", UNTIL_GO), job("b", "b", UNTIL_GO)]);
    waits_for(&dev, "b", "as many run as may");
    go(&dev, "a-001");
    dev.wait("b", &["executing"]);
    assert_eq!(launched(&dev), ["a-000", "a-001", "b"], "298 others were there before it");
    // And the flood goes on in its own order, in the slot that is left to it.
    go(&dev, "a-000");
    dev.wait("a-002", &["executing"]);
    assert_eq!(launched(&dev)[3..], ["a-002"]);
}

#[test]
fn what_is_paused_waits_and_says_so_and_goes_on_when_it_may() {
    let dev = serve("max_running = 8");
    let paused = dev.run(&["pause", "tenant", "a", "--reason", "their database moves"]);
    assert!(paused.status.success(), "{}", stderr(&paused));
    assert!(stdout(&paused).contains("their database moves"), "{}", stdout(&paused));
    assert!(dev.run(&["pause", "definition", "b/orders"]).status.success());
    let of = |id: &str, tenant: &str, definition: &str| json!({"version": 1, "id": id, "tenant": tenant, "definition": definition, "command": ["true"]});
    submit_all(
        &dev,
        &[of("a1", "a", "x"), of("b1", "b", "orders"), of("b2", "b", "customers"), of("c1", "c", "orders")],
    );
    // Nobody else is held up: of the same tenant, of the same name.
    for id in ["b2", "c1"] {
        dev.wait(id, &["succeeded"]);
    }
    waits_for(&dev, "a1", "tenant a is paused: their database moves");
    waits_for(&dev, "b1", "definition b/orders is paused");
    let listed = stdout(&dev.run(&["jobs", "--phase", "queued"]));
    assert!(listed.contains("waits: tenant a is paused"), "{listed}");
    assert!(dev.run(&["resume", "tenant", "a"]).status.success());
    dev.wait("a1", &["succeeded"]);
    assert_eq!(dev.phases("b1"), ["queued"]);
    assert!(dev.run(&["resume", "definition", "b/orders"]).status.success());
    dev.wait("b1", &["succeeded"]);
    let again = dev.run(&["resume", "tenant", "a"]);
    assert!(!again.status.success() && stderr(&again).contains("not paused"), "{}", stderr(&again));
}

#[test]
fn everything_is_paused_and_so_are_those_without_a_tenant() {
    let dev = serve("max_running = 8");
    let of = |id: &str, tenant: Option<&str>| json!({"version": 1, "id": id, "tenant": tenant, "command": ["true"]});
    assert!(dev.run(&["pause", "all", "--reason", "the warehouse moves"]).status.success());
    submit_all(&dev, &[of("acmes", Some("acme")), of("nobodys", None)]);
    waits_for(&dev, "acmes", "everything is paused: the warehouse moves");
    waits_for(&dev, "nobodys", "everything is paused: the warehouse moves");
    assert!(dev.run(&["pause", "tenant", ""]).status.success());
    assert!(dev.run(&["resume", "all"]).status.success());
    dev.wait("acmes", &["succeeded"]);
    waits_for(&dev, "nobodys", "jobs without a tenant are paused");
    assert!(dev.run(&["resume", "tenant", ""]).status.success());
    dev.wait("nobodys", &["succeeded"]);
    for (wrong, words) in [
        (["pause", "all", "acme"].as_slice(), "`all` has no name"),
        (&["pause", "tenant"], "<NAME>"),
        (&["resume", "all"], "no pause of all"),
    ] {
        let refused = dev.run(wrong);
        assert!(!refused.status.success() && stderr(&refused).contains(words), "{wrong:?}: {}", stderr(&refused));
    }
}

#[test]
fn a_job_of_a_newer_release_stands_in_nobodys_way() {
    let mut dev = serve("max_running = 1");
    assert!(dev.run(&["pause", "all"]).status.success());
    let of = |id: &str, priority: i32| json!({"version": 1, "id": id, "tenant": "t", "priority": priority, "command": ["true"]});
    submit_all(&dev, &[of("newer", 9), of("beside", 9), of("below", 0)]);
    let spec = dev.sql("SELECT spec FROM jobs WHERE id = 'newer'")[0]["spec"].as_str().unwrap().to_owned();
    dev.kill();
    dev.sql("UPDATE jobs SET spec = json_insert(spec, '$.later', 1) WHERE id = 'newer'");
    dev.restart_after_stop();
    assert!(dev.run(&["resume", "all"]).status.success());
    dev.wait("beside", &["succeeded"]);
    dev.wait("below", &["succeeded"]);
    assert!(dev.sql("SELECT 1 AS one FROM attempts WHERE job_id = 'newer'").is_empty());
    // The release that can read it is back.
    dev.kill();
    dev.sql(&format!("UPDATE jobs SET spec = '{spec}', not_before_ms = 0 WHERE id = 'newer'"));
    dev.restart_after_stop();
    dev.wait("newer", &["succeeded"]);
}

#[test]
fn what_asks_for_more_than_an_attempt_gets_is_rejected_with_words() {
    let dev = serve("[limits]\nmax_memory = \"2Gi\"\nmax_cpu = \"2\"\nimages = [\"registry.example/etl/*\"]");
    let with =
        |id: &str, resources: Value| json!({"version": 1, "id": id, "command": ["true"], "resources": resources});
    submit_all(&dev, &[with("fits", json!({"memory": "2Gi", "cpu": "2"})), with("large", json!({"memory": "3Gi"}))]);
    submit_all(&dev, &[with("later", json!({"memory": "1Gi", "memory_max": "9Gi"}))]);
    let image = json!({"version": 1, "id": "image", "command": ["true"], "image": "registry.example/other:1"});
    submit_all(&dev, &[image]);
    dev.wait("fits", &["succeeded"]);
    for (id, code, words) in [
        ("large", "over_limit", ["3Gi", "2Gi"]),
        ("later", "over_limit", ["memory_max", "9Gi"]),
        ("image", "image_not_allowed", ["registry.example/other:1", "list"]),
    ] {
        let verdict = dev.wait(id, &["rejected"])["verdict"].clone();
        assert_eq!(verdict["code"], json!(code));
        let summary = verdict["summary"].as_str().unwrap();
        assert!(words.iter().all(|word| summary.contains(word)), "{summary}");
    }
    assert_eq!(launched(&dev), ["fits"], "nothing was made for the others");
}

#[test]
fn a_tenants_and_a_definitions_limit_hold_up_nobody_else() {
    let dev = serve("max_running = 8\n[limits]\nper_tenant = 2\n[limits.definition.d]\nmax_running = 1");
    let of = |id: &str, tenant: &str, definition: &str| {
        let mut job = job(id, tenant, UNTIL_GO);
        job["definition"] = json!(definition);
        job
    };
    submit_all(
        &dev,
        &[of("a1", "a", "d"), of("a2", "a", "d"), of("a3", "a", "e"), of("a4", "a", "f"), of("b1", "b", "d")],
    );
    for id in ["a1", "a3", "b1"] {
        dev.wait(id, &["executing"]);
    }
    waits_for(&dev, "a2", "definition d has reached its limit");
    waits_for(&dev, "a4", "tenant a has reached its limit");
    go(&dev, "a3");
    dev.wait("a4", &["executing"]);
    assert_eq!(dev.phases("a2"), ["queued"]);
    go(&dev, "a1");
    dev.wait("a2", &["executing"]);
}

#[test]
fn an_incremental_definition_runs_in_order_one_job_at_a_time() {
    let dev = serve("max_running = 8");
    // It leaves the cursor that Embulk would leave: its last argument says where.
    let script = format!("{UNTIL_GO}; echo 'in: {{last: 1}}' > \"$2\"");
    let of = |id: &str| {
        let embulk = json!({"config": {"in": {}, "out": {}}, "incremental": true});
        json!({"version": 1, "id": id, "tenant": "t", "definition": "d", "command": ["sh", "-c", script], "embulk": embulk})
    };
    submit_all(&dev, &[of("1"), of("2"), of("3"), job("other", "t", "true")]);
    dev.wait("other", &["succeeded"]);
    for (id, next) in [("1", "2"), ("2", "3")] {
        dev.wait(id, &["executing"]);
        assert_eq!(dev.phases(next), ["queued"]);
        go(&dev, id);
        dev.wait(id, &["succeeded"]);
    }
    dev.wait("3", &["executing"]);
    go(&dev, "3");
    dev.wait("3", &["succeeded"]);
    assert_eq!(dev.sql("SELECT generation FROM cursors"), [json!({"generation": 3})]);
}

#[test]
fn a_transfer_that_runs_out_of_memory_gets_more_until_its_own_cap() {
    let dev = serve("");
    let sizes = dev.home.path().join("sizes");
    // As a JVM ends whose heap is too small: its line, and the code of -XX:+ExitOnOutOfMemoryError.
    let script = format!(
        "echo $EMBULK_MEMORY_LIMIT >> {}; [ $EMBULK_MEMORY_LIMIT -ge 200000000 ] && exit 0; \
         echo 'java.lang.OutOfMemoryError: Java heap space' >&2; exit 3",
        sizes.display()
    );
    let with = |id: &str, resources: Value| {
        let retry = json!({"idempotent": true, "backoff": "10ms"});
        json!({"version": 1, "id": id, "command": ["sh", "-c", script], "resources": resources, "retry": retry})
    };
    submit_all(&dev, &[with("grows", json!({"memory": "64Mi", "memory_max": "200Mi"}))]);
    wait_for("the attempt with enough", || (dev.json(&["show", "grows"])["phase"] == "succeeded").then_some(()));
    let expected = [64_u64 << 20, 128 << 20, 200 << 20].map(|bytes| bytes.to_string());
    assert_eq!(lines(&sizes), expected);
    let rows = dev.sql("SELECT memory_bytes, outcome FROM attempts ORDER BY attempt");
    let row = |bytes: &str, outcome| json!({"memory_bytes": bytes.parse::<u64>().unwrap(), "outcome": outcome});
    let [first, second, third] = expected.each_ref().map(String::as_str);
    assert_eq!(rows, [row(first, "out_of_memory"), row(second, "out_of_memory"), row(third, "succeeded")]);
    assert_eq!(
        dev.sql("SELECT own_retries, infrastructure_retries FROM jobs")[0],
        json!({"own_retries": 0, "infrastructure_retries": 0})
    );
    let shown = stdout(&dev.run(&["show", "grows"]));
    assert!(shown.contains("128.00 MiB") && shown.contains("next attempt with 200Mi of memory"), "{shown}");
    // Without a cap of its own a job gets what it asked for, once.
    submit_all(&dev, &[with("fixed", json!({"memory": "64Mi"}))]);
    let failed = dev.wait("fixed", &["failed"]);
    assert_eq!((&failed["attempt"], &failed["outcome"]), (&json!(1), &json!("out_of_memory")));
}
