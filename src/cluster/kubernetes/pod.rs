//! From an order to its Pod: pure. The person's template lies under it (`template` has the rule), ours lies above.
//!
//! What the supervisor is told stands in its environment as on the `local` cluster. The API server expands `$(NAME)` in environment and
//! arguments, which a transfer's configuration may well hold: each `$` is doubled.

use super::{
    adoption, name,
    settings::Settings,
    template::{Template, by_name, object},
};
use crate::{
    ledger::Order,
    record::{
        job::{Fencing, Job, OnTerm, SecretRef},
        span::Span,
    },
};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Whom everything in the image runs as.
const USER: i64 = 10001;
/// Whom the token speaks to; the API server itself takes no such token.
pub const AUDIENCE: &str = "sendo";
/// The kubelet renews it when four fifths are over.
const TOKEN_SECONDS: i64 = 3600;
const TOKEN_DIR: &str = "/run/sendo/token";
const SECRETS_DIR: &str = "/run/sendo/secrets";
const WORK_DIR: &str = "/work";
/// Between the supervisor's end by its own clock and the kubelet's KILL.
const GRACE_RESERVE: Duration = Duration::from_secs(10);
/// What the supervisor waits for its grant by default.
const GRANT_WAIT: Duration = Duration::from_secs(600);
/// The kubelet's own deadline is for supervisors that have lost their minds; it comes well after every other.
const BACKSTOP: Duration = Duration::from_secs(3600);

/// What the supervisor is told that no job says.
#[derive(Debug, Clone, Copy)]
pub struct Told {
    pub heartbeat: Duration,
    pub linger: Duration,
}

/// The Pod as it is sent, or why this cluster will not have it. No typed one: ten thousand are made in seconds, and nobody here reads them.
pub fn pod(settings: &Settings, template: &Template, told: Told, order: &Order) -> Result<Value, String> {
    let job = &order.job;
    let grace = (job.grace() + GRACE_RESERVE).min(settings.max_grace.0.max(GRACE_RESERVE));
    let longest = settings.create_within.0 + GRANT_WAIT + job.deadline() + told.linger + grace + BACKSTOP;
    let mut spec = template.spec.clone();
    let ours = json!({
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": grace.as_secs(),
        "activeDeadlineSeconds": longest.as_secs(),
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    });
    spec.extend(object(ours));
    if let Some(account) = &settings.service_account {
        spec.insert("serviceAccountName".into(), account.as_str().into());
    }
    if let Some(node) = &order.avoid_node {
        avoid(&mut spec, node);
    }
    by_name(&mut spec, "volumes", volumes(settings, job)?);
    let worker = worker(settings, template, told, order, grace)?;
    by_name(&mut spec, "containers", vec![worker]);
    Ok(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata(settings, template, order), "spec": spec}))
}

/// Rather not on that node, where there is another: an only node is better than none.
fn avoid(spec: &mut Map<String, Value>, node: &str) {
    let elsewhere = json!({"weight": 100, "preference": {"matchFields": [
        {"key": "metadata.name", "operator": "NotIn", "values": [node]}]}});
    let affinity = spec.entry("affinity").or_insert_with(|| json!({}));
    let preferred = &mut affinity["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"];
    match preferred.as_array_mut() {
        Some(theirs) => theirs.push(elsewhere),
        None => *preferred = json!([elsewhere]),
    }
}

