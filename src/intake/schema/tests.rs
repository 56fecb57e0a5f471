use super::*;
use crate::intake::message;
use jsonschema::Validator;

fn validator() -> Validator {
    jsonschema::validator_for(&job()).unwrap()
}

/// A job that is all right, with `more` in it.
fn with(more: Value) -> Value {
    let mut job = json!({"version": 1, "id": "a", "command": ["true"]});
    merge(&mut job, more);
    job
}

fn intake_takes(job: &Value) -> bool {
    message::check(job.to_string().as_bytes()).is_ok()
}

#[track_caller]
fn both_take(job: &Value) {
    assert!(intake_takes(job), "intake refuses {job}");
    let why: Vec<String> = validator().iter_errors(job).map(|error| error.to_string()).collect();
    assert!(why.is_empty(), "the schema refuses {job}: {why:?}");
}

#[track_caller]
fn both_refuse(job: &Value) {
    assert!(!intake_takes(job), "intake takes {job}");
    assert!(!validator().is_valid(job), "the schema takes {job}");
}

#[test]
fn what_we_tell_people_to_write_fits() {
    both_take(&serde_json::from_str(include_str!("../../../docs/job.example.json")).unwrap());
    let readme = include_str!("../../../README.md");
    let blocks: Vec<&str> = readme.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        both_take(&serde_json::from_str(block).unwrap());
    }
}

#[test]
fn the_example_has_every_field() {
    let example: Value = serde_json::from_str(include_str!("../../../docs/job.example.json")).unwrap();
    let fields = job()["properties"].as_object().unwrap().clone();
    let absent: Vec<&String> = fields.keys().filter(|field| example.get(field.as_str()).is_none()).collect();
    // An image stands in place of `image_tag`.
    assert_eq!(absent, ["image"]);
}

#[test]
fn up_to_the_limits_both_take_it() {
    let longest = "x".repeat(NAME_LIMIT);
    for more in [
        json!({"id": longest, "tenant": longest, "definition": "a.b_c:d-e"}),
        json!({"secrets": {longest: {"env": "A"}, "a.b": {"file": "/x"}, "-": {"name": "a", "key": "b"}}}),
        json!({"retry": {"limit": RETRY_LIMIT, "infrastructure_limit": 0}}),
        json!({"tenant": null, "embulk": null, "deadline": null, "not_before": null, "traceparent": "whatever"}),
        json!({"resources": {"cpu": null, "memory": "64Mi"}, "priority": -1, "env": {"_A1": ""}}),
    ] {
        both_take(&with(more));
    }
    both_take(&json!({"version": 1, "id": "a", "image": "example/worker:1"}));
}

#[test]
fn beyond_them_both_refuse_it() {
    let too_long = "x".repeat(NAME_LIMIT + 1);
    for more in [
        json!({"tennant": "x"}),
        json!({"retry": {"limits": 1}}),
        json!({"resources": {"gpu": "1"}}),
        json!({"resources": {"memory_max": "1Gi"}}),
        json!({"embulk": {"config": {"in": {}, "out": {}}, "cursor": 1}}),
        json!({"priority": "1"}),
        json!({"labels": {"a": 1}}),
        json!({"version": 2}),
        json!({"id": ""}),
        json!({"id": too_long}),
        json!({"tenant": "a b"}),
        json!({"definition": "ü"}),
        json!({"command": []}),
        json!({"secrets": {".a": {"env": "A"}}}),
        json!({"secrets": {"a": {"env": "A", "file": "B"}}}),
        json!({"secrets": {"a": "hunter2"}}),
        json!({"env": {"1A": "x"}}),
        json!({"env": {"SENDO_JOB": "x"}}),
        json!({"embulk": {"config": {"in": {}}}}),
        json!({"embulk": {"config": "in: {}"}}),
        json!({"fencing": "strickt"}),
        json!({"on_term": null}),
        json!({"retry": {"limit": RETRY_LIMIT + 1}}),
        json!({"retry": {"infrastructure_limit": RETRY_LIMIT + 1}}),
    ] {
        both_refuse(&with(more));
    }
    both_refuse(&json!({"version": 1, "id": "a"}));
    both_refuse(&json!({"version": 1, "command": ["true"]}));
    both_refuse(&json!([]));
}

#[test]
fn spans_and_quantities_are_read_alike() {
    let units = "1nanos 1nsec 1ns 1usec 1us 1µs 1millis 1msec 1ms 1seconds 1second 1secs 1sec 1s 1minutes 1minute 1min 1mins 1m \
        1hours 1hour 1hr 1hrs 1h 1days 1day 1d 1weeks 1week 1wk 1wks 1w 1months 1month 1M 1years 1year 1yr 1yrs 1y";
    let units: Vec<&str> = units.split_whitespace().collect();
    let span = |value| json!({"deadline": value});
    alike(span, &units, &[]);
    alike(
        span,
        &["1h 30m", "1h30m", " 1 h ", "1.5h", "1 0s"],
        &["", "5", "h", "-1h", "1h.", "1,5h", "1.h", ".5h", "5 parsecs", "1h 30"],
    );
    alike(
        |value| json!({"resources": {"disk": value}}),
        &["1", "1.", "1.5Gi", "0.000000001P", "1Ki", "1Mi", "1Ti", "1Pi", "1k", "1M", "1G", "1T"],
        &["", "-1", "1 Gi", "Gi", "1e3", ".5Gi", "1.0000000001", "1K", "1ki", "1m", "１"],
    );
    alike(
        |value| json!({"resources": {"cpu": value}}),
        &["500m", "2", "1.5", "1.5m", "2."],
        &["", "-1", "1 m", "m", "1mm", "2k"],
    );
}

/// The good ones are taken in that place, the bad ones refused, and a number without quotes as well.
#[track_caller]
fn alike(place: impl Fn(Value) -> Value, good: &[&str], bad: &[&str]) {
    for text in good {
        both_take(&with(place(json!(text))));
    }
    for text in bad {
        both_refuse(&with(place(json!(text))));
    }
    both_refuse(&with(place(json!(2))));
}

proptest::proptest! {
    #[test]
    fn the_schema_refuses_no_span_or_quantity_that_is_read(
        span in "( ?[0-9]{1,3}( ?[.] ?[0-9]{1,2})? ?[dhmMnsuwyµ]{1,2}){1,2} ?",
        quantity in "[0-9]{1,3}[.]?[0-9]{0,10}[kKMGTPim]{0,2}",
    ) {
        let more = [
            span.parse::<Span>().is_ok().then(|| json!({"grace": span})),
            quantity.parse::<Bytes>().is_ok().then(|| json!({"resources": {"disk": quantity}})),
            quantity.parse::<MilliCpu>().is_ok().then(|| json!({"resources": {"cpu": quantity}})),
        ];
        let validator = validator();
        for job in more.into_iter().flatten().map(with) {
            proptest::prop_assert!(validator.is_valid(&job), "{job}");
        }
    }
}
