use super::*;

fn faults(body: &str) -> Vec<(String, String)> {
    let refusal = check(body.as_bytes()).unwrap_err();
    refusal.faults.into_iter().map(|fault| (fault.field, fault.why)).collect()
}

/// The body of a job that is all right, with `more` behind it.
fn body(more: &str) -> String {
    format!(r#"{{"version": 1, "id": "a", "command": ["true"]{more}}}"#)
}

#[track_caller]
fn refused(body: &str, field: &str, why: &str) {
    let faults = faults(body);
    assert!(faults.iter().any(|(at, said)| at == field && said.contains(why)), "{field}: {why} is not in {faults:?}");
}

#[test]
fn the_example_of_the_design_is_a_job() {
    let checked = check(include_bytes!("../../../docs/job.example.json")).unwrap();
    assert_eq!(checked.job.id, "acme.orders-to-dwh.2026-11-23T10:00");
    assert_eq!(checked.not_before_ms, 1_795_428_000_000);
    assert!(checked.job.is_incremental());
}

#[test]
fn each_fault_names_its_field_and_the_mend() {
    refused("{", ".", "is not JSON");
    refused("[]", ".", "JSON object");
    refused(r#"{"version": 2, "id": "a", "command": ["x"]}"#, "version", "send 1");
    refused(r#"{"id": "a", "command": ["x"]}"#, ".", "missing field `version`");
    refused(r#"{"version": 1, "id": "a"}"#, ".", "nothing to run");
    refused(r#"{"version": 1, "id": "a b", "command": ["x"]}"#, "id", "A-Z");
    refused(&body(r#", "tennant": "x""#), "tennant", "did you mean `tenant`?");
    refused(&body(r#", "retry": {"limits": 1}"#), "retry.limits", "did you mean `limit`?");
    refused(&body(r#", "resources": {"memory": "1 Gi"}"#), "resources.memory", "512Mi");
    refused(&body(r#", "resources": {"memory": "2Gi", "memory_max": "1Gi"}"#), "resources.memory_max", "below");
    refused(&body(r#", "resources": {"memory_max": "1Gi"}"#), "resources.memory_max", "needs resources.memory");
    refused(&body(r#", "deadline": "5""#), "deadline", "5h");
    refused(&body(r#", "deadline": "10000000000000000000s""#), "deadline", "longer than a year");
    refused(&body(r#", "not_before": "tomorrow""#), "not_before", "2026-11-23T10:00:00Z");
    refused(&body(r#", "fencing": "strickt""#), "fencing", "strict");
    refused(&body(r#", "env": {"SENDO_JOB": "x"}"#), "env.SENDO_JOB", "Sendo's own");
    refused(&body(r#", "labels": {"a": "b\u0000"}"#), "labels.a", "U+0000");
    refused(r#"{"version": 1, "id": "a", "command": []}"#, "command", "is empty");
    refused(&body(r#", "embulk": {"config": {"in": {}, "out": {}}, "incremental": true}"#), "definition", "cursor");
    refused(&body(r#", "embulk": {"config": {"in": {}}}"#), "embulk.config.out", "must be an object");
}

#[test]
fn all_faults_are_told_at_once() {
    assert_eq!(faults(r#"{"version": 1, "id": "", "tenant": "ü"}"#).len(), 3);
}

#[test]
fn a_secret_in_plain_text_is_refused_with_advice_and_not_repeated() {
    let config = |out: &str| body(&format!(r#", "embulk": {{"config": {{"in": {{}}, "out": {{{out}}}}}}}"#));
    for (out, field) in [
        (r#""password": "hunter2""#, "embulk.config.out.password"),
        (r#""aws_secret_access_key": "x""#, "embulk.config.out.aws_secret_access_key"),
        (r#""url": "jdbc:postgresql://bob:hunter2@db/x""#, "embulk.config.out.url"),
        (r#""key": "AKIAABCDEFGHIJKLMNOP""#, "embulk.config.out.key"),
        (r#""list": [{"api-key": "hunter2"}]"#, "embulk.config.out.list[0].api-key"),
        (r#""password": 12345"#, "embulk.config.out.password"),
        (r#""password": "hunter2${secret:dwh}""#, "embulk.config.out.password"),
        (r#""url": "jdbc:mysql://db/x?user=u&password=hunter2""#, "embulk.config.out.url"),
    ] {
        refused(&config(out), field, "${secret:NAME}");
        assert!(!format!("{:?}", faults(&config(out))).contains("hunter2"));
    }
    refused(&body(r#", "env": {"DB_PASSWORD": "hunter2"}"#), "env.DB_PASSWORD", "plain text");
    refused(&body(r#", "labels": {"password": "hunter2"}"#), "labels.password", "plain text");
    refused(r#"{"version": 1, "id": "a", "command": ["x", "--password=hunter2"]}"#, "command[1]", "visible to all");
    refused(
        r#"{"version": 1, "id": "a", "command": ["x", "postgresql://u:hunter2@db/x"]}"#,
        "command[1]",
        "visible to all",
    );
    refused(&config(r#""password": "${secret:dwh}""#), "embulk.config.out.password", "`secrets` does not name");
    refused(&config(r#""password": "${secret:dwh""#), "embulk.config.out.password", "no closing }");
    for harmless in [
        r#""password": """#,
        r#""table": "tokens""#,
        r#""query": "SELECT a FROM b WHERE c = 'd' AND e=1""#,
        r#""column_options": {"token_count": {"type": "long"}}"#,
    ] {
        assert!(check(config(harmless).as_bytes()).is_ok(), "{harmless}");
    }
}

#[test]
fn the_same_content_has_the_same_digest() {
    let digest = |text: &str| check(text.as_bytes()).unwrap().digest;
    let traced = body(r#", "priority": 1, "traceparent": "00-1-2-01""#);
    let other_order = r#"{"priority": 1, "command": ["true"], "id": "a", "version": 1}"#;
    assert_eq!(digest(&traced), digest(other_order));
    assert_ne!(digest(&traced), digest(&body(r#", "priority": 2"#)));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>) {
        let _ = check(&bytes);
    }
}
