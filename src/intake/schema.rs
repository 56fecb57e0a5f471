//! The JSON Schema of a job, for editors and for programs that write jobs; `docs/job.schema.json` is what this makes.
//!
//! It refuses nothing that [`super::message`] takes of what is written as documented. What a schema cannot say simply is found there
//! alone: secrets in plain text, memory in which no JVM starts, moments.

use super::message::{NAME_LIMIT, RETRY_LIMIT};
use crate::record::{
    job::{Job, WIRE_VERSION},
    quantity::{Bytes, MilliCpu},
    span::Span,
};
use schemars::{
    JsonSchema, Schema, SchemaGenerator, json_schema, schema_for,
    transform::{RecursiveTransform, Transform as _},
};
use serde_json::{Value, json};
use std::borrow::Cow;

/// A job's shape as its types have it, with those of intake's rules that a schema can say.
pub fn job() -> Value {
    let mut schema = schema_for!(Job);
    // Strict validators (Ajv) refuse a schema with a format they do not know, and `uint32` is none of JSON Schema's.
    RecursiveTransform(|schema: &mut Schema| drop(schema.remove("format"))).transform(&mut schema);
    let mut schema = schema.to_value();
    merge(&mut schema, rules());
    schema
}

/// Each where it stands in the schema.
fn rules() -> Value {
    let name = json!({"pattern": "^[A-Za-z0-9._:-]+$", "maxLength": NAME_LIMIT});
    let secret = json!({"pattern": "^[A-Za-z0-9_-][A-Za-z0-9._-]*$", "maxLength": NAME_LIMIT});
    let variable = json!({"pattern": "^[A-Za-z_][A-Za-z0-9_]*$", "not": {"pattern": "^SENDO_"}});
    json!({
        "properties": {
            "version": {"const": WIRE_VERSION},
            "id": name,
            "tenant": name,
            "definition": name,
            "command": {"minItems": 1},
            "secrets": {"propertyNames": secret},
            "env": {"propertyNames": variable},
            "not_before": {"examples": ["2026-11-23T10:00:00Z"]},
        },
        "anyOf": [{"required": ["embulk"]}, {"required": ["command"]}, {"required": ["image"]}],
        "$defs": {
            "Embulk": {"properties": {"config": {
                "type": "object",
                "properties": {"in": {"type": "object"}, "out": {"type": "object"}},
                "required": ["in", "out"],
            }}},
            "Resources": {"dependentRequired": {"memory_max": ["memory"]}},
            "Retry": {"properties": {
                "limit": {"maximum": RETRY_LIMIT},
                "infrastructure_limit": {"maximum": RETRY_LIMIT},
            }},
        },
    })
}

fn merge(schema: &mut Value, rules: Value) {
    match (schema, rules) {
        (Value::Object(schema), Value::Object(rules)) => {
            for (name, rule) in rules {
                merge(schema.entry(name).or_insert(Value::Null), rule);
            }
        }
        (schema, rule) => *schema = rule,
    }
}

/// What people write as text, as its parser reads it.
macro_rules! text {
    ($name:ident, $description:literal, $pattern:expr, $examples:tt) => {
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "description": $description, "type": "string", "pattern": $pattern, "examples": $examples,
                })
            }
        }
    };
}
text!(MilliCpu, "CPU: cores, or thousandths of one.", "^[0-9]+(\\.[0-9]{0,9})?m?$", ["500m", "2", "1.5"]);
text!(
    Bytes,
    "Bytes, as Kubernetes writes them.",
    "^[0-9]+(\\.[0-9]{0,9})?([KMGTP]i|[kMGTP])?$",
    ["512Mi", "8Gi", "1G", "1073741824"]
);
text!(
    Span,
    "A length of time with a unit, a year at the most.",
    concat!(
        r"^\s*([0-9][0-9\s]*(\.\s*[0-9][0-9\s]*)?(",
        "nanos|nsec|ns|usec|us|µs|millis|msec|ms|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|",
        r"d|days?|w|wks?|weeks?|M|months?|y|yrs?|years?)\s*)+$"
    ),
    ["500ms", "30s", "5h", "1h 30m"]
);

#[cfg(test)]
mod tests;