fn metadata(settings: &Settings, template: &Template, order: &Order) -> Value {
    let (job, mut labels, mut annotations) = (&order.job, template.labels.clone(), template.annotations.clone());
    let attempt = order.id.attempt.to_string();
    labels.extend(object(json!({
        "app.kubernetes.io/name": "sendo-worker",
        "app.kubernetes.io/managed-by": "sendo",
        name::CLUSTER: name::label(&settings.name),
        name::JOB: name::job_label(&order.id.job),
        name::ATTEMPT: attempt,
    })));
    annotations.extend(object(json!({
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
        "kubectl.kubernetes.io/default-container": name::WORKER,
        name::JOB: order.id.job,
        name::ATTEMPT: attempt,
    })));
    for (key, text) in [(name::TENANT, &job.tenant), (name::DEFINITION, &job.definition)] {
        if let Some(text) = text {
            labels.insert(key.into(), name::label(text).into());
            annotations.insert(key.into(), text.as_str().into());
        }
    }
    if let Some(spec) = adoption::spec(job) {
        annotations.insert(name::SPEC.into(), spec.into());
    }
    json!({
        "name": name::pod(&order.id), "namespace": settings.namespace, "labels": labels, "annotations": annotations,
        "finalizers": [name::FINALIZER],
    })
}

