//! What nobody may ask for here: images that are not on the list, and more CPU, memory or disk than an attempt gets. Pure. A job that
//! passes a cap would wait for ever; it is rejected, with the words that mend it.

use crate::record::{
    job::Job,
    outcome::{Confidence, Verdict},
    quantity::{Bytes, MilliCpu},
};
use std::fmt::Display;

/// The caps; what is absent is not capped.
#[derive(Debug, Clone, Default)]
pub struct Caps {
    pub cpu: Option<MilliCpu>,
    pub memory: Option<Bytes>,
    pub disk: Option<Bytes>,
    /// Whole image references that jobs may name; `*` at the end stands for the rest. None may be named where this is empty.
    pub images: Vec<String>,
}

impl Caps {
    /// Whether the job may run.
    pub fn check(&self, job: &Job) -> Result<(), Verdict> {
        let asked = &job.resources;
        over("cpu", asked.cpu, "max_cpu", self.cpu)?;
        over("memory", asked.memory, "max_memory", self.memory)?;
        over("memory_max", asked.memory_max, "max_memory", self.memory)?;
        over("disk", asked.disk, "max_disk", self.disk)?;
        match &job.image {
            Some(image) if !self.images.iter().any(|pattern| matches(pattern, image)) => Err(verdict(
                "image_not_allowed",
                format!("`image` {image} is not on this installation's list."),
                format!("image is {image}; images of [limits] allows {}", listed(&self.images)),
                "Leave `image` out for the cluster's own, or have it added to `images` in [limits]; then `sendo retry` it.",
            )),
            _ => Ok(()),
        }
    }
}

fn over<T: PartialOrd + Display>(field: &str, asked: Option<T>, setting: &str, most: Option<T>) -> Result<(), Verdict> {
    match (asked, most) {
        (Some(asked), Some(most)) if asked > most => Err(verdict(
            "over_limit",
            format!("resources.{field} asks for {asked}; an attempt here gets {most} at the most."),
            format!("resources.{field} is {asked}, {setting} of [limits] is {most}"),
            "Submit it with less under an id of its own, or have the limit raised and `sendo retry` it.",
        )),
        _ => Ok(()),
    }
}

fn verdict(code: &str, summary: String, evidence: String, next_action: &str) -> Verdict {
    Verdict {
        code: code.into(),
        summary,
        evidence: vec![evidence],
        confidence: Confidence::Certain,
        next_action: next_action.into(),
    }
}

fn matches(pattern: &str, image: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == image, |start| image.starts_with(start))
}

fn listed(images: &[String]) -> String {
    if images.is_empty() { "none".into() } else { images.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(more: &str) -> Job {
        serde_json::from_str(&format!("{{\"version\": 1, \"id\": \"a\", {more}}}")).unwrap()
    }

    #[test]
    fn more_than_the_cap_is_named_with_both_figures() {
        let caps = Caps { memory: Some(Bytes(2 << 30)), cpu: Some(MilliCpu(2000)), ..Caps::default() };
        let code = |more: &str| caps.check(&job(more)).map_err(|verdict| verdict.summary);
        assert_eq!(code(r#""resources": {"memory": "2Gi", "cpu": "2", "disk": "9Ti"}"#), Ok(()));
        let over = code(r#""resources": {"memory": "3Gi"}"#).unwrap_err();
        assert!(over.contains("3Gi") && over.contains("2Gi"), "{over}");
        assert!(code(r#""resources": {"memory": "1Gi", "memory_max": "8Gi"}"#).unwrap_err().contains("memory_max"));
        assert!(code(r#""resources": {"cpu": "2001m"}"#).unwrap_err().contains("2001m"));
    }

    #[test]
    fn only_images_of_the_list_are_allowed() {
        let caps = Caps { images: vec!["registry.example/etl/*".into(), "one:1".into()], ..Caps::default() };
        let allowed = |image: &str| caps.check(&job(&format!("\"image\": \"{image}\""))).is_ok();
        assert!(allowed("registry.example/etl/embulk:7") && allowed("one:1"));
        assert!(!allowed("registry.example/evil:7") && !allowed("one:12") && !allowed(""));
        assert_eq!(Caps::default().check(&job("\"image\": \"x\"")).unwrap_err().code, "image_not_allowed");
        assert!(Caps::default().check(&job("\"command\": [\"x\"]")).is_ok());
    }
}
