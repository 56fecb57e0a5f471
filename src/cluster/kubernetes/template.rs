//! A person's parts of the Pod, and the rule by which they lie under ours.
//!
//! The file is a Pod template (`metadata` and `spec`) or the bare `spec`, in YAML. **Theirs** is everything that says where and beside what the
//! worker runs: node selectors, tolerations, affinity, priority class, volumes, service account, annotations, labels, init and side containers, and in a
//! container called `worker` its environment, mounts and pull policy. **Ours** is what the promises rest on: that nothing runs twice, that the end can be
//! proved, that a transfer may finish, that the Pod has no rights. A template that sets one of ours is refused by the field's name, and so is a
//! field that Kubernetes does not know: an overruled setting would be found out at night.

use super::name;
use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Ours in the spec: two starts, an end that nobody can prove, a grace that is none, rights.
const SPEC: [&str; 15] = [
    "restartPolicy",
    "terminationGracePeriodSeconds",
    "activeDeadlineSeconds",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "securityContext",
    "nodeName",
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "hostUsers",
    "shareProcessNamespace",
    "ephemeralContainers",
    "schedulingGates",
    "resources",
];
/// Ours in the worker's container.
const WORKER: [&str; 16] = [
    "image",
    "command",
    "args",
    "workingDir",
    "resources",
    "resizePolicy",
    "securityContext",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "lifecycle",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "restartPolicy",
    "stdin",
    "tty",
];
/// Where our volumes are mounted.
const PATHS: [&str; 5] = ["/work", "/tmp", "/run/sendo", "/dev/termination-log", "/run/secrets/kubernetes.io"];
/// The supervisor's settings that a template may bring: which certificates to trust, and the relay.
const VARIABLES: [&str; 2] = ["SENDO_CA_FILE", "SENDO_RELAY"];
const ANNOTATIONS: [&str; 2] = ["cluster-autoscaler.kubernetes.io/safe-to-evict", "karpenter.sh/do-not-disrupt"];

/// Their parts, checked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Template {
    pub labels: Map<String, Value>,
    pub annotations: Map<String, Value>,
    pub spec: Map<String, Value>,
    /// Of the container called `worker`.
    pub worker: Map<String, Value>,
}

