//! From bytes to a job that may run: every fault is named by its field, with the way to mend it. Pure.

use super::{plaintext, trace};
use crate::record::{
    hexadecimal,
    job::{Job, WIRE_VERSION},
};
use serde_json::Value;
use std::fmt;

/// The largest body: what SQS carries.
pub const BODY_LIMIT: usize = 1024 * 1024;
pub const NAME_LIMIT: usize = 128;
pub const RETRY_LIMIT: u32 = 100;
/// Below this no JVM starts.
const SMALLEST_MEMORY: u64 = 64 << 20;

/// A job that was checked, and what the ledger needs beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    pub job: Job,
    /// SHA-256 of the content, hexadecimal; trace context and the order of keys do not count.
    pub digest: String,
    pub not_before_ms: i64,
}

/// Why a body is no job of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The job's id, where the body has one that can be read.
    pub id: Option<String>,
    /// Each with its field and the mend.
    pub faults: Vec<Fault>,
    pub digest: String,
}

/// One thing that is wrong with a body.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Fault {
    /// Path of the field; `.` is the whole.
    pub field: String,
    pub why: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<String> = self.faults.iter().map(|fault| format!("{}: {}", fault.field, fault.why)).collect();
        out.write_str(&faults.join("; "))
    }
}

/// Parses and checks a body.
pub fn check(body: &[u8]) -> Result<Checked, Refusal> {
    let refuse = |id: Option<String>, faults| Refusal { id, faults, digest: sha256(body) };
    let fault = |field: &str, why: String| vec![Fault { field: field.into(), why }];
    if body.len() > BODY_LIMIT {
        let why = format!("the body has {} bytes; {BODY_LIMIT} is the limit", body.len());
        return Err(refuse(None, fault(".", why)));
    }
    let value: Value = serde_json::from_slice(body).map_err(|why| refuse(None, fault(".", not_json(&why))))?;
    if !value.is_object() {
        return Err(refuse(None, fault(".", "must be a JSON object".into())));
    }
    let id = value.get("id").and_then(Value::as_str).map(str::to_owned);
    if let Some(version) = value.get("version").filter(|version| version.as_u64() != Some(u64::from(WIRE_VERSION))) {
        let why = format!("{version} is not spoken by this release; send {WIRE_VERSION}");
        return Err(refuse(id, fault("version", why)));
    }
    let mut job: Job = serde_path_to_error::deserialize(&value).map_err(|error| {
        let path = error.path().to_string();
        refuse(id.clone(), fault(&path, suggestion(&error.into_inner().to_string())))
    })?;
    job.traceparent = job.traceparent.as_deref().and_then(trace::traceparent);
    let mut faults = Faults::default();
    let not_before_ms = faults.check(&job, &value);
    if faults.0.is_empty() {
        Ok(Checked { digest: content_digest(value), job, not_before_ms })
    } else {
        Err(refuse(id, faults.0))
    }
}

/// The parser's words, with what they mean where they alone do not say it.
fn not_json(why: &serde_json::Error) -> String {
    let why = why.to_string();
    let half = ["hex escape", "surrogate"].iter().any(|word| why.contains(word));
    let meant = if half { "; a \\u escape of D800 to DFFF is half a character: two of them make one" } else { "" };
    format!("is not JSON: {why}{meant}")
}

/// The job's id, where the body has one that can be read.
pub fn id(body: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    value.get("id").and_then(Value::as_str).map(str::to_owned)
}

