//! The settings' own words, and `sendo.example.toml` held to the code: every key is in it, and what it calls a default is one.

use super::*;
use serde_json::{Map, Value, json};

/// Defaults that depend on the machine.
const OF_THE_MACHINE: [&str; 2] = ["max_running", "cluster.local.supervisor"];

#[test]
fn an_address_is_shown_without_its_password() {
    for (url, expected) in [
        ("postgres://u:p@ss@host:1/db?password=p2", "postgres://…@host:1/db?…"),
        ("mysql://host/db?password=p2", "mysql://host/db?…"),
        ("sqlite:///a/b.db?mode=rwc", "sqlite:///a/b.db?mode=rwc"),
    ] {
        assert_eq!(shown(url), expected);
    }
}

fn example() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/sendo.example.toml")).unwrap()
}

/// The example with the `# ` of each key and table taken away.
fn uncommented() -> String {
    let line = |line: &str| {
        let Some(rest) = line.strip_prefix("# ") else { return line.to_owned() };
        let name = rest.split_once(" = ").map_or("", |(name, _)| name);
        let is_key = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let is_table = rest.starts_with('[') && rest.ends_with(']');
        if is_key || is_table { rest.to_owned() } else { line.to_owned() }
    };
    example().lines().map(|text| line(text) + "\n").collect()
}

fn parsed<T: serde::de::DeserializeOwned>(text: &str) -> T {
    let source = config::File::from_str(text, config::FileFormat::Toml);
    config::Config::builder().add_source(source).build().unwrap().try_deserialize().unwrap()
}

/// What the code knows, with one of everything that there may be several of.
fn known() -> Value {
    let mut known = serde_json::to_value(Settings::default()).unwrap();
    let queue = serde_json::to_value(sqs::settings::Settings::of("")).unwrap();
    let mut local = serde_json::to_value(Local::default()).unwrap();
    local["kind"] = json!("local");
    local["tools"] = Value::Null; // found beside the program, or not
    let mut kubernetes = serde_json::to_value(kubernetes::Settings::default()).unwrap();
    kubernetes["kind"] = json!("kubernetes");
    known["queue"] = json!([queue]);
    known["cluster"] = json!([local, kubernetes]);
    known["limits"]["tenant"] = json!({"acme": super::super::limits::Tenant::default()});
    let definition = super::super::limits::Definition { max_running: 1 };
    known["limits"]["definition"] = json!({"acme/orders": definition});
    known
}

/// Each key under its whole name; a list's tables by their kind.
fn flat(value: &Value, path: &str, found: &mut Map<String, Value>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(keys) => keys.iter().for_each(|(name, value)| flat(value, &below(name), found)),
        Value::Array(tables) if tables.iter().any(Value::is_object) => {
            tables.iter().for_each(|table| flat(table, &below(table["kind"].as_str().unwrap_or("0")), found));
        }
        _ => {
            found.insert(path.to_owned(), value.clone());
        }
    }
}

fn flattened(value: &Value) -> Map<String, Value> {
    let mut found = Map::new();
    flat(value, "", &mut found);
    found
}

#[test]
fn the_example_is_valid_as_it_stands_and_says_nothing() {
    let settings: Settings = parsed(&example());
    settings.check().unwrap();
    assert_eq!(flattened(&serde_json::to_value(settings).unwrap()), {
        flattened(&serde_json::to_value(Settings::default()).unwrap())
    });
}

#[test]
fn the_example_with_every_key_is_valid_on_either_cluster() {
    let settings: Settings = parsed(&uncommented());
    assert_eq!((settings.queue.len(), settings.cluster.len()), (1, 2));
    for place in &settings.cluster {
        let settings = Settings { cluster: vec![place.clone()], ..settings.clone() };
        settings.check().unwrap();
    }
}

#[test]
fn the_example_has_every_key_and_no_other() {
    let (known, written) = (flattened(&known()), flattened(&parsed(&uncommented())));
    let missing: Vec<_> = known.keys().filter(|key| !written.contains_key(*key)).collect();
    assert!(missing.is_empty(), "sendo.example.toml does not have {missing:?}");
    let unknown: Vec<_> = written.keys().filter(|key| !known.contains_key(*key)).collect();
    assert!(unknown.is_empty(), "sendo.example.toml has {unknown:?}, which nobody knows");
}

#[test]
fn what_the_example_calls_a_default_is_the_codes() {
    // Written otherwise, and the same: as the code would write it again.
    let written = serde_json::to_value(parsed::<Settings>(&uncommented())).unwrap();
    let written = flattened(&with_kinds(written));
    let is_said = |value: &Value| !value.is_null() && *value != json!("") && *value != json!([]);
    let defaults = flattened(&known()).into_iter().filter(|(_, value)| is_said(value));
    let defaults = defaults.filter(|(key, _)| !OF_THE_MACHINE.contains(&key.as_str()));
    for (key, default) in defaults {
        assert_eq!(written[&key], default, "{key} of sendo.example.toml");
    }
}

fn with_kinds(mut written: Value) -> Value {
    for (at, kind) in ["local", "kubernetes"].into_iter().enumerate() {
        written["cluster"][at]["kind"] = json!(kind);
    }
    written
}

#[test]
fn a_key_without_a_default_says_what_happens_without_it() {
    let text = example();
    let known = flattened(&known());
    for (key, _) in known.iter().filter(|(_, value)| value.is_null() || **value == json!("") || **value == json!([])) {
        let name = key.rsplit('.').next().unwrap();
        let at = text.find(&format!("\n# {name} = ")).unwrap();
        // The paragraph that the key stands in.
        let paragraph = text[..at].rsplit("\n\n").next().unwrap();
        let says = ["efault", "has to be said"].iter().any(|word| paragraph.contains(word));
        assert!(says, "{key}: {paragraph}");
    }
}