fn volumes(settings: &Settings, job: &Job) -> Result<Vec<Value>, String> {
    let disk = job.resources.disk.or(settings.disk);
    let empty = disk.map_or_else(|| json!({}), |disk| json!({"sizeLimit": disk}));
    let token = json!({"audience": AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token"});
    let mut volumes = vec![
        json!({"name": "sendo-work", "emptyDir": empty}),
        json!({"name": "sendo-tmp", "emptyDir": empty}),
        json!({"name": "sendo-token", "projected": {"sources": [{"serviceAccountToken": token}]}}),
    ];
    let secret = |(path, reference): (&String, &SecretRef)| match reference {
        SecretRef::Kubernetes { name, key } => {
            Ok(json!({"secret": {"name": name, "items": [{"key": key, "path": path}]}}))
        }
        SecretRef::Env { .. } | SecretRef::File { .. } => {
            Err(format!("secret `{path}`: this cluster is `kubernetes`: refer to {{\"name\": …, \"key\": …}}"))
        }
    };
    if !job.secrets.is_empty() {
        let sources = job.secrets.iter().map(secret).collect::<Result<Vec<_>, _>>()?;
        volumes.push(json!({"name": "sendo-secrets", "projected": {"defaultMode": 0o440, "sources": sources}}));
    }
    Ok(volumes)
}

fn worker(
    settings: &Settings,
    template: &Template,
    told: Told,
    order: &Order,
    grace: Duration,
) -> Result<Value, String> {
    let job = &order.job;
    let mut worker = template.worker.clone();
    let resources = resources(settings, job)?;
    worker.extend(object(json!({
        "name": name::WORKER,
        "image": image(settings, job)?,
        "workingDir": WORK_DIR,
        "resources": {"requests": resources, "limits": resources},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "securityContext": {
            "runAsNonRoot": true, "allowPrivilegeEscalation": false, "privileged": false, "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
        },
    })));
    if let Some(command) = &job.command {
        if command.first().is_some_and(|first| first.starts_with('-')) {
            return Err("`command`: begins with a `-`; its first word is a program".into());
        }
        // The image's entry point is the supervisor; these take the place of the image's own command.
        worker.insert("args".into(), command.iter().map(|text| verbatim(text)).collect());
    }
    let env = environment(settings, told, order, grace);
    by_name(&mut worker, "env", env);
    let mount =
        |name: &str, path: &str, read_only: bool| json!({"name": name, "mountPath": path, "readOnly": read_only});
    let mut mounts = vec![
        mount("sendo-work", WORK_DIR, false),
        mount("sendo-tmp", "/tmp", false),
        mount("sendo-token", TOKEN_DIR, true),
    ];
    if !job.secrets.is_empty() {
        mounts.push(mount("sendo-secrets", SECRETS_DIR, true));
    }
    let theirs = worker.entry("volumeMounts").or_insert_with(|| json!([]));
    if let Value::Array(theirs) = theirs {
        theirs.extend(mounts);
    }
    Ok(worker.into())
}

fn environment(settings: &Settings, told: Told, order: &Order, grace: Duration) -> Vec<Value> {
    let job = &order.job;
    let mut env: Vec<Value> =
        job.env.iter().map(|(name, value)| json!({"name": name, "value": verbatim(value)})).collect();
    let mut set = |name: &str, value: &str| {
        env.push(json!({"name": format!("SENDO_{name}"), "value": verbatim(value)}));
    };
    set("JOB", &order.id.job);
    set("ATTEMPT", &order.id.attempt.to_string());
    set("LEDGER_URL", &settings.ledger_url);
    set("TOKEN_FILE", &format!("{TOKEN_DIR}/token"));
    set("TERMINATION_LOG", "/dev/termination-log");
    set("WORK_DIR", WORK_DIR);
    set("SECRETS_DIR", SECRETS_DIR);
    set("HEARTBEAT", &Span(told.heartbeat).to_string());
    set("LINGER", &Span(told.linger).to_string());
    set("GRANT_WAIT", &Span(GRANT_WAIT).to_string());
    set("DEADLINE", &Span(job.deadline()).to_string());
    set("GRACE", &Span(grace.saturating_sub(GRACE_RESERVE)).to_string());
    set("ON_TERM", if job.on_term == OnTerm::Stop { "stop" } else { "finish" });
    set("FENCING", if job.fencing == Fencing::Strict { "strict" } else { "patient" });
    if let Some(span) = job.stall_after {
        set("STALL_AFTER", &span.to_string());
    }
    env
}

fn resources(settings: &Settings, job: &Job) -> Result<Map<String, Value>, String> {
    let asked = &job.resources;
    let mut found = Map::new();
    if let Some(cpu) = asked.cpu.or(settings.cpu) {
        if let Some(most) = settings.max_cpu.filter(|most| cpu.0 > most.0) {
            return Err(format!("`resources.cpu`: {cpu} is more than this cluster's {most}"));
        }
        found.insert("cpu".into(), cpu.to_string().into());
    }
    let caps = [
        ("memory", asked.memory.or(settings.memory), settings.max_memory),
        ("disk", asked.disk.or(settings.disk), settings.max_disk),
        // What it would grow to, and then be refused for.
        ("memory_max", asked.memory_max, settings.max_memory),
    ];
    for (what, bytes, most) in caps {
        let Some(bytes) = bytes else { continue };
        if let Some(most) = most.filter(|most| bytes.0 > most.0) {
            return Err(format!("`resources.{what}`: {bytes} is more than this cluster's {most}"));
        }
        let resource = match what {
            "memory_max" => continue,
            "disk" => "ephemeral-storage",
            _ => what,
        };
        found.insert(resource.into(), bytes.to_string().into());
    }
    Ok(found)
}

/// The job's own image where the list allows it, else the cluster's with the job's tag.
fn image(settings: &Settings, job: &Job) -> Result<String, String> {
    if let Some(image) = &job.image {
        let allows = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => image.starts_with(prefix),
            None => image == pattern,
        };
        let allowed = settings.allow_images.iter().any(allows);
        return if allowed {
            Ok(image.clone())
        } else {
            Err(format!("`image`: {image} is not on this cluster's list (`allow_images`)"))
        };
    }
    let tag = job.image_tag.as_ref().or(settings.default_tag.as_ref());
    let tag = tag.ok_or("`image_tag` is missing, and this cluster has no `default_tag`")?;
    // <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests>
    let first = tag.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let rest = tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if !first || !rest || tag.len() > 128 {
        return Err(format!("`image_tag`: `{tag}` is no tag"));
    }
    Ok(format!("{}:{tag}", settings.image))
}

/// The text as it is, whatever the API server and the kubelet would see in it.
/// (<https://kubernetes.io/docs/tasks/inject-data-application/define-command-argument-container/>)
fn verbatim(text: &str) -> Value {
    text.replace('$', "$$").into()
}

#[cfg(test)]
mod tests;