#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, field: impl Into<String>, why: impl Into<String>) {
        self.0.push(Fault { field: field.into(), why: why.into() });
    }

    /// All that the shape alone does not say. Gives back `not_before` in milliseconds.
    fn check(&mut self, job: &Job, value: &Value) -> i64 {
        self.name("id", &job.id);
        for (field, name) in [("tenant", &job.tenant), ("definition", &job.definition)] {
            if let Some(name) = name {
                self.name(field, name);
            }
        }
        self.strings("", value);
        if job.command.is_none() && job.embulk.is_none() && job.image.is_none() {
            self.add(".", "there is nothing to run; give `embulk`, `command` or `image`");
        }
        if job.command.as_ref().is_some_and(|command| command.first().is_none_or(String::is_empty)) {
            self.add("command", "is empty; give a program, or leave it out for the image's own");
        }
        for (index, argument) in job.command.iter().flatten().enumerate() {
            if argument.contains("${secret:") || plaintext::looks_secret("", argument) {
                self.add(
                    format!("command[{index}]"),
                    "a secret in an argument is visible to all; refer to it in embulk.config",
                );
            }
        }
        for (name, label) in &job.labels {
            if plaintext::looks_secret(name, label) {
                self.add(
                    format!("labels.{name}"),
                    "looks like a secret in plain text; labels are for everybody to read",
                );
            }
        }
        if job.is_incremental() && job.definition.is_none() {
            self.add("definition", "an incremental transfer needs one: its cursor goes by (tenant, definition)");
        }
        self.embulk(job);
        self.environment(job);
        self.limits(job);
        self.not_before(job)
    }

    fn name(&mut self, field: &str, name: &str) {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
        if name.is_empty() || name.len() > NAME_LIMIT || !name.bytes().all(allowed) {
            self.add(field, format!("`{name}` must be 1 to {NAME_LIMIT} of A-Z a-z 0-9 . _ : -"));
        }
    }

    /// What no database takes: U+0000.
    fn strings(&mut self, path: &str, value: &Value) {
        match value {
            Value::String(text) if text.contains('\0') => {
                self.add(path, "holds U+0000, which no database keeps; take it out")
            }
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(index, item)| self.strings(&format!("{path}[{index}]"), item))
            }
            Value::Object(fields) => {
                for (name, value) in fields {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    if name.contains('\0') {
                        self.add(path.replace('\0', "\\u0000"), "the name holds U+0000; take it out");
                    }
                    self.strings(&path, value);
                }
            }
            _ => {}
        }
    }

    fn embulk(&mut self, job: &Job) {
        for name in job.secrets.keys() {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            if name.is_empty() || name.len() > NAME_LIMIT || name.starts_with('.') || !name.bytes().all(allowed) {
                self.add(
                    format!("secrets.{name}"),
                    "a secret's name is of A-Z a-z 0-9 . _ - and does not begin with a dot",
                );
            }
        }
        let Some(embulk) = &job.embulk else { return };
        for part in ["in", "out"] {
            if !embulk.config.get(part).is_some_and(Value::is_object) {
                self.add(format!("embulk.config.{part}"), "must be an object: what would stand in Embulk's config.yml");
            }
        }
        plaintext::walk("embulk.config", &embulk.config, &mut |path, key, text| {
            match plaintext::references(text) {
                Err(why) => self.add(path, why),
                Ok(names) => {
                    for name in names.iter().filter(|name| !job.secrets.contains_key(**name)) {
                        self.add(path, format!("refers to the secret `{name}`, which `secrets` does not name"));
                    }
                }
            }
            if plaintext::looks_secret(key, text) {
                self.add(path, "looks like a secret in plain text; keep it in a Secret, name that in `secrets`, and write ${secret:NAME} here");
            }
        });
    }

    fn environment(&mut self, job: &Job) {
        for (name, value) in &job.env {
            let field = format!("env.{name}");
            let first_allowed = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
            if !first_allowed || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                self.add(&field, "a variable's name is of A-Z a-z 0-9 _ and does not begin with a digit");
            }
            if name.starts_with("SENDO_") {
                self.add(&field, "names that begin with SENDO_ are Sendo's own");
            }
            if plaintext::looks_secret(name, value) {
                self.add(
                    &field,
                    "looks like a secret in plain text; refer to it by `secrets` in embulk.config instead",
                );
            }
        }
    }

    fn limits(&mut self, job: &Job) {
        for (field, span) in [("deadline", job.deadline), ("stall_after", job.stall_after), ("grace", job.grace)] {
            if span.is_some_and(|span| span.0.is_zero()) {
                self.add(field, "must be longer than nothing");
            }
        }
        let memory = &job.resources;
        if memory.memory.is_some_and(|bytes| bytes.0 < SMALLEST_MEMORY) {
            self.add("resources.memory", "is too small for any transfer; 64Mi is the least");
        }
        match (memory.memory, memory.memory_max) {
            (Some(memory), Some(cap)) if cap < memory => {
                self.add("resources.memory_max", format!("{cap} is below resources.memory, {memory}"));
            }
            (None, Some(_)) => self.add("resources.memory_max", "needs resources.memory beside it, to grow from"),
            _ => {}
        }
        if job.resources.cpu.is_some_and(|cpu| cpu.0 == 0) {
            self.add("resources.cpu", "must be more than nothing");
        }
        for (field, limit) in
            [("retry.limit", job.retry.limit), ("retry.infrastructure_limit", job.retry.infrastructure_limit)]
        {
            if limit > RETRY_LIMIT {
                self.add(field, format!("{limit} is above {RETRY_LIMIT}"));
            }
        }
    }

    fn not_before(&mut self, job: &Job) -> i64 {
        let Some(text) = &job.not_before else { return 0 };
        match text.parse::<jiff::Timestamp>() {
            Ok(at) => at.as_millisecond(),
            Err(_) => {
                self.add("not_before", format!("`{text}` is no moment; write it as 2026-11-23T10:00:00Z"));
                0
            }
        }
    }
}

/// serde's words, with the name that was probably meant.
pub fn suggestion(message: &str) -> String {
    // The reader of the settings says where.
    let (words, place) = message.find(" for key `").map_or((message, ""), |at| message.split_at(at));
    let quoted: Vec<&str> = words.split('`').skip(1).step_by(2).collect();
    let [unknown, known @ ..] = quoted.as_slice() else { return message.to_owned() };
    if !words.starts_with("unknown ") {
        return message.to_owned();
    }
    match nearest(unknown, known.iter().copied()) {
        Some(name) => format!("unknown field `{unknown}`{place}; did you mean `{name}`?"),
        None => message.to_owned(),
    }
}

/// The name that was probably meant.
pub fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.map(|name| (strsim::osa_distance(unknown, name), name)).min();
    near.filter(|(distance, _)| *distance <= 2).map(|(_, name)| name)
}

/// Of the content, whatever the order of its keys; how a message was traced is not its content.
fn content_digest(mut value: Value) -> String {
    if let Value::Object(fields) = &mut value {
        fields.remove("traceparent");
    }
    value.sort_all_objects();
    sha256(value.to_string().as_bytes())
}

fn sha256(bytes: &[u8]) -> String {
    hexadecimal(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

#[cfg(test)]
mod tests;
