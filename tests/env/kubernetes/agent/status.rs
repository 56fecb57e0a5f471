//! A Pod's status as a kubelet writes it.

use serde_json::{Value, json};

/// What a kubelet keeps of a termination message.
pub const MESSAGE_BYTES: usize = 4096;

/// Where a Pod's process stands.
#[derive(Debug, Clone)]
pub enum State {
    Waiting { reason: &'static str, message: String },
    Running { since: String },
    Terminated { since: String, code: i32, message: String },
}

/// Now, as the API writes it.
pub fn now() -> String {
    format!("{:.0}", jiff::Timestamp::now())
}

/// The status of a whole Pod. `why`: the Pod's own reason for an end that was not the process's.
pub fn of(pod: &Value, state: &State, restarts: u32, why: Option<&str>) -> Value {
    let containers = pod["spec"]["containers"].as_array().unwrap();
    let several = containers.len() > 1;
    let statuses = containers.iter().enumerate().map(|(index, container)| {
        // The others are not run: they are there as long as the Pod.
        let mirrored = match state {
            State::Terminated { since, .. } if index > 0 && why.is_none() => &State::Running { since: since.clone() },
            state => state,
        };
        one(pod, container, mirrored, restarts)
    });
    let (phase, ready) = match state {
        State::Waiting { .. } => ("Pending", false),
        State::Running { .. } => ("Running", true),
        State::Terminated { .. } if why.is_some() => ("Failed", false),
        State::Terminated { .. } if several => ("Running", false),
        State::Terminated { code: 0, .. } => ("Succeeded", false),
        State::Terminated { .. } => ("Failed", false),
    };
    let condition = |kind: &str, holds: bool| {
        let holds = if holds { "True" } else { "False" };
        json!({"type": kind, "status": holds, "lastProbeTime": null, "lastTransitionTime": now()})
    };
    let begun = !matches!(state, State::Waiting { .. });
    let mut status = json!({
        "phase": phase,
        "containerStatuses": statuses.collect::<Vec<_>>(),
        "conditions": [
            condition("PodReadyToStartContainers", ready), condition("Initialized", true),
            condition("Ready", ready), condition("ContainersReady", ready),
        ],
        "hostIP": "127.0.0.1",
    });
    if begun {
        status["podIP"] = json!("127.0.0.1");
        status["podIPs"] = json!([{"ip": "127.0.0.1"}]);
    }
    if pod["status"]["startTime"].is_null() {
        status["startTime"] = json!(now());
    }
    if let Some(why) = why {
        status["reason"] = json!(why);
    }
    status
}

fn one(pod: &Value, container: &Value, state: &State, restarts: u32) -> Value {
    let id = format!("agent://{}-{restarts}", pod["metadata"]["uid"].as_str().unwrap());
    let (state, is_running, id) = match state {
        State::Waiting { reason, message } => {
            (json!({"waiting": {"reason": reason, "message": message}}), false, String::new())
        }
        State::Running { since } => (json!({"running": {"startedAt": since}}), true, id),
        State::Terminated { since, code, message } => {
            let reason = if *code == 0 { "Completed" } else { "Error" };
            let end = json!({
                "exitCode": code, "reason": reason, "message": message,
                "startedAt": since, "finishedAt": now(), "containerID": id,
            });
            (json!({"terminated": end}), false, id)
        }
    };
    json!({
        "name": container["name"], "image": container["image"], "imageID": container["image"], "containerID": id,
        "ready": is_running, "started": is_running, "restartCount": restarts, "state": state,
    })
}