impl Template {
    /// Reads the file.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("read the template {}", file.display()))?;
        Self::parse(&text).with_context(|| format!("understand the template {}", file.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let given: Value = serde_saphyr::from_str(text).context("it is no YAML")?;
        if !given.is_object() || given.get("spec").is_some_and(|spec| !spec.is_object()) {
            bail!("it is neither a Pod template nor its `spec`");
        }
        let whole = if given.get("spec").is_some() { given } else { json!({"spec": given}) };
        let mut whole = object(whole);
        for name in ["apiVersion", "kind"] {
            whole.remove(name);
        }
        let whole = Value::Object(whole);
        let mut spec = whole.clone();
        // The worker's image is ours, and yet a container without a name for it would be no Kubernetes object to anybody.
        if spec.pointer("/spec/containers").is_none() {
            spec["spec"]["containers"] = json!([]);
        }
        let typed: PodTemplateSpec = serde_json::from_value(spec).context("it is no Pod template")?;
        let typed = serde_json::to_value(typed).context("write it again")?;
        let mut faults = Vec::new();
        unknown(&whole, &typed, "", &mut faults);
        let mut template = Self {
            labels: field(&whole, "/metadata/labels"),
            annotations: field(&whole, "/metadata/annotations"),
            spec: field(&whole, "/spec"),
            worker: Map::new(),
        };
        template.take_worker();
        template.conflicts(&whole, &mut faults);
        if !faults.is_empty() {
            bail!("{}", faults.join("; "));
        }
        Ok(template)
    }

    fn take_worker(&mut self) {
        if let Some(Value::Array(containers)) = self.spec.get_mut("containers")
            && let Some(at) = containers.iter().position(|container| container["name"] == name::WORKER)
        {
            self.worker = object(containers.remove(at));
        }
    }

    fn conflicts(&self, whole: &Value, faults: &mut Vec<String>) {
        let mut ours = |field: String| faults.push(format!("`{field}` is Sendo's own; leave it out"));
        for name in field(whole, "/metadata").keys().filter(|name| !["labels", "annotations"].contains(&name.as_str()))
        {
            ours(format!("metadata.{name}"));
        }
        for (what, texts) in [("labels", &self.labels), ("annotations", &self.annotations)] {
            let own = |key: &&String| key.starts_with("sendo.dev/") || ANNOTATIONS.contains(&key.as_str());
            texts.keys().filter(own).for_each(|key| ours(format!("metadata.{what}.{key}")));
        }
        SPEC.iter().filter(|name| self.spec.contains_key(**name)).for_each(|name| ours(format!("spec.{name}")));
        let worker = WORKER.iter().filter(|name| self.worker.contains_key(**name));
        worker.for_each(|name| ours(format!("spec.containers.{}.{name}", name::WORKER)));
        let named = |list: Option<&Value>| {
            let list = list.and_then(Value::as_array).cloned().unwrap_or_default();
            list.into_iter().map(|item| item["name"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
        };
        for list in ["volumes", "containers", "initContainers"] {
            let names = named(self.spec.get(list)).into_iter();
            let own = names.filter(|name| name.starts_with("sendo-") || name == name::WORKER);
            own.for_each(|name| ours(format!("spec.{list}.{name}")));
        }
        let own = |name: &String| name.starts_with("SENDO_") && !VARIABLES.contains(&name.as_str());
        named(self.worker.get("env")).into_iter().filter(own).for_each(|name| ours(format!("env {name}")));
        let mounts = self.worker.get("volumeMounts").and_then(Value::as_array).into_iter().flatten();
        for path in mounts.filter_map(|mount| mount["mountPath"].as_str()) {
            let path = path.trim_end_matches('/');
            if PATHS.iter().any(|own| path == *own || path.starts_with(&format!("{own}/"))) || path.is_empty() {
                ours(format!("the mount at {path}"));
            }
        }
    }
}

/// Names what got lost on the way through Kubernetes' own types.
fn unknown(given: &Value, known: &Value, path: &str, faults: &mut Vec<String>) {
    match (given, known) {
        (Value::Object(given), known) => {
            for (name, value) in given.iter().filter(|(_, value)| !value.is_null()) {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                match known.get(name) {
                    Some(known) => unknown(value, known, &path, faults),
                    // An empty list is not written again.
                    None if value.as_array().is_some_and(Vec::is_empty) => {}
                    None => faults.push(format!("Kubernetes knows no `{path}`")),
                }
            }
        }
        (Value::Array(given), Value::Array(known)) => {
            for (at, (given, known)) in given.iter().zip(known).enumerate() {
                unknown(given, known, &format!("{path}[{at}]"), faults);
            }
        }
        _ => {}
    }
}

/// Puts named entries into a list of the object: one of the same name gives way.
pub fn by_name(object: &mut Map<String, Value>, list: &str, ours: Vec<Value>) {
    let mut merged = match object.remove(list) {
        Some(Value::Array(theirs)) => theirs,
        _ => Vec::new(),
    };
    for entry in ours {
        merged.retain(|known| known["name"] != entry["name"]);
        merged.push(entry);
    }
    object.insert(list.into(), merged.into());
}

/// The fields of an object; none of anything else.
pub fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn field(whole: &Value, pointer: &str) -> Map<String, Value> {
    object(whole.pointer(pointer).cloned().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_spec_and_a_whole_template_say_the_same() {
        let bare = Template::parse("nodeSelector: {pool: transfers}").unwrap();
        let whole = "apiVersion: v1\nkind: PodTemplate\nmetadata: {labels: {team: data}}\nspec: {nodeSelector: {pool: transfers}}";
        let whole = Template::parse(whole).unwrap();
        assert_eq!(bare.spec, whole.spec);
        assert_eq!(whole.labels["team"], "data");
    }

    #[test]
    fn what_promises_rest_on_is_refused_by_name() {
        for (text, named) in [
            ("restartPolicy: Always", "spec.restartPolicy"),
            ("terminationGracePeriodSeconds: 5", "spec.terminationGracePeriodSeconds"),
            ("hostPID: true", "spec.hostPID"),
            ("containers: [{name: worker, image: evil}]", "spec.containers.worker.image"),
            ("containers: [{name: worker, livenessProbe: {exec: {command: [false]}}}]", "livenessProbe"),
            ("containers: [{name: worker, env: [{name: SENDO_LEDGER_URL, value: x}]}]", "SENDO_LEDGER_URL"),
            (
                "containers: [{name: worker, volumeMounts: [{name: x, mountPath: /run/sendo/token}]}]",
                "/run/sendo/token",
            ),
            ("initContainers: [{name: worker, image: x}]", "spec.initContainers.worker"),
            ("volumes: [{name: sendo-token, emptyDir: {}}]", "spec.volumes.sendo-token"),
            ("metadata: {annotations: {sendo.dev/job: x}}\nspec: {}", "sendo.dev/job"),
            ("metadata: {finalizers: [x]}\nspec: {}", "metadata.finalizers"),
            ("nodeSelektor: {a: b}", "Kubernetes knows no `spec.nodeSelektor`"),
            ("containers: [{name: side, image: x, ressources: {}}]", "spec.containers[0].ressources"),
            ("[1, 2]", "spec"),
        ] {
            let error = format!("{:#}", Template::parse(text).map_err(|why| why.context(text.to_owned())).unwrap_err());
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn the_workers_own_surroundings_may_be_given() {
        let text = "containers: [{name: worker, imagePullPolicy: Never, env: [{name: SENDO_CA_FILE, value: /ca/ca.crt}], \
                    volumeMounts: [{name: ca, mountPath: /ca}]}, {name: side, image: x}]\nvolumes: [{name: ca, configMap: {name: ca}}]";
        let template = Template::parse(text).unwrap();
        assert_eq!(template.worker["imagePullPolicy"], "Never");
        assert_eq!(template.spec["containers"].as_array().unwrap().len(), 1);
    }
}
